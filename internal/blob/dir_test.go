package blob_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"slipway/internal/blob"
	"slipway/internal/blob/blobtest"
	"slipway/internal/testneeds"
)

func openDir(t testing.TB, folder string) *blob.Dir {
	t.Helper()
	d, err := blob.OpenDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func TestDir(t *testing.T) {
	blobtest.Run(t, func(t testing.TB) blob.Store { return openDir(t, filepath.Join(t.TempDir(), "new", "blobs")) })
}

func TestOpenDirSweeps(t *testing.T) {
	folder := t.TempDir()
	first := openDir(t, folder)
	if err := first.Put(t.Context(), "a/b", strings.NewReader("kept")); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(folder, ".tmp", "LEFT")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	again := openDir(t, folder)
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a crash left behind is still there: %v", err)
	}
	if _, err := again.Stat(t.Context(), "a/b"); err != nil {
		t.Error(err)
	}
}

// A symbolic link in the folder, however it got there, leads nowhere.
func TestDirSymlink(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	d := openDir(t, folder)
	for name, target := range map[string]string{"file": outside, "folder": filepath.Dir(outside)} {
		if err := os.Symlink(target, filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{"file", "folder/secret"} {
		if b, err := d.Open(t.Context(), key); err == nil {
			t.Errorf("opened %s", key)
			b.Close()
		}
		_ = d.Put(t.Context(), key, strings.NewReader("changed")) // it may replace the link itself
	}
	if content, err := os.ReadFile(outside); err != nil || string(content) != "secret" {
		t.Fatalf("the file outside holds %q, %v", content, err)
	}
}

func TestDirFullDisk(t *testing.T) {
	testneeds.Root(t)
	folder := t.TempDir()
	if err := syscall.Mount("tmpfs", folder, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatalf("mount a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(folder, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	d := openDir(t, folder)
	if err := d.Put(t.Context(), "k", strings.NewReader("small")); err != nil {
		t.Fatal(err)
	}
	err := d.Put(t.Context(), "k", strings.NewReader(strings.Repeat("big", 1<<20)))
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "the disk is full; free some space") {
		t.Fatalf("error is %v", err)
	}
	// Nothing is left behind: the same blob, smaller, has room.
	if err := d.Put(t.Context(), "k", strings.NewReader(strings.Repeat("x", 200<<10))); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkDirPut(b *testing.B) {
	d := openDir(b, b.TempDir())
	content := strings.Repeat("x", 1<<20)
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		if err := d.Put(b.Context(), "a/b/c", strings.NewReader(content)); err != nil {
			b.Fatal(err)
		}
	}
}
