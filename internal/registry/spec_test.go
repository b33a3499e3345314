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

// TestSpec holds the registry to the OCI distribution specification 1.1, sentence by sentence: each test stands under
// the sentence that it is about, in the order of the specification.
func TestSpec(t *testing.T) {
	for _, test := range []struct {
		section, sentence string
		test              func(t *testing.T, s *site)
	}{
		{"Determining Support", "If the response is 200 OK, then the registry implements this specification", testVersion},
		{"Pulling manifests", "<name> MUST match the following regular expression", testNames},
		{"Pulling manifests", "<reference> MUST be either (a) the digest of the manifest or (b) a tag", testReferences},
		{"Pulling manifests", "A GET request to an existing manifest URL MUST provide the expected manifest, with a response code that MUST be 200 OK; Content-Type, Docker-Content-Digest", testGetManifest},
		{"Pulling manifests", "If the manifest is not found in the repository, the response code MUST be 404 Not Found", testGetManifestUnknown},
		{"Pulling blobs", "A GET request to an existing blob URL MUST provide the expected blob, with a response code that MUST be 200 OK", testGetBlob},
		{"Pulling blobs", "If the blob is not found in the repository, the response code MUST be 404 Not Found", testGetBlobUnknown},
		{"Pulling blobs", "A registry SHOULD support the Range request header in accordance with RFC 9110", testGetBlobRange},
		{"Checking if content exists", "A HEAD request to an existing blob or manifest URL MUST return 200 OK ... Docker-Content-Digest ... Content-Length", testHead},
		{"Push", "the registry MUST accept a manifest that includes a subject that does not exist", testSubjectMissing},
		{"Push", "when a manifest is rejected for [missing references], it MUST result in one or more MANIFEST_BLOB_UNKNOWN errors", testManifestMissing},
		{"POST then PUT", "Upon success, the response MUST have a code of 202 Accepted, and MUST include Location; 201 Created", testPostPut},
		{"POST then PUT", "<digest> is the digest of the blob (DIGEST_INVALID: provided digest did not match uploaded content)", testPutWrongDigest},
		{"Single POST", "Successful completion of the request MUST return a 201 Created and MUST include Location", testSinglePost},
		{"Pushing a blob in chunks", "The response for each successful chunk upload MUST be 202 Accepted, with Location and Range: 0-<end-of-range>", testChunks},
		{"Pushing a blob in chunks", "If a chunk is uploaded out of order, the registry MUST respond with a 416 Requested Range Not Satisfiable code", testChunkOrder},
		{"Pushing a blob in chunks", "[Content-Range] MUST match ^[0-9]+-[0-9]+$", testChunkRange},
		{"Pushing a blob in chunks", "The response to an active upload <location> MUST be a 204 No Content response code, with Location and Range", testUploadStatus},
		{"Pushing a blob in chunks", "the session MUST be closed with a PUT request ... MUST include the <digest> of the whole blob", testChunkClose},
		{"Cancel a blob upload", "If successful, the response SHOULD be a 204 No Content response code", testCancel},
		{"Mounting a blob from another repository", "The response to a successful mount MUST be 201 Created, and MUST contain Location", testMount},
		{"Mounting a blob from another repository", "if a registry ... is unable to mount the requested blob, it SHOULD return a 202", testMountUnknown},
		{"Pushing Manifests", "The registry MUST store the manifest in the exact byte representation provided by the client", testManifestBytes},
		{"Pushing Manifests", "If a manifest includes a mediaType field, clients MUST set the Content-Type to it; parameters SHOULD be ignored", testManifestType},
		{"Pushing Manifests", "If the [manifest is too large], the registry SHOULD return 413; at least 4 megabytes SHOULD be expected", testManifestSize},
		{"Pushing Manifests", "manifest invalid (MANIFEST_INVALID)", testManifestInvalid},
		{"Pushing Manifests", "Docker schema 2 and lists, indexes in indexes, non-distributable layers (image-spec)", testManifestKinds},
		{"Pushing Manifests", "<digest>?tag=: pushing a manifest with tags, OCI-Tag (after 1.1)", testManifestTags},
		{"Pushing Manifests with Subject", "the registry MUST respond with the response header OCI-Subject: <subject digest>", testSubject},
		{"Listing Tags", "If the list is not empty, the tags MUST be in lexical order", testTags},
		{"Listing Tags", "n, last: the response MUST include no more than <int> results; when n is zero, MUST return an empty list and MUST NOT include a Link header", testTagPages},
		{"Listing Referrers", "Upon success, the response MUST be a JSON body with an image index containing a list of descriptors", testReferrers},
		{"Listing Referrers", "MUST NOT return a 404 Not Found; if the request is invalid, MUST be 400 Bad Request", testReferrersNone},
		{"Listing Referrers", "if filtering is requested and applied, the response MUST include OCI-Filters-Applied", testReferrersFilter},
		{"Listing Referrers", "If the descriptor list cannot fit, a Link header MUST be included", testReferrersPages},
		{"Deleting tags", "Upon success, the registry MUST respond with a 202 Accepted code ... a GET will return a 404", testDeleteTag},
		{"Deleting Manifests", "a GET to the digest and any tag pointing to that digest will return a 404", testDeleteManifest},
		{"Deleting Blobs", "Upon success MUST respond 202 Accepted; not found MUST be 404; disabled MUST be 400 or 405", testDeleteBlob},
		{"Content Digests", "sha512 (image-spec, Registered algorithms)", testSHA512},
		{"Endpoints", "what is not an endpoint is 404, another method 405", testEndpoints},
	} {
		t.Run(test.section+"/"+test.sentence, func(t *testing.T) { test.test(t, newSite(t)) })
	}
}

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

