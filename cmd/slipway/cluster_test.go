package main

import (
	"net"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/spf13/pflag"

	"slipway/internal/cluster"
)

// What flags of cluster up make of a server on the same machine, which mirrors two registries.
func TestRegistryFlags(t *testing.T) {
	data := t.TempDir()
	token := filepath.Join(data, "pull-token")
	if err := os.WriteFile(token, []byte("slw_own\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	header := filepath.Join(t.TempDir(), "header")
	if err := os.WriteFile(header, []byte("Basic YQ==\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := writeOwnRegistry(data, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7070}, []string{"docker.io", "ghcr.io"}); err != nil {
		t.Fatal(err)
	}
	const bearer = "Bearer slw_own"
	both, hub := []string{"docker.io", "ghcr.io"}, []string{"docker.io"}
	for _, test := range []struct {
		args []string
		want cluster.Options
		bad  bool
	}{
		{args: nil, want: cluster.Options{Own: &cluster.Registry{Host: "127.0.0.1:7070", Authorization: bearer, Mirrors: both}}},
		{args: []string{"--mirror="}, want: cluster.Options{Own: &cluster.Registry{Host: "127.0.0.1:7070", Authorization: bearer}}},
		{args: []string{"--server-data", t.TempDir()}},
		{args: []string{"--registry="}, want: cluster.Options{Registries: []cluster.Registry{}}},
		{
			args: []string{"--registry=127.0.0.1:7070"},
			want: cluster.Options{Registries: []cluster.Registry{{Host: "127.0.0.1:7070", Authorization: bearer, Mirrors: both}}},
		},
		{
			args: []string{"--registry=127.0.0.1:7070", "--mirror=quay.io", "--registry-authorization-file", header},
			want: cluster.Options{Registries: []cluster.Registry{{Host: "127.0.0.1:7070", Authorization: "Basic YQ==", Mirrors: []string{"quay.io"}}}},
		},
		{
			args: []string{"--registry=registry.lan:5000", "--registry-authorization-file", token},
			want: cluster.Options{Registries: []cluster.Registry{{Host: "registry.lan:5000", Authorization: bearer, Mirrors: hub}}},
		},
		{
			args: []string{"--registry=registry.lan:5000", "--mirror="},
			want: cluster.Options{Registries: []cluster.Registry{{Host: "registry.lan:5000", Mirrors: []string{}}}},
		},
		{args: []string{"--mirror=docker.io"}, bad: true},
		{args: []string{"--registry-authorization-file", token}, bad: true},
		{args: []string{"--registry=registry.lan", "--registry-authorization-file", "none"}, bad: true},
	} {
		var f registryFlags
		flags := pflag.NewFlagSet("", pflag.ContinueOnError)
		f.register(flags)
		var got cluster.Options
		err := flags.Parse(append([]string{"--server-data", data}, test.args...))
		if err == nil {
			err = f.apply(&got, flags)
		}
		if (err != nil) != test.bad || !test.bad && !reflect.DeepEqual(got, test.want) {
			t.Errorf("%q: %+v, %v; want %+v", test.args, got, err, test.want)
		}
	}
	// A server on an address that no node reaches takes back what it said before.
	if err := writeOwnRegistry(data, &net.TCPAddr{IP: net.IPv6loopback, Port: 7070}, nil); err != nil {
		t.Fatal(err)
	}
	if own, err := cluster.LoadRegistry(filepath.Join(data, ownRegistryFile)); own != nil || err != nil {
		t.Errorf("%+v, %v", own, err)
	}
}
