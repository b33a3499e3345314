package probe

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// serve answers with the status that is set, and counts connections.
func serve(t *testing.T) (url string, status *atomic.Int64, connections func() int) {
	t.Helper()
	status = &atomic.Int64{}
	status.Store(http.StatusOK)
	var mu sync.Mutex
	seen := map[string]bool{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen[r.RemoteAddr] = true
		mu.Unlock()
		w.Header().Set("Location", "http://127.0.0.1:1/")
		w.WriteHeader(int(status.Load()))
		fmt.Fprintln(w, "hello")
	}))
	t.Cleanup(server.Close)
	return server.URL, status, func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(seen)
	}
}

// until waits for a condition of the result.
func until(t *testing.T, p *Probe, what string, ok func(Result) bool) Result {
	t.Helper()
	for {
		r := p.Result()
		if ok(r) {
			return r
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("never: %s: %+v", what, r)
		case <-time.After(time.Millisecond):
		}
	}
}

func TestNoneLost(t *testing.T) {
	url, status, connections := serve(t)
	status.Store(http.StatusFound) // a good answer, which is not followed
	p := Start(t.Context(), Options{URL: url, Rate: 500, Local: true})
	until(t, p, "enough are sent", func(r Result) bool { return r.Sent >= 60 })
	r := p.Stop()
	if r.Lost != 0 || r.Sent != r.Fresh.Sent+r.Kept.Sent || r.Fresh.Sent < 20 || r.Kept.Sent < 20 || !r.Answered || r.String() != fmt.Sprintf("%d requests, none lost", r.Sent) {
		t.Errorf("the result is %+v", r)
	}
	// Each fresh request has a connection of its own; kept ones share a few, but for those that come while one is in use.
	if n := int64(connections()); n < r.Fresh.Sent || n >= r.Sent {
		t.Errorf("%d connections for %+v", n, r)
	}
	if again := p.Stop(); again.Sent != r.Sent {
		t.Errorf("stopped again: %+v", again)
	}
}

func TestLost(t *testing.T) {
	url, status, _ := serve(t)
	p := Start(t.Context(), Options{URL: url, Rate: 500, Local: true, Allowed: 3})
	<-p.Answered()
	if r := p.Result(); r.Lost > 0 {
		t.Errorf("lost before anything is wrong: %+v", r)
	}
	status.Store(http.StatusServiceUnavailable)
	<-p.Exceeded()
	r := p.Stop()
	if r.Lost < 4 || len(r.Causes) != 1 || r.Causes[0].Text != "status 503" || r.Causes[0].Count != r.Lost || r.Causes[0].First <= 0 || r.Last != "status 503" {
		t.Errorf("the result is %+v", r)
	}
	if want := fmt.Sprintf("%d of %d requests lost: %d × status 503 (the first after ", r.Lost, r.Sent, r.Lost); !strings.HasPrefix(r.String(), want) {
		t.Errorf("it says %q, want %q", r, want)
	}
}

func TestFromFirst(t *testing.T) {
	url, status, _ := serve(t)
	status.Store(http.StatusBadGateway)
	p := Start(t.Context(), Options{URL: url, Rate: 500, Local: true, FromFirst: true})
	if r := until(t, p, "a bad answer", func(r Result) bool { return r.Last != "" }); r.Sent != 0 || r.Lost != 0 || r.Last != "status 502" {
		t.Errorf("the result is %+v", r)
	}
	status.Store(http.StatusOK)
	until(t, p, "counted", func(r Result) bool { return r.Sent > 0 })
	status.Store(http.StatusBadGateway)
	<-p.Exceeded()
	p.Stop()
}

// TestFromFirstEarly has a request that was sent before anybody served, and comes to nothing long after.
func TestFromFirstEarly(t *testing.T) {
	var asked atomic.Int64
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) == 1 {
			<-release
			w.WriteHeader(http.StatusBadGateway)
		}
	}))
	t.Cleanup(server.Close)
	p := Start(t.Context(), Options{URL: server.URL, Rate: 500, Local: true, FromFirst: true, Timeout: time.Minute})
	until(t, p, "counted", func(r Result) bool { return r.Sent > 0 })
	close(release)
	if r := p.Stop(); r.Lost != 0 || r.Last != "status 502" {
		t.Errorf("the result is %+v", r)
	}
}

