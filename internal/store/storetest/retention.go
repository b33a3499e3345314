package storetest

import (
	"errors"
	"strings"
	"testing"
	"time"

	"slipway/internal/store"
)

func testRegistryImmutable(t *testing.T, s store.Store) {
	ctx := t.Context()
	one, two := manifestOf("octo/app", 10), manifestOf("octo/app", 20)
	one.Immutable, two.Immutable = []string{"v1"}, []string{"v1"}
	check(t, s.PutManifest(ctx, one, "v1", "latest"))
	check(t, s.PutManifest(ctx, one, "v1")) // where it is already
	wantErr(t, s.PutManifest(ctx, two, "latest", "v1"), store.ErrExists)
	_, err := s.FindManifest(ctx, "octo/app", two.Digest)
	wantErr(t, err, store.ErrNotFound)
	tags, err := s.ListTags(ctx, store.Page{Repository: "octo/app", Limit: 5})
	check(t, err)
	same(t, []string{tags[0].Digest, tags[1].Digest}, []string{one.Digest, one.Digest})

	fixed := func(tag string) bool { return strings.HasPrefix(tag, "v") }
	wantErr(t, s.DeleteTag(ctx, store.Change{Repository: "octo/app", Reference: "v1", Immutable: fixed, At: noon}), store.ErrExists)
	_, err = s.DeleteManifest(ctx, store.Change{Repository: "octo/app", Reference: one.Digest, Immutable: fixed, At: noon})
	wantErr(t, err, store.ErrExists)
	check(t, s.DeleteTag(ctx, store.Change{Repository: "octo/app", Reference: "latest", Immutable: fixed, At: noon}))
	check(t, s.DeleteTag(ctx, store.Change{Repository: "octo/app", Reference: "v1", At: noon}))
	_, err = s.DeleteManifest(ctx, store.Change{Repository: "octo/app", Reference: one.Digest, Immutable: fixed, At: noon})
	check(t, err)
}

func testRegistryUnneeded(t *testing.T, s store.Store) {
	ctx := t.Context()
	check(t, s.PutManifest(ctx, manifestOf("octo/app", 10), "v1"))
	index := manifestOf("octo/app", 11, store.Reference{Digest: digestOf(10), Size: 4, Manifest: true})
	check(t, s.PutManifest(ctx, index))
	signature := manifestOf("octo/app", 12)
	signature.Subject = digestOf(10)
	check(t, s.PutManifest(ctx, signature))
	change := store.Change{Repository: "octo/app", Reference: digestOf(10), Unneeded: true, At: noon}
	needed := func() {
		t.Helper()
		_, err := s.DeleteManifest(ctx, change)
		wantErr(t, err, store.ErrInUse)
	}
	needed() // by tag, index and signature
	// A tag that was put where it is once more, after the decision, stays.
	young := manifestOf("octo/app", 10)
	young.Created = noon.Add(1)
	check(t, s.PutManifest(ctx, young, "v1"))
	wantErr(t, s.DeleteTag(ctx, store.Change{Repository: "octo/app", Reference: "v1", Digest: digestOf(10), At: noon}), store.ErrNotFound)
	young.Created = noon
	check(t, s.PutManifest(ctx, young, "v1"))
	wantErr(t, s.DeleteTag(ctx, store.Change{Repository: "octo/app", Reference: "v1", Digest: digestOf(11), At: noon}), store.ErrNotFound)
	check(t, s.DeleteTag(ctx, store.Change{Repository: "octo/app", Reference: "v1", Digest: digestOf(10), At: noon}))
	needed()
	_, err := s.DeleteManifest(ctx, store.Change{Repository: "octo/app", Reference: digestOf(11), Unneeded: true, At: noon})
	check(t, err)
	change.Reference = digestOf(12)
	needed() // what it is about is there
	change.Reference = digestOf(10)
	again := manifestOf("octo/app", 10)
	again.Created = noon.Add(1)
	check(t, s.PutManifest(ctx, again))
	needed() // somebody pushed it after the decision
	change.At = noon.Add(1)
	check(t, s.PutManifest(ctx, signature, "signature"))
	needed() // the signature stays, so it does
	check(t, s.DeleteTag(ctx, store.Change{Repository: "octo/app", Reference: "signature", At: noon}))

	// They go together, and come back together.
	gone := func(want error, of ...int) {
		t.Helper()
		for _, n := range of {
			_, err := s.FindManifest(ctx, "octo/app", digestOf(n))
			wantErr(t, err, want)
		}
	}
	_, err = s.DeleteManifest(ctx, change)
	check(t, err)
	gone(store.ErrNotFound, 10, 12)
	check(t, s.Restore(ctx, store.Change{Repository: "octo/app", Digest: digestOf(10), At: noon}))
	gone(nil, 10, 12)
	gone(store.ErrNotFound, 11)
}

