package shim_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"slipway/internal/shim"
	"slipway/internal/testneeds"
)

// TestMain lets the test's own program be the shim.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "shim" {
		os.Exit(shim.Main(os.Args[2]))
	}
	goleak.VerifyTestMain(m)
}

// launch starts a shim for dir and returns the function that waits for its end.
func launch(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "shim", dir)
	cmd.Env = []string{}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

func sh(script string) shim.Command {
	return shim.Command{Args: []string{"/bin/sh", "-e"}, Script: script, Dir: "/", Env: []string{"PATH=" + os.Getenv("PATH")}}
}

func start(t *testing.T, dir string, c shim.Command) {
	t.Helper()
	if err := shim.Start(dir, c); err != nil {
		t.Fatal(err)
	}
}

func follow(t *testing.T, dir string) (shim.Exit, string) {
	t.Helper()
	var out bytes.Buffer
	exit, err := shim.Follow(t.Context(), dir, 0, &out)
	if err != nil {
		t.Fatal(err)
	}
	return exit, out.String()
}

func look(t *testing.T, dir string, want shim.State) {
	t.Helper()
	got, err := shim.Look(dir)
	if err != nil || got != want {
		t.Errorf("state %d, %v, want %d", got, err, want)
	}
}

// TestLifeOfAStep goes through all states but death.
func TestLifeOfAStep(t *testing.T) {
	dir, work := t.TempDir(), t.TempDir()
	look(t, dir, shim.Unstarted)
	command := sh("echo hello; until test -e go; do sleep 0.01; done; exit 7")
	command.Dir = work
	start(t, dir, command)
	look(t, dir, shim.Unstarted)
	launch(t, dir)
	if state, err := shim.Started(t.Context(), dir); err != nil || state != shim.Running {
		t.Fatalf("started: state %d, %v", state, err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "start")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the start file is still there: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := shim.Wait(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait with a done context: %v", err)
	}
	if err := os.WriteFile(filepath.Join(work, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	exit, out := follow(t, dir)
	if exit.Code != 7 || exit.Signal != 0 || out != "hello\n" || exit.Ended.Before(exit.Started) || exit.Lost != "" {
		t.Errorf("exit %+v, output %q", exit, out)
	}
	look(t, dir, shim.Ended)
	again, _ := shim.Wait(t.Context(), dir)
	if again.Code != 7 {
		t.Errorf("asked again: %+v", again)
	}
}

// TestStartAfterLaunch gives a shim its command when it waits already, as it is in a pod.
func TestStartAfterLaunch(t *testing.T) {
	dir := t.TempDir()
	launch(t, dir)
	eventually(t, func() bool { state, _ := shim.Look(dir); return state == shim.Starting })
	start(t, dir, sh("echo late"))
	if exit, out := follow(t, dir); exit.Code != 0 || out != "late\n" {
		t.Errorf("exit %+v, output %q", exit, out)
	}
}

// TestOneShim starts many shims for one folder: one runs the command.
func TestOneShim(t *testing.T) {
	dir, count := t.TempDir(), filepath.Join(t.TempDir(), "count")
	start(t, dir, sh("echo once >>"+count))
	var shims []*exec.Cmd
	for range 8 {
		cmd := launch(t, dir)
		cmd.Stderr = nil
		shims = append(shims, cmd)
	}
	follow(t, dir)
	refused := 0
	for _, cmd := range shims {
		if err := cmd.Wait(); err != nil {
			refused++
		}
	}
	if data, err := os.ReadFile(count); err != nil || string(data) != "once\n" || refused != 7 {
		t.Errorf("the command ran %q, %v; %d shims refused", data, err, refused)
	}
}

func TestShimKilled(t *testing.T) {
	dir := t.TempDir()
	start(t, dir, sh("echo hello; sleep 1000"))
	cmd := launch(t, dir)
	eventually(t, func() bool {
		data, _ := os.ReadFile(filepath.Join(dir, "log"))
		return string(data) == "hello\n"
	})
	var out bytes.Buffer
	attachment := shim.Attach(dir, 0, &out)
	defer attachment.Close()
	if err := shim.Signal(dir, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := attachment.Wait(t.Context()); !errors.Is(err, shim.ErrDied) || out.String() != "hello\n" {
		t.Errorf("Wait returned %v, output %q", err, out.String())
	}
	_ = cmd.Wait()
	look(t, dir, shim.Dead)
	if err := shim.Signal(dir, unix.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("Signal after the end: %v", err)
	}
	if err := shim.Stop(t.Context(), dir, time.Minute); err != nil {
		t.Errorf("Stop after the end: %v", err)
	}
}

// TestWaitingShimStopped stops a shim that has no command yet.
func TestWaitingShimStopped(t *testing.T) {
	dir := t.TempDir()
	launch(t, dir)
	eventually(t, func() bool { state, _ := shim.Look(dir); return state == shim.Starting })
	if err := shim.Stop(t.Context(), dir, time.Minute); err != nil {
		t.Fatal(err)
	}
	if exit, _ := follow(t, dir); exit.Code != 128+15 {
		t.Errorf("exit %+v", exit)
	}
}

func TestLogLimit(t *testing.T) {
	dir := t.TempDir()
	command := sh("printf 0123456789; sleep 0.1; printf abcdef; head -c 1000000 /dev/zero; exit 3")
	command.LogLimit = 12
	start(t, dir, command)
	launch(t, dir)
	exit, out := follow(t, dir)
	if want := "0123456789ab\nslipway: the output is longer than 12 bytes; the rest of it is not kept\n"; exit.Code != 3 || out != want {
		t.Errorf("exit %+v, output %q, want %q", exit, out, want)
	}
}

// TestDiskFull fills the disk that has the log: the command goes on and gets its result, which says that output is lost.
func TestDiskFull(t *testing.T) {
	testneeds.Root(t) // to mount a small file system
	dir := t.TempDir()
	if err := unix.Mount("none", dir, "tmpfs", 0, "size=64k"); err != nil {
		testneeds.Missing(t, "the right to mount a file system")
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	start(t, dir, sh("head -c 1000000 /dev/zero; exit 5"))
	launch(t, dir)
	exit, out := follow(t, dir)
	if exit.Code != 5 || exit.Lost == "" || len(out) > 64<<10 {
		t.Errorf("exit %+v, %d bytes of output", exit, len(out))
	}
}

func TestBadCommands(t *testing.T) {
	for what, c := range map[string]shim.Command{
		"no command":     {Dir: "/"},
		"relative":       {Args: []string{"x"}, Dir: "x"},
		"NUL":            {Args: []string{"x\x00"}, Dir: "/"},
		"no name":        {Args: []string{"x"}, Dir: "/", Env: []string{"=x"}},
		"NUL in Env":     {Args: []string{"x"}, Dir: "/", Env: []string{"A=\x00"}},
		"negative limit": {Args: []string{"x"}, Dir: "/", LogLimit: -1},
	} {
		if err := shim.Start(t.TempDir(), c); err == nil {
			t.Errorf("Start accepted a command with: %s", what)
		}
	}
}

// TestHostileFolder puts into the folder what a step could that runs as root.
func TestHostileFolder(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, prepare := range map[string]func(dir string) error{
		"log is a link":   func(dir string) error { return os.Symlink(secret, filepath.Join(dir, "log")) },
		"log is a pipe":   func(dir string) error { return unix.Mkfifo(filepath.Join(dir, "log"), 0o600) },
		"log is a folder": func(dir string) error { return os.Mkdir(filepath.Join(dir, "log"), 0o700) },
		"exit is a link": func(dir string) error {
			return errors.Join(os.Remove(filepath.Join(dir, "exit")), os.Symlink(secret, filepath.Join(dir, "exit")))
		},
		"exit is large": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "exit"), []byte(strings.Repeat(" ", 1<<20)), 0o600)
		},
		"exit is wrong": func(dir string) error { return os.WriteFile(filepath.Join(dir, "exit"), []byte(`{"code":256}`), 0o600) },
	} {
		dir := t.TempDir()
		if err := errors.Join(os.WriteFile(filepath.Join(dir, "exit"), []byte(`{"code":0}`), 0o600), prepare(dir)); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		exit, err := shim.Follow(t.Context(), dir, 0, &out)
		if err == nil || out.Len() > 0 {
			t.Errorf("%s: exit %+v, output %q", what, exit, out.String())
		}
	}
}

// TestLookUp finds programs, and says in one line why it does not.
func TestLookUp(t *testing.T) {
	bin := t.TempDir()
	for name, file := range map[string]struct {
		content string
		mode    os.FileMode
	}{
		"good":        {"#!/bin/sh\necho good\n", 0o755},
		"plain":       {"#!/bin/sh\n", 0o644},
		"interpreter": {"#!/no/such/interpreter\n", 0o755},
		"garbage":     {"\x00\x01\x02", 0o755},
	} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte(file.content), file.mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		program string
		code    int
		says    string
	}{
		{"good", 0, "good\n"},
		{bin + "/good", 0, "good\n"},
		{"./good", 0, "good\n"},
		{"missing", 127, "slipway: missing: not found on the PATH " + bin},
		{"./missing", 127, "slipway: ./missing: no such file"},
		{"plain", 127, "slipway: plain: not found"},
		{"./plain", 126, "slipway: ./plain: permission denied"},
		{"interpreter", 127, "slipway: interpreter: the program is there, but what it needs"},
		{"garbage", 126, "slipway: garbage: the program is not for this machine"},
	} {
		dir := t.TempDir()
		start(t, dir, shim.Command{Args: []string{test.program}, Dir: bin, Env: []string{"PATH=" + bin}})
		launch(t, dir)
		if exit, out := follow(t, dir); exit.Code != test.code || !strings.HasPrefix(out, test.says) || strings.Count(out, "\n") != 1 {
			t.Errorf("%s: exit %d, output %q; want %d, %q", test.program, exit.Code, out, test.code, test.says)
		}
	}
}

// TestManyFollowers has more followers than a user may have inotify instances by default.
func TestManyFollowers(t *testing.T) {
	dir, work := t.TempDir(), t.TempDir()
	command := sh("for i in 1 2 3; do echo $i; done; until test -e go; do sleep 0.01; done; echo end")
	command.Dir = work
	start(t, dir, command)
	launch(t, dir)
	const followers = 300
	failed := make(chan error, followers)
	for range followers {
		go func() {
			var out bytes.Buffer
			_, err := shim.Follow(t.Context(), dir, 0, &out)
			if err == nil && out.String() != "1\n2\n3\nend\n" {
				err = fmt.Errorf("output %q", out.String())
			}
			failed <- err
		}()
	}
	if err := os.WriteFile(filepath.Join(work, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range followers {
		if err := <-failed; err != nil {
			t.Error(err)
		}
	}
}

func eventually(t *testing.T, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("waited in vain")
		}
	}
}
