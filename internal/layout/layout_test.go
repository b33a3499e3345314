package layout_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	crandom "github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/opencontainers/go-digest"

	"slipway/internal/layout"
	"slipway/internal/registry"
	"slipway/internal/remote"
	"slipway/internal/store/sqlstore"
	"slipway/internal/testneeds"
)

// everybody may do everything.
type everybody struct{}

func (everybody) Access(context.Context, string, string) (registry.Grants, error) {
	return everybody{}, nil
}
func (everybody) Subject() string                     { return "somebody" }
func (everybody) Allows(string, registry.Action) bool { return true }

type site struct {
	t      *testing.T
	host   string
	client *remote.Client
}

func newSite(t *testing.T) *site {
	t.Helper()
	db, err := sqlstore.Open(t.Context(), filepath.Join(t.TempDir(), "slipway.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	h, err := registry.New(registry.Options{Dir: t.TempDir(), Store: db, Authority: everybody{}, Key: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	client := remote.New(remote.Options{Insecure: []string{host}})
	t.Cleanup(client.Close)
	return &site{t, host, client}
}

func (s *site) repo(name string) remote.Repository {
	return remote.Repository{Host: s.host, Name: name}
}

func (s *site) blob(repo string, content []byte) map[string]any {
	s.t.Helper()
	if err := s.client.PutBlob(s.t.Context(), s.repo(repo), content); err != nil {
		s.t.Fatal(err)
	}
	return descriptor("application/octet-stream", content)
}

func descriptor(mediaType string, content []byte) map[string]any {
	return map[string]any{"mediaType": mediaType, "digest": digest.FromBytes(content).String(), "size": len(content)}
}

const (
	imageType = "application/vnd.oci.image.manifest.v1+json"
	indexType = "application/vnd.oci.image.index.v1+json"
)

// manifest pushes a manifest under a reference, or, if that is empty, its digest, and returns its descriptor.
func (s *site) manifest(repo, ref string, m map[string]any) map[string]any {
	s.t.Helper()
	m["schemaVersion"] = 2
	text, err := json.Marshal(m)
	if err != nil {
		s.t.Fatal(err)
	}
	if ref == "" {
		ref = digest.FromBytes(text).String()
	}
	mediaType := m["mediaType"].(string)
	if err := s.client.PutManifest(s.t.Context(), s.repo(repo), ref, remote.Manifest{MediaType: mediaType, Content: text}); err != nil {
		s.t.Fatal(err)
	}
	return descriptor(mediaType, text)
}

// fill makes a repository with an image under two tags, an index, a signature of one of its images, and a signature of
// that; it has 4 manifests and 4 blobs that differ, and a layer that is not to be had.
func (s *site) fill(repo string) {
	layer, config := s.blob(repo, bytes.Repeat([]byte("layer"), 100_000)), s.blob(repo, []byte("{}"))
	foreign := descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar", []byte("elsewhere"))
	image := s.manifest(repo, "1.0", map[string]any{"mediaType": imageType, "config": config, "layers": []any{layer, foreign}})
	s.manifest(repo, "latest", map[string]any{"mediaType": imageType, "config": config, "layers": []any{layer, foreign}})
	s.manifest(repo, "all", map[string]any{"mediaType": indexType, "manifests": []any{image}})
	signature := s.manifest(repo, "", map[string]any{
		"mediaType": imageType, "artifactType": "x/signature", "config": config, "layers": []any{s.blob(repo, []byte("signed"))}, "subject": image,
	})
	s.manifest(repo, "", map[string]any{
		"mediaType": imageType, "artifactType": "x/signature", "config": config, "layers": []any{s.blob(repo, []byte("signed again"))}, "subject": signature,
	})
}

// contents are the tags of a repository with their digests, and the referrers of each digest.
func (s *site) contents(repo string) map[string]string {
	s.t.Helper()
	tags, err := s.client.Tags(s.t.Context(), s.repo(repo))
	if err != nil {
		s.t.Fatal(err)
	}
	all := map[string]string{}
	ask := []string{}
	for _, tag := range tags {
		if all[tag], err = s.client.Resolve(s.t.Context(), s.repo(repo), tag); err != nil {
			s.t.Fatal(err)
		}
		ask = append(ask, all[tag])
	}
	for len(ask) > 0 {
		about, err := s.client.Referrers(s.t.Context(), s.repo(repo), ask[0])
		if err != nil {
			s.t.Fatal(err)
		}
		all["about "+ask[0]] = strings.Join(about, " ")
		ask = append(ask[1:], about...)
	}
	return all
}

func TestRoundTrip(t *testing.T) {
	s := newSite(t)
	s.fill("octo/app")
	s.manifest("octo/app", "cache", map[string]any{"mediaType": indexType, "manifests": []any{s.blob("octo/app", []byte("no manifest"))}})
	want := layout.Count{Tags: 4, Manifests: 5, Blobs: 5}
	check := func(n layout.Count, err error) {
		t.Helper()
		if n.Bytes < 500_000 {
			t.Errorf("%d bytes were carried", n.Bytes)
		}
		n.Bytes = 0
		if err != nil || n != want {
			t.Fatalf("carried %+v, %v; want %+v", n, err, want)
		}
	}
	same := func(repo string) {
		t.Helper()
		if diff := cmp.Diff(s.contents("octo/app"), s.contents(repo)); diff != "" {
			t.Errorf("%s differs: %s", repo, diff)
		}
	}
	var archive, again bytes.Buffer
	for _, to := range []*bytes.Buffer{&archive, &again} {
		w := layout.NewTar(to)
		check(layout.Export(t.Context(), s.client, s.repo("octo/app"), w))
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(archive.Bytes(), again.Bytes()) {
		t.Error("the same repository gives another tar")
	}
	from, err := layout.OpenTar(bytes.NewReader(archive.Bytes()), int64(archive.Len()))
	if err != nil {
		t.Fatal(err)
	}
	check(layout.Import(t.Context(), s.client, s.repo("octo/tar"), from))
	same("octo/tar")

	dir := filepath.Join(t.TempDir(), "layout")
	d, err := layout.CreateDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	check(layout.Export(t.Context(), s.client, s.repo("octo/app"), d))
	check(layout.Import(t.Context(), s.client, s.repo("octo/dir"), d))
	same("octo/dir")
	if _, err := layout.CreateDir(dir); err == nil {
		t.Error("a folder that has something was taken for a new layout")
	}
	// Again: nothing is sent but tags.
	n, err := layout.Import(t.Context(), s.client, s.repo("octo/dir"), d)
	if err != nil || n.Blobs != 0 || n.Tags != 4 {
		t.Errorf("the second import carried %+v, %v", n, err)
	}
	if _, err := layout.Export(t.Context(), s.client, s.repo("octo/none"), layout.NewTar(io.Discard)); !remote.Missing(err) {
		t.Errorf("of nothing: %v", err)
	}
}

// Other programs read what we write, and we read what they write.
func TestTools(t *testing.T) {
	skopeo, buildah := testneeds.Tool(t, "skopeo"), testneeds.Tool(t, "buildah")
	s := newSite(t)
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	image, err := crandom.Image(10_000, 2)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	var list []any
	for _, l := range layers {
		r, err := l.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		d := s.blob("octo/app", content)
		d["mediaType"] = "application/vnd.oci.image.layer.v1.tar+gzip"
		list = append(list, d)
	}
	c := s.blob("octo/app", config)
	c["mediaType"] = "application/vnd.oci.image.config.v1+json"
	want := s.manifest("octo/app", "1.0", map[string]any{"mediaType": imageType, "config": c, "layers": list})["digest"]

	dir, err := os.MkdirTemp("", "layout-") // buildah takes it for a name, which has no capitals
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	d, err := layout.CreateDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := layout.Export(t.Context(), s.client, s.repo("octo/app"), d); err != nil {
		t.Fatal(err)
	}
	if got := run(skopeo, "inspect", "--format", "{{.Digest}}", "oci:"+dir+":1.0"); got != want {
		t.Errorf("skopeo reads %s, want %s", got, want)
	}
	copied := filepath.Join(t.TempDir(), "copied")
	run(skopeo, "copy", "--insecure-policy", "oci:"+dir+":1.0", "oci:"+copied+":2.0")
	from, err := layout.OpenDir(copied)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	if _, err := layout.Import(t.Context(), s.client, s.repo("octo/skopeo"), from); err != nil {
		t.Fatal(err)
	}
	if got := s.contents("octo/skopeo")["2.0"]; got != want {
		t.Errorf("2.0 is %s, want %s", got, want)
	}
	root := t.TempDir()
	store := []string{"--root", filepath.Join(root, "root"), "--runroot", filepath.Join(root, "run"), "--storage-driver", "vfs"}
	policy := filepath.Join(root, "policy.json")
	if err := os.WriteFile(policy, []byte(`{"default":[{"type":"insecureAcceptAnything"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := run(buildah, append(store, "pull", "-q", "--signature-policy", policy, "oci:"+dir+":1.0")...); len(got) != 64 {
		t.Errorf("buildah pulled %q", got)
	}
}

// files is a layout in memory.
type files map[string]string

func (f files) Open(name string) (io.ReadCloser, int64, error) {
	text, ok := f[name]
	if !ok {
		return nil, 0, fs.ErrNotExist
	}
	return io.NopCloser(strings.NewReader(text)), int64(len(text)), nil
}

func (f files) add(content string) string {
	name := digest.FromString(content)
	f["blobs/sha256/"+name.Encoded()] = content
	return name.String()
}

// index makes the files a layout with one image.
func (f files) index(format string, args ...any) files {
	f["oci-layout"] = `{"imageLayoutVersion":"1.0.0"}`
	f["index.json"] = `{"schemaVersion":2,"manifests":[` + fmt.Sprintf(format, args...) + `]}`
	return f
}

func TestHostileLayouts(t *testing.T) {
	s := newSite(t)
	image := func(f files, layer string) (string, int) {
		config := f.add("{}")
		text := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"x/y","digest":%q,"size":2},"layers":[%s]}`, imageType, config, layer)
		return f.add(text), len(text)
	}
	named := func(f files, layer string) files {
		d, size := image(f, layer)
		return f.index(`{"mediaType":%q,"digest":%q,"size":%d,"annotations":{"org.opencontainers.image.ref.name":"v1"}}`, imageType, d, size)
	}
	ghost := digest.FromString("ghost").String()
	lying := files{}
	layer := lying.add("a layer")
	lying["blobs/sha256/"+strings.TrimPrefix(layer, "sha256:")] = "b layer"
	longer := files{}
	layer2 := longer.add("a layer")
	wrongManifest := named(files{}, "")
	for name := range wrongManifest {
		if strings.Contains(wrongManifest[name], "schemaVersion") && strings.HasPrefix(name, "blobs/") {
			wrongManifest[name] = strings.Replace(wrongManifest[name], "x/y", "x/z", 1)
		}
	}
	deep := files{}
	d, size := image(deep, "")
	mediaType := imageType
	for range 12 {
		text := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`, indexType, mediaType, d, size)
		d, size, mediaType = deep.add(text), len(text), indexType
	}
	deep.index(`{"mediaType":%q,"digest":%q,"size":%d}`, indexType, d, size)
	two := files{}
	a, sizeA := image(two, "")
	b, sizeB := image(two, fmt.Sprintf(`{"mediaType":"x/y","digest":%q,"size":1}`, two.add("1")))
	two.index(`{"mediaType":%q,"digest":%q,"size":%d,"annotations":{"org.opencontainers.image.ref.name":"v1"}},
		{"mediaType":%q,"digest":%q,"size":%d,"annotations":{"org.opencontainers.image.ref.name":"example.com/app:v1"}}`, imageType, a, sizeA, imageType, b, sizeB)
	huge := files{}.index(`{"mediaType":%q,"digest":%q,"size":%d}`, imageType, ghost, 1<<40)

	for name, test := range map[string]struct {
		layout files
		want   string
	}{
		"empty":          {files{}, "not an OCI layout"},
		"version":        {files{"oci-layout": `{"imageLayoutVersion":"9"}`}, "only 1.0.0 is known"},
		"no index":       {files{"oci-layout": `{"imageLayoutVersion":"1.0.0"}`}, "read index.json"},
		"large marker":   {files{"oci-layout": strings.Repeat(" ", 5000)}, "at most 4096 are read"},
		"no JSON":        {files{"oci-layout": `{"imageLayoutVersion":"1.0.0"}`, "index.json": "{"}, "cannot be read"},
		"digest":         {files{}.index(`{"mediaType":%q,"digest":"sha256:../../../../etc/passwd","size":1}`, imageType), "is not a digest"},
		"md5":            {files{}.index(`{"mediaType":%q,"digest":"md5:d41d8cd98f00b204e9800998ecf8427e","size":1}`, imageType), "is not a digest"},
		"size":           {files{}.index(`{"mediaType":%q,"digest":%q,"size":-1}`, imageType, ghost), "with -1 bytes"},
		"type":           {files{}.index(`{"mediaType":"text/html","digest":%q,"size":1}`, ghost), "not one of images"},
		"tag":            {files{}.index(`{"mediaType":%q,"digest":%q,"size":1,"annotations":{"org.opencontainers.image.ref.name":"../v1"}}`, imageType, ghost), "cannot be a tag"},
		"missing":        {files{}.index(`{"mediaType":%q,"digest":%q,"size":1}`, imageType, ghost), "read the manifest"},
		"huge":           {huge, "at most 4194304 are read"},
		"wrong manifest": {wrongManifest, "have another digest"},
		"missing layer":  {named(files{}, fmt.Sprintf(`{"mediaType":"x/y","digest":%q,"size":1}`, ghost)), "read the blob"},
		"lying layer":    {named(lying, fmt.Sprintf(`{"mediaType":"x/y","digest":%q,"size":7}`, layer)), "another digest"},
		"longer layer":   {named(longer, fmt.Sprintf(`{"mediaType":"x/y","digest":%q,"size":6}`, layer2)), "its descriptor says 6"},
		"bad layer":      {named(files{}, `{"mediaType":"x/y","digest":"sha256:x","size":6}`), "is not a digest"},
		"deep":           {deep, "nested more than"},
		"one tag of two": {two, "to two images"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := layout.Import(t.Context(), s.client, s.repo("octo/app"), test.layout)
			var answer *remote.Error
			if err == nil || !strings.Contains(err.Error(), test.want) && !(errors.As(err, &answer) && answer.Code == "DIGEST_INVALID" && test.want == "another digest") {
				t.Errorf("error is %v, want one with %q", err, test.want)
			}
			if tags, err := s.client.Tags(t.Context(), s.repo("octo/app")); len(tags) > 0 {
				t.Errorf("there are tags %q, %v", tags, err)
			}
		})
	}
}

func TestHostileTars(t *testing.T) {
	file := func(headers ...tar.Header) []byte {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			h.Mode = 0o644
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(make([]byte, h.Size)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	large := file(tar.Header{Typeflag: tar.TypeReg, Name: "index.json", Size: 5000})
	for name, test := range map[string]struct {
		tar  []byte
		want string
	}{
		"no tar":   {bytes.Repeat([]byte{0x1f, 0x8b}, 1000), "not a tar"},
		"above":    {file(tar.Header{Typeflag: tar.TypeReg, Name: "blobs/../../x"}), "leads out of it"},
		"absolute": {file(tar.Header{Typeflag: tar.TypeReg, Name: "/etc/passwd"}), "leads out of it"},
		"link":     {file(tar.Header{Typeflag: tar.TypeSymlink, Name: "index.json", Linkname: "/etc/passwd"}), "neither a file nor a folder"},
		"hardlink": {file(tar.Header{Typeflag: tar.TypeLink, Name: "index.json", Linkname: "oci-layout"}), "neither a file nor a folder"},
		"device":   {file(tar.Header{Typeflag: tar.TypeChar, Name: "index.json"}), "neither a file nor a folder"},
		"twice":    {file(tar.Header{Typeflag: tar.TypeReg, Name: "a"}, tar.Header{Typeflag: tar.TypeReg, Name: "./a"}), "twice"},
		"cut":      {large[:2000], "ends in the middle"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := layout.OpenTar(bytes.NewReader(test.tar), int64(len(test.tar))); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error is %v, want one with %q", err, test.want)
			}
		})
	}
}

// A folder's links do not lead out of it, and nobody waits for a pipe.
func TestHostileDir(t *testing.T) {
	s := newSite(t)
	dir := t.TempDir()
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "oci-layout")); err != nil {
		t.Fatal(err)
	}
	d, err := layout.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := layout.Import(t.Context(), s.client, s.repo("octo/app"), d); err == nil || !strings.Contains(err.Error(), "escapes") {
		t.Errorf("error is %v", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "index.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Open("index.json"); err == nil || !strings.Contains(err.Error(), "not a file") {
		t.Errorf("error is %v", err)
	}
}

func FuzzOpenTar(f *testing.F) {
	var b bytes.Buffer
	w := layout.NewTar(&b)
	if err := w.Put("oci-layout", 2, strings.NewReader("{}")); err != nil {
		f.Fatal(err)
	}
	if err := w.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		from, err := layout.OpenTar(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		if file, size, err := from.Open("oci-layout"); err == nil {
			if got, err := io.ReadAll(file); err != nil || int64(len(got)) != size {
				t.Errorf("%d of %d bytes, %v", len(got), size, err)
			}
		}
	})
}
