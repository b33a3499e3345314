package registry_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"slipway/internal/registry"
)

func testVersion(t *testing.T, s *site) {
	a := s.want(s.do("GET", "/v2/", nil), 200)
	s.wantHeader(a, "Docker-Distribution-API-Version", "registry/2.0")
	s.want(s.do("HEAD", "/v2/", nil), 200)
	s.want(s.do("GET", "/v2/", nil, "Authorization: "), 401, "UNAUTHORIZED")
}

func testNames(t *testing.T, s *site) {
	for _, name := range []string{
		"a", "a/b", "a/b/c/d/e/f", "a.b_c__d---e/0", "blobs/uploads/manifests", "tags/list", "a/blobs", "a/manifests/b", "token",
		strings.Repeat("a", 229),
	} {
		digest := s.pushBlob(name, []byte(name))
		a := s.want(s.do("GET", "/v2/"+name+"/blobs/"+digest, nil), 200)
		if string(a.body) != name {
			t.Errorf("%s: got %q", name, a.body)
		}
		s.want(s.putManifest(name, "v1", s.image(name, nil)), 201)
		s.want(s.do("GET", "/v2/"+name+"/tags/list", nil), 200)
	}
	for _, name := range []string{
		"A", "a/B", "a..b", "a___b", "-a", "a-", "a//b", "a/", "/a", "a/../b", "..", ".", "a/./b", "a b", "ä", "a%00b", "a%2f..%2fb",
		"a/%2e%2e/b", `a\b`, "_uploads", strings.Repeat("a", 230), "a:b", "a@b", "a%0ab",
	} {
		s.want(s.do("POST", "/v2/"+strings.ReplaceAll(name, " ", "%20")+"/blobs/uploads/", nil), 400, "NAME_INVALID")
	}
}

func testReferences(t *testing.T, s *site) {
	m := s.image("a", nil)
	for _, tag := range []string{"v1", "_", "A.b-c_D", "0", "latest.", strings.Repeat("t", 128)} {
		s.want(s.putManifest("a", tag, m), 201)
		s.want(s.do("GET", "/v2/a/manifests/"+tag, nil), 200)
	}
	for _, ref := range []string{".a", "-a", "a+b", "a%20b", strings.Repeat("t", 129), "sha256:", "sha256:abc", "md5:" + strings.Repeat("0", 32), strings.ToUpper(sum256(m)), "%2e%2e"} {
		s.want(s.putManifest("a", ref, m), 400, "MANIFEST_INVALID")
		s.want(s.do("GET", "/v2/a/manifests/"+ref, nil), 404, "MANIFEST_UNKNOWN")
	}
}

func testGetBlobRange(t *testing.T, s *site) {
	content := random(10_000)
	path := "/v2/a/blobs/" + s.pushBlob("a", content)
	s.wantHeader(s.want(s.do("HEAD", path, nil), 200), "Accept-Ranges", "bytes")
	for header, want := range map[string][]byte{
		"0-0": content[:1], "0-99": content[:100], "100-199": content[100:200], "9000-": content[9000:], "-10": content[9990:], "9990-20000": content[9990:],
	} {
		a := s.want(s.do("GET", path, nil, "Range: bytes="+header), 206)
		if !bytes.Equal(a.body, want) {
			t.Errorf("range %s: %d other bytes", header, len(a.body))
		}
	}
	a := s.want(s.do("GET", path, nil, "Range: bytes=10000-"), 416, "SIZE_INVALID")
	s.wantHeader(a, "Content-Range", "bytes */10000")
	s.want(s.do("GET", path, nil, "Range: bytes=0-9", `If-Range: "another"`), 200)
}