func testGetManifest(t *testing.T, s *site) {
	m := s.image("a", nil)
	s.want(s.putManifest("a", "v1", m), 201)
	for _, ref := range []string{"v1", sum256(m)} {
		a := s.want(s.do("GET", "/v2/a/manifests/"+ref, nil), 200)
		if !bytes.Equal(a.body, m) {
			t.Errorf("%s: another manifest", ref)
		}
		s.wantHeader(a, "Content-Type", mediaImage)
		s.wantHeader(a, "Docker-Content-Digest", sum256(m))
		s.want(s.do("GET", "/v2/a/manifests/"+ref, nil, "If-None-Match: "+a.Header.Get("ETag")), 304)
	}
}

func testGetManifestUnknown(t *testing.T, s *site) {
	s.want(s.do("GET", "/v2/never/manifests/v1", nil), 404, "MANIFEST_UNKNOWN")
	m := s.image("a", nil)
	s.want(s.putManifest("a", "v1", m), 201)
	s.want(s.do("GET", "/v2/a/manifests/v2", nil), 404, "MANIFEST_UNKNOWN")
	s.want(s.do("HEAD", "/v2/a/manifests/v2", nil), 404)
	s.want(s.do("GET", "/v2/b/manifests/"+sum256(m), nil), 404, "MANIFEST_UNKNOWN")
}

func testGetBlob(t *testing.T, s *site) {
	for _, content := range [][]byte{{}, []byte("x"), random(100_000), random(3 << 20)} {
		digest := s.pushBlob("a", content)
		a := s.want(s.do("GET", "/v2/a/blobs/"+digest, nil), 200)
		if !bytes.Equal(a.body, content) {
			t.Errorf("a blob of %d bytes came back as another", len(content))
		}
		s.wantHeader(a, "Docker-Content-Digest", digest)
		s.wantHeader(a, "Content-Type", "application/octet-stream")
	}
}

func testGetBlobUnknown(t *testing.T, s *site) {
	digest := s.pushBlob("a", []byte("x"))
	s.want(s.do("GET", "/v2/a/blobs/"+sum256([]byte("y")), nil), 404, "BLOB_UNKNOWN")
	s.want(s.do("GET", "/v2/b/blobs/"+digest, nil), 404, "BLOB_UNKNOWN") // stored, but not in this repository
	s.want(s.do("GET", "/v2/a/blobs/sha256:..%2f..%2fpasswd", nil), 404)
	s.want(s.do("GET", "/v2/a/blobs/sha256:xyz", nil), 400, "DIGEST_INVALID")
}

