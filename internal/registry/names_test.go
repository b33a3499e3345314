package registry

import (
	"path/filepath"
	"strings"
	"testing"
)

// FuzzRoute reads paths: what comes out is part of what went in, and a valid name stays in its folder.
func FuzzRoute(f *testing.F) {
	for _, seed := range []string{
		"/v2/a/b/blobs/sha256:00", "/v2/a/blobs/uploads/", "/v2/a/blobs/uploads", "/v2/a/blobs/uploads/1-2", "/v2/_catalog",
		"/v2/a/tags/list", "/v2/a/manifests/v1", "/v2//manifests/", "/v2/../blobs/x", "/v2/a/referrers/sha256:1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		r, ok := parseRoute(path)
		if !ok {
			return
		}
		if !strings.Contains(path, r.name) || !strings.HasSuffix(path, r.ref) || endpoints[r.kind] == nil {
			t.Errorf("%q: %+v", path, r)
		}
		if validName(r.name) && (!filepath.IsLocal(r.name) || filepath.Clean(r.name) != r.name || len(r.name) > maxName) {
			t.Errorf("%q is taken for a valid name", r.name)
		}
		if validTag(r.ref) && !filepath.IsLocal(r.ref) || validUpload(r.ref) && !filepath.IsLocal(r.ref) {
			t.Errorf("%q is taken for a valid reference", r.ref)
		}
	})
}

// FuzzDigest reads digests: a valid one is canonical, and its file is where it belongs.
func FuzzDigest(f *testing.F) {
	f.Add("sha256:" + strings.Repeat("0", 64))
	f.Add("sha512:" + strings.Repeat("f", 128))
	f.Add("sha256:../../etc/passwd")
	f.Add("md5:00")
	f.Add("multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8")
	k := &disk{"/data"}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := parseDigest(s)
		if err != nil {
			if d != (digest{}) {
				t.Errorf("%q: an error and %v", s, d)
			}
			if checkSubject(s) == nil && (len(s) > 512 || strings.ContainsAny(s, "/\\ \x00") || strings.HasPrefix(s, "sha256:")) {
				t.Errorf("%q is taken for a subject", s)
			}
			return
		}
		if err := checkSubject(s); err != nil {
			t.Errorf("%q is no subject: %v", s, err)
		}
		if d.String() != s || !filepath.IsLocal(d.hex) {
			t.Errorf("%q was read as %v", s, d)
		}
		if path := k.blobPath(d); filepath.Dir(filepath.Dir(filepath.Dir(path))) != "/data/blobs" {
			t.Errorf("%q is kept in %s", s, path)
		}
		if validTag(s) {
			t.Errorf("%q is a tag as well", s)
		}
	})
}

// FuzzContentRange reads the ranges of chunks.
func FuzzContentRange(f *testing.F) {
	for _, seed := range []string{"0-0", "5-9", "9-5", "-", "0-9223372036854775807", "0-9223372036854775808", "1_0-2_0", "+1-2"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		first, last, err := parseContentRange(s)
		if err == nil && (first < 0 || last-first+1 < 1 || strings.Trim(s, "0123456789-") != "") {
			t.Errorf("%q: %d to %d", s, first, last)
		}
	})
}

// TestManifestKeys refuses what one client would read in another way than the registry, and nothing else.
func TestManifestKeys(t *testing.T) {
	zeros, ones := strings.Repeat("0", 64), strings.Repeat("1", 64)
	d, e := `{"digest":"sha256:`+zeros+`","size":2}`, `{"digest":"sha256:`+ones+`","size":2}`
	image := func(rest string) string {
		return `{"schemaVersion":2,"mediaType":"` + mediaImage + `","config":` + d + rest + `}`
	}
	for text, want := range map[string]string{
		image(`,"layers":[` + d + `],"layers":[` + e + `]`):                                  `the key "layers" twice`,
		image(`,"layers":[` + d + `],"Layers":[` + e + `]`):                                  `the key "Layers", which some readers take for layers`,
		image(`,"layer\u017f":[` + e + `]`):                                                  `take for layers`,
		image(`,"layers":[{"digest":"sha256:` + zeros + `","size":2,"size":3}]`):             `the key "size" twice`,
		image(`,"layers":[{"digest":"sha256:` + zeros + `","size":2,"Digest":"x"}]`):         `"Digest"`,
		image(`,"subject":{"digest":"sha256:` + zeros + `","size":2,"SIZE":3}`):              `"SIZE"`,
		image(`,"annotations":{"a":"b","a":"c"}`):                                            `the key "a" twice`,
		image(`,"unknown":[{"x":{"":1,"":2}}]`):                                              `the key "" twice`,
		image(`,"annotations":{"Size":"b","size":"c","digest":"d"},"Unknown":{"A":1,"a":2}`): "",
		image(`,"layers":[` + d + `,` + d + `],"unknown":[[],{},[{"config":1,"Config":2}]]`): "",
	} {
		_, err := parseManifest("", []byte(text))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	deep := image(`,"x":` + strings.Repeat("[", 1<<20) + strings.Repeat("]", 1<<20))
	if _, err := parseManifest("", []byte(deep)); err == nil {
		t.Error("a manifest that is a million deep was taken")
	}
}

// FuzzManifest reads manifests: an accepted one has a known type, and references that are digests, each once.
func FuzzManifest(f *testing.F) {
	d := "sha256:" + strings.Repeat("0", 64)
	f.Add("", []byte(`{"schemaVersion":2,"mediaType":"`+mediaImage+`","config":{"digest":"`+d+`","size":2},"layers":[]}`))
	f.Add(mediaIndex, []byte(`{"schemaVersion":2,"manifests":[{"digest":"`+d+`","size":2}],"subject":{"digest":"`+d+`"},"annotations":{"a":"b"}}`))
	f.Add(mediaDocker, []byte(`{"schemaVersion":2,"config":{"digest":"x"}}`))
	f.Fuzz(func(t *testing.T, contentType string, content []byte) {
		m, err := parseManifest(contentType, content)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, r := range m.References {
			if _, err := parseDigest(r.Digest); err != nil || r.Size < 0 {
				t.Errorf("reference %+v", r)
			}
			if m.MediaType == mediaIndex && seen[r.Digest] {
				t.Errorf("%s twice", r.Digest)
			}
			seen[r.Digest] = true
		}
		if m.MediaType == "" || m.Size != int64(len(content)) || strings.ContainsRune(m.ArtifactType, 0) {
			t.Errorf("%+v", m)
		}
	})
}

// FuzzScopes cuts scopes: what comes out is allowed.
func FuzzScopes(f *testing.F) {
	f.Add("repository:octo/app:pull,push repository:x:*")
	f.Add("registry:catalog:*")
	f.Fuzz(func(t *testing.T, scope string) {
		g := tokenGrants{access: []access{{Type: "repository", Name: "octo/app", Actions: []Action{Pull}}}}
		for _, a := range cutScopes(g, []string{scope}) {
			if a.Type != "repository" || a.Name != "octo/app" || len(a.Actions) != 1 || a.Actions[0] != Pull {
				t.Errorf("%q gives %+v", scope, a)
			}
		}
	})
}