func testEndpoints(t *testing.T, s *site) {
	for _, path := range []string{"/v2/x", "/v2/a/nothing/b", "/v2/a/tags/other", "/v2/a/uploads/b", "/v1/", "/", "/v2/a/blobs/"} {
		if a := s.do("GET", path, nil); a.StatusCode != 404 && a.StatusCode != 400 || a.code() == "" {
			t.Errorf("%s: %d %s", path, a.StatusCode, a.body)
		}
	}
	for _, test := range []struct{ method, path, allow string }{
		{"POST", "/v2/a/manifests/v1", "DELETE, GET, HEAD, PUT"},
		{"PUT", "/v2/a/blobs/" + sum256(nil), "DELETE, GET, HEAD"},
		{"GET", "/v2/a/blobs/uploads/", "POST"},
		{"DELETE", "/v2/a/tags/list", "GET, HEAD"},
		{"POST", "/v2/a/referrers/" + sum256(nil), "GET, HEAD"},
		{"BREW", "/v2/_catalog", "GET, HEAD"},
		{"POST", "/v2/", "GET, HEAD"},
	} {
		a := s.want(s.do(test.method, test.path, nil), 405, "UNSUPPORTED")
		s.wantHeader(a, "Allow", test.allow)
	}
}

// A manifest is what was pushed, whatever the client says that it takes.
func testGetManifest(t *testing.T, s *site) {
	m := s.image("a", nil)
	index := encode(object{"schemaVersion": 2, "mediaType": mediaIndex, "manifests": []object{descriptor(mediaImage, m)}})
	s.want(s.putManifest("a", "v1", m), 201)
	s.want(s.putManifest("a", sum512(m), m), 201)
	s.want(s.putIndex("a", "index", index), 201)
	for ref, want := range map[string]struct {
		content           []byte
		mediaType, digest string
	}{
		"v1": {m, mediaImage, sum256(m)}, sum256(m): {m, mediaImage, sum256(m)}, sum512(m): {m, mediaImage, sum512(m)},
		"index": {index, mediaIndex, sum256(index)}, sum256(index): {index, mediaIndex, sum256(index)},
	} {
		for _, accept := range [][]string{
			nil,
			{"Accept: */*"},
			{"Accept: " + mediaImage + ", " + mediaIndex},
			{"Accept: " + mediaIndex, "Accept: " + strings.ToUpper(mediaImage) + ";q=0.5"},
			{"Accept: application/vnd.docker.distribution.manifest.v1+json"},
			{"Accept: ;;;"},
		} {
			a := s.want(s.do("GET", "/v2/a/manifests/"+ref+"?ignored=1", nil, accept...), 200)
			if !bytes.Equal(a.body, want.content) {
				t.Errorf("%s: another manifest", ref)
			}
			s.wantHeader(a, "Content-Type", want.mediaType)
			s.wantHeader(a, "Docker-Content-Digest", want.digest)
			s.wantHeader(a, "Content-Length", fmt.Sprint(len(want.content)))
			s.want(s.do("GET", "/v2/a/manifests/"+ref, nil, "If-None-Match: "+a.Header.Get("ETag")), 304)
		}
	}
}

func testGetManifestUnknown(t *testing.T, s *site) {
	m := s.image("a", nil)
	s.want(s.putManifest("a", "v1", m), 201)
	for _, path := range []string{
		"a/manifests/v2", "a/manifests/" + sum256([]byte("other")), "a/manifests/" + sum512([]byte("other")),
		"a/manifests/" + sum512(m), // pushed by another digest
		"b/manifests/" + sum256(m), // in another repository
		"never/manifests/v1",
		"a/manifests/" + sum256([]byte(configText)), // a blob
	} {
		s.want(s.do("GET", "/v2/"+path, nil), 404, "MANIFEST_UNKNOWN")
	}
}

func testGetBlob(t *testing.T, s *site) {
	for _, content := range [][]byte{{}, []byte("x"), random(100_000), random(3 << 20)} {
		for _, digest := range []string{s.pushBlob("a", content), sum512(content)} {
			s.want(s.do("POST", "/v2/a/blobs/uploads/?digest="+digest, bytes.NewReader(content)), 201)
			a := s.want(s.do("GET", "/v2/a/blobs/"+digest, nil, "Accept: application/json"), 200)
			if !bytes.Equal(a.body, content) {
				t.Errorf("a blob of %d bytes came back as another", len(content))
			}
			s.wantHeader(a, "Docker-Content-Digest", digest)
			s.wantHeader(a, "Content-Type", "application/octet-stream")
			s.wantHeader(a, "Content-Length", fmt.Sprint(len(content)))
		}
	}
}

