package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"

	"slipway/internal/engine"
	"slipway/internal/plan"
)

// Options say how to make an [Engine].
type Options struct {
	// Dir is where sandboxes are kept, on a disk with room for workspaces. It must not be shared with another kind of
	// engine, and its path must stay the same, as all names depend on it.
	Dir string
	// Shim is the path of the shim's program, which must be linked statically.
	Shim string
	// Runc is the path or name of the program runc; empty means runc.
	Runc string
	// Images makes the root filesystems.
	Images Images
	// Limits are for steps that have none. Zero fields mean no limit.
	Limits plan.Limits
	// Pids bounds the processes and threads of a step; 0 means 4096.
	Pids int64
	// Pool is where the address ranges of sandboxes are taken from; the zero value means 10.213.0.0/16.
	Pool netip.Prefix
	// HostPorts are TCP ports of this machine that containers may connect to, at the address of their gateway; none
	// by default.
	HostPorts []uint16
	// DNS are name servers for all containers; none means those of this machine.
	DNS []string
}

// Engine implements [engine.Engine]. Several of them, also in several processes, may share one folder.
type Engine struct {
	opts    Options
	names   names
	cgroups cgroups
	runc    runc

	mu   sync.Mutex
	envs map[*Env]struct{}
}

var _ engine.Engine = (*Engine)(nil)

// New returns an engine on its folder, which is made if it does not exist. It needs root and runc. It turns IPv4
// forwarding on for the machine, and leaves it so.
func New(opts Options) (*Engine, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the engine oci needs root; without it, use the engine host for trusted repos")
	}
	dir, err := filepath.Abs(opts.Dir)
	if err != nil {
		return nil, err
	}
	opts.Dir = dir
	if opts.Runc == "" {
		opts.Runc = "runc"
	}
	if opts.Pids == 0 {
		opts.Pids = 4096
	}
	if !opts.Pool.IsValid() {
		opts.Pool = netip.MustParsePrefix("10.213.0.0/16")
	}
	e := &Engine{opts: opts, names: newNames(dir), envs: map[*Env]struct{}{}}
	for _, d := range []string{dir, e.names.sandboxes(), e.names.runc()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("make the folder of the oci engine: %w", err)
		}
	}
	if e.runc, err = newRunc(opts.Runc, e.names.runc()); err != nil {
		return nil, err
	}
	if e.cgroups, err = findCgroups(); err != nil {
		return nil, err
	}
	if err := enableForwarding(); err != nil {
		return nil, err
	}
	return e, nil
}

// sandboxState is what a sandbox needs to be the same in another process.
type sandboxState struct {
	Subnet netip.Prefix `json:"subnet"`
	// Addresses are of the steps, by name.
	Addresses map[string]netip.Addr `json:"addresses"`
}

const stateFile = "state.json"

