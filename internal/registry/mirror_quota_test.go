package registry_test

import (
	"testing"
	"time"

	"slipway/internal/registry"
)

// TestMirrorQuota forgets what was used longest ago, and nothing that was pushed.
func TestMirrorQuota(t *testing.T) {
	u := newUpstream(t)
	s, clock := newMirror(t, []string{u.host()}, func(o *registry.Options) { o.Mirror.Quota = 250_000 })
	kept := s.image(u.path()+"/own", nil)
	s.want(s.putManifest(u.path()+"/own", "1", kept), 201)
	pull := func(ref string) {
		t.Helper()
		if _, err := s.pull(u.path() + "/" + ref); err != nil {
			t.Fatal(err)
		}
		clock.forward(time.Hour / 2)
	}
	for _, ref := range []string{"a:1", "b:1", "c:1"} {
		u.push(t, ref, 100_000)
	}
	pull("a:1")
	pull("b:1")
	pull("a:1") // b is now the oldest
	pull("c:1")
	if _, err := s.handler.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]bool{"a": true, "b": false, "c": true, "own": true} {
		_, err := s.store.FindManifest(t.Context(), u.path()+"/"+ref, "1")
		if got := err == nil; got != want {
			t.Errorf("%s is there: %v, %v", ref, got, err)
		}
	}
	u.set(nil)
	pull("b:1")
	if u.count("GET /v2/b/blobs/") == 0 {
		t.Error("the blobs of b were kept")
	}
}

// TestMirrorTidy collects garbage beside a mirror, of which the quota is in charge.
func TestMirrorTidy(t *testing.T) {
	u := newUpstream(t)
	s, clock := newMirror(t, []string{u.host()}, func(o *registry.Options) { o.Grace, o.Mirror.Quota = time.Hour, 150_000 })
	path := u.path() + "/app"
	manifest, layer := u.push(t, "app:1", 100_000)
	u.push(t, "other:1", 100_000)

	// A blob by itself, and then a manifest without its configuration: neither is garbage, nor wrong.
	s.want(s.do("GET", "/v2/"+path+"/blobs/"+layer, nil), 200)
	clock.forward(2 * time.Hour)
	s.collect(registry.Collected{})
	s.want(s.do("GET", "/v2/"+path+"/manifests/1", nil), 200)
	s.check(registry.CheckOptions{Verify: true})
	if _, err := s.pull(path + ":1"); err != nil {
		t.Fatal(err)
	}
	clock.forward(2 * time.Hour)
	s.collect(registry.Collected{})
	s.wantFiles(2)

	// What was deleted comes again when somebody asks, and stays.
	s.want(s.do("DELETE", "/v2/"+path+"/manifests/"+manifest, nil), 202)
	u.set(nil)
	if got, err := s.pull(path + ":1"); err != nil || got != manifest {
		t.Fatal(got, err)
	}
	if u.count("GET /v2/app/manifests/") != 1 || u.count("GET /v2/app/blobs/") != 0 {
		t.Errorf("fetched %v", u.hits)
	}
	clock.forward(2 * time.Hour)
	s.collect(registry.Collected{})
	s.wantFiles(2)

	// What the quota forgot is freed.
	if _, err := s.pull(u.path() + "/other:1"); err != nil {
		t.Fatal(err)
	}
	got, err := s.handler.Collect(t.Context())
	if err != nil || got.Blobs == 0 || got.Strays != 0 {
		t.Fatal(got, err)
	}
	s.check(registry.CheckOptions{Verify: true})
	for _, ref := range []string{path + ":1", u.path() + "/other:1"} {
		if _, err := s.pull(ref); err != nil {
			t.Error(err)
		}
	}
}

// TestMirrorFull fetches no more when what is in use is twice the quota.
func TestMirrorFull(t *testing.T) {
	u := newUpstream(t)
	s, clock := newMirror(t, []string{u.host()}, func(o *registry.Options) { o.Mirror.Quota = 150_000 })
	blobs := map[string]string{}
	for _, ref := range []string{"a:1", "b:1", "c:1"} {
		_, blobs[ref] = u.push(t, ref, 100_000)
	}
	_, large := u.push(t, "large:1", 200_000)
	get := func(name, blob string, status int) {
		t.Helper()
		s.want(s.do("GET", "/v2/"+u.path()+"/"+name+"/blobs/"+blob, nil), status)
	}
	get("a", blobs["a:1"], 200)
	get("b", blobs["b:1"], 200)
	get("c", blobs["c:1"], 507)
	get("a", blobs["a:1"], 200)
	get("large", large, 507)
	clock.forward(11 * time.Minute)
	get("c", blobs["c:1"], 200)
}
