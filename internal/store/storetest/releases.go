package storetest

import (
	"testing"
	"time"

	"slipway/internal/ci"
	"slipway/internal/store"
)

func testReleases(t *testing.T, s store.Store) {
	one := ci.Release{
		Repo: "a/b", Environment: "production", Namespace: "shop", Number: 1, Run: 7, Step: "deploy", Commit: "c0ffee", By: "ann",
		Link: "https://ci.example.com/a/b/7", Started: noon, Finished: noon.Add(time.Second), Status: ci.Success,
		Images: []string{"r/a@sha256:1", "r/b@sha256:2"}, Digest: "abc",
		Probe: &ci.Probed{URL: "http://shop", Sent: 1200, Lost: 3, Causes: []string{"3 × status 503"}},
	}
	wantErr(t, s.PutRelease(t.Context(), one), store.ErrNotFound)
	putRepo(t, s, "a/b")
	putRepo(t, s, "a/c")
	check(t, s.PutRelease(t.Context(), one))
	two := one
	two.Number, two.Run, two.Status, two.Restored, two.Message, two.Images = 2, 8, ci.Failure, 1, "no\nimage", nil
	two.Probe = nil
	check(t, s.PutRelease(t.Context(), two))
	elsewhere := one // in another cluster
	elsewhere.Started = noon.Add(time.Hour)
	check(t, s.PutRelease(t.Context(), elsewhere))
	other := one
	other.Repo, other.Environment, other.Namespace, other.Of = "a/c", "staging", "test", 3
	check(t, s.PutRelease(t.Context(), other))

	changed := one
	changed.Message = "changed"
	check(t, s.PutRelease(t.Context(), changed))

	list := func(filter store.ReleaseFilter, want ...ci.Release) {
		t.Helper()
		got, err := s.ListReleases(t.Context(), filter)
		check(t, err)
		same(t, got, want)
	}
	list(store.ReleaseFilter{}, other, elsewhere, two, one)
	list(store.ReleaseFilter{Limit: 1}, other)
	list(store.ReleaseFilter{Repo: "a/b"}, elsewhere, two, one)
	list(store.ReleaseFilter{Repo: "a/b", Run: 8}, two)
	list(store.ReleaseFilter{Environment: "staging"}, other)
	list(store.ReleaseFilter{Namespace: "shop", Limit: 2}, elsewhere, two)
	list(store.ReleaseFilter{Repo: "no/no"})

	newest, err := s.NewestReleases(t.Context(), 1)
	check(t, err)
	same(t, newest, []ci.Release{other, elsewhere, two})
	newest, err = s.NewestReleases(t.Context(), 2)
	check(t, err)
	same(t, newest, []ci.Release{other, elsewhere, two, one})

	check(t, s.DeleteRepo(t.Context(), "a/b"))
	list(store.ReleaseFilter{}, other)
}
