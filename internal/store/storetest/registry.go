package storetest

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/internal/store"
)

// digestOf makes digests that are short enough to read; the store does not look into them.
func digestOf(n int) string { return fmt.Sprintf("sha256:%064d", n) }

func linkBlob(t testing.TB, s store.Store, repository string, n int) store.Reference {
	t.Helper()
	check(t, s.LinkBlob(t.Context(), repository, store.Blob{Digest: digestOf(n), Size: int64(n), Linked: noon}))
	return store.Reference{Digest: digestOf(n), Size: int64(n)}
}

func manifestOf(repository string, n int, references ...store.Reference) store.Manifest {
	return store.Manifest{
		Repository: repository, Digest: digestOf(n), MediaType: "application/image", ArtifactType: "application/config",
		Content: []byte{'{', 0, 0xff, '}'}, Size: 4, Created: noon, By: "octo", References: references,
	}
}

func testRegistryBlobs(t *testing.T, s store.Store) {
	ctx := t.Context()
	_, err := s.FindBlob(ctx, "octo/app", digestOf(1))
	wantErr(t, err, store.ErrNotFound)
	linkBlob(t, s, "octo/app", 1)
	linkBlob(t, s, "octo/app", 1) // again
	got, err := s.FindBlob(ctx, "octo/app", digestOf(1))
	check(t, err)
	same(t, got, store.Blob{Digest: digestOf(1), Size: 1, Linked: noon})
	_, err = s.FindBlob(ctx, "other/app", digestOf(1))
	wantErr(t, err, store.ErrNotFound)

	wantErr(t, s.MountBlob(ctx, "octo/none", "other/app", digestOf(1), noon), store.ErrNotFound)
	wantErr(t, s.MountBlob(ctx, "octo/app", "other/app", digestOf(2), noon), store.ErrNotFound)
	_, err = s.ListTags(ctx, store.Page{Repository: "other/app", Limit: 1})
	wantErr(t, err, store.ErrNotFound) // a mount that fails makes no repository
	check(t, s.MountBlob(ctx, "octo/app", "other/app", digestOf(1), noon))
	check(t, s.MountBlob(ctx, "octo/app", "other/app", digestOf(1), noon))
	check(t, s.MountBlob(ctx, "octo/app", "octo/app", digestOf(1), noon))
	check(t, s.UnlinkBlob(ctx, "octo/app", digestOf(1)))
	wantErr(t, s.UnlinkBlob(ctx, "octo/app", digestOf(1)), store.ErrNotFound)
	wantErr(t, s.UnlinkBlob(ctx, "never", digestOf(1)), store.ErrNotFound)
	_, err = s.FindBlob(ctx, "other/app", digestOf(1))
	check(t, err)
}

func testRegistryManifests(t *testing.T, s store.Store) {
	ctx := t.Context()
	blob := linkBlob(t, s, "octo/app", 1)
	m := manifestOf("octo/app", 10, blob, blob)
	m.Subject, m.Annotations = digestOf(99), []byte(`{"a":"ä"}`)
	check(t, s.PutManifest(ctx, m, "v1", "latest"))
	want := m
	want.References = nil
	for _, reference := range []string{"v1", "latest", digestOf(10)} {
		got, err := s.FindManifest(ctx, "octo/app", reference)
		check(t, err)
		same(t, got, want)
	}
	for _, reference := range []string{"v2", digestOf(11)} {
		_, err := s.FindManifest(ctx, "octo/app", reference)
		wantErr(t, err, store.ErrNotFound)
	}
	_, err := s.FindManifest(ctx, "octo/other", "v1")
	wantErr(t, err, store.ErrNotFound)

	// Putting it again keeps who made it when.
	again := m
	again.Created, again.By = noon.Add(time.Hour), "somebody else"
	check(t, s.PutManifest(ctx, again))
	got, err := s.FindManifest(ctx, "octo/app", digestOf(10))
	check(t, err)
	same(t, got, want)

	index := manifestOf("octo/app", 11, store.Reference{Digest: digestOf(10), Size: 4, Manifest: true})
	check(t, s.PutManifest(ctx, index))

	tags, err := s.DeleteManifest(ctx, store.Change{Repository: "octo/app", Reference: digestOf(10), By: "hub", At: noon.Add(time.Minute)})
	check(t, err)
	same(t, tags, []string{"latest", "v1"})
	_, err = s.FindManifest(ctx, "octo/app", "v1")
	wantErr(t, err, store.ErrNotFound)
	for _, c := range []store.Change{
		{Repository: "octo/app", Reference: digestOf(10), At: noon}, {Repository: "never", Reference: digestOf(10), At: noon},
	} {
		_, err = s.DeleteManifest(ctx, c)
		wantErr(t, err, store.ErrNotFound)
	}
}

