// Package clustertest gives tests a real Kubernetes cluster: one for all packages of a `go test ./...`, and a namespace in it
// for each test. Start reading at [Start].
package clustertest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"slipway/internal/cluster"
	"slipway/internal/testneeds"
)

// A Cluster is the running cluster as one test sees it. Its methods fail the test when they can't do what they say, and
// may be called by several goroutines.
type Cluster struct {
	// Options name the cluster for the functions of package cluster.
	Options cluster.Options

	// Kubeconfig is the path of the administrator's kubeconfig.
	Kubeconfig string

	// Namespace is the test's own. It goes with the test.
	Namespace string

	t testing.TB
}

// Options are those of the shared cluster: its data folder is SLIPWAY_TEST_CLUSTER, or slipway-test-cluster in the folder
// for temporary files. Without root or the built programs, t is skipped, or fails where everything must run.
func Options(t testing.TB) cluster.Options {
	t.Helper()
	testneeds.Root(t)
	testneeds.Tool(t, "nft")
	data := os.Getenv("SLIPWAY_TEST_CLUSTER")
	if data == "" {
		data = filepath.Join(os.TempDir(), "slipway-test-cluster")
	}
	return cluster.Options{Data: data, Bin: Bin(t)}
}

// Bin is the folder of the cluster's programs: SLIPWAY_CLUSTER_BIN, or where `make cluster` builds them.
func Bin(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv("SLIPWAY_CLUSTER_BIN"); dir != "" {
		return dir
	}
	return filepath.Dir(testneeds.Tool(t, "cluster/kubelet"))
}

// Start gives t the shared cluster with a new namespace. The first test that asks starts it, which takes seconds; it is left
// running for the tests of other packages, and `make test` ends it by `slipway cluster down`.
func Start(t testing.TB) *Cluster {
	t.Helper()
	opts := Options(t)
	opts.Progress = testWriter{t}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if err := cluster.Up(ctx, opts); err != nil {
		t.Fatalf("start the cluster that tests share: %v", err)
	}
	return In(t, opts)
}

// In gives t a new namespace in the running cluster that opts names.
func In(t testing.TB, opts cluster.Options) *Cluster {
	t.Helper()
	c := &Cluster{Options: opts, Kubeconfig: filepath.Join(opts.Data, "kubeconfig"), t: t}
	var random [4]byte
	_, _ = rand.Read(random[:]) // never fails
	c.Namespace = "test-" + hex.EncodeToString(random[:])
	c.Kubectl("create", "namespace", c.Namespace)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
		defer cancel()
		// Not waited for: pods that ignore SIGTERM take their time, and names are never used again.
		if out, err := c.command(ctx, "delete", "namespace", c.Namespace, "--wait=false").CombinedOutput(); err != nil {
			t.Errorf("remove the namespace: %v: %s", err, out)
		}
	})
	// Pods can't be made before a controller has made the namespace's account.
	c.Kubectl("wait", "--for=create", "--timeout=30s", "serviceaccount/default")
	return c
}

func (c *Cluster) command(ctx context.Context, args ...string) *exec.Cmd {
	args = append([]string{"--kubeconfig", c.Kubeconfig, "--namespace", c.Namespace}, args...)
	return exec.CommandContext(ctx, filepath.Join(c.Options.Bin, "kubectl"), args...)
}

// Kubectl runs kubectl in the test's namespace, as administrator, and gives what it printed to standard output.
func (c *Cluster) Kubectl(args ...string) string {
	c.t.Helper()
	return c.kubectl("", args...)
}

// Apply applies manifests in the test's namespace.
func (c *Cluster) Apply(manifests string) {
	c.t.Helper()
	c.kubectl(manifests, "apply", "--filename", "-")
}

func (c *Cluster) kubectl(stdin string, args ...string) string {
	c.t.Helper()
	cmd := c.command(c.t.Context(), args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		c.t.Fatalf("kubectl %s: %v: %s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String()
}

// Import puts the image of one static program, see [Program], into the node's store under the name ref. A pod that uses
// it needs imagePullPolicy Never or IfNotPresent.
func (c *Cluster) Import(ref string, program []byte) {
	c.t.Helper()
	var image bytes.Buffer
	if err := cluster.WriteProgramImage(&image, ref, program); err != nil {
		c.t.Fatal(err)
	}
	if err := cluster.ImportImage(c.t.Context(), c.Options, &image); err != nil {
		c.t.Fatal(err)
	}
}

// Registry lets the node pull from a registry in a special way until the end of the test. The registries of other tests
// stay as they are.
func (c *Cluster) Registry(r cluster.Registry) {
	c.t.Helper()
	without := func(all []cluster.Registry) []cluster.Registry {
		return slices.DeleteFunc(all, func(one cluster.Registry) bool { return one.Host == r.Host })
	}
	err := cluster.ChangeRegistries(c.t.Context(), c.Options, func(all []cluster.Registry) []cluster.Registry {
		return append(without(all), r)
	})
	if err != nil {
		c.t.Fatalf("tell the node of the registry %s: %v", r.Host, err)
	}
	c.t.Cleanup(func() {
		if err := cluster.ChangeRegistries(context.WithoutCancel(c.t.Context()), c.Options, without); err != nil {
			c.t.Errorf("let the node forget the registry %s: %v", r.Host, err)
		}
	})
}

// Program builds a static program of the one Go file whose text is source. It may import the standard library only.
func Program(t testing.TB, source string) []byte {
	t.Helper()
	dir := t.TempDir()
	file, out := filepath.Join(dir, "main.go"), filepath.Join(dir, "program")
	if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, file)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GO111MODULE=off")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build a program: %v\n%s", err, b)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// testWriter passes lines on to the test's log.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Helper()
	w.t.Log(strings.TrimRight(string(b), "\n"))
	return len(b), nil
}
