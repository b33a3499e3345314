package registry_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/internal/registry"
)

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

// sums are the digests of content in all algorithms.
func sums(content []byte) []string { return []string{sum256(content), sum512(content)} }

// wantStored fails the test unless a says that content was stored as digest, and where it can be pulled.
func (s *site) wantStored(a answer, digest string, content []byte) {
	s.t.Helper()
	s.want(a, 201)
	s.wantHeader(a, "Docker-Content-Digest", digest)
	at, err := a.Request.URL.Parse(a.Header.Get("Location"))
	if err != nil {
		s.t.Fatal(err)
	}
	got := s.want(s.do("GET", at.String(), nil), 200)
	s.wantHeader(got, "Docker-Content-Digest", digest)
	if !bytes.Equal(got.body, content) {
		s.t.Fatalf("%s: %d other bytes", digest, len(got.body))
	}
}

// follow returns the Location of a, which must be that of an upload.
func (s *site) follow(a answer) string {
	s.t.Helper()
	at, err := a.Request.URL.Parse(a.Header.Get("Location"))
	if err != nil || !uploadPattern.MatchString(at.Path) {
		s.t.Fatalf("Location is %q, %v", a.Header.Get("Location"), err)
	}
	return at.String()
}

var uploadPattern = regexp.MustCompile("/blobs/uploads/[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")

func testPostPut(t *testing.T, s *site) {
	seen := map[string]bool{}
	for i, content := range [][]byte{{}, []byte("x"), random(5000)} {
		for _, digest := range sums(content) {
			a := s.want(s.do("POST", "/v2/a/blobs/uploads/?ignored=1", nil, "Content-Length: 0"), 202)
			location := s.follow(a)
			if seen[location] {
				t.Error("two uploads have the same address")
			}
			seen[location] = true
			query := "?digest=" + digest
			if i == 1 {
				query = "?ignored=1&digest=" + strings.Replace(digest, ":", "%3A", 1)
			}
			s.wantStored(s.do("PUT", location+query, bytes.NewReader(content), "Content-Type: application/octet-stream"), digest, content)
		}
	}
	s.wantFiles(6)
}

func testPutWrongDigest(t *testing.T, s *site) {
	for _, digest := range sums([]byte("something else")) {
		location := s.start("a")
		s.want(s.do("PUT", location+"?digest="+digest, strings.NewReader("hello")), 400, "DIGEST_INVALID")
		s.want(s.do("GET", location, nil), 404, "BLOB_UPLOAD_UNKNOWN")
		location = s.start("a")
		s.want(s.do("PATCH", location, strings.NewReader("hello")), 202)
		s.want(s.do("PUT", location+"?digest="+digest, nil), 400, "DIGEST_INVALID")
		s.want(s.do("POST", "/v2/a/blobs/uploads/?digest="+digest, strings.NewReader("hello")), 400, "DIGEST_INVALID")
		s.want(s.do("GET", "/v2/a/blobs/"+digest, nil), 404)
	}
	for _, digest := range sums([]byte("hello")) {
		s.want(s.do("GET", "/v2/a/blobs/"+digest, nil), 404)
	}
	s.wantFiles(0)
}

// What cannot be a digest is refused before anything is stored, and an upload can be closed by the right one after it.
func testBadDigest(t *testing.T, s *site) {
	content := []byte("hello")
	upper := func(digest string) string { return digest[:7] + strings.ToUpper(digest[7:]) }
	location := s.start("a")
	for _, digest := range []string{
		"", "sha256", "sha256:", "sha256:xyz", ":" + sum256(content)[7:], sum256(content)[7:], sum256(content)[:70], sum256(content) + "0",
		upper(sum256(content)), upper(sum512(content)), "sha512:" + sum256(content)[7:], "sha256:" + sum512(content)[7:],
		"SHA256:" + sum256(content)[7:], "md5:5d41402abc4b2a76b9719d911017c592", "blake3:" + sum256(content)[7:], "sha256:..%2f..%2fx",
	} {
		s.want(s.do("POST", "/v2/a/blobs/uploads/?digest="+digest, bytes.NewReader(content)), 400, "DIGEST_INVALID")
		s.want(s.do("PUT", location+"?digest="+digest, bytes.NewReader(content)), 400, "DIGEST_INVALID")
		if algorithm, encoded, ok := strings.Cut(digest, ":"); ok && encoded != "" && algorithm != "sha256" && algorithm != "sha512" {
			s.want(s.do("POST", "/v2/a/blobs/uploads/?digest-algorithm="+algorithm, nil), map[bool]int{true: 202, false: 400}[algorithm == ""])
		}
	}
	s.want(s.do("PUT", location, bytes.NewReader(content)), 400, "DIGEST_INVALID")
	s.wantStored(s.do("PUT", location+"?digest="+sum256(content), bytes.NewReader(content)), sum256(content), content)
}