// Setup implements [engine.Engine].
func (e *Engine) Setup(ctx context.Context, spec engine.Spec) (engine.Env, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	env := &Env{engine: e, spec: spec, dir: e.names.sandbox(spec.ID)}
	if err := e.setup(env); err != nil {
		err = fmt.Errorf("set up the sandbox of job %q: %w", spec.Job.Name, err)
		return nil, errors.Join(err, e.removeSandbox(context.WithoutCancel(ctx), spec.ID))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.envs[env] = struct{}{}
	return env, nil
}

func (e *Engine) setup(env *Env) error {
	for _, sub := range []string{"", stepsDir, volumesDir} {
		if err := os.MkdirAll(filepath.Join(env.dir, sub), 0o700); err != nil {
			return err
		}
	}
	// Steps may run as any user, so what they share is open to all. The folder above is not.
	shared := []string{env.Workspace()}
	for _, v := range env.spec.Job.Volumes {
		if v.Host == "" {
			shared = append(shared, env.volume(v))
		}
	}
	for _, dir := range shared {
		if err := os.Mkdir(dir, 0o777); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		if err := os.Chmod(dir, 0o777); err != nil {
			return err
		}
	}
	unlock, err := lockFile(filepath.Join(env.dir, "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	for _, v := range env.spec.Job.Volumes {
		if err := env.mountMemory(v); err != nil {
			return err
		}
	}
	return e.setupNetwork(env)
}

// setupNetwork makes the network of the sandbox, or finds it.
func (e *Engine) setupNetwork(env *Env) error {
	path := filepath.Join(env.dir, stateFile)
	if data, err := os.ReadFile(path); err == nil {
		if err := json.Unmarshal(data, &env.state); err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	subnet, err := e.makeNetwork(env.spec.ID, env.state.Subnet, len(env.spec.Job.Steps))
	if err != nil {
		return fmt.Errorf("make the network: %w", err)
	}
	env.state = sandboxState{Subnet: subnet, Addresses: addresses(subnet, env.spec.Job)}
	data, err := json.Marshal(env.state)
	if err != nil {
		return err
	}
	return writeFile(path, data, 0o600)
}

// Sweep implements [engine.Engine].
func (e *Engine) Sweep(ctx context.Context, keep func(id string) bool) ([]string, error) {
	found, err := e.sandboxesFound(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for sandboxes: %w", err)
	}
	var removed []string
	var problems []error
	kept := map[string]bool{}
	for _, id := range found {
		if keep(id) {
			kept[id] = true
			continue
		}
		if err := e.removeSandbox(ctx, id); err != nil {
			problems = append(problems, fmt.Errorf("remove sandbox %s: %w", id, err))
			continue
		}
		removed = append(removed, id)
	}
	// Names of interfaces are hashes, which do not tell a sandbox that has left nothing else.
	problems = append(problems, e.sweepNetwork(kept))
	return removed, errors.Join(problems...)
}

// sandboxesFound lists the sandboxes of which there is anything that has the id in its name.
func (e *Engine) sandboxesFound(ctx context.Context) ([]string, error) {
	var ids []string
	for _, list := range []func() ([]string, error){
		func() ([]string, error) { return readNames(e.names.sandboxes()) },
		func() ([]string, error) { return readNames(e.names.runc()) },
		func() ([]string, error) { return e.cgroups.sandboxes(e.names.cgroupPrefix()) },
		func() ([]string, error) { return e.opts.Images.RootfsKeys(ctx) },
	} {
		found, err := list()
		if err != nil {
			return nil, err
		}
		for _, name := range found {
			ids = append(ids, sandboxOf(name))
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// removeSandbox removes all of a sandbox that there is. It may be repeated.
func (e *Engine) removeSandbox(ctx context.Context, id string) error {
	dir := e.names.sandbox(id)
	var problems []error
	containers, err := e.containersOf(ctx, id)
	if err != nil {
		return err
	}
	for _, c := range containers {
		problems = append(problems, e.removeContainer(ctx, c))
	}
	if err := errors.Join(problems...); err != nil {
		// What its processes still use stays, for another attempt.
		return err
	}
	if err := e.removeNetwork(id); err != nil {
		return fmt.Errorf("remove the network: %w", err)
	}
	if err := e.cgroups.remove(ctx, e.names.cgroup(id)); err != nil {
		return err
	}
	// Nothing below a mount is removed by mistake.
	if err := unmountBelow(dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// containersOf lists the containers of a sandbox of which there is anything.
func (e *Engine) containersOf(ctx context.Context, id string) ([]container, error) {
	keys := map[string]bool{}
	steps, err := readNames(filepath.Join(e.names.sandbox(id), stepsDir))
	if err != nil {
		return nil, err
	}
	for _, name := range steps {
		keys[name] = filepath.Ext(name) == ""
	}
	cgroups, err := e.cgroups.children(e.names.cgroup(id))
	if err != nil {
		return nil, err
	}
	for _, name := range cgroups {
		keys[name] = true
	}
	states, err := readNames(e.names.runc())
	if err != nil {
		return nil, err
	}
	rootfs, err := e.opts.Images.RootfsKeys(ctx)
	if err != nil {
		return nil, err
	}
	for _, name := range append(states, rootfs...) {
		if sandboxOf(name) == id {
			keys[name[min(len(id)+1, len(name)):]] = true
		}
	}
	var list []container
	for key, is := range keys {
		if is && key != "" {
			list = append(list, container{sandbox: id, key: key})
		}
	}
	return list, nil
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

// unmountBelow unmounts everything at or below dir.
func unmountBelow(dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return mount.UnmountRecursive(dir, 0)
}
