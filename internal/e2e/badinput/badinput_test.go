package badinput_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"slipway/internal/e2e/program"
	"slipway/internal/testneeds"
)

// slipway is the program.
var slipway string

func TestMain(m *testing.M) { os.Exit(program.Main(m, &slipway)) }

// instance is a running server.
type instance struct {
	*testing.T
	dir, host, token string
	server           *program.Server
}

// start starts a server with further arguments, and stops it at the end of the test.
func start(t *testing.T, args ...string) *instance {
	t.Helper()
	testneeds.Tool(t, "git")
	s := &instance{T: t, dir: t.TempDir(), host: program.Address(t)}
	log := filepath.Join(s.dir, "log")
	s.server = program.Start(t, slipway, s.host, s.data(), log, args...)
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			said, _ := os.ReadFile(log)
			t.Logf("the server said:\n%s", said)
		}
	})
	token, err := os.ReadFile(filepath.Join(s.data(), "admin-token"))
	if err != nil {
		t.Fatal(err)
	}
	s.token = strings.TrimSpace(string(token))
	return s
}

func (s *instance) data() string { return filepath.Join(s.dir, "data") }

// stop ends the server, and its runner with it.
func (s *instance) stop() { s.server.Kill(syscall.SIGTERM) }

// result is what somebody at a terminal sees of a command.
type result struct {
	out, err string
	code     int
}

// run runs slipway with an environment that knows of no server but the one of env.
func run(t *testing.T, env []string, stdin string, args ...string) result {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), slipway, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent"}, env...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return result{out.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

func (s *instance) env() []string {
	return []string{"SLIPWAY_SERVER=http://" + s.host, "SLIPWAY_TOKEN=" + s.token}
}

func (s *instance) must(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	r := run(t, s.env(), stdin, args...)
	if r.code != 0 {
		t.Fatalf("slipway %s: exit code %d: %s", strings.Join(args, " "), r.code, r.err)
	}
	return r.out
}

// ugly is what no sentence for people has: traces, Go's types and functions, and our own prefix twice.
var ugly = regexp.MustCompile(`goroutine|panic|runtime error|\.go:\d|\*[a-z]+\.[A-Z]|\b(json|http|strconv|syscall|errors): |Go value|slipway: slipway: |%!|<nil>`)

// checkSentence checks that text is one clear sentence that says what is wanted.
func checkSentence(t *testing.T, text, want string) {
	t.Helper()
	text = strings.TrimSuffix(text, "\n")
	if !strings.Contains(text, want) {
		t.Errorf("it says %q\nwant     %q", text, want)
	}
	if strings.Contains(text, "\n") {
		t.Errorf("it says more than one line: %q", text)
	}
	if found := ugly.FindString(text); found != "" {
		t.Errorf("it says %q, which is for nobody: %q", found, text)
	}
}

// runTo is [run] with another standard output.
func runTo(t *testing.T, stdout *os.File, stdin string, args ...string) (code int, stderr string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), slipway, args...)
	var text bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), stdout, &text
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), text.String()
}