// Uploads to one repository, some of the same content, go on at once.
func testConcurrentUploads(t *testing.T, s *site) {
	contents := [][]byte{random(30_000), random(30_000)}
	contents = append(contents, contents[0])
	var locations []string
	for range contents {
		locations = append(locations, s.start("a"))
	}
	for at := 0; at < 30_000; at += 10_000 {
		var group sync.WaitGroup
		for i, content := range contents {
			group.Go(func() {
				if a := s.do("PATCH", locations[i], bytes.NewReader(content[at:][:10_000])); a.StatusCode != 202 {
					t.Errorf("%d %s", a.StatusCode, a.body)
				}
			})
		}
		group.Wait()
	}
	for i, content := range contents {
		s.wantStored(s.do("PUT", locations[i]+"?digest="+sum256(content), nil), sum256(content), content)
	}
	s.wantFiles(2)
}

func testSinglePost(t *testing.T, s *site) {
	for _, content := range [][]byte{{}, []byte("x"), random(5000)} {
		for _, digest := range sums(content) {
			a := s.do("POST", "/v2/a/blobs/uploads/?digest="+digest, bytes.NewReader(content), "Content-Type: application/octet-stream")
			s.wantStored(a, digest, content)
			// Once more, of a length that the client does not say.
			s.wantStored(s.do("POST", "/v2/a/blobs/uploads/?digest="+digest, io.MultiReader(bytes.NewReader(content))), digest, content)
		}
	}
	s.wantFiles(6)

	// A body that is shorter than it says.
	conn, err := net.Dial("tcp", s.host())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /v2/a/blobs/uploads/?digest=%s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer admin-password\r\nContent-Length: 10\r\n\r\nhello",
		sum256([]byte("hello")), s.host())
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); err != nil { // until the server is done with it
		t.Fatal(err)
	}
	s.want(s.do("GET", "/v2/a/blobs/"+sum256([]byte("hello")), nil), 404)
	s.wantFiles(6)
}

func testChunks(t *testing.T, s *site) {
	content := random(3000)
	for _, digest := range sums(content) {
		for _, ranges := range []bool{true, false} {
			for _, last := range []string{"PATCH", "PUT"} {
				a := s.want(s.do("POST", "/v2/a/blobs/uploads/", nil, "Content-Length: 0"), 202)
				for at := 0; at < 3000; at += 1000 {
					headers := []string{"Content-Type: application/octet-stream"}
					if ranges {
						headers = append(headers, fmt.Sprintf("Content-Range: %d-%d", at, at+999))
					}
					if at == 2000 && last == "PUT" {
						s.wantStored(s.do("PUT", s.follow(a)+"?digest="+digest, bytes.NewReader(content[at:]), headers...), digest, content)
						continue
					}
					a = s.want(s.do("PATCH", s.follow(a), bytes.NewReader(content[at:][:1000]), headers...), 202)
					s.wantHeader(a, "Range", fmt.Sprintf("0-%d", at+999))
				}
				if last == "PATCH" {
					s.wantStored(s.do("PUT", s.follow(a)+"?digest="+digest, nil, "Content-Length: 0"), digest, content)
				}
				s.want(s.do("DELETE", "/v2/a/blobs/"+digest, nil), 202)
			}
		}
		// As Docker streams: no Content-Range, no Content-Length.
		a := s.want(s.do("PATCH", s.start("a"), io.MultiReader(bytes.NewReader(content))), 202)
		s.wantHeader(a, "Range", "0-2999")
		s.wantStored(s.do("PUT", s.follow(a)+"?digest="+digest, nil), digest, content)
	}
	// Nothing can be pushed in chunks, too.
	a := s.want(s.do("PATCH", s.start("a"), nil, "Content-Length: 0"), 202)
	s.wantStored(s.do("PUT", s.follow(a)+"?digest="+sum256(nil), nil), sum256(nil), nil)
}

