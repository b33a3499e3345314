package registry_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	crandom "github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"slipway/internal/registry"
	"slipway/internal/s3"
)

// bucket is an object store with a bucket. SLIPWAY_TEST_S3 may name another one, which is there and empty, as
// --registry-storage does; its credentials are in the environment.
type bucket struct {
	t       *testing.T
	address string
	client  *s3.Client
	name    string
	prefix  string
	// away, unless nil, makes the store answer nothing but errors.
	away *atomic.Bool
}

func newBucket(t *testing.T) *bucket {
	t.Helper()
	b := &bucket{t: t, address: os.Getenv("SLIPWAY_TEST_S3")}
	if b.address == "" {
		b.away = &atomic.Bool{}
		backend := s3mem.New()
		if err := backend.CreateBucket("images"); err != nil {
			t.Fatal(err)
		}
		store := gofakes3.New(backend, gofakes3.WithIntegrityCheck(true)).Server()
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if b.away.Load() {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			// It looks at no signatures; that there is one, of the right key, it shall at least notice.
			if !strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=a-key/") &&
				(!strings.HasPrefix(r.URL.Query().Get("X-Amz-Credential"), "a-key/") || r.URL.Query().Get("X-Amz-Signature") == "") {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			store.ServeHTTP(w, r)
		}))
		t.Cleanup(server.Close)
		t.Setenv("AWS_ACCESS_KEY_ID", "a-key")
		t.Setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
		b.address = "s3://images/some/where?endpoint=" + server.URL
	}
	u, err := url.Parse(b.address)
	if err != nil {
		t.Fatal(err)
	}
	b.name, b.prefix = u.Host, strings.Trim(u.Path, "/")+"/"
	keys, err := s3.FindCredentials()
	if err != nil {
		t.Fatal(err)
	}
	if b.client, err = s3.New(s3.Options{Endpoint: u.Query().Get("endpoint"), Bucket: b.name, Credentials: keys}); err != nil {
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
	if err := b.client.Delete(context.WithoutCancel(b.t.Context()), key); err != nil {
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
	err := b.client.List(context.WithoutCancel(b.t.Context()), "", func(key string) error {
		keys = append(keys, key)
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return keys
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
	if err := b.client.Put(b.t.Context(), key, strings.NewReader(content), int64(len(content))); err != nil {
		b.t.Fatal(err)
	}
}

func noise(t *testing.T, n int) []byte {
	t.Helper()
	content := make([]byte, n)
	rand.Read(content)
	return content
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

	// A client that follows gets it without our token, which is not for the object store.
	straight := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	req, err := http.NewRequestWithContext(t.Context(), "GET", s.URL+"/v2/octo/app/blobs/"+digest, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("reader", "reader-password")
	resp, err := straight.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 307 || resp.Header.Get("Docker-Content-Digest") != digest || resp.Header.Get("Cache-Control") != "no-store" {
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
	if b.away == nil {
		t.Skip("only the store of the tests can be told to go away")
	}
	s := b.site("", func(o *registry.Options) { o.Log = slog.New(slog.DiscardHandler) })
	one, two := []byte("one"), []byte("two")
	s.pushBlob("octo/app", one)
	b.away.Store(true)
	s.want(s.do("POST", "/v2/octo/app/blobs/uploads/?digest="+sum256(two), bytes.NewReader(two)), 500, "UNKNOWN")
	s.want(s.do("HEAD", "/v2/octo/app/blobs/"+sum256(one), nil), 500)
	b.away.Store(false)
	s.want(s.do("HEAD", "/v2/octo/app/blobs/"+sum256(two), nil), 404)
	s.want(s.do("HEAD", "/v2/octo/app/blobs/"+sum256(one), nil), 200)
	s.pushBlob("octo/app", two)
	s.wantFiles(1)
	s.check(registry.CheckOptions{Verify: true})
}
