package kube

import (
	"net/http"

	utilnet "k8s.io/apimachinery/pkg/util/net"
)

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

func wrapTransport(rt http.RoundTripper) http.RoundTripper { return transport{rt} }

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