// There is no smallest chunk.
func testTinyChunks(t *testing.T, s *site) {
	content := random(20)
	a := s.want(s.do("POST", "/v2/a/blobs/uploads/", nil), 202)
	s.wantHeader(a, "OCI-Chunk-Min-Length", "")
	for i := range 10 {
		a = s.want(s.do("PATCH", s.follow(a), bytes.NewReader(content[i:][:1]), fmt.Sprintf("Content-Range: %d-%d", i, i)), 202)
		s.wantHeader(a, "Range", fmt.Sprintf("0-%d", i))
	}
	a = s.want(s.do("PATCH", s.follow(a), bytes.NewReader(content[10:18]), "Content-Range: 10-17"), 202)
	s.wantStored(s.do("PUT", s.follow(a)+"?digest="+sum256(content), bytes.NewReader(content[18:]), "Content-Range: 18-19"), sum256(content), content)
}

func testChunkOrder(t *testing.T, s *site) {
	location := s.start("a")
	end := "?digest=" + sum256([]byte("helloworld"))
	s.want(s.do("PATCH", location, strings.NewReader("world"), "Content-Range: 5-9"), 416, "BLOB_UPLOAD_INVALID")
	s.want(s.do("PATCH", location, strings.NewReader("hello"), "Content-Range: 0-4"), 202)
	for _, wrong := range []string{"0-4", "6-10", "4-8"} {
		for method, path := range map[string]string{"PATCH": location, "PUT": location + end} {
			a := s.want(s.do(method, path, strings.NewReader("world"), "Content-Range: "+wrong), 416, "BLOB_UPLOAD_INVALID")
			s.wantHeader(a, "Range", "0-4")
		}
	}
	// The client asks how far it came, and goes on from there.
	a := s.want(s.do("GET", location, nil), 204)
	s.wantHeader(a, "Range", "0-4")
	s.wantStored(s.do("PUT", s.follow(a)+end, strings.NewReader("world"), "Content-Range: 5-9"), sum256([]byte("helloworld")), []byte("helloworld"))
}

func testChunkRange(t *testing.T, s *site) {
	location := s.start("a")
	for _, value := range []string{"bytes 0-4/5", "0", "-", "0-", "-4", "4-0", "a-b", "0-99999999999999999999", "+0-4", "0-4-5"} {
		s.want(s.do("PATCH", location, strings.NewReader("hello"), "Content-Range: "+value), 416, "BLOB_UPLOAD_INVALID")
	}
	s.want(s.do("PATCH", location, strings.NewReader("hello"), "Content-Range: 0-4"), 202)
	s.want(s.do("PATCH", location, strings.NewReader("w"), "Content-Range: 5-5"), 202)
}

// A chunk is as long as its range, whether or not the client says how long it is.
func testChunkLength(t *testing.T, s *site) {
	location := s.start("a")
	chunk := func(text, contentRange string, streamed bool) answer {
		body := io.Reader(strings.NewReader(text))
		if streamed {
			body = io.MultiReader(body)
		}
		return s.do("PATCH", location, body, "Content-Range: "+contentRange)
	}
	s.want(chunk("", "0-0", false), 202)
	for _, streamed := range []bool{false, true} {
		s.want(chunk("hello", "0-9", streamed), 400, "SIZE_INVALID")
		s.want(chunk("hello", "0-3", streamed), 400, "SIZE_INVALID")
		s.want(chunk("", "0-4", streamed), 400, "SIZE_INVALID")
		s.wantHeader(s.want(s.do("GET", location, nil), 204), "Range", "0-0")
	}
	s.want(chunk("hello", "0-4", true), 202)
	s.want(chunk("xworld", "5-9", true), 400, "SIZE_INVALID")
	s.want(chunk(" ", "5-5", false), 202)
	s.want(chunk("", "6-6", false), 202)
	s.want(chunk("world", "6-10", true), 202)
	s.wantStored(s.do("PUT", location+"?digest="+sum256([]byte("hello world")), nil), sum256([]byte("hello world")), []byte("hello world"))
}

