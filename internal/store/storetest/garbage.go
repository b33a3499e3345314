package storetest

import (
	"fmt"
	"testing"
	"time"

	"slipway/internal/store"
)

func testRegistryDeleted(t *testing.T, s store.Store) {
	ctx := t.Context()
	blob := linkBlob(t, s, "octo/app", 1)
	m := manifestOf("octo/app", 10, blob)
	m.Subject = digestOf(9)
	check(t, s.PutManifest(ctx, m, "v1"))
	_, err := s.DeleteManifest(ctx, store.Change{Repository: "octo/app", Reference: digestOf(10), At: noon.Add(time.Hour)})
	check(t, err)

	// It is out of sight.
	_, err = s.FindManifest(ctx, "octo/app", digestOf(10))
	wantErr(t, err, store.ErrNotFound)
	_, err = s.DeleteManifest(ctx, store.Change{Repository: "octo/app", Reference: digestOf(10), At: noon})
	wantErr(t, err, store.ErrNotFound)
	referrers, _, err := s.ListReferrers(ctx, store.ReferrerFilter{Repository: "octo/app", Subject: digestOf(9), Limit: 5})
	check(t, err)
	same(t, len(referrers), 0)
	err = s.PutManifest(ctx, manifestOf("octo/app", 11, store.Reference{Digest: digestOf(10), Size: 4, Manifest: true}))
	if err == nil {
		t.Fatal("an index of a deleted manifest was accepted")
	}

	// Yet it is there, and keeps its blob.
	manifests, err := s.ListManifests(ctx, store.Page{Repository: "octo/app", Limit: 5}, true)
	check(t, err)
	want := m
	want.Used, want.Deleted = noon, noon.Add(time.Hour)
	same(t, manifests, []store.Manifest{want})
	purged, err := s.PurgeRegistry(ctx, noon.Add(time.Hour))
	check(t, err)
	same(t, purged, store.Purged{})

	// Pushing it again brings it back, as new.
	again := m
	again.Created, again.By = noon.Add(2*time.Hour), "hub"
	check(t, s.PutManifest(ctx, again))
	got, err := s.FindManifest(ctx, "octo/app", digestOf(10))
	check(t, err)
	same(t, got.By, "hub")
	_, err = s.PurgeRegistry(ctx, noon.Add(3*time.Hour))
	check(t, err)
	_, err = s.FindBlob(ctx, "octo/app", digestOf(1))
	check(t, err)

	// Unless what it needs has gone.
	_, err = s.DeleteManifest(ctx, store.Change{Repository: "octo/app", Reference: digestOf(10), At: noon.Add(4 * time.Hour)})
	check(t, err)
	check(t, s.UnlinkBlob(ctx, "octo/app", digestOf(1)))
	if err := s.PutManifest(ctx, again); err == nil {
		t.Fatal("a manifest without its blob was accepted")
	}
}

func testRegistryGarbage(t *testing.T, s store.Store) {
	ctx := t.Context()
	later := noon.Add(time.Second)
	needed, unneeded := linkBlob(t, s, "octo/app", 1), linkBlob(t, s, "octo/app", 2)
	check(t, s.PutManifest(ctx, manifestOf("octo/app", 10, needed), "v1"))
	check(t, s.PutManifest(ctx, manifestOf("octo/app", 20, needed), "v2"))
	check(t, s.MountBlob(ctx, "octo/app", "other/app", needed.Digest, noon))

	// Nothing goes before its time.
	purged, err := s.PurgeRegistry(ctx, noon)
	check(t, err)
	same(t, purged, store.Purged{})
	// A lease is renewed by asking.
	check(t, s.TouchBlob(ctx, "octo/app", unneeded.Digest, later))
	wantErr(t, s.TouchBlob(ctx, "octo/app", digestOf(3), later), store.ErrNotFound)
	wantErr(t, s.TouchBlob(ctx, "octo/none", unneeded.Digest, later), store.ErrNotFound)
	purged, err = s.PurgeRegistry(ctx, later)
	check(t, err)
	same(t, purged, store.Purged{Links: 1}) // of other/app
	_, err = s.FindBlob(ctx, "other/app", needed.Digest)
	wantErr(t, err, store.ErrNotFound)
	purged, err = s.PurgeRegistry(ctx, later.Add(1))
	check(t, err)
	same(t, purged, store.Purged{Links: 1}) // of octo/app
	blobs, err := s.ListUnlinked(ctx, later, 10)
	check(t, err)
	same(t, blobs, []store.Blob{{Digest: unneeded.Digest, Size: 2, Linked: noon}})
	blobs, err = s.ListUnlinked(ctx, noon, 10)
	check(t, err)
	same(t, len(blobs), 0)

	// One of two manifests is not enough.
	for i, n := range []int{10, 20} {
		_, err = s.DeleteManifest(ctx, store.Change{Repository: "octo/app", Reference: digestOf(n), At: later})
		check(t, err)
		purged, err = s.PurgeRegistry(ctx, later.Add(1))
		check(t, err)
		same(t, purged, store.Purged{Manifests: 1, Links: int64(i)})
	}
	wantErr(t, s.ForgetBlob(ctx, digestOf(3), later), store.ErrNotFound)
	wantErr(t, s.ForgetBlob(ctx, needed.Digest, noon), store.ErrInUse) // too young
	check(t, s.ForgetBlob(ctx, needed.Digest, later))
	wantErr(t, s.ForgetBlob(ctx, needed.Digest, later), store.ErrNotFound)
	linkBlob(t, s, "octo/app", 2)
	wantErr(t, s.ForgetBlob(ctx, unneeded.Digest, later), store.ErrInUse) // linked again
}

