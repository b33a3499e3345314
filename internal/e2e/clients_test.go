package e2e_test

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"golang.org/x/sys/unix"

	"slipway/internal/api"
	"slipway/internal/cluster/clustertest"
	"slipway/internal/testneeds"
)

// site is a server behind a proxy that speaks HTTPS, as most are reached, and what its registry's clients need.
type site struct {
	*instance
	name    string // host:port of the proxy, and so of image references
	ca      string // file with the proxy's authority
	proxy   http.Handler
	person  string // a token that pushes and pulls octo/app
	cluster string // a token that pulls everything
	seen    requests
}

// requests are those that came through the proxy.
type requests struct {
	mutex sync.Mutex
	lines []string // METHOD PATH STATUS USER-AGENT
}

func (s *requests) add(r *http.Response) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.lines = append(s.lines, fmt.Sprintf("%s %s %d %s", r.Request.Method, r.Request.URL.RequestURI(), r.StatusCode, r.Request.UserAgent()))
}

// want fails the test unless there was a request that a regular expression fits.
func (s *requests) want(t *testing.T, pattern string) {
	t.Helper()
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if !slices.ContainsFunc(s.lines, regexp.MustCompile(pattern).MatchString) {
		t.Errorf("no request was %s", pattern)
	}
}

// startSite starts a server behind a proxy, with a repo and tokens.
func startSite(t *testing.T) *site {
	t.Helper()
	s := &site{}
	var behind atomic.Pointer[url.URL]
	s.proxy = &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(behind.Load())
		r.Out.Host = r.In.Host
		r.SetXForwarded()
	}, ModifyResponse: func(r *http.Response) error {
		s.seen.add(r)
		return nil
	}}
	front := httptest.NewTLSServer(s.proxy)
	t.Cleanup(front.Close)
	s.name = strings.TrimPrefix(front.URL, "https://")
	s.instance = start(t, "host", "--url", front.URL)
	behind.Store(&url.URL{Scheme: "http", Host: s.host})

	s.ca = filepath.Join(s.dir, "ca.crt")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw})
	if err := os.WriteFile(s.ca, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.api.AddRepo(t.Context(), api.NewRepo{Name: "octo/app"}); err != nil {
		t.Fatal(err)
	}
	s.person, s.cluster = s.scoped("octo", "repo:octo/app"), s.scoped("cluster", "pull")
	return s
}

// scoped makes a token.
func (s *instance) scoped(name, scope string) string {
	s.Helper()
	made, err := s.api.CreateToken(s.Context(), api.NewToken{Name: name, Scopes: []string{scope}})
	if err != nil {
		s.Fatal(err)
	}
	return made.Text
}

// guest is the test of one kind of client.
type guest struct {
	*testing.T
	site *site
}

// tool is a program with its environment.
type tool struct {
	guest
	program string
	args    []string // before those of each call
	env     []string
}

// try runs the program and returns what it prints. An error has what it says beside that.
func (c tool) try(stdin string, args ...string) (string, error) {
	c.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(c.Context(), c.program, append(append([]string{}, c.args...), args...)...)
	cmd.Env = append(os.Environ(), c.env...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	err := cmd.Run()
	if err != nil {
		err = fmt.Errorf("%s %s: %w\n%s%s", filepath.Base(c.program), strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return strings.TrimSpace(stdout.String()), err
}

// run runs the program, which must succeed.
func (c tool) run(args ...string) string {
	c.Helper()
	out, err := c.try("", args...)
	if err != nil {
		c.Fatal(err)
	}
	return out
}

// refused runs the program, which must fail and say why.
func (c tool) refused(why string, args ...string) {
	c.Helper()
	if out, err := c.try("", args...); err == nil {
		c.Errorf("%s %s: succeeds: %s", filepath.Base(c.program), strings.Join(args, " "), out)
	} else if !strings.Contains(err.Error(), why) {
		c.Errorf("%v\ndoes not say %q", err, why)
	}
}

// login logs in with a token, which the program reads from standard input, unless it must fail and say why.
func (c tool) login(token, why string, args ...string) {
	c.Helper()
	switch _, err := c.try(token, args...); {
	case err == nil && why != "":
		c.Fatalf("%s logs in with a wrong token", filepath.Base(c.program))
	case err != nil && (why == "" || !strings.Contains(err.Error(), why)):
		c.Fatal(err)
	}
}

// random makes an image of three layers for this machine.
func (c guest) random() v1.Image {
	c.Helper()
	image, err := random.Image(20_000, 3)
	if err != nil {
		c.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		c.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	if image, err = mutate.ConfigFile(image, config); err != nil {
		c.Fatal(err)
	}
	return image
}

// archive writes an image to a file as `docker save` does.
func (c guest) archive(image v1.Image, ref string) string {
	c.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		c.Fatal(err)
	}
	path := filepath.Join(c.TempDir(), "image.tar")
	if err := tarball.WriteToFile(path, tag, image); err != nil {
		c.Fatal(err)
	}
	return path
}

// pushed returns what a tag points at, asked of the server itself.
func (c guest) pushed(path string) *v1.Descriptor {
	c.Helper()
	found, err := remote.Head(c.reference(path), remote.WithAuth(c.site.login()))
	if err != nil {
		c.Fatalf("%s: %v", path, err)
	}
	return found
}

// push pushes an image to the server itself.
func (c guest) push(path string, image v1.Image) {
	c.Helper()
	if err := remote.Write(c.reference(path), image, remote.WithAuth(c.site.login())); err != nil {
		c.Fatal(err)
	}
}

func (c guest) reference(path string) name.Reference {
	c.Helper()
	ref, err := name.ParseReference(c.site.host+"/"+path, name.Insecure)
	if err != nil {
		c.Fatal(err)
	}
	return ref
}

func (c guest) write(path, text string) {
	c.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		c.Fatal(err)
	}
}

// identity is the file of logins that Docker and podman have after a registry gave them a refresh token.
func (c guest) identity(host, token string) string {
	return fmt.Sprintf(`{"auths": {%q: {"auth": %q, "identitytoken": %q}}}`, host, base64.StdEncoding.EncodeToString([]byte("octo:")), token)
}

// daemon runs a program until the end of the test, and waits until it listens on a socket. The function start starts it.
func daemon(t *testing.T, cmd *exec.Cmd, socket string, start func() error) {
	t.Helper()
	log, err := os.Create(socket + ".log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
		if text, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("%s said:\n%s", cmd.Path, text)
		}
	})
	(&instance{T: t}).await(cmd.Path+" answers", func() bool {
		select {
		case <-ended:
			t.Fatalf("%s has ended", cmd.Path)
		default:
		}
		conn, err := net.Dial("unix", socket)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	})
}

