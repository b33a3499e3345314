// Package program builds the real slipway and runs its server, for tests that use it as people do. Start at [Main].
package program

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Limit bounds what a test waits for. Nothing is expected to take as long.
const Limit = 3 * time.Minute

// Main is for TestMain: it builds slipway, so that no test runs one that is older than the sources, sets path to it, runs the
// tests, and returns their exit code.
func Main(m *testing.M, path *string) (code int) {
	dir, err := os.MkdirTemp("", "slipway-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	*path = filepath.Join(dir, "slipway")
	build := exec.CommandContext(context.Background(), "go", "build", "-o", *path, "slipway/cmd/slipway")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build slipway: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// Address returns an address of this machine at which nothing listens.
func Address(t testing.TB) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Server is a running server.
type Server struct {
	process *os.Process
	ended   chan struct{}
}

// Start starts `slipway server` at a free address with a folder for its data and further arguments, and waits until it answers. What it says
// goes to the file log. The caller stops it by [Server.Kill].
func Start(t testing.TB, path, address, data, log string, args ...string) *Server {
	t.Helper()
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	ctx := context.WithoutCancel(t.Context()) // it is stopped in a Cleanup, and not killed before
	cmd := exec.CommandContext(ctx, path, append([]string{"server", "--data", data, "--listen", address}, args...)...)
	cmd.Stdout, cmd.Stderr = file, file
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &Server{process: cmd.Process, ended: make(chan struct{})}
	go func() { defer close(s.ended); _ = cmd.Wait() }()
	for deadline := time.Now().Add(Limit); ; {
		if answers(ctx, "http://"+address+"/healthz") {
			return s
		}
		select {
		case <-s.ended:
			text, _ := os.ReadFile(log)
			t.Fatalf("the server ended: %s", text)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			s.Kill(syscall.SIGKILL)
			t.Fatal("the server does not answer")
		}
	}
}

func answers(ctx context.Context, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
}

// Kill sends the server a signal and waits for its end. It may be repeated.
func (s *Server) Kill(signal syscall.Signal) {
	_ = s.process.Signal(signal)
	<-s.ended
}
