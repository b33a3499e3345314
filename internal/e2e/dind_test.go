package e2e_test

import (
	"archive/tar"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"slipway/internal/ci"
	"slipway/internal/testneeds"
)

// A Docker daemon that is a service of a pipeline pulls Docker Hub's images through the server's mirror, with nothing said of
// it in the pipeline, and goes on to when the runner was killed and another one took the job up.
func TestDockerInDocker(t *testing.T) {
	needs(t, "oci")
	hub := newDockerHub(t)
	hub.push("library/docker:dind", dockerImage(t))
	busybox := hub.push("library/busybox:latest", busyboxImage(t))
	s := start(t, "oci")
	dir := s.add("ada/engine")
	s.push(dir, map[string]string{".drone.yml": `
kind: pipeline
type: docker
name: test
services:
- name: docker
  image: docker:dind
  privileged: true
steps:
- name: pull
  image: docker:dind
  environment: {DOCKER_HOST: "tcp://docker:2375"}
  commands:
  - until docker version; do sleep 0.2; done
  - docker info --format 'driver {{ .Driver }}'
  - docker pull busybox
  - docker image inspect --format '{{ index .RepoDigests 0 }}' busybox
  - touch first
  - until docker pull ada/later; do sleep 0.2; done
`})
	job := filepath.Join(s.dir, "data", "runner", "oci")
	s.await("the first image is there", func() bool {
		found, err := filepath.Glob(filepath.Join(job, "*", "*", "workspace", "first"))
		return err == nil && len(found) == 1 || s.over("ada/engine", 1)
	})
	s.killRunner()
	hub.push("ada/later:latest", busyboxImage(t)) // nobody can have pulled it before
	run := s.done("ada/engine", 1)
	s.wantRun(run, ci.Success, "")
	log := withoutTrace(s.log(run, 1, 3))
	if !strings.Contains(log, "\nbusybox@"+busybox) {
		t.Errorf("the step that pulls says:\n%s", log)
	}
	// What the image declares as a volume is on the machine's own file system, which dockerd needs for its best driver.
	if driver := overlayDriver(s.dir); !strings.Contains(log, "\ndriver "+driver+"\n") {
		t.Errorf("the driver should be %s; the step says:\n%s", driver, log)
	}
	if log := s.log(run, 1, 2); strings.Count(log, "slipway: Docker Hub's images come through this server's mirror") != 1 {
		t.Errorf("the service says:\n%s", log)
	}
}

// over reports whether a run has ended.
func (s *instance) over(repo string, number int64) bool {
	run, err := s.api.Run(s.Context(), repo, number)
	return err == nil && run.Status.Done()
}

// overlayDriver is the storage driver that dockerd chooses for itself with its data below dir: vfs, if that is on an overlay
// itself, as it is in a container without volumes.
func overlayDriver(dir string) string {
	var stat unix.Statfs_t
	if unix.Statfs(dir, &stat) == nil && stat.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return "vfs"
	}
	return "overlay2"
}

// dockerHub is a registry that servers and runners which are started take for Docker Hub. Containers do not reach it.
type dockerHub struct {
	*testing.T
	seed string // where tests push to
}

// newDockerHub starts a registry behind a proxy with a certificate of Docker Hub's name, and has the environment say so.
func newDockerHub(t *testing.T) *dockerHub {
	t.Helper()
	quiet := log.New(io.Discard, "", 0)
	images := registry.New(registry.Logger(quiet))
	seed := httptest.NewServer(images)
	t.Cleanup(seed.Close)

	const host = "registry-1.docker.io"
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{host}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewUnstartedServer(images)
	front.Config.ErrorLog = quiet
	front.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}}}
	front.StartTLS()
	t.Cleanup(front.Close)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != host+":443" {
			http.Error(w, "only to Docker Hub", http.StatusForbidden)
			return
		}
		tunnel(w, front.Listener.Addr().String())
	}))
	t.Cleanup(proxy.Close)

	authority := filepath.Join(t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})
	if err := os.WriteFile(authority, text, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSL_CERT_FILE", authority)
	t.Setenv("HTTPS_PROXY", proxy.URL)
	return &dockerHub{t, strings.TrimPrefix(seed.URL, "http://")}
}

// tunnel connects a client of a proxy with an address.
func tunnel(w http.ResponseWriter, address string) {
	far, err := net.Dial("tcp", address)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer far.Close()
	near, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer near.Close()
	if _, err := io.WriteString(near, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(far, near); _ = far.(*net.TCPConn).CloseWrite() })
	both.Go(func() { _, _ = io.Copy(near, far); _ = near.(*net.TCPConn).CloseWrite() })
	both.Wait()
}

// push puts an image there and returns its digest.
func (h *dockerHub) push(ref string, image v1.Image) string {
	h.Helper()
	tag, err := name.NewTag(h.seed+"/"+ref, name.Insecure)
	if err != nil {
		h.Fatal(err)
	}
	if err := remote.Write(tag, image); err != nil {
		h.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		h.Fatal(err)
	}
	return digest.String()
}

