package cluster

import (
	"bufio"
	"bytes"
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// machine is what differs between machines.
type machine struct {
	// restrictOOM: this process may not make others less likely to be killed for lack of memory, so no pod may ask for it.
	restrictOOM bool
	// snapshotter is overlayfs, or native where the data folder is itself on an overlay, which can't carry another one.
	snapshotter string
	// resolvConf names the resolvers that are reachable from another network.
	resolvConf string
	// loopbackResolver is the address on loopback that /etc/resolv.conf names, if it does.
	loopbackResolver string
}

// look looks at the machine. data must exist.
func look(data string) (machine, error) {
	var m machine
	caps, err := effectiveCapabilities()
	if err != nil {
		return m, err
	}
	m.restrictOOM = caps&(1<<unix.CAP_SYS_RESOURCE) == 0

	var st unix.Statfs_t
	if err := unix.Statfs(data, &st); err != nil {
		return m, fmt.Errorf("look at the data folder %s: %w", data, err)
	}
	m.snapshotter = "overlayfs"
	if st.Type == unix.OVERLAYFS_SUPER_MAGIC {
		m.snapshotter = "native"
	}

	m.resolvConf = "/etc/resolv.conf"
	b, err := os.ReadFile(m.resolvConf)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return m, fmt.Errorf("read the machine's resolvers: %w", err)
	}
	m.loopbackResolver = loopbackResolver(b)
	if m.loopbackResolver != "" {
		m.resolvConf = "/run/systemd/resolve/resolv.conf"
	}
	return m, nil
}

// loopbackResolver gives the first nameserver of a resolv.conf if it is on the loopback.
func loopbackResolver(conf []byte) string {
	lines := bufio.NewScanner(bytes.NewReader(conf))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		addr, err := netip.ParseAddr(fields[1])
		if err == nil && addr.IsLoopback() && addr.Is4() {
			return addr.String()
		}
		return ""
	}
	return ""
}

func effectiveCapabilities() (uint64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if hex, ok := strings.CutPrefix(line, "CapEff:"); ok {
			return strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		}
	}
	return 0, errors.New("/proc/self/status names no capabilities")
}

// preflight reports all that keeps a cluster from starting here, in sentences that say what to do.
func (l layout) preflight(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("a cluster needs root, for namespaces, mounts and cgroups: run `sudo slipway cluster up`")
	}
	var problems []error
	var missing []string
	for _, name := range programs() {
		if info, err := os.Stat(l.program(name)); err != nil || info.Mode()&0o111 == 0 {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		problems = append(problems, fmt.Errorf("these programs are not in %s: %s; build them with `make cluster`, or name their folder with --bin or SLIPWAY_CLUSTER_BIN", l.bin, strings.Join(missing, ", ")))
	}
	// kube-proxy runs it, too.
	if _, err := exec.LookPath("nft"); err != nil {
		problems = append(problems, errors.New("the program nft is not there: `apt-get install nftables`"))
	}
	if b, err := os.ReadFile("/proc/filesystems"); err == nil && !strings.Contains(string(b), "\toverlay\n") {
		// A module that is not loaded yet is not listed; mounting would load it.
		if exec.CommandContext(ctx, "modprobe", "overlay").Run() != nil {
			problems = append(problems, errors.New("the kernel has no overlay file system: load it with `modprobe overlay`"))
		}
	}
	c := l.cgroups()
	if parent := filepath.Dir(c.tracking()); !writableFolder(parent) {
		problems = append(problems, fmt.Errorf("cgroups can't be made in %s: the cgroup file system has to be mounted writable, with the memory controller", parent))
	}
	return errors.Join(problems...)
}

func writableFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir() && unix.Access(path, unix.W_OK) == nil
}

// version reads which version of its module a program was built from, or "" if it doesn't say.
func version(path string) string {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return ""
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, dep := range info.Deps {
		if dep.Path == "github.com/coredns/coredns" {
			return dep.Version
		}
	}
	return ""
}
