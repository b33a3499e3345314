package cluster

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slipway/internal/testneeds"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"
)

var testNetwork = network{netip.MustParsePrefix("10.150.0.0/16")}

func TestNetwork(t *testing.T) {
	prefix := netip.MustParsePrefix
	for _, test := range []struct {
		name string
		used []netip.Prefix
		want string // block, or a part of the error
	}{
		{"empty machine", nil, "10.105.0.0/16"},
		{"a default route is no use of addresses", []netip.Prefix{prefix("0.0.0.0/0")}, "10.105.0.0/16"},
		{"a host in the block", []netip.Prefix{prefix("10.105.7.7/32")}, "10.106.0.0/16"},
		{"from the middle on", []netip.Prefix{prefix("10.104.0.0/13")}, "10.112.0.0/16"},
		{"the search starts over at the low end", []netip.Prefix{prefix("10.104.0.0/13"), prefix("10.112.0.0/12"), prefix("10.128.0.0/9")}, "10.100.0.0/16"},
		{"everything routed", []netip.Prefix{prefix("10.0.0.0/8")}, "already routed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			n, err := chooseNetwork(5, test.used)
			if err != nil {
				if !strings.Contains(err.Error(), test.want) {
					t.Errorf("err = %v, want %s", err, test.want)
				}
				return
			}
			if n.block.String() != test.want {
				t.Errorf("got %s, want %s", n.block, test.want)
			}
		})
	}
	n := testNetwork
	for _, p := range []netip.Prefix{n.link(), n.pods(), n.services()} {
		if p != p.Masked() || !n.block.Contains(p.Addr()) {
			t.Errorf("%s is no network in %s", p, n.block)
		}
	}
	if n.link().Overlaps(n.pods()) || n.pods().Overlaps(n.services()) {
		t.Error("the parts of the network overlap")
	}
	if !n.services().Contains(n.api()) || !n.link().Contains(n.node()) || !n.link().Contains(n.host()) {
		t.Error("an address is outside of its part")
	}
}

func TestLayout(t *testing.T) {
	a, err := newLayout("/var/lib/a", "")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := newLayout("/var/lib/b", "")
	again, _ := newLayout("/var/lib/x/../a/", "")
	if a.id == b.id || a.id != again.id {
		t.Errorf("ids %s, %s, %s: want one per folder", a.id, b.id, again.id)
	}
	if ok, err := filepath.Match(idPattern, a.id); !ok || err != nil {
		t.Errorf("%s does not match %s: %v", a.id, idPattern, err)
	}
	if len(a.id) > 15 {
		t.Errorf("%s is too long for the name of a link", a.id)
	}
}

