// Package buildkittest gives tests real parts: a registry, images made from Debian's busybox, an open BuildKit.
package buildkittest

import (
	"archive/tar"
	"bytes"
	"crypto/subtle"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"slipway/internal/buildkit"
	"slipway/internal/engine"
	"slipway/internal/testneeds"
)

// Open opens BuildKit in a folder of its own and closes it with the test. It needs root and runc.
func Open(t testing.TB, opts buildkit.Options) *buildkit.Daemon {
	t.Helper()
	testneeds.Root(t)
	opts.Runc = testneeds.Tool(t, "runc")
	if opts.Dir == "" {
		opts.Dir = t.TempDir()
	}
	d, err := buildkit.Open(t.Context(), opts)
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

// Registry is a registry on a loopback port.
type Registry struct {
	// Host is host:port.
	Host string
	// Auth is the login that it wants, if any.
	Auth engine.Auth
	// Requests counts what it was asked.
	Requests atomic.Int64

	server *httptest.Server
}

// NewRegistry starts a registry. With a password it wants that login by basic authentication.
func NewRegistry(t testing.TB, username, password string) *Registry {
	t.Helper()
	r := &Registry{}
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	r.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.Requests.Add(1)
		if password != "" {
			u, p, _ := req.BasicAuth()
			if u != username || subtle.ConstantTimeCompare([]byte(p), []byte(password)) != 1 {
				w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
				http.Error(w, "log in", http.StatusUnauthorized)
				return
			}
		}
		handler.ServeHTTP(w, req)
	}))
	t.Cleanup(r.Close)
	r.Host = strings.TrimPrefix(r.server.URL, "http://")
	if password != "" {
		r.Auth = engine.Auth{Host: r.Host, Username: username, Password: password}
	}
	return r
}

// URL is http://host.
func (r *Registry) URL() string { return r.server.URL }

// Close stops the registry; nothing answers on its port then.
func (r *Registry) Close() { r.server.Close() }

func (r *Registry) remote(t testing.TB, repo string) (name.Reference, remote.Option) {
	t.Helper()
	ref, err := name.ParseReference(r.Host+"/"+repo, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	return ref, remote.WithAuth(&authn.Basic{Username: r.Auth.Username, Password: r.Auth.Password})
}

// Push puts img at repo:tag and returns its digest.
func (r *Registry) Push(t testing.TB, repo string, img v1.Image) string {
	t.Helper()
	ref, auth := r.remote(t, repo)
	if err := remote.Write(ref, img, auth); err != nil {
		t.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.String()
}

// Get returns the image at repo:tag or repo@digest.
func (r *Registry) Get(t testing.TB, repo string) v1.Image {
	t.Helper()
	ref, auth := r.remote(t, repo)
	img, err := remote.Image(ref, auth)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// Layer makes a layer of files: their names relative to the root, and their content.
func Layer(t testing.TB, files map[string]string) v1.Layer {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for name, content := range files {
		header := &tar.Header{Name: name, Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buf.Bytes())), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return layer
}

// Busybox makes an image of Debian's static busybox, with a shell and the usual tools, and the given further layers.
func Busybox(t testing.TB, more ...v1.Layer) v1.Image {
	t.Helper()
	binary, err := os.ReadFile(testneeds.Tool(t, "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	write := func(header *tar.Header, content []byte) {
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin/", "etc/", "tmp/", "root/"} {
		write(&tar.Header{Name: dir, Mode: 0o755, Typeflag: tar.TypeDir}, nil)
	}
	write(&tar.Header{Name: "etc/passwd", Mode: 0o644, Size: int64(len(passwd)), Typeflag: tar.TypeReg}, []byte(passwd))
	write(&tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(binary)), Typeflag: tar.TypeReg}, binary)
	for _, applet := range applets {
		write(&tar.Header{Name: "bin/" + applet, Linkname: "busybox", Typeflag: tar.TypeSymlink}, nil)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	base, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buf.Bytes())), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return Image(t, append([]v1.Layer{base}, more...)...)
}

const hostArch = runtime.GOARCH

const passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n"

var applets = []string{
	"sh", "cat", "ls", "echo", "sleep", "true", "false", "id", "env", "mount", "wget", "nc", "ping", "ip", "grep",
	"head", "tail", "mkdir", "rm", "cp", "mv", "chmod", "touch", "test", "sort", "wc", "dd", "kill", "ps", "find",
	"stat", "hostname", "date", "sed", "seq", "trap", "nslookup", "timeout", "tar", "sync", "uname", "whoami",
}

// Image makes an image of layers for this machine's platform, with PATH set and sh as its command.
func Image(t testing.TB, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	return Platform(t, img, hostArch)
}

// Platform returns img made for linux and that architecture.
func Platform(t testing.TB, img v1.Image, arch string) v1.Image {
	t.Helper()
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", arch
	config.Config.Env = []string{"PATH=/bin"}
	config.Config.Cmd = []string{"sh"}
	img, err = mutate.ConfigFile(img, config)
	if err != nil {
		t.Fatal(err)
	}
	return img
}