func testGetBlobRange(t *testing.T, s *site) {
	content := random(10_000)
	path := "/v2/a/blobs/" + s.pushBlob("a", content)
	for header, want := range map[string][]byte{
		"0-0": content[:1], "0-99": content[:100], "100-199": content[100:200], "9000-": content[9000:], "-10": content[9990:], "9990-20000": content[9990:],
	} {
		a := s.want(s.do("GET", path, nil, "Range: bytes="+header), 206)
		if !bytes.Equal(a.body, want) {
			t.Errorf("range %s: %d other bytes", header, len(a.body))
		}
	}
	a := s.want(s.do("GET", path, nil, "Range: bytes=10000-"), 416)
	s.wantHeader(a, "Content-Range", "bytes */10000")
	s.want(s.do("GET", path, nil, "Range: bytes=0-9", `If-Range: "another"`), 200)
}

func testHead(t *testing.T, s *site) {
	m := s.image("a", nil)
	s.want(s.putManifest("a", "v1", m), 201)
	blob := random(1234)
	digest := s.pushBlob("a", blob)
	for path, want := range map[string]struct {
		digest string
		size   int
	}{
		"manifests/v1": {sum256(m), len(m)}, "manifests/" + sum256(m): {sum256(m), len(m)}, "blobs/" + digest: {digest, 1234},
	} {
		a := s.want(s.do("HEAD", "/v2/a/"+path, nil), 200)
		s.wantHeader(a, "Docker-Content-Digest", want.digest)
		s.wantHeader(a, "Content-Length", fmt.Sprint(want.size))
		if len(a.body) != 0 {
			t.Errorf("%s: HEAD has a body", path)
		}
	}
}

func testSubjectMissing(t *testing.T, s *site) {
	subject := descriptor(mediaImage, []byte("later"))
	s.want(s.putManifest("a", "v1", s.image("a", object{"subject": subject})), 201)
}

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

func testPostPut(t *testing.T, s *site) {
	content := random(5000)
	digest := sum256(content)
	a := s.want(s.do("PUT", s.start("a")+"?digest="+digest, bytes.NewReader(content), "Content-Type: application/octet-stream"), 201)
	s.wantHeader(a, "Docker-Content-Digest", digest)
	got := s.want(s.do("GET", a.Header.Get("Location"), nil), 200)
	if !bytes.Equal(got.body, content) {
		t.Error("another blob")
	}
	one, two := s.start("a"), s.start("a")
	if one == two {
		t.Error("two uploads have the same address")
	}
}

func testPutWrongDigest(t *testing.T, s *site) {
	location := s.start("a")
	digest := sum256([]byte("something else"))
	s.want(s.do("PUT", location+"?digest="+digest, strings.NewReader("hello")), 400, "DIGEST_INVALID")
	s.want(s.do("GET", "/v2/a/blobs/"+digest, nil), 404)
	s.want(s.do("GET", "/v2/a/blobs/"+sum256([]byte("hello")), nil), 404)
	s.want(s.do("GET", location, nil), 404, "BLOB_UPLOAD_UNKNOWN")
	s.want(s.do("PUT", s.start("a"), strings.NewReader("hello")), 400, "DIGEST_INVALID")
	s.want(s.do("PUT", s.start("a")+"?digest=crc:1", strings.NewReader("hello")), 400, "DIGEST_INVALID")
	s.want(s.do("POST", "/v2/a/blobs/uploads/?digest="+digest, strings.NewReader("hello")), 400, "DIGEST_INVALID")
	s.wantFiles(2) // the two uploads that were started and got no valid PUT
}

func testSinglePost(t *testing.T, s *site) {
	content := random(5000)
	a := s.want(s.do("POST", "/v2/a/blobs/uploads/?digest="+sum256(content), bytes.NewReader(content)), 201)
	s.want(s.do("GET", a.Header.Get("Location"), nil), 200)
	s.wantFiles(1)
}

