package oci

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"slipway/internal/engine"
	"slipway/internal/plan"
)

// networkLock is taken by all engines of the machine while one of them looks for a free range of addresses and takes it.
const networkLock = "/run/slipway-network.lock"

func enableForwarding() error {
	const path = "/proc/sys/net/ipv4/ip_forward"
	if on, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(on)) == "1" {
		return nil
	}
	if err := os.WriteFile(path, []byte("1"), 0o644); err != nil {
		return fmt.Errorf("turn IPv4 forwarding on, which containers need to reach the network: %w", err)
	}
	return nil
}

// makeNetwork makes the bridge of a sandbox, or finds it, and returns its range, which has room for that many containers.
// Wanted, if it is valid, is the range that the sandbox had before.
func (e *Engine) makeNetwork(id string, wanted netip.Prefix, containers int) (netip.Prefix, error) {
	unlock, err := lockFile(networkLock)
	if err != nil {
		return netip.Prefix{}, err
	}
	defer unlock()
	// The rules come first: no bridge is ever without them.
	if err := e.firewall().install(e.opts.HostPorts); err != nil {
		return netip.Prefix{}, fmt.Errorf("install the firewall: %w", err)
	}
	subnet, err := e.makeBridge(id, wanted, containers)
	if err != nil {
		return netip.Prefix{}, err
	}
	return subnet, e.firewall().admit(e.names.bridge(id), subnet)
}

func (e *Engine) makeBridge(id string, wanted netip.Prefix, containers int) (netip.Prefix, error) {
	name := e.names.bridge(id)
	bridge, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.HardwareAddr = name, outerMTU(), hardwareAddr(name)
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return netip.Prefix{}, fmt.Errorf("add bridge %s: %w", name, err)
		}
		bridge, err = netlink.LinkByName(name)
	}
	if err != nil {
		return netip.Prefix{}, err
	}
	subnet, err := addressOf(bridge)
	if err != nil {
		return netip.Prefix{}, err
	}
	if !subnet.IsValid() {
		if subnet, err = e.freeSubnet(id, wanted, containers); err != nil {
			return netip.Prefix{}, err
		}
		gateway := netip.PrefixFrom(subnet.Addr().Next(), subnet.Bits())
		if err := netlink.AddrAdd(bridge, &netlink.Addr{IPNet: ipNet(gateway)}); err != nil {
			return netip.Prefix{}, fmt.Errorf("give %s to bridge %s: %w", gateway, name, err)
		}
	}
	return subnet, netlink.LinkSetUp(bridge)
}

// addressOf returns the range of a bridge, or the zero value if it has none yet.
func addressOf(link netlink.Link) (netip.Prefix, error) {
	addrs, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_V4) })
	if err != nil || len(addrs) == 0 {
		return netip.Prefix{}, err
	}
	p, _ := prefixOf(addrs[0].IPNet)
	return p.Masked(), nil
}

