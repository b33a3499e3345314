package registry_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

func testManifestMissing(t *testing.T, s *site) {
	s.image("a", nil)
	gone := descriptor(mediaLayer, []byte("never pushed"))
	s.want(s.putManifest("a", "v1", s.image("a", object{"layers": []object{gone}})), 400, "MANIFEST_BLOB_UNKNOWN")
	s.want(s.putManifest("a", "v1", s.image("a", object{"config": gone})), 400, "MANIFEST_BLOB_UNKNOWN")
	// What another repository has does not count.
	s.want(s.putManifest("b", "v1", s.image("a", nil)), 400, "MANIFEST_BLOB_UNKNOWN")
	// Nor does what has another size.
	s.pushBlob("a", []byte("four"))
	wrong := descriptor(mediaLayer, []byte("four"))
	wrong["size"] = 5
	s.want(s.putManifest("a", "v1", s.image("a", object{"layers": []object{wrong}})), 400, "MANIFEST_BLOB_UNKNOWN")
	index := encode(object{"schemaVersion": 2, "mediaType": mediaIndex, "manifests": []object{descriptor(mediaImage, []byte("{}"))}})
	s.want(s.do("PUT", "/v2/a/manifests/v1", bytes.NewReader(index), "Content-Type: "+mediaIndex), 400, "MANIFEST_BLOB_UNKNOWN")
	s.want(s.do("GET", "/v2/a/manifests/v1", nil), 404)
	s.want(s.do("GET", "/v2/a/manifests/"+sum256(index), nil), 404)
}

func testManifestType(t *testing.T, s *site) {
	put := func(m []byte, contentType string) answer {
		return s.do("PUT", "/v2/a/manifests/v1", bytes.NewReader(m), "Content-Type: "+contentType)
	}
	m := s.image("a", nil)
	s.want(put(m, mediaImage+"; charset=utf-8"), 201)
	s.wantHeader(s.do("GET", "/v2/a/manifests/v1", nil), "Content-Type", mediaImage)
	s.want(put(m, ""), 201)
	s.want(put(m, mediaIndex), 400, "MANIFEST_INVALID")
	s.want(put(m, "application/vnd.docker.distribution.manifest.v2+json"), 400, "MANIFEST_INVALID")
	s.want(put(m, "text/plain"), 400, "MANIFEST_INVALID")
	s.want(put(m, ";;;"), 400, "MANIFEST_INVALID")
	// Old OCI manifests have no mediaType.
	s.want(put(bytes.Replace(m, []byte(`"mediaType":"`+mediaImage+`",`), nil, 1), mediaImage), 201)
}

func testManifestSize(t *testing.T, s *site) {
	m := s.image("a", nil)
	padded := func(n int) []byte { return append(m, bytes.Repeat([]byte(" "), n-len(m))...) }
	s.want(s.putManifest("a", "big", padded(4<<20)), 201)
	s.want(s.putManifest("a", "v1", padded(4<<20+1)), 413, "MANIFEST_INVALID")
	// Without a Content-Length as well.
	a := s.do("PUT", "/v2/a/manifests/v1", io.MultiReader(bytes.NewReader(padded(4<<20+1))), "Content-Type: "+mediaImage)
	s.want(a, 413, "MANIFEST_INVALID")
	s.want(s.putManifest("a", sum256(padded(4<<20+1))+"?tag=v1", padded(4<<20+1)), 413, "MANIFEST_INVALID")
	s.want(s.do("GET", "/v2/a/manifests/v1", nil), 404)
}

