package runner_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"slipway/internal/ci"
	"slipway/internal/engine"
	"slipway/internal/engine/host"
	"slipway/internal/fault"
	"slipway/internal/flow/flowtest"
	"slipway/internal/protocol"
	"slipway/internal/runner"
)

// shim is the program that runs the steps; TestMain builds it.
var shim string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "slipway-runner-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		shim = filepath.Join(dir, "slipway-shim")
		build := exec.Command("go", "build", "-ldflags=-s -w", "-o", shim, "slipway/cmd/slipway-shim")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build the shim: %v\n%s", err, out)
			return 1
		}
		code := m.Run()
		// Who starts the cluster that tests share waits for its programs.
		if err := goleak.Find(goleak.IgnoreAnyFunction("os/exec.(*Cmd).Wait")); err != nil && code == 0 {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	}())
}

// bench is a server, reached by the runner protocol over HTTP, and a folder for one runner at a time.
type bench struct {
	*testing.T
	*flowtest.Server
	dir      string
	http     *httptest.Server
	gate     *gate
	capacity int                               // of the runner; 0 is its default
	engine   func(engine.Engine) engine.Engine // wraps the runner's engine; nil does not
}

func newBench(t *testing.T) *bench {
	b := &bench{T: t, Server: flowtest.New(t), dir: t.TempDir(), gate: &gate{}}
	b.http = httptest.NewServer(b.gate.wrap(b))
	t.Cleanup(b.http.Close)
	return b
}

// gate lets requests through, or not.
type gate struct {
	mu     sync.Mutex
	closed func(path string) bool
	lose   string // the end of a path whose next answer is lost on the way
}

// loseAnswer lets the next request for a path through, but not its answer.
func (g *gate) loseAnswer(path string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lose = path
}

// set makes the server unreachable for the paths that closed says true of; nil opens the gate.
func (g *gate) set(closed func(path string) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = closed
}

func all(string) bool { return true }

func deliveries(path string) bool {
	return strings.HasSuffix(path, "/append") || strings.HasSuffix(path, "/finish")
}

func (g *gate) wrap(b *bench) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		closed := g.closed != nil && g.closed(r.URL.Path)
		lost := g.lose != "" && strings.HasSuffix(r.URL.Path, g.lose)
		if lost {
			g.lose = ""
		}
		g.mu.Unlock()
		if closed {
			panic(http.ErrAbortHandler)
		}
		if lost {
			defer panic(http.ErrAbortHandler)
			w = httptest.NewRecorder()
		}
		protocol.Handler(b.Flow, func(r *http.Request) error {
			if r.Header.Get("Authorization") != "Bearer runner's token" {
				return fault.New(fault.Unauthorized, "not the runner's token")
			}
			return nil
		}).ServeHTTP(w, r)
	})
}

// start runs a runner, until stop is called or the test ends. Stopping leaves its jobs to the next one.
func (b *bench) start() (stop func()) {
	b.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := b.startWith(ctx)
	return func() { cancel(); <-ended }
}

// startWith runs a runner until ctx is done or the test ends, and returns a channel that is closed when it has ended.
func (b *bench) startWith(ctx context.Context) (ended <-chan struct{}) {
	b.Helper()
	eng, err := host.New(host.Options{Dir: filepath.Join(b.dir, "host"), Shim: shim})
	if err != nil {
		b.Fatal(err)
	}
	var used engine.Engine = eng
	if b.engine != nil {
		used = b.engine(eng)
	}
	transport := &http.Transport{}
	r := runner.New(runner.Options{
		Name: "rosie", OS: "linux", Arch: "amd64", Dir: b.jobs(), Engine: used, Capacity: b.capacity, Log: slog.New(slog.NewTextHandler(b.Output(), nil)),
		Server: &protocol.Client{URL: b.http.URL, Token: "runner's token", HTTP: &http.Client{Transport: transport}},
	})
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := r.Run(ctx); err != nil {
			b.Errorf("the runner ended with %v", err)
		}
		if err := eng.Close(); err != nil {
			b.Error(err)
		}
		transport.CloseIdleConnections()
	}()
	b.Cleanup(func() { cancel(); <-done })
	return done
}

func (b *bench) jobs() string { return filepath.Join(b.dir, "jobs") }

// done runs a pushed file to its end.
func (b *bench) done(file string) ci.Run {
	b.Helper()
	run := b.Push(file)
	b.start()
	return b.Await(run.Number, finished)
}

func finished(run ci.Run) bool { return run.Status.Done() }

// stepIs is a condition for Await: a step of the first job has a status.
func stepIs(step int, status ci.Status) func(ci.Run) bool {
	return func(run ci.Run) bool { return run.Jobs[0].Steps[step-1].Status == status }
}

// until waits for a condition that nobody announces.
func (b *bench) until(what string, condition func() bool) {
	b.Helper()
	limit := time.After(2 * time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-limit:
			b.Fatalf("the test waits in vain: %s", what)
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// file makes an empty file, which a step waits for.
func (b *bench) touch(path string) {
	b.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		b.Fatal(err)
	}
}

// waits is a shell command that waits for a file.
func waits(path string) string { return "until test -e " + path + "; do sleep 0.01; done" }

// pipeline is a .drone.yml of one pipeline without a clone, whose rest is given with tabs for two spaces.
func pipeline(rest string) string {
	return "kind: pipeline\ntype: docker\nname: test\nclone: {disable: true}\n" + strings.ReplaceAll(strings.TrimPrefix(rest, "\n"), "\t", "  ")
}

func (b *bench) wantRun(run ci.Run, status ci.Status, message string) {
	b.Helper()
	if run.Status != status || !strings.Contains(run.Message, message) {
		b.Errorf("the run ended with %s: %q, want %s: %q", run.Status, run.Message, status, message)
	}
}

func (b *bench) wantSteps(run ci.Run, want ...ci.Status) {
	b.Helper()
	var have []ci.Status
	for _, step := range run.Jobs[0].Steps {
		have = append(have, step.Status)
	}
	if fmt.Sprint(have) != fmt.Sprint(want) {
		b.Errorf("the steps ended with %v, want %v", have, want)
	}
}

// clean checks that a job has left nothing on the runner's machine.
func (b *bench) clean() {
	b.Helper()
	for _, dir := range []string{b.jobs(), filepath.Join(b.dir, "host")} {
		b.until("nothing is left in "+dir, func() bool {
			entries, err := os.ReadDir(dir)
			if err != nil && !errors.Is(err, os.ErrNotExist) {
				b.Fatal(err)
			}
			for _, entry := range entries {
				if entry.IsDir() {
					return false
				}
			}
			return true
		})
	}
}
