package gitd_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway/internal/ci"
	"slipway/internal/forge/gitd"
)

// serveEnv makes the test binary a server of the folder that it names, which never gets done with a push.
const serveEnv = "SLIPWAY_TEST_GITD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(serveEnv); dir != "" {
		fmt.Fprintln(os.Stderr, serveForever(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func serveForever(dir string) error {
	server, err := gitd.Open(context.Background(), gitd.Options{
		Dir:       dir,
		Authorize: func(context.Context, string, string, string, bool) (string, error) { return "ada", nil },
		OnPush: func(_ context.Context, _ string, events []ci.Event, _ io.Writer) {
			fmt.Println(events[0].Delivery)
			select {}
		},
	})
	if err != nil {
		return err
	}
	if err := server.Create(context.Background(), "ada/engine"); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	return http.Serve(listener, server)
}

// TestKilledServerForgetsNoPush kills a server when a push has moved its ref, before anything came of it.
func TestKilledServerForgetsNoPush(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), serveEnv+"="+dir)
	cmd.Stderr = t.Output()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	said := bufio.NewReader(stdout)
	address, err := said.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}

	work := t.TempDir()
	git(t, work, "init", "-q", "-b", "main")
	hash := commit(t, work, "a", "a", "Say a")
	pushed := make(chan struct{})
	go func() {
		defer close(pushed)
		_, _ = tryGit(t, work, "push", "http://"+strings.TrimSpace(address)+"/ada/engine.git", "main")
	}()
	delivery, err := said.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-pushed

	var events []ci.Event
	server, err := gitd.Open(t.Context(), gitd.Options{Dir: dir, OnPush: func(_ context.Context, repo string, e []ci.Event, _ io.Writer) {
		if repo != "ada/engine" {
			t.Errorf("push to %q", repo)
		}
		events = append(events, e...)
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if n, err := server.Recover(t.Context()); n != 1 || err != nil {
		t.Errorf("Recover = %d, %v", n, err)
	}
	if len(events) != 1 || events[0].After != hash || events[0].Target != "main" || events[0].Delivery != strings.TrimSpace(delivery) {
		t.Errorf("got %+v, want the push of %s delivered as %s", events, hash, delivery)
	}
	if n, err := server.Recover(t.Context()); n != 0 || err != nil {
		t.Errorf("second Recover = %d, %v", n, err)
	}
}

// TestDisconnect leaves in the middle of a push: git ends and clears away what it had.
func TestDisconnect(t *testing.T) {
	f := start(t, nil)
	conn := f.halfPush()
	f.until("git takes the push", func() bool { return f.quarantined() })
	conn.Close()
	f.until("git has ended", func() bool { return !f.quarantined() && f.idle() })
	if events := f.taken(); len(events) > 0 {
		t.Errorf("half a push gave %+v", events)
	}
}

// TestStalledClient stops in the middle of a push, without leaving: the server gives up waiting.
func TestStalledClient(t *testing.T) {
	f := start(t, func(o *gitd.Options) { o.Idle = 200 * time.Millisecond })
	conn := f.halfPush()
	defer conn.Close()
	if _, err := io.Copy(io.Discard, conn); err != nil {
		t.Errorf("waiting for the server to hang up: %v", err)
	}
	f.until("git has ended", func() bool { return !f.quarantined() && f.idle() })
}

// halfPush sends the beginning of a push and leaves the connection open.
func (f *fixture) halfPush() net.Conn {
	f.t.Helper()
	conn, err := net.Dial("tcp", f.host)
	if err != nil {
		f.t.Fatal(err)
	}
	command := strings.Repeat("0", 40) + " " + strings.Repeat("1", 40) + " refs/heads/main\x00report-status side-band-64k"
	body := fmt.Sprintf("%04x%s0000PACK\x00\x00\x00\x02\x00\x00\x10\x00", len(command)+4, command)
	_, err = fmt.Fprintf(conn, "POST /git/ada/engine.git/git-receive-pack HTTP/1.1\r\nHost: x\r\nAuthorization: Basic %s\r\nContent-Type: application/x-git-receive-pack-request\r\nContent-Length: 100000\r\n\r\n%s",
		base64.StdEncoding.EncodeToString([]byte("ada:"+writer)), body)
	if err != nil {
		f.t.Fatal(err)
	}
	return conn
}

// quarantined reports whether git keeps objects of a push that isn't done.
func (f *fixture) quarantined() bool {
	found, _ := filepath.Glob(filepath.Join(f.dir, "ada", "engine.git", "objects", "tmp_objdir-*"))
	return len(found) > 0
}

// idle reports whether no process has anything of the folder open as its working folder.
func (f *fixture) idle() bool {
	found, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range found {
		if cwd, err := os.Readlink(link); err == nil && strings.HasPrefix(cwd, f.dir) {
			return false
		}
	}
	return true
}

// until waits for a condition.
func (f *fixture) until(what string, holds func() bool) {
	f.t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	late := time.After(time.Minute)
	for !holds() {
		select {
		case <-tick.C:
		case <-late:
			_ = filepath.WalkDir(f.dir, func(path string, _ fs.DirEntry, _ error) error { f.t.Log(path); return nil })
			f.t.Fatalf("waited in vain: %s", what)
		}
	}
}