// dockerImage is like docker:dind: with the programs of a Docker daemon, a client and an entrypoint that takes options of
// the daemon, and its volume. What it says of networks and cgroups is for the machine of the tests.
func dockerImage(t *testing.T) v1.Image {
	t.Helper()
	testneeds.Tool(t, "clients/dockerd")
	root := filepath.Join(filepath.Dir(testneeds.Tool(t, "clients/docker")), "root")
	programs := map[string]string{
		"dockerd": filepath.Join(root, "usr/sbin/dockerd"), "docker": filepath.Join(root, "usr/bin/docker"),
		"runc": testneeds.Tool(t, "cluster/runc"),
	}
	for _, program := range []string{"containerd", "containerd-shim-runc-v2"} {
		programs[program] = testneeds.Tool(t, "cluster/"+program)
	}
	files := map[string]string{}
	for program, path := range programs {
		files["bin/"+program] = path
		for name, library := range libraries(t, root, path) {
			files[name] = library
		}
	}
	return machineImage(t, files, map[string]string{
		"bin/dockerd-entrypoint.sh": `#!/bin/sh
case "$1" in
''|-*) set -- dockerd --host=unix:///var/run/docker.sock --host=tcp://0.0.0.0:2375 "$@" ;;
esac
mkdir -p /run /var
ln -s /run /var/run
exec "$@" --bridge=none --iptables=false --ip6tables=false
`,
	}, v1.Config{Entrypoint: []string{"dockerd-entrypoint.sh"}, Volumes: map[string]struct{}{"/var/lib/docker": {}}})
}

// libraries are the files that a program is linked with, by their paths in an image.
func libraries(t *testing.T, root, program string) map[string]string {
	t.Helper()
	folders := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, entry os.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(entry.Name(), "lib") && strings.Contains(entry.Name(), ".so") {
			folders[filepath.Dir(path)] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var search []string
	for folder := range folders {
		search = append(search, folder)
	}
	cmd := exec.CommandContext(t.Context(), "ldd", program)
	cmd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+strings.Join(search, ":"))
	out, err := cmd.CombinedOutput()
	found := map[string]string{}
	if err != nil { // it says so of programs that are linked statically
		return found
	}
	for line := range strings.Lines(string(out)) {
		for _, field := range strings.Fields(line) {
			switch {
			case !strings.HasPrefix(field, "/"):
			case strings.Contains(line, "=>"):
				found["lib/"+filepath.Base(field)] = field
			default: // the program that loads them has its path in the others
				found[strings.TrimPrefix(field, "/")] = field
			}
		}
	}
	return found
}

// busyboxImage has the machine's busybox.
func busyboxImage(t *testing.T) v1.Image {
	return machineImage(t, nil, nil, v1.Config{Cmd: []string{"sh"}})
}

// machineImage makes an image of busybox and files of this machine, and of texts that are programs.
func machineImage(t *testing.T, files, texts map[string]string, config v1.Config) v1.Image {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	var problems []error
	add := func(name string, content []byte) {
		problems = append(problems, w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}))
		_, err := w.Write(content)
		problems = append(problems, err)
	}
	read := func(path string) []byte {
		content, err := os.ReadFile(path)
		problems = append(problems, err)
		return content
	}
	for _, dir := range []string{"bin/", "etc/", "lib/", "tmp/"} {
		problems = append(problems, w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o777}))
	}
	add("bin/busybox", read(testneeds.Tool(t, "busybox")))
	for _, applet := range []string{"sh", "echo", "ln", "mkdir", "ps", "sleep", "touch"} {
		problems = append(problems, w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox"}))
	}
	for name, path := range files {
		add(name, read(path))
	}
	for name, text := range texts {
		add(name, []byte(text))
	}
	problems = append(problems, w.Close())
	whole := static.NewLayer(layer.Bytes(), types.DockerUncompressedLayer)
	digest, err := whole.Digest()
	problems = append(problems, err)
	image, err := mutate.AppendLayers(empty.Image, hashedLayer{whole, digest})
	problems = append(problems, err)
	config.Env = []string{"PATH=/bin"}
	image, err = mutate.Config(mutate.MediaType(image, types.DockerManifestSchema2), config)
	problems = append(problems, err)
	file, err := image.ConfigFile()
	problems = append(problems, err)
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", "amd64"
	image, err = mutate.ConfigFile(image, file)
	if err := errors.Join(append(problems, err)...); err != nil {
		t.Fatal(err)
	}
	return image
}

// hashedLayer is a layer that is not compressed and knows its digest. The one that it is made of counts it each time.
type hashedLayer struct {
	v1.Layer
	digest v1.Hash
}

func (l hashedLayer) Digest() (v1.Hash, error) { return l.digest, nil }
func (l hashedLayer) DiffID() (v1.Hash, error) { return l.digest, nil }
