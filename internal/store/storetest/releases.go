package storetest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"slipway/internal/ci"
	"slipway/internal/store"
)

// releaseOne is a release of a/b with all that a release may have.
var releaseOne = ci.Release{
	Repo: "a/b", Environment: "production", Namespace: "shop", Number: 1, Run: 7, Step: "deploy", Commit: "c0ffee", By: "ann",
	Author: "Bob", Title: "Grind the cogs", Link: "https://ci.example.com/a/b/7", Started: noon, Finished: noon.Add(time.Second),
	Status: ci.Success, Images: []string{"r/a@sha256:1", "r/b@sha256:2"}, Digest: "abc",
	Probe: &ci.Probed{URL: "http://shop", Sent: 1200, Lost: 3, Causes: []string{"3 × status 503"}},
}

// sameReleases compares releases but for their IDs, which the store chooses, none of them twice.
func sameReleases(t *testing.T, got []ci.Release, want ...ci.Release) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(ci.Release{}, "ID"), cmpopts.EquateEmpty()); diff != "" {
		t.Fatalf("differs (-want +got):\n%s", diff)
	}
	seen := map[int64]bool{0: true}
	for _, r := range got {
		if seen[r.ID] {
			t.Fatalf("release %d of %s has the ID %d, as another one", r.Number, r.Repo, r.ID)
		}
		seen[r.ID] = true
	}
}

func listReleases(t *testing.T, s store.Store, filter store.ReleaseFilter, want ...ci.Release) []ci.Release {
	t.Helper()
	got, err := s.ListReleases(t.Context(), filter)
	check(t, err)
	sameReleases(t, got, want...)
	return got
}

func testReleases(t *testing.T, s store.Store) {
	one := releaseOne
	wantErr(t, s.PutRelease(t.Context(), one, nil), store.ErrNotFound)
	putRepo(t, s, "a/b")
	putRepo(t, s, "a/c")
	// They are listed by their start, and not as they came.
	elsewhere := one // in another cluster
	elsewhere.Started = noon.Add(time.Hour)
	check(t, s.PutRelease(t.Context(), elsewhere, nil))
	check(t, s.PutRelease(t.Context(), one, nil))
	two := one
	two.Number, two.Run, two.Status, two.Restored, two.Message, two.Images = 2, 8, ci.Failure, 1, "no\nimage", nil
	two.Started, two.Probe = noon.Add(time.Minute), nil
	check(t, s.PutRelease(t.Context(), two, nil))
	other := one
	other.Repo, other.Environment, other.Namespace, other.Of = "a/c", "staging", "test", 3
	check(t, s.PutRelease(t.Context(), other, nil))

	changed := one
	changed.Message = "changed"
	check(t, s.PutRelease(t.Context(), changed, nil))

	listReleases(t, s, store.ReleaseFilter{}, elsewhere, two, other, one)
	listReleases(t, s, store.ReleaseFilter{Limit: 1}, elsewhere)
	of := listReleases(t, s, store.ReleaseFilter{Repo: "a/b"}, elsewhere, two, one)
	listReleases(t, s, store.ReleaseFilter{Repo: "a/b", Run: 8}, two)
	listReleases(t, s, store.ReleaseFilter{Environment: "staging"}, other)
	listReleases(t, s, store.ReleaseFilter{Namespace: "shop", Limit: 2}, elsewhere, two)
	listReleases(t, s, store.ReleaseFilter{Repo: "no/no"})

	found, err := s.FindRelease(t.Context(), "a/b", of[1].ID)
	check(t, err)
	same(t, found, of[1])
	_, err = s.FindRelease(t.Context(), "a/c", of[1].ID)
	wantErr(t, err, store.ErrNotFound)
	_, err = s.FindRelease(t.Context(), "a/b", 12345)
	wantErr(t, err, store.ErrNotFound)

	newest, err := s.NewestReleases(t.Context(), store.NewestFilter{Each: 1})
	check(t, err)
	sameReleases(t, newest, elsewhere, two, other)
	newest, err = s.NewestReleases(t.Context(), store.NewestFilter{Each: 2})
	check(t, err)
	sameReleases(t, newest, elsewhere, two, other, one)

	check(t, s.DeleteRepo(t.Context(), "a/b"))
	listReleases(t, s, store.ReleaseFilter{}, other)
}