// containerd starts a containerd and returns its socket.
func (s *site) containerd() string {
	s.Helper()
	dir := s.TempDir()
	socket, config := filepath.Join(dir, "containerd.sock"), filepath.Join(dir, "config.toml")
	text := `version = 3
root = "` + filepath.Join(dir, "root") + `"
state = "` + filepath.Join(dir, "state") + `"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri"]
[grpc]
  address = "` + socket + `"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux/` + runtime.GOARCH + `"
  snapshotter = "native"
`
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		s.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(clustertest.Bin(s), "containerd"), "--config", config, "--log-level", "warn")
	daemon(s.T, cmd, socket, cmd.Start)
	return socket
}

// dockerHost is the name by which Docker knows the proxy, at an address that is not loopback: on that it forgives a
// registry that does not speak HTTPS well.
const dockerHost, dockerAddress = "registry.example.com", "192.0.2.1"

// dockerd starts a Docker daemon in a network of its own, for it changes the one that it is in, and removes the bridge of
// another dockerd. The proxy is there, too.
func (c guest) dockerd(containerd string) (socket string) {
	c.Helper()
	dir := c.TempDir()
	socket, config, hosts := filepath.Join(dir, "docker.sock"), filepath.Join(dir, "daemon.json"), filepath.Join(dir, "hosts")
	c.write(config, "{}") // in place of the machine's
	c.write(hosts, dockerAddress+" "+dockerHost+"\n")
	cmd := exec.Command(testneeds.Tool(c, "clients/dockerd"), "--config-file", config, "--data-root", filepath.Join(dir, "data"),
		"--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"), "--host", "unix://"+socket, "--containerd", containerd,
		"--storage-driver", "vfs", "--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false",
		"--userland-proxy=false", "--log-level", "warn")
	cmd.Env = append(os.Environ(), "PATH="+clustertest.Bin(c)+":"+os.Getenv("PATH"), "SSL_CERT_FILE="+c.site.ca, "NO_PROXY=*", "no_proxy=*")
	daemon(c.T, cmd, socket, func() error {
		return apart(hosts, func() error {
			listener, err := net.Listen("tcp", net.JoinHostPort(dockerAddress, "443"))
			if err != nil {
				return err
			}
			front := &httptest.Server{Listener: listener, Config: &http.Server{Handler: c.site.proxy}}
			front.StartTLS()
			c.Cleanup(front.Close)
			return cmd.Start()
		})
	})
	return socket
}

// apart calls do on a thread with a network of its own, in which there is dockerAddress, and a file of its own as /etc/hosts.
func apart(hosts string, do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
				return fmt.Errorf("make namespaces: %w", err)
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return fmt.Errorf("make mounts private: %w", err)
			}
			if err := unix.Mount(hosts, "/etc/hosts", "", unix.MS_BIND, ""); err != nil {
				return fmt.Errorf("mount %s: %w", hosts, err)
			}
			for _, args := range [][]string{{"link", "set", "lo", "up"}, {"address", "add", dockerAddress + "/32", "dev", "lo"}} {
				if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
					return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
				}
			}
			return do()
		}()
	}()
	return <-done
}
