package shim

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The exit codes of a command that could not be run, as shells have them.
const (
	cannotRun = 126
	notFound  = 127
)

// maxEntry is how long the kernel allows one argument or variable to be (MAX_ARG_STRLEN), its NUL included.
const maxEntry = 32 * 4096

// runCommand runs c to its end and returns how it ended. All of its output is in log by then.
func runCommand(c Command, signals <-chan os.Signal, log *boundedLog) (code, sig int) {
	out, stdout, err := os.Pipe()
	if err != nil {
		log.say("cannot make a pipe: %v", err)
		return cannotRun, 0
	}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(log, out)
	}()
	code, sig = runProcess(c, signals, stdout, log)
	// Every process of the step is dead, so the pipe has an end, unless one was handed to somebody outside. Such a stranger
	// is not waited for.
	select {
	case <-copied:
	case <-time.After(time.Second):
	}
	return code, sig
}

func runProcess(c Command, signals <-chan os.Signal, stdout *os.File, log *boundedLog) (code, sig int) {
	// The command dies with the thread that started it, so that it does not outlive a shim that is killed.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pid, code := startProcess(c, stdout, log)
	_ = stdout.Close()
	if pid == 0 {
		return code, 0
	}
	ended := make(chan struct{})
	defer close(ended)
	go passSignals(pid, signals, ended)
	status := reapUntil(pid)
	killDescendants()
	return exitOf(status)
}

// startProcess starts c and returns its pid, or 0 and the exit code after saying why in the log.
func startProcess(c Command, stdout *os.File, log *boundedLog) (pid, code int) {
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		log.say("cannot make the working directory: %v", err)
		return 0, cannotRun
	}
	program, err := lookUp(c)
	if err != nil {
		log.say("%v", err)
		return 0, notFound
	}
	stdin, err := feed(c.Script)
	if err != nil {
		log.say("cannot give the script to the command: %v", err)
		return 0, cannotRun
	}
	defer stdin.Close()
	attr := &syscall.ProcAttr{
		Dir:   c.Dir,
		Env:   c.Env,
		Files: []uintptr{stdin.Fd(), stdout.Fd(), stdout.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL},
	}
	if u := c.User; u != nil {
		attr.Sys.Credential = &syscall.Credential{Uid: u.UID, Gid: u.GID, Groups: u.Groups}
		// A process may open /dev/stdout by name only if the pipe is its own.
		for _, f := range []*os.File{stdin, stdout} {
			_ = f.Chown(int(u.UID), int(u.GID))
		}
	}
	pid, err = syscall.ForkExec(program, c.Args, attr)
	switch {
	case err == nil:
		return pid, 0
	case errors.Is(err, syscall.E2BIG):
		log.say("%s: %s", c.Args[0], tooBig(c))
	case errors.Is(err, syscall.ENOENT):
		log.say("%s: the program is there, but what it needs to run (its interpreter or loader) is not in the image", c.Args[0])
		return 0, notFound
	case errors.Is(err, syscall.ENOEXEC):
		log.say("%s: the program is not for this machine (%s), or a script without a first line that names its interpreter", c.Args[0], runtime.GOARCH)
	case errors.Is(err, syscall.EACCES):
		log.say("%s: permission denied: the file is not executable, or its user may not enter %s", c.Args[0], c.Dir)
	default:
		log.say("cannot run %s: %v", c.Args[0], err)
	}
	return 0, cannotRun
}

// lookUp finds the program of c as execvp does, by the PATH of the command and not of the shim.
func lookUp(c Command) (string, error) {
	name := c.Args[0]
	if strings.Contains(name, "/") {
		path := name
		if !filepath.IsAbs(path) {
			path = filepath.Join(c.Dir, path)
		}
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			if name == "/bin/sh" { // what commands are run by
				return "", errors.New("/bin/sh: no such file; commands need an image with a shell, so use another image, or no commands and its own entrypoint")
			}
			return "", fmt.Errorf("%s: no such file", name)
		}
		return path, nil
	}
	search := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, entry := range c.Env {
		if value, ok := strings.CutPrefix(entry, "PATH="); ok {
			search = value
		}
	}
	for _, dir := range filepath.SplitList(search) {
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(c.Dir, dir)
		}
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s: not found on the PATH %s", name, search)
}

// tooBig says in which way arguments and environment exceed what the kernel allows, without a value.
func tooBig(c Command) string {
	total := 0
	for _, arg := range c.Args {
		if len(arg) >= maxEntry {
			return fmt.Sprintf("an argument of %d bytes is longer than the %d that a program can be given", len(arg), maxEntry-1)
		}
		total += len(arg) + 1
	}
	for _, entry := range c.Env {
		if len(entry) >= maxEntry {
			name, _, _ := strings.Cut(entry, "=")
			return fmt.Sprintf("the variable %s has %d bytes, more than the %d that a program can be given; put it into a file", name, len(entry)-len(name)-1, maxEntry-len(name)-2)
		}
		total += len(entry) + 1
	}
	return fmt.Sprintf("environment and arguments have %d bytes together, more than a program can be given", total)
}

// feed returns a file that reads as script.
func feed(script string) (*os.File, error) {
	if script == "" {
		return os.Open(os.DevNull)
	}
	stdin, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	go func() {
		// A command that ends without reading all of it is no error.
		_, _ = io.WriteString(w, script)
		_ = w.Close()
	}()
	return stdin, nil
}

func passSignals(pid int, signals <-chan os.Signal, ended <-chan struct{}) {
	for {
		select {
		case s := <-signals:
			if s == SignalKill {
				s = syscall.SIGKILL
			}
			_ = syscall.Kill(-pid, s.(syscall.Signal))
		case <-ended:
			return
		}
	}
}

// reapUntil waits for children, its own and those that it was left, until pid has ended.
func reapUntil(pid int) syscall.WaitStatus {
	for {
		var status syscall.WaitStatus
		if got, err := syscall.Wait4(-1, &status, 0, nil); got == pid || err == syscall.ECHILD {
			return status
		}
	}
}

// killDescendants kills what the command left running, and waits until it is gone.
func killDescendants() {
	for {
		if os.Getpid() == 1 {
			_ = syscall.Kill(-1, syscall.SIGKILL)
		} else if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); err == nil && pid == 0 {
			killChildren()
		}
		// The children of a killed process are the shim's next.
		if _, err := syscall.Wait4(-1, nil, 0, nil); err == syscall.ECHILD {
			return
		}
	}
}

// killChildren kills the processes whose parent is this one.
func killChildren() {
	self := strconv.Itoa(os.Getpid())
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		data, _ := os.ReadFile(path)
		// pid (name) state ppid ...; the name may contain anything.
		pid, _, _ := strings.Cut(string(data), " ")
		fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
		if n, err := strconv.Atoi(pid); err == nil && len(fields) > 1 && fields[1] == self {
			_ = syscall.Kill(n, syscall.SIGKILL)
		}
	}
}

// exitOf translates a wait status into an exit code and the signal that ended the process, if any.
func exitOf(status syscall.WaitStatus) (code, sig int) {
	if status.Signaled() {
		return 128 + int(status.Signal()), int(status.Signal())
	}
	return status.ExitStatus(), 0
}
