package oci

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/engine"
	"slipway/internal/plan"
	"slipway/internal/shim"
)

// The folders of a sandbox.
const (
	workspaceDir = "workspace"
	volumesDir   = "volumes"
	stepsDir     = "steps"
)

// grace is how long a step may take to end after it was asked to.
const grace = 10 * time.Second

// Env implements [engine.Env].
type Env struct {
	engine *Engine
	spec   engine.Spec
	dir    string
	state  sandboxState

	mu       sync.Mutex
	procs    []*Proc
	detached bool
	cleaning sync.WaitGroup // of goroutines that clean starts; none is added once detached is set
	// locals answer in the networks of steps, by the path of the network namespace; serving has their goroutines, and none is
	// added once detached is set.
	locals  map[string]*http.Server
	serving sync.WaitGroup
}

// Workspace implements [engine.Env].
func (e *Env) Workspace() string { return filepath.Join(e.dir, workspaceDir) }

// volume returns the folder of a temporary volume.
func (e *Env) volume(v plan.Volume) string {
	return filepath.Join(e.dir, volumesDir, fmt.Sprintf("%x", sha256.Sum256([]byte(v.Name)))[:16])
}

// mountMemory mounts a volume that is kept in memory, once.
func (e *Env) mountMemory(v plan.Volume) error {
	if !v.Memory || v.Host != "" {
		return nil
	}
	var dir, parent unix.Stat_t
	path := e.volume(v)
	if err := errors.Join(unix.Stat(path, &dir), unix.Stat(filepath.Dir(path), &parent)); err != nil {
		return err
	}
	if dir.Dev != parent.Dev {
		return nil
	}
	options := "mode=0777"
	if v.Size > 0 {
		options += fmt.Sprintf(",size=%d", v.Size)
	}
	return unix.Mount("slipway", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options)
}

// Start implements [engine.Env].
func (e *Env) Start(ctx context.Context, step engine.Step, out io.Writer) (engine.Proc, error) {
	proc, err := e.start(ctx, step, out)
	if err != nil {
		if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			return nil, err
		}
		return nil, &engine.StartError{Step: step.Name, Err: err}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.procs = append(e.procs, proc)
	return proc, nil
}

func (e *Env) start(ctx context.Context, step engine.Step, out io.Writer) (*Proc, error) {
	asked := plan.Job{Volumes: e.spec.Job.Volumes, Steps: []plan.Step{{Name: step.Name, Exec: &step.Exec}}}
	if needs := asked.NeedsTrust(); needs != "" && !e.spec.Trusted {
		return nil, fmt.Errorf("%s, which only a trusted repo may have", needs)
	}
	if _, ok := e.state.Addresses[step.Name]; !ok {
		return nil, errors.New("the job has no such step")
	}
	c := newContainer(e.spec.ID, step.Name)
	paths := stepPaths(filepath.Join(e.dir, stepsDir, c.key))
	unlock, err := lockFile(paths.lock())
	if errors.Is(err, os.ErrNotExist) {
		return nil, errors.New("the sandbox of the job was removed")
	}
	if err != nil {
		return nil, err
	}
	var created <-chan struct{} // nil if there is nothing to wait for
	defer func() {
		if created == nil {
			unlock()
			return
		}
		go func() {
			<-created
			unlock()
		}()
	}()
	state, err := shim.Look(paths.shim())
	if err != nil {
		return nil, err
	}
	if state == shim.Unstarted {
		if created, err = e.launch(ctx, c, paths, step); err != nil {
			// Whatever there is of the container goes, so that the step may be tried again.
			if step.Local != nil && e.spec.Job.Network != plan.Shared {
				e.closeLocal(e.netns(paths))
			}
			clean := e.engine.removeLocked(context.WithoutCancel(ctx), c)
			return nil, errors.Join(err, clean, os.RemoveAll(string(paths)))
		}
	} else if state < shim.Ended {
		e.serveLocal(e.netns(paths), step)
	}
	return &Proc{
		env:        e,
		container:  c,
		paths:      paths,
		attachment: shim.Attach(paths.shim(), step.Offset, out),
	}, nil
}

// Close implements [engine.Env].
func (e *Env) Close(ctx context.Context) error {
	e.endProcs(ctx)
	err := e.engine.removeSandbox(ctx, e.spec.ID)
	e.detach()
	e.engine.forget(e)
	if err != nil {
		return fmt.Errorf("remove the sandbox of job %q: %w", e.spec.Job.Name, err)
	}
	return nil
}

// endProcs kills the steps that were started here, and lets those who wait for them see it before the files go. What
// fails is tried again, and reported, when the sandbox is removed.
func (e *Env) endProcs(ctx context.Context) {
	e.mu.Lock()
	procs := slices.Clone(e.procs)
	e.mu.Unlock()
	for _, p := range procs {
		if shim.Kill(ctx, p.paths.shim()) == nil {
			_, _ = p.attachment.Wait(ctx)
		}
	}
}

// detach ends what the sandbox does in this process.
func (e *Env) detach() {
	e.mu.Lock()
	procs, locals := e.procs, e.locals
	e.procs, e.locals, e.detached = nil, nil, true
	e.mu.Unlock()
	for _, server := range locals {
		_ = server.Close()
	}
	e.serving.Wait()
	for _, p := range procs {
		p.attachment.Close()
	}
	e.cleaning.Wait()
}

// clean removes what is left of a container whose step has ended, in the background: its result is known already.
func (e *Env) clean(c container) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.detached {
		return
	}
	e.cleaning.Go(func() {
		_ = e.engine.removeContainer(context.Background(), c) // Close tries again, and reports
	})
}

// Proc implements [engine.Proc].
type Proc struct {
	env        *Env
	container  container
	paths      stepPaths
	attachment *shim.Attachment
}

// Wait implements [engine.Proc].
func (p *Proc) Wait(ctx context.Context) (engine.Result, error) {
	exit, err := p.attachment.Wait(ctx)
	if err != nil && !errors.Is(err, shim.ErrDied) {
		return engine.Result{}, err
	}
	result := engine.Result{ExitCode: exit.Code, OOM: p.oom()}
	p.env.clean(p.container)
	switch {
	case err != nil && (result.OOM || p.paths.has(killedFile)):
		// The kernel or Stop killed the shim with the rest.
		result.ExitCode = 128 + int(unix.SIGKILL)
		return result, nil
	case err != nil:
		return engine.Result{}, err
	case exit.Lost != "":
		return engine.Result{}, fmt.Errorf("output of the step was lost: %s", exit.Lost)
	}
	return result, nil
}

// oom reports whether the kernel killed a process of the step for want of memory. It is asked before the cgroup is
// removed, and remembered for those who ask later; in that order, as it may be removed meanwhile.
func (p *Proc) oom() bool {
	return p.env.engine.cgroups.oomKills(p.env.engine.names.cgroupOf(p.container)) > 0 || p.paths.has(oomFile)
}

// Stop implements [engine.Proc].
func (p *Proc) Stop(ctx context.Context) error {
	if err := os.WriteFile(filepath.Join(string(p.paths), killedFile), nil, 0o600); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return shim.Stop(ctx, p.paths.shim(), grace)
}
