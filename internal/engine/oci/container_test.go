package oci_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"slipway/internal/engine"
	"slipway/internal/engine/enginetest"
	"slipway/internal/engine/oci"
	"slipway/internal/plan"
	"slipway/internal/shim"
)

func TestConfinement(t *testing.T) {
	s := newMachine(t).newSandbox(t, engine.Spec{}, nil)
	got := s.succeed(s.env, script("a", `
		grep -E '^(CapEff|CapBnd|Seccomp|NoNewPrivs):' /proc/self/status | tr '\t' ' '
		refused() { if "$@" >/dev/null 2>&1; then echo "allowed: $*"; fi; }
		refused mount -t tmpfs none /tmp
		refused sh -c 'echo 1 >/proc/sys/kernel/sysrq'
		refused sh -c 'echo c >/proc/sysrq-trigger'
		refused unshare -m true
		for fd in /proc/1/fd/*; do refused readlink $fd; refused sh -c ": >>$fd"; done
		refused sh -c 'head -c 1 /proc/1/environ | grep .'
		refused test -e /.slipway/step/start
		refused sh -c 'echo >/.slipway/shim'
		refused sh -c 'head -c 1 /proc/kcore | grep .'
		refused sh -c 'echo 1 >/sys/fs/cgroup/pids/cgroup.procs'
		test $(ls /proc | grep -c '^[0-9]*$') -lt 10 # its own only
		stat -c %t:%T /dev/null; df -k /dev/shm | tail -1 | awk '{print $2}'
		kill -9 1; echo alive
		exec true`))
	// The capabilities are Docker's.
	want := strings.Join([]string{
		"CapEff: 00000000a80425fb", "CapBnd: 00000000a80425fb", "NoNewPrivs: 0", "Seccomp: 2", "1:3", "65536", "alive", "",
	}, "\n")
	if got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestPrivileged(t *testing.T) {
	s := newMachine(t).newSandbox(t, engine.Spec{Trusted: true}, nil)
	step := script("a", "mount -t tmpfs none /tmp; grep Seccomp: /proc/self/status | tr '\\t' ' '; test -c /dev/full; ls /dev | wc -l")
	step.Exec.Privileged = true
	if got := s.succeed(s.env, step); !strings.HasPrefix(got, "Seccomp: 0\n") {
		t.Errorf("output %q", got)
	}
	device := script("b", "head -c 3 /dev/our-zero | wc -c")
	device.Exec.Devices = []plan.Mount{{Source: "/dev/zero", Path: "/dev/our-zero"}}
	if got := s.succeed(s.env, device); got != "3\n" {
		t.Errorf("output %q", got)
	}
}

func TestNeedsTrust(t *testing.T) {
	m := newMachine(t)
	s := m.newSandbox(t, engine.Spec{}, nil)
	for name, change := range map[string]func(*plan.Exec){
		"privileged": func(x *plan.Exec) { x.Privileged = true },
		"device":     func(x *plan.Exec) { x.Devices = []plan.Mount{{Source: "/dev/kmsg", Path: "/dev/kmsg"}} },
		"network":    func(x *plan.Exec) { x.HostNetwork = true },
	} {
		step := script("a", "true")
		change(&step.Exec)
		_, err := s.env.Start(t.Context(), step, nil)
		if startErr := (*engine.StartError)(nil); !errors.As(err, &startErr) || !strings.Contains(err.Error(), "trusted") {
			t.Errorf("%s: Start returned %v", name, err)
		}
	}
	for _, path := range []string{"/proc/x", "/sys", "/.slipway/step"} {
		step := script("a", "true")
		step.Exec.Mounts = []plan.Mount{{Source: "none", Path: path}}
		if _, err := s.env.Start(t.Context(), step, nil); err == nil {
			t.Errorf("a mount at %s was allowed", path)
		}
	}
	job := plan.Job{Workspace: "/w", Volumes: []plan.Volume{{Name: "etc", Host: "/etc"}}}
	if _, err := s.eng.Setup(t.Context(), engine.Spec{ID: enginetest.NewID(), Job: job}); err == nil {
		t.Error("a host volume was allowed")
	}
}

func TestUser(t *testing.T) {
	s := newMachine(t).newSandbox(t, engine.Spec{}, nil)
	for i, test := range []struct{ user, want string }{
		{"printer", "1000 1001 1001 1002 /home/printer"},
		{"1000", "1000 1001 1001 1002 /home/printer"},
		{"printer:paper", "1000 1002 1002 /home/printer"},
		{"4711:4712", "4711 4712 4712 /"},
		{"4711", "4711 0 0 /"},
		{"", "0 0 0 /root"},
	} {
		step := script([]string{"a", "b", "c", "d", "e", "f"}[i], `
			echo $(id -u) $(id -g) $(id -G) $HOME
			echo to stdout >/dev/stdout
			if test $(id -u) != 0 && { ls /.slipway/step || cat /.slipway/step/log; } 2>/dev/null; then echo open; fi`)
		step.Exec.User = test.user
		env := s.env
		if i > 2 {
			env = s.setup(engine.Spec{Job: plan.Job{Steps: []plan.Step{{Name: step.Name, Kind: plan.KindExec, Exec: &plan.Exec{Image: enginetest.Image}}}}})
		}
		if got := s.succeed(env, step); got != test.want+"\nto stdout\n" {
			t.Errorf("user %q: got %q, want %q", test.user, got, test.want)
		}
	}
	step := script("c", "")
	step.Exec.User = "nobody-here"
	env := s.setup(engine.Spec{})
	if _, err := env.Start(t.Context(), step, nil); err == nil || !strings.Contains(err.Error(), `no user "nobody-here"`) {
		t.Errorf("Start as an unknown user: %v", err)
	}
}

func TestImageConfig(t *testing.T) {
	s := newMachine(t).newSandbox(t, engine.Spec{}, func(o *oci.Options) {
		i := o.Images.(images)
		i.config.Entrypoint = []string{"/bin/sh", "-c", `echo $0 $@ $COLOR $SIZE $PWD`, "printer"}
		i.config.Cmd = []string{"default"}
		i.config.Env = []string{"COLOR=cyan", "SIZE=a4"}
		i.config.WorkingDir = "/home/printer"
		o.Images = i
	})
	step := engine.Step{Name: "a", Exec: plan.Exec{Image: enginetest.Image}}
	if got := s.succeed(s.env, step); got != "printer default cyan a4 /home/printer\n" {
		t.Errorf("the image's own: %q", got)
	}
	step = engine.Step{Name: "b", Exec: plan.Exec{Image: enginetest.Image, Args: []string{"other"}, WorkingDir: "/new"}, Env: map[string]string{"SIZE": "a3"}}
	if got := s.succeed(s.env, step); got != "printer other cyan a3 /new\n" {
		t.Errorf("other arguments: %q", got)
	}
	step = engine.Step{Name: "c", Exec: plan.Exec{Image: enginetest.Image, Entrypoint: []string{"/bin/echo"}}}
	if got := s.succeed(s.env, step); got != "\n" {
		t.Errorf("another entrypoint: %q", got)
	}
}

func TestMissingImage(t *testing.T) {
	s := newMachine(t).newSandbox(t, engine.Spec{}, nil)
	step := script("a", "echo hello")
	step.Exec.Image = "no-such-image"
	_, err := s.env.Start(t.Context(), step, nil)
	if startErr := (*engine.StartError)(nil); !errors.As(err, &startErr) || !strings.Contains(err.Error(), "no-such-image") {
		t.Errorf("Start returned %v", err)
	}
	progress := new(enginetest.Output)
	step.Exec.Image, step.Progress = enginetest.Image, progress
	if got := s.succeed(s.env, step); got != "hello\n" || progress.String() != "pulled busybox\n" {
		t.Errorf("output %q, progress %q", got, progress)
	}
}

func TestVolumes(t *testing.T) {
	host := t.TempDir()
	job := plan.Job{Volumes: []plan.Volume{{Name: "temp"}, {Name: "memory", Memory: true, Size: 1 << 20}, {Name: "host", Host: host}}}
	s := newMachine(t).newSandbox(t, engine.Spec{Job: job, Trusted: true}, nil)
	mounts := []plan.Mount{{Source: "temp", Path: "/drone/src/deep/inside"}, {Source: "memory", Path: "/memory"}, {Source: "host", Path: "/host"}}
	step := script("a", "for d in /drone/src/deep/inside /memory /host; do echo $d >$d/file; done; ! head -c 2000000 /dev/zero >/memory/big 2>/dev/null; rm /memory/big")
	step.Exec.Mounts = mounts
	s.succeed(s.env, step)
	step = script("b", "cat /drone/src/deep/inside/file /memory/file /host/file; stat -f -c %T /memory")
	step.Exec.Mounts, step.Exec.User = mounts, "printer"
	if got := s.succeed(s.env, step); got != "/drone/src/deep/inside\n/memory\n/host\ntmpfs\n" {
		t.Errorf("output %q", got)
	}
	if err := s.env.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(host, "file")); err != nil || string(data) != "/host\n" {
		t.Errorf("the host's file is %q, %v", data, err)
	}
}

