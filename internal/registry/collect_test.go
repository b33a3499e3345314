package registry_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"slipway/internal/registry"
	"slipway/internal/store"
)

// clock is a time that tests set forward.
type clock struct{ offset atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.offset.Load())) }
func (c *clock) forward(d time.Duration) { c.offset.Add(int64(d)) }

// newTidySite is a site whose grace period is an hour of the returned clock.
func newTidySite(t *testing.T) (*site, *clock) {
	c := &clock{}
	return newSite(t, func(o *registry.Options) { o.Now, o.Grace = c.now, time.Hour }), c
}

func (s *site) collect(want registry.Collected) {
	s.t.Helper()
	got, err := s.handler.Collect(s.t.Context())
	if err != nil || got != want {
		s.t.Fatalf("collected %+v, %v; want %+v", got, err, want)
	}
}

func (s *site) check(o registry.CheckOptions, want ...registry.ProblemKind) []registry.Problem {
	s.t.Helper()
	found, err := s.handler.Check(s.t.Context(), o)
	if err != nil || len(found) != len(want) {
		s.t.Fatalf("found %+v, %v; want %v", found, err, want)
	}
	for i, p := range found {
		if p.Kind != want[i] {
			s.t.Fatalf("found %+v, want %v", found, want)
		}
	}
	return found
}

func (s *site) file(digest string) string {
	algorithm, digits, _ := strings.Cut(digest, ":")
	return filepath.Join(s.dir, "blobs", algorithm, digits[:2], digits)
}

func TestCollect(t *testing.T) {
	s, c := newTidySite(t)
	lonely := s.pushBlob("octo/app", random(1000))
	m := s.image("octo/app", nil)
	s.want(s.putManifest("octo/app", "v1", m), 201)
	s.collect(registry.Collected{})
	s.wantFiles(3)

	// A question of who may push renews the lease, one of who may not does not.
	c.forward(40 * time.Minute)
	s.want(s.do("HEAD", "/v2/octo/app/blobs/"+lonely, nil), 200)
	c.forward(40 * time.Minute)
	s.collect(registry.Collected{})
	reader := "Authorization: Basic cmVhZGVyOnJlYWRlci1wYXNzd29yZA=="
	s.want(s.do("HEAD", "/v2/octo/app/blobs/"+lonely, nil, reader), 200)
	c.forward(40 * time.Minute)
	s.collect(registry.Collected{Links: 1, Blobs: 1, Bytes: 1000})
	s.want(s.do("GET", "/v2/octo/app/blobs/"+lonely, nil), 404)
	s.wantFiles(2)
	s.check(registry.CheckOptions{Verify: true})

	// What was deleted goes an hour later, but not what another image needs.
	s.want(s.putManifest("octo/app", "v2", s.image("octo/app", nil)), 201)
	s.want(s.do("DELETE", "/v2/octo/app/manifests/"+sum256(m), nil), 202)
	s.want(s.do("GET", "/v2/octo/app/manifests/v1", nil), 404)
	c.forward(59 * time.Minute)
	s.collect(registry.Collected{})
	c.forward(2 * time.Minute)
	s.collect(registry.Collected{Manifests: 1, Links: 1, Blobs: 1, Bytes: 64})
	s.wantFiles(2)
	s.check(registry.CheckOptions{Verify: true})
}

// TestCollectMount takes a blob from one repository while another has it.
func TestCollectMount(t *testing.T) {
	s, c := newTidySite(t)
	blob := s.pushBlob("octo/app", []byte("shared"))
	c.forward(2 * time.Hour)
	s.want(s.do("POST", "/v2/octo/other/blobs/uploads/?mount="+blob+"&from=octo/app", nil), 201)
	s.collect(registry.Collected{Links: 1})
	s.want(s.do("GET", "/v2/octo/app/blobs/"+blob, nil), 404)
	s.want(s.do("GET", "/v2/octo/other/blobs/"+blob, nil), 200)
	c.forward(2 * time.Hour)
	s.collect(registry.Collected{Links: 1, Blobs: 1, Bytes: 6})
	s.wantFiles(0)
}

// ambiguous is a store that does what it is asked to, and whose answer may get lost.
type ambiguous struct {
	store.Registry
	lost bool
}

func (a *ambiguous) ForgetBlob(ctx context.Context, digest string, then time.Time) error {
	err := a.Registry.ForgetBlob(ctx, digest, then)
	if a.lost {
		return errors.New("the connection broke")
	}
	return err
}

