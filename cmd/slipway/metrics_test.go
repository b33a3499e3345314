package main

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"slipway/internal/auth"
	"slipway/internal/ci"
	"slipway/internal/metrics"
	"slipway/internal/registry"
	"slipway/internal/store/sqlstore"
)

// Metrics are for who has a token for them, and count what the registry does.
func TestMetrics(t *testing.T) {
	ctx := t.Context()
	db, err := sqlstore.Open(ctx, filepath.Join(t.TempDir(), "slipway.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	authority := &auth.Authority{Tokens: db, Jobs: db, Key: make([]byte, 32), Now: time.Now}
	images, err := registry.New(registry.Options{
		Dir: t.TempDir(), Store: db, Authority: access{authority: authority, repos: db}, Key: make([]byte, 32),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer images.Close()
	repo := ci.Repo{Name: "octo/app", Forge: "slipway"}
	if err := db.PutRepo(ctx, &repo); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		run := ci.Run{Repo: repo.Name, Status: ci.Pending, Created: time.Now()}
		if err := db.CreateRun(ctx, &run); err != nil {
			t.Fatal(err)
		}
	}
	mux := http.NewServeMux()
	mux.Handle("/v2/", images)
	mux.Handle("/metrics", measure(authority, db, images, slog.New(slog.DiscardHandler)))
	server := httptest.NewServer(mux)
	defer server.Close()
	token := map[string]string{"": "", "wrong": "slw_wrong"}
	for _, scope := range []string{"admin", "metrics", "repo:octo/app", "pull"} {
		if token[scope], _, err = authority.Create(ctx, scope, []string{scope}, time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
	do := func(method, path, token string, body io.Reader) (*http.Response, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(ctx, method, server.URL+path, body)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(text)
	}
	const digest = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
	for _, path := range []string{"/v2/octo/app/blobs/uploads/?digest=" + digest, "/v2/octo/app/blobs/uploads/"} {
		if resp, text := do("POST", path, token["repo:octo/app"], strings.NewReader("hello")); resp.StatusCode/100 != 2 {
			t.Fatal(resp.Status, text)
		}
	}
	for range 3 {
		do("GET", "/v2/octo/app/blobs/"+digest, token["pull"], nil)
	}
	do("BREW", "/v2/octo/app/blobs/"+digest, token["pull"], nil)

	for scope, want := range map[string]int{"": 401, "wrong": 401, "repo:octo/app": 403, "pull": 403, "metrics": 200, "admin": 200} {
		if resp, text := do("GET", "/metrics", token[scope], nil); resp.StatusCode != want {
			t.Errorf("with %q: %s: %s", scope, resp.Status, text)
		}
	}
	if resp, _ := do("POST", "/metrics", token["admin"], nil); resp.StatusCode != 405 {
		t.Error(resp.Status)
	}
	resp, text := do("GET", "/metrics", token["metrics"], nil)
	if got := resp.Header.Get("Content-Type"); got != metrics.ContentType {
		t.Errorf("the type is %q", got)
	}
	line := regexp.MustCompile(`^(# (HELP|TYPE) [a-z_]+ .+|[a-z_]+(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? [0-9.e+-]+)$`)
	for _, l := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if !line.MatchString(l) {
			t.Errorf("not a line of the format: %s", l)
		}
	}
	for _, want := range []string{
		`slipway_registry_requests_total{route="blobs",method="GET",code="200"} 3`,
		`slipway_registry_requests_total{route="blobs",method="other",code="405"} 1`,
		`slipway_registry_sent_bytes_total{route="blobs",method="GET",code="200"} 15`,
		`slipway_registry_received_bytes_total{route="uploads",method="POST",code="201"} 5`,
		"slipway_registry_uploads 1", "slipway_registry_blobs 1", "slipway_registry_stored_bytes 5", "slipway_registry_repositories 1",
		`slipway_registry_mirror_requests_total{what="blob",result="hit"} 0`,
		`slipway_runs{status="pending"} 2`,
	} {
		if !strings.Contains(text, "\n"+want+"\n") {
			t.Errorf("there is no %s in:\n%s", want, text)
		}
	}
}
