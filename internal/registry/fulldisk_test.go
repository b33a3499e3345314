package registry_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"slipway/internal/registry"
	"slipway/internal/store/sqlstore"
	"slipway/internal/testneeds"
)

// smallDisk mounts a file system of 4 MiB on a folder.
func smallDisk(t *testing.T, dir string) {
	t.Helper()
	testneeds.Root(t)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=4m"); errors.Is(err, syscall.EPERM) {
		testneeds.Missing(t, "the right to mount a tmpfs")
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
}

// full wants the answer to who pushes to a full disk.
func (s *site) full(a answer) {
	s.t.Helper()
	s.want(a, 507, "UNKNOWN")
	if !strings.Contains(string(a.body), "the registry's disk is full; nothing was stored. Make room and push again") {
		s.t.Errorf("the answer is %s", a.body)
	}
}

func quiet(o *registry.Options) { o.Log = slog.New(slog.DiscardHandler) }

// TestFullDisk fills a real file system in the middle of an upload.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	smallDisk(t, dir)
	s := newSite(t, quiet, func(o *registry.Options) { o.Dir = dir })
	s.fill("a")
	s.wantFiles(1)
	s.pushBlob("a", random(1<<20)) // there is room again
}

// fill pushes a blob that has room, and more that has none, by all ways.
func (s *site) fill(repository string) {
	s.t.Helper()
	small := s.pushBlob(repository, random(1000))
	content := random(8 << 20)
	s.full(s.do("POST", "/v2/"+repository+"/blobs/uploads/?digest="+sum256(content), bytes.NewReader(content)))
	location := s.start(repository)
	s.full(s.do("PATCH", location, bytes.NewReader(content)))
	s.want(s.do("GET", location, nil), 404, "BLOB_UPLOAD_UNKNOWN")
	location = s.start(repository)
	s.want(s.do("PATCH", location, bytes.NewReader(content[:1<<20])), 202)
	s.full(s.do("PUT", location+"?digest="+sum256(content), bytes.NewReader(content[1<<20:])))
	s.want(s.do("GET", location, nil), 404, "BLOB_UPLOAD_UNKNOWN")
	s.want(s.do("HEAD", "/v2/"+repository+"/blobs/"+sum256(content), nil), 404)
	s.want(s.do("HEAD", "/v2/"+repository+"/blobs/"+small, nil), 200)
}

// What is to go to a bucket needs room on the way.
func TestFullDiskS3(t *testing.T) {
	dir := t.TempDir()
	smallDisk(t, dir)
	b := newBucket(t)
	s := newSite(t, quiet, func(o *registry.Options) {
		o.Dir = dir
		var err error
		if o.S3, err = b.open(b.address, dir); err != nil {
			t.Fatal(err)
		}
	})
	s.fill("octo/app")
	s.wantFiles(1) // which bucket is its own
	if b.blobs() != 1 || len(b.uploads()) > 0 {
		t.Errorf("the bucket has %q and the uploads %+v", b.keys(), b.uploads())
	}
	s.pushBlob("octo/app", random(1<<20))
}

// The object store's own disk may be full, too.
func TestFullObjectStore(t *testing.T) {
	b := newBucket(t)
	if b.gateway == nil {
		t.Skip("only the gateway of the tests has so small a disk")
	}
	b.gateway.kill()
	smallDisk(t, b.gateway.dir)
	if err := os.Mkdir(filepath.Join(b.gateway.dir, "images"), 0o700); err != nil {
		t.Fatal(err)
	}
	b.gateway.restart()
	s := b.site("", quiet)
	small := s.pushBlob("octo/app", random(1000))
	for _, size := range []int{8 << 20, 20 << 20} { // at once, and in parts
		content := random(size)
		s.full(s.do("POST", "/v2/octo/app/blobs/uploads/?digest="+sum256(content), bytes.NewReader(content)))
		s.want(s.do("HEAD", "/v2/octo/app/blobs/"+sum256(content), nil), 404)
	}
	s.want(s.do("HEAD", "/v2/octo/app/blobs/"+small, nil), 200)
	s.wantFiles(1)
	s.pushBlob("octo/app", random(1<<20))
	if b.blobs() != 2 || len(b.uploads()) > 0 {
		t.Errorf("the bucket has %q and the uploads %+v", b.keys(), b.uploads())
	}
}

// Manifests and tags are in the database, whose disk may be full.
func TestFullDatabase(t *testing.T) {
	dir := t.TempDir()
	smallDisk(t, dir)
	db, err := sqlstore.Open(t.Context(), filepath.Join(dir, "slipway.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	s := newSite(t, quiet, func(o *registry.Options) { o.Store = db })
	s.store = db
	before := s.image("a", nil)
	s.want(s.putManifest("a", "v1", before), 201)
	after := s.image("a", object{"annotations": object{"long": strings.Repeat("x", 1<<20)}})
	s.want(s.putManifest("a", "v2", before), 201)

	// Something else takes the room.
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 8<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	s.full(s.putManifest("a", "v1", after))
	s.full(s.putManifest("a", sum256(after), after))
	if got := s.want(s.do("GET", "/v2/a/manifests/v1", nil), 200); !bytes.Equal(got.body, before) {
		t.Error("v1 has moved")
	}
	s.want(s.do("GET", "/v2/a/manifests/"+sum256(after), nil), 404, "MANIFEST_UNKNOWN")
	s.check(registry.CheckOptions{Verify: true})

	// It goes on when there is room again.
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	s.want(s.putManifest("a", "v1", after), 201)
	if got := s.want(s.do("GET", "/v2/a/manifests/v1", nil), 200); !bytes.Equal(got.body, after) {
		t.Error("v1 has not moved")
	}
}
