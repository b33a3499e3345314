package storetest

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"slipway/internal/store"
)

func wantOver(t testing.TB, err error, want store.Quota) {
	t.Helper()
	var over *store.QuotaError
	if !errors.As(err, &over) || over.Quota != want {
		t.Fatalf("error is %v, want that of %+v", err, want)
	}
}

func testRegistryQuotas(t *testing.T, s store.Store) {
	ctx := t.Context()
	link := func(repository string, n int, size int64) error {
		return s.LinkBlob(ctx, repository, store.Blob{Digest: digestOf(n), Size: size, Linked: noon})
	}
	check(t, link("octo/app", 1, 500))
	check(t, link("octo/app-else", 2, 5000))
	check(t, s.PutQuota(ctx, "octo/app", 1000))
	check(t, s.CheckQuota(ctx, "octo/app", 500, 0))
	wantOver(t, s.CheckQuota(ctx, "octo/app", 501, 0), store.Quota{Repository: "octo/app", Bytes: 1000, Used: 500, Stored: 500})
	// What is being uploaded may make it twice the quota.
	check(t, s.CheckQuota(ctx, "octo/app/a", 100, 1400))
	wantOver(t, s.CheckQuota(ctx, "octo/app/a", 100, 1401), store.Quota{Repository: "octo/app", Bytes: 1000, Used: 500, Stored: 1901})
	for repository, want := range map[string]bool{"octo/app": true, "octo/app/a": true, "octo/app-else": false, "octo": false, "mirror/octo/app": false} {
		holds, err := s.HasQuota(ctx, repository)
		check(t, err)
		if holds != want {
			t.Errorf("a quota holds for %s: %v", repository, holds)
		}
	}

	// All below counts, a blob that several have once, and what is beyond is not stored.
	check(t, link("octo/app/a", 1, 500))
	check(t, link("octo/app/a", 3, 490))
	check(t, link("octo/app", 3, 490))
	full := store.Quota{Repository: "octo/app", Bytes: 1000, Used: 990, Stored: 990}
	over := full
	over.Used, over.Stored = 1090, 1090
	wantOver(t, link("octo/app/b", 4, 100), over)
	_, err := s.FindBlob(ctx, "octo/app/b", digestOf(4))
	wantErr(t, err, store.ErrNotFound)
	_, err = s.StatBlob(ctx, digestOf(4))
	wantErr(t, err, store.ErrNotFound)
	check(t, link("octo/app", 1, 500))
	check(t, s.MountBlob(ctx, "octo/app", "octo/app/c", digestOf(1), noon))
	over.Used, over.Stored = 5990, 5990
	wantOver(t, s.MountBlob(ctx, "octo/app-else", "octo/app/c", digestOf(2), noon), over)
	quotas, err := s.FindQuotas(ctx, "octo/app/a")
	check(t, err)
	same(t, quotas, []store.Quota{full})

	// Manifests count as well.
	image := store.Manifest{
		Repository: "octo/app", Digest: digestOf(10), MediaType: "image", Content: make([]byte, 11), Size: 11, Created: noon, By: "octo",
		References: []store.Reference{{Digest: digestOf(3), Size: 490}},
	}
	over.Used, over.Stored = 1001, 1001
	wantOver(t, s.PutManifest(ctx, image, "latest"), over)
	_, err = s.FindManifest(ctx, "octo/app", "latest")
	wantErr(t, err, store.ErrNotFound)
	image.Content, image.Size = image.Content[:10], 10
	check(t, s.PutManifest(ctx, image, "latest"))
	check(t, s.UnlinkBlob(ctx, "octo/app/a", digestOf(3)))

	// What was deleted makes room, up to twice the quota.
	_, err = s.DeleteManifest(ctx, store.Change{Repository: "octo/app", Reference: image.Digest, By: "octo", At: noon})
	check(t, err)
	quotas, err = s.FindQuotas(ctx, "octo/app")
	check(t, err)
	same(t, quotas, []store.Quota{{Repository: "octo/app", Bytes: 1000, Used: 500, Stored: 1000}})
	check(t, link("octo/app", 5, 500))
	over.Used, over.Stored = 1500, 1500
	wantOver(t, s.Restore(ctx, store.Change{Repository: "octo/app", Digest: image.Digest, By: "octo", At: noon}), over)
	_, err = s.FindManifest(ctx, "octo/app", image.Digest)
	wantErr(t, err, store.ErrNotFound)

	// The one for all is for each repo without its own, and the narrower ones hold beside the wider.
	check(t, s.PutQuota(ctx, "", 100))
	check(t, s.PutQuota(ctx, "octo/app/a", 600))
	check(t, link("octo/other/x", 6, 60))
	wantOver(t, link("octo/other", 7, 41), store.Quota{Repository: "octo/other", Bytes: 100, Used: 101, Stored: 101})
	check(t, link("mirror/docker.io/library/busybox", 8, 1e6))
	quotas, err = s.FindQuotas(ctx, "octo/app/a/b")
	check(t, err)
	same(t, quotas, []store.Quota{{Repository: "octo/app", Bytes: 1000, Used: 1000, Stored: 1500}, {Repository: "octo/app/a", Bytes: 600, Used: 500, Stored: 500}})
	quotas, err = s.FindQuotas(ctx, "busybox")
	check(t, err)
	same(t, quotas, []store.Quota{{Repository: "busybox", Bytes: 100}})
	check(t, s.PutQuota(ctx, "octo/app", 0))
	check(t, s.PutQuota(ctx, "octo/app/a", 0))
	check(t, s.PutQuota(ctx, "", 0))
	check(t, link("octo/app", 9, 1e9))
	check(t, s.CheckQuota(ctx, "octo/app", 1e12, 1e12))

	totals, err := s.RegistryTotals(ctx)
	check(t, err)
	same(t, totals, store.RegistryTotals{Repositories: 6, Manifests: 1, Blobs: 7, Bytes: 500 + 5000 + 490 + 500 + 60 + 1e6 + 1e9})
}

