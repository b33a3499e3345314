package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"reflect"
)

// OwnRegistry makes of a server's address on this machine, its token for clusters and the hosts that it mirrors what a
// cluster beside it needs to know. It reports false for an address that no node reaches.
func OwnRegistry(listen netip.AddrPort, token string, mirrors []string) (Registry, bool) {
	addr := listen.Addr().Unmap()
	if addr.IsUnspecified() {
		addr = netip.MustParseAddr("127.0.0.1")
	}
	r := Registry{Host: netip.AddrPortFrom(addr, listen.Port()).String(), Authorization: "Bearer " + token}
	for _, host := range mirrors {
		if hostPattern.MatchString(host) {
			r.Mirrors = append(r.Mirrors, host)
		}
	}
	return r, r.check() == nil
}

// Save writes r to a file that only root reads.
func (r Registry) Save(path string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(path, append(b, '\n'), 0o600)
}

// LoadRegistry reads what [Registry.Save] wrote. It returns nil if there is no such file.
func LoadRegistry(path string) (*Registry, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var r Registry
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err == nil {
		err = r.check()
	}
	if err != nil {
		return nil, fmt.Errorf("read the server's registry from %s: %w", path, err)
	}
	return &r, nil
}

// registries returns what the cluster is to know of registries from now on, or nil if that is what it knows.
func (o Options) registries(s state) []Registry {
	if o.Registries != nil {
		return o.Registries
	}
	if o.Own == nil || s.Registries != nil && !s.Own {
		return nil
	}
	if own := []Registry{*o.Own}; !reflect.DeepEqual(own, s.Registries) {
		return own
	}
	return nil
}
