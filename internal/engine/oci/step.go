package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/mount"

	"slipway/internal/engine"
	"slipway/internal/shim"
)

// stepPaths is the folder of a step, which is also the bundle of its container.
type stepPaths string

func (p stepPaths) lock() string   { return string(p) + ".lock" }
func (p stepPaths) rootfs() string { return filepath.Join(string(p), "rootfs") }
func (p stepPaths) shim() string   { return filepath.Join(string(p), "shim") }
func (p stepPaths) netns() string  { return filepath.Join(string(p), "netns") }
func (p stepPaths) etc() string    { return filepath.Join(string(p), "etc") }
func (p stepPaths) stderr() string { return filepath.Join(string(p), "stderr") }

// volumes is the folder of the volumes of its image, if that has any.
func (p stepPaths) volumes() string { return filepath.Join(string(p), "volumes") }

// Files of a step's folder whose presence says something.
const (
	oomFile    = "oom"    // a process was killed for want of memory
	killedFile = "killed" // Stop was called
)

func (p stepPaths) has(name string) bool {
	_, err := os.Lstat(filepath.Join(string(p), name))
	return err == nil
}

// startLimit bounds the start of a container that is all prepared, which takes some hundredths of a second.
const startLimit = time.Minute

// launch makes the container of a step and starts it. On error it leaves what was made.
//
// The step runs a moment before runc has ended, and is not held up by that: whoever removes the container must first wait
// until created is closed.
func (e *Env) launch(ctx context.Context, c container, paths stepPaths, step engine.Step) (created <-chan struct{}, err error) {
	if err := e.bundle(ctx, c, paths, step); err != nil {
		return nil, err
	}
	stderr, err := os.Create(paths.stderr())
	if err != nil {
		return nil, err
	}
	// From here on the step's process may run. A start that is broken off would leave it half done, so it is not.
	ctx = context.WithoutCancel(ctx)
	starting, stop := context.WithTimeout(ctx, startLimit)
	running, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	waiting, cancel := context.WithTimeout(running, startLimit)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer stop()
		defer stderr.Close()
		if err := e.engine.runc.start(starting, c.name(), string(paths), stderr); err != nil {
			fail(err)
		}
	}()
	if err := e.awaitShim(waiting, c, paths, done); err != nil {
		stop()
		<-done
		return nil, err
	}
	return done, nil
}

// bundle makes all that the container of a step needs, its command included.
func (e *Env) bundle(ctx context.Context, c container, paths stepPaths, step engine.Step) error {
	eng := e.engine
	if _, err := os.Lstat(string(paths)); err == nil {
		// Another process died while it made the container.
		if err := errors.Join(eng.removeLocked(ctx, c), os.RemoveAll(string(paths))); err != nil {
			return err
		}
	}
	for _, dir := range []string{string(paths), paths.rootfs(), paths.shim(), paths.etc()} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(paths.shim(), 0o700); err != nil {
		return err
	}
	type network struct {
		path string
		err  error
	}
	connected := make(chan network, 1)
	go func() {
		path, err := e.connect(c, paths, step)
		connected <- network{path, err}
	}()
	rootfs, err := e.mountRootfs(ctx, c, paths, step)
	net := <-connected
	if err != nil {
		return err
	}
	if net.err != nil {
		return fmt.Errorf("connect it to the network: %w", net.err)
	}
	e.serveLocal(net.path, step)
	if err := putFiles(paths.rootfs(), step.Files); err != nil && step.Progress != nil {
		fmt.Fprintf(step.Progress, "a file for the step cannot be written: %v\n", err)
	}
	command, err := commandOf(step, rootfs.Config, paths.rootfs())
	if err != nil {
		return err
	}
	if err := e.writeEtc(paths, step); err != nil {
		return err
	}
	own, err := e.planMounts(paths, step)
	if err != nil {
		return err
	}
	volumes, err := imageVolumes(ctx, paths, rootfs.Config.Volumes, own, step)
	if err != nil {
		return err
	}
	spec, err := e.containerSpec(c, paths, step, net.path, append(volumes, own...))
	if err != nil {
		return err
	}
	config, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(string(paths), "config.json"), config, 0o600); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return shim.Start(paths.shim(), command)
}

func (e *Env) mountRootfs(ctx context.Context, c container, paths stepPaths, step engine.Step) (Rootfs, error) {
	rootfs, err := e.engine.opts.Images.Rootfs(ctx, c.name(), Image{
		Ref: step.Exec.Image, Pull: step.Exec.Pull, Auths: e.spec.Auths, Progress: step.Progress,
	})
	if err != nil {
		return Rootfs{}, err
	}
	if err := mount.All(rootfs.Mounts, paths.rootfs()); err != nil {
		return Rootfs{}, fmt.Errorf("mount the image %s: %w", step.Exec.Image, err)
	}
	return rootfs, nil
}

// awaitShim waits until the shim of a container has taken its command. runc has made the container when created is
// closed, or it ended ctx with what it has against it.
func (e *Env) awaitShim(ctx context.Context, c container, paths stepPaths, created <-chan struct{}) error {
	for gone := false; ; {
		moment, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		state, err := shim.Started(moment, paths.shim())
		cancel()
		switch {
		case err == nil || state > shim.Starting:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !errors.Is(err, context.DeadlineExceeded):
			return err
		}
		select {
		case <-created:
		default:
			continue
		}
		if gone {
			said, _ := os.ReadFile(paths.stderr())
			return fmt.Errorf("its shim ended without taking the command: %s", bytes.TrimSpace(said[:min(len(said), 500)]))
		}
		// It is asked once more, as it may have done all of its work since it was asked.
		gone = !e.engine.cgroups.populated(e.engine.names.cgroupOf(c))
	}
}

// removeContainer kills the processes of a container and removes all of it but the shim's folder, which has the result.
// It may be repeated.
func (e *Engine) removeContainer(ctx context.Context, c container) error {
	paths := stepPaths(filepath.Join(e.names.sandbox(c.sandbox), stepsDir, c.key))
	unlock, err := lockFile(paths.lock())
	switch {
	case err == nil:
		defer unlock()
	case !errors.Is(err, os.ErrNotExist): // without a folder nobody starts anything either
		return err
	}
	return e.removeLocked(ctx, c)
}

func (e *Engine) removeLocked(ctx context.Context, c container) error {
	paths := stepPaths(filepath.Join(e.names.sandbox(c.sandbox), stepsDir, c.key))
	if err := shim.Kill(ctx, paths.shim()); err != nil {
		return err
	}
	if e.cgroups.oomKills(e.names.cgroupOf(c)) > 0 {
		if err := os.WriteFile(filepath.Join(string(paths), oomFile), nil, 0o600); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := e.cgroups.remove(ctx, e.names.cgroupOf(c)); err != nil {
		return err
	}
	if err := e.runc.forget(c.name()); err != nil {
		return err
	}
	if err := e.disconnect(c); err != nil {
		return fmt.Errorf("remove the network of a container: %w", err)
	}
	if err := unmountBelow(string(paths)); err != nil {
		return err
	}
	// Both may be large, and nobody asks for them again.
	return errors.Join(os.RemoveAll(paths.volumes()), e.opts.Images.RemoveRootfs(ctx, c.name()))
}
