package helm

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway/internal/manifest/source"
)

const chartFile = "{apiVersion: v2, name: %s, version: 1.0.0}\n"

// entry is a file of a packed chart.
type entry struct {
	name, content string
	link          string // what a link leads to
	repeat        int    // how often the content is there; 0 means once
}

// pack returns a packed chart.
func pack(t testing.TB, entries ...entry) string {
	t.Helper()
	var out bytes.Buffer
	zipped, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	files := tar.NewWriter(zipped)
	for _, e := range entries {
		header := tar.Header{Name: e.name, Mode: 0o600, Size: int64(len(e.content) * max(e.repeat, 1)), Typeflag: tar.TypeReg}
		if e.link != "" {
			header = tar.Header{Name: e.name, Linkname: e.link, Typeflag: tar.TypeSymlink}
		}
		if err := files.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		for range max(e.repeat, 1) {
			if _, err := files.Write([]byte(e.content)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := files.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zipped.Close(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// workspace returns the files of a new folder, and the folder.
func workspace(t testing.TB, content map[string]string) (*source.Files, string) {
	t.Helper()
	dir := t.TempDir()
	for name, data := range content {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return source.New(root), dir
}

// names returns what the chart in the folder web gives, as kind/name.
func names(t testing.TB, files *source.Files) (string, error) {
	t.Helper()
	result, err := Render(t.Context(), source.Request{Files: files, Name: "web"})
	var all []string
	for _, o := range result.Objects {
		all = append(all, fmt.Sprintf("%v/%v at %s", o.Value["kind"], o.Value["metadata"].(map[string]any)["name"], o.At))
	}
	return strings.Join(all, ", "), err
}

const object = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: \"{{ .Chart.Name }}-%s\"}\n"

// TestPacked has subcharts as files, one in another.
func TestPacked(t *testing.T) {
	inner := pack(t, entry{name: "inner/Chart.yaml", content: fmt.Sprintf(chartFile, "inner")}, entry{name: "inner/templates/a.yaml", content: fmt.Sprintf(object, "a")})
	sub := pack(t,
		entry{name: "sub/Chart.yaml", content: fmt.Sprintf(chartFile, "sub")},
		entry{name: "sub/templates/b.yaml", content: fmt.Sprintf(object, `{{ .Values.x }}{{ .Files.Get "link" }}`)},
		entry{name: "sub/values.yaml", content: "x: 1"},
		entry{name: "sub/link", link: "/etc/passwd"},
		entry{name: "sub/charts/inner-1.0.0.tgz", content: inner},
	)
	files, _ := workspace(t, map[string]string{
		"web/Chart.yaml":                "apiVersion: v2\nname: web\nversion: 1.0.0\ndependencies: [{name: sub, version: 1.x.x}]\n",
		"web/charts/sub-1.0.0.tgz":      sub,
		"web/charts/sub-1.0.0.tgz.prov": "a signature",
		"web/charts/_off.tgz":           "not looked at",
		"web/values.yaml":               "sub: {x: 2}",
	})
	got, err := names(t, files)
	const want = "ConfigMap/inner-a at web/charts/sub/charts/inner/templates/a.yaml:2:1, ConfigMap/sub-2 at web/charts/sub/templates/b.yaml:2:1"
	if err != nil || got != want {
		t.Errorf("got %s and %v, want %s", got, err, want)
	}
}

func TestHostile(t *testing.T) {
	noise := make([]byte, 1<<20)
	rng := rand.NewChaCha8([32]byte{})
	_, _ = rng.Read(noise)
	nested := pack(t, entry{name: "a/Chart.yaml", content: fmt.Sprintf(chartFile, "a")})
	for range MaxPacking + 1 {
		nested = pack(t, entry{name: "a/Chart.yaml", content: fmt.Sprintf(chartFile, "a")}, entry{name: "a/charts/a.tgz", content: nested})
	}
	var many []entry
	for i := range MaxFiles + 1 {
		many = append(many, entry{name: fmt.Sprintf("a/files/%d", i)})
	}
	double := pack(t, entry{name: "a/Chart.yaml", content: fmt.Sprintf(chartFile, "a")}, entry{name: "a/zeros", content: string(make([]byte, 1<<20)), repeat: 34})
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"a bomb": {
			map[string]string{"web/charts/a.tgz": pack(t, entry{name: "a/zeros", content: string(make([]byte, 1<<20)), repeat: 66})},
			"web/charts/a.tgz: the chart has more than 64 MiB",
		},
		"a file beside the folder": {
			map[string]string{"web/charts/a.tgz": pack(t, entry{name: "zeros", content: "0"})},
			`web/charts/a.tgz: charts/a.tgz has the file "zeros", which is not in the folder of its chart`,
		},
		"two that are too large together": {
			map[string]string{"web/charts/a.tgz": double, "web/charts/b.tgz": double},
			"web/charts/b.tgz: the chart has more than 64 MiB",
		},
		"many in each other": {map[string]string{"web/charts/a.tgz": nested}, "web/charts/a.tgz: more than 100 packed charts, or more than 5 in each other"},
		"many files":         {map[string]string{"web/charts/a.tgz": pack(t, many...)}, "web/charts/a.tgz: the chart has more than 5000 files"},
		"a way out":          {map[string]string{"web/charts/a.tgz": pack(t, entry{name: "a/../../b", content: "x"})}, `has the file "a/../../b", which is not in the folder of its chart`},
		"an absolute path":   {map[string]string{"web/charts/a.tgz": pack(t, entry{name: "a//etc/passwd", content: "x"})}, `has the file "a//etc/passwd", which is not`},
		"a way out of Windows": {
			map[string]string{"web/charts/a.tgz": pack(t, entry{name: `a\..\b`, content: "x"})}, `which is not in the folder of its chart`,
		},
		"noise":                    {map[string]string{"web/charts/a.tgz": string(noise)}, "web/charts/a.tgz: charts/a.tgz is no packed chart: gzip: invalid header"},
		"cut off":                  {map[string]string{"web/charts/a.tgz": double[:len(double)/2]}, "web/charts/a.tgz: charts/a.tgz is no packed chart: unexpected EOF"},
		"an alias bomb":            {map[string]string{"web/values.yaml": aliases()}, "web/values.yaml: the aliases of the document unfold to more than 16 MiB"},
		"in a subchart":            {map[string]string{"web/charts/a/Chart.yaml": fmt.Sprintf(chartFile, "a"), "web/charts/a/values.yaml": aliases()}, "web/charts/a/values.yaml: the aliases"},
		"in what a template gives": {map[string]string{"web/bomb": aliases(), "web/templates/a.yaml": `{{ .Files.Get "bomb" }}`}, "web/templates/a.yaml: the aliases"},
	} {
		t.Run(name, func(t *testing.T) {
			c.files["web/Chart.yaml"] = fmt.Sprintf(chartFile, "web")
			files, _ := workspace(t, c.files)
			if got, err := names(t, files); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %s and %v, want the error %s", got, err, c.want)
			}
		})
	}
}

// aliases is a small document that unfolds to a large one.
func aliases() string {
	var b strings.Builder
	b.WriteString("a0: &a0 " + strings.Repeat("x", 100) + "\n")
	for i := range 9 {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i), 10), ","))
	}
	return b.String()
}

