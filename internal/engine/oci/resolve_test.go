package oci

import (
	"os"
	"path"
	"strings"
	"testing"
)

// FuzzResolve has paths of images lead to places that are in them, and have no links on their way.
func FuzzResolve(f *testing.F) {
	dir := f.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { root.Close() })
	for _, name := range []string{"a/b", "c"} {
		if err := root.MkdirAll(name, 0o755); err != nil {
			f.Fatal(err)
		}
	}
	for name, target := range map[string]string{"up": "../../..", "abs": "/a", "a/rel": "../c", "a/b/two": "/up/abs/rel", "loop": "/loop", "gone": "none/x"} {
		if err := root.Symlink(target, name); err != nil {
			f.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"/": "/", "": "/", "/a/b": "/a/b", "a//b/./": "/a/b", "/abs/b": "/a/b", "/a/b/two/x": "/c/x", "/up/up/c": "/c", "/gone/../y": "/none/y",
		"/../a/../../c": "/c", "/loop/x": "", strings.Repeat("/", 300): "", "/\x00": "",
	} {
		if got, _ := resolve(root, name); got != want {
			f.Errorf("%q leads to %q, want %q", name, got, want)
		}
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		place, err := resolve(root, name)
		if err != nil {
			return
		}
		if !path.IsAbs(place) || path.Clean(place) != place {
			t.Fatalf("%q leads to %q", name, place)
		}
		if again, err := resolve(root, place); err != nil || again != place {
			t.Fatalf("%q leads to %q, and that to %q, %v", name, place, again, err)
		}
	})
}
