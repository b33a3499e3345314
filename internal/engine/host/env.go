package host

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/engine"
	"slipway/internal/plan"
	"slipway/internal/shim"
)

// The folders of a sandbox.
const (
	workspaceDir = "workspace"
	homeDir      = "home"
	stepsDir     = "steps"
	shimErrors   = "stderr" // in the folder of a step: what the shim says when it cannot do its part
)

// startLimit bounds the start of a process, which takes milliseconds.
const startLimit = time.Minute

// grace is how long a step may take to end after it was asked to.
const grace = 10 * time.Second

// Env implements [engine.Env].
type Env struct {
	engine *Engine
	job    plan.Job
	dir    string

	mu    sync.Mutex
	procs []*Proc
}

// Workspace implements [engine.Env].
func (e *Env) Workspace() string { return filepath.Join(e.dir, workspaceDir) }

// Start implements [engine.Env].
func (e *Env) Start(ctx context.Context, step engine.Step, out io.Writer) (engine.Proc, error) {
	proc, err := e.start(ctx, step, out)
	if err != nil {
		return nil, &engine.StartError{Step: step.Name, Err: err}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.procs = append(e.procs, proc)
	return proc, nil
}

func (e *Env) start(ctx context.Context, step engine.Step, out io.Writer) (*Proc, error) {
	command, err := e.command(step)
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(e.dir, stepsDir, stepKey(step.Name))
	unlock, err := lockStep(dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// From here on the step's process may run. A start that is broken off would leave it half done, so it is not.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startLimit)
	defer cancel()
	pid := 0
	for launched := false; ; {
		state, err := shim.Look(dir)
		if err != nil {
			return nil, err
		}
		switch {
		case state > shim.Starting:
			return &Proc{dir: dir, pid: pid, attachment: shim.Attach(dir, step.Offset, out)}, nil
		case state == shim.Unstarted && !launched:
			launched = true
			if pid, err = e.launch(dir, command); err != nil {
				return nil, err
			}
		case state == shim.Unstarted && reaped(pid, unix.WNOHANG):
			said, _ := os.ReadFile(filepath.Join(dir, shimErrors))
			return nil, fmt.Errorf("the shim %s did not take the command: %s", e.engine.opts.Shim, bytes.TrimSpace(said))
		}
		if err := awaitStarted(ctx, dir); err != nil {
			return nil, errors.Join(err, shim.Kill(context.WithoutCancel(ctx), dir))
		}
	}
}

// awaitStarted waits a moment, or until the shim of dir has taken its command.
func awaitStarted(ctx context.Context, dir string) error {
	moment, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := shim.Started(moment, dir); err != nil && moment.Err() == nil {
		return err
	}
	return ctx.Err()
}

// command translates step, and says what of it this engine cannot do.
func (e *Env) command(step engine.Step) (shim.Command, error) {
	x := step.Exec
	switch {
	case len(x.Entrypoint) == 0:
		return shim.Command{}, errors.New("it runs what its image says, and this runner has no images (engine host): give it commands")
	case len(x.Mounts) > 0:
		return shim.Command{}, errors.New("it mounts volumes, and this runner has no containers (engine host)")
	case x.Privileged, len(x.Devices) > 0, x.User != "":
		return shim.Command{}, errors.New("it asks for privileges, devices or a user, and this runner has no containers (engine host)")
	case x.Limits != plan.Limits{}:
		return shim.Command{}, errors.New("it has limits, and this runner has no containers (engine host) to hold them")
	}
	dir := e.Workspace()
	if x.WorkingDir != "" {
		dir = x.WorkingDir
		if rest, ok := strings.CutPrefix(dir+"/", e.job.Workspace+"/"); ok {
			dir = filepath.Join(e.Workspace(), rest)
		}
	}
	env := map[string]string{"PATH": os.Getenv("PATH"), "HOME": filepath.Join(e.dir, homeDir)}
	maps.Copy(env, step.Env)
	command := shim.Command{Args: slices.Concat(x.Entrypoint, x.Args), Dir: dir, Script: x.Script}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		command.Env = append(command.Env, name+"="+env[name])
	}
	return command, nil
}

// launch starts a shim for dir that outlives this process.
func (e *Env) launch(dir string, command shim.Command) (pid int, err error) {
	// A shim that came and went without taking its command leaves a lock file that would stop the next.
	if err := emptyFolder(dir); err != nil {
		return 0, err
	}
	if err := shim.Start(dir, command); err != nil {
		return 0, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	stderr, err := os.Create(filepath.Join(dir, shimErrors))
	if err != nil {
		return 0, err
	}
	defer stderr.Close()
	process, err := os.StartProcess(e.engine.opts.Shim, []string{e.engine.opts.Shim, "shim", dir}, &os.ProcAttr{
		Dir:   "/",
		Env:   []string{},
		Files: []*os.File{null, null, stderr},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, errors.Join(err, emptyFolder(dir))
	}
	pid = process.Pid
	return pid, process.Release()
}

// Close implements [engine.Env].
func (e *Env) Close(ctx context.Context) error {
	e.endProcs(ctx)
	err := removeSandbox(ctx, e.dir)
	e.detach()
	e.engine.forget(e)
	return err
}

// endProcs kills the steps that were started here, and lets those who wait for them see it before the files go. What
// fails is tried again, and reported, when the sandbox is removed.
func (e *Env) endProcs(ctx context.Context) {
	e.mu.Lock()
	procs := slices.Clone(e.procs)
	e.mu.Unlock()
	for _, p := range procs {
		if shim.Kill(ctx, p.dir) == nil {
			_, _ = p.attachment.Wait(ctx)
		}
	}
}

// detach ends what the sandbox does in this process.
func (e *Env) detach() {
	e.mu.Lock()
	procs := e.procs
	e.procs = nil
	e.mu.Unlock()
	for _, p := range procs {
		p.attachment.Close()
		reaped(p.pid, unix.WNOHANG)
	}
}

// Proc implements [engine.Proc].
type Proc struct {
	dir        string
	pid        int // of the shim, if it is a child of this process
	attachment *shim.Attachment
}

// Wait implements [engine.Proc].
func (p *Proc) Wait(ctx context.Context) (engine.Result, error) {
	exit, err := p.attachment.Wait(ctx)
	if err != nil {
		return engine.Result{}, err
	}
	if exit.Lost != "" {
		return engine.Result{}, fmt.Errorf("output of the step was lost: %s", exit.Lost)
	}
	reaped(p.pid, 0)
	return engine.Result{ExitCode: exit.Code}, nil
}

// Stop implements [engine.Proc].
func (p *Proc) Stop(ctx context.Context) error { return shim.Stop(ctx, p.dir, grace) }

// reaped waits for a shim, and reports whether it was a child of this process that is gone now.
func reaped(pid, options int) bool {
	if pid == 0 {
		return false
	}
	got, err := unix.Wait4(pid, nil, options, nil)
	return got == pid && err == nil
}

// removeSandbox kills the steps of a sandbox and removes its folder.
func removeSandbox(ctx context.Context, dir string) error {
	steps, err := os.ReadDir(filepath.Join(dir, stepsDir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	var problems []error
	for _, step := range steps {
		if step.IsDir() {
			problems = append(problems, shim.Kill(ctx, filepath.Join(dir, stepsDir, step.Name())))
		}
	}
	if err := errors.Join(problems...); err != nil {
		return err
	}
	return removeAll(dir)
}

// removeAll is os.RemoveAll that also removes folders without the permission to write, such as Go's module cache.
func removeAll(dir string) error {
	err := os.RemoveAll(dir)
	if err == nil || !errors.Is(err, os.ErrPermission) {
		return err
	}
	_ = filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if entry != nil && entry.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}

// lockStep locks the folder of a step, which need not exist, against other starts of the same step.
func lockStep(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}

func emptyFolder(dir string) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Mkdir(dir, 0o700)
}

// stepKey turns a step's name, which may be anything, into the name of a file.
func stepKey(name string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(name)))[:16] }