// testRegistryGarbageMany needs more than one batch.
func testRegistryGarbageCache(t *testing.T, s store.Store) {
	ctx := t.Context()
	image := manifestOf(mirrored, 10, store.Reference{Digest: digestOf(1), Size: 1})
	index := manifestOf(mirrored, 20, store.Reference{Digest: digestOf(10), Size: 4, Manifest: true})
	check(t, s.PutCached(ctx, index, "1"))
	check(t, s.PutCached(ctx, image))
	for n := range int64(3) {
		check(t, s.LinkCached(ctx, mirrored, store.Blob{Digest: digestOf(int(n)), Size: n, Linked: noon}))
	}
	size := func(want int64) {
		t.Helper()
		_, got, err := s.EvictCached(ctx, 1<<40, noon, noon)
		check(t, err)
		same(t, got, want)
	}
	size(2*4 + 1 + 2)

	// The quota decides about what nobody needs.
	later := noon.Add(time.Hour)
	purged, err := s.PurgeRegistry(ctx, later)
	check(t, err)
	same(t, purged, store.Purged{})
	// Unless somebody has it.
	check(t, s.LinkBlob(ctx, mirrored, store.Blob{Digest: digestOf(2), Size: 2, Linked: noon}))
	purged, err = s.PurgeRegistry(ctx, later)
	check(t, err)
	same(t, purged, store.Purged{Links: 1})
	size(2*4 + 1)

	// What was deleted is not the cache's to show, and can be fetched again.
	remove := func(n int) {
		t.Helper()
		_, err := s.DeleteManifest(ctx, store.Change{Repository: mirrored, Reference: digestOf(n), At: noon})
		check(t, err)
		_, err = s.FindCached(ctx, mirrored, digestOf(n))
		wantErr(t, err, store.ErrNotFound)
	}
	remove(20)
	size(2*4 + 1)
	check(t, s.PutCached(ctx, index, "1"))
	manifests, err := s.ListManifests(ctx, store.Page{Repository: mirrored, Last: digestOf(10), Limit: 5}, false)
	check(t, err)
	same(t, manifests[0].References, index.References)
	_, err = s.FindCached(ctx, mirrored, "1")
	check(t, err)
	purged, err = s.PurgeRegistry(ctx, later)
	check(t, err)
	same(t, purged, store.Purged{})

	// Or goes for good, without a trace in the size.
	remove(20)
	purged, err = s.PurgeRegistry(ctx, later)
	check(t, err)
	same(t, purged, store.Purged{Manifests: 1})
	size(4 + 1)
	// Or before that, when there is no room.
	remove(10)
	_, left, err := s.EvictCached(ctx, 0, later, later)
	check(t, err)
	same(t, left, int64(0))
	manifests, err = s.ListManifests(ctx, store.Page{Repository: mirrored, Limit: 5}, false)
	check(t, err)
	same(t, len(manifests), 0)
}

func testRegistryGarbageMany(t *testing.T, s store.Store) {
	ctx := t.Context()
	for n := range 30 {
		for m := range 40 {
			linkBlob(t, s, fmt.Sprintf("octo/app%d", n), 1000*n+m)
		}
	}
	keep := linkBlob(t, s, "octo/app7", 1)
	check(t, s.PutManifest(ctx, manifestOf("octo/app7", 10, keep)))
	purged, err := s.PurgeRegistry(ctx, noon.Add(1))
	check(t, err)
	same(t, purged, store.Purged{Links: 1200})
	blobs, err := s.ListUnlinked(ctx, noon.Add(1), 10000)
	check(t, err)
	same(t, len(blobs), 1199) // blob 1 is of octo/app0 as well
}

