package registry_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	crandom "github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"slipway/internal/registry"
)

// bucket is a bucket of an object store. SLIPWAY_TEST_S3 may name another one than the gateway's, which is there and empty, as
// --registry-storage does; its credentials are in the environment.
type bucket struct {
	t       testing.TB
	address string
	client  *minio.Client
	name    string
	prefix  string
	// gateway is nil for another store.
	gateway *gateway
}

func newBucket(t testing.TB) *bucket {
	t.Helper()
	b := &bucket{t: t, address: os.Getenv("SLIPWAY_TEST_S3")}
	if b.address == "" {
		b.gateway = newGateway(t)
		t.Setenv("AWS_ACCESS_KEY_ID", "a-key")
		t.Setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
		b.address = "s3://images/some/where?endpoint=" + b.gateway.URL
	}
	u, err := url.Parse(b.address)
	if err != nil {
		t.Fatal(err)
	}
	endpoint, err := url.Parse(cmp.Or(u.Query().Get("endpoint"), "https://s3.amazonaws.com"))
	if err != nil {
		t.Fatal(err)
	}
	b.name, b.prefix = u.Host, strings.Trim(u.Path, "/")+"/"
	b.client, err = minio.New(endpoint.Host, &minio.Options{Creds: credentials.NewEnvAWS(), Secure: endpoint.Scheme == "https"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, key := range b.keys() {
			b.remove(key)
		}
	})
	return b
}

func (b *bucket) remove(key string) {
	b.t.Helper()
	if err := b.client.RemoveObject(context.WithoutCancel(b.t.Context()), b.name, key, minio.RemoveObjectOptions{}); err != nil {
		b.t.Error(err)
	}
}

func (b *bucket) open(address, dir string) (*registry.S3, error) {
	return registry.OpenS3(b.t.Context(), address, dir)
}

// site returns a registry that keeps its blobs there.
func (b *bucket) site(more string, change ...func(*registry.Options)) *site {
	b.t.Helper()
	return newSite(b.t, append([]func(*registry.Options){func(o *registry.Options) {
		s3, err := b.open(b.address+more, o.Dir)
		if err != nil {
			b.t.Fatal(err)
		}
		o.S3 = s3
	}}, change...)...)
}

// keys are the objects in the bucket.
func (b *bucket) keys() (keys []string) {
	b.t.Helper()
	for object := range b.client.ListObjectsIter(context.WithoutCancel(b.t.Context()), b.name, minio.ListObjectsOptions{Recursive: true}) {
		if object.Err != nil {
			b.t.Fatal(object.Err)
		}
		keys = append(keys, object.Key)
	}
	return keys
}

// uploads are the unfinished uploads in the bucket.
func (b *bucket) uploads() (uploads []minio.ObjectMultipartInfo) {
	b.t.Helper()
	for upload := range b.client.ListIncompleteUploads(b.t.Context(), b.name, "", true) {
		if upload.Err != nil {
			b.t.Fatal(upload.Err)
		}
		uploads = append(uploads, upload)
	}
	return uploads
}

// blobs is how many blobs there are.
func (b *bucket) blobs() (n int) {
	for _, key := range b.keys() {
		if strings.HasPrefix(key, b.prefix+"blobs/") {
			n++
		}
	}
	return n
}

func (b *bucket) key(digest string) string {
	return b.prefix + "blobs/" + strings.Replace(digest, ":", "/", 1)
}

func (b *bucket) put(key, content string) {
	b.t.Helper()
	if _, err := b.client.PutObject(b.t.Context(), b.name, key, strings.NewReader(content), int64(len(content)), minio.PutObjectOptions{}); err != nil {
		b.t.Fatal(err)
	}
}

func noise(t *testing.T, n int) []byte {
	t.Helper()
	content := make([]byte, n)
	rand.Read(content)
	return content
}

