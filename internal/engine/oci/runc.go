package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// runc calls the program runc, which keeps its state in root.
type runc struct {
	path string
	root string
}

func newRunc(program, root string) (runc, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return runc{}, fmt.Errorf("the engine oci needs the program runc (in Debian, the package runc): %w", err)
	}
	return runc{path: path, root: root}, nil
}

// start makes the container of a bundle and starts its process, which gets stderr. When it returns, the process runs.
func (r runc) start(ctx context.Context, id, bundle string, stderr *os.File) error {
	log := filepath.Join(bundle, "runc.log")
	cmd := exec.CommandContext(ctx, r.path, "--root", r.root, "--log", log, "--log-format", "json",
		"run", "--detach", "--bundle", bundle, id)
	cmd.Stdout, cmd.Stderr = stderr, stderr
	// It must not go on to make a container for a process that is dead: who comes next would not know of it. The kernel
	// means the thread when it says parent.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return errors.New(runcError(log, err))
	}
	return nil
}

// forget removes what runc keeps of a container that has no process and no cgroup any more. That is what `runc delete`
// would do for a container without hooks, at the cost of starting a program; and it fails for one that was half made.
func (r runc) forget(id string) error { return os.RemoveAll(filepath.Join(r.root, id)) }

// runcError finds the last error in runc's log.
func runcError(log string, err error) string {
	data, _ := os.ReadFile(log)
	lines := strings.Split(string(bytes.TrimSpace(data)), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		var entry struct{ Level, Msg string }
		if json.Unmarshal([]byte(lines[i]), &entry) == nil && entry.Level == "error" {
			return "runc: " + entry.Msg
		}
	}
	return "runc: " + err.Error()
}