func testRegistryMissing(t *testing.T, s store.Store) {
	ctx := t.Context()
	here, elsewhere := linkBlob(t, s, "octo/app", 1), linkBlob(t, s, "octo/other", 2)
	wrong := here
	wrong.Size = 7
	for _, references := range [][]store.Reference{
		{elsewhere},
		{here, elsewhere},
		{wrong},
		{{Digest: digestOf(3)}},
		{{Digest: here.Digest, Size: here.Size, Manifest: true}}, // a blob is no manifest
	} {
		err := s.PutManifest(ctx, manifestOf("octo/app", 10, references...), "v1")
		var missing *store.MissingError
		if !errors.As(err, &missing) {
			t.Fatalf("%v: error is %v", references, err)
		}
		same(t, missing, &store.MissingError{Repository: "octo/app", References: references[len(references)-1:]})
	}
	for _, reference := range []string{"v1", digestOf(10)} {
		_, err := s.FindManifest(ctx, "octo/app", reference)
		wantErr(t, err, store.ErrNotFound)
	}
	wantErr(t, s.UnlinkBlob(ctx, "octo/app", digestOf(2)), store.ErrNotFound)

	check(t, s.PutManifest(ctx, manifestOf("octo/app", 10, here)))
	wantErr(t, s.UnlinkBlob(ctx, "octo/app", here.Digest), store.ErrInUse)
	_, err := s.DeleteManifest(ctx, store.Change{Repository: "octo/app", Reference: digestOf(10), At: noon})
	check(t, err)
	check(t, s.UnlinkBlob(ctx, "octo/app", here.Digest))
}

