package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/internal/registry"
)

// TestConcurrentSameBlob pushes one blob from fifty clients at once.
func TestConcurrentSameBlob(t *testing.T) {
	s := newSite(t)
	content := random(300_000)
	digest := sum256(content)
	var group sync.WaitGroup
	for i := range 50 {
		group.Go(func() {
			repository := fmt.Sprint("octo/r", i%5)
			a := s.do("POST", "/v2/"+repository+"/blobs/uploads/?digest="+digest, bytes.NewReader(content))
			if a.StatusCode != 201 {
				t.Errorf("push: %d %s", a.StatusCode, a.body)
			}
			if a := s.do("GET", "/v2/"+repository+"/blobs/"+digest, nil); !bytes.Equal(a.body, content) {
				t.Errorf("pull: %d, %d bytes", a.StatusCode, len(a.body))
			}
		})
	}
	group.Wait()
	s.wantFiles(1)
}

// TestConcurrentPushDelete pushes images while others delete all that they can: what was accepted can be pulled whole.
func TestConcurrentPushDelete(t *testing.T) {
	s := newSite(t)
	layers := [][]byte{random(1000), random(1000), random(1000)}
	config := []byte("{}")
	done := make(chan struct{})
	var pushers, deleters sync.WaitGroup
	for range 3 {
		deleters.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				s.do("DELETE", "/v2/a/blobs/"+sum256(layers[i%3]), nil)
				s.do("DELETE", "/v2/a/manifests/moving", nil)
			}
		})
	}
	var mu sync.Mutex
	accepted := map[string][]byte{} // manifest to the layer that it needs
	for worker := range 4 {
		pushers.Go(func() {
			for i := range 25 {
				layer := layers[i%3]
				s.pushBlob("a", config)
				s.pushBlob("a", layer)
				m := encode(object{
					"schemaVersion": 2, "mediaType": mediaImage, "config": descriptor("application/vnd.oci.image.config.v1+json", config),
					"layers": []object{descriptor(mediaLayer, layer)}, "annotations": object{"n": fmt.Sprint(worker, i)},
				})
				a := s.putManifest("a", "moving", m)
				switch {
				case a.StatusCode == 201:
					mu.Lock()
					accepted[sum256(m)] = layer
					mu.Unlock()
				case a.code() != "MANIFEST_BLOB_UNKNOWN":
					t.Errorf("push: %d %s", a.StatusCode, a.body)
				}
			}
		})
	}
	pushers.Wait()
	close(done)
	deleters.Wait()
	if len(accepted) == 0 {
		t.Fatal("no push was accepted")
	}
	for digest, layer := range accepted {
		s.want(s.do("GET", "/v2/a/manifests/"+digest, nil), 200)
		if a := s.want(s.do("GET", "/v2/a/blobs/"+sum256(layer), nil), 200); !bytes.Equal(a.body, layer) {
			t.Errorf("another layer")
		}
	}
}

// TestUploadOneAtATime sends two requests to one upload at once: they take turns, or one is told to wait.
func TestUploadOneAtATime(t *testing.T) {
	s := newSite(t, func(o *registry.Options) { o.StallTime = 200 * time.Millisecond })
	location := s.start("a")
	body, write := io.Pipe()
	defer write.Close()
	slow := make(chan answer, 1)
	go func() { slow <- s.do("PATCH", location, body) }()
	if _, err := write.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	// Whichever comes first, the upload in hand is not touched by the other. When the first is over already, the second has the wrong range.
	a := s.do("PATCH", location, strings.NewReader("hello"), "Content-Range: 0-4")
	if a.StatusCode != 429 && a.StatusCode != 202 && a.StatusCode != 416 {
		t.Errorf("the second: %d %s", a.StatusCode, a.body)
	}
	// The first never ends its body: the server does not wait for it for ever.
	if a := <-slow; a.StatusCode != 400 {
		t.Errorf("the first: %d %s", a.StatusCode, a.body)
	}
	s.want(s.do("DELETE", location, nil), 204)
	s.wantFiles(0)
}

// TestClientDies cuts the connection in the middle of a body. A chunked upload keeps what arrived, for the client to go
// on from; a single request leaves nothing.
func TestClientDies(t *testing.T) {
	s := newSite(t)
	location := s.start("a")
	half := func(method, path string) {
		t.Helper()
		conn, err := net.Dial("tcp", s.host())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer admin-password\r\nContent-Length: 10\r\n\r\nhello", method, path)
		conn.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, conn) // until the server has seen the end
		conn.Close()
	}
	half("PATCH", location)
	s.wantHeader(s.want(s.do("GET", location, nil), 204), "Range", "0-4")
	a := s.want(s.do("PATCH", location, strings.NewReader("world"), "Content-Range: 5-9"), 202)
	s.want(s.do("PUT", a.Header.Get("Location")+"?digest="+sum256([]byte("helloworld")), nil), 201)
	half("POST", "/v2/a/blobs/uploads/?digest="+sum256([]byte("helloworld")))
	s.wantFiles(1)
}

