package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"slipway/internal/engine"
	"slipway/internal/plan"
)

// Where the shim is in a container.
const (
	ownDir    = "/.slipway"
	shimPath  = ownDir + "/shim"
	stepPath  = ownDir + "/step"
	memoryTag = "shm"
)

// containerSpec returns what runc is to make of a step, with its own mounts after those that all have. It has no secrets:
// environment and script go to the shim.
func (e *Env) containerSpec(c container, paths stepPaths, step engine.Step, netns string, own []specs.Mount) (*specs.Spec, error) {
	x := step.Exec
	caps := defaultCapabilities
	var err error
	if x.Privileged {
		if caps, err = allCapabilities(); err != nil {
			return nil, err
		}
	}
	spec := &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: paths.rootfs()},
		// The shim runs as root, whoever runs the command: its folder is closed to other users.
		Process: &specs.Process{
			Args:         []string{shimPath, "shim", stepPath},
			Env:          []string{"PATH=" + defaultPath},
			Cwd:          "/",
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Hostname: hostname(step.Name),
		Mounts:   append(e.systemMounts(paths, x), own...),
		Linux: &specs.Linux{
			CgroupsPath: e.engine.names.cgroupOf(c),
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
			},
			Resources: e.resources(x),
		},
	}
	if netns != "" {
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: netns})
		// As on Docker: a network of one's own makes both harmless.
		spec.Linux.Sysctl = map[string]string{
			"net.ipv4.ip_unprivileged_port_start": "0",
			"net.ipv4.ping_group_range":           "0 2147483647",
		}
	}
	if x.Privileged {
		return spec, privilege(spec)
	}
	spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = maskedPaths, readonlyPaths
	if spec.Linux.Seccomp, err = defaultSeccomp(); err != nil {
		return nil, fmt.Errorf("read the seccomp profile: %w", err)
	}
	for _, d := range x.Devices {
		if err := addDevice(spec, d.Source, d.Path); err != nil {
			return nil, err
		}
	}
	return spec, nil
}

// resources returns the limits of a step. The engine's own are for what the step does not say.
func (e *Env) resources(x plan.Exec) *specs.LinuxResources {
	limits, defaults := x.Limits, e.engine.opts.Limits
	pids := e.engine.opts.Pids
	r := &specs.LinuxResources{
		Devices: []specs.LinuxDeviceCgroup{{Allow: x.Privileged, Access: "rwm"}},
		Pids:    &specs.LinuxPids{Limit: &pids},
	}
	if memory := orDefault(limits.Memory, defaults.Memory); memory > 0 {
		r.Memory = &specs.LinuxMemory{Limit: &memory}
		if swap := orDefault(limits.Swap, defaults.Swap); swap > 0 {
			swap = max(swap, memory)
			r.Memory.Swap = &swap
		}
	}
	if cpu := orDefault(limits.MilliCPU, defaults.MilliCPU); cpu > 0 {
		period := uint64(100_000)
		// The kernel allows no less than a millisecond.
		quota := max(cpu*int64(period)/1000, 1000)
		r.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	}
	return r
}

func orDefault(value, otherwise int64) int64 {
	if value != 0 {
		return value
	}
	return otherwise
}

// systemMounts returns the mounts that each container has.
func (e *Env) systemMounts(paths stepPaths, x plan.Exec) []specs.Mount {
	shm := orDefault(x.Limits.SharedMemory, 64<<20)
	sys := []string{"nosuid", "noexec", "nodev", "ro"}
	list := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: memoryTag, Options: []string{"nosuid", "noexec", "nodev", "mode=1777", fmt.Sprintf("size=%d", shm)}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: sys},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: sys},
		bind(e.engine.opts.Shim, shimPath, "ro", "nosuid", "nodev"),
		bind(paths.shim(), stepPath, "rw", "nosuid", "nodev", "noexec"),
	}
	if x.HostNetwork {
		// The kernel mounts sysfs only for the owner of the network namespace.
		list[5] = specs.Mount{Destination: "/sys", Type: "none", Source: "/sys", Options: append([]string{"rbind", "rprivate"}, sys...)}
	}
	return list
}

// planMounts returns the mounts of a step that its plan says, outer ones first.
func (e *Env) planMounts(paths stepPaths, step engine.Step) ([]specs.Mount, error) {
	own := []specs.Mount{bind(e.Workspace(), e.spec.Job.Workspace, "rw")}
	for _, name := range etcFiles {
		own = append(own, bind(filepath.Join(paths.etc(), name), "/etc/"+name, "rw"))
	}
	for _, m := range step.Exec.Mounts {
		source, err := e.source(m.Source)
		if err != nil {
			return nil, err
		}
		own = append(own, bind(source, filepath.Clean(m.Path), "rw"))
	}
	for _, m := range own {
		if reserved(m.Destination) {
			return nil, fmt.Errorf("nothing can be mounted at %s", m.Destination)
		}
	}
	// What is mounted inside of another mount comes after it. A later mount at the same place hides an earlier one.
	slices.SortStableFunc(own, func(a, b specs.Mount) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
	return own, nil
}

// reserved reports whether nothing but the engine's own can be mounted at an absolute path that is clean.
func reserved(place string) bool {
	return within(place, "/proc") || within(place, "/sys") || within(place, ownDir)
}

func bind(source, destination string, options ...string) specs.Mount {
	return specs.Mount{Destination: destination, Type: "none", Source: source, Options: append([]string{"rbind", "rprivate"}, options...)}
}

// source returns the folder of a volume.
func (e *Env) source(name string) (string, error) {
	for _, v := range e.spec.Job.Volumes {
		switch {
		case v.Name != name:
		case v.Host == "":
			return e.volume(v), nil
		default:
			// As on Docker, a folder of the host that is missing is made.
			if err := os.MkdirAll(v.Host, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
				return "", fmt.Errorf("volume %q: %w", name, err)
			}
			return v.Host, nil
		}
	}
	return "", fmt.Errorf("the job has no volume %q", name)
}

// defaultSeccomp returns Docker's profile for the default capabilities. It is the same for all containers.
var defaultSeccomp = sync.OnceValues(func() (*specs.LinuxSeccomp, error) {
	caps := &specs.LinuxCapabilities{Bounding: defaultCapabilities}
	return seccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: caps}})
})
