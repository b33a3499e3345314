package oci_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"slipway/internal/engine"
	"slipway/internal/engine/enginetest"
	"slipway/internal/engine/oci"
	"slipway/internal/plan"
)

// ask is a shell command that prints what a TCP port says, and fails when it does not answer soon.
func ask(host string, port int) string {
	return fmt.Sprintf("nc -w 3 %s %d </dev/null", host, port)
}

// retry is a loop around ask: a service listens a moment after it said that it is up.
const retry = "for i in $(seq 100); do %s 2>/dev/null && break; sleep 0.05; done\n"

// say is a shell command that answers each connection to port 7000 with text.
func say(text string) string {
	return fmt.Sprintf("echo up; while :; do echo %s | nc -l -p 7000 || :; done", text)
}

func networkJob(network plan.Network) plan.Job {
	return plan.Job{Network: network, Steps: []plan.Step{
		{Name: "web", Kind: plan.KindExec, Exec: &plan.Exec{Image: enginetest.Image, Aliases: []string{"www", "bad alias"}}},
		{Name: "db", Kind: plan.KindExec, Exec: &plan.Exec{Image: enginetest.Image}},
		{Name: "run all tests", Kind: plan.KindExec, Exec: &plan.Exec{Image: enginetest.Image}},
		{Name: "test", Kind: plan.KindExec, Exec: &plan.Exec{Image: enginetest.Image}},
	}}
}

// TestNames runs two services on one port, which a step finds by their names.
func TestNames(t *testing.T) {
	s := newMachine(t).newSandbox(t, engine.Spec{Job: networkJob(plan.Named)}, nil)
	for _, name := range []string{"web", "db"} {
		_, out := s.start(s.env, script(name, say("I-am-"+name)))
		out.Await(t, "up\n")
	}
	got := s.succeed(s.env, script("run all tests",
		fmt.Sprintf(retry, ask("web", 7000))+fmt.Sprintf(retry, ask("db", 7000))+fmt.Sprintf(retry, ask("www", 7000))+"hostname | grep ^step-; ping -c 1 $(hostname) >/dev/null"))
	lines := strings.Split(got, "\n")
	if len(lines) != 5 || strings.Join(lines[:3], " ") != "I-am-web I-am-db I-am-web" {
		t.Errorf("output %q", got)
	}
}

func TestSharedNetwork(t *testing.T) {
	s := newMachine(t).newSandbox(t, engine.Spec{Job: networkJob(plan.Shared)}, nil)
	_, out := s.start(s.env, script("web", say("hello")))
	out.Await(t, "up\n")
	got := s.succeed(s.env, script("test", fmt.Sprintf(retry, ask("localhost", 7000))+fmt.Sprintf(retry, ask("web", 7000))))
	if got != "hello\nhello\n" {
		t.Errorf("output %q", got)
	}
}

// TestIsolation tries everything that a container must not reach, next to what it must.
func TestIsolation(t *testing.T) {
	m := newMachine(t)
	listener, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	open, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []net.Listener{listener, open} {
		serve(t, l)
	}
	port, openPort := listener.Addr().(*net.TCPAddr).Port, open.Addr().(*net.TCPAddr).Port
	outside := newOutside(t)
	s := m.newSandbox(t, engine.Spec{Job: networkJob(plan.Named)}, func(o *oci.Options) { o.HostPorts = []uint16{uint16(openPort)} })
	_, out := s.start(s.env, script("web", say("neighbour")))
	out.Await(t, "up\n")
	// This machine reaches the containers, which shows that they answer.
	neighbour := net.JoinHostPort(s.env.Address("web"), "7000")
	awaitAnswer(t, neighbour)

	other := s.setup(engine.Spec{Job: networkJob(plan.Named)})
	attempts := map[string]string{
		"this machine by its gateway": ask(other.Gateway(), port),
		"this machine by its address": ask(outside.host, port),
		"this machine's loopback":     ask("127.0.0.1", port),
		"another job's container":     ask(s.env.Address("web"), 7000),
		"another job's gateway":       ask(s.env.Gateway(), port),
	}
	var text strings.Builder
	for what, command := range attempts {
		fmt.Fprintf(&text, "if %s 2>/dev/null; then echo reached %q; fi &\n", command, what)
	}
	fmt.Fprintf(&text, "wait; %s; %s\n", ask(other.Gateway(), openPort), ask(outside.address, outside.port))
	if got, want := s.succeed(other, script("test", text.String())), "hello from here\nyou are "+outside.host+"\n"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// serve answers each connection with a line.
func serve(t *testing.T, l net.Listener) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "hello from here\n")
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
}