func testChunks(t *testing.T, s *site) {
	content := random(3000)
	location := s.start("a")
	for i := range 3 {
		a := s.want(s.do("PATCH", location, bytes.NewReader(content[i*1000:][:1000]),
			fmt.Sprintf("Content-Range: %d-%d", i*1000, i*1000+999), "Content-Type: application/octet-stream"), 202)
		s.wantHeader(a, "Range", fmt.Sprintf("0-%d", i*1000+999))
		location = a.Header.Get("Location")
	}
	a := s.want(s.do("PUT", location+"?digest="+sum256(content), nil), 201)
	if got := s.want(s.do("GET", a.Header.Get("Location"), nil), 200); !bytes.Equal(got.body, content) {
		t.Error("another blob")
	}

	// As Docker streams: no Content-Range, no Content-Length.
	location = s.start("a")
	a = s.want(s.do("PATCH", location, io.MultiReader(bytes.NewReader(content))), 202)
	s.want(s.do("PUT", a.Header.Get("Location")+"?digest="+sum256(content), nil), 201)
}

func testChunkOrder(t *testing.T, s *site) {
	location := s.start("a")
	s.want(s.do("PATCH", location, strings.NewReader("world"), "Content-Range: 5-9"), 416, "BLOB_UPLOAD_INVALID")
	s.want(s.do("PATCH", location, strings.NewReader("hello"), "Content-Range: 0-4"), 202)
	s.want(s.do("PATCH", location, strings.NewReader("hello"), "Content-Range: 0-4"), 416, "BLOB_UPLOAD_INVALID")
	a := s.want(s.do("PATCH", location, strings.NewReader("world"), "Content-Range: 6-10"), 416, "BLOB_UPLOAD_INVALID")
	s.wantHeader(a, "Range", "0-4")
	s.want(s.do("PUT", location+"?digest="+sum256([]byte("helloworld")), strings.NewReader("world"), "Content-Range: 6-10"), 416)
	s.want(s.do("PUT", location+"?digest="+sum256([]byte("helloworld")), strings.NewReader("world"), "Content-Range: 5-9"), 201)
}

func testChunkRange(t *testing.T, s *site) {
	location := s.start("a")
	for _, value := range []string{"bytes 0-4/5", "0", "-", "0-", "-4", "4-0", "a-b", "0-99999999999999999999", "+0-4", "0-4-5"} {
		s.want(s.do("PATCH", location, strings.NewReader("hello"), "Content-Range: "+value), 416, "BLOB_UPLOAD_INVALID")
	}
	s.want(s.do("PATCH", location, strings.NewReader("hello"), "Content-Range: 0-9"), 400, "SIZE_INVALID")
	s.want(s.do("PATCH", location, strings.NewReader("hello"), "Content-Range: 0-4"), 202)
}

func testUploadStatus(t *testing.T, s *site) {
	location := s.start("a")
	s.want(s.do("PATCH", location, strings.NewReader("hello")), 202)
	a := s.want(s.do("GET", location, nil), 204)
	s.wantHeader(a, "Range", "0-4")
	s.wantHeader(a, "Location", location)
	s.want(s.do("GET", strings.Replace(location, "/a/", "/b/", 1), nil), 404, "BLOB_UPLOAD_UNKNOWN")
	s.want(s.do("GET", "/v2/a/blobs/uploads/nothing", nil), 404, "BLOB_UPLOAD_UNKNOWN")
	s.want(s.do("GET", "/v2/a/blobs/uploads/00000000-0000-0000-0000-000000000000", nil), 404, "BLOB_UPLOAD_UNKNOWN")
}

func testChunkClose(t *testing.T, s *site) {
	location := s.start("a")
	s.want(s.do("PATCH", location, strings.NewReader("hello ")), 202)
	s.want(s.do("PUT", location, strings.NewReader("world")), 400, "DIGEST_INVALID")
	a := s.want(s.do("PUT", location+"?digest="+sum256([]byte("hello world")), strings.NewReader("world"), "Content-Range: 6-10"), 201)
	s.want(s.do("GET", a.Header.Get("Location"), nil), 200)
	s.want(s.do("PATCH", location, strings.NewReader("more")), 404, "BLOB_UPLOAD_UNKNOWN")
	s.want(s.do("PUT", location+"?digest="+sum256(nil), nil), 404, "BLOB_UPLOAD_UNKNOWN")
}

func testCancel(t *testing.T, s *site) {
	location := s.start("a")
	s.want(s.do("PATCH", location, strings.NewReader("hello")), 202)
	s.want(s.do("DELETE", location, nil), 204)
	s.want(s.do("GET", location, nil), 404, "BLOB_UPLOAD_UNKNOWN")
	s.want(s.do("DELETE", location, nil), 404, "BLOB_UPLOAD_UNKNOWN")
	s.wantFiles(0)
}

