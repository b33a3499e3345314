package manifest_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"slipway/internal/ci"
	"slipway/internal/manifest"
	"slipway/internal/manifest/source"
)

var update = flag.Bool("update", false, "rewrite the wanted parts of testdata")

// TestCases renders each txtar of testdata. Its comment has one setting a line (see [settings]; # is for people), its
// files are the workspace, and want is the output.
func TestCases(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases in testdata: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			want := -1
			for i, f := range archive.Files {
				if f.Name == "want" {
					want = i
					continue
				}
				write(t, dir, f.Name, string(f.Data))
			}
			s := settings(t, string(archive.Comment))
			s.Root = open(t, dir)
			got := output(manifest.Render(t.Context(), s))
			if *update {
				if want < 0 {
					archive.Files = append(archive.Files, txtar.File{Name: "want"})
					want = len(archive.Files) - 1
				}
				archive.Files[want].Data = []byte(got)
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if want < 0 {
				t.Fatal("the case has no file want; run with -update and look at it")
			}
			if diff := cmp.Diff(string(archive.Files[want].Data), got); diff != "" {
				t.Errorf("output (-want +got):\n%s", diff)
			}
		})
	}
}

func output(r manifest.Rendered, err error) string {
	var out strings.Builder
	if err != nil {
		fmt.Fprintln(&out, err)
	}
	for _, p := range r.Pins {
		fmt.Fprintln(&out, p)
	}
	for _, note := range r.Notes {
		fmt.Fprintln(&out, "note:", note)
	}
	if err := manifest.Write(&out, r.Objects); err != nil {
		fmt.Fprintln(&out, err)
	}
	return out.String()
}

func settings(t *testing.T, comment string) manifest.Source {
	var s manifest.Source
	for line := range strings.Lines(comment) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch key {
		case "", "#":
		case "path":
			s.Paths = append(s.Paths, value)
		case "namespace":
			s.Namespace = value
		case "image":
			name, ref, _ := strings.Cut(value, "=")
			put(&s.Images.Named, name, ref)
		case "var", "secret":
			name, text, _ := strings.Cut(value, "=")
			put(&s.Variables, name, strings.ReplaceAll(text, `\n`, "\n"))
			if key == "secret" {
				s.Confidential = append(s.Confidential, text)
			}
		case "values":
			s.Charts.Values = append(s.Charts.Values, value)
		case "set":
			name, text, _ := strings.Cut(value, "=")
			put(&s.Charts.Set, name, text)
		case "set-string":
			name, text, _ := strings.Cut(value, "=")
			put(&s.Charts.SetText, name, text)
		case "release-name":
			s.Charts.Release = value
		case "kube-version":
			s.Charts.KubeVersion = value
		case "api-versions":
			s.Charts.APIVersions = strings.Fields(value)
		case "upgrade":
			s.Charts.Upgrade = true
		case "pushed":
			ref, letter, _ := strings.Cut(value, " ")
			s.Images.Pushed = append(s.Images.Pushed, ci.Image{Ref: ref, Digest: digest(letter)})
		default:
			t.Fatalf("unknown setting %q", line)
		}
	}
	return s
}

func put(values *map[string]string, name, value string) {
	if *values == nil {
		*values = map[string]string{}
	}
	(*values)[name] = value
}

// digest returns a digest that is easy to tell from another.
func digest(letter string) string { return "sha256:" + strings.Repeat(letter, 64) }

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, dir string) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

// render renders paths of dir and returns the error's text.
func render(t *testing.T, dir string, paths ...string) string {
	t.Helper()
	_, err := manifest.Render(t.Context(), manifest.Source{Root: open(t, dir), Paths: paths})
	if err == nil {
		t.Fatal("Render succeeded")
	}
	return err.Error()
}

const configMap = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\n"