func testManifestInvalid(t *testing.T, s *site) {
	good := object{"mediaType": mediaLayer, "digest": s.pushBlob("a", []byte("x")), "size": 1}
	with := func(key string, value any) object {
		d := object{}
		for k, v := range good {
			d[k] = v
		}
		d[key] = value
		return d
	}
	many := make([]object, 5000)
	for i := range many {
		many[i] = good
	}
	for what, m := range map[string][]byte{
		"empty": {}, "not JSON": []byte("hello"), "an array": []byte("[]"), "null": []byte("null"), "cut off": s.image("a", nil)[:50],
		"two values":         append(s.image("a", nil), '{', '}'),
		"schema 1":           s.image("a", object{"schemaVersion": 1}),
		"no config":          s.image("a", object{"config": nil}),
		"manifests too":      s.image("a", object{"manifests": []object{good}}),
		"layers is a string": s.image("a", object{"layers": "all"}),
		"a bad digest":       s.image("a", object{"layers": []object{with("digest", "sha256:../../../etc/passwd")}}),
		"no digest":          s.image("a", object{"layers": []object{{"size": 1}}}),
		"a negative size":    s.image("a", object{"layers": []object{with("size", -1)}}),
		"two sizes":          s.image("a", object{"layers": []object{good, with("size", 2)}}),
		"a huge size":        s.image("a", object{"layers": []object{with("size", json.Number("1e99"))}}),
		"a bad subject":      s.image("a", object{"subject": with("digest", "x")}),
		"a bad artifactType": s.image("a", object{"artifactType": "a\x00b"}),
		"too many layers":    s.image("a", object{"layers": many}),
		"odd annotations":    s.image("a", object{"annotations": object{"a": 1}}),
	} {
		if a := s.putManifest("a", "v1", m); a.StatusCode != 400 || a.code() != "MANIFEST_INVALID" {
			t.Errorf("%s: %d %s", what, a.StatusCode, a.body)
		}
	}
	s.want(s.do("GET", "/v2/a/manifests/v1", nil), 404)
}

func testManifestKinds(t *testing.T, s *site) {
	put := func(tag, mediaType string, m []byte) {
		t.Helper()
		s.want(s.do("PUT", "/v2/a/manifests/"+tag, bytes.NewReader(m), "Content-Type: "+mediaType), 201)
		s.wantHeader(s.want(s.do("GET", "/v2/a/manifests/"+tag, nil), 200), "Content-Type", mediaType)
	}
	const docker, list = "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json"
	m := s.image("a", object{"mediaType": docker})
	put("docker", docker, m)
	l := encode(object{"schemaVersion": 2, "mediaType": list, "manifests": []object{descriptor(docker, m)}})
	put("list", list, l)
	index := encode(object{"schemaVersion": 2, "mediaType": mediaIndex, "manifests": []object{descriptor(list, l), descriptor(docker, m)}})
	put("index", mediaIndex, index)
	put("nested", mediaIndex, encode(object{"schemaVersion": 2, "mediaType": mediaIndex, "manifests": []object{descriptor(mediaIndex, index)}}))
	put("empty", mediaIndex, encode(object{"schemaVersion": 2, "mediaType": mediaIndex, "manifests": []object{}}))
	for i, foreign := range []string{"application/vnd.oci.image.layer.nondistributable.v1.tar", "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"} {
		layer := descriptor(foreign, random(10))
		layer["urls"] = []string{"https://example.com/layer"}
		put(fmt.Sprint("foreign", i), mediaImage, s.image("a", object{"layers": []object{layer}}))
	}
	x512 := random(512)
	s.pushBlob("a", x512)
	x := object{"mediaType": mediaLayer, "digest": s.pushBlob("a", []byte("x")), "size": 1}
	put("twice", mediaImage, s.image("a", object{"layers": []object{x, x}}))
	put("none", mediaImage, s.image("a", object{"layers": []object{}}))
	for i, suffix := range []string{"", "+gzip", "+zstd"} {
		layer := descriptor("application/vnd.oci.image.layer.v1.tar"+suffix, x512)
		put(fmt.Sprint("layer", i), mediaImage, s.image("a", object{"layers": []object{layer}}))
	}
}