func awaitAnswer(t *testing.T, address string) {
	t.Helper()
	for range 1000 {
		if conn, err := net.Dial("tcp4", address); err == nil {
			conn.Close()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s does not answer", address)
}

// outside is a server in a network namespace of its own, which stands for the internet: it knows the way to this
// machine, and not to the containers.
type outside struct {
	address string
	port    int
	host    string // the address that this machine has there
}

func newOutside(t *testing.T) outside {
	t.Helper()
	name := "swt" + enginetest.NewID()[5:13]
	addresses := freeRange(t)
	o := outside{host: addresses[0], address: addresses[1]}
	listening := make(chan net.Listener, 1)
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with its namespace
		l, err := func() (net.Listener, error) {
			host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
			if err != nil {
				return nil, err
			}
			defer host.Close()
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return nil, err
			}
			ns, err := os.Open("/proc/thread-self/ns/net")
			if err != nil {
				return nil, err
			}
			defer ns.Close()
			attrs := netlink.NewLinkAttrs()
			attrs.Name, attrs.Flags = name, net.FlagUp
			if err := host.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns.Fd())}); err != nil {
				return nil, err
			}
			for _, end := range []struct {
				handle        func() (*netlink.Handle, error)
				link, address string
			}{
				{func() (*netlink.Handle, error) { return host, nil }, name, o.host},
				{func() (*netlink.Handle, error) { return netlink.NewHandle(unix.NETLINK_ROUTE) }, "eth0", o.address},
			} {
				h, err := end.handle()
				if err != nil {
					return nil, err
				}
				defer h.Close()
				link, err := h.LinkByName(end.link)
				if err != nil {
					return nil, err
				}
				address, err := netlink.ParseAddr(end.address + "/30")
				if err != nil {
					return nil, err
				}
				if err := h.AddrAdd(link, address); err != nil {
					return nil, err
				}
				if err := h.LinkSetUp(link); err != nil {
					return nil, err
				}
			}
			return net.Listen("tcp4", o.address+":0")
		}()
		if err != nil {
			failed <- err
			return
		}
		listening <- l
	}()
	select {
	case err := <-failed:
		t.Fatal(err)
	case l := <-listening:
		o.port = l.Addr().(*net.TCPAddr).Port
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				from, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
				fmt.Fprintln(conn, "you are", from)
				conn.Close()
			}
		}()
		t.Cleanup(func() {
			l.Close()
			<-done
			if link, err := netlink.LinkByName(name); err == nil {
				_ = netlink.LinkDel(link)
			}
		})
	}
	return o
}

// freeRange returns two addresses of a range for documentation that no interface of the machine has.
func freeRange(t *testing.T) [2]string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	base := netip.MustParseAddr("203.0.113.0")
	for i := range 64 {
		raw := base.As4()
		raw[3] = byte(4 * i)
		p := netip.PrefixFrom(netip.AddrFrom4(raw), 30)
		taken := false
		for _, a := range addrs {
			if other, err := netip.ParsePrefix(a.String()); err == nil && other.Overlaps(p) {
				taken = true
			}
		}
		if !taken {
			first := p.Addr().Next()
			return [2]string{first.String(), first.Next().String()}
		}
	}
	t.Fatal("no free range of addresses")
	return [2]string{}
}

func TestHostNetwork(t *testing.T) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, listener)
	s := newMachine(t).newSandbox(t, engine.Spec{Trusted: true}, nil)
	step := script("a", ask("127.0.0.1", listener.Addr().(*net.TCPAddr).Port))
	step.Exec.HostNetwork = true
	if got := s.succeed(s.env, step); got != "hello from here\n" {
		t.Errorf("output %q", got)
	}
}

func TestEtc(t *testing.T) {
	s := newMachine(t).newSandbox(t, engine.Spec{Trusted: true}, nil)
	step := script("a", "cat /etc/resolv.conf; grep extra /etc/hosts; cat /etc/hostname; echo 127.0.0.9 mine >>/etc/hosts")
	step.Exec.DNS, step.Exec.DNSSearch = []string{"192.0.2.53"}, []string{"example.com", "example.org"}
	step.Exec.ExtraHosts = []string{"extra:192.0.2.7", "broken"}
	got := s.succeed(s.env, step)
	if !strings.HasPrefix(got, "nameserver 192.0.2.53\nsearch example.com example.org\n") || !strings.HasSuffix(got, "192.0.2.7\textra\na\n") {
		t.Errorf("output %q", got)
	}
	if got := s.succeed(s.env, script("b", "cat /etc/hosts")); strings.Contains(got, "mine") {
		t.Errorf("a step changed the hosts of another: %q", got)
	}
	if files, _ := filepath.Glob(filepath.Join(s.env.Workspace(), "*")); len(files) != 0 {
		t.Errorf("the workspace has %q", files)
	}
}
