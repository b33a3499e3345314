// Package enginetest is the suite that every engine passes.
//
// Start reading at [Run]. What only some engines have (images, networks, limits) is tested in their own packages.
package enginetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/internal/engine"
	"slipway/internal/plan"
)

// Open makes an engine that keeps its state in dir, which is the test's own. Engines opened on one dir know each other's
// sandboxes.
type Open func(t testing.TB, dir string) engine.Engine

// Image is the image that the suite's steps name. It must have busybox and its usual links in /bin.
const Image = "busybox"

// workspace is where the suite's steps see it.
const workspace = "/drone/src"

// limit bounds what a test waits for. Nothing is expected to take as long.
const limit = time.Minute

// Shim builds the shim's program and returns its path.
func Shim(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "slipway-shim")
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", path, "slipway/cmd/slipway-shim")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the shim: %v\n%s", err, out)
	}
	return path
}

// Run runs the suite.
func Run(t *testing.T, open Open) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, *fixture)
	}{
		{"ExitCode", testExitCode},
		{"OutputOrder", testOutputOrder},
		{"LiveOutput", testLiveOutput},
		{"Script", testScript},
		{"Environment", testEnvironment},
		{"Workspace", testWorkspace},
		{"Missing", testMissing},
		{"Offset", testOffset},
		{"StartTwice", testStartTwice},
		{"StartCanceled", testStartCanceled},
		{"SetupTwice", testSetupTwice},
		{"Reattach", testReattach},
		{"ReattachEnded", testReattachEnded},
		{"StopHandled", testStopHandled},
		{"StopIgnored", testStopIgnored},
		{"WaitCancelled", testWaitCancelled},
		{"Background", testBackground},
		{"Close", testClose},
		{"Sweep", testSweep},
		{"Parallel", testParallel},
		{"LargeOutput", testLargeOutput},
		{"Secrets", testSecrets},
		{"BadID", testBadID},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, newFixture(t, open))
		})
	}
}

// fixture is a sandbox of a job whose steps are called a, b and c, and s0 to s19.
type fixture struct {
	*testing.T
	ctx  context.Context
	open Open
	dir  string
	spec engine.Spec
	eng  engine.Engine
	env  engine.Env
}

// NewID returns an ID for a sandbox that no other test has.
func NewID() string { return "test-" + strings.ToLower(rand.Text()[:10]) }

func newFixture(t *testing.T, open Open) *fixture {
	ctx, cancel := context.WithTimeout(context.Background(), 2*limit)
	t.Cleanup(cancel)
	job := plan.Job{Name: "job", Workspace: workspace}
	for i := range 20 {
		job.Steps = append(job.Steps, execStep(fmt.Sprintf("s%d", i)))
	}
	for _, name := range []string{"a", "b", "c"} {
		job.Steps = append(job.Steps, execStep(name))
	}
	f := &fixture{T: t, ctx: ctx, open: open, dir: t.TempDir(), spec: engine.Spec{ID: NewID(), Job: job, Trusted: true}}
	f.Cleanup(func() {
		// What a failed test leaves would stay on the machine.
		eng := f.openEngine()
		if _, err := eng.Sweep(context.Background(), func(string) bool { return false }); err != nil {
			f.Errorf("sweep: %v", err)
		}
	})
	f.eng = f.openEngine()
	f.env = f.setup(f.eng)
	return f
}

func execStep(name string) plan.Step {
	return plan.Step{Name: name, Kind: plan.KindExec, Exec: &plan.Exec{Image: Image}}
}

func (f *fixture) openEngine() engine.Engine {
	f.Helper()
	eng := f.open(f, f.dir)
	f.Cleanup(func() {
		if err := eng.Close(); err != nil {
			f.Errorf("close the engine: %v", err)
		}
	})
	return eng
}

func (f *fixture) setup(eng engine.Engine) engine.Env {
	f.Helper()
	env, err := eng.Setup(f.ctx, f.spec)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := env.Close(context.Background()); err != nil {
			f.Errorf("close the sandbox: %v", err)
		}
	})
	return env
}

// step returns a step that gives script to a shell in the workspace.
func step(name, script string) engine.Step {
	return engine.Step{Name: name, Exec: plan.Exec{Image: Image, Entrypoint: []string{"/bin/sh", "-e"}, Script: script, WorkingDir: workspace}}
}

func (f *fixture) start(env engine.Env, s engine.Step) (engine.Proc, *Output) {
	f.Helper()
	out := new(Output)
	proc, err := env.Start(f.ctx, s, out)
	if err != nil {
		f.Fatal(err)
	}
	return proc, out
}

func (f *fixture) wait(proc engine.Proc) engine.Result {
	f.Helper()
	result, err := proc.Wait(f.ctx)
	if err != nil {
		f.Fatal(err)
	}
	return result
}

// run runs a step to its end and returns its output, which must end with the given exit code.
func (f *fixture) run(s engine.Step, code int) string {
	f.Helper()
	proc, out := f.start(f.env, s)
	if got := f.wait(proc); got.ExitCode != code {
		f.Fatalf("step %s: exit code %d, want %d; output:\n%s", s.Name, got.ExitCode, code, out)
	}
	return out.String()
}

// Output is what a step wrote. Its methods may be called concurrently.
type Output struct {
	mu  sync.Mutex
	buf bytes.Buffer
	// changed is closed at the next write.
	changed chan struct{}
}

// Write implements [io.Writer].
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.changed != nil {
		close(o.changed)
		o.changed = nil
	}
	return o.buf.Write(p)
}

// String returns what was written so far.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Await waits until the output contains text.
func (o *Output) Await(t testing.TB, text string) {
	t.Helper()
	deadline := time.After(limit)
	for {
		o.mu.Lock()
		found := strings.Contains(o.buf.String(), text)
		if o.changed == nil {
			o.changed = make(chan struct{})
		}
		changed := o.changed
		o.mu.Unlock()
		if found {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("no %q in the output:\n%s", text, o)
		}
	}
}

// awaitFile waits until there is a file of that name in the workspace.
func (f *fixture) awaitFile(name string) {
	f.Helper()
	f.eventually("the file "+name, func() bool {
		_, err := os.Lstat(filepath.Join(f.env.Workspace(), name))
		return err == nil
	})
}

func (f *fixture) eventually(what string, holds func() bool) {
	f.Helper()
	deadline := time.Now().Add(limit)
	for !holds() {
		if time.Now().After(deadline) {
			f.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// touch makes a file in the workspace, which steps wait for by `until test -e`.
func (f *fixture) touch(name string) {
	f.Helper()
	if err := os.WriteFile(filepath.Join(f.env.Workspace(), name), nil, 0o644); err != nil {
		f.Fatal(err)
	}
}