// TestCollectAmbiguous frees the file of a blob whose row went though the database did not say so.
func TestCollectAmbiguous(t *testing.T) {
	c := &clock{}
	var rows *ambiguous
	s := newSite(t, func(o *registry.Options) {
		rows = &ambiguous{Registry: o.Store}
		o.Now, o.Grace, o.Store = c.now, time.Hour, rows
	})
	s.collect(registry.Collected{})
	s.pushBlob("octo/app", []byte("nobody needs it"))
	c.forward(2 * time.Hour)
	rows.lost = true
	if _, err := s.handler.Collect(t.Context()); err == nil {
		t.Fatal("a lost answer is no error")
	}
	rows.lost = false
	s.collect(registry.Collected{})
	s.wantFiles(0)
}

// TestCollectStrays finds what a killed process leaves: at the start, and only once it is old.
func TestCollectStrays(t *testing.T) {
	s, c := newTidySite(t)
	content := []byte("left by a crash")
	path := s.file(sum256(content))
	leave := func() {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	leave()
	other := filepath.Join(s.dir, "blobs", "README")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.collect(registry.Collected{})
	c.forward(2 * time.Hour)
	s.collect(registry.Collected{Blobs: 1, Strays: 1, Bytes: int64(len(content))})
	leave()
	s.collect(registry.Collected{}) // not at a start
	found := s.check(registry.CheckOptions{}, registry.StrayFile)
	if found[0].Repaired || found[0].Digest != sum256(content) {
		t.Fatalf("found %+v", found)
	}
	if found := s.check(registry.CheckOptions{Repair: true}, registry.StrayFile); !found[0].Repaired {
		t.Fatalf("found %+v", found)
	}
	s.check(registry.CheckOptions{})
	if _, err := os.Stat(other); err != nil {
		t.Fatal("a file that is no blob was touched:", err)
	}
}

func TestCheckBlobs(t *testing.T) {
	s, _ := newTidySite(t)
	content := random(64)
	lonely := s.pushBlob("octo/app", content)
	s.pushBlob("octo/other", content)
	m := s.image("octo/app", nil)
	layer := s.pushBlob("octo/app", []byte("a layer"))
	m2 := encode(object{
		"schemaVersion": 2, "mediaType": mediaImage, "config": descriptor("application/vnd.oci.image.config.v1+json", []byte("a layer")),
		"layers": []object{},
	})
	s.want(s.putManifest("octo/app", "v1", m), 201)
	s.want(s.putManifest("octo/app", "v2", m2), 201)
	s.check(registry.CheckOptions{Verify: true, Repair: true})

	// A file that nobody needs is gone, one that v2 needs has lost a bit.
	if err := os.Remove(s.file(lonely)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.file(layer), []byte("a mayer"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.check(registry.CheckOptions{}, registry.LostBlob) // the size is right
	for _, p := range s.check(registry.CheckOptions{Verify: true, Repair: true}, kindsByDigest(lonely, layer)...) {
		if p.Repaired != (p.Digest == lonely) {
			t.Errorf("found %+v", p)
		}
	}
	if found := s.check(registry.CheckOptions{Repair: true}, registry.LostBlob); found[0].Digest != layer || found[0].Repaired {
		t.Fatalf("found %+v", found)
	}
	// Nothing can be pushed that relies on it, but itself; which repairs it.
	s.want(s.putManifest("octo/app", "v3", append(m2, '\n')), 400, "MANIFEST_BLOB_UNKNOWN")
	s.pushBlob("octo/app", []byte("a layer"))
	s.want(s.putManifest("octo/app", "v3", append(m2, '\n')), 201)
	s.check(registry.CheckOptions{Verify: true})
}

// kindsByDigest returns the kinds in the order in which they are found.
func kindsByDigest(lost, damaged string) []registry.ProblemKind {
	if lost < damaged {
		return []registry.ProblemKind{registry.LostBlob, registry.DamagedBlob}
	}
	return []registry.ProblemKind{registry.DamagedBlob, registry.LostBlob}
}

// TestCheckManifests damages the database.
func TestCheckManifests(t *testing.T) {
	s, _ := newTidySite(t)
	m := s.image("octo/app", nil)
	s.want(s.putManifest("octo/app", "v1", m), 201)
	s.exec(`DELETE FROM registry_links`)
	for _, p := range s.check(registry.CheckOptions{Repair: true}, registry.Unlinked, registry.Unlinked) {
		if !p.Repaired {
			t.Errorf("found %+v", p)
		}
	}
	s.check(registry.CheckOptions{})
	s.exec(`UPDATE registry_manifests SET content = 'x'`)
	s.check(registry.CheckOptions{Repair: true}, registry.DamagedManifest)
	s.want(s.do("DELETE", "/v2/octo/app/manifests/"+sum256(m), nil), 202)
	s.want(s.do("PUT", "/v2/octo/app/manifests/v1", bytes.NewReader(m), "Content-Type: "+mediaImage), 201)
	s.check(registry.CheckOptions{})
}
