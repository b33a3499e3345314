package e2e_test

import (
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
	"github.com/google/go-containerregistry/pkg/v1/types"
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

// TestClients uses the registry with the programs that people have.
func TestClients(t *testing.T) {
	testneeds.Root(t)
	s := startSite(t)
	containerd := s.containerd()
	t.Run("docker", func(t *testing.T) { t.Parallel(); testDocker(guest{t, s}, containerd) })
	t.Run("podman", func(t *testing.T) { t.Parallel(); testPodman(guest{t, s}) })
	t.Run("regctl", func(t *testing.T) { t.Parallel(); testRegctl(guest{t, s}) })
	t.Run("containerd", func(t *testing.T) { t.Parallel(); testContainerd(guest{t, s}, containerd) })
}

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

// try runs the program and returns what it says, and whether it succeeded.
func (c tool) try(stdin string, args ...string) (string, error) {
	c.Helper()
	cmd := exec.CommandContext(c.Context(), c.program, append(append([]string{}, c.args...), args...)...)
	cmd.Env = append(os.Environ(), c.env...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	c.Logf("%s %s: %v\n%s", filepath.Base(c.program), strings.Join(args, " "), err, out)
	return strings.TrimSpace(string(out)), err
}

// run runs the program, which must succeed.
func (c tool) run(args ...string) string {
	c.Helper()
	out, err := c.try("", args...)
	if err != nil {
		c.Fatalf("%s %s: %v\n%s", filepath.Base(c.program), strings.Join(args, " "), err, out)
	}
	return out
}

// refused runs the program, which must fail and say why.
func (c tool) refused(why string, args ...string) {
	c.Helper()
	out, err := c.try("", args...)
	if err == nil || !strings.Contains(out, why) {
		c.Errorf("%s %s: %v, and does not say %q:\n%s", filepath.Base(c.program), strings.Join(args, " "), err, why, out)
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
func (c guest) identity(token string) string {
	return fmt.Sprintf(`{"auths": {%q: {"auth": %q, "identitytoken": %q}}}`, c.site.name, base64.StdEncoding.EncodeToString([]byte("octo:")), token)
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

// dockerd starts a Docker daemon in a network of its own, for it changes the one that it is in, and removes the bridge of
// another dockerd. The proxy is there, too, at the same address.
func (c guest) dockerd(containerd string) (socket string) {
	c.Helper()
	dir := c.TempDir()
	socket, config := filepath.Join(dir, "docker.sock"), filepath.Join(dir, "daemon.json")
	if err := os.WriteFile(config, []byte("{}"), 0o600); err != nil { // in place of the machine's
		c.Fatal(err)
	}
	cmd := exec.Command(testneeds.Tool(c, "clients/dockerd"), "--config-file", config, "--data-root", filepath.Join(dir, "data"),
		"--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"), "--host", "unix://"+socket, "--containerd", containerd,
		"--storage-driver", "vfs", "--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false",
		"--userland-proxy=false", "--log-level", "warn", "--insecure-registry", c.site.name)
	cmd.Env = append(os.Environ(), "PATH="+clustertest.Bin(c)+":"+os.Getenv("PATH"))
	daemon(c.T, cmd, socket, func() error {
		listener := make(chan net.Listener, 1)
		failed := make(chan error, 1)
		go func() {
			runtime.LockOSThread() // and never unlocked: the thread, with its network, ends with the goroutine
			failed <- func() error {
				if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
					return err
				}
				if err := exec.Command("ip", "link", "set", "lo", "up").Run(); err != nil {
					return err
				}
				l, err := net.Listen("tcp", c.site.name)
				if err != nil {
					return err
				}
				listener <- l
				return cmd.Start()
			}()
		}()
		err := <-failed
		select {
		case l := <-listener:
			front := &httptest.Server{Listener: l, Config: &http.Server{Handler: c.site.proxy}}
			front.StartTLS()
			c.Cleanup(front.Close)
		default:
		}
		return err
	})
	return socket
}

// testDocker logs in to, pushes to and pulls from the registry by the docker command and its daemon.
func testDocker(c guest, containerd string) {
	docker := tool{guest: c, program: testneeds.Tool(c, "clients/docker"), env: []string{
		"DOCKER_HOST=unix://" + c.dockerd(containerd), "DOCKER_CONFIG=" + c.TempDir(),
	}}
	login := func(token string, want string) {
		c.Helper()
		out, err := docker.try(token, "login", "--username", "octo", "--password-stdin", c.site.name)
		if !strings.Contains(out, want) {
			c.Fatalf("docker login: %v, and not %q:\n%s", err, want, out)
		}
	}
	ref := c.site.name + "/octo/app/docker"
	login("wrong", "unauthorized: unknown user name or token")
	login(c.site.person, "Login Succeeded")

	docker.run("load", "--input", c.archive(c.random(), ref+":one"))
	id := docker.run("image", "inspect", "--format", "{{.Id}}", ref+":one")
	docker.run("tag", ref+":one", ref+":two")
	docker.run("push", "--all-tags", ref)
	one, two := c.pushed("octo/app/docker:one"), c.pushed("octo/app/docker:two")
	if one.Digest != two.Digest || one.MediaType != types.DockerManifestSchema2 {
		c.Errorf("the tags are %+v and %+v", one, two)
	}

	// The same with the cluster's token, which Docker gives in as an OAuth2 refresh token when its store has it as one.
	docker.run("rmi", ref+":one", ref+":two")
	docker.run("logout", c.site.name)
	docker.refused("log in to pull octo/app/docker", "pull", ref+":one")
	docker = tool{guest: c, program: docker.program, env: []string{docker.env[0], "DOCKER_CONFIG=" + c.TempDir()}}
	c.write(strings.TrimPrefix(docker.env[1], "DOCKER_CONFIG=")+"/config.json", c.identity(c.site.cluster))
	docker.run("pull", ref+":two")
	c.site.seen.want(c.T, `^POST /v2/token 200 docker/`)
	docker.run("pull", ref+"@"+one.Digest.String())
	if got := docker.run("image", "inspect", "--format", "{{.Id}}", ref+":two"); got != id {
		c.Errorf("the image was %s and came back as %s", id, got)
	}
	docker.refused("octo/app/docker has no manifest three", "pull", ref+":three")
	docker.run("tag", ref+":two", ref+":three")
	docker.refused("the token of cluster does not allow to push octo/app/docker", "push", ref+":three")
}

// testPodman does the same with podman, and pushes a manifest list.
func testPodman(c guest) {
	dir := c.TempDir()
	config := filepath.Join(dir, "containers.conf")
	// Nothing of the machine's own podman is read or locked.
	c.write(config, `[engine]
lock_type = "file"
events_logger = "none"
cgroup_manager = "cgroupfs"
tmp_dir = "`+filepath.Join(dir, "tmp")+`"
static_dir = "`+filepath.Join(dir, "static")+`"
volume_path = "`+filepath.Join(dir, "volumes")+`"
conmon_path = ["`+testneeds.Tool(c, "clients/conmon")+`"]
runtime = "runc"
[engine.runtimes]
runc = ["`+filepath.Join(clustertest.Bin(c), "runc")+`"]
[network]
network_config_dir = "`+filepath.Join(dir, "networks")+`"
`)
	podman := tool{guest: c, program: testneeds.Tool(c, "clients/podman"), env: []string{
		"CONTAINERS_CONF=" + config, "REGISTRY_AUTH_FILE=" + filepath.Join(dir, "auth.json"), "HOME=" + dir,
	}, args: []string{"--storage-driver=vfs", "--root=" + filepath.Join(dir, "root"), "--runroot=" + filepath.Join(dir, "run")}}
	tls := "--cert-dir=" + filepath.Dir(c.site.ca)
	login := func(token string) (string, error) {
		c.Helper()
		return podman.try(token, "login", tls, "--username=octo", "--password-stdin", c.site.name)
	}
	ref := c.site.name + "/octo/app/podman"
	if out, err := login("wrong"); err == nil || !strings.Contains(out, "invalid username/password") {
		c.Errorf("podman login with a wrong password: %v\n%s", err, out)
	}
	if out, err := login(c.site.person); err != nil {
		c.Fatalf("podman login: %v\n%s", err, out)
	}
	podman.run("load", "--input", c.archive(c.random(), ref+":one"))
	id := podman.run("image", "inspect", "--format", "{{.Id}}", ref+":one")
	podman.run("push", tls, ref+":one")
	podman.run("manifest", "create", "list", "containers-storage:"+ref+":one")
	podman.run("manifest", "push", tls, "--all", "list", "docker://"+ref+":list")
	if list := c.pushed("octo/app/podman:list"); !list.MediaType.IsIndex() {
		c.Errorf("the list is %+v", list)
	}
	podman.run("rmi", "list", ref+":one")

	if out, err := login(c.site.cluster); err != nil {
		c.Fatalf("podman login: %v\n%s", err, out)
	}
	podman.run("pull", tls, ref+":list")
	if got := podman.run("image", "inspect", "--format", "{{.Id}}", ref+":list"); got != id {
		c.Errorf("the image was %s and came back as %s", id, got)
	}
	podman.run("tag", ref+":list", ref+":two")
	podman.refused("the token of cluster does not allow to push octo/app/podman", "push", tls, ref+":two")
	podman.run("logout", c.site.name)
	podman.refused("log in to pull octo/app/podman", "pull", tls, ref+":one")
	c.write(filepath.Join(dir, "auth.json"), c.identity(c.site.cluster))
	podman.run("pull", tls, ref+":one")
	c.site.seen.want(c.T, `^POST /v2/token 200 containers/`)
}

// testRegctl copies and tags, attaches an artifact to an image, and deletes.
func testRegctl(c guest) {
	dir := c.TempDir()
	regctl := tool{guest: c, program: testneeds.Tool(c, "clients/regctl"), env: []string{"REGCTL_CONFIG=" + filepath.Join(dir, "config.json"), "HOME=" + dir}}
	ca, err := os.ReadFile(c.site.ca)
	if err != nil {
		c.Fatal(err)
	}
	regctl.run("registry", "set", "--cacert", string(ca), c.site.name)
	login := func(token string) (string, error) {
		c.Helper()
		return regctl.try(token, "registry", "login", "--user=octo", "--pass-stdin", c.site.name)
	}
	if out, err := login("wrong"); err == nil || !strings.Contains(out, "unauthorized") {
		c.Errorf("regctl registry login with a wrong password: %v\n%s", err, out)
	}
	if out, err := login(c.site.person); err != nil {
		c.Fatalf("regctl registry login: %v\n%s", err, out)
	}
	ref := c.site.name + "/octo/app/regctl"
	image := c.random()
	c.push("octo/app/regctl:one", image)
	regctl.run("image", "copy", ref+":one", ref+":two")
	regctl.run("image", "copy", ref+":one", ref+"/copy:one")
	c.site.seen.want(c.T, `^POST /v2/octo/app/regctl/copy/blobs/uploads/\?.*mount=sha256.* 201 regclient/`)
	sbom := filepath.Join(dir, "sbom")
	c.write(sbom, "a list of parts")
	regctl.run("artifact", "put", "--artifact-type=application/x-sbom", "--subject="+ref+":one", "--file="+sbom)
	if got := regctl.run("artifact", "list", "--format={{range .Descriptors}}{{.ArtifactType}}{{end}}", ref+":one"); got != "application/x-sbom" {
		c.Errorf("the referrers are %q", got)
	}
	if got := regctl.run("artifact", "get", "--subject="+ref+":two"); got != "a list of parts" {
		c.Errorf("the artifact is %q", got)
	}
	regctl.run("tag", "delete", ref+":one")
	c.site.seen.want(c.T, `^DELETE /v2/octo/app/regctl/manifests/one 202 regclient/`)
	if got := regctl.run("tag", "ls", ref); got != "two" {
		c.Errorf("the tags are %q", got)
	}
	digest, err := image.Digest()
	if err != nil {
		c.Fatal(err)
	}
	if got := regctl.run("image", "digest", ref+":two"); got != digest.String() {
		c.Errorf("the image was %s and is %s", digest, got)
	}

	regctl.run("registry", "logout", c.site.name)
	regctl.refused("unauthorized", "tag", "ls", ref)
	if out, err := login(c.site.cluster); err != nil {
		c.Fatalf("regctl registry login: %v\n%s", err, out)
	}
	regctl.run("image", "export", ref+":two", filepath.Join(dir, "image.tar"))
	regctl.refused("unauthorized", "image", "copy", ref+":two", ref+":three")
	regctl.refused("unauthorized", "tag", "delete", ref+":two")
}

// testContainerd pulls and pushes by containerd, with its own ways to log in.
func testContainerd(c guest, socket string) {
	dir := c.TempDir()
	ctr := tool{guest: c, program: filepath.Join(clustertest.Bin(c), "ctr"), args: []string{"--address", socket, "--namespace", "test"}}
	// hosts writes a folder such as /etc/containerd/certs.d, as the docs say.
	hosts := func(name, token string) string {
		c.Helper()
		root := filepath.Join(dir, name)
		folder := filepath.Join(root, c.site.name)
		if err := os.MkdirAll(folder, 0o700); err != nil {
			c.Fatal(err)
		}
		server := "https://" + c.site.name
		text := fmt.Sprintf("server = %q\nca = %q\n[host.%q]\n  capabilities = [\"pull\", \"resolve\", \"push\"]\n  ca = %q\n", server, c.site.ca, server, c.site.ca)
		if token != "" {
			text += fmt.Sprintf("  [host.%q.header]\n    Authorization = \"Bearer %s\"\n", server, token)
		}
		c.write(filepath.Join(folder, "hosts.toml"), text)
		return "--hosts-dir=" + root
	}
	ref := c.site.name + "/octo/app/containerd:one"
	plain, cluster := hosts("plain", ""), hosts("cluster", c.site.cluster)
	octo := func(token string) string { return "--user=octo:" + token }
	pull := func(args ...string) {
		c.Helper()
		ctr.run(append(append([]string{"images", "pull"}, args...), ref)...)
		ctr.run("images", "rm", "--sync", ref)
	}

	ctr.run("images", "import", "--no-unpack", c.archive(c.random(), ref))
	ctr.refused("push access denied", "images", "push", plain, ref)
	ctr.refused("401 Unauthorized", "images", "push", plain, octo("wrong"), ref)
	ctr.refused("push access denied", "images", "push", plain, octo(c.site.cluster), ref)
	ctr.refused("403 Forbidden", "images", "push", cluster, ref)
	ctr.run("images", "push", plain, octo(c.site.person), ref)
	ctr.run("images", "rm", "--sync", ref)

	ctr.refused("pull access denied", "images", "pull", plain, ref)
	pull(cluster)
	pull(plain, octo(c.site.cluster))
	pull("--local", "--snapshotter=native", cluster)
	pull("--local", "--snapshotter=native", plain, octo(c.site.cluster))
	pull(plain, "--refresh="+c.site.cluster)
	ctr.run("content", "fetch", cluster, ref)
	ctr.run("images", "rm", "--sync", ref)
	ctr.run("content", "fetch", plain, octo(c.site.cluster), ref)
	ctr.refused("pull access denied", "content", "fetch", plain, ref)
}