func testReleasesByImage(t *testing.T, s store.Store) {
	putRepo(t, s, "a/b")
	one, two := releaseOne, releaseOne
	one.Images = []string{"r/a:1_0%!\"\\", "r/b@sha256:2"}
	two.Number, two.Started, two.Images = 2, noon.Add(time.Second), []string{"r/a@sha256:22", "x/r/b@sha256:3"}
	check(t, s.PutRelease(t.Context(), one, nil))
	check(t, s.PutRelease(t.Context(), two, nil))
	for image, want := range map[string][]ci.Release{
		"r/a:1_0%!\"\\": {one}, "r/a:120%!\"\\": nil, "r/a:1_0": nil, "%": nil,
		"r/b@sha256:2": {one}, "sha256:2": {one}, "sha256:22": {two}, "r/b@sha256:3": nil, "sha256:3": {two}, "ha256:3": nil,
	} {
		t.Log(image)
		listReleases(t, s, store.ReleaseFilter{Image: image}, want...)
	}
}

func testReleasesPaged(t *testing.T, s store.Store) {
	putRepo(t, s, "a/b")
	var all []ci.Release
	for i := range 7 { // two of them start at the same time
		r := releaseOne
		r.Number, r.Started = int64(i+1), noon.Add(time.Duration(i/2)*time.Second)
		check(t, s.PutRelease(t.Context(), r, nil))
		all = append([]ci.Release{r}, all...)
	}
	var got []ci.Release
	for filter := (store.ReleaseFilter{Repo: "a/b", Limit: 2}); ; {
		page, err := s.ListReleases(t.Context(), filter)
		check(t, err)
		if len(page) == 0 {
			break
		}
		got = append(got, page...)
		filter.Before = page[len(page)-1].ID
	}
	sameReleases(t, got, all...)
}

func testManifests(t *testing.T, s store.Store) {
	putRepo(t, s, "a/b")
	check(t, s.PutRelease(t.Context(), releaseOne, nil))
	id := listReleases(t, s, store.ReleaseFilter{}, releaseOne)[0].ID
	_, err := s.FindManifests(t.Context(), id)
	wantErr(t, err, store.ErrNotFound)
	// They may come later, as when a lost database is filled again, but they never change.
	sealed := []byte(strings.Repeat("\x00\xff sealed", 100_000))
	check(t, s.PutRelease(t.Context(), releaseOne, sealed))
	check(t, s.PutRelease(t.Context(), releaseOne, []byte("others")))
	got, err := s.FindManifests(t.Context(), id)
	check(t, err)
	same(t, got, sealed)
	check(t, s.DeleteRepo(t.Context(), "a/b"))
	_, err = s.FindManifests(t.Context(), id)
	wantErr(t, err, store.ErrNotFound)
}

func testPreviews(t *testing.T, s store.Store) {
	first := ci.Preview{
		Repo: "a/b", Run: 1, Job: 1, Step: 2, Name: "diff", Commit: "c0ffee", Environment: "production", Namespace: "shop", Same: 3,
		Differences: []ci.Difference{{
			Object: "deployment/web", Action: "change", Notes: []string{"a \x00 note"}, Caution: "careful",
			Fields: []ci.Field{{Path: "spec.replicas", Old: "2", New: "3"}, {Path: "data.x", Lines: []string{"- a", "+ b"}}},
		}},
	}
	wantErr(t, s.PutPreview(t.Context(), first), store.ErrNotFound)
	putRepo(t, s, "a/b")
	createRun(t, s, "a/b")
	createRun(t, s, "a/b")
	second := ci.Preview{Repo: "a/b", Run: 1, Job: 1, Step: 1, Message: "the cluster is away"}
	check(t, s.PutPreview(t.Context(), second))
	check(t, s.PutPreview(t.Context(), ci.Preview{Repo: "a/b", Run: 1, Job: 1, Step: 2, Message: "not yet"}))
	check(t, s.PutPreview(t.Context(), first))
	got, err := s.ListPreviews(t.Context(), "a/b", 1)
	check(t, err)
	same(t, got, []ci.Preview{second, first})
	got, err = s.ListPreviews(t.Context(), "a/b", 2)
	check(t, err)
	if len(got) > 0 {
		t.Errorf("another run has the previews %v", got)
	}
}