// freeSubnet looks for a range in the pool that no route of the machine leads to.
func (e *Engine) freeSubnet(id string, wanted netip.Prefix, containers int) (netip.Prefix, error) {
	taken, err := routes()
	if err != nil {
		return netip.Prefix{}, err
	}
	free := func(p netip.Prefix) bool {
		for _, t := range taken {
			if t.Overlaps(p) {
				return false
			}
		}
		return true
	}
	if wanted.IsValid() && free(wanted) {
		return wanted, nil
	}
	// Besides the containers: network, gateway and broadcast. A range of at least 16 keeps the numbers readable.
	hostBits := max(bits.Len(uint(containers+2)), 4)
	pool := e.opts.Pool.Masked()
	if !pool.Addr().Is4() || 32-pool.Bits() < hostBits {
		return netip.Prefix{}, fmt.Errorf("the address pool %s is too small for %d containers", pool, containers)
	}
	first := binary.BigEndian.Uint32(pool.Addr().AsSlice())
	count := uint32(1) << (32 - pool.Bits() - hostBits)
	// Sandboxes begin to look at different places, so that engines which do not know each other seldom meet.
	hash := sha256.Sum256([]byte(e.names.bridge(id)))
	start := binary.BigEndian.Uint32(hash[:])
	for i := range count {
		var raw [4]byte
		binary.BigEndian.PutUint32(raw[:], first+((start+i)%count)<<hostBits)
		if p := netip.PrefixFrom(netip.AddrFrom4(raw), 32-hostBits); free(p) {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("all of the address pool %s is taken: choose another one for the engine", pool)
}

// routes lists the ranges that the machine has routes to, except the default route.
func routes() ([]netip.Prefix, error) {
	// All tables: one that policy routing uses counts as well.
	list, err := dump(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var found []netip.Prefix
	for _, route := range list {
		if p, ok := prefixOf(route.Dst); ok && p.Bits() > 0 {
			found = append(found, p)
		}
	}
	return found, nil
}

// addresses gives each step of a job its address. The first of the range is the gateway's.
func addresses(subnet netip.Prefix, job plan.Job) map[string]netip.Addr {
	all := map[string]netip.Addr{}
	address := subnet.Addr().Next()
	for _, step := range job.Steps {
		if job.Network != plan.Shared || len(all) == 0 {
			address = address.Next()
		}
		all[step.Name] = address
	}
	return all
}

// netns is where the network namespace of a step is mounted, unless the step is on this machine's network.
func (e *Env) netns(paths stepPaths) string {
	if e.spec.Job.Network == plan.Shared {
		return filepath.Join(e.dir, "netns")
	}
	return paths.netns()
}

// connect makes the network namespace of a step and returns its path, or "" for the host's.
func (e *Env) connect(c container, paths stepPaths, step engine.Step) (string, error) {
	if step.Exec.HostNetwork {
		return "", nil
	}
	path := e.netns(paths)
	if e.spec.Job.Network == plan.Shared {
		// The first step makes it; all have it until the sandbox is removed.
		unlock, err := lockFile(filepath.Join(e.dir, "lock"))
		if err != nil {
			return "", err
		}
		defer unlock()
		c = newContainer(c.sandbox, "")
		if _, err := os.Lstat(path + ".made"); err == nil {
			return path, nil
		}
		if err := errors.Join(e.engine.disconnect(c), unmountBelow(path)); err != nil {
			return "", err
		}
	}
	bridge, err := netlink.LinkByName(e.engine.names.bridge(e.spec.ID))
	if err != nil {
		return "", err
	}
	address := netip.PrefixFrom(e.state.Addresses[step.Name], e.state.Subnet.Bits())
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return "", err
	}
	defer host.Close()
	err = newNamespace(path, func(ns int) error {
		return plug(host, bridge, e.engine.names.cable(c), ns, address, e.state.Subnet.Addr().Next())
	})
	if err == nil && e.spec.Job.Network == plan.Shared {
		err = os.WriteFile(path+".made", nil, 0o600)
	}
	return path, err
}

// newNamespace makes a network namespace that lasts as long as it is mounted at path, and calls do in it.
func newNamespace(path string, do func(ns int) error) error {
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		// The thread is never unlocked: it ends with the goroutine, and no other one gets it with its foreign namespace.
		runtime.LockOSThread()
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("make a network namespace: %w", err)
			}
			const self = "/proc/thread-self/ns/net"
			if err := unix.Mount(self, path, "", unix.MS_BIND, ""); err != nil {
				return fmt.Errorf("mount the network namespace: %w", err)
			}
			ns, err := unix.Open(self, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(ns)
			return do(ns)
		}()
	}()
	return <-done
}

// plug lays a cable from a bridge, in the namespace of host, into the namespace ns, which must be that of the calling
// thread. There it becomes eth0 with the given address.
func plug(host *netlink.Handle, bridge netlink.Link, cable string, ns int, address netip.Prefix, gateway netip.Addr) error {
	const inner = "eth0"
	here, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer here.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex, attrs.Flags = cable, bridge.Attrs().MTU, bridge.Attrs().Index, net.FlagUp
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: inner, PeerNamespace: netlink.NsFd(ns)}
	if err := host.LinkAdd(veth); err != nil {
		return fmt.Errorf("add the cable %s: %w", cable, err)
	}
	for _, name := range []string{"lo", inner} {
		link, err := here.LinkByName(name)
		if err != nil {
			return err
		}
		if name == inner {
			if err := here.AddrAdd(link, &netlink.Addr{IPNet: ipNet(address)}); err != nil {
				return fmt.Errorf("give %s to the container: %w", address, err)
			}
		}
		if err := here.LinkSetUp(link); err != nil {
			return err
		}
	}
	if err := here.RouteAdd(&netlink.Route{Gw: gateway.AsSlice()}); err != nil {
		return fmt.Errorf("add the route through %s: %w", gateway, err)
	}
	return nil
}

