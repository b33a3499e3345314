package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"slipway/internal/auth"
	"slipway/internal/ci"
	"slipway/internal/plan"
	"slipway/internal/registry"
	"slipway/internal/store"
	"slipway/internal/store/sqlstore"
)

// Who may do what in the registry, for each kind of token, by each way in: Docker's token flow, GitLab's address of it,
// and the token itself.
func TestRegistryAccess(t *testing.T) {
	ctx := t.Context()
	db, err := sqlstore.Open(ctx, filepath.Join(t.TempDir(), "slipway.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	now := time.Now()
	authority := &auth.Authority{Tokens: db, Jobs: db, Key: make([]byte, 32), Now: func() time.Time { return now }}
	images, err := registry.New(registry.Options{
		Dir: t.TempDir(), Store: db, Authority: access{authority: authority, repos: db}, Key: make([]byte, 32),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer images.Close()
	server := httptest.NewServer(images)
	defer server.Close()
	for _, repo := range []ci.Repo{{Name: "octo/app", Private: true}, {Name: "octo/open", PublicImages: true}} {
		if err := db.PutRepo(ctx, &repo); err != nil {
			t.Fatal(err)
		}
	}

	// A job of octo/app, and one of a pull request from a fork of it.
	job := func(fork bool) (token string, end func()) {
		t.Helper()
		event := ci.Event{Kind: ci.Push}
		if fork {
			event = ci.Event{Kind: ci.PullRequest, PullRequest: &ci.Change{Number: 1, Fork: true}}
		}
		run := ci.Run{Repo: "octo/app", Status: ci.Pending, Created: now, Event: event}
		if err := db.CreateRun(ctx, &run); err != nil {
			t.Fatal(err)
		}
		set := func(status ci.Status) {
			t.Helper()
			stored, err := db.UpdateRun(ctx, run.ID, func(d *store.Draft) error {
				if len(d.Jobs) == 0 {
					d.Plan = &plan.Plan{Version: plan.Version, Jobs: []plan.Job{{Name: "build"}}}
					d.Jobs = []ci.Job{{Name: "build"}}
				}
				d.Jobs[0].Status = status
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			run = stored
		}
		set(ci.Running)
		return authority.JobToken(run.Jobs[0].ID), func() { set(ci.Success) }
	}
	running, end := job(false)
	over, endOver := job(false)
	endOver()
	fork, _ := job(true)
	tokens := map[string]string{"nobody": "", "job": running, "job that is over": over, "job of a fork": fork, "forged": running[:len(running)-1] + "x"}
	for name, scope := range map[string]string{"admin": "admin", "robot": "repo:octo/app", "cluster": "pull", "reader": "pull:octo/app", "other": "repo:octo/other", "runner": "runner", "expired": "admin"} {
		expires := time.Time{}
		if name == "expired" {
			expires = now.Add(-time.Second)
		}
		if tokens[name], _, err = authority.Create(ctx, name, []string{scope}, expires); err != nil {
			t.Fatal(err)
		}
	}

	// try asks for something with a header, and returns the status.
	try := func(method, path, authorization string) int {
		t.Helper()
		req, err := http.NewRequestWithContext(ctx, method, server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if authorization != "" {
			req.Header.Set("Authorization", authorization)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode
	}
	// bearer gets a token by the token flow at an address, with the scopes of all that is tried below.
	bearer := func(at, password string) string {
		t.Helper()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+at+"?service=slipway&scope=repository:octo/app/web:pull,push,delete"+
			"&scope=repository:octo/open:pull,push&scope=repository:mirror/docker.io/library/busybox:pull&scope=registry:catalog:*", nil)
		if err != nil {
			t.Fatal(err)
		}
		if password != "" {
			req.SetBasicAuth("gitlab-ci-token", password)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != 200 {
			return ""
		}
		var answer struct{ Token string }
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
			t.Fatal(err)
		}
		return "Bearer " + answer.Token
	}
	const nothing = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	// What is allowed gets through to "not found", or to an upload.
	questions := []struct{ letter, method, path string }{
		{"r", "GET", "/v2/octo/app/web/blobs/" + nothing},
		{"w", "POST", "/v2/octo/app/web/blobs/uploads/"},
		{"d", "DELETE", "/v2/octo/app/web/blobs/" + nothing},
		{"o", "GET", "/v2/octo/open/blobs/" + nothing},
		{"O", "POST", "/v2/octo/open/blobs/uploads/"},
		{"m", "GET", "/v2/mirror/docker.io/library/busybox/blobs/" + nothing},
		{"c", "GET", "/v2/_catalog"},
	}
	for name, want := range map[string]string{
		"admin": "rwdoOmc", "robot": "rwdom", "cluster": "rom", "reader": "rom", "other": "om", "runner": "om", "nobody": "o",
		"job": "rwdom", "job of a fork": "rom", "job that is over": "-", "forged": "-", "expired": "-",
	} {
		direct := "Bearer " + tokens[name]
		if tokens[name] == "" {
			direct = ""
		}
		ways := map[string]string{"itself": direct, "/v2/token": bearer("/v2/token", tokens[name]), "/jwt/auth": bearer("/jwt/auth", tokens[name])}
		for way, authorization := range ways {
			if want == "-" {
				if way != "itself" && authorization != "" {
					t.Errorf("%s got a token by %s", name, way)
				}
				if got := try("GET", "/v2/octo/open/blobs/"+nothing, direct); got != 401 {
					t.Errorf("%s was answered %d", name, got)
				}
				continue
			}
			got := ""
			for _, q := range questions {
				if status := try(q.method, q.path, authorization); status != 401 && status != 403 {
					got += q.letter
				}
			}
			if got != want {
				t.Errorf("%s may %q by %s, want %q", name, got, way, want)
			}
		}
	}
	end()
	if got := bearer("/v2/token", running); got != "" {
		t.Error("a job's token outlives its job")
	}
}

// TestRegistryFirst lets the registry see names as they were sent.
func TestRegistryFirst(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "others "+r.URL.Path) })
	server := httptest.NewServer(registryFirst(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "registry "+r.URL.Path)
	}), mux))
	defer server.Close()
	for path, want := range map[string]string{
		"/v2": "registry /v2", "/v2/": "registry /v2/", "/v2/o/../a/tags/list": "registry /v2/o/../a/tags/list",
		"/v2/o//a/tags/list": "registry /v2/o//a/tags/list", "/v2x": "others /v2x", "/octo/app": "others /octo/app",
	} {
		resp, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || string(got) != want {
			t.Errorf("%s was answered %q, %v; want %q", path, got, err, want)
		}
	}
}
