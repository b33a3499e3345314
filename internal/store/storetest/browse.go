package storetest

import (
	"fmt"
	"testing"
	"time"

	"slipway/internal/store"
)

// namesOf returns the names of tags.
func namesOf(tags []store.Tag) []string {
	names := []string{}
	for _, tag := range tags {
		names = append(names, tag.Name)
	}
	return names
}

func testBrowseTags(t *testing.T, s store.Store) {
	ctx := t.Context()
	_, _, err := s.BrowseTags(ctx, store.TagFilter{Repository: "octo/app", Limit: 5})
	wantErr(t, err, store.ErrNotFound)
	for i, tags := range [][]string{{"v1", "a_b"}, {"v2"}, {"V3", "axb"}} {
		m := manifestOf("octo/app", 10+i)
		m.Created = noon.Add(time.Duration(i) * time.Hour)
		m.By = fmt.Sprint("octo ", i)
		check(t, s.PutManifest(ctx, m, tags...))
	}
	check(t, s.PutManifest(ctx, manifestOf("octo/other", 10), "v9"))
	browse := func(filter store.TagFilter, total int64, want ...string) []store.Tag {
		t.Helper()
		filter.Repository = "octo/app"
		tags, n, err := s.BrowseTags(ctx, filter)
		check(t, err)
		same(t, namesOf(tags), append([]string{}, want...))
		same(t, n, total)
		return tags
	}
	all := browse(store.TagFilter{Limit: 9}, 5, "V3", "axb", "v2", "a_b", "v1")
	same(t, all[2], store.Tag{Name: "v2", Digest: digestOf(11), Updated: noon.Add(time.Hour), By: "octo 1"})
	browse(store.TagFilter{Limit: 2, Skip: 1}, 5, "axb", "v2")
	browse(store.TagFilter{Limit: 2, Skip: 9}, 5)
	browse(store.TagFilter{Limit: 9, Match: "v"}, 3, "V3", "v2", "v1")
	browse(store.TagFilter{Limit: 9, Match: "A_"}, 1, "a_b")
	browse(store.TagFilter{Limit: 9, Match: digestOf(10)}, 2, "a_b", "v1")
	browse(store.TagFilter{Limit: 9, Match: digestOf(10)[:70]}, 5, "V3", "axb", "v2", "a_b", "v1")
	browse(store.TagFilter{Limit: 9, Match: "sha256:%"}, 0)
	newer, err := s.NewerTags(ctx, "octo/app", noon.Add(time.Hour))
	check(t, err)
	same(t, newer, []string{"V3", "axb", "v2"})
	_, err = s.NewerTags(ctx, "octo/none", noon)
	wantErr(t, err, store.ErrNotFound)
}

func testBrowseImages(t *testing.T, s store.Store) {
	ctx := t.Context()
	_, err := s.CountImages(ctx, "octo/app")
	wantErr(t, err, store.ErrNotFound)
	_, err = s.BrowseImages(ctx, store.ImageFilter{Repository: "octo/app", Limit: 5})
	wantErr(t, err, store.ErrNotFound)
	blob := store.Reference{Digest: digestOf(1), Size: 100}
	check(t, s.LinkBlob(ctx, "octo/app", store.Blob{Digest: blob.Digest, Size: blob.Size, Linked: noon}))
	check(t, s.PutManifest(ctx, manifestOf("octo/app", 10, blob), "v1"))
	check(t, s.PutManifest(ctx, manifestOf("octo/app", 11)))
	index := manifestOf("octo/app", 12, store.Reference{Digest: digestOf(11), Size: 4, Manifest: true})
	check(t, s.PutManifest(ctx, index, "all"))
	for i := range 3 {
		for n, deleted := range map[int]bool{20: false, 30: true} {
			m := manifestOf("octo/app", n+i)
			m.Created = noon.Add(time.Duration(i) * time.Hour)
			check(t, s.PutManifest(ctx, m))
			if deleted {
				_, err := s.DeleteManifest(ctx, store.Change{Repository: "octo/app", Reference: m.Digest, At: noon.Add(time.Duration(-i) * time.Minute)})
				check(t, err)
			}
		}
	}
	counts, err := s.CountImages(ctx, "octo/app")
	check(t, err)
	same(t, counts, store.ImageCounts{Tags: 2, Untagged: 3, Deleted: 3, Bytes: 100 + 9*4})
	browse := func(deleted bool, skip int, want ...int) (found []store.Manifest) {
		t.Helper()
		found, err := s.BrowseImages(ctx, store.ImageFilter{Repository: "octo/app", Deleted: deleted, Skip: skip, Limit: 2})
		check(t, err)
		var digests, wanted []string
		for _, m := range found {
			digests = append(digests, m.Digest)
		}
		for _, n := range want {
			wanted = append(wanted, digestOf(n))
		}
		same(t, digests, wanted)
		return found
	}
	same(t, browse(false, 0, 22, 21)[0].Used, noon.Add(2*time.Hour))
	browse(false, 2, 20)
	same(t, browse(true, 0, 30, 31)[1].Deleted, noon.Add(-time.Minute))
	browse(true, 2, 32)
	browse(true, 3)
}

func testRegistryGraph(t *testing.T, s store.Store) {
	ctx := t.Context()
	_, err := s.PickManifests(ctx, "octo/app", []string{digestOf(10)})
	wantErr(t, err, store.ErrNotFound)
	_, err = s.FindUsers(ctx, "octo/app", []string{digestOf(10)}, 5)
	wantErr(t, err, store.ErrNotFound)
	blob := store.Reference{Digest: digestOf(1), Size: 100}
	for _, repository := range []string{"octo/app", "octo/other"} { // what another one has does not count
		check(t, s.LinkBlob(ctx, repository, store.Blob{Digest: blob.Digest, Size: blob.Size, Linked: noon}))
		check(t, s.PutManifest(ctx, manifestOf(repository, 10, blob), "v1", "v2", "v3"))
	}
	var digests []string
	for n := 10; n < 250; n++ { // more than one statement asks for
		if n > 10 && n < 210 {
			check(t, s.PutManifest(ctx, manifestOf("octo/app", n, blob)))
		}
		digests = append(digests, digestOf(n))
	}
	index := manifestOf("octo/app", 9, store.Reference{Digest: digestOf(10), Size: 4, Manifest: true})
	check(t, s.PutManifest(ctx, index))
	gone := manifestOf("octo/app", 8, store.Reference{Digest: digestOf(10), Size: 4, Manifest: true})
	check(t, s.PutManifest(ctx, gone))
	_, err = s.DeleteManifest(ctx, store.Change{Repository: "octo/app", Reference: gone.Digest, At: noon})
	check(t, err)

	found, err := s.PickManifests(ctx, "octo/app", append(digests, digestOf(8)))
	check(t, err)
	same(t, len(found), 201)
	for _, m := range found {
		switch m.Digest {
		case digestOf(10):
			same(t, m.References, []store.Reference{blob})
			same(t, len(m.Content), 0)
		case digestOf(8):
			same(t, m.Deleted, noon)
		}
	}
	users, err := s.FindUsers(ctx, "octo/app", append(digests, blob.Digest), 2)
	check(t, err)
	same(t, users, map[string]store.Users{
		digestOf(10): {Tags: []string{"v1", "v2"}, Tagged: 3, Manifests: 1},
		blob.Digest:  {Manifests: 2},
	})
}
