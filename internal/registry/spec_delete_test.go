package registry_test

import (
	"testing"
)

func testDeleteTag(t *testing.T, s *site) {
	m := s.image("a", nil)
	index := encode(object{"schemaVersion": 2, "mediaType": mediaIndex, "manifests": []object{descriptor(mediaImage, m)}})
	s.want(s.putManifest("a", "one", m), 201)
	s.want(s.putManifest("a", "two", m), 201)
	s.want(s.putIndex("a", "index", index), 201)
	for _, tag := range []string{"one", "index"} {
		s.want(s.do("DELETE", "/v2/a/manifests/"+tag, nil), 202)
		s.want(s.do("GET", "/v2/a/manifests/"+tag, nil), 404, "MANIFEST_UNKNOWN")
		s.want(s.do("HEAD", "/v2/a/manifests/"+tag, nil), 404)
		s.want(s.do("DELETE", "/v2/a/manifests/"+tag, nil), 404, "MANIFEST_UNKNOWN")
	}
	for _, ref := range []string{"two", sum256(m), sum256(index)} {
		s.want(s.do("GET", "/v2/a/manifests/"+ref, nil), 200)
	}
	s.want(s.do("DELETE", "/v2/never/manifests/one", nil), 404, "MANIFEST_UNKNOWN")
	s.want(s.putManifest("a", "one", m), 201)
}

func testDeleteManifest(t *testing.T, s *site) {
	for _, sum := range []func([]byte) string{sum256, sum512} {
		m := s.image("a", nil)
		index := encode(object{
			"schemaVersion": 2, "mediaType": mediaIndex,
			"manifests": []object{{"mediaType": mediaImage, "digest": sum(m), "size": len(m)}},
		})
		s.want(s.putManifest("a", sum(m)+"?tag=one&tag=two", m), 201)
		s.want(s.putIndex("a", "index", index), 201)
		s.want(s.do("DELETE", "/v2/a/manifests/"+sum(m), nil), 202)
		for _, ref := range []string{"one", "two", sum(m)} {
			s.want(s.do("GET", "/v2/a/manifests/"+ref, nil), 404, "MANIFEST_UNKNOWN")
			s.want(s.do("HEAD", "/v2/a/manifests/"+ref, nil), 404)
			s.want(s.do("DELETE", "/v2/a/manifests/"+ref, nil), 404, "MANIFEST_UNKNOWN")
		}
		s.want(s.do("GET", "/v2/a/manifests/index", nil), 200) // the index that it was in stays
		s.want(s.do("DELETE", "/v2/never/manifests/"+sum(m), nil), 404, "MANIFEST_UNKNOWN")
		s.want(s.putManifest("a", "one", m), 201) // its blobs are still there
	}
	for _, ref := range []string{"sha256:xyz", "md5:00", ".tag"} {
		s.want(s.do("DELETE", "/v2/a/manifests/"+ref, nil), 400, "DIGEST_INVALID")
	}
}

func testDeleteBlob(t *testing.T, s *site) {
	content := []byte("x")
	for _, digest := range []string{sum256(content), sum512(content)} {
		for _, name := range []string{"a", "b"} {
			s.push(name, digest, content)
		}
		s.want(s.do("DELETE", "/v2/a/blobs/"+digest, nil), 202)
		s.want(s.do("GET", "/v2/a/blobs/"+digest, nil), 404, "BLOB_UNKNOWN")
		s.want(s.do("HEAD", "/v2/a/blobs/"+digest, nil), 404)
		s.want(s.do("DELETE", "/v2/a/blobs/"+digest, nil), 404, "BLOB_UNKNOWN")
		s.want(s.do("GET", "/v2/b/blobs/"+digest, nil), 200) // another repository's
		s.push("a", digest, content)
	}
	s.want(s.do("DELETE", "/v2/a/blobs/sha256:xyz", nil), 404, "BLOB_UNKNOWN")
	s.want(s.do("DELETE", "/v2/never/blobs/"+sum256(content), nil), 404, "BLOB_UNKNOWN")
	// A manifest's digest is no blob's.
	m := s.image("a", nil)
	s.want(s.putManifest("a", "v1", m), 201)
	s.want(s.do("DELETE", "/v2/a/blobs/"+sum256(m), nil), 404, "BLOB_UNKNOWN")
}

// A manifest that was accepted stays pullable: its blobs are not deleted before it.
func testDeleteBlobInUse(t *testing.T, s *site) {
	one, two := s.image("a", nil), s.image("a", nil)
	s.want(s.putManifest("a", "one", one), 201)
	s.want(s.putManifest("a", sum256(two), two), 201) // without a tag
	config := "/v2/a/blobs/" + sum256([]byte(configText))
	for _, m := range [][]byte{one, two} {
		a := s.want(s.do("DELETE", config, nil), 405, "UNSUPPORTED")
		s.wantHeader(a, "Allow", "GET, HEAD")
		s.want(s.do("GET", config, nil), 200)
		s.want(s.do("DELETE", "/v2/a/manifests/"+sum256(m), nil), 202)
	}
	s.want(s.do("DELETE", config, nil), 202)
	s.want(s.do("GET", config, nil), 404, "BLOB_UNKNOWN")
}
