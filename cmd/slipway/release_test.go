package main

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"slipway/internal/api"
	"slipway/internal/auth"
	"slipway/internal/ci"
	"slipway/internal/flow/flowtest"
	"slipway/internal/release"
	"slipway/internal/store"
)

// TestReleaseCommands asks a server for releases, their manifests and what changed, and for a run's plan and previews.
func TestReleaseCommands(t *testing.T) {
	s := flowtest.New(t)
	mux := http.NewServeMux()
	api.Register(mux, api.Options{Flow: s.Flow, Store: s.DB, Auth: s.Auth, Log: slog.New(slog.DiscardHandler), Version: "test"})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	token, _, err := s.Auth.Create(t.Context(), "admin", []string{auth.ScopeAdmin}, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SLIPWAY_SERVER", server.URL)
	t.Setenv("SLIPWAY_TOKEN", token)
	for number, replicas := range map[int64]int64{1: 2, 2: 3} { // in whatever order
		data, err := release.Encode([]*unstructured.Unstructured{{Object: map[string]any{
			"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"name": "shop", "namespace": "shop"}, "spec": map[string]any{"replicas": replicas},
		}}})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Date(2026, 2, 3, 12, int(number), 0, 0, time.UTC)
		err = s.ImportRelease(t.Context(), ci.Release{
			Repo: flowtest.Repo, Environment: "production", Namespace: "shop", Number: number, Status: ci.Success, Started: start, Finished: start.Add(time.Second),
		}, data)
		if err != nil {
			t.Fatal(err)
		}
	}
	run := s.Push("kind: pipeline\ntype: docker\nname: t\nclone: {disable: true}\nsteps: [{name: a, image: busybox, commands: [x]}]\n")
	preview := ci.Preview{Repo: flowtest.Repo, Run: run.Number, Job: 1, Step: 1, Name: "look", Environment: "production", Differences: []ci.Difference{{Object: "configmap/web", Action: "create"}}}
	if err := s.DB.PutPreview(t.Context(), preview); err != nil {
		t.Fatal(err)
	}
	want := func(part string, args ...string) {
		t.Helper()
		out, stderr, err := execute(t, newRootCommand(), "", args...)
		if err != nil || !strings.Contains(out, part) {
			t.Errorf("%q printed %q and %q, %v; want %q", args, out, stderr, err, part)
		}
	}
	newest, err := s.DB.ListReleases(t.Context(), store.ReleaseFilter{})
	if err != nil || len(newest) != 2 {
		t.Fatal(newest, err)
	}
	id := strconv.FormatInt(newest[0].ID, 10)
	want("production   2        success", "release", "list", flowtest.Repo)
	want("production   2        success", "release", "list", "--limit", "1")
	want("kind: Deployment", "release", "manifests", flowtest.Repo, id)
	want("deployment/shop: change\n  spec.replicas: 2 -> 3\n", "release", "diff", flowtest.Repo, id)
	want(`"name": "t"`, "run", "plan", flowtest.Repo, "1")
	want("production, by the step look: 1 to create\nconfigmap/web: create\n", "run", "changes", flowtest.Repo, "1")
	want("ada/engine", "repo", "show", flowtest.Repo)
	if _, _, err := execute(t, newRootCommand(), "", "release", "diff", flowtest.Repo, "two"); err == nil || !strings.Contains(err.Error(), "slipway release list prints them") {
		t.Errorf("of a wrong ID it says %v", err)
	}
}
