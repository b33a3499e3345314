package cluster_test

import (
	"bytes"
	"context"
	"crypto/tls"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"slipway/internal/cluster"
	"slipway/internal/cluster/clustertest"
	"slipway/internal/testneeds"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

//go:embed testdata/answer.go
var answer string

const deployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: hello}
spec:
  replicas: 2
  selector: {matchLabels: {app: hello}}
  template:
    metadata: {labels: {app: hello}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: hello
        image: slipway.test/hello:1
        imagePullPolicy: Never
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: hello}
spec:
  selector: {app: hello}
  ports: [{port: 80, targetPort: 8080}]
`

// TestLife follows a cluster from its first start to its removal. It runs in namespaces of its own, so that it can compare
// everything that the machine shows before and after, whatever other tests do meanwhile.
func TestLife(t *testing.T) {
	testneeds.Root(t)
	opts := cluster.Options{Bin: clustertest.Bin(t), Data: filepath.Join(t.TempDir(), "data")}
	if !isolated(t) {
		return
	}
	opts.Progress = t.Output()
	before := traces(t, opts)
	ctx := t.Context()
	t.Cleanup(func() {
		all := opts
		all.Delete = true
		if err := cluster.Down(context.WithoutCancel(ctx), all); err != nil {
			t.Error(err)
		}
		compare(t, before, traces(t, opts))
		if _, err := os.Stat(opts.Data); !os.IsNotExist(err) {
			t.Errorf("the data folder is still there: %v", err)
		}
	})

	up(t, opts)
	c := clustertest.In(t, opts)
	c.Import("slipway.test/hello:1", clustertest.Program(t, answer))
	c.Apply(deployment)
	c.Kubectl("rollout", "status", "deployment/hello", "--timeout=60s")
	address := "http://" + c.Kubectl("get", "service", "hello", "-o", "jsonpath={.spec.clusterIP}")

	t.Run("Service", func(t *testing.T) {
		// That the pods are ready and that the Service knows it are two things.
		eventually(t, func() error { _, err := fetch(address); return err })
		if got := get(t, address); !strings.HasPrefix(got, "hello from hello-") {
			t.Errorf("from the host: %q", got)
		}
		if got := get(t, address+"/ask?url="+address); !strings.HasPrefix(got, "hello from hello-") {
			t.Errorf("from a pod: %q", got)
		}
		if got := get(t, address+"/ask?url=http://hello."+c.Namespace); !strings.HasPrefix(got, "hello from hello-") {
			t.Errorf("from a pod by its name: %q", got)
		}
	})
	t.Run("API server from a pod", func(t *testing.T) {
		// The pod does not know the authority, so what answers is all that this can show.
		if got := get(t, address+"/ask?url=https://kubernetes.default"); !strings.Contains(got, "certificate signed by unknown authority") {
			t.Errorf("got %q", got)
		}
	})
	t.Run("Logs and exec go through the kubelet", func(t *testing.T) {
		if got := c.Kubectl("logs", "deployment/hello"); got != "listening\n" {
			t.Errorf("logs: %q", got)
		}
	})
	t.Run("Access", func(t *testing.T) { testAccess(t, c) })
	t.Run("Registry", func(t *testing.T) { testRegistry(t, c, address) })
	t.Run("Up on a ready cluster changes nothing", func(t *testing.T) {
		was := pids(t, opts)
		up(t, opts)
		if is := pids(t, opts); !slices.Equal(was, is) {
			t.Errorf("processes were %v and are %v", was, is)
		}
	})
	for _, name := range []string{"kubelet", "kube-apiserver", "containerd", "etcd"} {
		t.Run("Up repairs "+name, func(t *testing.T) {
			pod := c.Kubectl("get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[*].containerID}")
			killComponent(t, opts, name)
			up(t, opts)
			if got := get(t, address); !strings.HasPrefix(got, "hello from hello-") {
				t.Errorf("got %q", got)
			}
			if now := c.Kubectl("get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[*].containerID}"); now != pod {
				t.Errorf("containers were %s and are %s", pod, now)
			}
		})
	}
	t.Run("Up repairs the network", func(t *testing.T) {
		links := strings.Fields(strings.Join(traces(t, opts)["links"], " "))
		i := slices.IndexFunc(links, func(s string) bool { return strings.HasPrefix(s, "slipway-") })
		if i < 0 {
			t.Fatalf("no link in %q", links)
		}
		link, _, _ := strings.Cut(links[i], "@")
		if out, err := exec.Command("ip", "link", "delete", link).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		up(t, opts)
		if got := get(t, address); !strings.HasPrefix(got, "hello from hello-") {
			t.Errorf("got %q", got)
		}
	})
	t.Run("Down and up bring back what was deployed", func(t *testing.T) {
		down(t, opts)
		compare(t, before, traces(t, opts))
		up(t, opts)
		c.Kubectl("rollout", "status", "deployment/hello", "--timeout=60s")
		eventually(t, func() error {
			got, err := fetch(address)
			if err == nil && !strings.HasPrefix(got, "hello from hello-") {
				err = errors.New(got)
			}
			return err
		})
	})
	t.Run("Down after everything was killed", func(t *testing.T) {
		for _, pid := range pids(t, opts) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		down(t, opts)
		compare(t, before, traces(t, opts))
	})
	t.Run("Up after a start that was cut off", func(t *testing.T) {
		cut, cancel := context.WithCancel(ctx)
		aborting := opts
		aborting.Progress = writerFunc(func(b []byte) {
			if strings.Contains(string(b), "etcd is ready") {
				cancel()
			}
		})
		if err := cluster.Up(cut, aborting); !errors.Is(err, context.Canceled) {
			t.Fatalf("err = %v, want the cancellation", err)
		}
		up(t, opts)
	})
}

// testRegistry pulls from a registry on this machine's loopback that wants a token.
func testRegistry(t *testing.T, c *clustertest.Cluster, pod string) {
	var token atomic.Value
	token.Store("Bearer one")
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != token.Load() {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	program := clustertest.Program(t, answer)
	for _, repo := range []string{"hello", "library/mirrored"} {
		var archive bytes.Buffer
		if err := cluster.WriteProgramImage(&archive, host+"/"+repo+":1", program); err != nil {
			t.Fatal(err)
		}
		image, err := tarball.Image(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive.Bytes())), nil }, nil)
		if err != nil {
			t.Fatal(err)
		}
		ref, err := name.ParseReference(host + "/" + repo + ":1")
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(ref, image, remote.WithAuth(&authn.Bearer{Token: "one"})); err != nil {
			t.Fatal(err)
		}
	}
	set := func(authorization string) {
		t.Helper()
		c.Registry(cluster.Registry{Host: host, Authorization: authorization, Mirrors: []string{"docker.io"}})
	}
	run := func(name, image string) {
		t.Helper()
		c.Kubectl("run", name, "--image="+image, "--image-pull-policy=Always")
		c.Kubectl("wait", "--for=condition=Ready", "--timeout=60s", "pod/"+name)
	}
	set("Bearer one")
	run("pulled", host+"/hello:1")
	run("mirrored", "mirrored:1")

	token.Store("Bearer two")
	c.Kubectl("run", "refused", "--image="+host+"/hello:1", "--image-pull-policy=Always")
	c.Kubectl("wait", "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=ErrImagePull", "--timeout=60s", "pod/refused")
	set("Bearer two")
	run("again", host+"/hello:1")

	// The node reaches that port of the loopback; pods don't.
	link := strings.TrimSuffix(strings.TrimPrefix(c.Kubectl("config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"), "https://"), ".2:6443") + ".1"
	_, port, _ := strings.Cut(host, ":")
	if got := get(t, pod+"/ask?url=http://"+link+":"+port+"/v2/"); !strings.Contains(got, "connection refused") {
		t.Errorf("a pod that asks the registry got %q", got)
	}
}

// testAccess checks who may do what.
func testAccess(t *testing.T, c *clustertest.Cluster) {
	server := strings.TrimSpace(c.Kubectl("config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"))
	client := insecureClient()
	for path, want := range map[string]int{"/readyz": 200, "/livez": 200, "/version": 401, "/api/v1/namespaces": 401} {
		resp, err := client.Get(server + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("anonymous GET %s: status %d, want %d", path, resp.StatusCode, want)
		}
	}
	kubelet := strings.Replace(server, ":6443", ":10250", 1)
	resp, err := client.Get(kubelet + "/pods")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("anonymous GET of the kubelet's pods: status %d, want %d", resp.StatusCode, http.StatusUnauthorized)
	}
	may := func(want string, args ...string) {
		t.Helper()
		cmd := exec.Command(filepath.Join(c.Options.Bin, "kubectl"), append([]string{"--kubeconfig", c.Kubeconfig, "auth", "can-i"}, args...)...)
		out, _ := cmd.Output() // "no" is an error, too
		if got := strings.TrimSpace(string(out)); got != want {
			t.Errorf("can-i %v: %s, want %s", args, got, want)
		}
	}
	may("no", "list", "secrets", "--as=system:serviceaccount:default:default")
	may("no", "create", "pods", "--as=slipway:dns")
	may("yes", "create", "pods")
}

func up(t *testing.T, opts cluster.Options) {
	t.Helper()
	if err := cluster.Up(t.Context(), opts); err != nil {
		t.Fatal(err)
	}
	r, err := cluster.Status(t.Context(), opts)
	if err != nil || r.State != "ready" {
		t.Fatalf("status: %+v, %v", r, err)
	}
}

func down(t *testing.T, opts cluster.Options) {
	t.Helper()
	if err := cluster.Down(t.Context(), opts); err != nil {
		t.Fatal(err)
	}
}

func pids(t *testing.T, opts cluster.Options) []int {
	t.Helper()
	r, err := cluster.Status(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	var all []int
	for _, c := range r.Components {
		all = append(all, c.PID)
	}
	return all
}

func killComponent(t *testing.T, opts cluster.Options, name string) {
	t.Helper()
	r, err := cluster.Status(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Components {
		if c.Name == name && c.PID > 0 {
			if err := syscall.Kill(c.PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			// Until the kernel has got to it, the process looks fine.
			eventually(t, func() error {
				if slices.Contains(pids(t, opts), c.PID) {
					return fmt.Errorf("%s still runs", name)
				}
				return nil
			})
			return
		}
	}
	t.Fatalf("no %s runs: %+v", name, r)
}

func fetch(url string) (string, error) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

func get(t *testing.T, url string) string {
	t.Helper()
	got, err := fetch(url)
	if err != nil {
		t.Error(err)
	}
	return got
}

func eventually(t *testing.T, check func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(b []byte) (int, error) { f(b); return len(b), nil }

// isolated reports whether the test runs in network and mount namespaces of its own. If not, it runs the test there.
func isolated(t *testing.T) bool {
	t.Helper()
	const marker = "SLIPWAY_TEST_ISOLATED"
	if os.Getenv(marker) == t.Name() {
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			t.Fatalf("bring the loopback up: %v: %s", err, out)
		}
		return true
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=8m")
	cmd.Env = append(os.Environ(), marker+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:   syscall.CLONE_NEWNET,
		Unshareflags: syscall.CLONE_NEWNS, // which makes all mounts private, too
	}
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatalf("in its own namespaces: %v", err)
	}
	return false
}

// traces lists what a cluster could leave behind.
func traces(t *testing.T, opts cluster.Options) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	for what, cmd := range map[string][]string{
		"links":  {"ip", "-oneline", "-brief", "link"},
		"routes": {"ip", "route", "show", "table", "all"},
		"rules":  {"nft", "list", "ruleset"},
	} {
		out, err := exec.Command(cmd[0], cmd[1:]...).Output()
		if err != nil {
			t.Fatalf("%v: %v", cmd, err)
		}
		found[what] = strings.Split(strings.TrimSpace(string(out)), "\n")
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		found["mounts"] = append(found["mounts"], strings.Fields(line)[4])
	}
	// These are not the test's own: other clusters come and go meanwhile.
	r, err := cluster.Status(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	found["cgroups"], _ = filepath.Glob("/sys/fs/cgroup/*/" + r.ID)
	found["network namespaces"], _ = filepath.Glob("/run/netns/" + r.ID)
	found["run"], _ = filepath.Glob("/run/" + r.ID)
	if others, _ := filepath.Glob("/run/slipway-[0-9a-f]*[0-9a-f]"); len(others) == 0 {
		for _, dir := range []string{"/var/lib/kubelet", "/var/lib/cni", "/run/containerd", "/var/log/containers", "/var/log/pods", "/opt/containerd", "/opt/cni", "/etc/cni"} {
			if _, err := os.Stat(dir); err == nil {
				found["folders"] = append(found["folders"], dir)
			}
		}
	}
	stats, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	self, _ := os.Readlink("/proc/self/ns/net")
	for _, path := range stats {
		pid := strings.Split(path, "/")[2]
		if ns, err := os.Readlink(path); err != nil || ns != self || pid == strconv.Itoa(os.Getpid()) {
			continue
		}
		if stat, err := os.ReadFile("/proc/" + pid + "/cmdline"); err == nil {
			found["processes"] = append(found["processes"], strings.ReplaceAll(string(stat), "\x00", " "))
		}
	}
	return found
}

// compare fails the test for each trace that is new.
func compare(t *testing.T, before, after map[string][]string) {
	t.Helper()
	for what, lines := range after {
		for _, line := range lines {
			if line != "" && !slices.Contains(before[what], line) {
				t.Errorf("%s: %s is left behind", what, line)
			}
		}
	}
}

// insecureClient trusts everybody: it is a stranger, who doesn't know the cluster's authority.
func insecureClient() *http.Client {
	return &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
	}
}
