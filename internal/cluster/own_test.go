package cluster

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

func TestOwnRegistry(t *testing.T) {
	for listen, want := range map[string]string{
		"127.0.0.1:7070": "127.0.0.1:7070", "0.0.0.0:80": "127.0.0.1:80", "[::]:7070": "127.0.0.1:7070",
		"[::ffff:192.168.1.5]:7070": "192.168.1.5:7070", "127.0.0.2:7070": "", "[2001:db8::1]:7070": "",
	} {
		r, ok := OwnRegistry(netip.MustParseAddrPort(listen), "slw_x", []string{"docker.io", "bad/host", "registry.lan:5000"})
		if ok != (want != "") || ok && r.Host != want {
			t.Errorf("%s: %+v, %v", listen, r, ok)
		}
		if !ok {
			continue
		}
		if want := (Registry{Host: want, Authorization: "Bearer slw_x", Mirrors: []string{"docker.io", "registry.lan:5000"}}); !reflect.DeepEqual(r, want) {
			t.Errorf("%s: %+v", listen, r)
		}
		path := filepath.Join(t.TempDir(), "file")
		if err := r.Save(path); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
		if got, err := LoadRegistry(path); err != nil || !reflect.DeepEqual(*got, r) {
			t.Errorf("read again: %+v, %v", got, err)
		}
	}
	if r, err := LoadRegistry(filepath.Join(t.TempDir(), "none")); r != nil || err != nil {
		t.Errorf("no file: %+v, %v", r, err)
	}
	for _, text := range []string{"", "{", `{"host": "../../etc"}`, `{"host": "127.0.0.1:1", "authorization": "a\nb"}`} {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if r, err := LoadRegistry(path); err == nil {
			t.Errorf("%q is read as %+v", text, r)
		}
	}
}

// The server's own registry is for clusters whose registries nobody has set, and follows the server.
func TestRegistriesByDefault(t *testing.T) {
	own := &Registry{Host: "127.0.0.1:7070", Mirrors: []string{"docker.io"}}
	other := []Registry{{Host: "127.0.0.1:5000"}}
	for _, test := range []struct {
		what    string
		options Options
		before  state
		want    []Registry
	}{
		{"a new cluster", Options{Own: own}, state{}, []Registry{*own}},
		{"without a server", Options{}, state{}, nil},
		{"again", Options{Own: own}, state{Registries: []Registry{*own}, Own: true}, nil},
		{"the server mirrors more", Options{Own: own}, state{Registries: []Registry{{Host: own.Host}}, Own: true}, []Registry{*own}},
		{"the server has gone", Options{}, state{Registries: []Registry{*own}, Own: true}, nil},
		{"somebody set another", Options{Own: own}, state{Registries: other}, nil},
		{"somebody set none", Options{Own: own}, state{Registries: []Registry{}}, nil},
		{"somebody sets another", Options{Own: own, Registries: other}, state{Registries: []Registry{*own}, Own: true}, other},
		{"somebody sets none", Options{Own: own, Registries: []Registry{}}, state{Registries: []Registry{*own}, Own: true}, []Registry{}},
	} {
		// As it is after it was stored.
		l := layout{data: t.TempDir()}
		test.before.Layout = layoutVersion
		if err := l.saveState(test.before); err != nil {
			t.Fatal(err)
		}
		before, err := l.loadState()
		if err != nil {
			t.Fatal(err)
		}
		if got := test.options.registries(before); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %#v, want %#v", test.what, got, test.want)
		}
	}
}
