package oci

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
)

// Leftovers lists what there is on the machine of the sandboxes of an engine.
func Leftovers(opts Options) ([]string, error) {
	n := newNames(opts.Dir)
	var found []string
	links, err := dump(netlink.LinkList)
	if err != nil {
		return nil, err
	}
	for _, link := range links {
		name := link.Attrs().Name
		if strings.HasPrefix(name, n.bridgePrefix()) || strings.HasPrefix(name, n.cablePrefix()) {
			found = append(found, "interface "+name)
		}
	}
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	tables, err := conn.ListTables()
	if err != nil {
		return nil, err
	}
	for _, table := range tables {
		if table.Name == n.table() {
			found = append(found, "table "+table.Name)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, opts.Dir) {
			found = append(found, "mount "+line)
		}
	}
	cgroups, err := findCgroups()
	if err != nil {
		return nil, err
	}
	groups, err := cgroups.sandboxes(n.cgroupPrefix())
	if err != nil {
		return nil, err
	}
	keys, err := opts.Images.RootfsKeys(context.Background())
	if err != nil {
		return nil, err
	}
	for what, names := range map[string][]string{"cgroup": groups, "root filesystem": keys} {
		for _, name := range names {
			found = append(found, fmt.Sprint(what, " ", name))
		}
	}
	for _, dir := range []string{n.sandboxes(), n.runc()} {
		names, err := readNames(dir)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			found = append(found, dir+"/"+name)
		}
	}
	return found, nil
}

// Gateway returns the address that this machine has in the network of a sandbox.
func (e *Env) Gateway() string { return e.state.Subnet.Addr().Next().String() }

// Address returns the address of a step.
func (e *Env) Address(step string) string { return e.state.Addresses[step].String() }
