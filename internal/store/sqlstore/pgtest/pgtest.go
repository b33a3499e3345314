// Package pgtest starts a real PostgreSQL for tests.
package pgtest

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"slipway/internal/testneeds"
)

// Start runs a PostgreSQL server of its own, in a temporary folder and reachable by a socket there, until t ends. It
// returns the URL of an empty database. The server does without fsync: it is fast, and forgets when the machine stops.
//
// PostgreSQL does not run as root: then it runs as the user postgres, or nobody. Debian's package postgresql provides it.
func Start(t testing.TB) string {
	t.Helper()
	initdb, server := program(t, "initdb"), program(t, "postgres")
	// Not t.TempDir: the path of a socket may have 107 bytes, and the name of a test can be long.
	dir, err := os.MkdirTemp("", "pg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove PostgreSQL's folder: %v", err)
		}
	})
	as := unprivileged(t)
	if as != nil {
		if err := os.Chown(dir, int(as.Uid), int(as.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	data := filepath.Join(dir, "data")
	command := func(name string, args ...string) (*exec.Cmd, *bytes.Buffer) {
		var out bytes.Buffer
		cmd := exec.Command(name, args...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, &out, &out
		cmd.Env = append(os.Environ(), "HOME="+dir, "TZ=UTC")
		// The server dies with the test, even when that is killed.
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as, Pdeathsig: syscall.SIGQUIT}
		return cmd, &out
	}

	cmd, out := command(initdb, "-D", data, "-U", "slipway", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8")
	if err := cmd.Run(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	cmd, out = command(server, "-D", data, "-k", dir, "-c", "listen_addresses=", "-c", "fsync=off",
		"-c", "synchronous_commit=off", "-c", "full_page_writes=off", "-c", "max_connections=200", "-c", "shared_buffers=32MB")
	started := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Pdeathsig follows the thread that starts the process: this goroutine keeps one for itself until the end.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // it is killed below; why it ended early is in out
		}
	}()
	if err := <-started; err != nil {
		t.Fatalf("start PostgreSQL: %v", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGINT) // "fast shutdown"; an error means that it has ended
		<-done
	})
	// The server writes "ready" to the last line of this file when it takes connections (src/include/utils/pidfile.h).
	pidFile := filepath.Join(data, "postmaster.pid")
	for deadline := time.Now().Add(time.Minute); ; {
		content, err := os.ReadFile(pidFile)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if bytes.HasSuffix(bytes.TrimSpace(content), []byte("\nready")) {
			break
		}
		select {
		case <-done:
			t.Fatalf("PostgreSQL ended:\n%s", out)
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatal("PostgreSQL was not ready within a minute")
		}
	}
	return "postgres://slipway@/postgres?host=" + dir
}

// program finds a program of PostgreSQL, which Debian does not put on PATH.
func program(t testing.TB, name string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name); len(found) > 0 {
			return slices.Max(found)
		}
	}
	return testneeds.Tool(t, name)
}

// unprivileged returns who the server runs as, or nil if this process is not root.
func unprivileged(t testing.TB) *syscall.Credential {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	testneeds.Missing(t, "a user postgres or nobody")
	return nil
}
