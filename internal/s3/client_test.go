package s3

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// store is an object store in memory with a bucket "images". It can be told to fail some calls.
func store(t *testing.T) (c *Client, fail *atomic.Int32) {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket("images"); err != nil {
		t.Fatal(err)
	}
	objects := gofakes3.New(backend).Server()
	fail = &atomic.Int32{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fail.Add(-1) >= 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if r.Header.Get("X-Amz-Copy-Source") != "" {
			r.Header.Set("Content-Length", "0") // it wants one
		}
		objects.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	c, err := New(Options{Endpoint: server.URL, Bucket: "images", Credentials: Credentials{KeyID: "a", Secret: "b"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, fail
}

func content(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n)})
	_, _ = r.Read(b) // it never fails
	return b
}

func TestObjects(t *testing.T) {
	c, fail := store(t)
	ctx := t.Context()
	read := func(key string, from int64) []byte {
		t.Helper()
		body, err := c.Get(ctx, key, from)
		if err != nil {
			t.Fatal(err)
		}
		defer body.Close()
		got, err := io.ReadAll(body)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	for _, n := range []int{0, 1, 100_000, whole + 1, 3*minPart + 5} {
		key, want := fmt.Sprintf("a b/ü+%d", n), content(n)
		if n == 1 {
			fail.Store(2) // and is asked again
		}
		if err := c.Put(ctx, key, bytes.NewReader(want), int64(n)); err != nil {
			t.Fatal(n, err)
		}
		info, err := c.Stat(ctx, key)
		if err != nil || info.Size != int64(n) || time.Since(info.Modified).Abs() > time.Hour {
			t.Errorf("%d: %+v, %v", n, info, err)
		}
		if !bytes.Equal(read(key, 0), want) || n > 1 && !bytes.Equal(read(key, int64(n/2)), want[n/2:]) {
			t.Errorf("%d bytes came back different", n)
		}
		resp, err := http.Get(c.Link(key, time.Minute))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes behind the link are different, %v", n, err)
		}
		if err := errors.Join(c.Delete(ctx, key), c.Delete(ctx, key)); err != nil {
			t.Error(err)
		}
		if _, err := c.Stat(ctx, key); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a deleted object: %v", err)
		}
		if _, err := c.Get(ctx, key, 0); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a deleted object: %v", err)
		}
	}
	if err := c.Put(ctx, "x", strings.NewReader("x"), 1); err != nil {
		t.Fatal(err)
	}
	if err := c.Move(ctx, "x", "y/z"); err != nil || string(read("y/z", 0)) != "x" {
		t.Error(err)
	}
	if err := c.Move(ctx, "x", "y"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was moved: %v", err)
	}
}

func TestLists(t *testing.T) {
	c, _ := store(t)
	ctx := t.Context()
	var want []string
	for i := range 1005 { // more than a page
		want = append(want, fmt.Sprintf("a/%04d", i))
		if err := c.Put(ctx, want[i], strings.NewReader("x"), 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Put(ctx, "b", strings.NewReader("x"), 1); err != nil {
		t.Fatal(err)
	}
	var got []string
	if err := c.List(ctx, "a/", func(key string) error { got = append(got, key); return nil }); err != nil || !slices.Equal(got, want) {
		t.Errorf("listed %d of %d, %v", len(got), len(want), err)
	}
	stop := errors.New("enough")
	if err := c.List(ctx, "", func(string) error { return stop }); !errors.Is(err, stop) {
		t.Error(err)
	}

	// What is left of an object in parts.
	if err := c.late(ctx, call{method: http.MethodPost, key: "a/large", query: url.Values{"uploads": {""}}}, nil); err != nil {
		t.Fatal(err)
	}
	uploads, err := c.Uploads(ctx, "a/")
	if err != nil || len(uploads) != 1 || uploads[0].Key != "a/large" || time.Since(uploads[0].Begun).Abs() > time.Hour {
		t.Fatalf("%+v, %v", uploads, err)
	}
	if err := errors.Join(c.Abort(ctx, uploads[0]), c.Abort(ctx, uploads[0])); err != nil {
		t.Error(err)
	}
	if uploads, err := c.Uploads(ctx, ""); err != nil || len(uploads) != 0 {
		t.Errorf("%+v, %v", uploads, err)
	}
}

func TestErrors(t *testing.T) {
	c, fail := store(t)
	other := *c
	other.root.Path = "/nowhere"
	if _, err := other.Get(t.Context(), "x", 0); err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "no such bucket") {
		t.Errorf("of a bucket that is not there: %v", err)
	}
	fail.Store(100)
	if _, err := c.Stat(t.Context(), "x"); err == nil || !strings.Contains(err.Error(), "answers 503") {
		t.Errorf("of a store that fails: %v", err)
	}
	if left := fail.Load(); left != 100-attempts {
		t.Errorf("it was asked %d times", 100-left)
	}
	// A large object that fails on its way leaves nothing.
	fail.Store(0)
	if err := c.Put(t.Context(), "large", failing{}, 3*minPart); err == nil {
		t.Error("a file that cannot be read was stored")
	}
	if uploads, err := c.Uploads(t.Context(), ""); err != nil || len(uploads) != 0 {
		t.Errorf("left are %+v, %v", uploads, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Put(ctx, "x", strings.NewReader("x"), 1); !errors.Is(err, context.Canceled) {
		t.Errorf("when nobody waits: %v", err)
	}
	for _, o := range []Options{{}, {Bucket: "a/b", Credentials: c.signer.Credentials}, {Bucket: "a", Endpoint: "x", Credentials: c.signer.Credentials}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v makes a client", o)
		}
	}
}

type failing struct{}

func (failing) ReadAt([]byte, int64) (int, error) { return 0, errors.New("the disk is broken") }