func testRegistryInventory(t *testing.T, s store.Store) {
	ctx := t.Context()
	one := linkBlob(t, s, "octo/app", 1)
	linkBlob(t, s, "octo/app", 2)
	check(t, s.MountBlob(ctx, "octo/app", "b", digestOf(1), noon.Add(1)))
	blobs, err := s.ListBlobs(ctx, "", 1)
	check(t, err)
	same(t, blobs, []store.Blob{{Digest: digestOf(1), Size: 1, Linked: noon.Add(1)}})
	blobs, err = s.ListBlobs(ctx, digestOf(1), 10)
	check(t, err)
	same(t, blobs, []store.Blob{{Digest: digestOf(2), Size: 2, Linked: noon}})
	blob, err := s.StatBlob(ctx, digestOf(2))
	check(t, err)
	same(t, blob, blobs[0])
	_, err = s.StatBlob(ctx, digestOf(3))
	wantErr(t, err, store.ErrNotFound)
	names, err := s.BlobRepositories(ctx, digestOf(1))
	check(t, err)
	same(t, names, []string{"b", "octo/app"})

	child := manifestOf("octo/app", 10, one)
	check(t, s.PutManifest(ctx, child))
	index := manifestOf("octo/app", 11, store.Reference{Digest: digestOf(10), Size: 4, Manifest: true})
	check(t, s.PutManifest(ctx, index, "v1"))
	check(t, s.DeleteTag(ctx, store.Change{Repository: "octo/app", Reference: "v1", At: noon.Add(time.Minute)}))
	manifests, err := s.ListManifests(ctx, store.Page{Repository: "octo/app", Limit: 10}, false)
	check(t, err)
	child.Content, index.Content = nil, nil
	child.Used, index.Used = noon, noon.Add(time.Minute)
	same(t, manifests, []store.Manifest{child, index})
	manifests, err = s.ListManifests(ctx, store.Page{Repository: "octo/app", Last: digestOf(10), Limit: 1}, false)
	check(t, err)
	same(t, manifests, []store.Manifest{index})
	_, err = s.ListManifests(ctx, store.Page{Repository: "octo/none", Limit: 1}, false)
	wantErr(t, err, store.ErrNotFound)
}

// testRegistryForgottenTags bounds how many deleted tags have a history, and leaves those that may yet be restored.
func testRegistryForgottenTags(t *testing.T, s store.Store) {
	ctx := t.Context()
	manifest := func(n int) store.Manifest {
		return manifestOf("octo/app", n, linkBlob(t, s, "octo/app", n))
	}
	check(t, s.PutManifest(ctx, manifest(1), "alive", "again"))
	check(t, s.DeleteTag(ctx, store.Change{Repository: "octo/app", Reference: "again", At: noon}))
	check(t, s.PutManifest(ctx, manifest(1), "again"))
	names := []string{"oldest", "second"}
	for i := range store.MaxDeletedTags - 1 {
		names = append(names, fmt.Sprint("v", i))
	}
	check(t, s.PutManifest(ctx, manifest(2), names[:2]...))
	_, err := s.DeleteManifest(ctx, store.Change{Repository: "octo/app", Reference: digestOf(2), At: noon})
	check(t, err)
	check(t, s.PutManifest(ctx, manifest(3), names[2:]...))
	_, err = s.DeleteManifest(ctx, store.Change{Repository: "octo/app", Reference: digestOf(3), At: noon.Add(time.Hour)})
	check(t, err)

	lines := func(tag string) int {
		t.Helper()
		history, err := s.TagHistory(ctx, "octo/app", tag, 10)
		check(t, err)
		return len(history)
	}
	purged, err := s.PurgeRegistry(ctx, noon)
	check(t, err)
	same(t, purged.Tags, int64(0)) // all may yet be restored
	purged, err = s.PurgeRegistry(ctx, noon.Add(time.Second))
	check(t, err)
	same(t, purged.Tags, int64(1))
	for tag, want := range map[string]int{"oldest": 0, "second": 2, "v0": 2, "alive": 1, "again": 3} {
		if got := lines(tag); got != want {
			t.Errorf("the tag %s has %d lines of history, not %d", tag, got, want)
		}
	}
}