func testGetBlobUnknown(t *testing.T, s *site) {
	digest := s.pushBlob("a", []byte("x"))
	m := s.image("a", nil)
	s.want(s.putManifest("a", "v1", m), 201)
	for _, path := range []string{
		"a/blobs/" + sum256([]byte("y")), "a/blobs/" + sum512([]byte("y")),
		"a/blobs/" + sum512([]byte("x")), // stored by another digest
		"b/blobs/" + digest,              // stored, but not in this repository
		"a/blobs/" + sum256(m),           // a manifest
		"a/blobs/sha256:..%2f..%2fpasswd", "a/blobs/sha256:xyz", "a/blobs/md5:" + strings.Repeat("0", 32), "a/blobs/v1",
	} {
		a := s.do("GET", "/v2/"+path, nil)
		if strings.Contains(path, "%2f") { // another path
			s.want(a, 404)
			continue
		}
		s.want(a, 404, "BLOB_UNKNOWN")
	}
}

func testHead(t *testing.T, s *site) {
	m := s.image("a", nil)
	index := encode(object{"schemaVersion": 2, "mediaType": mediaIndex, "manifests": []object{descriptor(mediaImage, m)}})
	s.want(s.putManifest("a", "v1", m), 201)
	s.want(s.putManifest("a", sum512(m), m), 201)
	s.want(s.putIndex("a", "index", index), 201)
	blob := random(1234)
	digest := s.pushBlob("a", blob)
	s.want(s.do("POST", "/v2/a/blobs/uploads/?digest="+sum512(blob), bytes.NewReader(blob)), 201)
	s.pushBlob("a", nil)
	for path, want := range map[string]struct {
		digest, mediaType string
		size              int
	}{
		"manifests/v1":              {sum256(m), mediaImage, len(m)},
		"manifests/" + sum256(m):    {sum256(m), mediaImage, len(m)},
		"manifests/" + sum512(m):    {sum512(m), mediaImage, len(m)},
		"manifests/index":           {sum256(index), mediaIndex, len(index)},
		"blobs/" + digest:           {digest, "application/octet-stream", 1234},
		"blobs/" + sum512(blob):     {sum512(blob), "application/octet-stream", 1234},
		"blobs/" + sum256([]byte{}): {sum256(nil), "application/octet-stream", 0},
	} {
		a := s.want(s.do("HEAD", "/v2/a/"+path, nil), 200)
		s.wantHeader(a, "Docker-Content-Digest", want.digest)
		s.wantHeader(a, "Content-Type", want.mediaType)
		s.wantHeader(a, "Content-Length", fmt.Sprint(want.size))
	}
}

func testHeadUnknown(t *testing.T, s *site) {
	s.want(s.putManifest("a", "v1", s.image("a", nil)), 201)
	content := []byte("not closed yet")
	location := s.start("a")
	s.want(s.do("PATCH", location, bytes.NewReader(content)), 202)
	for _, path := range []string{
		"a/manifests/v2", "a/manifests/" + sum256(nil), "a/manifests/" + sum512(nil), "never/manifests/v1",
		"a/blobs/" + sum256(content), "a/blobs/" + sum512(content), "a/blobs/sha256:xyz", "never/blobs/" + sum256(nil),
	} {
		s.want(s.do("HEAD", "/v2/"+path, nil), 404)
	}
	s.want(s.do("PUT", location+"?digest="+sum256(content), nil), 201)
	s.want(s.do("HEAD", "/v2/a/blobs/"+sum256(content), nil), 200)
}

