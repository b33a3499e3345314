package api_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"slipway/internal/api"
	"slipway/internal/ci"
	"slipway/internal/fault"
)

const kubeconfig = `apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "https://kube.example.com:6443"}}]
users: [{name: u, user: {token: very-secret-token}}]
`

func to[T any](v T) *T { return &v }

func TestEnvironments(t *testing.T) {
	f := newFixture(t)
	admin, ann, stranger := f.as(t, "admin"), f.as(t, "repo:ada/engine"), f.as(t, "")
	made, err := admin.AddEnvironment(t.Context(), "ada/engine", api.NewEnvironment{Name: "production", EnvironmentRules: api.EnvironmentRules{
		Kubeconfig: to(kubeconfig), Namespace: to("shop"), Branches: to([]string{"main", "refs/tags/v*"}), Approvals: to(1), Position: to(2),
		Policy:  to(ci.Policy{Heal: to(true)}),
		Freezes: to([]ci.Freeze{{Reason: "weekend", Start: "fri 16:00", End: "mon 08:00", Zone: "Europe/Berlin", Override: []string{"ann"}}}),
	}})
	if err != nil || made.Cluster != "https://kube.example.com:6443" || made.Approvals != 1 || !*made.Policy.Heal || made.Freezes[0].Start != "fri 16:00" {
		t.Fatalf("%+v, %v", made, err)
	}
	review := api.NewEnvironment{Name: "review/*", EnvironmentRules: api.EnvironmentRules{Namespace: to("shop-{branch}"), Lifetime: to(int64(3600)), Position: to(1)}}
	if _, err := admin.AddEnvironment(t.Context(), "ada/engine", review); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.AddEnvironment(t.Context(), "ada/engine", review); fault.Of(err).Code != fault.Conflict {
		t.Errorf("made twice: %v", err)
	}
	got, err := ann.Environment(t.Context(), "ada/engine", "review/*")
	if err != nil || got.Lifetime != time.Hour || got.Namespace != "shop-{branch}" {
		t.Errorf("%+v, %v", got, err)
	}
	all, err := ann.Environments(t.Context(), "ada/engine")
	if err != nil || len(all) != 2 || all[0].Name != "review/*" {
		t.Errorf("%+v, %v", all, err)
	}
	text, _ := json.Marshal(all)
	if strings.Contains(string(text), "very-secret") || strings.Contains(string(text), "ubeconfig") {
		t.Errorf("a kubeconfig is shown: %s", text)
	}
	changed, err := admin.ChangeEnvironment(t.Context(), "ada/engine", "production", api.EnvironmentRules{Approvals: to(0), Kubeconfig: to("")})
	if err != nil || changed.Approvals != 0 || changed.Cluster != "" || changed.Namespace != "shop" || len(changed.Branches) != 2 {
		t.Errorf("%+v, %v", changed, err)
	}

	// Who may push may not change the rules that hold for pushes.
	_, err = ann.AddEnvironment(t.Context(), "ada/engine", api.NewEnvironment{Name: "x"})
	if fault.Of(err).Code != fault.Forbidden {
		t.Errorf("made by a token of the repo: %v", err)
	}
	if _, err = ann.ChangeEnvironment(t.Context(), "ada/engine", "production", api.EnvironmentRules{}); fault.Of(err).Code != fault.Forbidden {
		t.Errorf("changed by a token of the repo: %v", err)
	}
	if err = ann.DeleteEnvironment(t.Context(), "ada/engine", "production"); fault.Of(err).Code != fault.Forbidden {
		t.Errorf("deleted by a token of the repo: %v", err)
	}
	if _, err = stranger.Environments(t.Context(), "ada/engine"); fault.Of(err).Code != fault.NotFound {
		t.Errorf("seen by a stranger: %v", err)
	}

	for name, rules := range map[string]api.EnvironmentRules{
		"ends after it begins":    {Freezes: to([]ci.Freeze{{From: time.Unix(2, 0), Until: time.Unix(1, 0)}})},
		"no time zone":            {Freezes: to([]ci.Freeze{{Start: "18:00", End: "08:00", Zone: "Mars/Olympus"}})},
		"is no time":              {Freezes: to([]ci.Freeze{{Start: "someday", End: "08:00"}})},
		"for one of them only":    {Freezes: to([]ci.Freeze{{Start: "fri 18:00", End: "08:00"}})},
		"0 to 20 approvals":       {Approvals: to(21)},
		"only 1 may approve":      {Approvals: to(2), Approvers: to([]string{"bob"})},
		"cannot be a namespace":   {Namespace: to("Shop")},
		"stands for the branch":   {Namespace: to("shop-{branch}")},
		"may not use exec":        {Kubeconfig: to(strings.Replace(kubeconfig, "token: very-secret-token", "exec: {command: sh, apiVersion: client.authentication.k8s.io/v1}", 1))},
		"is not the YAML":         {Kubeconfig: to("very-secret: [")},
		"begin with http":         {URL: to("javascript:alert(1)")},
		"review environments hav": {Lifetime: to(int64(60))},
	} {
		_, err := admin.ChangeEnvironment(t.Context(), "ada/engine", "production", rules)
		if err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "very-secret") {
			t.Errorf("want %q, got %v", name, err)
		}
	}
	for _, name := range []string{"a b", "*/*", "7", "../x", "-x"} {
		if _, err := admin.AddEnvironment(t.Context(), "ada/engine", api.NewEnvironment{Name: name}); err == nil || fault.Of(err).Code != fault.Invalid {
			t.Errorf("the name %q: %v", name, err)
		}
	}
	if err := admin.DeleteEnvironment(t.Context(), "ada/engine", "review/*"); err != nil {
		t.Error(err)
	}
	if err := admin.DeleteEnvironment(t.Context(), "ada/engine", "review/*"); fault.Of(err).Code != fault.NotFound {
		t.Errorf("deleted twice: %v", err)
	}
}
