package oci_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"slipway/internal/engine"
	"slipway/internal/engine/enginetest"
	"slipway/internal/engine/oci"
	"slipway/internal/testneeds"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// images is an [oci.Images] of one image, the folder base, on which overlays are mounted. They are kept below dir, so
// that they are found again.
type images struct {
	base, dir string
	config    ocispec.ImageConfig
}

func (i images) Rootfs(_ context.Context, key string, from oci.Image) (oci.Rootfs, error) {
	if from.Ref != enginetest.Image {
		return oci.Rootfs{}, fmt.Errorf("pull %s: there is no such image", from.Ref)
	}
	if from.Progress != nil {
		fmt.Fprintln(from.Progress, "pulled", from.Ref)
	}
	upper, work := filepath.Join(i.dir, key, "upper"), filepath.Join(i.dir, key, "work")
	if err := errors.Join(os.MkdirAll(upper, 0o755), os.MkdirAll(work, 0o755)); err != nil {
		return oci.Rootfs{}, err
	}
	options := []string{"lowerdir=" + i.base, "upperdir=" + upper, "workdir=" + work}
	return oci.Rootfs{Mounts: []mount.Mount{{Type: "overlay", Source: "overlay", Options: options}}, Config: i.config}, nil
}

func (i images) RemoveRootfs(_ context.Context, key string) error {
	return os.RemoveAll(filepath.Join(i.dir, key))
}

func (i images) RootfsKeys(context.Context) ([]string, error) {
	entries, err := os.ReadDir(i.dir)
	var keys []string
	for _, entry := range entries {
		keys = append(keys, entry.Name())
	}
	return keys, err
}

// machine is what the tests of this package need.
type machine struct{ runc, shim, base string }

func newMachine(t testing.TB) machine {
	testneeds.Root(t)
	m := machine{runc: testneeds.Tool(t, "runc"), shim: enginetest.Shim(t), base: t.TempDir()}
	busybox := testneeds.Tool(t, "busybox")
	for _, dir := range []string{"bin", "etc", "tmp", "proc", "sys", "dev", "home/printer"} {
		if err := os.MkdirAll(filepath.Join(m.base, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nprinter:x:1000:1001:Printer:/home/printer:/bin/sh\n",
		"etc/group":  "root:x:0:\nprinter:x:1001:\npaper:x:1002:printer\n",
	} {
		if err := os.WriteFile(filepath.Join(m.base, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	script := `cp "$0" bin/busybox && for name in $("$0" --list | grep -vx busybox); do ln -sf busybox bin/$name; done`
	copying := exec.Command("/bin/sh", "-c", script, busybox)
	copying.Dir = m.base
	if out, err := copying.CombinedOutput(); err != nil {
		t.Fatalf("make a root filesystem: %v\n%s", err, out)
	}
	if err := os.Chmod(m.base, 0o755); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m machine) options(t testing.TB, dir string) oci.Options {
	rootfs := filepath.Join(dir, "images")
	if err := os.MkdirAll(rootfs, 0o700); err != nil {
		t.Fatal(err)
	}
	return oci.Options{Dir: filepath.Join(dir, "engine"), Shim: m.shim, Runc: m.runc, Images: images{base: m.base, dir: rootfs}}
}

func (m machine) engine(t testing.TB, dir string) *oci.Engine { return newEngine(t, m.options(t, dir)) }

func newEngine(t testing.TB, opts oci.Options) *oci.Engine {
	eng, err := oci.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	return eng
}

func TestEngine(t *testing.T) {
	m := newMachine(t)
	t.Run("suite", func(t *testing.T) {
		enginetest.Run(t, func(t testing.TB, dir string) engine.Engine { return m.engine(t, dir) })
	})
	leftovers(t)
}

// leftovers fails t if the tests of this process have left anything outside of their folders.
func leftovers(t *testing.T) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, t.Name()) {
			t.Errorf("a mount is left: %s", line)
		}
	}
}
