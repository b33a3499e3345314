package buildkit

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/pkg/oci"
	resources "github.com/moby/buildkit/executor/resources/types"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/network"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Network is what the RUN steps of builds reach.
type Network string

// The networks of builds. Whatever is set, RUN --network=none has none, and RUN --network=host is only for builds that
// are granted it.
const (
	// NetworkBridge reaches the internet, but nothing of this machine. It is the default.
	NetworkBridge Network = ""
	// NetworkNone reaches nothing.
	NetworkNone Network = "none"
)

// buildNetworks is the pool that the bridges of builds get a range of 254 addresses from.
var buildNetworks = netip.MustParsePrefix("10.214.0.0/16")

// networkLock is taken by whoever on the machine looks for a free range of addresses, until it has it.
const networkLock = "/run/slipway-network.lock"

func newNetworks(opts Options) (map[pb.NetMode]network.Provider, error) {
	networks := map[pb.NetMode]network.Provider{
		pb.NetMode_UNSET: network.NewNoneProvider(),
		pb.NetMode_NONE:  network.NewNoneProvider(),
		pb.NetMode_HOST:  network.NewHostProvider(),
	}
	switch opts.Network {
	case NetworkNone:
	case NetworkBridge:
		b, err := newBridge(opts.Dir)
		if err != nil {
			return nil, fmt.Errorf("set up the network of builds (choose the network none to do without): %w", err)
		}
		networks[pb.NetMode_UNSET] = b
	default:
		return nil, fmt.Errorf("network %q of builds is not known", opts.Network)
	}
	return networks, nil
}

// bridge gives each RUN step a network namespace on a bridge. Bridge and firewall rules are named after the folder:
// those of a process that was killed are taken over by the next, and Close removes them.
//
// A namespace has no name in the file system. It lives by a file descriptor of this process, and by its container, so
// nothing of it can stay behind.
type bridge struct {
	name    string
	subnet  netip.Prefix
	gateway netip.Addr
	mtu     int

	mu   sync.Mutex
	used map[netip.Addr]bool
}

func newBridge(dir string) (*bridge, error) {
	sum := sha256.Sum256([]byte(dir))
	b := &bridge{name: "bk" + hex.EncodeToString(sum[:4]), used: map[netip.Addr]bool{}}
	lock, err := os.OpenFile(networkLock, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock %s: %w", networkLock, err)
	}
	uplinks, err := uplinks()
	if err != nil {
		return nil, err
	}
	b.mtu = 1500
	var names []string
	for _, link := range uplinks {
		b.mtu = min(b.mtu, link.Attrs().MTU)
		names = append(names, link.Attrs().Name)
	}
	// What a killed process left has perhaps other addresses and certainly old interfaces.
	if err := b.removeLink(); err != nil {
		return nil, err
	}
	if b.subnet, err = freeSubnet(sum); err != nil {
		return nil, err
	}
	b.gateway = b.subnet.Addr().Next()
	// The rules come first: the bridge is never without them.
	if err := installFirewall(b.name, b.subnet, names); err != nil {
		return nil, fmt.Errorf("install the firewall: %w", err)
	}
	if err := b.addLink(); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	const forwarding = "/proc/sys/net/ipv4/ip_forward"
	if on, err := os.ReadFile(forwarding); err != nil || strings.TrimSpace(string(on)) != "1" {
		if err := os.WriteFile(forwarding, []byte("1"), 0o644); err != nil {
			return nil, errors.Join(fmt.Errorf("turn IPv4 forwarding on: %w", err), b.Close())
		}
	}
	return b, nil
}

// uplinks returns the interfaces that the internet is behind.
func uplinks() ([]netlink.Link, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	var links []netlink.Link
	for _, r := range routes {
		if r.Dst != nil && !r.Dst.IP.IsUnspecified() {
			continue
		}
		if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
			links = append(links, link)
		}
	}
	return links, nil
}

// freeSubnet returns a range of the pool that no route leads to. Different seeds begin at different places.
func freeSubnet(seed [sha256.Size]byte) (netip.Prefix, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("list routes: %w", err)
	}
	base := buildNetworks.Addr().As4()
	for i := range 256 {
		base[2] = seed[4] + byte(i)
		subnet := netip.PrefixFrom(netip.AddrFrom4(base), 24)
		taken := slices.ContainsFunc(routes, func(r netlink.Route) bool {
			if r.Dst == nil {
				return false
			}
			addr, _ := netip.AddrFromSlice(r.Dst.IP)
			ones, _ := r.Dst.Mask.Size()
			return ones > 0 && netip.PrefixFrom(addr.Unmap(), ones).Overlaps(subnet)
		})
		if !taken {
			return subnet, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("all of %s is taken", buildNetworks)
}

func (b *bridge) addLink() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = b.name, b.mtu
	// A bridge without a fixed address changes it with its ports, and connections hang.
	attrs.HardwareAddr = append(net.HardwareAddr{0x02}, b.gateway.AsSlice()...)
	attrs.HardwareAddr = append(attrs.HardwareAddr, 1)
	link := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(link); err != nil {
		return fmt.Errorf("add bridge %s: %w", b.name, err)
	}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(b.gateway, b.subnet.Bits())}); err != nil {
		return fmt.Errorf("give bridge %s its address: %w", b.name, err)
	}
	return netlink.LinkSetUp(link)
}

