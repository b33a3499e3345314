package oci

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// firewall is the engine's own table in nftables. Its rules go by the prefix that the names of all its bridges have, so
// they are the same for any number of sandboxes; two sets have what differs.
type firewall struct {
	table  *nftables.Table
	prefix string // of bridges
	// same has the pair of each bridge with itself: where the kernel filters bridged packets (br_netfilter), those within
	// a sandbox come through the rules too.
	same *nftables.Set
	// ranges has the addresses of all sandboxes.
	ranges *nftables.Set
}

func (e *Engine) firewall() *firewall {
	table := &nftables.Table{Name: e.names.table(), Family: nftables.TableFamilyINet}
	return &firewall{
		table:  table,
		prefix: e.names.bridgePrefix(),
		same: &nftables.Set{
			// The library numbers sets that have no number from a variable that is not safe for concurrent use.
			Table: table, Name: "same", ID: 1, Concatenation: true,
			KeyType: nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIFName),
		},
		ranges: &nftables.Set{Table: table, Name: "ranges", ID: 2, Interval: true, KeyType: nftables.TypeIPAddr},
	}
}

// install makes the table, or brings the rules of one that is there up to date, in one transaction.
func (f *firewall) install(hostPorts []uint16) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	conn.AddTable(f.table)
	for _, set := range []*nftables.Set{f.same, f.ranges} {
		if err := conn.AddSet(set, nil); err != nil {
			return err
		}
	}
	policy := nftables.ChainPolicyAccept
	chain := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority, rules ...[]expr.Any) {
		c := conn.AddChain(&nftables.Chain{Name: name, Table: f.table, Type: kind, Hooknum: hook, Priority: priority, Policy: &policy})
		conn.FlushChain(c)
		for _, exprs := range rules {
			conn.AddRule(&nftables.Rule{Table: f.table, Chain: c, Exprs: exprs})
		}
	}
	from, to := f.bridge(expr.MetaKeyIIFNAME, expr.CmpOpEq), f.bridge(expr.MetaKeyOIFNAME, expr.CmpOpEq)

	// A container talks to this machine only to answer, and to the ports that the engine's options open.
	input := [][]expr.Any{join(from, established(), accept)}
	for _, port := range hostPorts {
		input = append(input, join(from, tcpTo(port), accept))
	}
	input = append(input, join(from, drop))
	chain("input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter, input...)

	chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter,
		join(f.withinSandbox(), accept),
		join(from, to, drop),
		join(from, ipv4(destination, netip.MustParsePrefix("169.254.0.0/16")), drop),
		join(to, established(), accept),
		join(to, drop),
	)
	chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource,
		join(f.bridge(expr.MetaKeyOIFNAME, expr.CmpOpNeq), f.fromSandbox(), []expr.Any{&expr.Masq{}}),
	)
	return conn.Flush()
}

// admit adds a sandbox. It may be repeated.
func (f *firewall) admit(bridge string, subnet netip.Prefix) error {
	return f.elements(bridge, subnet, (*nftables.Conn).SetAddElements)
}

// dismiss takes a sandbox away. One that is not there is no error.
func (f *firewall) dismiss(bridge string, subnet netip.Prefix) error {
	err := f.elements(bridge, subnet, (*nftables.Conn).SetDeleteElements)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func (f *firewall) elements(bridge string, subnet netip.Prefix, do func(*nftables.Conn, *nftables.Set, []nftables.SetElement) error) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	name := ifname(bridge)
	if err := do(conn, f.same, []nftables.SetElement{{Key: append(name, name...)}}); err != nil {
		return err
	}
	if subnet.IsValid() {
		last := subnet.Addr().AsSlice()
		end := binary.BigEndian.Uint32(last) + 1<<(32-subnet.Bits())
		err := do(conn, f.ranges, []nftables.SetElement{
			{Key: subnet.Addr().AsSlice()},
			{Key: binary.BigEndian.AppendUint32(nil, end), IntervalEnd: true},
		})
		if err != nil {
			return err
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("change the sets of table %s: %w", f.table.Name, err)
	}
	return nil
}

// remove removes the table with all that is in it. One that does not exist is no error.
func (f *firewall) remove() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	conn.DelTable(f.table)
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// The parts of rules.

var (
	accept = []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}
	drop   = []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
)

func join(parts ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, part := range parts {
		all = append(all, part...)
	}
	return all
}

// bridge compares the interface of a packet with the prefix of the engine's bridges.
func (f *firewall) bridge(key expr.MetaKey, op expr.CmpOp) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: op, Register: 1, Data: []byte(f.prefix)},
	}
}

func (f *firewall) withinSandbox() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 2},
		&expr.Lookup{SourceRegister: 1, SetName: f.same.Name},
	}
}

func (f *firewall) fromSandbox() []expr.Any {
	return append(payload(source), &expr.Lookup{SourceRegister: 1, SetName: f.ranges.Name})
}

func established() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED),
			Xor:  binaryutil.NativeEndian.PutUint32(0),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(0)},
	}
}

// The places of addresses in the header of IPv4.
const (
	source      = 12
	destination = 16
)

// payload loads an address of a packet of IPv4.
func payload(offset uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.NFPROTO_IPV4}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4},
	}
}

func ipv4(offset uint32, prefix netip.Prefix) []expr.Any {
	mask := ipNet(prefix).Mask
	return append(payload(offset),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: prefix.Addr().AsSlice()},
	)
}

func tcpTo(port uint16) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
	}
}

// ifname is the name of an interface as the kernel compares it.
func ifname(name string) []byte {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return padded
}