func TestLimits(t *testing.T) {
	s := newMachine(t).newSandbox(t, engine.Spec{}, func(o *oci.Options) { o.Pids = 20 })
	step := script("a", "head -c 100000000 /dev/zero | tail >/dev/null")
	step.Exec.Limits.Memory = 16 << 20
	proc, out := s.start(s.env, step)
	if result, err := proc.Wait(t.Context()); err != nil || !result.OOM || result.ExitCode != 137 {
		t.Errorf("out of memory: %+v, %v; output %q", result, err, out)
	}
	// The cgroup is gone by now or soon, and another process must get the same answer.
	if result, _ := s.run(s.env, step); !result.OOM {
		t.Errorf("out of memory, asked again: %+v", result)
	}
	result, got := s.run(s.env, script("b", "for i in $(seq 50); do sleep 5 & done; wait"))
	if result.ExitCode == 0 || result.OOM {
		t.Errorf("50 processes where 20 are allowed: %+v, %q", result, got)
	}
	step = script("c", "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null || :")
	step.Exec.Limits.MilliCPU = 1500
	if got := s.succeed(s.env, step); !strings.HasPrefix(got, "150000") {
		t.Errorf("quota of processor time: %q", got)
	}
}

// TestShimKilled kills what no step can kill: the first process of its container.
func TestShimKilled(t *testing.T) {
	s := newMachine(t).newSandbox(t, engine.Spec{}, nil)
	proc, out := s.start(s.env, script("a", "echo ready; sleep 1000"))
	out.Await(t, "ready")
	dirs, err := filepath.Glob(filepath.Join(filepath.Dir(s.env.Workspace()), "steps", "*", "shim"))
	if err != nil || len(dirs) != 1 {
		t.Fatal(dirs, err)
	}
	if err := shim.Signal(dirs[0], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if result, err := proc.Wait(t.Context()); !errors.Is(err, shim.ErrDied) || out.String() != "ready\n" {
		t.Errorf("Wait returned %+v, %v; output %q", result, err, out)
	}
	again, _ := s.start(s.env, script("a", "echo ready; sleep 1000"))
	if _, err := again.Wait(t.Context()); !errors.Is(err, shim.ErrDied) {
		t.Errorf("the step was run again, or forgotten: %v", err)
	}
}
