package kustomize

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway/internal/manifest/source"
)

func files(t *testing.T, dir string) *source.Files {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return source.New(root)
}

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestSwapped puts a folder with a remote base where the checker saw a file.
func TestSwapped(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "kustomization.yaml"), "resources: [a]\n")
	write(t, filepath.Join(dir, "a"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n")
	f := files(t, dir)
	c := checker{files: f}
	if err := c.folder(".", nil); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "a", "kustomization.yaml"), "resources: ['http://127.0.0.1:1/x.yaml']\n")
	_, err := run(f, ".")
	if err == nil || strings.Contains(err.Error(), "127.0.0.1") {
		t.Errorf("got %v, want an error before anything is fetched", err)
	}
	if _, err := (fileSystem{f}).ReadFile("/a/kustomization.yaml"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want that there is no such file", err)
	}
}

func TestReadOnly(t *testing.T) {
	f := fileSystem{files(t, t.TempDir())}
	for name, err := range map[string]error{
		"mkdir":  f.Mkdir("/a"),
		"remove": f.RemoveAll("/"),
		"write":  f.WriteFile("/a", nil),
	} {
		if !errors.Is(err, errReadOnly) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := f.Create("/a"); !errors.Is(err, errReadOnly) {
		t.Errorf("create: got %v", err)
	}
}

func TestRemote(t *testing.T) {
	for _, ref := range []string{
		"http://a/b", "HTTPS://a/b", "git::https://a/b", "ssh://git@a/b", "git@a:b/c.git", "file:///etc", "github.com/a/b",
		"GitHub.com:a/b", "git::github.com/a/b", "user@host/path//x",
	} {
		if !remote(ref) {
			t.Errorf("%s is not taken for remote", ref)
		}
	}
	for _, ref := range []string{"a.yaml", "../base", "./github.com/a", "http", "dir/http:/x", "k8s//a.yaml"} {
		if remote(ref) {
			t.Errorf("%s is taken for remote", ref)
		}
	}
}
