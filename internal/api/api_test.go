package api_test

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"slipway/internal/api"
	"slipway/internal/ci"
	"slipway/internal/client"
	"slipway/internal/fault"
	"slipway/internal/flow/flowtest"
)

type fixture struct {
	*flowtest.Server
	url string
}

func newFixture(t *testing.T) *fixture {
	s := flowtest.New(t)
	mux := http.NewServeMux()
	api.Register(mux, api.Options{Flow: s.Flow, Store: s.DB, Auth: s.Auth, Log: slog.New(slog.DiscardHandler), Version: "test"})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	public := ci.Repo{Name: "ada/open", Forge: flowtest.Kind, Branch: "main", Created: time.Now()}
	if err := s.DB.PutRepo(t.Context(), &public); err != nil {
		t.Fatal(err)
	}
	return &fixture{s, server.URL}
}

// as returns a client with a new token of the given scope, or without one.
func (f *fixture) as(t *testing.T, scope string) *client.Client {
	t.Helper()
	c := &client.Client{URL: f.url + "/"}
	if scope != "" {
		var err error
		if c.Token, _, err = f.Auth.Create(t.Context(), "token "+scope, []string{scope}, time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// Every operation, asked for by everybody, of a private and of a public repo.
func TestAccess(t *testing.T) {
	f := newFixture(t)
	f.Push("kind: pipeline\ntype: docker\nname: test\nsteps: [{name: a, image: busybox, commands: [make]}]\n")
	who := []*client.Client{f.as(t, "admin"), f.as(t, "repo:ada/engine"), f.as(t, "repo:eve/other"), f.as(t, "pull"), f.as(t, "runner"), f.as(t, "")}
	const none = fault.Code("")
	yes := true
	for _, test := range []struct {
		name string
		do   func(c *client.Client) error
		want []fault.Code // for admin, repo, other, pull, runner, nobody
	}{
		{"get-repo private", func(c *client.Client) error { _, err := c.Repo(t.Context(), "ada/engine"); return err }, codes("yy44 44")},
		{"get-repo public", func(c *client.Client) error { _, err := c.Repo(t.Context(), "ada/open"); return err }, codes("yyyyyy")},
		{"list-runs private", func(c *client.Client) error { _, err := c.Runs(t.Context(), "ada/engine", 0, 0); return err }, codes("yy4444")},
		{"list-runs public", func(c *client.Client) error { _, err := c.Runs(t.Context(), "ada/open", 0, 0); return err }, codes("yyyyyy")},
		{"get-run", func(c *client.Client) error { _, err := c.Run(t.Context(), "ada/engine", 1); return err }, codes("yy4444")},
		{"get-plan", func(c *client.Client) error { _, err := c.Plan(t.Context(), "ada/engine", 1); return err }, codes("yy4444")},
		{"get-log", func(c *client.Client) error {
			_, err := c.Log(t.Context(), "ada/engine", 1, 1, 1, 0, false, io.Discard)
			return err
		}, codes("yy4444")},
		{"list-secrets private", func(c *client.Client) error { _, err := c.Secrets(t.Context(), "ada/engine"); return err }, codes("yy4444")},
		{"list-secrets public", func(c *client.Client) error { _, err := c.Secrets(t.Context(), "ada/open"); return err }, codes("y33331")},
		{"put-secret", func(c *client.Client) error {
			return c.PutSecret(t.Context(), "ada/engine", "a", api.SecretValue{Value: "b"})
		}, codes("yy4444")},
		{"delete-secret", func(c *client.Client) error {
			err := c.DeleteSecret(t.Context(), "ada/open", "none")
			if err != nil && strings.Contains(err.Error(), "has no secret") {
				return nil
			}
			return err
		}, codes("y33331")},
		{"restart-run", func(c *client.Client) error { _, err := c.Restart(t.Context(), "ada/engine", 1); return err }, codes("yy4444")},
		{"cancel-run", func(c *client.Client) error {
			run, err := c.Restart(t.Context(), "ada/engine", 1)
			if err == nil {
				_, err = c.Cancel(t.Context(), "ada/engine", run.Number)
			}
			return err
		}, codes("yy4444")},
		{"change-repo", func(c *client.Client) error {
			_, err := c.ChangeRepo(t.Context(), "ada/engine", api.RepoChange{Private: &yes})
			return err
		}, codes("yy4444")},
		{"trust", func(c *client.Client) error {
			_, err := c.ChangeRepo(t.Context(), "ada/engine", api.RepoChange{Trusted: &yes})
			return err
		}, codes("y34444")},
		{"add-repo", func(c *client.Client) error {
			_, err := c.AddRepo(t.Context(), api.NewRepo{Name: "ada/new", Forge: "gitea", ForgeURL: "https://x.example.com", Token: "t"})
			return err
		}, codes("y33331")},
		{"delete-repo", func(c *client.Client) error {
			err := c.DeleteRepo(t.Context(), "no/body")
			if fault.Of(err).Code == fault.NotFound {
				return nil
			}
			return err
		}, codes("y33331")},
		{"list-environments", func(c *client.Client) error { _, err := c.Environments(t.Context(), "ada/engine"); return err }, codes("yy4444")},
		{"list-reviews", func(c *client.Client) error { _, err := c.Reviews(t.Context(), "ada/open"); return err }, codes("yyyyyy")},
		{"list-gates", func(c *client.Client) error { _, err := c.Gates(t.Context(), "ada/engine", 1, false); return err }, codes("yy4444")},
		{"vote-run", func(c *client.Client) error {
			_, err := c.Vote(t.Context(), "ada/engine", 1, api.Ballot{Choice: ci.Approve})
			return unless(err, fault.Conflict)
		}, codes("yy4444")},
		{"promote-run", func(c *client.Client) error {
			_, err := c.Promote(t.Context(), "ada/engine", 1, api.Promotion{Target: "x"})
			return unless(err, fault.Conflict)
		}, codes("yy4444")},
		{"rollback-environment", func(c *client.Client) error {
			_, err := c.Rollback(t.Context(), "ada/open", "x", api.RollbackWish{})
			return unless(err, fault.NotFound)
		}, codes("y33331")},
		{"teardown-environment", func(c *client.Client) error {
			_, err := c.Teardown(t.Context(), "ada/open", "x", api.TeardownWish{})
			return unless(err, fault.NotFound)
		}, codes("y33331")},
		{"delete-environment", func(c *client.Client) error {
			return unless(c.DeleteEnvironment(t.Context(), "ada/open", "x"), fault.NotFound)
		}, codes("y33331")},
		{"list-drift", func(c *client.Client) error { _, err := c.Drifts(t.Context(), "ada/engine"); return err }, codes("yy4444")},
		{"list-drift of all", func(c *client.Client) error { _, err := c.Drifts(t.Context(), ""); return err }, codes("yyyyyy")},
		{"list-tokens", func(c *client.Client) error { _, err := c.Tokens(t.Context()); return err }, codes("y33331")},
		{"create-token", func(c *client.Client) error {
			_, err := c.CreateToken(t.Context(), api.NewToken{Name: "x", Scopes: []string{"admin"}})
			return err
		}, codes("y33331")},
		{"delete-token", func(c *client.Client) error {
			err := c.DeleteToken(t.Context(), 999)
			if err != nil && strings.Contains(err.Error(), "there is no token 999") {
				return nil
			}
			return err
		}, codes("y33331")},
	} {
		for i, c := range who {
			got := none
			if err := test.do(c); err != nil {
				got = fault.Of(err).Code
				if !strings.Contains(err.Error(), " ") || strings.Contains(err.Error(), "\n") {
					t.Errorf("%s: %q is no sentence", test.name, err)
				}
			}
			if got != test.want[i] {
				t.Errorf("%s: caller %d gets %q, want %q", test.name, i, got, test.want[i])
			}
		}
	}
	for i, want := range []int{3, 2, 1, 1, 1, 1} { // engine, open, and the new one, which is private
		if repos, err := who[i].Repos(t.Context()); err != nil || len(repos) != want {
			t.Errorf("caller %d sees %d repos, %v, want %d", i, len(repos), err, want)
		}
	}
	wrong := &client.Client{URL: f.url, Token: "slw_wrong"}
	if _, err := wrong.Repos(t.Context()); fault.Of(err).Code != fault.Unauthorized {
		t.Errorf("a wrong token, even for what is public: %v", err)
	}
}

// unless returns err, but not one of that code: it comes after the question who asks.
func unless(err error, code fault.Code) error {
	if err != nil && fault.Of(err).Code == code {
		return nil
	}
	return err
}

// codes reads one letter for each caller: y is allowed, 1 unauthorized, 3 forbidden, 4 not found.
func codes(letters string) (all []fault.Code) {
	for _, letter := range strings.ReplaceAll(letters, " ", "") {
		all = append(all, map[rune]fault.Code{'y': "", '1': fault.Unauthorized, '3': fault.Forbidden, '4': fault.NotFound}[letter])
	}
	return all
}

// A page of runs is full however many of them the caller may not see.
func TestRunsOfAll(t *testing.T) {
	f := newFixture(t)
	open := ci.Run{Repo: "ada/open", Status: ci.Success, Created: time.Now(), Event: ci.Event{Kind: ci.Push, Ref: "refs/heads/main", After: "a"}}
	if err := f.DB.CreateRun(t.Context(), &open); err != nil {
		t.Fatal(err)
	}
	for range 60 {
		f.Push("kind: pipeline\n")
	}
	runs, err := f.as(t, "").Runs(t.Context(), "", 0, 0)
	if err != nil || len(runs) != 1 || runs[0].Repo != "ada/open" {
		t.Errorf("nobody sees %d runs, %v", len(runs), err)
	}
	if runs, err := f.as(t, "admin").Runs(t.Context(), "", 0, 20); err != nil || len(runs) != 20 {
		t.Errorf("an admin sees %d runs, %v", len(runs), err)
	}
}

func TestWrongRequests(t *testing.T) {
	f := newFixture(t)
	admin := f.as(t, "admin")
	for _, test := range []struct{ method, path, body string }{
		{"POST", "/api/repos", "{"},
		{"POST", "/api/repos", `{"name": 7}`},
		{"POST", "/api/repos", `{}`},
		{"POST", "/api/tokens", `{"name": "x", "scopes": []}`},
		{"GET", "/api/repos/ada/engine/runs?limit=501", ""},
		{"GET", "/api/repos/ada/engine/runs/0", ""},
		{"GET", "/api/repos/ada/engine/runs/x", ""},
		{"PUT", "/api/repos/ada/engine/secrets/a", `{"value": ""}`},
		{"PUT", "/api/repos/ada/engine/secrets/a", `{"value": "` + strings.Repeat("x", 2<<20) + `"}`},
		{"PATCH", "/api/repos/ada/engine", `{"timeout": -1}`},
	} {
		r, err := http.NewRequestWithContext(t.Context(), test.method, f.url+test.path, strings.NewReader(test.body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+admin.Token)
		r.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode < 400 || resp.StatusCode >= 500 || !bytes.Contains(body, []byte(`"detail"`)) {
			t.Errorf("%s %s %.40s: %s %s", test.method, test.path, test.body, resp.Status, body)
		}
	}
}

// The document describes each operation, and its references lead somewhere.
func TestOpenAPI(t *testing.T) {
	f := newFixture(t)
	resp, err := http.Get(f.url + "/api/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		OpenAPI    string
		Paths      map[string]map[string]struct{ OperationID, Summary string }
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal(text, &document); err != nil || !strings.HasPrefix(document.OpenAPI, "3.1") {
		t.Fatalf("version %q, %v", document.OpenAPI, err)
	}
	found := map[string]bool{}
	for path, operations := range document.Paths {
		for method, operation := range operations {
			found[operation.OperationID] = true
			if operation.Summary == "" {
				t.Errorf("%s %s has no summary", method, path)
			}
		}
	}
	for _, id := range strings.Fields(`list-repos add-repo get-repo change-repo delete-repo list-all-runs list-runs get-run get-plan cancel-run
		restart-run get-log list-environments add-environment get-environment change-environment delete-environment rollback-environment
		teardown-environment list-reviews list-gates vote-run promote-run list-secrets put-secret delete-secret list-tokens create-token delete-token`) {
		if !found[id] {
			t.Errorf("the document lacks %s", id)
		}
	}
	for name := range document.Components.Schemas {
		if !regexp.MustCompile(`^[a-zA-Z0-9._-]+$`).MatchString(name) { // OpenAPI 3.1, section 4.8.7
			t.Errorf("the schema %q has a name that OpenAPI does not allow", name)
		}
	}
	for _, part := range strings.Split(string(text), `"#/components/schemas/`)[1:] {
		name, _, _ := strings.Cut(part, `"`)
		if document.Components.Schemas[name] == nil {
			t.Errorf("the document refers to the schema %s, which it lacks", name)
		}
	}
	for _, secret := range []string{"ForgeToken", "WebhookSecret", "Sealed", "Hash", "Lease"} {
		if bytes.Contains(text, []byte(`"`+secret+`"`)) {
			t.Errorf("the document shows the field %s", secret)
		}
	}
}