func testListRunsByImage(t *testing.T, s store.Store) {
	putRepo(t, s, "a/b")
	var runs []ci.Run
	for _, digest := range []string{"sha256:1", "sha256:2"} {
		run := createRun(t, s, "a/b")
		_, err := s.UpdateRun(t.Context(), run.ID, func(d *store.Draft) error {
			d.Images = append(d.Images, ci.Image{Ref: "r/a:new", Digest: digest}, ci.Image{Ref: "r/a:" + digest[7:], Digest: digest})
			return nil
		})
		check(t, err)
		runs = append(runs, run)
	}
	for image, want := range map[string][]ci.Run{
		"r/a:new": {runs[1], runs[0]}, "r/a:1": {runs[0]}, "sha256:2": {runs[1]}, "sha256": nil,
	} {
		got, err := s.ListRuns(t.Context(), store.RunFilter{Image: image})
		check(t, err)
		if len(got) != len(want) {
			t.Fatalf("%s: %d runs, want %d", image, len(got), len(want))
		}
		for i := range want {
			if got[i].Number != want[i].Number {
				t.Errorf("%s: run %d, want %d", image, got[i].Number, want[i].Number)
			}
		}
	}
}

// What was torn down is not among what somebody could go back to.
func testReleasesTornDown(t *testing.T, s store.Store) {
	ctx := t.Context()
	for _, repo := range []string{"a/b", "a/c"} {
		putRepo(t, s, repo)
		for i, environment := range []string{"review/x", "review/y"} {
			r := releaseOne
			r.Repo, r.Environment, r.Started = repo, environment, noon.Add(time.Duration(i)*time.Minute)
			check(t, s.PutRelease(ctx, r, nil))
			check(t, s.UpdateReview(ctx, repo, environment, reviewed))
		}
	}
	newest := func(repo string, want ...string) {
		t.Helper()
		found, err := s.NewestReleases(ctx, store.NewestFilter{Repo: repo, Each: 5})
		check(t, err)
		got := []string{}
		for _, r := range found {
			got = append(got, fmt.Sprint(r.Repo, " ", r.Environment, " ", r.Number))
		}
		same(t, got, want)
	}
	newest("a/b", "a/b review/y 1", "a/b review/x 1")
	check(t, s.UpdateReview(ctx, "a/b", "review/x", func(*ci.Review) error { return store.ErrNotFound }))
	newest("a/b", "a/b review/y 1")
	newest("a/c", "a/c review/y 1", "a/c review/x 1")
	listReleases(t, s, store.ReleaseFilter{Repo: "a/b", Environment: "review/x"}, func() ci.Release {
		r := releaseOne
		r.Repo, r.Environment, r.Started = "a/b", "review/x", noon
		return r
	}())

	// It is there again.
	again := releaseOne
	again.Environment, again.Number, again.Started = "review/x", 2, noon.Add(time.Hour)
	check(t, s.PutRelease(ctx, again, nil))
	newest("a/b", "a/b review/x 2", "a/b review/y 1")
}

func reviewed(r *ci.Review) error {
	r.Pattern, r.Branch, r.Namespace, r.Created = "review/*", "x", "x", noon
	return nil
}

func testReleasesOfRepos(t *testing.T, s store.Store) {
	var all []ci.Release
	for i, repo := range []string{"a/b", "a/c", "a/d"} {
		putRepo(t, s, repo)
		r := releaseOne
		r.Repo, r.Started = repo, noon.Add(time.Duration(i)*time.Minute)
		check(t, s.PutRelease(t.Context(), r, nil))
		all = append(all, r)
	}
	listReleases(t, s, store.ReleaseFilter{Repos: []string{"a/d", "a/b", "no/no"}}, all[2], all[0])
	listReleases(t, s, store.ReleaseFilter{Repos: []string{"a/d", "a/b"}, Limit: 1}, all[2])
	listReleases(t, s, store.ReleaseFilter{Repos: []string{}})
	listReleases(t, s, store.ReleaseFilter{}, all[2], all[1], all[0])
}