func (b *bridge) removeLink() error {
	link, err := netlink.LinkByName(b.name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return err
	}
	return netlink.LinkDel(link)
}

// Close implements [network.Provider].
func (b *bridge) Close() error {
	return errors.Join(b.removeLink(), removeFirewall(b.name))
}

// New implements [network.Provider].
func (b *bridge) New(_ context.Context, hostname string, _ network.NamespaceOptions) (network.Namespace, error) {
	n, err := b.newNamespace()
	if err != nil {
		return nil, fmt.Errorf("make the network of a RUN step: %w", err)
	}
	return n, nil
}

func (b *bridge) take() (netip.Addr, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	last := b.subnet.Addr().As4()
	last[3] = 255
	for addr := b.gateway.Next(); addr != netip.AddrFrom4(last); addr = addr.Next() {
		if !b.used[addr] {
			b.used[addr] = true
			return addr, nil
		}
	}
	return netip.Addr{}, errors.New("254 RUN steps are running already")
}

func (b *bridge) release(addr netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.used, addr)
}

type buildNetwork struct {
	bridge *bridge
	addr   netip.Addr
	handle netns.NsHandle
	host   string // name of this machine's end
	close  sync.Once
}

func (b *bridge) newNamespace() (_ *buildNetwork, err error) {
	n := &buildNetwork{bridge: b, handle: netns.None()}
	if n.addr, err = b.take(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = n.Close()
		}
	}()
	if n.handle, err = newNetNS(); err != nil {
		return nil, err
	}
	parent, err := netlink.LinkByName(b.name)
	if err != nil {
		return nil, err
	}
	var random [5]byte
	rand.Read(random[:])
	n.host = "bkv" + hex.EncodeToString(random[:])
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex = n.host, b.mtu, parent.Attrs().Index
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(n.handle))}
	if err := netlink.LinkAdd(veth); err != nil {
		return nil, fmt.Errorf("add interface: %w", err)
	}
	// Builds do not see each other: an isolated port talks to the bridge itself only.
	if err := netlink.LinkSetIsolated(veth, true); err != nil {
		return nil, fmt.Errorf("isolate interface: %w", err)
	}
	if err := netlink.LinkSetUp(veth); err != nil {
		return nil, err
	}
	return n, n.configure()
}

// configure sets the inner side up.
func (n *buildNetwork) configure() error {
	inside, err := netlink.NewHandleAt(n.handle, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer inside.Close()
	lo, err := inside.LinkByName("lo")
	if err != nil {
		return err
	}
	eth0, err := inside.LinkByName("eth0")
	if err != nil {
		return err
	}
	if err := inside.AddrAdd(eth0, &netlink.Addr{IPNet: ipNet(n.addr, n.bridge.subnet.Bits())}); err != nil {
		return err
	}
	for _, link := range []netlink.Link{lo, eth0} {
		if err := inside.LinkSetUp(link); err != nil {
			return err
		}
	}
	return inside.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Gw: n.bridge.gateway.AsSlice()})
}

// newNetNS makes a network namespace that lives as long as the handle.
func newNetNS() (netns.NsHandle, error) {
	type result struct {
		handle netns.NsHandle
		err    error
	}
	made := make(chan result)
	go func() {
		// The thread is never given back to the scheduler: it ends with this goroutine.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			made <- result{netns.None(), fmt.Errorf("unshare: %w", err)}
			return
		}
		// There is no route for IPv6; without an address on eth0 nobody tries one in vain. An error means that the kernel
		// has no IPv6.
		_ = os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0o644)
		handle, err := netns.Get()
		made <- result{handle, err}
	}()
	r := <-made
	return r.handle, r.err
}

// Set implements [network.Namespace].
func (n *buildNetwork) Set(spec *specs.Spec) error {
	return oci.WithLinuxNamespace(specs.LinuxNamespace{
		Type: specs.NetworkNamespace,
		Path: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), int(n.handle)),
	})(nil, nil, nil, spec)
}

// Sample implements [network.Namespace].
func (n *buildNetwork) Sample() (*resources.NetworkSample, error) { return nil, nil }

// Close implements [network.Namespace].
func (n *buildNetwork) Close() error {
	var err error
	n.close.Do(func() {
		if n.host != "" {
			// The interface would go with the namespace, but some time later.
			if link, lookup := netlink.LinkByName(n.host); lookup == nil {
				err = netlink.LinkDel(link)
			}
		}
		if n.handle.IsOpen() {
			err = errors.Join(err, n.handle.Close())
		}
		n.bridge.release(n.addr)
	})
	return err
}

func ipNet(addr netip.Addr, bits int) *net.IPNet {
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, 32)}
}