func testRegistryTags(t *testing.T, s store.Store) {
	ctx := t.Context()
	one, two := manifestOf("octo/app", 10), manifestOf("octo/app", 20)
	two.Created, two.By = noon.Add(time.Minute), "octo/app run 7"
	check(t, s.PutManifest(ctx, one, "a", "B", "-", "_"))
	check(t, s.PutManifest(ctx, two, "a"))
	check(t, s.PutManifest(ctx, two, "a")) // no news
	check(t, s.DeleteTag(ctx, store.Change{Repository: "octo/app", Reference: "B", By: "hub", At: noon.Add(time.Hour)}))
	wantErr(t, s.DeleteTag(ctx, store.Change{Repository: "octo/app", Reference: "B", At: noon}), store.ErrNotFound)
	wantErr(t, s.DeleteTag(ctx, store.Change{Repository: "never", Reference: "B", At: noon}), store.ErrNotFound)
	_, err := s.FindManifest(ctx, "octo/app", digestOf(10))
	check(t, err)

	tags, err := s.ListTags(ctx, store.Page{Repository: "octo/app", Limit: 10})
	check(t, err)
	same(t, tags, []store.Tag{
		{Name: "-", Digest: digestOf(10), Updated: noon, By: "octo"},
		{Name: "_", Digest: digestOf(10), Updated: noon, By: "octo"},
		{Name: "a", Digest: digestOf(20), Updated: noon.Add(time.Minute), By: "octo/app run 7"},
	})
	tags, err = s.ListTags(ctx, store.Page{Repository: "octo/app", Last: "-", Limit: 1})
	check(t, err)
	same(t, tags, []store.Tag{{Name: "_", Digest: digestOf(10), Updated: noon, By: "octo"}})
	_, err = s.ListTags(ctx, store.Page{Repository: "never", Limit: 1})
	wantErr(t, err, store.ErrNotFound)

	history, err := s.TagHistory(ctx, "octo/app", "a", 10)
	check(t, err)
	same(t, history, []store.TagChange{
		{Digest: digestOf(20), At: noon.Add(time.Minute), By: "octo/app run 7"}, {Digest: digestOf(10), At: noon, By: "octo"},
	})
	history, err = s.TagHistory(ctx, "octo/app", "B", 1)
	check(t, err)
	same(t, history, []store.TagChange{{At: noon.Add(time.Hour), By: "hub"}})

	// Deleting a manifest is in the history of its tags.
	_, err = s.DeleteManifest(ctx, store.Change{Repository: "octo/app", Reference: digestOf(20), By: "hub", At: noon.Add(2 * time.Hour)})
	check(t, err)
	history, err = s.TagHistory(ctx, "octo/app", "a", 1)
	check(t, err)
	same(t, history, []store.TagChange{{At: noon.Add(2 * time.Hour), By: "hub"}})

	linkBlob(t, s, "B", 1)
	linkBlob(t, s, "octo-app", 1)
	names, err := s.ListRepositories(ctx, store.Page{Limit: 10})
	check(t, err)
	same(t, names, []string{"B", "octo-app", "octo/app"})
	names, err = s.ListRepositories(ctx, store.Page{Last: "B", Limit: 1})
	check(t, err)
	same(t, names, []string{"octo-app"})
}

func testRegistryReferrers(t *testing.T, s store.Store) {
	ctx := t.Context()
	for n := 10; n < 15; n++ {
		m := manifestOf("octo/app", n)
		m.Subject, m.ArtifactType = digestOf(1), fmt.Sprint("application/", n%2)
		check(t, s.PutManifest(ctx, m))
	}
	check(t, s.PutManifest(ctx, manifestOf("octo/app", 20)))
	list := func(f store.ReferrerFilter) (digests []string, more bool) {
		t.Helper()
		f.Repository = "octo/app"
		manifests, more, err := s.ListReferrers(ctx, f)
		check(t, err)
		for _, m := range manifests {
			if m.Size != 4 || m.Content != nil || m.MediaType != "application/image" || m.Subject != f.Subject {
				t.Errorf("got %+v", m)
			}
			digests = append(digests, m.Digest)
		}
		return digests, more
	}
	got, more := list(store.ReferrerFilter{Subject: digestOf(1), Limit: 5})
	same(t, got, []string{digestOf(10), digestOf(11), digestOf(12), digestOf(13), digestOf(14)})
	same(t, more, false)
	got, more = list(store.ReferrerFilter{Subject: digestOf(1), Last: digestOf(10), Limit: 2})
	same(t, got, []string{digestOf(11), digestOf(12)})
	same(t, more, true)
	got, _ = list(store.ReferrerFilter{Subject: digestOf(1), ArtifactType: "application/1", Limit: 5})
	same(t, got, []string{digestOf(11), digestOf(13)})
	got, _ = list(store.ReferrerFilter{Subject: digestOf(2), Limit: 5})
	same(t, len(got), 0)

	// Large annotations end a page early, and none gets lost.
	for n := 30; n < 36; n++ {
		m := manifestOf("octo/app", n)
		m.Subject, m.Annotations = digestOf(3), []byte(`{"a":"`+strings.Repeat("x", 2<<20)+`"}`)
		check(t, s.PutManifest(ctx, m))
	}
	all, pages := []string(nil), 0
	for f, more := (store.ReferrerFilter{Subject: digestOf(3), Limit: 100}), true; more; pages++ {
		got, more = list(f)
		all = append(all, got...)
		f.Last = all[len(all)-1]
	}
	if len(all) != 6 || pages < 2 {
		t.Fatalf("%d referrers on %d pages", len(all), pages)
	}
}