// disconnect removes the cable of a container, from both ends. The namespace goes when it is unmounted.
func (e *Engine) disconnect(c container) error { return deleteLink(e.names.cable(c)) }

// removeNetwork removes what is left of a sandbox's network when its containers have gone.
func (e *Engine) removeNetwork(id string) error {
	unlock, err := lockFile(networkLock)
	if err != nil {
		return err
	}
	defer unlock()
	name := e.names.bridge(id)
	if bridge, err := netlink.LinkByName(name); err == nil {
		subnet, err := addressOf(bridge)
		if err != nil {
			return err
		}
		if err := e.firewall().dismiss(name, subnet); err != nil {
			return err
		}
	}
	if err := errors.Join(e.disconnect(newContainer(id, "")), deleteLink(name)); err != nil {
		return err
	}
	return e.removeIdleFirewall()
}

// removeIdleFirewall removes the engine's table when no bridge needs it.
func (e *Engine) removeIdleFirewall() error {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("list network interfaces: %w", err)
	}
	for _, link := range links {
		if strings.HasPrefix(link.Attrs().Name, e.names.bridgePrefix()) {
			return nil
		}
	}
	return e.firewall().remove()
}

// sweepNetwork removes the bridges and cables that belong to no sandbox that is kept, and the engine's table in the
// firewall if there is no bridge any more.
func (e *Engine) sweepNetwork(kept map[string]bool) error {
	unlock, err := lockFile(networkLock)
	if err != nil {
		return err
	}
	defer unlock()
	bridges := map[string]bool{}
	for id := range kept {
		bridges[e.names.bridge(id)] = true
	}
	links, err := dump(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("list network interfaces: %w", err)
	}
	masters := map[int]bool{}
	for _, link := range links {
		if bridges[link.Attrs().Name] {
			masters[link.Attrs().Index] = true
		}
	}
	var problems []error
	for _, link := range links {
		a := link.Attrs()
		switch {
		case strings.HasPrefix(a.Name, e.names.cablePrefix()) && !masters[a.MasterIndex]:
			problems = append(problems, deleteLink(a.Name))
		case strings.HasPrefix(a.Name, e.names.bridgePrefix()) && !bridges[a.Name]:
			if subnet, err := addressOf(link); err == nil {
				problems = append(problems, e.firewall().dismiss(a.Name, subnet))
			}
			problems = append(problems, deleteLink(a.Name))
		}
	}
	return errors.Join(append(problems, e.removeIdleFirewall())...)
}

// dump lists something of the kernel's, again if it changed meanwhile, which makes a list incomplete.
func dump[T any](list func() (T, error)) (T, error) {
	for tries := 1; ; tries++ {
		all, err := list()
		if tries == 100 || !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
}

func deleteLink(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return err
	}
	// A cable also goes by itself, with the namespace of its other end.
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete the interface %s: %w", name, err)
	}
	return nil
}

// outerMTU returns the size of packets on the way to the default route, so that those of containers need no fragmenting.
func outerMTU() int {
	list, err := dump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V4) })
	if err == nil {
		for _, route := range list {
			if p, ok := prefixOf(route.Dst); ok && p.Bits() > 0 || route.LinkIndex == 0 {
				continue
			}
			if link, err := netlink.LinkByIndex(route.LinkIndex); err == nil {
				return link.Attrs().MTU
			}
		}
	}
	return 1500
}

// hardwareAddr returns a fixed address for a bridge. One without would change its address with its cables.
func hardwareAddr(name string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(name))
	return net.HardwareAddr{0x02, sum[0], sum[1], sum[2], sum[3], sum[4]}
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones), ok
}