func testRegistryRestore(t *testing.T, s store.Store) {
	ctx := t.Context()
	blob := linkBlob(t, s, "octo/app", 1)
	check(t, s.PutManifest(ctx, manifestOf("octo/app", 10, blob)))
	index := manifestOf("octo/app", 11, store.Reference{Digest: digestOf(10), Size: 4, Manifest: true})
	check(t, s.PutManifest(ctx, index, "v1"))
	check(t, s.PutManifest(ctx, manifestOf("octo/app", 12), "v1"))
	for _, n := range []int{11, 10} {
		_, err := s.DeleteManifest(ctx, store.Change{Repository: "octo/app", Reference: digestOf(n), At: noon})
		check(t, err)
	}

	// The tag moves back, and takes the index and its image out of the bin.
	back := store.Change{Repository: "octo/app", Reference: "v1", Digest: digestOf(11), By: "octo", At: noon.Add(time.Hour)}
	check(t, s.Restore(ctx, back))
	for _, reference := range []string{"v1", digestOf(10), digestOf(11), digestOf(12)} {
		_, err := s.FindManifest(ctx, "octo/app", reference)
		check(t, err)
	}
	history, err := s.TagHistory(ctx, "octo/app", "v1", 1)
	check(t, err)
	same(t, history, []store.TagChange{{Digest: digestOf(11), At: noon.Add(time.Hour), By: "octo"}})

	back.Digest, back.Immutable = digestOf(12), func(string) bool { return true }
	wantErr(t, s.Restore(ctx, back), store.ErrExists)
	back.Digest = digestOf(13)
	wantErr(t, s.Restore(ctx, back), store.ErrNotFound)
	back.Repository = "octo/none"
	wantErr(t, s.Restore(ctx, back), store.ErrNotFound)

	// Without a tag, and after what it needs has gone.
	_, err = s.DeleteManifest(ctx, store.Change{Repository: "octo/app", Reference: digestOf(10), At: noon})
	check(t, err)
	bare := store.Change{Repository: "octo/app", Digest: digestOf(10), At: noon}
	check(t, s.Restore(ctx, bare))
	_, err = s.DeleteManifest(ctx, store.Change{Repository: "octo/app", Reference: digestOf(10), At: noon})
	check(t, err)
	check(t, s.UnlinkBlob(ctx, "octo/app", blob.Digest))
	var missing *store.MissingError
	if err := s.Restore(ctx, bare); !errors.As(err, &missing) {
		t.Fatalf("error is %v", err)
	}
	_, err = s.FindManifest(ctx, "octo/app", digestOf(10))
	wantErr(t, err, store.ErrNotFound)
}