func testUploadStatus(t *testing.T, s *site) {
	location := s.start("a")
	a := s.want(s.do("GET", location, nil), 204) // nothing is there yet, for which there is no range
	s.wantHeader(a, "Range", "0-0")
	for i := range 3 {
		s.want(s.do("PATCH", location, strings.NewReader("hello")), 202)
		a := s.want(s.do("GET", location, nil), 204)
		s.wantHeader(a, "Range", fmt.Sprintf("0-%d", 5*i+4))
		location = s.follow(a)
	}
	s.want(s.do("GET", strings.Replace(location, "/a/", "/b/", 1), nil), 404, "BLOB_UPLOAD_UNKNOWN")
	s.want(s.do("GET", "/v2/a/blobs/uploads/nothing", nil), 404, "BLOB_UPLOAD_UNKNOWN")
	s.want(s.do("GET", "/v2/a/blobs/uploads/00000000-0000-0000-0000-000000000000", nil), 404, "BLOB_UPLOAD_UNKNOWN")
}

// What nobody closes goes after a day.
func testUploadTimeout(t *testing.T, s *site) {
	later := newSite(t, func(o *registry.Options) { o.Now = func() time.Time { return time.Now().Add(25 * time.Hour) } })
	later.hear = s.hear
	for at, want := range map[*site]int{s: 204, later: 404} {
		location := at.start("a")
		at.want(at.do("PATCH", location, strings.NewReader("hello")), 202)
		if _, err := at.handler.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		at.want(at.do("GET", location, nil), want)
	}
	later.wantFiles(0)
}

func testMount(t *testing.T, s *site) {
	content := []byte("x")
	for _, digest := range sums(content) {
		s.push("a", digest, content)
		for _, name := range []string{"b", "a"} { // into itself, too
			s.wantStored(s.do("POST", "/v2/"+name+"/blobs/uploads/?mount="+digest+"&from=a", nil, "Content-Length: 0"), digest, content)
		}
		s.want(s.do("DELETE", "/v2/a/blobs/"+digest, nil), 202)
		s.want(s.do("GET", "/v2/b/blobs/"+digest, nil), 200)
	}
	s.wantFiles(2)
}

// A blob is mounted from anywhere where the client may pull it, and from nowhere else.
func testMountAnywhere(t *testing.T, s *site) {
	content := []byte("x")
	octo := "Authorization: Bearer octo-password"
	for _, digest := range sums(content) {
		s.push("other/app", digest, content)
		s.want(s.do("POST", "/v2/octo/app/blobs/uploads/?mount="+digest, nil, octo), 202)
		s.wantStored(s.do("POST", "/v2/b/blobs/uploads/?mount="+digest, nil), digest, content)
		s.push("shared", digest, content)
		s.wantStored(s.do("POST", "/v2/octo/app/blobs/uploads/?mount="+digest, nil, octo), digest, content)

		// By the token flow, one token is for both ends.
		path := "/v2/octo/app/copy/blobs/uploads/?mount=" + digest + "&from=shared"
		a := s.want(s.do("POST", path, nil, "Authorization: "), 401, "UNAUTHORIZED")
		const scope = "repository:octo/app/copy:pull,push repository:shared:pull"
		if got := a.Header.Get("WWW-Authenticate"); !strings.HasSuffix(got, `,scope="`+scope+`"`) {
			t.Errorf("the challenge is %s", got)
		}
		s.want(s.do("POST", path, nil, "Authorization: Bearer "+s.token("octo", scope)), 201)
	}
	s.want(s.do("POST", "/v2/b/blobs/uploads/?mount="+sum256([]byte("nowhere")), nil), 202)
}

