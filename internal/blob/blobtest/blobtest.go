// Package blobtest is the suite that every implementation of [blob.Store] passes.
package blobtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"slipway/internal/blob"
)

// Run tests a kind of blob store. Open returns a new, empty store, which it closes when t ends.
func Run(t *testing.T, open func(t testing.TB) blob.Store) {
	for name, test := range map[string]func(*testing.T, blob.Store){
		"PutOpen":     testPutOpen,
		"Replace":     testReplace,
		"PutFails":    testPutFails,
		"Missing":     testMissing,
		"Keys":        testKeys,
		"List":        testList,
		"Concurrent":  testConcurrent,
		"DeleteRaces": testDeleteRaces,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

func put(t testing.TB, s blob.Store, key, content string) {
	t.Helper()
	if err := s.Put(t.Context(), key, strings.NewReader(content)); err != nil {
		t.Fatal(err)
	}
}

func get(t testing.TB, s blob.Store, key string) string {
	t.Helper()
	b, err := s.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	content, err := io.ReadAll(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func keys(t testing.TB, s blob.Store, prefix string) (all []string) {
	t.Helper()
	for info, err := range s.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, info.Key)
	}
	return all
}

func testPutOpen(t *testing.T, s blob.Store) {
	content := make([]byte, 3<<20+17)
	random := rand.NewChaCha8([32]byte{1})
	_, _ = random.Read(content) // it never fails
	if err := s.Put(t.Context(), "a/b/c.bin", bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	b, err := s.Open(t.Context(), "a/b/c.bin")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if b.Size() != int64(len(content)) {
		t.Fatalf("size is %d, want %d", b.Size(), len(content))
	}
	// Reading, seeking and reading at an offset, as the standard library's own test of readers does it.
	if err := iotest.TestReader(b, content); err != nil {
		t.Fatal(err)
	}
	info, err := s.Stat(t.Context(), "a/b/c.bin")
	if err != nil {
		t.Fatal(err)
	}
	if info.Key != "a/b/c.bin" || info.Size != b.Size() || time.Since(info.Modified) > time.Hour {
		t.Fatalf("info is %+v", info)
	}
	put(t, s, "empty", "")
	if got := get(t, s, "empty"); got != "" {
		t.Fatalf("the empty blob has %q", got)
	}
}

func testReplace(t *testing.T, s blob.Store) {
	put(t, s, "k", "old and long")
	old, err := s.Open(t.Context(), "k")
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	put(t, s, "k", "new")
	if got := get(t, s, "k"); got != "new" {
		t.Fatalf("read %q after it was replaced", got)
	}
	if err := s.Delete(t.Context(), "k"); err != nil {
		t.Fatal(err)
	}
	if content, err := io.ReadAll(old); err != nil || string(content) != "old and long" {
		t.Fatalf("who had the old one open read %q, %v", content, err)
	}
}

func testPutFails(t *testing.T, s blob.Store) {
	put(t, s, "k", "kept")
	broken := errors.New("broken")
	err := s.Put(t.Context(), "k", io.MultiReader(strings.NewReader("half"), iotest.ErrReader(broken)))
	if !errors.Is(err, broken) {
		t.Fatalf("error is %v, want the reader's", err)
	}
	err = s.Put(t.Context(), "new", iotest.ErrReader(broken))
	if !errors.Is(err, broken) {
		t.Fatalf("error is %v, want the reader's", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = s.Put(ctx, "k", io.MultiReader(strings.NewReader("half"), onRead(cancel), strings.NewReader("half")))
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("error is %v, want that of the context", err)
	}
	if got := get(t, s, "k"); got != "kept" {
		t.Fatalf("a Put that failed left %q", got)
	}
	if diff := cmp.Diff([]string{"k"}, keys(t, s, "")); diff != "" {
		t.Fatalf("keys (-want +got):\n%s", diff)
	}
}

// onRead is a reader without content that calls f.
type onRead func()

func (f onRead) Read([]byte) (int, error) {
	f()
	return 0, io.EOF
}

func testMissing(t *testing.T, s blob.Store) {
	put(t, s, "a/b/c", "x")
	for _, key := range []string{"a", "a/b", "a/b/d", "a/b/c/d", "no"} {
		if _, err := s.Open(t.Context(), key); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("open %s: %v", key, err)
		}
		if _, err := s.Stat(t.Context(), key); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("stat %s: %v", key, err)
		}
		if err := s.Delete(t.Context(), key); err != nil {
			t.Errorf("delete %s: %v", key, err)
		}
	}
	if got := get(t, s, "a/b/c"); got != "x" {
		t.Fatalf("read %q", got)
	}
	for range 2 {
		if err := s.Delete(t.Context(), "a/b/c"); err != nil {
			t.Fatal(err)
		}
	}
	put(t, s, "a", "was a folder")
}

func testKeys(t *testing.T, s blob.Store) {
	for _, key := range []string{
		"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/..", "./a", "a/.", ".tmp/x", "a/.b", "a\\b", "a\x00b", "a b",
		"a\nb", "ä", "~/a", "c:", "a?b", "a#b", "a%2e", strings.Repeat("x", 201), strings.Repeat("x/", 256) + "x", "\xff",
	} {
		if err := blob.CheckKey(key); err == nil {
			t.Errorf("key %q is valid", key)
		}
		if err := s.Put(t.Context(), key, strings.NewReader("x")); err == nil {
			t.Errorf("put %q was accepted", key)
		}
		if _, err := s.Open(t.Context(), key); err == nil || errors.Is(err, blob.ErrNotFound) {
			t.Errorf("open %q: %v", key, err)
		}
		if _, err := s.Stat(t.Context(), key); err == nil || errors.Is(err, blob.ErrNotFound) {
			t.Errorf("stat %q: %v", key, err)
		}
		if err := s.Delete(t.Context(), key); err == nil {
			t.Errorf("delete %q was accepted", key)
		}
	}
	for _, prefix := range []string{"a", "/", "../", "a//", ".tmp/"} {
		refused := false
		for _, err := range s.List(t.Context(), prefix) {
			refused = err != nil
		}
		if !refused {
			t.Errorf("list %q was accepted", prefix)
		}
	}
	for _, key := range []string{"a", "A-b_c+d=e@f.g", "0/1/2", "sha256/ab/abcdef", strings.Repeat("x", 200)} {
		put(t, s, key+"/x", key)
		if got := get(t, s, key+"/x"); got != key {
			t.Errorf("%s holds %q", key, got)
		}
	}
}

func testList(t *testing.T, s blob.Store) {
	if got := keys(t, s, ""); got != nil {
		t.Fatalf("a new store has %q", got)
	}
	all := []string{"+/x", "-a/x", "a-b", "a.b", "a/b", "a/b-c/d", "a/b.c", "a/c/d", "a0", "b"} // in order
	for _, i := range rand.Perm(len(all)) {
		put(t, s, all[i], all[i])
	}
	for prefix, want := range map[string][]string{
		"": all, "a/": all[4:8], "a/c/": {"a/c/d"}, "+/": {"+/x"}, "-a/": {"-a/x"}, "c/": nil, "b/": nil,
	} {
		if diff := cmp.Diff(want, keys(t, s, prefix)); diff != "" {
			t.Errorf("list %q (-want +got):\n%s", prefix, diff)
		}
	}
	for info, err := range s.List(t.Context(), "") {
		if err != nil || info.Size != int64(len(info.Key)) {
			t.Fatalf("%+v, %v", info, err)
		}
		if info.Key == "a/b" {
			break // stopping early is fine
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range s.List(ctx, "") {
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("list with a context that has ended: %v", err)
		}
	}
}

func testConcurrent(t *testing.T, s blob.Store) {
	// Writers of one key: a reader sees all of one of them.
	var group errgroup.Group
	for i := range 8 {
		group.Go(func() error {
			return s.Put(t.Context(), "k/k", iotest.HalfReader(strings.NewReader(strings.Repeat(fmt.Sprint(i), 100_000))))
		})
		group.Go(func() error {
			b, err := s.Open(t.Context(), "k/k")
			if errors.Is(err, blob.ErrNotFound) {
				return nil
			} else if err != nil {
				return err
			}
			defer b.Close()
			content, err := io.ReadAll(b)
			if err == nil && (len(content) != 100_000 || strings.Trim(string(content), string(content[:1])) != "") {
				return fmt.Errorf("read %d bytes of several writers", len(content))
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
}

func testDeleteRaces(t *testing.T, s blob.Store) {
	// Delete tidies up folders while Put makes them.
	var group errgroup.Group
	for i := range 8 {
		group.Go(func() error {
			for range 20 {
				key := fmt.Sprintf("a/b/%d", i)
				if err := s.Put(t.Context(), key, strings.NewReader("x")); err != nil {
					return err
				}
				if _, err := s.Stat(t.Context(), key); err != nil {
					return err
				}
				if err := s.Delete(t.Context(), key); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := keys(t, s, ""); got != nil {
		t.Fatalf("%q are left", got)
	}
}