func TestCheck(t *testing.T) {
	url, status, _ := serve(t)
	refused, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	closed := "http://" + refused.Addr().String()
	refused.Close()
	for _, c := range []struct {
		name        string
		options     Options
		status      int64
		want        string
		unreachable bool
	}{
		{name: "good", options: Options{URL: url}, status: 204},
		{name: "the status that is wanted", options: Options{URL: url, Status: 401}, status: 401},
		{name: "another", options: Options{URL: url, Status: 204}, status: 200, want: "status 200"},
		{name: "bad", options: Options{URL: url}, status: 500, want: "status 500"},
		{name: "refused", options: Options{URL: closed}, want: "connection refused", unreachable: true},
		{name: "silent", options: Options{URL: "http://" + silent.Addr().String(), Timeout: 50 * time.Millisecond}, want: "no answer within 50ms"},
		{name: "not HTTP", options: Options{URL: strings.Replace(url, "http:", "https:", 1)}, want: "http: server gave HTTP response to HTTPS client"},
		{name: "metadata", options: Options{URL: "http://169.254.169.254/latest"}, want: "link-local", unreachable: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			status.Store(max(c.status, 200))
			c.options.Local = true
			err := Check(t.Context(), c.options)
			if c.want == "" {
				if err != nil {
					t.Errorf("got %v", err)
				}
				return
			}
			var f *Failure
			if !errors.As(err, &f) || !strings.Contains(f.Text, c.want) || f.Unreachable != c.unreachable {
				t.Errorf("got %#v, want %q", f, c.want)
			}
		})
	}
	if err := Check(t.Context(), Options{URL: url}); err == nil || !strings.Contains(err.Error(), "127.0.0.1 is the runner's own machine") {
		t.Errorf("this machine is asked: %v", err)
	}
	// A name says nothing about where it leads: the address is looked at when it is known.
	named := strings.Replace(url, "127.0.0.1", "localhost", 1)
	if err := Check(t.Context(), Options{URL: named}); err == nil || !strings.Contains(err.Error(), "is the runner's own machine") {
		t.Errorf("this machine is asked by name: %v", err)
	}
}

func TestPermit(t *testing.T) {
	for address, want := range map[string]string{
		"10.0.0.1": "", "192.168.1.1": "", "172.16.0.1": "", "8.8.8.8": "", "fd00::1": "", "2001:db8::1": "",
		"127.0.0.1": "local", "127.8.8.8": "local", "::1": "local", "::ffff:127.0.0.1": "local",
		"169.254.169.254": "never", "::ffff:169.254.169.254": "never", "fe80::1%eth0": "never", "224.0.0.1": "never", "ff02::1": "never",
		"0.0.0.0": "never", "::": "never", "64:ff9b::169.254.169.254": "never", "fd00:ec2::254": "never", "100.100.100.200": "never", "168.63.129.16": "never", "192.0.0.192": "never",
		"255.255.255.255": "never",
	} {
		a := netip.MustParseAddr(address)
		stranger, local := permit(a, false) == nil, permit(a, true) == nil
		got := map[[2]bool]string{{true, true}: "", {false, true}: "local", {false, false}: "never"}[[2]bool{stranger, local}]
		if got != want {
			t.Errorf("%s is %q, want %q", address, got, want)
		}
	}
}

func TestValidate(t *testing.T) {
	for url, want := range map[string]string{
		"http://shop.example.com":             "",
		"https://10.0.0.1:8443/a?b=c":         "",
		"http://[fd00::1]/":                   "",
		"shop.example.com":                    "must begin with",
		"file:///etc/passwd":                  "must begin with",
		"unix:///run/docker.sock":             "must begin with",
		"http:///path":                        "names no host",
		"http://ann:secret@example.com":       "must not have a login",
		"http://a\nb":                         "is not a URL",
		"http://" + strings.Repeat("a", 3000): "is longer",
	} {
		err := Validate(url)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q gives %v, want %q", url, err, want)
		}
	}
}
