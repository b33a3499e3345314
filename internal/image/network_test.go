package image_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"slipway/internal/buildkit"
	"slipway/internal/buildkit/buildkittest"
	"slipway/internal/image"
	"slipway/internal/testneeds"
)

// What RUN steps reach is tried in a network of the test's own: "this machine" with a server on every address, another
// bridge with a neighbour behind it, and an internet behind the default route.
func TestNetworkOfRunSteps(t *testing.T) {
	testneeds.Root(t)
	testneeds.Tool(t, "runc")
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelperNetwork$", "-test.v")
	cmd.Env = append(os.Environ(), "NETWORK_HELPER=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestHelperNetwork") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestHelperNetwork is no test of its own: TestNetworkOfRunSteps runs it in a new network namespace.
func TestHelperNetwork(t *testing.T) {
	if os.Getenv("NETWORK_HELPER") == "" {
		t.Skip("it is a helper process")
	}
	lo, err := netlink.LinkByName("lo")
	must(t, err)
	must(t, netlink.LinkSetUp(lo))
	elsewhere(t, "uplink", "198.51.100.1/24", "198.51.100.2/24", nil)
	must(t, netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP("198.51.100.2")}))
	other := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "otherbridge"}}
	must(t, netlink.LinkAdd(other))
	must(t, netlink.LinkSetUp(other))
	elsewhere(t, "neighbour", "", "203.0.113.2/24", other)
	addr, err := netlink.ParseAddr("203.0.113.1/24")
	must(t, err)
	must(t, netlink.AddrAdd(other, addr))
	here, err := net.Listen("tcp", ":8077") // on all addresses of "this machine", by IPv4 and IPv6
	must(t, err)
	serve(here, "machine")

	probe := filepath.Join(t.TempDir(), "probe")
	compile := exec.Command("go", "build", "-o", probe, "./testdata/probe")
	compile.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := compile.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	binary, err := os.ReadFile(probe)
	must(t, err)
	reg := buildkittest.NewRegistry(t, "", "")
	reg.Push(t, "probe:1", buildkittest.Image(t, buildkittest.Layer(t, map[string]string{"bin/probe": string(binary)})))
	b := image.NewBuilder(buildkittest.Open(t, buildkit.Options{}))
	run := func(flags string, trusted bool, addrs ...string) string {
		t.Helper()
		dir := workspace(t, "-- Dockerfile --\nFROM "+reg.Host+"/probe:1\nRUN "+flags+` ["probe", "`+strings.Join(addrs, `", "`)+`"]`+"\n")
		_, log := build(t, b, image.Request{Workspace: dir, Repo: reg.Host + "/x", NoCache: true, HostNetwork: trusted})
		return log
	}

	out := []string{
		"gateway", "127.0.0.1:8077", "198.51.100.1:8077", "203.0.113.1:8077", "203.0.113.2:8077", "169.254.169.254:8077",
	}
	bridges, err := netlink.LinkList()
	must(t, err)
	for _, l := range bridges {
		if l.Type() == "bridge" && strings.HasPrefix(l.Attrs().Name, "bk") {
			mac := l.Attrs().HardwareAddr
			out = append(out, fmt.Sprintf("[fe80::%x:%xff:fe%02x:%x%%eth0]:8077",
				uint16(mac[0]^2)<<8|uint16(mac[1]), mac[2], mac[3], uint16(mac[4])<<8|uint16(mac[5])))
		}
	}
	log := run("", false, append(out, "198.51.100.2:8077")...)
	if !strings.Contains(log, "| 198.51.100.2:8077: internet\n") {
		t.Errorf("the internet is out of reach:\n%s", log)
	}
	if n := strings.Count(log, ": nothing\n"); n != len(out) || n != 7 {
		t.Errorf("%d of %d addresses that should be out of reach are:\n%s", n, len(out), log)
	}
	// The same addresses answer to who may reach them: the servers do work.
	log = run("--network=host", true, out[1:6]...)
	for i, want := range []string{"machine", "machine", "machine", "neighbour", "internet"} {
		if !strings.Contains(log, "| "+out[1+i]+": "+want+"\n") {
			t.Errorf("%s is no %s:\n%s", out[1+i], want, log)
		}
	}
	if log := run("--network=none", false, "198.51.100.2:8077"); !strings.Contains(log, "| 198.51.100.2:8077: nothing\n") {
		t.Errorf("network none has one:\n%s", log)
	}
	links, err := netlink.LinkList()
	must(t, err)
	for _, l := range links {
		if l.Type() == "veth" && strings.HasPrefix(l.Attrs().Name, "bk") {
			t.Errorf("interface %s is left", l.Attrs().Name)
		}
	}
}

// elsewhere makes a network namespace with a server, which an interface of that name leads to.
func elsewhere(t *testing.T, name, ours, theirs string, master netlink.Link) {
	t.Helper()
	ready := make(chan error)
	handles := make(chan netns.NsHandle, 1)
	linked := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		ready <- func() error {
			handle, err := netns.New()
			handles <- handle
			if err != nil {
				return err
			}
			<-linked
			for _, addr := range []string{theirs, "169.254.169.254/32"} {
				link, err := netlink.LinkByName("eth0")
				if err != nil {
					return err
				}
				parsed, err := netlink.ParseAddr(addr)
				if err != nil {
					return err
				}
				if err := netlink.AddrAdd(link, parsed); err != nil {
					return err
				}
				if err := netlink.LinkSetUp(link); err != nil {
					return err
				}
			}
			// Answers find back, without any NAT, to whoever is behind the other end.
			gateway, _, err := net.ParseCIDR(theirs)
			if err != nil {
				return err
			}
			gateway = gateway.To4()
			gateway[3] = 1
			if err := netlink.RouteAdd(&netlink.Route{Gw: gateway}); err != nil {
				return err
			}
			l, err := net.Listen("tcp", ":8077")
			if err != nil {
				return err
			}
			text := "internet"
			if master != nil {
				text = "neighbour"
			}
			serve(l, text)
			return nil
		}()
		select {}
	}()
	handle := <-handles
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(int(handle))}
	must(t, netlink.LinkAdd(veth))
	if master != nil {
		must(t, netlink.LinkSetMaster(veth, master))
	}
	if ours != "" {
		addr, err := netlink.ParseAddr(ours)
		must(t, err)
		must(t, netlink.AddrAdd(veth, addr))
	}
	must(t, netlink.LinkSetUp(veth))
	close(linked)
	must(t, <-ready)
}

// serve sends text to whoever connects.
func serve(l net.Listener, text string) {
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, text+"\n")
			conn.Close()
		}
	}()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