func testMount(t *testing.T, s *site) {
	digest := s.pushBlob("a", []byte("x"))
	a := s.want(s.do("POST", "/v2/b/blobs/uploads/?mount="+digest+"&from=a", nil), 201)
	s.wantHeader(a, "Docker-Content-Digest", digest)
	s.want(s.do("GET", a.Header.Get("Location"), nil), 200)
	s.wantFiles(1)
}

func testMountUnknown(t *testing.T, s *site) {
	digest := s.pushBlob("a", []byte("x"))
	for _, query := range []string{
		"mount=" + digest + "&from=c", "mount=" + digest, "mount=" + digest + "&from=../a", "mount=" + sum256([]byte("y")) + "&from=a",
	} {
		a := s.want(s.do("POST", "/v2/b/blobs/uploads/?"+query, nil), 202)
		s.want(s.do("PUT", a.Header.Get("Location")+"?digest="+digest, strings.NewReader("x")), 201)
		s.want(s.do("DELETE", "/v2/b/blobs/"+digest, nil), 202)
	}
	// Who may not read there cannot find out what there is.
	a := s.do("POST", "/v2/octo/app/blobs/uploads/?mount="+digest+"&from=a", nil, "Authorization: Bearer octo-password")
	s.want(a, 202)
}

func testManifestBytes(t *testing.T, s *site) {
	m := append([]byte(" \n\t"), s.image("a", object{"unknown": []int{1, 2}})...)
	m = append(m, '\n', '\n')
	a := s.want(s.putManifest("a", "v1", m), 201)
	s.wantHeader(a, "Docker-Content-Digest", sum256(m))
	if got := s.want(s.do("GET", a.Header.Get("Location"), nil), 200); !bytes.Equal(got.body, m) {
		t.Errorf("pushed %q, got %q", m, got.body)
	}
	s.want(s.putManifest("a", sum256([]byte("other")), m), 400, "DIGEST_INVALID")
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
	a := s.do("PUT", "/v2/a/manifests/v1", io.MultiReader(bytes.NewReader(padded(5<<20))), "Content-Type: "+mediaImage)
	s.want(a, 413, "MANIFEST_INVALID")
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
	for i, foreign := range []string{"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"} {
		layer := descriptor(foreign, random(10))
		layer["urls"] = []string{"https://example.com/layer"}
		put(fmt.Sprint("foreign", i), mediaImage, s.image("a", object{"layers": []object{layer}}))
	}
	x := object{"mediaType": mediaLayer, "digest": s.pushBlob("a", []byte("x")), "size": 1}
	put("twice", mediaImage, s.image("a", object{"layers": []object{x, x}}))
	put("none", mediaImage, s.image("a", object{"layers": []object{}}))
}

func testManifestTags(t *testing.T, s *site) {
	m := s.image("a", nil)
	a := s.want(s.putManifest("a", sum256(m)+"?tag=one&tag=two", m), 201)
	if got := a.Header.Values("OCI-Tag"); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("OCI-Tag is %q", got)
	}
	s.want(s.do("GET", "/v2/a/manifests/two", nil), 200)
	s.want(s.putManifest("a", sum256(m)+"?tag=three&tag=..", m), 400, "MANIFEST_INVALID")
	s.want(s.do("GET", "/v2/a/manifests/three", nil), 404)
	s.want(s.putManifest("a", sum256(m)+"?"+strings.Repeat("tag=x&", 100), m), 414, "MANIFEST_INVALID")
}

func testSubject(t *testing.T, s *site) {
	subject := descriptor(mediaImage, []byte("subject"))
	a := s.want(s.putManifest("a", "v1", s.image("a", object{"subject": subject})), 201)
	s.wantHeader(a, "OCI-Subject", subject["digest"].(string))
	s.wantHeader(s.want(s.putManifest("a", "v1", s.image("a", nil)), 201), "OCI-Subject", "")
}

