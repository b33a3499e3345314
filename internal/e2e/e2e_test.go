package e2e_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"slipway/internal/api"
	"slipway/internal/ci"
	"slipway/internal/client"
	"slipway/internal/e2e/program"
	"slipway/internal/testneeds"
)

// slipway is the program.
var slipway string

func TestMain(m *testing.M) { os.Exit(program.Main(m, &slipway)) }

// instance is one installation: a data folder and an address. Its server may be killed and started again.
type instance struct {
	*testing.T
	api               *client.Client
	dir, host, engine string
	args              []string // further arguments of the server

	server *program.Server
}

// start starts a server with its runner and further arguments, and stops both at the end of the test.
func start(t *testing.T, engine string, args ...string) *instance {
	t.Helper()
	return startAt(t, program.Address(t), engine, args...)
}

// startAt is start with an address.
func startAt(t *testing.T, host, engine string, args ...string) *instance {
	t.Helper()
	needs(t, engine)
	s := &instance{T: t, dir: t.TempDir(), engine: engine, args: args, host: host}
	s.api = &client.Client{URL: "http://" + s.host}
	t.Cleanup(func() {
		s.kill(syscall.SIGTERM)
		if pid := s.runner(); pid > 0 && alive(pid) {
			t.Errorf("the server has ended and left its runner, process %d", pid)
		}
		if t.Failed() {
			log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			t.Logf("the server said:\n%s", log)
		}
	})
	s.up()
	token, err := os.ReadFile(filepath.Join(s.dir, "data", "admin-token"))
	if err != nil {
		t.Fatal(err)
	}
	s.api.Token = strings.TrimSpace(string(token))
	return s
}

// needs skips the test unless the machine can do what an engine does.
func needs(t *testing.T, engine string) {
	t.Helper()
	testneeds.Tool(t, "git")
	if engine == "oci" {
		testneeds.Root(t)
		testneeds.Tool(t, "runc")
		testneeds.Tool(t, "busybox")
	}
}

// up starts the server and waits until it answers.
func (s *instance) up() {
	s.Helper()
	args := []string{"--engine", s.engine, "--name", "e2e"}
	if s.engine == "oci" {
		args = append(args, "--runc", testneeds.Tool(s, "runc"))
	}
	s.server = program.Start(s, slipway, s.host, filepath.Join(s.dir, "data"), filepath.Join(s.dir, "log"), append(args, s.args...)...)
}

// kill sends the server a signal and waits for its end.
func (s *instance) kill(signal syscall.Signal) {
	if s.server != nil {
		s.server.Kill(signal)
	}
}

// runner returns the process of the server's own runner, or 0.
func (s *instance) runner() int {
	text, _ := os.ReadFile(filepath.Join(s.dir, "data", "runner", "lock"))
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return pid
}

func alive(pid int) bool { return syscall.Kill(pid, 0) == nil }

// killRunner kills the runner and waits until it is gone.
func (s *instance) killRunner() {
	s.Helper()
	pid := s.runner()
	if pid == 0 {
		s.Fatal("there is no runner")
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		s.Fatal(err)
	}
	s.await("the runner is gone", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || bytes.Contains(stat, []byte(") Z ")) // nobody may be there to reap it
	})
}

// await waits for a condition.
func (s *instance) await(what string, condition func() bool) {
	s.Helper()
	deadline := time.After(program.Limit)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline:
			s.Fatalf("the test waits in vain: %s", what)
		}
	}
}

// done waits for the end of a run.
func (s *instance) done(repo string, number int64) (run ci.Run) {
	s.Helper()
	s.await(fmt.Sprintf("run %d of %s ends", number, repo), func() bool {
		var err error
		run, err = s.api.Run(s.Context(), repo, number)
		if err != nil {
			s.Fatal(err)
		}
		return run.Status.Done()
	})
	return run
}

// log returns the log of a step.
func (s *instance) log(run ci.Run, job, step int) string {
	s.Helper()
	var text bytes.Buffer
	if _, err := s.api.Log(s.Context(), run.Repo, run.Number, job, step, 0, false, &text); err != nil {
		s.Fatal(err)
	}
	return text.String()
}

// add begins to serve a repo on the own git endpoint, and returns a working copy of it.
func (s *instance) add(name string) (dir string) {
	s.Helper()
	repo, err := s.api.AddRepo(s.Context(), api.NewRepo{Name: name, Trusted: true})
	if err != nil {
		s.Fatal(err)
	}
	dir = s.TempDir()
	s.git(dir, "init", "-q", "-b", "main")
	s.git(dir, "remote", "add", "origin", strings.Replace(repo.CloneURL, "http://", "http://ada:"+s.api.Token+"@", 1))
	return dir
}

// push commits files and pushes them, and returns what the pusher sees.
func (s *instance) push(dir string, files map[string]string) string {
	s.Helper()
	s.commit(dir, files)
	return s.git(dir, "push", "-q", "origin", "HEAD:main")
}

// commit commits files.
func (s *instance) commit(dir string, files map[string]string) {
	s.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			s.Fatal(err)
		}
	}
	s.git(dir, "add", "-A")
	s.git(dir, "commit", "-q", "--allow-empty", "-m", "Change")
}

func (s *instance) git(dir string, args ...string) string {
	s.Helper()
	cmd := exec.CommandContext(s.Context(), "git", args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C",
		"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.com", "GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.com",
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (s *instance) wantRun(run ci.Run, status ci.Status, message string) {
	s.Helper()
	if run.Status != status || !strings.Contains(run.Message, message) {
		for _, job := range run.Jobs {
			for _, step := range job.Steps {
				s.Logf("step %s: %s %s\n%s", step.Name, step.Status, step.Message, s.log(run, job.Number, step.Number))
			}
		}
		s.Fatalf("run %d of %s is %s: %q, want %s: %q", run.Number, run.Repo, run.Status, run.Message, status, message)
	}
}