func testPullNowhere(t *testing.T, s *site) {
	for name, codes := range map[string][3]string{
		"never":                  {"MANIFEST_UNKNOWN", "BLOB_UNKNOWN", "NAME_UNKNOWN"},
		"a/never":                {"MANIFEST_UNKNOWN", "BLOB_UNKNOWN", "NAME_UNKNOWN"},
		"Not/Name":               {"NAME_INVALID", "NAME_INVALID", "NAME_INVALID"},
		strings.Repeat("a", 300): {"NAME_INVALID", "NAME_INVALID", "NAME_INVALID"},
	} {
		s.want(s.do("GET", "/v2/"+name+"/manifests/v1", nil), 404, codes[0])
		s.want(s.do("HEAD", "/v2/"+name+"/manifests/v1", nil), 404)
		s.want(s.do("GET", "/v2/"+name+"/manifests/"+sum256(nil), nil), 404, codes[0])
		s.want(s.do("GET", "/v2/"+name+"/blobs/"+sum256(nil), nil), 404, codes[1])
		s.want(s.do("HEAD", "/v2/"+name+"/blobs/"+sum256(nil), nil), 404)
		s.want(s.do("GET", "/v2/"+name+"/tags/list", nil), 404, codes[2])
		s.want(s.do("GET", "/v2/"+name+"/tags/list?n=1&last=a", nil), 404, codes[2])
	}
}

// Errors have codes for who may not, and for who comes too often.
func testErrors(t *testing.T, s *site) {
	s.want(s.putManifest("octo/app", "v1", s.image("octo/app", nil)), 201)
	s.want(s.do("GET", "/v2/octo/app/manifests/v1", nil, "Authorization: "), 401, "UNAUTHORIZED")
	s.want(s.do("GET", "/v2/octo/app/manifests/v1", nil, "Authorization: Bearer wrong"), 401, "UNAUTHORIZED")
	reader := "Authorization: Bearer reader-password"
	s.want(s.do("GET", "/v2/octo/app/manifests/v1", nil, reader), 200)
	s.want(s.do("POST", "/v2/octo/app/blobs/uploads/", nil, reader), 403, "DENIED")
	s.want(s.do("DELETE", "/v2/octo/app/manifests/v1", nil, reader), 403, "DENIED")

	busy := newSite(t, func(o *registry.Options) { o.StallTime = 6 * time.Second })
	busy.hear = s.hear
	location := busy.start("a")
	for {
		body, write := io.Pipe()
		first := make(chan struct{})
		go func() {
			defer close(first)
			busy.do("PATCH", location, body)
		}()
		write.Write([]byte("x"))
		second := busy.do("PATCH", location, strings.NewReader("y"), "Content-Range: 1000000-1000000")
		write.Close()
		<-first
		if second.StatusCode == 429 {
			busy.want(second, 429, "TOOMANYREQUESTS")
			break
		}
		busy.want(second, 416, "BLOB_UPLOAD_INVALID") // it came before the first, or long after
	}
}

// A registry that clients take for a mirror says which one it stood for.
func testNamespace(t *testing.T, s *site) {
	m := s.image("mirror/docker.io/library/busybox", nil)
	s.want(s.putManifest("mirror/docker.io/library/busybox", "1", m), 201)
	for _, method := range []string{"GET", "HEAD"} {
		s.wantHeader(s.want(s.do(method, "/v2/library/busybox/manifests/1?ns=docker.io", nil), 200), "OCI-Namespace", "docker.io")
		s.wantHeader(s.want(s.do(method, "/v2/mirror/docker.io/library/busybox/manifests/1", nil), 200), "OCI-Namespace", "")
	}
}

