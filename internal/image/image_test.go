package image_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"slipway/internal/buildkit"
	"slipway/internal/buildkit/buildkittest"
	"slipway/internal/engine"
	"slipway/internal/image"
	"slipway/internal/testneeds"
)

// workspace writes the files of a txtar archive to a folder.
func workspace(t *testing.T, archive string) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range txtar.Parse([]byte(archive)).Files {
		path := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// files returns the content of all regular files of img, and "-> target" for symbolic links.
func files(t *testing.T, img v1.Image) map[string]string {
	t.Helper()
	all := map[string]string{}
	r := mutate.Extract(img)
	defer r.Close()
	for archive := tar.NewReader(r); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		switch header.Typeflag {
		case tar.TypeReg:
			data, err := io.ReadAll(archive)
			if err != nil {
				t.Fatal(err)
			}
			all[header.Name] = string(data)
		case tar.TypeSymlink:
			all[header.Name] = "-> " + header.Linkname
		}
	}
}

func build(t *testing.T, b *image.Builder, req image.Request) (image.Result, string) {
	t.Helper()
	var log bytes.Buffer
	result, err := b.Build(t.Context(), req, &log)
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	return result, log.String()
}

func mustFail(t *testing.T, b *image.Builder, req image.Request) (*image.Error, string) {
	t.Helper()
	var log bytes.Buffer
	_, err := b.Build(t.Context(), req, &log)
	var wrong *image.Error
	if !errors.As(err, &wrong) {
		t.Fatalf("got %v\n%s", err, log.String())
	}
	if strings.Contains(wrong.Error(), "\n") {
		t.Errorf("not one line: %s", wrong)
	}
	return wrong, log.String()
}

func TestBuildFromScratch(t *testing.T) {
	testneeds.Root(t)
	reg := buildkittest.NewRegistry(t, "", "")
	b := image.NewBuilder(buildkittest.Open(t, buildkit.Options{}))
	dir := workspace(t, `
-- Dockerfile --
# syntax=docker/dockerfile:1
FROM scratch
ARG VERSION=none
LABEL version=$VERSION
COPY . /
-- hello.txt --
hello
-- skip.me --
-- .dockerignore --
skip.me
Dockerfile
`)
	result, log := build(t, b, image.Request{
		Workspace: dir, Registry: reg.Host, Repo: "team/app", Tags: []string{"1.2", "latest", "1.2"},
		Args: map[string]string{"VERSION": "1.2"}, Labels: map[string]string{"commit": "abc"},
	})
	if want := []string{reg.Host + "/team/app:1.2", reg.Host + "/team/app:latest"}; !slices.Equal(result.Refs, want) {
		t.Errorf("refs are %v", result.Refs)
	}
	for _, ref := range []string{"team/app:1.2", "team/app:latest", "team/app@" + result.Digest} {
		img := reg.Get(t, ref)
		if digest, err := img.Digest(); err != nil || digest.String() != result.Digest {
			t.Errorf("%s is %s, not %s (%v)", ref, digest, result.Digest, err)
		}
		if all := files(t, img); all["hello.txt"] != "hello\n" || len(all) != 2 { // and .dockerignore
			t.Errorf("files are %v", all)
		}
		config, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if l := config.Config.Labels; l["version"] != "1.2" || l["commit"] != "abc" {
			t.Errorf("labels are %v", l)
		}
	}
	if result.Size == 0 || !strings.Contains(log, "COPY . /") || !strings.Contains(log, "Pushed "+reg.Host+"/team/app:1.2\n") {
		t.Errorf("size %d, log:\n%s", result.Size, log)
	}
}

const runDockerfile = `
-- app/Dockerfile --
FROM %HOST%/busybox:1
WORKDIR /out
COPY greeting .
RUN echo building && cat greeting > copied && id -u > uid
-- app/greeting --
hello
`

