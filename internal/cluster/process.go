package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A process is known by its number and the moment it started, in clock ticks since boot: the kernel gives a number
// again, but not both.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"`
}

// inspect reads the process with this number. ok is false when there is none that still holds anything.
func inspect(pid int) (p process, ok bool) {
	s, err := procStat(pid)
	if err != nil || s.gone() {
		return process{}, false
	}
	return process{pid, s.start}, true
}

// stat is a part of /proc/PID/stat.
type stat struct {
	state   string
	threads int
	start   uint64
}

// ended reports whether the process does nothing any more.
func (s stat) ended() bool { return s.state == "Z" || s.state == "X" }

// gone reports whether the process holds nothing any more, either, such as an address to listen at. The first thread of a
// killed process may be done while others still close its files.
func (s stat) gone() bool { return s.ended() && s.threads <= 1 }

// procStat reads fields 3, 20 and 22 of /proc/PID/stat (proc_pid_stat(5)).
func procStat(pid int) (stat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, err
	}
	return parseStat(string(b))
}

func parseStat(line string) (stat, error) {
	// The name, field 2, is in parentheses and may hold any byte, so count from the last one.
	_, rest, ok := cutLast(line, ")")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return stat{}, errors.New("a process's stat has an unknown form")
	}
	threads, err := strconv.Atoi(fields[17])
	if err != nil {
		return stat{}, fmt.Errorf("read the threads in a process's stat: %w", err)
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("read the start in a process's stat: %w", err)
	}
	return stat{fields[0], threads, start}, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// alive reports whether p still holds anything.
func (p process) alive() bool {
	now, ok := inspect(p.PID)
	return ok && now == p
}

// signal sends a signal to p and to nobody who got its number since. A dead p is no error.
func (p process) signal(s unix.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", p.PID, err)
	}
	defer func() { _ = unix.Close(fd) }()
	// What fd stands for can't change any more, so one look is enough.
	if !p.alive() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, s, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", p.PID, err)
	}
	return nil
}

func (l layout) pidFile(name string) string { return l.run("pids", name+".json") }

// started reads which process was started last as the named component, running or not.
func (l layout) started(name string) (process, bool) {
	var p process
	b, err := os.ReadFile(l.pidFile(name))
	if err != nil || json.Unmarshal(b, &p) != nil || p.PID <= 0 {
		return process{}, false
	}
	return p, true
}

// running gives the process that runs as the named component: it must be the one that was started, in the cluster's
// cgroup and in its network, or there is none.
func (l layout) running(name string) (process, bool) {
	p, ok := l.started(name)
	if !ok || !p.alive() {
		return process{}, false
	}
	if s, err := procStat(p.PID); err != nil || s.ended() {
		return process{}, false
	}
	mine, err := namespaceID(l.netns())
	if err != nil {
		return process{}, false
	}
	its, err := namespaceID(fmt.Sprintf("/proc/%d/ns/net", p.PID))
	if err != nil || its != mine {
		return process{}, false
	}
	return p, slices.Contains(processes(l.cgroups().component(name)), p.PID)
}

// startedAt is when the component was started, or the zero time.
func (l layout) startedAt(name string) time.Time {
	info, err := os.Stat(l.pidFile(name))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// start starts the program of a component in a session, cgroup and namespaces of the cluster's, so that it outlives this
// process, and writes down who it is. Its output is appended to its log.
func (l layout) start(ctx context.Context, name string, env []string, program string, args ...string) error {
	if err := os.MkdirAll(filepath.Dir(l.pidFile(name)), 0o700); err != nil {
		return err
	}
	log, err := openLog(l.log(name))
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	dir, err := l.cgroups().make(name)
	if err != nil {
		return err
	}
	group, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open the cgroup of %s: %w", name, err)
	}
	defer func() { _ = group.Close() }()

	cmd := exec.CommandContext(context.WithoutCancel(ctx), program, args...)
	cmd.Env = env
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// Born in its cgroup: between a start and a later move, a crash would lose it. Version 2 can do that for the child
	// only, version 1 for the thread that makes it.
	if l.cgroups().v2 {
		cmd.SysProcAttr.UseCgroupFD = true
		cmd.SysProcAttr.CgroupFD = int(group.Fd())
	}
	err = onThread(func() error {
		if !l.cgroups().v2 {
			if err := os.WriteFile(filepath.Join(dir, "tasks"), []byte(strconv.Itoa(unix.Gettid())), 0); err != nil {
				return fmt.Errorf("enter the cgroup: %w", err)
			}
		}
		if err := l.enter(); err != nil {
			return err
		}
		return cmd.Start()
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	p, ok := inspect(cmd.Process.Pid)
	// As long as this process lives it must take note of its child's death. The child doesn't end with it.
	go func() { _ = cmd.Wait() }()
	if !ok {
		return nil // it ended at once, which the caller finds out by looking for it
	}
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return writeFile(l.pidFile(name), b, 0o600)
}

// maxLog is the size in bytes at which a component's log is cut.
const maxLog = 32 << 20

// openLog opens a log to append to, and puts one that has grown too large aside, in place of the one before it.
func openLog(path string) (*os.File, error) {
	if info, err := os.Stat(path); err == nil && info.Size() > maxLog {
		if err := os.Rename(path, path+".old"); err != nil {
			return nil, fmt.Errorf("put the log aside: %w", err)
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	return f, nil
}