// tags lists tags and returns them with the address of the next page.
func (s *site) tags(path string) (tags []string, next string) {
	s.t.Helper()
	a := s.want(s.do("GET", path, nil), 200)
	s.wantHeader(a, "Content-Type", "application/json")
	var body struct {
		Name string
		Tags []string
	}
	if err := json.Unmarshal(a.body, &body); err != nil || body.Tags == nil || body.Name == "" {
		s.t.Fatalf("%s: %v in %s", path, err, a.body)
	}
	return body.Tags, nextPage(s.t, a)
}

func nextPage(t testing.TB, a answer) string {
	link := a.Header.Get("Link")
	if link == "" {
		return ""
	}
	next, ok := strings.CutSuffix(strings.TrimPrefix(link, "<"), `>; rel="next"`)
	if !ok || !strings.HasPrefix(link, "<") {
		t.Fatalf("Link is %q", link)
	}
	return next
}

func testTags(t *testing.T, s *site) {
	s.want(s.do("GET", "/v2/a/tags/list", nil), 404, "NAME_UNKNOWN")
	m := s.image("a", nil)
	if tags, _ := s.tags("/v2/a/tags/list"); len(tags) != 0 {
		t.Errorf("tags %q", tags)
	}
	for _, tag := range []string{"b", "a", "B", "_", "1", "a.b", "a-b", "aa"} {
		s.want(s.putManifest("a", tag, m), 201)
	}
	want := []string{"1", "B", "_", "a", "a-b", "a.b", "aa", "b"}
	if tags, _ := s.tags("/v2/a/tags/list"); !slices.Equal(tags, want) {
		t.Errorf("tags %q, want %q", tags, want)
	}
}

func testTagPages(t *testing.T, s *site) {
	m := s.image("a", nil)
	var want []string
	for i := range 7 {
		want = append(want, fmt.Sprintf("v%d", i))
		s.want(s.putManifest("a", want[i], m), 201)
	}
	for n := 1; n <= 8; n++ {
		var got []string
		for next := fmt.Sprintf("/v2/a/tags/list?n=%d", n); next != ""; {
			var tags []string
			tags, next = s.tags(next)
			if len(tags) > n || len(tags) < n && next != "" {
				t.Errorf("n=%d: a page of %d", n, len(tags))
			}
			got = append(got, tags...)
		}
		if !slices.Equal(got, want) {
			t.Errorf("n=%d: %q", n, got)
		}
	}
	if tags, next := s.tags("/v2/a/tags/list?n=0"); len(tags) != 0 || next != "" {
		t.Errorf("n=0: %q, %q", tags, next)
	}
	if tags, _ := s.tags("/v2/a/tags/list?last=v3x"); !slices.Equal(tags, want[4:]) {
		t.Errorf("last=v3x: %q", tags)
	}
	if tags, next := s.tags("/v2/a/tags/list?n=99999999999999999999&last=v3"); !slices.Equal(tags, want[4:]) || next != "" {
		t.Errorf("a large n: %q", tags)
	}
	for _, query := range []string{"n=x", "n=-1", "n=", "n=1.5", "last=%00", "last=%ff"} {
		s.want(s.do("GET", "/v2/a/tags/list?"+query, nil), 400, "UNSUPPORTED")
	}
}

// referrers lists referrers and returns their descriptors with the address of the next page.
func (s *site) referrers(path string) (list []object, a answer) {
	s.t.Helper()
	a = s.want(s.do("GET", path, nil), 200)
	s.wantHeader(a, "Content-Type", mediaIndex)
	var body struct {
		SchemaVersion int
		MediaType     string
		Manifests     []object
	}
	if err := json.Unmarshal(a.body, &body); err != nil || body.Manifests == nil || body.MediaType != mediaIndex || body.SchemaVersion != 2 {
		s.t.Fatalf("%s: %v in %s", path, err, a.body)
	}
	return body.Manifests, a
}

