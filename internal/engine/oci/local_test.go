package oci_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway/internal/engine"
	"slipway/internal/engine/enginetest"
	"slipway/internal/plan"
)

// greet answers requests with a line.
func greet(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%s%s\n", text, r.URL.Path) })
}

// fetch is a shell command that prints what answers at the local address, or nothing.
var fetch = fmt.Sprintf(`printf 'GET /x HTTP/1.0\r\n\r\n' | nc -w 5 127.0.0.1 %d 2>/dev/null | tail -n 1`, localPort)

var localPort = netip.MustParseAddrPort(engine.LocalAddress).Port()

// TestLocal asks at the local address of a step from everywhere.
func TestLocal(t *testing.T) {
	s := newMachine(t).newSandbox(t, engine.Spec{Job: networkJob(plan.Named), Trusted: true}, nil)
	web := script("web", fetch+"; echo up; sleep 1000")
	web.Local = greet("web")
	_, out := s.start(s.env, web)
	out.Await(t, "web/x\nup\n") // it answers before the step runs
	port := fmt.Sprint(localPort)
	for _, address := range []string{engine.LocalAddress, net.JoinHostPort(s.env.Address("web"), port), net.JoinHostPort(s.env.Gateway(), port)} {
		if conn, err := net.DialTimeout("tcp", address, 5*time.Second); err == nil {
			conn.Close()
			t.Errorf("this machine reaches %s", address)
		}
	}
	neighbour := "for host in 127.0.0.1 web; do if nc -w 3 $host " + port + " </dev/null; then echo reached $host; fi; done 2>/dev/null"
	if got := s.succeed(s.env, script("db", neighbour)); got != "" {
		t.Errorf("from another step of the job: %q", got)
	}
	db := script("test", fetch)
	db.Local = greet("test")
	if got := s.succeed(s.env, db); got != "test/x\n" {
		t.Errorf("from a step with another handler: %q", got)
	}
	host := script("run all tests", fetch)
	host.Exec.HostNetwork, host.Local = true, greet("host")
	if got := s.succeed(s.env, host); got != "" {
		t.Errorf("from a step on the network of this machine: %q", got)
	}
}

// TestLocalShared has the steps of a job with one network share the address too.
func TestLocalShared(t *testing.T) {
	s := newMachine(t).newSandbox(t, engine.Spec{Job: networkJob(plan.Shared)}, nil)
	for _, name := range []string{"web", "db"} {
		step := script(name, fetch)
		step.Local = greet("job")
		if got := s.succeed(s.env, step); got != "job/x\n" {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// TestLocalTaken says in the log of a step that somebody else has the address, and starts it all the same.
func TestLocalTaken(t *testing.T) {
	s := newMachine(t).newSandbox(t, engine.Spec{Job: networkJob(plan.Shared)}, nil)
	_, out := s.start(s.env, script("web", fmt.Sprintf(
		"nc -l -p %d & until grep -q ':%04X .* 0A ' /proc/net/tcp*; do sleep 0.05; done; echo up; wait", localPort, localPort)))
	out.Await(t, "up\n")
	step := script("db", "echo runs")
	said := new(enginetest.Output)
	step.Local, step.Progress = greet("db"), said
	if got := s.succeed(s.env, step); got != "runs\n" || !strings.Contains(said.String(), "nothing answers at "+engine.LocalAddress+": ") {
		t.Errorf("output %q, progress %q", got, said)
	}
}

// TestLocalTakenOver lets another engine, such as the next runner's, answer for a step that runs when the first has gone.
func TestLocalTakenOver(t *testing.T) {
	spec := engine.Spec{ID: enginetest.NewID(), Job: networkJob(plan.Named)}
	s := newMachine(t).newSandbox(t, spec, nil)
	step := script("web", "for n in 1 2 3; do until test -e $n; do sleep 0.05; done; "+fetch+"; echo end $n; done")
	step.Exec.WorkingDir = "/drone/src"
	step.Local = greet("first")
	proceed := func(env engine.Env, name string) {
		if err := os.WriteFile(filepath.Join(env.Workspace(), name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	_, out := s.start(s.env, step)
	proceed(s.env, "1")
	out.Await(t, "first/x\nend 1\n")
	if err := s.eng.Close(); err != nil {
		t.Fatal(err)
	}
	proceed(s.env, "2")

	s.eng = newEngine(t, s.opts)
	env := s.setup(spec)
	step.Local = greet("second")
	quiet := step
	quiet.Local = nil
	_, out = s.start(env, quiet)
	out.Await(t, "end 1\nend 2\n")
	_, out = s.start(env, step)
	proceed(env, "3")
	out.Await(t, "end 1\nend 2\nsecond/x\nend 3\n")
}

// TestLocalEnds closes a sandbox while a request is being answered.
func TestLocalEnds(t *testing.T) {
	s := newMachine(t).newSandbox(t, engine.Spec{Job: networkJob(plan.Named)}, nil)
	asked, ended := make(chan struct{}), make(chan error, 1)
	step := script("web", fetch)
	step.Local = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
		ended <- r.Context().Err()
	})
	proc, _ := s.start(s.env, step)
	waiting, stop := context.WithCancel(t.Context())
	defer stop()
	go func() { defer stop(); _, _ = proc.Wait(waiting) }()
	select {
	case <-asked:
	case <-waiting.Done():
		t.Fatal("the step ended without asking")
	}
	if err := s.env.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("the request goes on")
	}
	if _, err := s.env.Start(t.Context(), step, io.Discard); err == nil {
		t.Error("a step starts in a sandbox that is closed")
	}
}

// TestFiles gives a step files, of which the image has one.
func TestFiles(t *testing.T) {
	s := newMachine(t).newSandbox(t, engine.Spec{}, nil)
	step := script("a", "cat /etc/docker/daemon.json /etc/group; stat -c %a /etc/docker/daemon.json")
	step.Files = []engine.File{{Path: "/etc/docker/daemon.json", Content: "{}\n"}, {Path: "/etc/group", Content: "mine\n"}}
	if got := s.succeed(s.env, step); !strings.HasPrefix(got, "{}\nroot:x:0:\n") || strings.Contains(got, "mine") || !strings.HasSuffix(got, "\n644\n") {
		t.Errorf("output %q", got)
	}
}

// TestFilesAway has an image with a link that leads out of it.
func TestFilesAway(t *testing.T) {
	m := newMachine(t)
	away := t.TempDir()
	if err := os.Symlink(away, filepath.Join(m.Base, "away")); err != nil {
		t.Fatal(err)
	}
	s := m.newSandbox(t, engine.Spec{}, nil)
	said := new(enginetest.Output)
	step := script("b", "echo runs")
	step.Files, step.Progress = []engine.File{{Path: "/away/x", Content: "no"}}, said
	if got := s.succeed(s.env, step); got != "runs\n" || !strings.Contains(said.String(), "cannot be written") {
		t.Errorf("output %q, progress %q", got, said)
	}
	if entries, err := os.ReadDir(away); err != nil || len(entries) > 0 {
		t.Errorf("on this machine: %v, %v", entries, err)
	}
}