// A client follows the challenge to the token endpoint, and comes back with what it gets there.
func testToken(t *testing.T, s *site) {
	a := s.want(s.do("POST", "/v2/octo/app/blobs/uploads/", nil, "Authorization: "), 401, "UNAUTHORIZED")
	s.wantHeader(a, "WWW-Authenticate", `Bearer realm="`+s.URL+`/v2/token",service="slipway",scope="repository:octo/app:pull,push"`)
	token := s.token("octo", "repository:octo/app:pull,push", "repository:other/app:pull,push") // more than octo may have
	if got := allowed(t, token); !slices.Equal(got, []string{"repository:octo/app:pull,push"}) {
		t.Errorf("the token is for %q", got)
	}
	s.want(s.do("POST", "/v2/octo/app/blobs/uploads/", nil, "Authorization: Bearer "+token), 202)
	s.want(s.do("GET", "/v2/token?service=slipway&scope=repository:octo/app:pull", nil, "Authorization: Basic bm9ib2R5Om5vdGhpbmc="), 401, "UNAUTHORIZED")
}

// testLifeCycle does all that there is with one repository, and takes it down in either order.
func testLifeCycle(t *testing.T, s *site) {
	for _, blobsFirst := range []bool{false, true} {
		name := fmt.Sprintf("life/cycle-%v", blobsFirst)
		m := s.image(name, nil)
		var body struct{ Config, Layers any }
		if err := json.Unmarshal(m, &body); err != nil {
			t.Fatal(err)
		}
		blobs := []string{body.Config.(object)["digest"].(string), body.Layers.([]any)[0].(object)["digest"].(string)}
		about := s.image(name, object{"subject": descriptor(mediaImage, m), "artifactType": "application/sbom"})
		index := encode(object{"schemaVersion": 2, "mediaType": mediaIndex, "manifests": []object{descriptor(mediaImage, m)}})
		s.want(s.putManifest(name, sum256(m), m), 201)
		s.want(s.putManifest(name, "image", m), 201)
		s.want(s.putManifest(name, sum256(about), about), 201)
		s.want(s.putIndex(name, "index", index), 201)

		manifests := []string{sum256(m), sum256(about), sum256(index)} // an image goes before the index that it is in
		for _, ref := range append([]string{"image", "index"}, manifests...) {
			s.want(s.do("HEAD", "/v2/"+name+"/manifests/"+ref, nil), 200)
			s.want(s.do("GET", "/v2/"+name+"/manifests/"+ref, nil), 200)
		}
		for _, digest := range blobs {
			s.want(s.do("HEAD", "/v2/"+name+"/blobs/"+digest, nil), 200)
			s.want(s.do("GET", "/v2/"+name+"/blobs/"+digest, nil), 200)
		}
		if tags, _ := s.tags("/v2/" + name + "/tags/list"); !slices.Equal(tags, []string{"image", "index"}) {
			t.Errorf("tags %q", tags)
		}
		if list, _ := s.referrers("/v2/" + name + "/referrers/" + sum256(m)); len(list) != 1 || list[0]["digest"] != sum256(about) {
			t.Errorf("referrers %v", list)
		}

		if blobsFirst {
			for _, digest := range blobs {
				s.want(s.do("DELETE", "/v2/"+name+"/blobs/"+digest, nil), 405, "UNSUPPORTED")
				s.want(s.do("GET", "/v2/"+name+"/blobs/"+digest, nil), 200)
			}
		}
		s.want(s.do("DELETE", "/v2/"+name+"/manifests/image", nil), 202)
		s.want(s.do("GET", "/v2/"+name+"/manifests/image", nil), 404)
		for _, digest := range manifests {
			s.want(s.do("DELETE", "/v2/"+name+"/manifests/"+digest, nil), 202)
			s.want(s.do("GET", "/v2/"+name+"/manifests/"+digest, nil), 404)
		}
		s.want(s.do("GET", "/v2/"+name+"/manifests/index", nil), 404)
		for _, digest := range blobs {
			s.want(s.do("DELETE", "/v2/"+name+"/blobs/"+digest, nil), 202)
			s.want(s.do("GET", "/v2/"+name+"/blobs/"+digest, nil), 404)
		}
		if tags, _ := s.tags("/v2/" + name + "/tags/list"); len(tags) != 0 {
			t.Errorf("tags %q", tags)
		}
	}
}