// testRegistryQuotaDeleted lets what was deleted, and can be restored, have as much again as the quota and no more.
func testRegistryQuotaDeleted(t *testing.T, s store.Store) {
	ctx := t.Context()
	check(t, s.PutQuota(ctx, "octo/app", 1000))
	for n := 1; n <= 3; n++ {
		check(t, s.LinkBlob(ctx, "octo/app", store.Blob{Digest: digestOf(n), Size: 600, Linked: noon}))
		check(t, s.PutManifest(ctx, manifestOf("octo/app", 10+n, store.Reference{Digest: digestOf(n), Size: 600})))
		_, err := s.DeleteManifest(ctx, store.Change{Repository: "octo/app", Reference: digestOf(10 + n), At: noon})
		check(t, err)
	}
	err := s.LinkBlob(ctx, "octo/app", store.Blob{Digest: digestOf(4), Size: 600, Linked: noon})
	wantOver(t, err, store.Quota{Repository: "octo/app", Bytes: 1000, Used: 600, Stored: 4*600 + 3*4})
	_, err = s.PurgeRegistry(ctx, noon.Add(time.Second))
	check(t, err)
	check(t, s.LinkBlob(ctx, "octo/app", store.Blob{Digest: digestOf(4), Size: 600, Linked: noon}))
}

// Many pushes at once, to one repository and beside it, are together no more than the quota.
func testRegistryQuotaRace(t *testing.T, s store.Store) {
	ctx := t.Context()
	check(t, s.PutQuota(ctx, "octo/app", 1000))
	var work sync.WaitGroup
	errs := make(chan error, 40)
	for i := range cap(errs) {
		work.Go(func() {
			errs <- s.LinkBlob(ctx, fmt.Sprintf("octo/app/%d", i%4), store.Blob{Digest: digestOf(i), Size: 100, Linked: noon})
		})
	}
	work.Wait()
	close(errs)
	good := 0
	for err := range errs {
		var over *store.QuotaError
		switch {
		case err == nil:
			good++
		case !errors.As(err, &over):
			t.Error(err)
		}
	}
	quotas, err := s.FindQuotas(ctx, "octo/app")
	check(t, err)
	if good != 10 || quotas[0].Used != 1000 {
		t.Errorf("%d of 10 got in, and %+v", good, quotas)
	}
}
