package web_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"slipway/internal/auth"
	"slipway/internal/ci"
	"slipway/internal/flow"
	"slipway/internal/protocol"
	"slipway/internal/release"
	"slipway/internal/store"
)

// objects are what a release brings: a Deployment of the image, a Secret, and, if extra is not empty, a ConfigMap of that name.
func (s *site) objects(image, extra string) []byte {
	s.t.Helper()
	object := func(apiVersion, kind, name string, more map[string]any) *unstructured.Unstructured {
		o := map[string]any{"apiVersion": apiVersion, "kind": kind, "metadata": map[string]any{"name": name, "namespace": "shop"}}
		for key, value := range more {
			o[key] = value
		}
		return &unstructured.Unstructured{Object: o}
	}
	all := []*unstructured.Unstructured{
		object("apps/v1", "Deployment", "web", map[string]any{"spec": map[string]any{
			"replicas": int64(2), "selector": map[string]any{"matchLabels": map[string]any{"app": "web"}},
			"template": map[string]any{
				"metadata": map[string]any{"labels": map[string]any{"app": "web"}},
				"spec":     map[string]any{"containers": []any{map[string]any{"name": "web", "image": image}}},
			},
		}}),
		object("v1", "Secret", "database", map[string]any{"stringData": map[string]any{"password": "hunter2 of " + image}}),
	}
	if extra != "" {
		all = append(all, object("v1", "ConfigMap", extra, map[string]any{"data": map[string]any{"page": "<b>one</b>\ntwo\n"}}))
	}
	data, err := release.Encode(all)
	check(s.t, err)
	return data
}

// put stores a release as its runner or an import does, and returns it with its ID.
func (s *site) put(r ci.Release, manifests []byte) ci.Release {
	s.t.Helper()
	check(s.t, s.flow.ImportRelease(s.t.Context(), r, manifests))
	return s.find(r)
}

func (s *site) find(r ci.Release) ci.Release {
	s.t.Helper()
	all, err := s.db.ListReleases(s.t.Context(), store.ReleaseFilter{Repo: r.Repo, Environment: r.Environment, Namespace: r.Namespace, Limit: 500})
	check(s.t, err)
	for _, found := range all {
		if found.Number == r.Number && found.Started.Equal(r.Started) {
			return found
		}
	}
	s.t.Fatalf("there is no release %+v", r)
	return r
}

const (
	imageOne = "registry.test/ada/engine@sha256:1111111111111111111111111111111111111111111111111111111111111111"
	imageTwo = "registry.test/ada/engine@sha256:2222222222222222222222222222222222222222222222222222222222222222"
)

// sampleReleases makes a repo ada/engine with a run 1 and releases of it, and returns the addresses of the pages of the
// one that serves in production and the one that failed there.
func (s *site) sampleReleases() (serves, failed string) {
	s.t.Helper()
	s.addRepo("ada/engine", false)
	s.push("ada/engine", "Make it <turn>")
	start := time.Now().Add(-3 * time.Hour)
	r := ci.Release{
		Repo: "ada/engine", Environment: "production", Namespace: "shop", Run: 1, Step: "deploy", Commit: strings.Repeat("c0ffee12", 5),
		Author: "Ada <b>Lovelace</b>", Title: "Make it <turn>", By: "ada", Status: ci.Success, Images: []string{imageOne},
	}
	var last ci.Release
	for i := range 9 {
		r.Number, r.Started = int64(i+1), start.Add(time.Duration(i)*10*time.Minute)
		r.Finished = r.Started.Add(time.Duration(4+i*i) * time.Second)
		extra := ""
		if i == 8 {
			r.Images, extra = []string{imageTwo}, "settings"
		}
		if i == 7 {
			r.Run, r.Of = 0, 3
		}
		last = s.put(r, s.objects(r.Images[0], extra))
		r.Run, r.Of = 1, 0
	}
	bad := r
	bad.Number, bad.Started, bad.Status, bad.Restored = 10, start.Add(2*time.Hour), ci.Failure, 9
	bad.Finished = bad.Started.Add(90 * time.Second)
	bad.Message = "deployment/web: pod web-6d cannot pull image \"<none>\": not found; the old version still serves: 2 of 2 of its pods are ready; ROLLED BACK: release 9 serves again"
	bad = s.put(bad, s.objects("registry.test/ada/engine:none", ""))
	review := r
	review.Environment, review.Namespace, review.Number, review.Title = "review/fix#1", "shop-fix", 1, "Oil the <cogs>"
	s.put(review, nil)
	locked := r
	locked.Environment, locked.Namespace, locked.Number, locked.Status = "staging", "staging", 1, ci.Failure
	locked.Message = "deployment/web: quota; ROLLBACK FAILED: going back to release 3 failed as well: no"
	s.put(locked, nil)
	return fmt.Sprintf("/ada/engine/releases/%d", last.ID), fmt.Sprintf("/ada/engine/releases/%d", bad.ID)
}

