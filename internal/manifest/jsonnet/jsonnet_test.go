package jsonnet

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway/internal/manifest/source"
)

// TestImport has files that lead out of the workspace, and such that are not there at first sight.
func TestImport(t *testing.T) {
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	const object = "{apiVersion: 'v1', kind: 'ConfigMap', metadata: {name: %s}}"
	for name, c := range map[string]struct {
		text  string
		links map[string]string
		want  string // the name of the object
		err   string
	}{
		"a link outside": {
			text: "importstr 'link'", links: map[string]string{"app/link": filepath.Join(outside, "secret")},
			err: "app/main.jsonnet:1:56: app/link: the path leads out of the workspace",
		},
		"a folder outside": {
			text: "importbin 'vendored/secret'", links: map[string]string{"vendor/vendored": outside},
			err: "app/main.jsonnet:1:56: vendor/vendored/secret: the path leads out of the workspace",
		},
		"a link inside": {text: "(importstr 'name')", links: map[string]string{"app/name": "../names/a"}, want: "a"},
		"upwards":       {text: "importstr '../names/a'", want: "a"},
		"from lib":      {text: "importstr 'a'", links: map[string]string{"app/lib": "../names"}, want: "a"},
		"from vendor":   {text: "importstr 'a'", links: map[string]string{"vendor": "names"}, want: "a"},
		"beside before lib": {
			text: "importstr 'a'", links: map[string]string{"app/a": "../names/b", "app/lib": "../names"}, want: "b",
		},
		"a folder":     {text: "importstr '../names'", err: "names: is a folder, not a file"},
		"the network":  {text: "import 'https://example.com/a'", err: "https://example.com/a is not in the workspace"},
		"itself":       {text: "import 'main.jsonnet'", err: "max stack frames exceeded"},
		"the machine":  {text: "importstr '/proc/self/environ'", err: "/proc/self/environ is an absolute path"},
		"an extension": {text: "std.native('exec')('id')", err: "main.jsonnet"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, content := range map[string]string{"app/main.jsonnet": fmt.Sprintf(object, c.text), "names/a": "a", "names/b": "b"} {
				path := filepath.Join(dir, file)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for link, to := range c.links {
				path := filepath.Join(dir, link)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(to, path); err != nil {
					t.Fatal(err)
				}
			}
			root, err := os.OpenRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			result, err := Render(t.Context(), source.Request{Files: source.New(root), Name: "app/main.jsonnet"})
			switch {
			case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
				t.Errorf("got %v and %v, want the error %s", result.Objects, err, c.err)
			case c.err == "" && (err != nil || result.Objects[0].Value["metadata"].(map[string]any)["name"] != c.want):
				t.Errorf("got %v and %v, want the name %s", result.Objects, err, c.want)
			}
		})
	}
}

// TestNested has a value that is nested deeper than any object.
func TestNested(t *testing.T) {
	var value any
	for range source.MaxDepth + 2 {
		value = []any{value}
	}
	c := collector{file: "a.jsonnet"}
	if err := c.collect(value, nil); err == nil || !strings.Contains(err.Error(), "[0][0][0][0][0] is nested more than 200 levels deep") {
		t.Errorf("got %v", err)
	}
}