func TestBuildRunsAndCaches(t *testing.T) {
	testneeds.Root(t)
	reg := buildkittest.NewRegistry(t, "me", "correct horse")
	reg.Push(t, "busybox:1", buildkittest.Busybox(t))
	b := image.NewBuilder(buildkittest.Open(t, buildkit.Options{}))
	req := image.Request{
		Context: "app", Registry: reg.Host, Repo: reg.Host + "/app", Auths: []engine.Auth{reg.Auth}, Scope: "repo",
		Epoch: time.Unix(1700000000, 0),
	}
	fresh := func() string { return workspace(t, strings.ReplaceAll(runDockerfile, "%HOST%", reg.Host)) }

	req.Workspace = fresh()
	first, log := build(t, b, req)
	if all := files(t, reg.Get(t, "app@"+first.Digest)); all["out/copied"] != "hello\n" || all["out/uid"] != "0\n" {
		t.Errorf("files are %v", all)
	}
	if !strings.Contains(log, "| building\n") || strings.Contains(log, "CACHED") || strings.Contains(log, "horse") {
		t.Errorf("log of the first build:\n%s", log)
	}

	req.Workspace = fresh() // a new checkout, with new times
	second, log := build(t, b, req)
	if n := strings.Count(log, "CACHED"); n < 3 || strings.Contains(log, "| building") {
		t.Errorf("%d steps were cached in the second build:\n%s", n, log)
	}
	if second.Digest != first.Digest {
		t.Errorf("digests differ: %s, %s", first.Digest, second.Digest)
	}

	req.NoCache = true
	third, log := build(t, b, req)
	if !strings.Contains(log, "| building\n") {
		t.Errorf("log without cache:\n%s", log)
	}
	if third.Digest != first.Digest {
		t.Errorf("not reproducible: %s, %s", first.Digest, third.Digest)
	}
}

func TestCacheFromRegistry(t *testing.T) {
	testneeds.Root(t)
	reg := buildkittest.NewRegistry(t, "", "")
	reg.Push(t, "busybox:1", buildkittest.Busybox(t))
	req := image.Request{
		Workspace: workspace(t, strings.ReplaceAll(runDockerfile, "%HOST%", reg.Host)), Context: "app",
		Repo: reg.Host + "/app", CacheFrom: []string{reg.Host + "/app:latest"},
	}
	build(t, image.NewBuilder(buildkittest.Open(t, buildkit.Options{})), req)
	// Another machine, which has only the registry.
	_, log := build(t, image.NewBuilder(buildkittest.Open(t, buildkit.Options{})), req)
	if !strings.Contains(log, "CACHED") || strings.Contains(log, "| building") {
		t.Errorf("nothing came from the image that was pushed before:\n%s", log)
	}
}

func TestTargetAndDryRun(t *testing.T) {
	testneeds.Root(t)
	reg := buildkittest.NewRegistry(t, "", "")
	b := image.NewBuilder(buildkittest.Open(t, buildkit.Options{}))
	dir := workspace(t, `
-- build/app.dockerfile --
FROM scratch AS one
COPY a /a
FROM scratch AS two
COPY b /b
-- a --
-- b --
`)
	req := image.Request{Workspace: dir, Dockerfile: "build/app.dockerfile", Target: "one", DryRun: true, Repo: reg.Host + "/x"}
	before := reg.Requests.Load()
	result, log := build(t, b, req)
	if result.Digest == "" || result.Refs != nil || reg.Requests.Load() != before {
		t.Errorf("dry run: %+v, %d requests", result, reg.Requests.Load()-before)
	}
	if strings.Contains(log, "COPY b") {
		t.Errorf("the other stage was built:\n%s", log)
	}
	req.DryRun = false
	pushed, _ := build(t, b, req)
	if pushed.Digest != result.Digest {
		t.Errorf("the dry run promised %s, the push has %s", result.Digest, pushed.Digest)
	}
	if all := files(t, reg.Get(t, "x:latest")); len(all) != 1 || all["a"] != "" {
		t.Errorf("files are %v", all)
	}
}