// TestLinks has links in a chart: inside of the workspace they are followed, as Helm does, and out of it they are not.
func TestLinks(t *testing.T) {
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "passwd"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		link, to string
		want     string // of the error; empty if there is none
	}{
		"a file outside":   {"web/files/passwd", filepath.Join(outside, "passwd"), "the path leads out of the workspace"},
		"a folder outside": {"web/files", outside, "the path leads out of the workspace"},
		"upwards":          {"web/files", "../../..", "the path leads out of the workspace"},
		"where it is":      {"web/files", ".", "too many levels of symbolic links"},
		"a common chart":   {"web/charts/common", "../../common", ""},
	} {
		t.Run(name, func(t *testing.T) {
			files, dir := workspace(t, map[string]string{
				"web/Chart.yaml":          fmt.Sprintf(chartFile, "web"),
				"web/templates/a.yaml":    fmt.Sprintf(object, "a"),
				"common/Chart.yaml":       fmt.Sprintf(chartFile, "common"),
				"common/templates/b.yaml": fmt.Sprintf(object, "b"),
			})
			link := filepath.Join(dir, c.link)
			if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(c.to, link); err != nil {
				t.Fatal(err)
			}
			got, err := names(t, files)
			switch {
			case c.want == "" && (err != nil || !strings.Contains(got, "ConfigMap/common-b at web/charts/common/templates/b.yaml")):
				t.Errorf("got %s and %v", got, err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %s and %v, want the error %s", got, err, c.want)
			}
		})
	}
}

// FuzzUnpack looks for packed charts that crash, or put a file where none may be.
func FuzzUnpack(f *testing.F) {
	f.Add([]byte(pack(f, entry{name: "a/Chart.yaml", content: fmt.Sprintf(chartFile, "a")}, entry{name: "a/charts/b.tgz", content: pack(f, entry{name: "b/c"})})))
	f.Add([]byte(pack(f, entry{name: `a\..\b`, content: "x"}, entry{name: "l", link: "/"})))
	f.Fuzz(func(t *testing.T, data []byte) {
		var b bundle
		if err := b.unpack("charts/a.tgz", data, 1); err != nil {
			return
		}
		for _, file := range b.files {
			if !fs.ValidPath(file.Name) || !strings.HasPrefix(file.Name, "charts/a/") {
				t.Errorf("unpacked %q", file.Name)
			}
		}
	})
}

// FuzzDocuments looks for outputs of templates that crash, or give what is no mapping.
func FuzzDocuments(f *testing.F) {
	f.Add("apiVersion: v1\nkind: Job\nmetadata: {annotations: {helm.sh/hook: \"pre-install, test\", helm.sh/hook-weight: \"1\"}}\n---\n# x\n---\n- a\n")
	f.Add("metadata: {annotations: {helm.sh/hook: 1}}")
	f.Add("a: b\n c: d\n")
	f.Fuzz(func(t *testing.T, text string) {
		r := run{folder: "web"}
		if err := r.documents("web/templates/a.yaml", text, map[string][]int{"Job": {2}}); err != nil {
			return
		}
		for _, o := range r.result.Objects {
			if len(o.Value) == 0 {
				t.Error("an object has nothing in it")
			}
		}
	})
}
