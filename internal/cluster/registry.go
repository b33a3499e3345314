package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A Registry is one that the node pulls images from in a way that differs from the usual.
type Registry struct {
	// Host is what image references say, like "127.0.0.1:7070". The registry answers there over plain HTTP. A registry
	// on this machine's loopback is reached all the same, although the node has a network of its own.
	Host string `json:"host"`

	// Authorization is the value of the header of that name which comes with every request, like "Bearer ...". Empty
	// means none.
	Authorization string `json:"authorization,omitempty"`

	// Mirrors are the registries for which this one is asked first, like "docker.io". It is asked for the same path, with
	// the parameter ns=docker.io, as the containerd project does it. What it doesn't have comes from the original.
	Mirrors []string `json:"mirrors,omitempty"`
}

// loopback gives the registry's address if it is on this machine's loopback.
func (r Registry) loopback() (netip.AddrPort, bool) {
	host, port, found := strings.Cut(r.Host, ":")
	if host == "localhost" {
		host = "127.0.0.1"
	}
	addr, err := netip.ParseAddr(host)
	if err != nil || !addr.IsLoopback() {
		return netip.AddrPort{}, false
	}
	if !found {
		port = "80"
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(addr, uint16(number)), true
}

// endpoint is where the node finds the registry.
func (r Registry) endpoint(n network) string {
	if addr, ok := r.loopback(); ok {
		return "http://" + netip.AddrPortFrom(n.host(), addr.Port()).String()
	}
	return "http://" + r.Host
}

// hostPattern is narrow, for a host becomes the name of a folder and a part of a configuration.
var hostPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*(:[0-9]+)?$`)

func (r Registry) check() error {
	for _, host := range append([]string{r.Host}, r.Mirrors...) {
		if !hostPattern.MatchString(host) {
			return fmt.Errorf("registry %q: want a host and, if it has one, a port, like 127.0.0.1:7070", host)
		}
	}
	if addr, ok := r.loopback(); ok && addr.Addr() != netip.MustParseAddr("127.0.0.1") {
		return fmt.Errorf("registry %q: of the loopback addresses only 127.0.0.1 is reached from the cluster", r.Host)
	}
	if strings.ContainsFunc(r.Authorization, func(c rune) bool { return c < ' ' || c > '~' }) {
		return errors.New("registry " + r.Host + ": the authorization holds characters that a header can't")
	}
	return nil
}

// ChangeRegistries replaces what the cluster in opts.Data knows about registries by what change makes of it; nobody else
// changes it meanwhile. It needs no restart: containerd reads the files for each pull. Use it when a token changes. It
// works on a stopped cluster too.
func ChangeRegistries(ctx context.Context, opts Options, change func([]Registry) []Registry) error {
	l, err := newLayout(opts.Data, opts.Bin)
	if err != nil {
		return err
	}
	if _, err := os.Stat(l.data); err != nil {
		return noCluster(l)
	}
	unlock, err := l.lock(ctx, func() {})
	if err != nil {
		return err
	}
	defer unlock()
	s, err := l.loadState()
	if errors.Is(err, fs.ErrNotExist) {
		return noCluster(l)
	}
	if err != nil {
		return err
	}
	s.Own = false
	return l.setRegistries(ctx, &s, change(s.Registries))
}

func noCluster(l layout) error {
	return fmt.Errorf("there is no cluster in %s: start one with `slipway cluster up`", l.data)
}

func (l layout) setRegistries(ctx context.Context, s *state, registries []Registry) error {
	for _, r := range registries {
		if err := r.check(); err != nil {
			return err
		}
	}
	s.Registries = registries
	if err := l.saveState(*s); err != nil {
		return err
	}
	if err := l.writeRegistries(*s); err != nil {
		return err
	}
	if l.linked() {
		return l.applyFirewall(ctx, *s)
	}
	return nil
}

// writeRegistries writes one folder per registry for containerd (its docs/hosts.md), and removes those of others.
func (l layout) writeRegistries(s state) error {
	root := l.in("registries")
	if err := os.MkdirAll(root, 0o700); err != nil {
		return fmt.Errorf("make the folder of the registries: %w", err)
	}
	files := hostsFiles(s.Registries, s.network())
	for host, content := range files {
		if err := os.MkdirAll(filepath.Join(root, host), 0o700); err != nil {
			return fmt.Errorf("make the folder of the registry %s: %w", host, err)
		}
		if err := writeFile(filepath.Join(root, host, "hosts.toml"), []byte(content), 0o600); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if _, ok := files[e.Name()]; !ok {
			if err := os.RemoveAll(filepath.Join(root, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// hostsFiles renders hosts.toml for every registry and every one that is mirrored.
func hostsFiles(registries []Registry, n network) map[string]string {
	entry := func(r Registry) string {
		var b strings.Builder
		fmt.Fprintf(&b, "\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", r.endpoint(n))
		if r.Authorization != "" {
			fmt.Fprintf(&b, "  [host.%q.header]\n    authorization = %q\n", r.endpoint(n), r.Authorization)
		}
		return b.String()
	}
	files := map[string]string{}
	mirrored := map[string][]Registry{}
	for _, r := range registries {
		files[r.Host] = fmt.Sprintf("server = %q\n", r.endpoint(n)) + entry(r)
		for _, m := range r.Mirrors {
			if !slices.ContainsFunc(mirrored[m], func(o Registry) bool { return o.Host == r.Host }) {
				mirrored[m] = append(mirrored[m], r)
			}
		}
	}
	for host, by := range mirrored {
		server := "https://" + host
		if host == "docker.io" {
			server = "https://registry-1.docker.io"
		}
		files[host] = fmt.Sprintf("server = %q\n", server)
		for _, r := range by {
			files[host] += entry(r)
		}
	}
	return files
}