// redirected returns the answer to who pulls a blob, before he follows it without our token, which is not for the object store.
func (s *site) redirected(path string) *http.Response {
	s.t.Helper()
	straight := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	req, err := http.NewRequestWithContext(s.t.Context(), "GET", s.URL+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.SetBasicAuth("reader", "reader-password")
	resp, err := straight.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 307 {
		s.t.Fatal(resp.Status)
	}
	return resp
}

// Blobs are in the bucket, and clients are sent there; everything else is as with a folder.
func TestS3(t *testing.T) {
	b := newBucket(t)
	s := b.site("")
	content := noise(t, 100_000)
	digest := s.pushBlob("octo/app", content)
	s.wantFiles(1) // which bucket is its own
	if got := b.keys(); b.blobs() != 1 || !strings.Contains(strings.Join(got, " "), b.key(digest)) {
		t.Fatalf("the bucket has %q", got)
	}

	resp := s.redirected("/v2/octo/app/blobs/" + digest)
	if resp.Header.Get("Docker-Content-Digest") != digest || resp.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%s, %v", resp.Status, resp.Header)
	}
	there := s.do("GET", resp.Header.Get("Location"), nil, "Authorization: ", "Range: bytes=10-19")
	if s.want(there, 206); !bytes.Equal(there.body, content[10:20]) {
		t.Errorf("got %d bytes", len(there.body))
	}
	s.want(s.do("HEAD", "/v2/octo/app/blobs/"+digest, nil), 200)
	s.want(s.do("GET", "/v2/octo/other/blobs/"+digest, nil), 404, "BLOB_UNKNOWN")
	s.want(s.do("GET", "/v2/octo/app/blobs/"+sum256([]byte("none")), nil), 404, "BLOB_UNKNOWN")

	// In chunks, with a wrong digest, and by clients that people use.
	at := s.start("octo/app")
	at = s.want(s.do("PATCH", at, bytes.NewReader(content[:60_000])), 202).Header.Get("Location")
	s.want(s.do("PUT", at+"?digest="+sum256([]byte("other")), bytes.NewReader(content[60_000:])), 400, "DIGEST_INVALID")
	s.wantFiles(1)
	image, err := crandom.Image(50_000, 3)
	if err != nil {
		t.Fatal(err)
	}
	if err := crane.Push(image, s.host()+"/octo/app:v1", as("octo")); err != nil {
		t.Fatal(err)
	}
	pulled, err := crane.Pull(s.host()+"/octo/app:v1", as("reader"))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(pulled); err != nil {
		t.Fatal(err)
	}

	// One object, lost: a push of its image is refused until it is back.
	m := s.image("octo/app", nil)
	b.remove(b.key(digest))
	s.want(s.do("GET", "/v2/octo/app/blobs/"+digest, nil), 404)
	s.want(s.putManifest("octo/app", "v2", m), 201)
	s.pushBlob("octo/app", content)
	s.check(registry.CheckOptions{Verify: true})
}

// A prefix may have any characters, and a blob no bytes.
func TestS3Prefix(t *testing.T) {
	b := newBucket(t)
	s := newSite(t, func(o *registry.Options) {
		objects, err := b.open(strings.Replace(b.address, "/"+strings.Trim(b.prefix, "/"), "/a%20b/%C3%BC+1%25/", 1), o.Dir)
		if err != nil {
			t.Fatal(err)
		}
		o.S3 = objects
	})
	for _, content := range []string{"", "one"} {
		digest := s.pushBlob("octo/app", []byte(content))
		at := s.redirected("/v2/octo/app/blobs/" + digest).Header.Get("Location")
		if got := s.want(s.do("GET", at, nil, "Authorization: "), 200); string(got.body) != content {
			t.Errorf("%q came back as %q", content, got.body)
		}
		if keys := b.keys(); !slices.Contains(keys, "a b/ü+1%/blobs/"+strings.Replace(digest, ":", "/", 1)) {
			t.Errorf("the bucket has %q", keys)
		}
	}
	s.check(registry.CheckOptions{Verify: true})
}

