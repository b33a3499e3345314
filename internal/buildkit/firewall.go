package buildkit

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// installFirewall makes a table of the bridge's name that lets it reach what is behind the uplinks and nothing else:
//
//   - no packet from the bridge is for this machine, whichever of its addresses it names, by IPv4 or IPv6;
//   - none is forwarded to link-local addresses, by IPv6, or to another bridge of this machine: that is where other
//     containers are. An uplink may be a bridge itself;
//   - none comes in but answers.
func installFirewall(bridge string, subnet netip.Prefix, uplinks []string) error {
	if err := removeFirewall(bridge); err != nil {
		return err
	}
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := conn.AddTable(&nftables.Table{Name: bridge, Family: nftables.TableFamilyINet})
	nat := conn.AddTable(&nftables.Table{Name: bridge, Family: nftables.TableFamilyIPv4})
	chain := func(table *nftables.Table, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority, name string, rules ...[]expr.Any) {
		c := conn.AddChain(&nftables.Chain{Name: name, Table: table, Type: kind, Hooknum: hook, Priority: priority})
		for _, exprs := range rules {
			conn.AddRule(&nftables.Rule{Table: table, Chain: c, Exprs: exprs})
		}
	}
	from, to := meta(expr.MetaKeyIIFNAME, ifname(bridge)), meta(expr.MetaKeyOIFNAME, ifname(bridge))
	chain(table, nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter, "input",
		slices.Concat(from, drop),
	)
	forward := [][]expr.Any{
		slices.Concat(from, meta(expr.MetaKeyNFPROTO, []byte{unix.NFPROTO_IPV6}), drop),
		slices.Concat(from, address(16, netip.MustParsePrefix("169.254.0.0/16")), drop),
		slices.Concat(to, established(), accept),
		slices.Concat(to, drop),
	}
	for _, name := range uplinks {
		forward = append(forward, slices.Concat(from, meta(expr.MetaKeyOIFNAME, ifname(name)), accept))
	}
	forward = append(forward, slices.Concat(from, meta(metaKeyOIFKIND, ifname("bridge")), drop))
	chain(table, nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter, "forward", forward...)
	chain(nat, nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, "postrouting",
		slices.Concat(address(12, subnet), []expr.Any{&expr.Masq{}}),
	)
	return conn.Flush()
}

// removeFirewall removes the tables of that name. It is no error if there are none.
func removeFirewall(name string) error {
	for _, family := range []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyIPv4} {
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		conn.DelTable(&nftables.Table{Name: name, Family: family})
		if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}

// metaKeyOIFKIND is NFT_META_OIFKIND, the kind of the interface that a packet leaves by (Linux 5.6, uapi nf_tables.h).
const metaKeyOIFKIND expr.MetaKey = 27

var (
	accept = []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
	drop   = []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
)

func meta(key expr.MetaKey, data []byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data},
	}
}

// address matches an IPv4 address of the header at offset: 12 is the source, 16 the destination.
func address(offset uint32, prefix netip.Prefix) []expr.Any {
	mask := ipNet(prefix.Addr(), prefix.Bits()).Mask
	return append(meta(expr.MetaKeyNFPROTO, []byte{unix.NFPROTO_IPV4}),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: prefix.Masked().Addr().AsSlice()},
	)
}

func established() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED),
			Xor:  make([]byte, 4),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// ifname is a name as the kernel compares it.
func ifname(name string) []byte {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return padded
}
