package oci_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/engine"
	"slipway/internal/engine/enginetest"
	"slipway/internal/plan"
)

// make fails t unless files for the image were made.
func (m machine) make(t *testing.T, problems ...error) {
	t.Helper()
	if err := errors.Join(problems...); err != nil {
		t.Fatal(err)
	}
}

// TestImageVolumes has a volume with one of everything, and another that is not in the image.
func TestImageVolumes(t *testing.T) {
	m := newMachine(t)
	m.Volumes = []string{"/data", "/new/empty", "/also"}
	at := func(name string) string { return filepath.Join(m.Base, name) }
	past := time.Unix(1_000_000_000, 0)
	m.make(
		t,
		os.MkdirAll(at("data/sub"), 0o755), os.Mkdir(at("also"), 0o755),
		os.WriteFile(at("data/sub/program"), []byte("content"), 0o644), os.Chown(at("data/sub/program"), 1000, 1001),
		os.Chmod(at("data/sub/program"), 0o750|os.ModeSetuid),
		unix.Setxattr(at("data/sub/program"), "trusted.slipway", []byte("kept"), 0), os.Chtimes(at("data/sub/program"), past, past),
		os.Link(at("data/sub/program"), at("data/second name")), os.Link(at("data/sub/program"), at("also/third")),
		os.Symlink("/etc/passwd", at("data/absolute")), os.Symlink("../../../../../../outside", at("data/away")), os.Lchown(at("data/away"), 7, 8),
		os.WriteFile(at("data/not-utf8-\xff"), nil, 0o600),
		unix.Mkfifo(at("data/fifo"), 0o640), unix.Mknod(at("data/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))), os.Chmod(at("data/null"), 0o666),
		os.Chown(at("data"), 1000, 1001), os.Chmod(at("data"), 0o770|os.ModeSticky), os.Chtimes(at("data"), past, past),
	)
	s := m.newSandbox(t, engine.Spec{}, nil)
	a, out := s.start(s.env, script("a", `
		cd /data
		stat -c '%n %A %u:%g %Y' . sub/program; cat sub/program; echo
		test sub/program -ef 'second name' && test sub/program -ef /also/third && stat -c %h sub/program
		stat -c '%N' absolute; stat -c '%N %u:%g' away; head -n 1 absolute
		test -p fifo; stat -c '%A' fifo; stat -c '%A %t:%T' null; ls | wc -l
		stat -c '%A %u:%g' /new/empty; ls -A /new/empty
		for d in /data /new/empty; do
			test "$(stat -f -c '%i %t' $d)" = "$(stat -f -c '%i %t' /drone/src)" || echo $d is on another file system
			grep " $d " /proc/self/mountinfo | cut -d ' ' -f 6 | cut -d , -f 1
			echo mine >$d/mine
		done
		echo ready; sleep 1000`))
	out.Await(t, "ready\n")
	want := `. drwxrwx--T 1000:1001 1000000000
sub/program -rwsr-x--- 1000:1001 1000000000
content
3
'absolute' -> '/etc/passwd'
'away' -> '../../../../../../outside' 7:8
root:x:0:0:root:/root:/bin/sh
prw-r-----
crw-rw-rw- 1:3
7
drwxr-xr-x 0:0
rw
rw
ready
`
	if got := out.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	folders, err := filepath.Glob(filepath.Join(filepath.Dir(s.env.Workspace()), "steps", "*", "volumes"))
	if err != nil || len(folders) != 1 {
		t.Fatalf("folders of volumes: %q, %v", folders, err)
	}
	programs, err := filepath.Glob(filepath.Join(folders[0], "*", "sub", "program"))
	if err != nil || len(programs) != 1 {
		t.Fatalf("copies: %q, %v", programs, err)
	}
	value := make([]byte, 10)
	if n, err := unix.Getxattr(programs[0], "trusted.slipway", value); err != nil || string(value[:n]) != "kept" {
		t.Errorf("the attribute is %q, %v", value[:max(n, 0)], err)
	}

	// Another container has its own, also while the first one runs, and the image stays as it was.
	if got := s.succeed(s.env, script("b", "ls /new/empty; ls /data | grep -c . ; cat /data/sub/program")); got != "7\ncontent" {
		t.Errorf("another step sees %q", got)
	}
	if _, err := os.Lstat(at("data/mine")); err == nil {
		t.Error("the image was written to")
	}
	// They go with the container, before the job ends.
	if err := a.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Lstat(folders[0]); errors.Is(err, os.ErrNotExist) {
			break
		}
		if t.Context().Err() != nil {
			t.Fatal("the volumes stay after the end of the container")
		}
	}
}

// TestImageVolumesAndPlan has mounts of the plan around, at and inside of the volumes of the image.
func TestImageVolumesAndPlan(t *testing.T) {
	m := newMachine(t)
	m.Volumes = []string{"/drone/src/target", "/cache", "/deep/down/below", "/link/inside", "/home", "/home/printer"}
	m.make(t, os.Symlink("/cache", filepath.Join(m.Base, "link")), os.Mkdir(filepath.Join(m.Base, "cache"), 0o755),
		os.WriteFile(filepath.Join(m.Base, "cache/image"), nil, 0o644), os.WriteFile(filepath.Join(m.Base, "home/printer/image"), nil, 0o644))
	job := plan.Job{Volumes: []plan.Volume{{Name: "one"}, {Name: "two"}, {Name: "three"}}}
	s := m.newSandbox(t, engine.Spec{Job: job}, nil)
	step := func(name, text string) engine.Step {
		step := script(name, text)
		step.Exec.Mounts = []plan.Mount{{Source: "one", Path: "/cache"}, {Source: "two", Path: "/deep/down"}, {Source: "three", Path: "/home/shared"}}
		return step
	}
	const places = "/drone/src/target /cache/inside /cache /deep/down/below /home/shared /home /home/printer"
	got := s.succeed(s.env, step("a", "for d in "+places+"; do mkdir -p $d; echo a >$d/file; done; ls /cache /home/printer; grep -c ' /home' /proc/self/mountinfo"))
	if want := "/cache:\nfile\ninside\n\n/home/printer:\nfile\nimage\n2\n"; got != want {
		t.Errorf("the first step sees %q, want %q", got, want)
	}
	got = s.succeed(s.env, step("b", "for d in "+places+"; do if test -e $d/file; then echo $d; fi; done"))
	if want := "/drone/src/target\n/cache/inside\n/cache\n/deep/down/below\n/home/shared\n"; got != want {
		t.Errorf("the steps share %q, want %q", got, want)
	}
}

// TestImageVolumesHostile has an image that wants volumes where there must be none, and outside of itself.
func TestImageVolumesHostile(t *testing.T) {
	m := newMachine(t)
	outside := t.TempDir()
	links := map[string]string{"to-proc": "/proc", "to-own": ".slipway", "circle": "circle", "up": "../../../..", "out": outside}
	for name, target := range links {
		m.make(t, os.Symlink(target, filepath.Join(m.Base, name)))
	}
	refused := []string{
		"", "/", "..", "/a/../..", "/up", "/proc", "/proc/sys/kernel", "/to-proc/1", "/sys/fs/cgroup", "/dev", "/dev/shm", "/up/dev/new",
		"/.slipway", "/.slipway/shim", "/to-own/step", "/circle/x", "/etc/passwd", "/etc/passwd/x", "/nul\x00", "/" + strings.Repeat("x", 300),
		strings.Repeat("/x", 300), "/" + strings.Repeat("x", 1<<20),
	}
	made := []string{"relative", "../../srv", "/out/new", "/line\nbreak", "/up/var/./lib/../lib"}
	m.Volumes = append(append([]string{}, refused...), made...)
	s := m.newSandbox(t, engine.Spec{}, nil)
	said := new(enginetest.Output)
	step := script("a", `for d in /relative /srv `+outside+`/new "$(printf '/line\nbreak')" /var/lib; do echo mine >"$d/file"; done
		grep -c '/steps/[^/]*/volumes/' /proc/self/mountinfo`)
	step.Progress = said
	if got, want := s.succeed(s.env, step), fmt.Sprintln(len(made)); got != want {
		t.Errorf("%q volumes, want %q; progress:\n%s", got, want, said)
	}
	lines := strings.Split(strings.TrimSpace(said.String()), "\n")
	for _, place := range refused {
		found := false
		for _, line := range lines {
			found = found || strings.HasPrefix(line, fmt.Sprintf("the image's volume %.200q is left out: ", place)) && len(line) < 2000
		}
		if !found {
			t.Errorf("the log says nothing of %.200q", place)
		}
	}
	if want := len(refused) + 1; len(lines) != want { // and that the image was pulled
		t.Errorf("%d lines, want %d:\n%s", len(lines), want, said)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
		t.Errorf("on this machine: %v, %v", entries, err)
	}
}

func TestImageVolumesLimit(t *testing.T) {
	m := newMachine(t)
	for i := range 101 {
		m.Volumes = append(m.Volumes, fmt.Sprint("/v", i))
	}
	s := m.newSandbox(t, engine.Spec{}, nil)
	if _, err := s.env.Start(t.Context(), script("a", ""), nil); err == nil || !strings.Contains(err.Error(), "has 101 volumes; at most 100") {
		t.Errorf("Start returned %v", err)
	}
}

// TestImageVolumesCanceled cancels a step while its volume is filled, and starts it again.
func TestImageVolumesCanceled(t *testing.T) {
	m := newMachine(t)
	m.Volumes = []string{"/data"}
	m.make(t, os.Mkdir(filepath.Join(m.Base, "data"), 0o755))
	for i := range 2000 {
		m.make(t, os.WriteFile(filepath.Join(m.Base, "data", fmt.Sprint(i)), nil, 0o644))
	}
	s := m.newSandbox(t, engine.Spec{}, nil)
	step := script("a", "ls /data | wc -l")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := s.env.Start(ctx, step, nil)
		ended <- err
	}()
	pattern := filepath.Join(filepath.Dir(s.env.Workspace()), "steps", "*", "volumes", "0", "*")
	for found := []string(nil); len(found) == 0; {
		select {
		case err := <-ended:
			t.Fatalf("Start returned %v before its volume had anything", err)
		default:
			found, _ = filepath.Glob(pattern)
		}
	}
	cancel()
	// It may have been done with copying at this very moment.
	if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("Start returned %v", err)
	}
	if got := s.succeed(s.env, step); got != "2000\n" {
		t.Errorf("output %q", got)
	}
}