// What a manifest is about need not be there, nor be something that could be: its algorithm may be unknown here.
func testSubjectMissing(t *testing.T, s *site) {
	for i, digest := range append(sums([]byte("later")), "blake3:"+sum256([]byte("later"))[7:], "multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8") {
		subject := object{"mediaType": mediaImage, "digest": digest, "size": 5}
		index := encode(object{"schemaVersion": 2, "mediaType": mediaIndex, "manifests": []object{}, "subject": subject})
		s.wantHeader(s.want(s.putManifest("a", fmt.Sprint("v", i), s.image("a", object{"subject": subject})), 201), "OCI-Subject", digest)
		s.wantHeader(s.want(s.putIndex("a", fmt.Sprint("i", i), index), 201), "OCI-Subject", digest)
		if list, _ := s.referrers("/v2/a/referrers/" + digest); len(list) != 2 {
			t.Errorf("referrers of %s: %v", digest, list)
		}
	}
	for _, digest := range []string{"", "latest", "sha256:xyz", "sha256:" + strings.ToUpper(sum256(nil)[7:]), "BLAKE3:00", "blake3:", "blake3:a/b", "a:" + strings.Repeat("0", 1000)} {
		subject := object{"mediaType": mediaImage, "digest": digest, "size": 5}
		s.want(s.putManifest("a", "bad", s.image("a", object{"subject": subject})), 400, "MANIFEST_INVALID")
	}
}

func testManifestBytes(t *testing.T, s *site) {
	m := append([]byte(" \n\t"), s.image("a", object{"unknown": []int{1, 2}})...)
	m = append(m, '\n', '\n')
	for ref, digest := range map[string]string{"v1": sum256(m), sum256(m): sum256(m), sum512(m): sum512(m)} {
		a := s.want(s.putManifest("a", ref, m), 201)
		s.wantHeader(a, "Docker-Content-Digest", digest)
		for _, at := range []string{a.Header.Get("Location"), "/v2/a/manifests/" + digest} {
			if got := s.want(s.do("GET", at, nil), 200); !bytes.Equal(got.body, m) {
				t.Errorf("pushed %q, got %q", m, got.body)
			}
		}
	}
	s.want(s.putManifest("a", sum256([]byte("other")), m), 400, "DIGEST_INVALID")
	s.want(s.putManifest("a", sum512([]byte("other")), m), 400, "DIGEST_INVALID")
}

func testManifestTags(t *testing.T, s *site) {
	m := s.image("a", nil)
	for _, digest := range sums(m) {
		tags := []string{"1.2.3", "1.2", "1", "latest"}
		for i := range 28 {
			tags = append(tags, fmt.Sprint("t", i))
		}
		a := s.want(s.putManifest("a", digest+"?tag="+strings.Join(tags, "&tag="), m), 201)
		if got := a.Header.Values("OCI-Tag"); !slices.Equal(got, tags) {
			t.Errorf("OCI-Tag is %q", got)
		}
		s.wantHeader(a, "Docker-Content-Digest", digest)
		for _, tag := range tags {
			s.wantHeader(s.want(s.do("HEAD", "/v2/a/manifests/"+tag, nil), 200), "Docker-Content-Digest", digest)
		}
	}
	s.wantHeader(s.want(s.putManifest("a", "one", m), 201), "OCI-Tag", "")
	s.wantHeader(s.want(s.putManifest("a", sum256(m), m), 201), "OCI-Tag", "")
	s.want(s.putManifest("a", sum256(m)+"?tag=three&tag=..", m), 400, "MANIFEST_INVALID")
	s.want(s.do("GET", "/v2/a/manifests/three", nil), 404)
	s.want(s.putManifest("a", sum256(m)+"?"+strings.Repeat("tag=x&", 100), m), 414, "MANIFEST_INVALID")
}

