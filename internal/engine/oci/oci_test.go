package oci_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"slipway/internal/engine"
	"slipway/internal/engine/enginetest"
	"slipway/internal/engine/oci"
	"slipway/internal/plan"
	"slipway/internal/testneeds"
)

func TestMain(m *testing.M) {
	// BuildKit, which one test has in this process, leaves these to sleep for minutes after it was closed.
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/moby/buildkit/solver/llbsolver/history.NewQueue.func2"),
		goleak.IgnoreAnyFunction("github.com/moby/buildkit/control.NewController.After.throttle.func3.1"),
	)
}

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
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var keys []string
	for _, entry := range entries {
		keys = append(keys, entry.Name())
	}
	return keys, err
}

// machine is what the tests of this package need.
type machine struct {
	Runc, Shim, Base string
	Volumes          []string // of the image
}

func newMachine(t testing.TB) machine {
	testneeds.Root(t)
	m := machine{Runc: testneeds.Tool(t, "runc"), Shim: enginetest.Shim(t), Base: t.TempDir()}
	busybox := testneeds.Tool(t, "busybox")
	for _, dir := range []string{"bin", "etc", "tmp", "proc", "sys", "dev", "home/printer"} {
		if err := os.MkdirAll(filepath.Join(m.Base, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nprinter:x:1000:1001:Printer:/home/printer:/bin/sh\n",
		"etc/group":  "root:x:0:\nprinter:x:1001:\npaper:x:1002:printer\n",
	} {
		if err := os.WriteFile(filepath.Join(m.Base, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	script := `cp "$0" bin/busybox && for name in $("$0" --list | grep -vx busybox); do ln -sf busybox bin/$name; done`
	copying := exec.Command("/bin/sh", "-c", script, busybox)
	copying.Dir = m.Base
	if out, err := copying.CombinedOutput(); err != nil {
		t.Fatalf("make a root filesystem: %v\n%s", err, out)
	}
	if err := os.Chmod(m.Base, 0o755); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m machine) options(t testing.TB, dir string) oci.Options {
	rootfs := filepath.Join(dir, "images")
	if err := os.MkdirAll(rootfs, 0o700); err != nil {
		t.Fatal(err)
	}
	image := images{base: m.Base, dir: rootfs}
	image.config.Volumes = map[string]struct{}{}
	for _, volume := range m.Volumes {
		image.config.Volumes[volume] = struct{}{}
	}
	return oci.Options{Dir: filepath.Join(dir, "engine"), Shim: m.Shim, Runc: m.Runc, Images: image}
}

func newEngine(t testing.TB, opts oci.Options) *oci.Engine {
	eng, err := oci.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	return eng
}

func TestEngine(t *testing.T) {
	m := newMachine(t)
	var mu sync.Mutex
	var all []oci.Options
	t.Run("suite", func(t *testing.T) {
		enginetest.Run(t, func(t testing.TB, dir string) engine.Engine {
			opts := m.options(t, dir)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, opts)
			return newEngine(t, opts)
		})
	})
	for _, opts := range all {
		noLeftovers(t, opts)
	}
}

// noLeftovers fails t if there is anything of the sandboxes of an engine on the machine.
func noLeftovers(t testing.TB, opts oci.Options) {
	t.Helper()
	found, err := oci.Leftovers(opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, what := range found {
		t.Errorf("left on the machine: %s", what)
	}
}

// sandbox is a sandbox of a job for the tests of this package.
type sandbox struct {
	testing.TB
	opts oci.Options
	eng  *oci.Engine
	env  *oci.Env
}

// newSandbox sets job up, with the given options changed, and checks at the end of the test that all of it is gone.
func (m machine) newSandbox(t testing.TB, spec engine.Spec, change func(*oci.Options)) *sandbox {
	t.Helper()
	opts := m.options(t, t.TempDir())
	if change != nil {
		change(&opts)
	}
	s := &sandbox{TB: t, opts: opts, eng: newEngine(t, opts)}
	t.Cleanup(func() {
		eng := newEngine(t, opts)
		defer eng.Close()
		if err := s.eng.Close(); err != nil {
			t.Error(err)
		}
		if _, err := eng.Sweep(context.Background(), func(string) bool { return false }); err != nil {
			t.Error(err)
		}
		noLeftovers(t, opts)
	})
	s.env = s.setup(spec)
	return s
}

// setup makes a sandbox for spec, whose ID, workspace and exec steps a, b and c are filled in.
func (s *sandbox) setup(spec engine.Spec) *oci.Env {
	s.Helper()
	if spec.ID == "" {
		spec.ID = enginetest.NewID()
	}
	spec.Job.Workspace = "/drone/src"
	if spec.Job.Steps == nil {
		for _, name := range []string{"a", "b", "c"} {
			spec.Job.Steps = append(spec.Job.Steps, plan.Step{Name: name, Kind: plan.KindExec, Exec: &plan.Exec{Image: enginetest.Image}})
		}
	}
	env, err := s.eng.Setup(s.Context(), spec)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		if err := env.Close(context.Background()); err != nil {
			s.Error(err)
		}
	})
	return env.(*oci.Env)
}

// script returns a step that gives a script to a shell.
func script(name, text string) engine.Step {
	return engine.Step{Name: name, Exec: plan.Exec{Image: enginetest.Image, Entrypoint: []string{"/bin/sh", "-e"}, Script: text}}
}

func (s *sandbox) start(env *oci.Env, step engine.Step) (engine.Proc, *enginetest.Output) {
	s.Helper()
	out := new(enginetest.Output)
	proc, err := env.Start(s.Context(), step, out)
	if err != nil {
		s.Fatal(err)
	}
	return proc, out
}

// run runs a step to its end.
func (s *sandbox) run(env *oci.Env, step engine.Step) (engine.Result, string) {
	s.Helper()
	proc, out := s.start(env, step)
	result, err := proc.Wait(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	return result, out.String()
}

// succeed runs a step that must exit with 0, and returns its output.
func (s *sandbox) succeed(env *oci.Env, step engine.Step) string {
	s.Helper()
	result, out := s.run(env, step)
	if result.ExitCode != 0 {
		s.Fatalf("step %s: %+v; output:\n%s", step.Name, result, out)
	}
	return out
}