// testRegistryConcurrent pushes manifests while others take away the blobs that they need: an accepted manifest has
// its blobs.
func testRegistryConcurrent(t *testing.T, s store.Store) {
	ctx := t.Context()
	var group sync.WaitGroup
	var mu sync.Mutex
	accepted := map[string]store.Reference{}
	for worker := range 4 {
		group.Go(func() {
			for i := range 20 {
				blob := store.Reference{Digest: digestOf(1 + i%3), Size: 5}
				if err := s.LinkBlob(ctx, "octo/app", store.Blob{Digest: blob.Digest, Size: 5, Linked: noon}); err != nil {
					t.Errorf("link: %v", err)
					return
				}
				m := manifestOf("octo/app", 100+worker*20+i, blob)
				err := s.PutManifest(ctx, m, fmt.Sprint("v", i%5))
				var missing *store.MissingError
				if err != nil && !errors.As(err, &missing) {
					t.Errorf("put: %v", err)
				}
				if err == nil {
					mu.Lock()
					accepted[m.Digest] = blob
					mu.Unlock()
				}
			}
		})
		group.Go(func() {
			for i := range 20 {
				err := s.UnlinkBlob(ctx, "octo/app", digestOf(1+i%3))
				if err != nil && !errors.Is(err, store.ErrInUse) && !errors.Is(err, store.ErrNotFound) {
					t.Errorf("unlink: %v", err)
				}
				err = s.MountBlob(ctx, "octo/app", fmt.Sprint("other/", worker), digestOf(1+i%3), noon)
				if err != nil && !errors.Is(err, store.ErrNotFound) {
					t.Errorf("mount: %v", err)
				}
			}
		})
	}
	group.Wait()
	if len(accepted) == 0 {
		t.Fatal("no push was accepted")
	}
	for manifest, blob := range accepted {
		if _, err := s.FindManifest(ctx, "octo/app", manifest); err != nil {
			t.Errorf("manifest %s: %v", manifest, err)
		}
		if _, err := s.FindBlob(ctx, "octo/app", blob.Digest); err != nil {
			t.Errorf("blob %s of an accepted manifest: %v", blob.Digest, err)
		}
	}
}

// mirrored is a repository that stands for another registry's.
const mirrored = "mirror/docker.io/library/app"

