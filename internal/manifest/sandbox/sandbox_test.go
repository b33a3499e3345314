package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/ci"
	"slipway/internal/manifest"
	"slipway/internal/manifest/sandbox"
)

// program is what a sandbox runs here; TestMain builds it.
var program string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "slipway-sandbox-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		program = filepath.Join(dir, "render")
		build := exec.Command("go", "build", "-o", program, "./testdata/render")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build the process: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// workspace returns a workspace with files.
func workspace(t *testing.T, files map[string]string) *os.Root {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

const chart = "{apiVersion: v2, name: web, version: 1.0.0}\n"

// TestSame has the process give what this one gives, errors included.
func TestSame(t *testing.T) {
	root := workspace(t, map[string]string{
		"web/Chart.yaml":         chart,
		"web/templates/a.yaml":   "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, uid: {{ randAlpha 3 | len | quote }}}\ndata: {a: {{ .Values.a | quote }}}\nx: {{ .Capabilities.KubeVersion.Minor }}\n",
		"values.yaml":            "a: ${A}\n",
		"k/kustomization.yaml":   "resources: [a.yaml]\n",
		"k/a.yaml":               "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {priority: 9007199254740993, containers: [{name: a, image: 'a:1'}]}\n",
		"one.jsonnet":            "{apiVersion: 'v1', kind: 'ConfigMap', metadata: {name: 'b'}, data: {a: std.extVar('A')}}",
		"wrong/Chart.yaml":       chart,
		"wrong/templates/a.yaml": "{{ fail \"no\" }}",
		"wrong.yaml":             "a: b\n",
	})
	s := sandbox.Sandbox{Program: program}
	for _, src := range []manifest.Source{
		{
			Root: root, Paths: []string{"web", "k", "one.jsonnet"}, Namespace: "n", Variables: map[string]string{"A": "x"},
			Charts: manifest.Charts{Values: []string{"values.yaml"}, KubeVersion: "1.34"},
			Images: manifest.Images{Named: map[string]string{"a": "b:2"}, Pushed: []ci.Image{{Ref: "b:2", Digest: "sha256:" + strings.Repeat("a", 64)}}},
		},
		{Root: root, Paths: []string{"wrong", "wrong.yaml", "gone"}},
		{Root: root, Paths: []string{"one.jsonnet"}, Variables: map[string]string{"a b": ""}},
	} {
		want, wantErr := manifest.Render(t.Context(), src)
		got, gotErr := s.Render(t.Context(), src)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%v (-here +there):\n%s", src.Paths, diff)
		}
		if fmt.Sprint(gotErr) != fmt.Sprint(wantErr) {
			t.Errorf("%v: got the error %v, want %v", src.Paths, gotErr, wantErr)
		}
		var problems manifest.Problems
		if errors.As(wantErr, &problems) != errors.As(gotErr, &problems) {
			t.Errorf("%v: got problems where there are none, or the other way around", src.Paths)
		}
	}
}

// TestBombs has programs that would take all the memory, or for ever.
func TestBombs(t *testing.T) {
	const megabyte = 1 << 20
	const loop = "local f(x) = if x > 0 then f(x - 1) tailstrict else 0; {a: [f(300) + y for y in std.range(1, 100000000)]}"
	for name, c := range map[string]struct {
		sandbox sandbox.Sandbox
		files   map[string]string
		path    string
		want    string
	}{
		"jsonnet that grows": {
			sandbox.Sandbox{Memory: 300 * megabyte},
			map[string]string{"a.jsonnet": "local double(s, n) = if n == 0 then s else double(s + s, n - 1); {a: double('x', 40)}"},
			"a.jsonnet", "a.jsonnet: rendering needs more than 300 MiB of memory",
		},
		"jsonnet that goes on": {
			sandbox.Sandbox{Time: 2 * time.Second, Memory: 4 << 30},
			map[string]string{"a.jsonnet": loop},
			"a.jsonnet", "a.jsonnet: rendering takes longer than 2s",
		},
		"a template that grows": {
			sandbox.Sandbox{Memory: 300 * megabyte},
			map[string]string{"web/Chart.yaml": chart, "web/templates/a.yaml": "a: {{ repeat 1000000000 \"xxxxxxxxxx\" }}"},
			"web", "web: rendering needs more than 300 MiB of memory",
		},
		"a template that goes on": {
			sandbox.Sandbox{Time: 2 * time.Second},
			map[string]string{"web/Chart.yaml": chart, "web/templates/a.yaml": "{{ range until 100000 }}{{ range until 100000 }}{{ end }}{{ end }}"},
			"web", "web: rendering takes longer than 2s",
		},
		"templates that call each other": {
			sandbox.Sandbox{},
			map[string]string{"web/Chart.yaml": chart, "web/templates/a.yaml": `{{ define "a" }}{{ tpl "{{ template \"b\" . }}" . }}{{ end }}{{ define "b" }}{{ template "a" . }}{{ end }}{{ template "a" . }}`},
			"web", "web",
		},
		"many objects": {
			sandbox.Sandbox{},
			map[string]string{
				"web/Chart.yaml": chart, "web/x": "x" + strings.Repeat(`"`, megabyte), // twice as long in JSON
				"web/templates/a.yaml": "{{ range until 40 }}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a{{ . }}}\ndata:\n  a: {{ $.Files.Get \"x\" }}\n{{ end }}",
			},
			"web", "web: the objects have more than 64 MiB together",
		},
	} {
		t.Run(name, func(t *testing.T) {
			c.sandbox.Program = program
			_, err := c.sandbox.Render(t.Context(), manifest.Source{Root: workspace(t, c.files), Paths: []string{c.path}})
			if err == nil || !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

// TestCanceled has a process that would go on for ever end with its context.
func TestCanceled(t *testing.T) {
	root := workspace(t, map[string]string{"web/Chart.yaml": chart, "web/templates/a.yaml": "{{ range until 1000000 }}{{ range until 1000000 }}{{ end }}{{ end }}"})
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("somebody has had enough")
	time.AfterFunc(50*time.Millisecond, func() { cancel(why) })
	if _, err := (sandbox.Sandbox{Program: program}).Render(ctx, manifest.Source{Root: root, Paths: []string{"web"}}); !errors.Is(err, why) {
		t.Errorf("got %v, want %v", err, why)
	}
}

// TestNothing has a program that is none of ours.
func TestNothing(t *testing.T) {
	root := workspace(t, map[string]string{"a.yaml": "a: b"})
	for _, program := range []string{"/bin/false", "/bin/true", "/nowhere"} {
		if _, err := (sandbox.Sandbox{Program: program}).Render(t.Context(), manifest.Source{Root: root, Paths: []string{"a.yaml"}}); err == nil {
			t.Errorf("%s: there is no error", program)
		}
	}
}