// TestHostileFiles has what a step can leave in a workspace and txtar cannot hold.
func TestHostileFiles(t *testing.T) {
	outside := t.TempDir()
	write(t, outside, "secret.yaml", fmt.Sprintf(configMap, "secret"))
	write(t, outside, "kustomization.yaml", "resources: [secret.yaml]\n")
	for name, c := range map[string]struct {
		make func(dir string) error
		path string
		want string
	}{
		"link to a file outside": {
			func(dir string) error {
				return os.Symlink(filepath.Join(outside, "secret.yaml"), filepath.Join(dir, "a.yaml"))
			},
			"a.yaml", "a.yaml: the path leads out of the workspace",
		},
		"link to a folder outside": {
			func(dir string) error { return os.Symlink(outside, filepath.Join(dir, "k8s")) },
			"k8s", "k8s: the path leads out of the workspace",
		},
		"kustomization with a link outside": {
			func(dir string) error {
				write(t, dir, "kustomization.yaml", "resources: [secret.yaml]\n")
				return os.Symlink(filepath.Join(outside, "secret.yaml"), filepath.Join(dir, "secret.yaml"))
			},
			".", "kustomization.yaml:1:13: secret.yaml: the path leads out of the workspace",
		},
		"a pipe": {
			func(dir string) error { return syscall.Mkfifo(filepath.Join(dir, "a.yaml"), 0o600) },
			"a.yaml", "a.yaml: is not a regular file",
		},
		"a large file": {
			func(dir string) error {
				return os.WriteFile(filepath.Join(dir, "a.yaml"), make([]byte, source.MaxFileBytes+1), 0o600)
			},
			"a.yaml", "a.yaml: the file is larger than 8 MiB",
		},
		"many objects": {
			func(dir string) error {
				write(t, dir, "a.yaml", strings.Repeat("---\n"+fmt.Sprintf(configMap, "a"), manifest.MaxObjects+1))
				return nil
			},
			"a.yaml", "a.yaml:20002:1: there are more than 5000 objects; deploy them in parts",
		},
		"an alias bomb": {
			func(dir string) error { write(t, dir, "a.yaml", bomb()); return nil },
			"a.yaml", "a.yaml:1:1: the aliases of the document unfold to more than 16 MiB",
		},
		"an alias bomb in a kustomization": {
			func(dir string) error {
				write(t, dir, "a.yaml", bomb())
				write(t, dir, "kustomization.yaml", "resources: [a.yaml]\n")
				return nil
			},
			".", "a.yaml: the aliases of the document unfold to more than 16 MiB",
		},
		"an alias bomb in an inline patch": {
			func(dir string) error {
				write(t, dir, "kustomization.yaml", "patches:\n- target: {kind: X}\n  patch: |\n    "+strings.ReplaceAll(bomb(), "\n", "\n    "))
				return nil
			},
			".", "kustomization.yaml:3:10: the aliases of the document unfold to more than 16 MiB",
		},
		"deep nesting": {
			func(dir string) error {
				write(t, dir, "a.yaml", "a: "+strings.Repeat("[", 5000)+strings.Repeat("]", 5000))
				return nil
			},
			"a.yaml", "a.yaml:1:1: the document is nested more than 200 levels deep",
		},
		"bases that double": {
			func(dir string) error {
				for i := range 20 {
					write(t, dir, fmt.Sprintf("%d/a/kustomization.yaml", i), fmt.Sprintf("namePrefix: a\nresources: [../../%d/a, ../../%d/b]\n", i+1, i+1))
					write(t, dir, fmt.Sprintf("%d/b/kustomization.yaml", i), fmt.Sprintf("namePrefix: b\nresources: [../../%d/a, ../../%d/b]\n", i+1, i+1))
				}
				write(t, dir, "20/a/kustomization.yaml", "namePrefix: a\n")
				write(t, dir, "20/b/kustomization.yaml", "namePrefix: b\n")
				return nil
			},
			"0/a", "more than 500 kustomizations are included",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := c.make(dir); err != nil {
				t.Fatal(err)
			}
			if got := render(t, dir, c.path); !strings.Contains(got, c.want) {
				t.Errorf("error %q, want %q", got, c.want)
			}
		})
	}
}

// bomb is a small document that unfolds to a large one.
func bomb() string {
	var b strings.Builder
	b.WriteString("a0: &a0 " + strings.Repeat("x", 100) + "\n")
	for i := range 9 {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i), 10), ","))
	}
	return b.String()
}

func TestLinkInside(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "k8s/a.yaml", fmt.Sprintf(configMap, "a"))
	if err := os.Symlink("k8s/a.yaml", filepath.Join(dir, "b.yaml")); err != nil {
		t.Fatal(err)
	}
	r, err := manifest.Render(t.Context(), manifest.Source{Root: open(t, dir), Paths: []string{"b.yaml"}})
	if err != nil || len(r.Objects) != 1 {
		t.Errorf("got %d objects and %v, want one", len(r.Objects), err)
	}
}

func TestCanceled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := manifest.Render(ctx, manifest.Source{Root: open(t, t.TempDir()), Paths: []string{"a.yaml"}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that the context is canceled", err)
	}
}

// FuzzRender looks for manifests that crash the parser or are accepted without a kind and a name.
func FuzzRender(f *testing.F) {
	f.Add("a.yaml", fmt.Sprintf(configMap, "a"))
	f.Add("a.json", `{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}]}`)
	f.Add("kustomization.yaml", "configMapGenerator: [{name: a, literals: [b=c]}]\n")
	f.Add("a.yaml", "--- # x\n---\na: &a [1]\nb: *a\n...\n")
	f.Add("kustomization.yaml", "transformers:\n- |-\n  apiVersion: builtin\n  kind: LabelTransformer\n  metadata: {name: a}\n")
	f.Fuzz(func(t *testing.T, name, content string) {
		if name != "a.yaml" && name != "a.json" && name != "kustomization.yaml" {
			name = "a.yaml"
		}
		dir := t.TempDir()
		write(t, dir, name, content)
		r, err := manifest.Render(t.Context(), manifest.Source{Root: open(t, dir), Paths: []string{"."}, Namespace: "n"})
		if (err == nil) != (len(r.Objects) > 0) {
			t.Fatalf("%d objects and %v", len(r.Objects), err)
		}
		for _, o := range r.Objects {
			if o.GetKind() == "" || o.GetAPIVersion() == "" || o.GetName() == "" {
				t.Errorf("accepted %v", o.Object)
			}
		}
	})
}