func testReferrers(t *testing.T, s *site) {
	m := s.image("a", nil)
	subject := descriptor(mediaImage, m)
	notes := map[string]string{"org.example.note": "ä\u0000<&>"}
	typed := s.image("a", object{"subject": subject, "artifactType": "application/sbom", "annotations": notes})
	plain := s.image("a", object{"subject": subject})
	index := encode(object{"schemaVersion": 2, "mediaType": mediaIndex, "manifests": []object{}, "subject": subject})
	s.want(s.putManifest("a", "typed", typed), 201)
	s.want(s.putManifest("a", sum256(plain), plain), 201)
	s.want(s.do("PUT", "/v2/a/manifests/"+sum256(index), bytes.NewReader(index), "Content-Type: "+mediaIndex), 201)
	s.want(s.putManifest("a", "v1", m), 201) // the subject comes last
	list, _ := s.referrers("/v2/a/referrers/" + sum256(m))
	want := map[string]object{
		sum256(typed): {"mediaType": mediaImage, "size": len(typed), "artifactType": "application/sbom", "annotations": notes},
		sum256(plain): {"mediaType": mediaImage, "size": len(plain), "artifactType": "application/vnd.oci.image.config.v1+json"},
		sum256(index): {"mediaType": mediaIndex, "size": len(index)},
	}
	if len(list) != len(want) {
		t.Errorf("%d referrers", len(list))
	}
	for _, got := range list {
		digest := got["digest"].(string)
		w := want[digest]
		if w == nil {
			t.Fatalf("unexpected %v", got)
		}
		w["digest"] = digest
		if !bytes.Equal(encode(got), encode(w)) {
			t.Errorf("got %s, want %s", encode(got), encode(w))
		}
	}
	s.want(s.do("DELETE", "/v2/a/manifests/"+sum256(plain), nil), 202)
	if list, _ := s.referrers("/v2/a/referrers/" + sum256(m)); len(list) != 2 {
		t.Errorf("%d referrers after one was deleted", len(list))
	}
}

func testReferrersNone(t *testing.T, s *site) {
	for _, name := range []string{"a", "never"} {
		if list, _ := s.referrers("/v2/" + name + "/referrers/" + sum256(nil)); len(list) != 0 {
			t.Errorf("%v", list)
		}
		s.pushBlob("a", nil)
	}
	s.want(s.do("GET", "/v2/a/referrers/sha256:x", nil), 400, "DIGEST_INVALID")
	s.want(s.do("GET", "/v2/a/referrers/latest", nil), 400, "DIGEST_INVALID")
}

func testReferrersFilter(t *testing.T, s *site) {
	subject := descriptor(mediaImage, []byte("subject"))
	for i := range 4 {
		m := s.image("a", object{"subject": subject, "artifactType": fmt.Sprint("application/t", i%2)})
		s.want(s.putManifest("a", sum256(m), m), 201)
	}
	path := "/v2/a/referrers/" + subject["digest"].(string)
	list, a := s.referrers(path + "?artifactType=application/t1")
	s.wantHeader(a, "OCI-Filters-Applied", "artifactType")
	if len(list) != 2 || list[0]["artifactType"] != "application/t1" {
		t.Errorf("%v", list)
	}
	list, a = s.referrers(path)
	s.wantHeader(a, "OCI-Filters-Applied", "")
	if len(list) != 4 {
		t.Errorf("%v", list)
	}
}

func testReferrersPages(t *testing.T, s *site) {
	subject := descriptor(mediaImage, []byte("subject"))
	note := strings.Repeat("x", 1<<20)
	for i := range 7 {
		m := s.image("a", object{"subject": subject, "annotations": object{"note": note, "i": fmt.Sprint(i)}})
		s.want(s.putManifest("a", sum256(m), m), 201)
	}
	seen, pages := map[string]bool{}, 0
	for next := "/v2/a/referrers/" + subject["digest"].(string); next != ""; pages++ {
		list, a := s.referrers(next)
		for _, d := range list {
			seen[d["digest"].(string)] = true
		}
		next = nextPage(t, a)
	}
	if len(seen) != 7 || pages < 2 {
		t.Errorf("%d referrers on %d pages", len(seen), pages)
	}
}

func testDeleteTag(t *testing.T, s *site) {
	m := s.image("a", nil)
	s.want(s.putManifest("a", "one", m), 201)
	s.want(s.putManifest("a", "two", m), 201)
	s.want(s.do("DELETE", "/v2/a/manifests/one", nil), 202)
	s.want(s.do("GET", "/v2/a/manifests/one", nil), 404, "MANIFEST_UNKNOWN")
	s.want(s.do("DELETE", "/v2/a/manifests/one", nil), 404, "MANIFEST_UNKNOWN")
	s.want(s.do("GET", "/v2/a/manifests/two", nil), 200)
	s.want(s.do("GET", "/v2/a/manifests/"+sum256(m), nil), 200)
}