func testSubject(t *testing.T, s *site) {
	subject := s.image("a", nil)
	for range 2 { // before and after the subject
		for _, digest := range sums(subject) {
			d := object{"mediaType": mediaImage, "digest": digest, "size": len(subject)}
			m := s.image("a", object{"subject": d})
			for _, ref := range []string{"v1", sum256(m), sum512(m), sum256(m) + "?tag=v2", sum256(m)} {
				s.wantHeader(s.want(s.putManifest("a", ref, m), 201), "OCI-Subject", digest)
			}
		}
		a := s.want(s.putManifest("a", "subject", subject), 201)
		s.wantHeader(a, "OCI-Subject", "")
	}
}

// Artifacts have types that nobody here knows, contents that are nothing, and data in their descriptors.
func testArtifacts(t *testing.T, s *site) {
	s.pushBlob("a", []byte("{}"))
	empty := object{"mediaType": "application/vnd.oci.empty.v1+json", "digest": sum256([]byte("{}")), "size": 2}
	embedded := object{"mediaType": "application/vnd.oci.empty.v1+json", "digest": sum256([]byte("{}")), "size": 2, "data": "e30="}
	text := descriptor("text/plain", []byte("not JSON"))
	s.pushBlob("a", []byte("not JSON"))
	none := descriptor("application/vnd.example.unknown", nil)
	s.pushBlob("a", nil)
	for what, extra := range map[string]object{
		"empty":         {"config": empty, "layers": []object{empty}, "artifactType": "application/vnd.example.thing+json"},
		"embedded":      {"config": embedded, "layers": []object{embedded}, "artifactType": "application/vnd.example.thing"},
		"unknown types": {"config": text, "layers": []object{text, none}, "artifactType": "x-unknown/y"},
		"config only":   {"config": none, "layers": []object{}},
		"no layers":     {"config": text, "layers": nil},
		"annotated":     {"config": empty, "layers": []object{text}, "artifactType": "a/b", "annotations": object{"org.example": "ä"}},
		"fields":        {"config": empty, "layers": []object{text}, "artifactType": "a/b", "org.example.field": object{"a": []int{1}}},
	} {
		m := s.image("a", extra)
		if what == "no layers" {
			m = bytes.Replace(m, []byte(`"layers":null,`), nil, 1)
		}
		for _, digest := range sums(m) {
			if a := s.putManifest("a", digest, m); a.StatusCode != 201 {
				t.Errorf("%s: %d %s", what, a.StatusCode, a.body)
				continue
			}
			if got := s.want(s.do("GET", "/v2/a/manifests/"+digest, nil), 200); !bytes.Equal(got.body, m) {
				t.Errorf("%s: another manifest", what)
			}
		}
	}
	index := encode(object{"schemaVersion": 2, "mediaType": mediaIndex, "artifactType": "x-unknown/y", "manifests": []object{}})
	s.want(s.putIndex("a", "index", index), 201)
	s.want(s.putManifest("a", "mismatch", s.image("a", object{"artifactType": "a/b\n"})), 400, "MANIFEST_INVALID")
}

// What an index has of a type that is none of manifests is a blob. It is needed as a manifest's blobs are.
func testIndexOfBlobs(t *testing.T, s *site) {
	m := s.image("a", nil)
	s.want(s.putManifest("a", sum256(m), m), 201)
	layer, cache := []byte("a layer"), []byte("a cache's config")
	index := encode(object{"schemaVersion": 2, "mediaType": mediaIndex, "manifests": []object{
		descriptor(mediaImage, m), descriptor(mediaLayer, layer), descriptor("application/vnd.example.cacheconfig.v0", cache),
	}})
	s.pushBlob("a", layer)
	s.want(s.putIndex("a", "index", index), 400, "MANIFEST_BLOB_UNKNOWN")
	s.pushBlob("a", cache)
	s.want(s.putIndex("a", "index", index), 201)
	s.want(s.do("DELETE", "/v2/a/blobs/"+sum256(cache), nil), 405, "UNSUPPORTED")
	s.want(s.do("DELETE", "/v2/a/manifests/"+sum256(index), nil), 202)
	s.want(s.do("DELETE", "/v2/a/blobs/"+sum256(cache), nil), 202)
}
