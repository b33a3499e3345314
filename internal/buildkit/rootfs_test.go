package buildkit_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"

	"slipway/internal/buildkit"
	"slipway/internal/buildkit/buildkittest"
	"slipway/internal/testneeds"
)

func mounted(t *testing.T, mounts []mount.Mount) string {
	t.Helper()
	dir := t.TempDir()
	if err := mount.All(mounts, dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mount.UnmountAll(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestRootfs(t *testing.T) {
	testneeds.Root(t)
	reg := buildkittest.NewRegistry(t, "", "")
	digest := reg.Push(t, "a:1", buildkittest.Busybox(t, buildkittest.Layer(t, map[string]string{"etc/motd": "hello"})))
	d := buildkittest.Open(t, buildkit.Options{})

	img, err := d.Pull(t.Context(), reg.Host+"/a:1", buildkit.PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Release()
	if img.Digest != digest || img.Ref != reg.Host+"/a:1" || !slices.Equal(img.Config.Config.Cmd, []string{"sh"}) {
		t.Errorf("got %s %s %+v", img.Ref, img.Digest, img.Config.Config)
	}
	first, err := d.Rootfs(t.Context(), img, "one")
	if err != nil {
		t.Fatal(err)
	}
	one := mounted(t, first)
	if got := read(t, one, "etc/motd"); got != "hello" {
		t.Errorf("motd is %q", got)
	}
	if err := os.WriteFile(filepath.Join(one, "mine"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	second, err := d.Rootfs(t.Context(), img, "two")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(mounted(t, second), "mine")); !os.IsNotExist(err) {
		t.Error("two root filesystems share what is written")
	}
	again, err := d.Rootfs(t.Context(), img, "one")
	if err != nil {
		t.Fatal(err)
	}
	if len(again) != len(first) || again[0].Source != first[0].Source || !slices.Equal(again[0].Options, first[0].Options) {
		t.Errorf("the same key gave other mounts: %v, then %v", first, again)
	}

	reg.Push(t, "b:1", buildkittest.Busybox(t, buildkittest.Layer(t, map[string]string{"b": "b"})))
	other, err := d.Pull(t.Context(), reg.Host+"/b:1", buildkit.PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Release()
	if _, err := d.Rootfs(t.Context(), other, "one"); err == nil {
		t.Error("a key in use was given away for another image")
	}
	for _, key := range []string{"", "../x", "a/b", "-a"} {
		if _, err := d.Rootfs(t.Context(), img, key); err == nil {
			t.Errorf("key %q was accepted", key)
		}
	}
}

// On a file system that cannot be the upper layer of an overlay, such as an overlay, each root filesystem is a copy.
func TestRootfsWithoutOverlay(t *testing.T) {
	testneeds.Root(t)
	base := t.TempDir()
	var options []string
	for _, name := range []string{"lowerdir", "upperdir", "workdir"} {
		if err := os.Mkdir(filepath.Join(base, name), 0o755); err != nil {
			t.Fatal(err)
		}
		options = append(options, name+"="+filepath.Join(base, name))
	}
	dir := t.TempDir()
	if err := mount.All([]mount.Mount{{Type: "overlay", Source: "overlay", Options: options}}, dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mount.UnmountAll(dir, unix.MNT_DETACH) })
	reg := buildkittest.NewRegistry(t, "", "")
	reg.Push(t, "a:1", buildkittest.Busybox(t, buildkittest.Layer(t, map[string]string{"etc/motd": "hello"})))
	d := buildkittest.Open(t, buildkit.Options{Dir: dir})
	img, err := d.Pull(t.Context(), reg.Host+"/a:1", buildkit.PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Release()
	mounts, err := d.Rootfs(t.Context(), img, "one")
	if err != nil {
		t.Fatal(err)
	}
	if mounts[0].Type != "bind" {
		t.Errorf("mounts are %v", mounts)
	}
	if got := read(t, mounted(t, mounts), "etc/motd"); got != "hello" {
		t.Errorf("motd is %q", got)
	}
}

// The trap: what a running container stands on must outlive the process that prepared it, and all clean-up.
func TestRootfsOutlivesProcessAndPrune(t *testing.T) {
	testneeds.Root(t)
	reg := buildkittest.NewRegistry(t, "", "")
	reg.Push(t, "a:1", buildkittest.Busybox(t, buildkittest.Layer(t, map[string]string{"etc/motd": "hello"})))
	dir := t.TempDir()

	// The test binary itself is the process that gets killed.
	child := exec.Command(os.Args[0], "-test.run=^TestHelperRootfs$")
	child.Env = append(os.Environ(), "ROOTFS_DIR="+dir, "ROOTFS_REF="+reg.Host+"/a:1", "ROOTFS_RUNC="+testneeds.Tool(t, "runc"))
	out, err := child.CombinedOutput()
	if child.ProcessState == nil || child.ProcessState.ExitCode() != -1 {
		t.Fatalf("the child should have been killed: %v\n%s", err, out)
	}

	d := buildkittest.Open(t, buildkit.Options{Dir: dir})
	keys, err := d.RootfsKeys(t.Context())
	if err != nil || !slices.Equal(keys, []string{"job-step"}) {
		t.Fatalf("keys are %v, %v", keys, err)
	}
	freed, err := d.Prune(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if freed == 0 {
		t.Error("the layers were not even in the cache; this test proves nothing")
	}
	// BuildKit's records are gone and nothing was pulled again: only the lease is left.
	var mounts []mount.Mount
	if err := json.Unmarshal([]byte(read(t, dir, "mounts.json")), &mounts); err != nil {
		t.Fatal(err)
	}
	root := mounted(t, mounts)
	if got := read(t, root, "etc/motd") + read(t, root, "written"); got != "hellobefore" {
		t.Errorf("after the kill and two prunes: %q", got)
	}
	if data := read(t, root, "bin/busybox"); len(data) < 100_000 {
		t.Errorf("busybox has %d bytes", len(data))
	}

	// And whoever asks for it again gets the very same, not a new one on freshly pulled layers.
	img, err := d.Pull(t.Context(), reg.Host+"/a:1", buildkit.PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Release()
	again, err := d.Rootfs(t.Context(), img, "job-step")
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(again, mounts) {
		t.Errorf("mounts were %v, are %v", mounts, again)
	}
}

func TestRemoveRootfs(t *testing.T) {
	testneeds.Root(t)
	reg := buildkittest.NewRegistry(t, "", "")
	reg.Push(t, "a:1", buildkittest.Busybox(t))
	dir := t.TempDir()
	d := buildkittest.Open(t, buildkit.Options{Dir: dir})
	img, err := d.Pull(t.Context(), reg.Host+"/a:1", buildkit.PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Rootfs(t.Context(), img, "x"); err != nil {
		t.Fatal(err)
	}
	img.Release()
	for range 2 { // it may be repeated
		if err := d.RemoveRootfs(t.Context(), "x"); err != nil {
			t.Fatal(err)
		}
	}
	if keys, err := d.RootfsKeys(t.Context()); err != nil || len(keys) != 0 {
		t.Errorf("keys are %v, %v", keys, err)
	}
	if _, err := d.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*", "snapshots", "snapshots", "*"))
	if err != nil || len(left) != 0 {
		t.Errorf("snapshots left on disk: %v, %v", left, err)
	}
}

// TestHelperRootfs is no test: TestRootfsOutlivesProcessAndPrune runs it in a process that it kills.
func TestHelperRootfs(t *testing.T) {
	dir := os.Getenv("ROOTFS_DIR")
	if dir == "" {
		t.Skip("it is a helper process")
	}
	d, err := buildkit.Open(t.Context(), buildkit.Options{Dir: dir, Runc: os.Getenv("ROOTFS_RUNC")})
	if err != nil {
		t.Fatal(err)
	}
	img, err := d.Pull(t.Context(), os.Getenv("ROOTFS_REF"), buildkit.PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := d.Rootfs(t.Context(), img, "job-step")
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(mounts)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "mounts.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := os.MkdirTemp(dir, "mnt")
	if err != nil {
		t.Fatal(err)
	}
	if err := mount.All(mounts, root); err != nil {
		t.Fatal(err)
	}
	err = os.WriteFile(filepath.Join(root, "written"), []byte("before"), 0o600)
	if err := mount.UnmountAll(root, 0); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	self, _ := os.FindProcess(os.Getpid())
	_ = self.Kill()
	select {}
}