func testDeleteManifest(t *testing.T, s *site) {
	m := s.image("a", nil)
	s.want(s.putManifest("a", "one", m), 201)
	s.want(s.putManifest("a", "two", m), 201)
	s.want(s.do("DELETE", "/v2/a/manifests/"+sum256(m), nil), 202)
	for _, ref := range []string{"one", "two", sum256(m)} {
		s.want(s.do("GET", "/v2/a/manifests/"+ref, nil), 404, "MANIFEST_UNKNOWN")
	}
	s.want(s.do("DELETE", "/v2/a/manifests/"+sum256(m), nil), 404, "MANIFEST_UNKNOWN")
	s.want(s.do("DELETE", "/v2/never/manifests/"+sum256(m), nil), 404, "MANIFEST_UNKNOWN")
	s.want(s.putManifest("a", "one", m), 201) // its blobs are still there
}

func testDeleteBlob(t *testing.T, s *site) {
	m := s.image("a", nil)
	s.want(s.putManifest("a", "one", m), 201)
	digest := s.pushBlob("a", []byte("x"))
	s.want(s.do("DELETE", "/v2/a/blobs/"+digest, nil), 202)
	s.want(s.do("GET", "/v2/a/blobs/"+digest, nil), 404, "BLOB_UNKNOWN")
	s.want(s.do("DELETE", "/v2/a/blobs/"+digest, nil), 404, "BLOB_UNKNOWN")
	// A manifest that was accepted stays pullable.
	config := sum256([]byte(`{"architecture":"amd64","os":"linux"}`))
	s.want(s.do("DELETE", "/v2/a/blobs/"+config, nil), 405, "UNSUPPORTED")
	s.want(s.do("DELETE", "/v2/a/manifests/"+sum256(m), nil), 202)
	s.want(s.do("DELETE", "/v2/a/blobs/"+config, nil), 202)
}

func testSHA512(t *testing.T, s *site) {
	content := random(5000)
	digest := sum512(content)
	get := func(a answer) {
		t.Helper()
		s.want(a, 201)
		s.wantHeader(a, "Docker-Content-Digest", digest)
		if got := s.want(s.do("GET", a.Header.Get("Location"), nil), 200); !bytes.Equal(got.body, content) {
			t.Error("another blob")
		}
	}
	get(s.do("POST", "/v2/a/blobs/uploads/?digest="+digest, bytes.NewReader(content)))
	get(s.do("PUT", s.start("b")+"?digest="+digest, bytes.NewReader(content)))
	for _, query := range []string{"", "?digest-algorithm=sha512"} { // without, the upload is hashed again at its end
		location := s.want(s.do("POST", "/v2/c"+fmt.Sprint(len(query))+"/blobs/uploads/"+query, nil), 202).Header.Get("Location")
		s.want(s.do("PATCH", location, bytes.NewReader(content[:3000])), 202)
		get(s.do("PUT", location+"?digest="+digest, bytes.NewReader(content[3000:])))
	}
	s.want(s.do("POST", "/v2/a/blobs/uploads/?digest-algorithm=md5", nil), 400, "DIGEST_INVALID")
	s.want(s.do("POST", "/v2/d/blobs/uploads/?mount="+digest+"&from=a", nil), 201)

	m := s.image("a", object{"layers": []object{{"mediaType": mediaLayer, "digest": digest, "size": len(content)}}})
	a := s.want(s.putManifest("a", sum512(m), m), 201)
	s.wantHeader(a, "Docker-Content-Digest", sum512(m))
	s.want(s.do("GET", "/v2/a/manifests/"+sum512(m), nil), 200)
	r := s.image("a", object{"subject": object{"mediaType": mediaImage, "digest": sum512(m), "size": len(m)}})
	s.want(s.putManifest("a", sum512(r), r), 201)
	if list, _ := s.referrers("/v2/a/referrers/" + sum512(m)); len(list) != 1 || list[0]["digest"] != sum512(r) {
		t.Errorf("referrers %v", list)
	}
	s.want(s.do("DELETE", "/v2/a/manifests/"+sum512(m), nil), 202)
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
