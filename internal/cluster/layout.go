package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"path/filepath"
)

// nodeName is the name of the one node. It is not the machine's own: a renamed machine keeps its cluster.
const nodeName = "slipway"

// A layout says where everything of one cluster is. It follows from the data folder alone, so that what a crash left
// behind is found even when every file about it is lost.
type layout struct {
	data string // absolute
	bin  string // absolute; may be empty where only the data is looked at
	id   string // names the link, the network namespace, the firewall table, the cgroup and the folder in /run
}

// idPattern matches every id, and no other name that Slipway uses.
const idPattern = "slipway-[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]"

func newLayout(data, bin string) (layout, error) {
	if data == "" {
		data = DefaultData
	}
	abs, err := filepath.Abs(data)
	if err != nil {
		return layout{}, fmt.Errorf("find the data folder %s: %w", data, err)
	}
	if bin != "" {
		if bin, err = filepath.Abs(bin); err != nil {
			return layout{}, fmt.Errorf("find the folder of the binaries: %w", err)
		}
	}
	sum := sha256.Sum256([]byte(abs))
	// A link's name has at most 15 bytes.
	return layout{data: abs, bin: bin, id: "slipway-" + hex.EncodeToString(sum[:3])}, nil
}

// in is a path in the data folder.
func (l layout) in(elem ...string) string {
	return filepath.Join(append([]string{l.data}, elem...)...)
}

// run is a path in the folder that a reboot empties. It is short, because a socket's path has at most 107 bytes.
func (l layout) run(elem ...string) string {
	return filepath.Join(append([]string{"/run", l.id}, elem...)...)
}

func (l layout) socket() string         { return l.run("containerd.sock") }
func (l layout) netns() string          { return filepath.Join("/run/netns", l.id) }
func (l layout) mountns() string        { return l.run("mnt") }
func (l layout) kubeconfig() string     { return l.in("kubeconfig") }
func (l layout) log(name string) string { return l.in("log", name+".log") }

// A network is the addresses of one cluster: one block of 65,536, cut in a fixed way.
type network struct {
	block netip.Prefix // 10.N.0.0/16
}

func (n network) at(third, fourth byte) netip.Addr {
	a := n.block.Addr().As4()
	return netip.AddrFrom4([4]byte{a[0], a[1], third, fourth})
}

// host is this machine's end of the link to the node; node is the other end, the address of the kubelet and API server.
func (n network) host() netip.Addr       { return n.at(0, 1) }
func (n network) node() netip.Addr       { return n.at(0, 2) }
func (n network) link() netip.Prefix     { return netip.PrefixFrom(n.at(0, 0), 30) }
func (n network) pods() netip.Prefix     { return netip.PrefixFrom(n.at(16, 0), 20) }
func (n network) services() netip.Prefix { return netip.PrefixFrom(n.at(32, 0), 20) }

// api is the address of the Service "kubernetes": upstream takes the first of the range.
func (n network) api() netip.Addr { return n.at(32, 1) }

func (n network) server() string { return fmt.Sprintf("https://%s:6443", n.node()) }

// chooseNetwork picks a block that overlaps none of those in use. Where it starts to look depends on seed, so that two
// clusters which are made at the same moment rarely want the same one.
func chooseNetwork(seed byte, used []netip.Prefix) (network, error) {
	const first, count = 100, 100 // clear of what Kubernetes distributions use by default: 10.0, 10.42, 10.43, 10.244
next:
	for i := range count {
		block := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(first + (int(seed)+i)%count), 0, 0}), 16)
		for _, p := range used {
			if p.Bits() > 0 && p.Overlaps(block) {
				continue next
			}
		}
		return network{block}, nil
	}
	return network{}, fmt.Errorf("choose addresses for the cluster: every block from 10.%d.0.0/16 to 10.%d.0.0/16 is already routed on this machine", first, first+count-1)
}