// The pages say what runs where, since when, from which commit and by whom; strangers do not see the manifests.
func TestEnvironmentPages(t *testing.T) {
	s := newSite(t, "http")
	v := s.visitor()
	v.get("/environments").want(t, 200, "Nothing was deployed yet")
	serves, failed := s.sampleReleases()
	v.get("/environments").want(t, 200, `href="/ada/engine/environments/shop/production"`, `href="/ada/engine/environments/shop-fix/review/fix%231"`,
		"release 9: <b>Make it &lt;turn&gt;</b>", "c0ffee12", "by Ada &lt;b&gt;", "brought by ada", "Release 10 failed, and release 9 was put back.",
		"cannot pull image &#34;&lt;none&gt;&#34;", "locked")
	v.get("/environments").lacks(t, "ROLLED BACK", "<none>")
	v.get("/ada/engine").want(t, 200, "Environments", `href="/ada/engine/environments/staging/staging"`)
	page := v.get("/ada/engine/environments/shop/production")
	page.want(t, 200, "What serves", imageTwo, `href="/ada/engine/runs/1"`, "back to release 3", "release 9 was put back", "deployment/web", "configmap/settings",
		`aria-label="Release 10: failure"`, `href="/login?next=%2fada%2fengine%2fenvironments%2fshop%2fproduction"`)
	page.lacks(t, "Roll back to release", " style=")
	v.get("/ada/engine/environments/shop-fix/review/fix%231").want(t, 200, "Oil the &lt;cogs&gt;")
	v.get("/ada/engine/environments/shop/none").want(t, 404, "nothing of ada/engine was deployed")
	page = v.get(serves)
	page.want(t, 200, "Release 9", "Log in</a>", imageTwo, "serves")
	page.lacks(t, "hunter2", "kind: Deployment", "Roll back to")
	v.get("/ada/engine/releases/999").want(t, 404, "ada/engine has no release with the ID 999")
	v.get("/ada/engine/releases/x").want(t, 404)
	v.get("/ada/engine/runs/1").want(t, 200, `href="`+serves+`">Release 9</a>`, "release 9 was put back")

	v.login(s.token("of another repo", auth.ScopeRepo+"ada/other"))
	v.get(serves).lacks(t, "kind: Deployment")
	v.post(serves+"/rollback", v.url, nil).want(t, 403, "does not allow to change ada/engine")
	v.login(s.token("ann", auth.ScopeRepo+"ada/engine"))
	page = v.get(serves)
	page.want(t, 200, "kind: Deployment", "password: (secret)", "What changed since", ">release 8<", "containers[web].image", imageTwo[:60],
		"another value", "configmap/settings", "create", "page: |")
	page.lacks(t, "hunter2", "aHVudGVy")
	v.get(failed).want(t, 200, "cannot pull image", "ROLLED BACK", "What changed since", ">release 9<", "delete")
	v.get(failed).lacks(t, "/rollback")

	first := s.find(ci.Release{Repo: "ada/engine", Environment: "review/fix#1", Namespace: "shop-fix", Number: 1, Started: s.newest("review/fix#1").Started})
	v.get(fmt.Sprintf("/ada/engine/releases/%d", first.ID)).want(t, 200, "the manifests of release 1 are not in the database; slipway env import")
}

func (s *site) newest(environment string) ci.Release {
	s.t.Helper()
	all, err := s.db.ListReleases(s.t.Context(), store.ReleaseFilter{Environment: environment, Limit: 1})
	check(s.t, err)
	return all[0]
}

// Of a private repo, others see nothing, not even that there is one.
func TestEnvironmentPagesPrivate(t *testing.T) {
	s := newSite(t, "http")
	serves, _ := s.sampleReleases()
	_, err := s.flow.ChangeRepo(t.Context(), "ada/engine", func(r *ci.Repo) { r.Private = true })
	check(t, err)
	v := s.visitor()
	v.get("/environments").lacks(t, "ada/engine")
	for _, path := range []string{serves, "/ada/engine/environments/shop/production", "/ada/engine/runs/1/changes"} {
		v.get(path).want(t, 404, "there is no repo")
	}
	v.post(serves+"/rollback", v.url, nil).want(t, 404)
	s.wantRuns(1)
	v.login(s.admin)
	v.get("/environments").want(t, 200, "ada/engine")
}

// A click rolls back: of somebody who may, from a page of this server, to a release that was good.
func TestRollBack(t *testing.T) {
	s := newSite(t, "http")
	_, failed := s.sampleReleases()
	good := s.find(ci.Release{Repo: "ada/engine", Environment: "production", Namespace: "shop", Number: 3, Started: s.startOf("production", 3)})
	path := fmt.Sprintf("/ada/engine/releases/%d/rollback", good.ID)
	v := s.visitor()
	if a := v.post(path, v.url, nil); !strings.HasPrefix(a.path, "/login?next=") {
		t.Errorf("a stranger comes to %s", a.path)
	}
	v.login(s.token("ann", auth.ScopeRepo+"ada/engine"))
	v.get(strings.TrimSuffix(path, "/rollback")).want(t, 200, "Roll back production to release 3", "Jobs are not run again")
	v.post(path, "https://evil.example.com", nil).want(t, 403, "came from a page of another site")
	v.post(failed+"/rollback", v.url, nil).want(t, 409, "release 10 was not good")
	s.wantRuns(1)
	a := v.post(path, v.url, nil)
	a.want(t, 200, "Roll production back to release 3")
	run, err := s.flow.FindRun(t.Context(), "ada/engine", 2)
	check(t, err)
	want := &ci.Order{Action: "rollback", Environment: "production", Namespace: "shop", Release: 3}
	if a.path != "/ada/engine/runs/2" || run.Event.Kind != ci.Rollback || run.Event.By != "ann" || !reflect.DeepEqual(run.Event.Order, want) {
		t.Errorf("the click leads to %s, a run of %+v with the order %+v", a.path, run.Event, run.Event.Order)
	}
}