func TestHostileWorkspace(t *testing.T) {
	testneeds.Root(t)
	reg := buildkittest.NewRegistry(t, "", "")
	b := image.NewBuilder(buildkittest.Open(t, buildkit.Options{}))
	dir := workspace(t, `
-- Dockerfile --
FROM scratch
COPY . /
-- one/link.dockerfile --
FROM scratch
COPY passwd /stolen
`)
	outside := workspace(t, "-- Dockerfile --\nFROM scratch\nCOPY . /\n-- secret --\nx\n")
	for name, target := range map[string]string{
		"passwd":      "/etc/passwd",
		"up":          "../../../../etc",
		"outside":     outside,
		"etc":         "/etc",
		".dockerfile": filepath.Join(outside, "Dockerfile"),
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := mkfifo(filepath.Join(dir, "pipe")); err != nil {
		t.Fatal(err)
	}

	result, _ := build(t, b, image.Request{Workspace: dir, Repo: reg.Host + "/x"})
	all := files(t, reg.Get(t, "x@"+result.Digest))
	if all["passwd"] != "-> /etc/passwd" || all["etc"] != "-> /etc" {
		t.Errorf("files are %v", all)
	}
	for name, content := range all {
		if strings.Contains(content, "root:x:0:0") || strings.Contains(name, "secret") {
			t.Errorf("%s of the host is in the image", name)
		}
	}
	// A step that may write all of the workspace can put a link in the place of the checkout.
	for _, checkout := range []string{"etc", "up", "outside"} {
		wrong, log := mustFail(t, b, image.Request{Workspace: dir, Checkout: checkout, Repo: reg.Host + "/x", Dockerfile: "passwd"})
		if want := fmt.Sprintf("the checkout %q leads out of the workspace", checkout); wrong.Error() != want || strings.Contains(log, "root:x") {
			t.Errorf("a checkout that leads out: %v", wrong)
		}
	}
	if wrong, _ := mustFail(t, b, image.Request{Workspace: dir, Repo: reg.Host + "/x", Dockerfile: "one/link.dockerfile"}); wrong.Path != "one/link.dockerfile" {
		t.Errorf("copying a link that leads out: %v", wrong)
	}
	for _, test := range []struct {
		context, dockerfile, says string
	}{
		{"..", "", `context ".." leads out of the workspace`},
		{"/etc", "", `context "/etc" leads out of the workspace`},
		{"outside", "", `context "outside" leads out of the workspace`},
		{"missing", "", `context "missing" does not exist`},
		{"Dockerfile", "", `context "Dockerfile" is not a folder`},
		{"", "../Dockerfile", "leads out of the workspace"},
		{"", "/etc/passwd", "leads out of the workspace"},
		{"", "passwd", "leads out of the workspace"},
		{"", ".dockerfile", "leads out of the workspace"},
		{"", "pipe", `Dockerfile "pipe" is not a file`},
		{"", "one", `Dockerfile "one" is not a file`},
		{"", "missing", "does not exist in the workspace"},
	} {
		wrong, _ := mustFail(t, b, image.Request{
			Workspace: dir, Repo: reg.Host + "/x", Context: test.context, Dockerfile: test.dockerfile,
		})
		if !strings.Contains(wrong.Error(), test.says) {
			t.Errorf("context %q, Dockerfile %q: %v", test.context, test.dockerfile, wrong)
		}
	}
}

func TestErrors(t *testing.T) {
	testneeds.Root(t)
	reg := buildkittest.NewRegistry(t, "me", "correct horse")
	reg.Push(t, "busybox:1", buildkittest.Busybox(t))
	b := image.NewBuilder(buildkittest.Open(t, buildkit.Options{}))
	base := reg.Host + "/busybox:1"
	for _, test := range []struct {
		name, dockerfile string
		change           func(*image.Request)
		line             int
		says             string
	}{
		{"syntax", "FROM scratch\n\nFROB x\n", nil, 3, "Dockerfile:3: unknown instruction: FROB"},
		{"empty", "\n", nil, 1, "no instructions"},
		{"frontend", "# syntax=example.com/mine\nFROM scratch\n", nil, 0, `Dockerfile:1: syntax "example.com/mine" is not supported`},
		{"missing file", "FROM scratch\nCOPY nothing /\n", nil, 2, `Dockerfile:2: "nothing" is not in the context`},
		{"run", "FROM " + base + "\nRUN true\nRUN echo out; exit 7\n", nil, 3, "RUN echo out; exit 7 failed with exit code 7"},
		{"no base", "FROM " + reg.Host + "/none:1\n", nil, 1, "FROM: image " + reg.Host + "/none:1 does not exist in the registry"},
		{"base needs login", "FROM " + base + "\n", func(r *image.Request) { r.Auths = nil }, 1, "refuses image"},
		{"unreachable base", "FROM registry.invalid/a:1\n", nil, 1, "registry.invalid cannot be reached"},
		{"push needs login", "FROM scratch\nCOPY Dockerfile /\n", func(r *image.Request) { r.Auths = nil }, 0, "refuses the push"},
		{"push unreachable", "FROM scratch\nCOPY Dockerfile /\n", func(r *image.Request) { r.Repo = "registry.invalid/a" }, 0, "cannot be reached to push"},
		{"target", "FROM scratch\nCOPY Dockerfile /\n", func(r *image.Request) { r.Target = "prod" }, 0, "prod"},
		{"host network", "FROM " + base + "\nRUN --network=host true\n", nil, 0, "RUN --network=host is for trusted repos only"},
		{"capitals", "FROM scratch\n", func(r *image.Request) { r.Repo = "localhost:1/Acme/App" }, 0, "names of images cannot have; write localhost:1/acme/app"},
		{"repo", "FROM scratch\n", func(r *image.Request) { r.Repo = "Not Valid" }, 0, "not a valid name of a repository"},
		{"tag in repo", "FROM scratch\n", func(r *image.Request) { r.Repo = "a/b:1" }, 0, "tags are a setting"},
		{"tag", "FROM scratch\n", func(r *image.Request) { r.Tags = []string{"a b"} }, 0, `tag "a b" is not valid`},
		{"secret", "FROM " + base + "\nARG TOKEN\nRUN echo $TOKEN; echo x-sesame-y; false sesame\n", func(r *image.Request) {
			r.Args = map[string]string{"TOKEN": "sesame"}
			r.Secrets = []string{"sesame"}
		}, 3, "false ****** failed with exit code 1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			req := image.Request{
				Workspace: workspace(t, "-- Dockerfile --\n"+test.dockerfile), Repo: reg.Host + "/x", Auths: []engine.Auth{reg.Auth},
			}
			if test.change != nil {
				test.change(&req)
			}
			wrong, log := mustFail(t, b, req)
			if wrong.Line != test.line || !strings.Contains(wrong.Error(), test.says) {
				t.Errorf("line %d: %v\n%s", wrong.Line, wrong, log)
			}
			for _, secret := range []string{"horse", "sesame"} {
				if strings.Contains(log+wrong.Error(), secret) {
					t.Errorf("a secret is shown: %v\n%s", wrong, log)
				}
			}
		})
	}
}

