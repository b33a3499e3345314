// Package host is the engine that runs steps as plain processes of this machine, without any isolation. It is for jobs
// of trusted repos that need the machine itself, and for machines that cannot have containers.
//
// A step sees the machine's files and network, and runs as the runner's user. Images are ignored, so a step must say its
// command; volumes, limits and whatever else only a container can have are refused. The workspace is a folder of the
// sandbox: a working directory inside the job's workspace path is taken to be inside that folder.
//
// Start reading at [Engine.Setup] and [Env.Start].
package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"slipway/internal/engine"
)

// Options say how to make an [Engine].
type Options struct {
	// Dir is where sandboxes are kept. It must not be shared with another kind of engine.
	Dir string
	// Shim is the path of the shim's program.
	Shim string
}

// Engine implements [engine.Engine]. Several of them, also in several processes, may share one folder.
type Engine struct {
	opts Options

	mu   sync.Mutex
	envs map[*Env]struct{}
}

var _ engine.Engine = (*Engine)(nil)

// New returns an engine on its folder, which is made if it does not exist.
func New(opts Options) (*Engine, error) {
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the host engine: %w", err)
	}
	dir, err := filepath.Abs(opts.Dir)
	if err != nil {
		return nil, err
	}
	opts.Dir = dir
	return &Engine{opts: opts, envs: map[*Env]struct{}{}}, nil
}

// Setup implements [engine.Engine]. Jobs of repos that are not trusted are refused.
func (e *Engine) Setup(_ context.Context, spec engine.Spec) (engine.Env, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	if !spec.Trusted {
		return nil, errors.New("this runner has no containers (engine host) and runs jobs of trusted repos only: trust the repo, or use a runner with the engine oci")
	}
	dir := filepath.Join(e.opts.Dir, spec.ID)
	for _, sub := range []string{workspaceDir, homeDir, stepsDir} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("make the sandbox: %w", err)
		}
	}
	env := &Env{engine: e, job: spec.Job, dir: dir}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.envs[env] = struct{}{}
	return env, nil
}

// Sweep implements [engine.Engine].
func (e *Engine) Sweep(ctx context.Context, keep func(id string) bool) ([]string, error) {
	entries, err := os.ReadDir(e.opts.Dir)
	if err != nil {
		return nil, err
	}
	var removed []string
	var problems []error
	for _, entry := range entries {
		id := entry.Name()
		if keep(id) {
			continue
		}
		if err := removeSandbox(ctx, filepath.Join(e.opts.Dir, id)); err != nil {
			problems = append(problems, fmt.Errorf("remove sandbox %s: %w", id, err))
			continue
		}
		removed = append(removed, id)
	}
	return removed, errors.Join(problems...)
}

// Close implements [engine.Engine].
func (e *Engine) Close() error {
	e.mu.Lock()
	envs := e.envs
	e.envs = map[*Env]struct{}{}
	e.mu.Unlock()
	for env := range envs {
		env.detach()
	}
	return nil
}

func (e *Engine) forget(env *Env) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.envs, env)
}