func testRegistryCache(t *testing.T, s store.Store) {
	ctx := t.Context()
	blob := store.Reference{Digest: digestOf(1), Size: 1}
	image := manifestOf(mirrored, 10, blob)
	index := manifestOf(mirrored, 20, store.Reference{Digest: digestOf(10), Size: 4, Manifest: true}, store.Reference{Digest: digestOf(11), Size: 4, Manifest: true})
	check(t, s.PutCached(ctx, index, "1")) // before what it refers to
	check(t, s.PutCached(ctx, image))
	check(t, s.LinkCached(ctx, mirrored, store.Blob{Digest: digestOf(1), Size: 1, Linked: noon}))
	for reference, digest := range map[string]string{"1": digestOf(20), digestOf(20): digestOf(20), digestOf(1): digestOf(1)} {
		got, err := s.FindCached(ctx, mirrored, reference)
		check(t, err)
		same(t, got, store.Cached{Digest: digest, Checked: noon, Used: noon})
	}
	for _, reference := range []string{"2", digestOf(11)} {
		_, err := s.FindCached(ctx, mirrored, reference)
		wantErr(t, err, store.ErrNotFound)
	}
	check(t, s.TouchCached(ctx, mirrored, "1", noon.Add(time.Hour), time.Time{}))
	got, err := s.FindCached(ctx, mirrored, "1")
	check(t, err)
	same(t, got, store.Cached{Digest: digestOf(20), Checked: noon, Used: noon.Add(time.Hour)})
	check(t, s.TouchCached(ctx, mirrored, "1", noon.Add(time.Hour), noon.Add(2*time.Hour)))
	got, err = s.FindCached(ctx, mirrored, "1")
	check(t, err)
	same(t, got, store.Cached{Digest: digestOf(20), Checked: noon.Add(2 * time.Hour), Used: noon.Add(time.Hour)})

	// The cache moves its own tags, and nobody else's.
	next := manifestOf(mirrored, 30)
	check(t, s.PutCached(ctx, next, "1"))
	m, err := s.FindManifest(ctx, mirrored, "1")
	check(t, err)
	same(t, m.Digest, digestOf(30))
	linkBlob(t, s, mirrored, 2)
	check(t, s.PutManifest(ctx, manifestOf(mirrored, 40, store.Reference{Digest: digestOf(2), Size: 2}), "own"))
	check(t, s.PutCached(ctx, next, "own"))
	m, err = s.FindManifest(ctx, mirrored, "own")
	check(t, err)
	same(t, m.Digest, digestOf(40))
	_, err = s.FindCached(ctx, mirrored, "own")
	wantErr(t, err, store.ErrNotFound)
	// What somebody pushes over the cache's is theirs.
	check(t, s.PutManifest(ctx, next, "1"))
	for _, reference := range []string{"1", digestOf(30)} {
		_, err = s.FindCached(ctx, mirrored, reference)
		wantErr(t, err, store.ErrNotFound)
	}
	check(t, s.LinkCached(ctx, mirrored, store.Blob{Digest: digestOf(2), Size: 2, Linked: noon}))
	_, err = s.FindCached(ctx, mirrored, digestOf(2))
	wantErr(t, err, store.ErrNotFound)
}

func testRegistryEvict(t *testing.T, s store.Store) {
	ctx := t.Context()
	put := func(n int, at time.Time, tags ...string) {
		t.Helper()
		m := manifestOf(mirrored, n, store.Reference{Digest: digestOf(n + 1), Size: 100})
		m.Created = at
		check(t, s.PutCached(ctx, m, tags...))
		check(t, s.LinkCached(ctx, mirrored, store.Blob{Digest: digestOf(n + 1), Size: 100, Linked: at}))
	}
	put(10, noon, "old")
	put(20, noon.Add(time.Hour), "new")
	put(30, noon, "pinned")
	put(40, noon)
	// Somebody's index needs image 40, and somebody's tag manifest 30.
	check(t, s.PutManifest(ctx, manifestOf(mirrored, 50, store.Reference{Digest: digestOf(40), Size: 4, Manifest: true}), "index"))
	check(t, s.PutManifest(ctx, manifestOf(mirrored, 30), "mine"))
	later := noon.Add(2 * time.Hour)
	for _, test := range []struct{ limit, freed, size int64 }{
		{10_000, 0, 412}, {412, 0, 412}, {411, 4, 408}, {407, 100, 308}, {308, 0, 308}, {307, 4, 304}, {0, 100, 204},
	} {
		freed, size, err := s.EvictCached(ctx, test.limit, later, later)
		check(t, err)
		if freed != test.freed || size != test.size {
			t.Errorf("a limit of %d frees %d of %d, want %d of %d", test.limit, freed, size, test.freed, test.size)
		}
	}
	for reference, want := range map[string]bool{"old": false, "new": false, "pinned": true, "mine": true, "index": true, digestOf(40): true} {
		_, err := s.FindManifest(ctx, mirrored, reference)
		if got := err == nil; got != want {
			t.Errorf("%s is there: %v, %v", reference, got, err)
		}
	}
	for n, want := range map[int]bool{11: false, 21: false, 31: true, 41: true} {
		_, err := s.FindBlob(ctx, mirrored, digestOf(n))
		if got := err == nil; got != want {
			t.Errorf("blob %d is there: %v, %v", n, got, err)
		}
	}
	history, err := s.TagHistory(ctx, mirrored, "old", 10)
	check(t, err)
	same(t, history[0], store.TagChange{At: later, By: store.Mirror})
}
