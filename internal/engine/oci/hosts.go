package oci

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"slipway/internal/engine"
	"slipway/internal/plan"
)

// The files that each container gets in its /etc.
var etcFiles = []string{"hosts", "hostname", "resolv.conf"}

func (e *Env) writeEtc(paths stepPaths, step engine.Step) error {
	resolv := resolvConf(step.Exec, e.engine.opts.DNS)
	for name, content := range map[string]string{
		"hosts":       e.hosts(step),
		"hostname":    hostname(step.Name) + "\n",
		"resolv.conf": resolv,
	} {
		if err := os.WriteFile(filepath.Join(paths.etc(), name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// hosts returns /etc/hosts of a step: all containers of the job under all their names.
func (e *Env) hosts(step engine.Step) string {
	var b strings.Builder
	b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	for _, s := range e.spec.Job.Steps {
		names := []string{s.Name}
		if s.Exec != nil {
			names = append(names, s.Exec.Aliases...)
		}
		address := e.state.Addresses[s.Name].String()
		if e.spec.Job.Network == plan.Shared {
			address = "127.0.0.1"
		}
		writeHost(&b, address, names...)
	}
	if own := hostname(step.Name); own != step.Name {
		writeHost(&b, e.state.Addresses[step.Name].String(), own)
	}
	for _, extra := range step.Exec.ExtraHosts {
		name, address, _ := strings.Cut(extra, ":")
		if ip, err := netip.ParseAddr(strings.Trim(address, "[]")); err == nil {
			writeHost(&b, ip.String(), name)
		}
	}
	return b.String()
}

var hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?$`)

// writeHost writes a line with those of names that can be names of hosts.
func writeHost(b *strings.Builder, address string, names ...string) {
	var valid []string
	for _, name := range names {
		if hostName.MatchString(name) {
			valid = append(valid, name)
		}
	}
	if len(valid) > 0 {
		fmt.Fprintf(b, "%s\t%s\n", address, strings.Join(valid, " "))
	}
}

// hostname returns the step's name if it can be the name of a host, which the kernel limits to 64 bytes.
func hostname(step string) string {
	if len(step) <= 63 && hostName.MatchString(step) {
		return step
	}
	return "step-" + stepKey(step)
}

// resolvConf returns /etc/resolv.conf of a step.
func resolvConf(x plan.Exec, defaults []string) string {
	// systemd-resolved listens on a loopback address, and keeps the real servers in a file of its own.
	host, _ := os.ReadFile("/etc/resolv.conf")
	if upstream, err := os.ReadFile("/run/systemd/resolve/resolv.conf"); err == nil && strings.Contains(string(host), "127.0.0.53") && !x.HostNetwork {
		host = upstream
	}
	servers := x.DNS
	if len(servers) == 0 {
		servers = defaults
	}
	var b strings.Builder
	for _, server := range servers {
		if ip, err := netip.ParseAddr(server); err == nil {
			fmt.Fprintf(&b, "nameserver %s\n", ip)
		}
	}
	if len(x.DNSSearch) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(strings.Fields(strings.Join(x.DNSSearch, " ")), " "))
	}
	for line := range strings.Lines(string(host)) {
		fields := strings.Fields(line)
		switch {
		case len(fields) < 2:
		case fields[0] == "nameserver":
			ip, err := netip.ParseAddr(fields[1])
			if len(servers) == 0 && err == nil && (x.HostNetwork || !ip.IsLoopback()) {
				fmt.Fprintf(&b, "nameserver %s\n", fields[1])
			}
		case fields[0] == "search" && len(x.DNSSearch) > 0:
		case fields[0] == "search", fields[0] == "options", fields[0] == "domain":
			fmt.Fprintln(&b, strings.Join(fields, " "))
		}
	}
	return b.String()
}
