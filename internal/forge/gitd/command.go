package gitd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// environment returns all that a git process gets to see. Neither the machine's nor a user's git configuration has a
// say, and neither has a repository's hook: what is pushed here is data.
func environment(o Options) []string {
	config := [][2]string{
		{"core.hooksPath", "/dev/null"},
		{"core.fsync", "all"}, // a push that was answered survives a power cut
		{"core.bigFileThreshold", "32m"},
		{"gc.autoDetach", "false"}, // its process is ours to wait for
		{"pack.threads", "2"},
		{"pack.windowMemory", "128m"},
		{"receive.autogc", "false"}, // see Server.tend
		{"receive.fsckObjects", "true"},
		{"receive.maxInputSize", strconv.FormatInt(o.MaxPush, 10)},
		{"uploadpack.allowAnySHA1InWant", "true"}, // a run clones its commit, which a forced push may have unlinked
		{"uploadpack.allowFilter", "true"},
		// Harmless flaws, which old tools left in the history of real repositories.
		{"receive.fsck.badTimezone", "warn"},
		{"receive.fsck.missingSpaceBeforeDate", "warn"},
		{"receive.fsck.zeroPaddedFilemode", "warn"},
	}
	env := []string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=/nonexistent",
		"LC_ALL=C",
		"GIT_CONFIG_NOSYSTEM=1",
		"GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_TERMINAL_PROMPT=0",
		"GIT_CONFIG_COUNT=" + strconv.Itoa(len(config)),
	}
	for i, c := range config {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, c[0]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, c[1]))
	}
	return env
}

// git returns a command that runs git in a repository's folder and ends with ctx, its children with it.
func (s *Server) git(ctx context.Context, dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.bin, args...)
	cmd.Dir = dir
	cmd.Env = append(cmd.Env, s.env...)
	// The folder is given, never looked for: a name that is no repository must not find one further up.
	cmd.Env = append(cmd.Env, "GIT_DIR="+dir)
	cmd.ExtraFiles = []*os.File{s.lock}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// output runs git to its end and returns what it printed.
func (s *Server) output(ctx context.Context, dir string, stdin io.Reader, args ...string) ([]byte, error) {
	cmd := s.git(ctx, dir, args...)
	cmd.Stdin = stdin
	var stdout bytes.Buffer
	stderr := &tail{max: 4 << 10}
	cmd.Stdout, cmd.Stderr = &stdout, stderr
	if err := cmd.Run(); err != nil {
		return nil, gitError(args[0], err, stderr)
	}
	return stdout.Bytes(), nil
}

// gitError says in one line what git complained of.
func gitError(verb string, err error, stderr *tail) error {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && len(stderr.text) > 0 {
		return fmt.Errorf("git %s: %s", verb, strings.Join(strings.Fields(string(stderr.text)), " "))
	}
	return fmt.Errorf("git %s: %w", verb, err)
}

// tail is a writer that keeps the last max bytes.
type tail struct {
	max  int
	text []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.text = append(t.text, p...)
	if over := len(t.text) - t.max; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	return len(p), nil
}

// tend lets git put a repository in order after a push, in the background, one process per repository at a time.
func (s *Server) tend(name, dir string) {
	if _, busy := s.tended.LoadOrStore(name, struct{}{}); busy {
		return
	}
	s.tending.Go(func() {
		defer s.tended.Delete(name)
		ctx, cancel := context.WithTimeout(s.background, s.options.Timeout)
		defer cancel()
		cmd := s.git(ctx, dir, "gc", "--auto", "--quiet")
		stderr := &tail{max: 4 << 10}
		cmd.Stderr = stderr
		// Every other git process ends with its pipes when the server is killed. The kernel sends this signal when the
		// starting thread ends, so the thread must stay.
		cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Run(); err != nil && s.background.Err() == nil {
			s.options.Log.Warn("git repository not put in order", "repo", name, "error", gitError("gc", err, stderr))
		}
	})
}