// testRegistryRestoreSignatures brings back what went with an image, and not what had gone before.
func testRegistryRestoreSignatures(t *testing.T, s store.Store) {
	ctx := t.Context()
	image, index := manifestOf("octo/app", 10), manifestOf("octo/app", 11, store.Reference{Digest: digestOf(10), Size: 4, Manifest: true})
	blob := linkBlob(t, s, "octo/app", 1)
	about := func(n, subject int, references ...store.Reference) store.Manifest {
		m := manifestOf("octo/app", n, references...)
		m.Subject = digestOf(subject)
		return m
	}
	for _, m := range []store.Manifest{image, index, about(20, 10), about(21, 11), about(22, 21), about(23, 11), about(24, 11, blob)} {
		check(t, s.PutManifest(ctx, m))
	}
	drop := func(at time.Time, manifests ...int) {
		t.Helper()
		for _, n := range manifests {
			_, err := s.DeleteManifest(ctx, store.Change{Repository: "octo/app", Reference: digestOf(n), At: at})
			check(t, err)
		}
	}
	drop(noon, 23) // somebody did not want it
	drop(noon.Add(time.Hour), 20, 22, 21, 24, 11, 10)
	check(t, s.UnlinkBlob(ctx, "octo/app", blob.Digest))
	check(t, s.Restore(ctx, store.Change{Repository: "octo/app", Digest: digestOf(11), At: noon.Add(2 * time.Hour)}))
	for n, want := range map[int]error{10: nil, 11: nil, 20: nil, 21: nil, 22: nil, 23: store.ErrNotFound, 24: store.ErrNotFound} {
		if _, err := s.FindManifest(ctx, "octo/app", digestOf(n)); !errors.Is(err, want) {
			t.Errorf("manifest %d: %v, want %v", n, err, want)
		}
	}
}

func testRegistryHistoryBounded(t *testing.T, s store.Store) {
	ctx := t.Context()
	for n := range store.MaxTagHistory + 10 {
		m := manifestOf("octo/app", n%2)
		m.Created = noon.Add(time.Duration(n))
		check(t, s.PutManifest(ctx, m, "latest"))
	}
	check(t, s.PutManifest(ctx, manifestOf("octo/app", 1), "other"))
	history, err := s.TagHistory(ctx, "octo/app", "latest", 2*store.MaxTagHistory)
	check(t, err)
	same(t, len(history), store.MaxTagHistory)
	same(t, history[0].At, noon.Add(store.MaxTagHistory+9))
	same(t, history[store.MaxTagHistory-1].At, noon.Add(10))
	other, err := s.TagHistory(ctx, "octo/app", "other", 10)
	check(t, err)
	same(t, len(other), 1)
}

func testRegistryPolicies(t *testing.T, s store.Store) {
	ctx := t.Context()
	all := store.Policy{Text: "untagged: 7d\n", Updated: noon, By: "octo"}
	app := store.Policy{Repository: "octo/app", Text: "rules: []\n", Updated: noon, By: "hub"}
	check(t, s.PutPolicy(ctx, app))
	check(t, s.PutPolicy(ctx, all))
	app.Text, app.Updated = "untagged: 1d\n", noon.Add(1)
	check(t, s.PutPolicy(ctx, app))
	policies, err := s.ListPolicies(ctx)
	check(t, err)
	same(t, policies, []store.Policy{all, app})
	check(t, s.PutPolicy(ctx, store.Policy{}))
	policies, err = s.ListPolicies(ctx)
	check(t, err)
	same(t, policies, []store.Policy{app})

	// One from a file stands beside, the latest run's counts, and it goes with its repo.
	repo := putRepo(t, s, "octo/app")
	file := store.Policy{Repository: repo.Name, Text: "untagged: 2d\n", Updated: noon, By: "octo/app run 7", Commit: "abc", Run: 7}
	check(t, s.PutPolicy(ctx, file))
	old := file
	old.Run, old.Text = 6, "untagged: 3d\n"
	wantErr(t, s.PutPolicy(ctx, old), store.ErrExists)
	policies, err = s.ListPolicies(ctx)
	check(t, err)
	same(t, policies, []store.Policy{app, file})
	none := file
	none.Text, none.Run = "", 8
	check(t, s.PutPolicy(ctx, none))
	wantErr(t, s.PutPolicy(ctx, file), store.ErrExists)
	policies, err = s.ListPolicies(ctx)
	check(t, err)
	same(t, policies, []store.Policy{app})
	file.Run = 9
	check(t, s.PutPolicy(ctx, file))
	check(t, s.DeleteRepo(ctx, repo.Name))
	policies, err = s.ListPolicies(ctx)
	check(t, err)
	same(t, policies, []store.Policy{app})
}
