package oci

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// defaultCapabilities are Docker's: https://docs.docker.com/engine/containers/run/#runtime-privilege-and-linux-capabilities
var defaultCapabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

// maskedPaths and readonlyPaths are what Docker hides of, and protects in, /proc and /sys.
var (
	maskedPaths = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
		"/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// capabilities are the names of all capabilities in the order of their numbers, from linux/capability.h.
var capabilities = strings.Fields(`
	CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
	NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
	SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
	MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE`)

// allCapabilities returns the capabilities that this process has, and so can give away.
func allCapabilities() ([]string, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(status)) {
		hex, ok := strings.CutPrefix(line, "CapEff:")
		if !ok {
			continue
		}
		set, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		if err != nil {
			return nil, err
		}
		var names []string
		for number, name := range capabilities {
			if set&(1<<number) != 0 {
				names = append(names, "CAP_"+name)
			}
		}
		return names, nil
	}
	return nil, fmt.Errorf("/proc/self/status has no CapEff")
}

// privilege takes the confinement away, as Docker's --privileged does: all devices, and /sys and the cgroups writable.
func privilege(spec *specs.Spec) error {
	for i, m := range spec.Mounts {
		if m.Destination == "/sys" || m.Destination == "/sys/fs/cgroup" {
			options := append([]string{}, m.Options...)
			for j, option := range options {
				if option == "ro" {
					options[j] = "rw"
				}
			}
			spec.Mounts[i].Options = options
		}
	}
	return filepath.WalkDir("/dev", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return nil // went away meanwhile
		case entry.IsDir() && (path == "/dev/pts" || path == "/dev/shm" || path == "/dev/mqueue" || path == "/dev/hugepages"):
			return filepath.SkipDir
		case entry.Type()&fs.ModeDevice == 0 || path == "/dev/console" || path == "/dev/ptmx" || path == "/dev/tty":
			return nil
		}
		return addDevice(spec, path, path)
	})
}

// addDevice gives a device of the host to a container.
func addDevice(spec *specs.Spec, source, path string) error {
	var stat unix.Stat_t
	if err := unix.Stat(source, &stat); err != nil {
		return fmt.Errorf("device %s: %w", source, err)
	}
	kind := ""
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		kind = "c"
	case unix.S_IFBLK:
		kind = "b"
	default:
		return fmt.Errorf("%s is not a device", source)
	}
	major, minor := int64(unix.Major(stat.Rdev)), int64(unix.Minor(stat.Rdev))
	mode := fs.FileMode(stat.Mode & 0o777)
	if path == "" {
		path = source
	}
	spec.Linux.Devices = append(spec.Linux.Devices, specs.LinuxDevice{
		Path: path, Type: kind, Major: major, Minor: minor, FileMode: &mode, UID: &stat.Uid, GID: &stat.Gid,
	})
	spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices, specs.LinuxDeviceCgroup{
		Allow: true, Type: kind, Major: &major, Minor: &minor, Access: "rwm",
	})
	return nil
}