// A blob that goes in parts, and comes through us when the bucket is not for clients.
func TestS3Large(t *testing.T) {
	b := newBucket(t)
	s := b.site("&redirect=false")
	content := noise(t, 40<<20)
	digest := s.pushBlob("octo/app", content)
	if got := s.want(s.do("GET", "/v2/octo/app/blobs/"+digest, nil), 200); !bytes.Equal(got.body, content) {
		t.Errorf("got %d bytes that differ", len(got.body))
	}
	got := s.want(s.do("GET", "/v2/octo/app/blobs/"+digest, nil, "Range: bytes=20971500-20971599"), 206)
	if !bytes.Equal(got.body, content[20971500:20971600]) {
		t.Errorf("got %d bytes that differ", len(got.body))
	}
	s.want(s.do("GET", "/v2/octo/app/blobs/"+digest, nil, "Range: bytes=41943040-"), 416)
}

// A store that fails now and then is asked again. An object whose parts cannot all be sent leaves nothing.
func TestS3Fails(t *testing.T) {
	b := newBucket(t)
	if b.gateway == nil {
		t.Skip("only the gateway of the tests can be told to fail")
	}
	s := b.site("", func(o *registry.Options) { o.Log = slog.New(slog.DiscardHandler) })
	var asked atomic.Int32
	b.gateway.fail(func(*http.Request) int { return []int{0, 503}[asked.Add(1)%2] })
	content := noise(t, 40<<20)
	s.pushBlob("octo/app", content)
	if asked.Load() < 12 { // questions, and an upload in three parts, all of them twice
		t.Errorf("%d requests", asked.Load())
	}

	b.gateway.fail(func(r *http.Request) int {
		if r.URL.Query().Get("partNumber") == "2" {
			return 403
		}
		return 0
	})
	content[0]++
	s.want(s.do("POST", "/v2/octo/app/blobs/uploads/?digest="+sum256(content), bytes.NewReader(content)), 500, "UNKNOWN")
	b.gateway.fail(func(*http.Request) int { return 0 })
	if left := b.uploads(); len(left) > 0 {
		t.Errorf("left are %+v", left)
	}
	s.want(s.do("HEAD", "/v2/octo/app/blobs/"+sum256(content), nil), 404)
	s.pushBlob("octo/app", content)
	s.wantFiles(1)
	s.check(registry.CheckOptions{Verify: true})
}