func TestPKI(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	if err := makePKI(dir, testNetwork, now); err != nil {
		t.Fatal(err)
	}
	read := func(name string) []byte {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	leafOf := func(name string) *x509.Certificate {
		t.Helper()
		pair, err := tls.X509KeyPair(read(name+".crt"), read(name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		return pair.Leaf
	}
	verify := func(name, ca string, usage x509.ExtKeyUsage, at time.Time, host string) error {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(read(ca + ".crt"))
		_, err := leafOf(name).Verify(x509.VerifyOptions{Roots: pool, CurrentTime: at, DNSName: host, KeyUsages: []x509.ExtKeyUsage{usage}})
		return err
	}
	const client, server = x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth
	good := []struct {
		name, ca string
		usage    x509.ExtKeyUsage
		host     string
	}{
		{"apiserver", "ca", server, "10.150.0.2"},
		{"apiserver", "ca", server, "10.150.32.1"},
		{"apiserver", "ca", server, "kubernetes.default.svc"},
		{"kubelet-server", "ca", server, "10.150.0.2"},
		{"kubelet", "ca", client, ""},
		{"admin", "ca", client, ""},
		{"etcd", "etcd-ca", server, "127.0.0.1"},
		{"etcd", "etcd-ca", client, ""},
		{"apiserver-etcd", "etcd-ca", client, ""},
		{"front-proxy", "front-proxy-ca", client, ""},
	}
	for _, g := range good {
		if err := verify(g.name, g.ca, g.usage, now, g.host); err != nil {
			t.Errorf("%s %s: %v", g.name, g.host, err)
		}
	}
	for what, err := range map[string]error{
		"another host":                     verify("apiserver", "ca", server, now, "10.150.0.3"),
		"a client's shown by a server":     verify("admin", "ca", server, now, ""),
		"a server's shown by a client":     verify("apiserver", "ca", client, now, ""),
		"the API server's clients in etcd": verify("admin", "etcd-ca", client, now, ""),
		"etcd's clients in the API server": verify("apiserver-etcd", "ca", client, now, ""),
		"users as the front proxy":         verify("admin", "front-proxy-ca", client, now, ""),
		"after its end":                    verify("admin", "ca", client, now.Add(leafLife+time.Hour), ""),
	} {
		if err == nil {
			t.Errorf("%s is accepted", what)
		}
	}
	if subject := leafOf("kubelet").Subject; subject.CommonName != "system:node:slipway" || len(subject.Organization) != 1 || subject.Organization[0] != "system:nodes" {
		t.Errorf("the kubelet is %s, which the Node authorizer does not know", subject)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || strings.HasSuffix(e.Name(), ".key") && info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v, want a key that only its owner reads", e.Name(), info.Mode(), err)
		}
	}

	// A later start keeps what was signed with, and makes the rest anew.
	ca, account, admin := read("ca.crt"), read("service-account.key"), read("admin.crt")
	if err := makePKI(dir, testNetwork, now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(ca, read("ca.crt")) || !bytes.Equal(account, read("service-account.key")) {
		t.Error("the authority or the accounts' key changed")
	}
	if bytes.Equal(admin, read("admin.crt")) {
		t.Error("the administrator's certificate was not renewed")
	}
	// An authority that ends before what it signs does is of no use.
	late := now.Add(authorityLife - leafLife + time.Hour)
	if err := makePKI(dir, testNetwork, late); err != nil {
		t.Fatal(err)
	}
	if err := verify("admin", "ca", client, late.Add(leafLife-time.Hour), ""); err != nil {
		t.Errorf("at the end of its life: %v", err)
	}
}

func TestKubeconfig(t *testing.T) {
	dir := t.TempDir()
	if err := makePKI(dir, testNetwork, time.Now()); err != nil {
		t.Fatal(err)
	}
	b, err := kubeconfig(dir, "admin", testNetwork.server())
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		CurrentContext string `yaml:"current-context"`
		Users          []struct {
			User struct {
				Key  string `yaml:"client-key-data"`
				Cert string `yaml:"client-certificate-data"`
			}
		}
		Clusters []struct{ Cluster struct{ Server string } }
	}
	if err := yaml.Unmarshal(b, &config); err != nil {
		t.Fatal(err)
	}
	if config.CurrentContext != "slipway" || config.Clusters[0].Cluster.Server != "https://10.150.0.2:6443" || config.Users[0].User.Key == "" {
		t.Errorf("got %+v", config)
	}
}

func TestRender(t *testing.T) {
	// A space and a quote in the folder's name must do no harm.
	l, err := newLayout(`/tmp/it's "here"`, "/opt/bin")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []machine{
		{snapshotter: "overlayfs", resolvConf: "/etc/resolv.conf"},
		{snapshotter: "native", restrictOOM: true, resolvConf: "/run/systemd/resolve/resolv.conf", loopbackResolver: "127.0.0.53"},
	} {
		files, err := settings{l, testNetwork, m}.render()
		if err != nil {
			t.Fatal(err)
		}
		for name, content := range files {
			switch filepath.Ext(name) {
			case ".yaml":
				var v map[string]any
				if err := yaml.Unmarshal(content, &v); err != nil {
					t.Errorf("%s: %v\n%s", name, err, content)
				}
			case ".conflist":
				if !json.Valid(content) {
					t.Errorf("%s is no JSON:\n%s", name, content)
				}
			}
		}
		if got, want := strings.Contains(string(files["containerd.toml"]), "restrict_oom_score_adj = true"), m.restrictOOM; got != want {
			t.Errorf("restrict_oom_score_adj is %v, want %v", got, want)
		}
		if got, want := strings.Contains(string(files["kubelet.yaml"]), "oomScoreAdj: 0\n"), m.restrictOOM; got != want {
			t.Errorf("the kubelet's oomScoreAdj is 0: %v, want %v", got, want)
		}
		if got, want := strings.Contains(string(files["Corefile"]), "bind 127.0.0.53"), m.loopbackResolver != ""; got != want {
			t.Errorf("a resolver on loopback: %v, want %v", got, want)
		}
	}
	for _, o := range bootstrapObjects {
		var v struct{ Metadata struct{ Name string } }
		if err := yaml.Unmarshal([]byte(o.yaml), &v); err != nil || !strings.HasSuffix(o.path, "/"+v.Metadata.Name) {
			t.Errorf("%s: %v, %+v", o.path, err, v)
		}
	}
}

func TestHostsFiles(t *testing.T) {
	registries := []Registry{
		{Host: "127.0.0.1:7070", Authorization: `Bearer "x"`, Mirrors: []string{"docker.io", "ghcr.io"}},
		{Host: "registry.lan:5000"},
	}
	files := hostsFiles(registries, testNetwork)
	for host, want := range map[string]string{
		"127.0.0.1:7070": `server = "http://10.150.0.1:7070"

[host."http://10.150.0.1:7070"]
  capabilities = ["pull", "resolve"]
  [host."http://10.150.0.1:7070".header]
    authorization = "Bearer \"x\""
`,
		"docker.io": `server = "https://registry-1.docker.io"

[host."http://10.150.0.1:7070"]
  capabilities = ["pull", "resolve"]
  [host."http://10.150.0.1:7070".header]
    authorization = "Bearer \"x\""
`,
		"registry.lan:5000": `server = "http://registry.lan:5000"

[host."http://registry.lan:5000"]
  capabilities = ["pull", "resolve"]
`,
	} {
		if files[host] != want {
			t.Errorf("%s:\n%s\nwant:\n%s", host, files[host], want)
		}
	}
	if len(files) != 4 {
		t.Errorf("%d files, want 4", len(files))
	}
}

func TestRegistryCheck(t *testing.T) {
	for _, bad := range []Registry{
		{},
		{Host: "../../etc"},
		{Host: ".."},
		{Host: "http://127.0.0.1"},
		{Host: "127.0.0.2:80"},
		{Host: "127.0.0.1:80", Mirrors: []string{"a/b"}},
		{Host: "127.0.0.1:80", Authorization: "Bearer a\nb: c"},
	} {
		if err := bad.check(); err == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
	for _, good := range []Registry{{Host: "127.0.0.1:7070"}, {Host: "localhost:80"}, {Host: "registry.lan"}} {
		if err := good.check(); err != nil {
			t.Errorf("%+v: %v", good, err)
		}
	}
}

// TestFirewallRules lets nft itself check the rules; it changes nothing.
func TestFirewallRules(t *testing.T) {
	testneeds.Root(t)
	nft := testneeds.Tool(t, "nft")
	for _, ports := range [][]uint16{nil, {7070, 7071}} {
		rules := firewallRules("slipway-unit", testNetwork, ports)
		cmd := exec.Command(nft, "--check", "--file", "-")
		cmd.Stdin = strings.NewReader(rules)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s\n%s", err, out, rules)
		}
		if got := strings.Count(rules, " dnat to 127.0.0.1:"); got != len(ports) {
			t.Errorf("%d ports are open, want %d", got, len(ports))
		}
	}
}

func TestParseStat(t *testing.T) {
	tail := " 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 7 18 4711 20 21"
	for _, test := range []struct {
		line string
		want stat
		bad  bool
	}{
		{line: "42 (etcd) S" + tail, want: stat{"S", 7, 4711}},
		{line: "42 (evil) Z 0 (x) S" + tail, want: stat{"S", 7, 4711}},
		{line: "42 (a b c) Z" + tail, want: stat{"Z", 7, 4711}},
		{line: "", bad: true},
		{line: "42 (etcd) S 1 2", bad: true},
		{line: "42 (etcd) S" + strings.Replace(tail, "4711", "x", 1), bad: true},
	} {
		got, err := parseStat(test.line)
		if (err != nil) != test.bad || got != test.want {
			t.Errorf("%q: %+v, %v", test.line, got, err)
		}
	}
	// The first thread of a process may end before the others; what it listens at is taken as long as they live.
	if (stat{state: "Z", threads: 2}).gone() || !(stat{state: "Z", threads: 1}).gone() || (stat{state: "S", threads: 1}).gone() {
		t.Error("what counts as gone is wrong")
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("42 (etcd) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 7 18 4711 20 21")
	f.Fuzz(func(t *testing.T, line string) {
		if s, err := parseStat(line); err != nil && s != (stat{}) {
			t.Errorf("an error with %+v", s)
		}
	})
}

// TestSignal makes sure that a process which got the number of a dead one is left alone.
func TestSignal(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	p, ok := inspect(cmd.Process.Pid)
	if !ok || !p.alive() {
		t.Fatal("a running process is not seen")
	}
	other := process{p.PID, p.Start - 1}
	if other.alive() {
		t.Error("a process that started at another time is taken for it")
	}
	if err := other.signal(unix.SIGKILL); err != nil {
		t.Error(err)
	}
	if !p.alive() {
		t.Fatal("it was killed in the place of another one")
	}
	if err := p.signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-ended
	if p.alive() {
		t.Error("a dead process is taken for alive")
	}
	if err := p.signal(unix.SIGKILL); err != nil {
		t.Errorf("signal to a dead process: %v", err)
	}
}

func TestLoopbackResolver(t *testing.T) {
	for conf, want := range map[string]string{
		"":                             "",
		"nameserver 192.0.2.1\n":       "",
		"# x\nnameserver 127.0.0.53\n": "127.0.0.53",
		"search a\nnameserver ::1\n":   "",
		"nameserver 192.0.2.1\nnameserver 127.0.0.1\n": "",
		"nameserver\nnameserver 127.0.0.1":             "127.0.0.1",
	} {
		if got := loopbackResolver([]byte(conf)); got != want {
			t.Errorf("%q: got %q, want %q", conf, got, want)
		}
	}
}

func TestOpenState(t *testing.T) {
	l := layout{data: t.TempDir(), bin: t.TempDir(), id: "slipway-unit"}
	if s, err := l.openState(); err != nil || s.Layout != layoutVersion {
		t.Fatalf("an empty folder: %+v, %v", s, err)
	}
	want := state{Layout: layoutVersion, Block: testNetwork.block, Registries: []Registry{{Host: "127.0.0.1:1"}}}
	if err := l.saveState(want); err != nil {
		t.Fatal(err)
	}
	if s, err := l.openState(); err != nil || s.Block != want.Block || s.Registries[0].Host != "127.0.0.1:1" {
		t.Errorf("what was saved: %+v, %v", s, err)
	}
	for what, content := range map[string]string{
		"made by Kubernetes v0.1.0":  `{"layout": 1, "kubernetes": "v0.1.0"}`,
		"another version of slipway": `{"layout": 99}`,
		"state.json":                 `{`,
	} {
		if err := os.WriteFile(l.in("state.json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := l.openState(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: err = %v, want %q", content, err, what)
		}
	}
	other := layout{data: t.TempDir()}
	if err := os.WriteFile(other.in("thesis.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := other.openState(); err == nil || !strings.Contains(err.Error(), "thesis.txt") {
		t.Errorf("a folder with other things: err = %v", err)
	}
	if err := other.delete(func(string, ...any) {}); err == nil {
		t.Error("a folder with other things is deleted")
	}
	if _, err := os.Stat(other.in("thesis.txt")); err != nil {
		t.Error(err)
	}
}

func TestPreflight(t *testing.T) {
	testneeds.Root(t)
	l := layout{data: t.TempDir(), bin: t.TempDir(), id: "slipway-unit"}
	err := l.preflight(t.Context())
	if err == nil || !strings.Contains(err.Error(), "kube-apiserver") || !strings.Contains(err.Error(), "make cluster") {
		t.Errorf("err = %v, want the missing programs and how to get them", err)
	}
}

func TestLastLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	for content, want := range map[string]string{"": "", "one": "one", "one\ntwo\n": "two", strings.Repeat("x", 5000) + "\nlast\n": "last"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := lastLine(path); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
