package probe

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"
)

// Validate says what is wrong with a URL. A probe is part of a pipeline, which is not trusted: its requests must not reach what
// only the machine that sends them may reach. So they are plain GETs by http or https, with no login but one of the repo's own
// secrets and not through a proxy, and each connection is checked when its address is known: never link-local addresses, among
// them those of clouds' metadata, and those of the machine itself only if [Options].Local allows it.
func Validate(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return errors.New("is not a URL")
	case u.Scheme != "http" && u.Scheme != "https":
		return errors.New("must begin with http:// or https://")
	case u.Hostname() == "":
		return errors.New("names no host")
	case u.User != nil:
		return errors.New("must not have a login, because it is part of logs and records")
	case len(text) > 2000:
		return errors.New("is longer than 2000 bytes")
	}
	return nil
}

// metadata are addresses at which clouds tell the machine, and only it, its credentials. Most others are link-local.
var metadata = []netip.Addr{
	netip.MustParseAddr("fd00:ec2::254"),   // AWS
	netip.MustParseAddr("fd20:ce::254"),    // Google
	netip.MustParseAddr("100.100.100.200"), // Alibaba
	netip.MustParseAddr("168.63.129.16"),   // Azure
	netip.MustParseAddr("192.0.0.192"),     // Oracle
}

// nat64 is where networks without IPv4 have all of its addresses (RFC 6052).
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

// errAddress is the error of an address that requests must not go to.
var errAddress = errors.New("requests may not go to this address")

// permit returns an error if no request may go to an address.
func permit(a netip.Addr, local bool) error {
	a = a.Unmap().WithZone("")
	if nat64.Contains(a) {
		all := a.As16()
		a = netip.AddrFrom4([4]byte(all[12:]))
	}
	forbidden := a.IsLinkLocalUnicast() || a.IsMulticast() || a.IsUnspecified() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255})
	for _, m := range metadata {
		forbidden = forbidden || a == m
	}
	switch {
	case forbidden:
		return fmt.Errorf("%w: %s is link-local, or that of a cloud's metadata", errAddress, a)
	case a.IsLoopback() && !local:
		return fmt.Errorf("%w: %s is the runner's own machine, which only trusted repos may ask", errAddress, a)
	}
	return nil
}

// Login is how requests say who sends them, and how they know whom they ask. Its zero value says nothing, and knows by the
// certificates that the machine trusts.
type Login struct {
	// Token is sent as a bearer token; without it, Username and Password by basic authentication.
	Token              string
	Username, Password string
	// CA has the certificates by which the server's is verified; nil means those that the machine trusts.
	CA *x509.CertPool
}

// loggedIn sends requests with a login.
type loggedIn struct {
	*http.Transport
	login Login
}

// RoundTrip implements [http.RoundTripper].
func (t *loggedIn) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	if t.login.Token != "" {
		req.Header.Set("Authorization", "Bearer "+t.login.Token)
	} else {
		req.SetBasicAuth(t.login.Username, t.login.Password)
	}
	return t.Transport.RoundTrip(req)
}

// Client returns a client for single requests, which may go where those of a probe may go: see [Validate]. Each has a connection of its
// own, and an answer that leads elsewhere is the answer.
func Client(timeout time.Duration, login Login, local bool) *http.Client {
	return Options{Timeout: timeout, Login: login, Local: local}.client(false)
}

// client returns a client that keeps one connection, or none.
func (o Options) client(keep bool) *http.Client {
	dialer := &net.Dialer{
		Timeout: o.Timeout * 4 / 5, // before the request's own, so that it is known that nobody took the connection
		Control: func(_, address string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			return permit(to.Addr(), o.Local)
		},
	}
	direct := &http.Transport{
		DialContext: dialer.DialContext, DisableKeepAlives: !keep, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute,
		DisableCompression: true, TLSHandshakeTimeout: o.Timeout,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.Login.CA},
	}
	var transport http.RoundTripper = direct
	if o.Login.Token != "" || o.Login.Username != "" {
		transport = &loggedIn{direct, o.Login}
	}
	return &http.Client{
		Timeout:       o.Timeout,
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// statusError is an answer with a status that is not good.
type statusError int

func (s statusError) Error() string { return fmt.Sprintf("status %d", int(s)) }

// unreachable reports whether err means that nobody was there, rather than that somebody gave no good answer.
func unreachable(err error) bool {
	var op *net.OpError
	return errors.Is(err, errAddress) || errors.As(err, &op) && op.Op == "dial"
}

// describe says in few words why a request got no good answer, the same for all that failed alike.
func describe(err error, timeout time.Duration) string {
	var status statusError
	var dns *net.DNSError
	var slow net.Error
	switch {
	case errors.As(err, &status):
		return status.Error()
	case errors.Is(err, errAddress):
		var op *net.OpError
		if errors.As(err, &op) {
			return op.Err.Error()
		}
		return errAddress.Error()
	case errors.As(err, &dns) && dns.IsNotFound:
		return "no such host"
	case errors.As(err, &slow) && slow.Timeout() && unreachable(err):
		return "nobody takes the connection"
	case errors.As(err, &slow) && slow.Timeout():
		return fmt.Sprintf("no answer within %s", timeout)
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection reset"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "no route to the host"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "connection closed in place of an answer"
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return strings.Join(strings.Fields(err.Error()), " ")
}
