package kube

import (
	"context"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
)

// newHTTPClient returns a client for config, and a function that closes its connections. client-go would make one
// too, but keeps each transport with a dialer of its own in a cache that only grows.
func newHTTPClient(config *rest.Config) (*http.Client, func(), error) {
	tlsConfig, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, nil, err
	}
	proxy := config.Proxy
	if proxy == nil {
		proxy = http.ProxyFromEnvironment
	}
	// An address that swallows packets must not hold a deployment up for the usual half a minute.
	open := &connections{dialer: net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}, all: map[net.Conn]bool{}}
	base := utilnet.SetTransportDefaults(&http.Transport{
		Proxy:               proxy,
		TLSClientConfig:     tlsConfig,
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 10,
		IdleConnTimeout:     90 * time.Second,
		DialContext:         open.dial,
	})
	authenticated, err := rest.HTTPWrappersForConfig(config, transport{base})
	if err != nil {
		return nil, nil, err
	}
	return &http.Client{Transport: authenticated}, func() {
		base.CloseIdleConnections()
		open.close()
	}, nil
}

// connections are those that are open. A connection whose request was canceled a moment ago is not idle to the HTTP/2
// transport, which would leave it open for good.
type connections struct {
	dialer net.Dialer
	mu     sync.Mutex
	all    map[net.Conn]bool
}

func (c *connections) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := c.dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	tracked := &connection{Conn: conn, of: c}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all[tracked] = true
	return tracked, nil
}

func (c *connections) close() {
	c.mu.Lock()
	all := slices.Collect(maps.Keys(c.all))
	c.mu.Unlock()
	for _, conn := range all {
		_ = conn.Close()
	}
}

// connection is forgotten when it is closed.
type connection struct {
	net.Conn
	of *connections
}

// Close implements [net.Conn].
func (c *connection) Close() error {
	c.of.mu.Lock()
	delete(c.of.all, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// lostConnection is the error of a connection that broke. It hides its cause from errors.As, because client-go silently
// repeats a request for ten seconds when it finds a reset there, and people should be told at once.
type lostConnection struct{ cause error }

// Error implements error.
func (e *lostConnection) Error() string { return e.cause.Error() }

// Timeout and Temporary make it a [net.Error].
func (e *lostConnection) Timeout() bool   { return false }
func (e *lostConnection) Temporary() bool { return true }

// transport turns the errors of connections that break into [lostConnection].
type transport struct{ http.RoundTripper }

// RoundTrip implements [http.RoundTripper].
func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := t.RoundTripper.RoundTrip(r)
	if err != nil && (utilnet.IsConnectionReset(err) || utilnet.IsProbableEOF(err) || utilnet.IsHTTP2ConnectionLost(err)) {
		return nil, &lostConnection{err}
	}
	return response, err
}

// WrappedRoundTripper lets client-go find the transport inside.
func (t transport) WrappedRoundTripper() http.RoundTripper { return t.RoundTripper }