// What nobody needs is taken away, strays too, and what others put beside it is not.
func TestS3Collect(t *testing.T) {
	b := newBucket(t)
	now := time.Now()
	s := b.site("", func(o *registry.Options) { o.Now = func() time.Time { return now } })
	digest := s.pushBlob("octo/app", []byte("nobody's"))
	m := s.image("octo/app", nil)
	s.want(s.putManifest("octo/app", "v1", m), 201)
	b.put(b.key(sum256([]byte("stray"))), "stray")
	b.put(b.prefix+"blobs/sha256/README", "not a blob")
	before := b.blobs()
	s.collect(registry.Collected{})
	now = now.Add(25 * time.Hour)
	s.collect(registry.Collected{Links: 1, Blobs: 2, Strays: 1, Bytes: int64(len("nobody's") + len("stray"))})
	if got := b.blobs(); got != before-2 {
		t.Errorf("%d objects are left of %d", got, before)
	}
	s.want(s.do("GET", "/v2/octo/app/blobs/"+digest, nil), 404)
	s.check(registry.CheckOptions{Verify: true})
	if n, err := s.handler.Sweep(t.Context()); n != 0 || err != nil {
		t.Errorf("swept %d, %v", n, err)
	}

	// So are the parts that a server left which was killed, after a day.
	begin := func(key string) {
		if _, err := (minio.Core{Client: b.client}).NewMultipartUpload(t.Context(), b.name, key, minio.PutObjectOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	begin(b.key(digest))
	begin("elsewhere")
	if n, err := s.handler.Sweep(t.Context()); n != 1 || err != nil { // it is tomorrow
		t.Errorf("swept %d, %v", n, err)
	}
	begin(b.key(digest))
	now = now.Add(-25 * time.Hour)
	if n, err := s.handler.Sweep(t.Context()); n != 0 || err != nil {
		t.Errorf("swept %d, %v", n, err)
	}
	if left := b.uploads(); len(left) != 2 {
		t.Errorf("unfinished are %+v", left)
	}
}

func TestS3Check(t *testing.T) {
	b := newBucket(t)
	s := b.site("")
	m := s.image("octo/app", nil)
	s.want(s.putManifest("octo/app", "v1", m), 201)
	alone := s.pushBlob("octo/app", []byte("alone"))
	b.put(b.key(alone), "aline")
	b.put(b.key(sum256([]byte("stray"))), "stray")
	s.check(registry.CheckOptions{}, registry.StrayFile)
	s.check(registry.CheckOptions{Verify: true}, registry.DamagedBlob, registry.StrayFile)
	s.check(registry.CheckOptions{Verify: true, Repair: true}, registry.DamagedBlob, registry.StrayFile)
	s.check(registry.CheckOptions{Verify: true})
	if keys := strings.Join(b.keys(), " "); !strings.Contains(keys, b.prefix+"damaged/sha256-"+strings.TrimPrefix(alone, "sha256:")) {
		t.Errorf("the damaged blob was not put aside: %s", keys)
	}
}

func TestOpenS3(t *testing.T) {
	b := newBucket(t)
	dir := t.TempDir()
	for range 2 {
		if _, err := b.open(b.address, dir); err != nil {
			t.Fatal(err)
		}
	}
	_, query, _ := strings.Cut(b.address, "?")
	for address, want := range map[string]string{
		b.address + "&x=y":                          `no "x", only endpoint, region and redirect`,
		b.address + "&redirect=maybe":               "redirect is true or false",
		"s3://" + b.name + "?endpoint=ftp://x":      "is not an address such as https",
		"s3://key:secret@" + b.name + "?" + query:   "is not the address of a bucket",
		"/var/lib/registry":                         "is not the address of a bucket",
		"s3://no-such-bucket?" + query:              "read from the bucket no-such-bucket: there is no such bucket",
		"s3://images?endpoint=http://127.0.0.1:1&x": "no \"x\"",
	} {
		if _, err := b.open(address, dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", address, err, want)
		}
	}
	other := t.TempDir()
	if _, err := b.open(b.address, other); err == nil || !strings.Contains(err.Error(), "belongs to another registry") {
		t.Errorf("another registry: %v", err)
	}
	if left, err := os.ReadDir(other); len(left) > 0 || err != nil {
		t.Errorf("it left %v, %v", left, err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "wrong")
	if _, err := b.open(b.address, dir); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("with a wrong key: %v", err)
	}
}

// An object store that goes away: clients hear that we failed, nothing is half there, and it goes on when it is back.
func TestS3Away(t *testing.T) {
	b := newBucket(t)
	if b.gateway == nil {
		t.Skip("only the gateway of the tests can be killed")
	}
	s := b.site("", func(o *registry.Options) { o.Log = slog.New(slog.DiscardHandler) })
	one, two := []byte("one"), []byte("two")
	s.pushBlob("octo/app", one)
	b.gateway.kill()
	var group sync.WaitGroup // each is tried for some seconds
	for path, method := range map[string]string{"uploads/?digest=" + sum256(two): "POST", sum256(one): "HEAD"} {
		group.Go(func() {
			req, err := http.NewRequestWithContext(t.Context(), method, s.URL+"/v2/octo/app/blobs/"+path, bytes.NewReader(two))
			if err != nil {
				t.Error(err)
				return
			}
			req.SetBasicAuth("admin", "admin-password")
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != 500 || method == "POST" && !bytes.Contains(text, []byte(`"UNKNOWN"`)) {
				t.Errorf("%s %s: %s %s, %v", method, path, resp.Status, text, err)
			}
		})
	}
	group.Wait()
	b.gateway.restart()
	s.want(s.do("HEAD", "/v2/octo/app/blobs/"+sum256(two), nil), 404)
	s.want(s.do("HEAD", "/v2/octo/app/blobs/"+sum256(one), nil), 200)
	s.pushBlob("octo/app", two)
	s.wantFiles(1)
	s.check(registry.CheckOptions{Verify: true})
}