func testMountUnknown(t *testing.T, s *site) {
	content := []byte("x")
	digest := s.pushBlob("a", content)
	for _, query := range []string{
		"mount=" + digest + "&from=c", "mount=" + digest + "&from=../a", "mount=" + sum256([]byte("y")) + "&from=a", "mount=" + sum512(content) + "&from=a",
		"mount=sha256:xyz&from=a", "mount=&from=a", "mount=md5:00&from=a", "mount=" + digest + "&from=c&digest=" + digest,
	} {
		a := s.want(s.do("POST", "/v2/b/blobs/uploads/?"+query, nil, "Content-Length: 0"), 202)
		s.wantStored(s.do("PUT", s.follow(a)+"?digest="+digest, bytes.NewReader(content)), digest, content)
		s.want(s.do("DELETE", "/v2/b/blobs/"+digest, nil), 202)
	}
	// Who may not read there cannot find out what there is.
	s.want(s.do("POST", "/v2/octo/app/blobs/uploads/?mount="+digest+"&from=a", nil, "Authorization: Bearer octo-password"), 202)
}

// An upload that says its algorithm is hashed while it comes; one that does not, at its end.
func testDigestAlgorithm(t *testing.T, s *site) {
	content := random(5000)
	for _, query := range []string{"", "?digest-algorithm=sha256", "?digest-algorithm=sha512", "?digest-algorithm="} {
		for _, digest := range sums(content) {
			a := s.want(s.do("POST", "/v2/a/blobs/uploads/"+query, nil), 202)
			a = s.want(s.do("PATCH", s.follow(a), bytes.NewReader(content[:3000]), "Content-Range: 0-2999"), 202)
			s.wantStored(s.do("PUT", s.follow(a)+"?digest="+digest, bytes.NewReader(content[3000:]), "Content-Range: 3000-4999"), digest, content)
			s.want(s.do("DELETE", "/v2/a/blobs/"+digest, nil), 202)
		}
	}
	for _, algorithm := range []string{"md5", "SHA512", "sha512:", "blake3"} {
		s.want(s.do("POST", "/v2/a/blobs/uploads/?digest-algorithm="+algorithm, nil), 400, "DIGEST_INVALID")
	}
}

// An image all of whose digests are of sha512 lives as one of sha256 does.
func testSHA512(t *testing.T, s *site) {
	part := func(mediaType string, content []byte) object {
		s.push("a", sum512(content), content)
		return object{"mediaType": mediaType, "digest": sum512(content), "size": len(content)}
	}
	m := encode(object{
		"schemaVersion": 2, "mediaType": mediaImage, "config": part("application/vnd.oci.image.config.v1+json", []byte(configText)),
		"layers": []object{part(mediaLayer, random(5000))},
	})
	index := encode(object{"schemaVersion": 2, "mediaType": mediaIndex, "manifests": []object{{"mediaType": mediaImage, "digest": sum512(m), "size": len(m)}}})
	s.want(s.putIndex("a", sum512(index), index), 400, "MANIFEST_BLOB_UNKNOWN")
	for ref, content := range map[string][]byte{sum512(m): m, sum512(m) + "?tag=v1": m} {
		a := s.want(s.putManifest("a", ref, content), 201)
		s.wantHeader(a, "Docker-Content-Digest", sum512(m))
	}
	s.want(s.putManifest("a", sum512(index), m), 400, "DIGEST_INVALID")
	s.want(s.putIndex("a", sum512(index)+"?tag=index", index), 201)
	s.wantHeader(s.want(s.do("HEAD", "/v2/a/manifests/v1", nil), 200), "Docker-Content-Digest", sum512(m))
	s.wantHeader(s.want(s.do("GET", "/v2/a/manifests/index", nil), 200), "Docker-Content-Digest", sum512(index))
	s.want(s.do("DELETE", "/v2/a/manifests/"+sum512(m), nil), 202)
	s.want(s.do("GET", "/v2/a/manifests/v1", nil), 404)
}