// wantRuns wants that ada/engine has that many runs.
func (s *site) wantRuns(want int) {
	s.t.Helper()
	runs, err := s.db.ListRuns(s.t.Context(), store.RunFilter{Repo: "ada/engine"})
	check(s.t, err)
	if len(runs) != want {
		s.t.Fatalf("there are %d runs, want %d", len(runs), want)
	}
}

func (s *site) startOf(environment string, number int64) time.Time {
	s.t.Helper()
	all, err := s.db.ListReleases(s.t.Context(), store.ReleaseFilter{Environment: environment, Limit: 500})
	check(s.t, err)
	for _, r := range all {
		if r.Number == number {
			return r.Started
		}
	}
	s.t.Fatalf("%s has no release %d", environment, number)
	return time.Time{}
}

// A long history has pages.
func TestEnvironmentHistoryPages(t *testing.T) {
	s := newSite(t, "http")
	s.addRepo("ada/engine", false)
	start := time.Now().Add(-time.Hour)
	for i := range 60 {
		s.put(ci.Release{
			Repo: "ada/engine", Environment: "production", Namespace: "shop", Number: int64(i + 1), Status: ci.Success,
			Started: start.Add(time.Duration(i) * time.Second), Finished: start.Add(time.Duration(i+1) * time.Second), Title: fmt.Sprintf("title %d.", i+1),
		}, nil)
	}
	v := s.visitor()
	page := v.get("/ada/engine/environments/shop/production")
	page.want(t, 200, "title 60.", "title 11.", "Older →", "<figure")
	page.lacks(t, "title 10.")
	link := page.body[strings.Index(page.body, `rel="next" href="`)+len(`rel="next" href="`):]
	link, _, _ = strings.Cut(link, `"`)
	page = v.get(link)
	page.want(t, 200, "title 10.", "title 1.", "← Newest")
	page.lacks(t, "title 11.", "<figure", "Older →")
}

// What a diff step found out has a page.
func TestPreviewPage(t *testing.T) {
	s := newSite(t, "http")
	s.samplePreview()
	v := s.visitor()
	v.get("/ada/engine/runs/1").want(t, 200, `href="/ada/engine/runs/1/changes#p-1-1"`, "1 to create, 1 to change, 1 to delete, 1 to refuse")
	v.get("/ada/engine/runs/1/changes").want(t, 200, "statefulset/&lt;db&gt;", "It has state", "- one", "3 other objects would stay", "the cluster is away", `href="/ada/engine/runs/1/1/1"`)
	s.push("ada/engine", "second")
	v.get("/ada/engine/runs/2/changes").want(t, 404, "has no step that says what a deployment would change")
}

// samplePreview makes a run of ada/engine whose steps found out what would change.
func (s *site) samplePreview() {
	s.t.Helper()
	if _, err := s.flow.AddRepo(s.t.Context(), flow.NewRepo{Name: "ada/engine"}); err != nil {
		s.t.Fatal(err)
	}
	runs, err := s.db.ListRuns(s.t.Context(), store.RunFilter{})
	check(s.t, err)
	if len(runs) == 0 {
		s.push("ada/engine", "first")
	}
	j := s.claim()
	j.append(protocol.Event{Preview: &protocol.Preview{Step: 1, Preview: ci.Preview{
		Environment: "production", Namespace: "shop", Same: 3, Differences: []ci.Difference{
			{Object: "configmap/settings", Action: "create"},
			{
				Object: "deployment/web", Action: "change", Notes: []string{"spec.replicas stays 4, because horizontalpodautoscaler/web scales it"},
				Fields: []ci.Field{
					{Path: "spec.template.spec.containers[web].image", Old: imageOne, New: imageTwo},
					{Path: "metadata.annotations[example.com/page]", Lines: []string{"- one", "+ two", "+ three"}},
					{Path: "spec.template.spec.containers[web].env[MODE]", New: "fast"},
				},
			},
			{Object: "statefulset/<db>", Action: "delete", Caution: "It has state: its pods end, and only their claims stay."},
			{Object: "service/web", Action: "refuse", Error: "service/web is refused by the cluster: spec.clusterIP: field is immutable", Caution: "A field of it cannot change once the object exists, so nothing at all would be deployed."},
		},
	}}})
	j.append(protocol.Event{Preview: &protocol.Preview{Step: 2, Preview: ci.Preview{Environment: "staging", Message: "the cluster is away"}}})
}