// TestRestart takes an upload over to another process.
func TestRestart(t *testing.T) {
	s := newSite(t)
	location := s.start("a")
	s.want(s.do("PATCH", location, strings.NewReader("hello ")), 202)
	s.Close()
	h, err := registry.New(registry.Options{Dir: s.dir, Store: s.store, Authority: testPeople, Key: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	s.serve(h)
	s.wantHeader(s.want(s.do("GET", location, nil), 204), "Range", "0-5")
	s.want(s.do("PATCH", location, strings.NewReader("wor")), 202)
	s.want(s.do("PUT", location+"?digest="+sum256([]byte("hello world")), strings.NewReader("ld")), 201)
	s.want(s.do("GET", "/v2/a/blobs/"+sum256([]byte("hello world")), nil), 200)
}

// TestSweep removes old uploads and no others.
func TestSweep(t *testing.T) {
	now := time.Now()
	s := newSite(t, func(o *registry.Options) { o.Now = func() time.Time { return now } })
	old, blob := s.start("a"), s.pushBlob("a", []byte("x"))
	if n, err := s.handler.Sweep(t.Context()); n != 0 || err != nil {
		t.Fatalf("swept %d, %v", n, err)
	}
	now = now.Add(25 * time.Hour)
	if n, err := s.handler.Sweep(t.Context()); n != 1 || err != nil {
		t.Fatalf("swept %d, %v", n, err)
	}
	s.want(s.do("PATCH", old, strings.NewReader("late")), 404, "BLOB_UPLOAD_UNKNOWN")
	s.want(s.do("GET", "/v2/a/blobs/"+blob, nil), 200)
	s.wantFiles(1)
}

// TestTooLarge bounds blobs, with and without a Content-Length.
func TestTooLarge(t *testing.T) {
	s := newSite(t, func(o *registry.Options) { o.MaxBlob = 1000 })
	content := random(1001)
	query := "/v2/a/blobs/uploads/?digest=" + sum256(content)
	s.want(s.do("POST", query, bytes.NewReader(content)), 413, "SIZE_INVALID")
	s.want(s.do("POST", query, io.MultiReader(bytes.NewReader(content))), 413, "SIZE_INVALID")
	location := s.start("a")
	s.want(s.do("PATCH", location, bytes.NewReader(content[:600])), 202)
	s.want(s.do("PATCH", location, bytes.NewReader(content[600:])), 413, "SIZE_INVALID")
	s.want(s.do("PUT", location+"?digest="+sum256(content[:1000]), bytes.NewReader(content[600:1000])), 201)
	s.wantFiles(1)
}

// TestMissingFile answers "not found" for a blob whose file somebody removed, and takes it again.
func TestMissingFile(t *testing.T) {
	s := newSite(t, func(o *registry.Options) { o.Log = slog.New(slog.DiscardHandler) })
	content := []byte("hello")
	digest := s.pushBlob("a", content)
	hex := strings.TrimPrefix(digest, "sha256:")
	if err := os.Remove(filepath.Join(s.dir, "blobs", "sha256", hex[:2], hex)); err != nil {
		t.Fatal(err)
	}
	s.want(s.do("GET", "/v2/a/blobs/"+digest, nil), 404, "BLOB_UNKNOWN")
	s.want(s.do("POST", "/v2/b/blobs/uploads/?from=a&mount="+digest, nil), 202)
	s.pushBlob("a", content)
	s.want(s.do("GET", "/v2/a/blobs/"+digest, nil), 200)
}

// TestStoreFails hides what went wrong inside.
func TestStoreFails(t *testing.T) {
	var log bytes.Buffer
	s := newSite(t, func(o *registry.Options) { o.Log = slog.New(slog.NewTextHandler(&log, nil)) })
	if err := s.store.Close(); err != nil {
		t.Fatal(err)
	}
	a := s.want(s.do("GET", "/v2/a/manifests/v1", nil), 500, "UNKNOWN")
	if bytes.Contains(a.body, []byte("database")) || !strings.Contains(log.String(), "database") {
		t.Errorf("the client got %s, the log %s", a.body, log.String())
	}
}

// TestAuthorityFails is not taken for a wrong password.
func TestAuthorityFails(t *testing.T) {
	s := newSite(t, func(o *registry.Options) {
		o.Authority, o.Log = brokenAuthority{}, slog.New(slog.DiscardHandler)
	})
	for _, path := range []string{"/v2/", "/v2/a/tags/list", "/v2/token"} {
		s.want(s.do("GET", path, nil), 500, "UNKNOWN")
	}
}

type brokenAuthority struct{}

func (brokenAuthority) Access(context.Context, string, string) (registry.Grants, error) {
	return nil, errors.New("no database")
}

// TestNew refuses a weak key.
func TestNew(t *testing.T) {
	_, err := registry.New(registry.Options{Dir: t.TempDir(), Key: []byte("short"), Authority: testPeople})
	if err == nil {
		t.Error("a key of 5 bytes was taken")
	}
}
