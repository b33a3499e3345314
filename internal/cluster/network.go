package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// usedPrefixes lists what this machine routes and its own addresses, which a new cluster must leave alone.
func usedPrefixes() ([]netip.Prefix, error) {
	routes, err := netlink.RouteList(nil, unix.AF_INET)
	if err != nil {
		return nil, fmt.Errorf("list the routes: %w", err)
	}
	addrs, err := netlink.AddrList(nil, unix.AF_INET)
	if err != nil {
		return nil, fmt.Errorf("list the addresses: %w", err)
	}
	var used []netip.Prefix
	add := func(n *net.IPNet) {
		if n == nil {
			return
		}
		if a, ok := netip.AddrFromSlice(n.IP); ok {
			bits, _ := n.Mask.Size()
			used = append(used, netip.PrefixFrom(a.Unmap(), bits).Masked())
		}
	}
	for _, r := range routes {
		add(r.Dst)
	}
	for _, a := range addrs {
		add(a.IPNet)
	}
	return used, nil
}

// makeNetwork connects the cluster's network namespace with the machine: a pair of links, and routes to pods and Services.
// It makes what is missing and leaves alone what is there.
func (l layout) makeNetwork(n network) error {
	link, err := netlink.LinkByName(l.id)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		if link, err = l.makeLink(); err != nil {
			return fmt.Errorf("make the link %s: %w", l.id, err)
		}
	}
	if err != nil {
		return fmt.Errorf("find the link %s: %w", l.id, err)
	}
	if err := setAddress(link, n.host(), n.link().Bits()); err != nil {
		return err
	}
	for _, dst := range []netip.Prefix{n.pods(), n.services()} {
		route := netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(dst), Gw: n.node().AsSlice()}
		if err := netlink.RouteReplace(&route); err != nil {
			return fmt.Errorf("add the route to %s: %w", dst, err)
		}
	}
	// Images come from a registry that listens on loopback, see [layout.applyFirewall].
	if err := setSysctl("net/ipv4/conf/"+l.id+"/route_localnet", "1"); err != nil {
		return err
	}
	return l.inNetwork(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return err
		}
		node, err := netlink.LinkByName(nodeLink)
		if err != nil {
			return fmt.Errorf("find the node's link: %w", err)
		}
		if err := setAddress(node, n.node(), n.link().Bits()); err != nil {
			return err
		}
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: node.Attrs().Index, Gw: n.host().AsSlice()}); err != nil {
			return fmt.Errorf("add the node's default route: %w", err)
		}
		return setSysctl("net/ipv4/ip_forward", "1")
	})
}

// nodeLink is the name of the link in the cluster's network namespace.
const nodeLink = "eth0"

func (l layout) makeLink() (netlink.Link, error) {
	ns, err := os.Open(l.netns())
	if err != nil {
		return nil, err
	}
	defer func() { _ = ns.Close() }()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = l.id
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: nodeLink, PeerNamespace: netlink.NsFd(int(ns.Fd()))}
	if err := netlink.LinkAdd(veth); err != nil {
		return nil, err
	}
	return netlink.LinkByName(l.id)
}

func setAddress(link netlink.Link, addr netip.Addr, bits int) error {
	err := netlink.AddrReplace(link, &netlink.Addr{IPNet: &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(bits, 32)}})
	if err != nil {
		return fmt.Errorf("give %s the address %s: %w", link.Attrs().Name, addr, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring %s up: %w", link.Attrs().Name, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), 32)}
}

// linked reports whether the machine's end of the link is there and up.
func (l layout) linked() bool {
	link, err := netlink.LinkByName(l.id)
	return err == nil && link.Attrs().Flags&net.FlagUp != 0
}

func (l layout) removeNetwork(ctx context.Context) error {
	var errs []error
	if link, err := netlink.LinkByName(l.id); err == nil {
		if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("remove the link %s: %w", l.id, err))
		}
	}
	if _, err := exec.LookPath("nft"); err == nil {
		errs = append(errs, nft(ctx, "add table ip "+l.id+"\ndelete table ip "+l.id+"\n"))
	}
	return errors.Join(errs...)
}

// firewallRules renders the one table that a cluster has among the machine's own rules. It lets pods and containerd reach
// what the machine reaches, lets the node (not the pods) reach these ports of the machine's loopback, where registries
// listen, and keeps other machines out: a router in the neighbourhood could otherwise send to the cluster's addresses.
func firewallRules(id string, n network, loopbackPorts []uint16) string {
	var b strings.Builder
	fmt.Fprintf(&b, "add table ip %[1]s\ndelete table ip %[1]s\ntable ip %[1]s {\n", id)
	fmt.Fprintf(&b, "\tchain postrouting {\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n")
	fmt.Fprintf(&b, "\t\tip saddr %[1]s ip daddr != %[1]s masquerade\n\t}\n", n.block)
	fmt.Fprintf(&b, "\tchain prerouting {\n\t\ttype nat hook prerouting priority dstnat; policy accept;\n")
	for _, port := range loopbackPorts {
		fmt.Fprintf(&b, "\t\tiifname %q ip saddr %s ip daddr %s tcp dport %d dnat to 127.0.0.1:%d\n", id, n.node(), n.host(), port, port)
	}
	fmt.Fprintf(&b, "\t}\n\tchain input {\n\t\ttype filter hook input priority filter; policy accept;\n")
	fmt.Fprintf(&b, "\t\tiifname %[1]q ct status dnat accept\n\t\tiifname %[1]q ip daddr 127.0.0.0/8 drop\n\t}\n", id)
	fmt.Fprintf(&b, "\tchain forward {\n\t\ttype filter hook forward priority filter; policy accept;\n")
	fmt.Fprintf(&b, "\t\toifname %q ct state new drop\n\t}\n}\n", id)
	return b.String()
}

// applyFirewall replaces the cluster's table in one step.
func (l layout) applyFirewall(ctx context.Context, s state) error {
	var ports []uint16
	for _, r := range s.Registries {
		if addr, ok := r.loopback(); ok && !slices.Contains(ports, addr.Port()) {
			ports = append(ports, addr.Port())
		}
	}
	return nft(ctx, firewallRules(l.id, s.network(), ports))
}

func nft(ctx context.Context, script string) error {
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("change the firewall by nft: %w: %s", err, firstLine(out))
	}
	return nil
}

func firstLine(b []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	return line
}

func setSysctl(name, value string) error {
	path := filepath.Join("/proc/sys", name)
	if b, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(b)) == value {
		return nil
	}
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("set %s: %w", strings.ReplaceAll(name, "/", "."), err)
	}
	return nil
}