// signal is a writer that tells when a text was written.
type signal struct {
	mu   sync.Mutex
	log  bytes.Buffer
	text string
	seen chan struct{}
}

func (s *signal) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.log.Write(p)
	if s.seen != nil && strings.Contains(s.log.String(), s.text) {
		close(s.seen)
		s.seen = nil
	}
	return len(p), nil
}

func TestCancel(t *testing.T) {
	testneeds.Root(t)
	reg := buildkittest.NewRegistry(t, "", "")
	reg.Push(t, "busybox:1", buildkittest.Busybox(t))
	dir := t.TempDir()
	b := image.NewBuilder(buildkittest.Open(t, buildkit.Options{Dir: dir}))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	started := make(chan struct{})
	out := &signal{text: "| started\n", seen: started}
	ended := make(chan error, 1)
	req := image.Request{
		Workspace: workspace(t, "-- Dockerfile --\nFROM "+reg.Host+"/busybox:1\nRUN echo started; trap '' TERM; sleep 86417\n"),
		Repo:      reg.Host + "/x",
	}
	go func() {
		_, err := b.Build(ctx, req, out)
		ended <- err
	}()
	select {
	case <-started:
	case err := <-ended:
		t.Fatalf("it ended: %v\n%s", err, out.log.String())
	}
	if n := running(t, "86417"); n == 0 {
		t.Error("the RUN step does not run; this test proves nothing")
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if n := running(t, "86417"); n != 0 {
		t.Errorf("%d processes of the RUN step are left", n)
	}
	if left := mountsUnder(t, dir); len(left) > 0 {
		t.Errorf("mounts left: %v", left)
	}
}

// running counts the processes whose command line contains text.
func running(t *testing.T, text string) int {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, name := range all {
		data, err := os.ReadFile(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !strings.Contains(err.Error(), "no such process") {
			t.Fatal(err)
		}
		if strings.Contains(string(data), text) {
			n++
		}
	}
	return n
}

func mountsUnder(t *testing.T, dir string) []string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); strings.HasPrefix(fields[4], dir+"/") {
			found = append(found, fields[4])
		}
	}
	return found
}
