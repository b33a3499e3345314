package buildkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/cache"

	"slipway/internal/engine"
)

// PullErrorKind says why an image could not be had.
type PullErrorKind int

// The kinds of errors of a pull.
const (
	PullFailed    PullErrorKind = iota // anything else; see Err
	BadReference                       // not a reference
	ImageMissing                       // the registry answers that there is none
	Unauthorized                       // the registry asks for a login, or for a better one
	Unreachable                        // the registry does not answer
	WrongPlatform                      // no variant for this machine
	NotHere                            // policy never, and not on this machine
)

// PullError says in one sentence why an image could not be had and what to do. It never holds a credential.
type PullError struct {
	Ref  string // as it was written
	Kind PullErrorKind
	Host string // the registry's
	// LoggedIn is true if there were credentials for Host.
	LoggedIn bool
	Err      error
}

// Error implements error.
func (e *PullError) Error() string {
	switch e.Kind {
	case BadReference:
		return e.Err.Error()
	case ImageMissing:
		return fmt.Sprintf("image %s does not exist in the registry %s; check its name and tag", e.Ref, e.Host)
	case Unauthorized:
		if e.LoggedIn {
			return fmt.Sprintf("the registry %s refuses image %s to the login it was given; check the username, the password and what they may read", e.Host, e.Ref)
		}
		return fmt.Sprintf("the registry %s refuses image %s without a login, or it does not exist; check its name, or give credentials for %s", e.Host, e.Ref, e.Host)
	case Unreachable:
		return fmt.Sprintf("the registry %s cannot be reached for image %s (%s); check its name and this machine's network, or set a mirror", e.Host, e.Ref, networkReason(e.Err))
	case WrongPlatform:
		has := ""
		var p *platformError
		if errors.As(e.Err, &p) {
			has = ", only for " + p.has
		}
		return fmt.Sprintf("image %s is not made for %s%s; use another image or a runner of its kind", e.Ref, hostPlatform(), has)
	case NotHere:
		return fmt.Sprintf("image %s is not on this machine and its pull policy is never; pull it once or change the policy", e.Ref)
	}
	return fmt.Sprintf("pull image %s from %s: %v", e.Ref, e.Host, e.Err)
}

// Reason says in a few words why a registry is unreachable: connection refused.
func (e *PullError) Reason() string { return networkReason(e.Err) }

// Unwrap returns the cause.
func (e *PullError) Unwrap() error { return e.Err }

type platformError struct{ has string }

func (e *platformError) Error() string { return "the image is for " + e.has }

// NewPullError explains err, which reaching the registry of ref gave: a pull, or a build that reported it as text.
func NewPullError(ref string, err error, auths []engine.Auth) *PullError {
	named, parseErr := parseReference(ref)
	if parseErr != nil {
		return &PullError{Ref: ref, Kind: BadReference, Err: parseErr}
	}
	e := &PullError{Ref: ref, Host: reference.Domain(named), Err: err, Kind: classify(err)}
	for _, a := range auths {
		e.LoggedIn = e.LoggedIn || CanonicalHost(a.Host) == e.Host
	}
	return e
}

// serverError finds the status in what crossed BuildKit's own API.
var serverError = regexp.MustCompile(`unexpected status from [A-Z]+ request to \S+: (5\d\d [A-Za-z ]+)`)

func classify(err error) PullErrorKind {
	var status remoteerrors.ErrUnexpectedStatus
	var platform *platformError
	switch {
	case errors.Is(err, errNotHere):
		return NotHere
	case errors.As(err, &platform):
		return WrongPlatform
	case errors.Is(err, docker.ErrInvalidAuthorization):
		return Unauthorized
	case errors.As(err, &status):
		switch {
		case status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden:
			return Unauthorized
		case status.StatusCode == http.StatusNotFound:
			return ImageMissing
		case status.StatusCode >= 500 || status.StatusCode == http.StatusTooManyRequests:
			return Unreachable
		}
	}
	// Some have no type, and what crossed BuildKit's own API has lost it.
	text := err.Error()
	for _, known := range []struct {
		says string
		kind PullErrorKind
	}{
		{"no match for platform", WrongPlatform},
		{"failed to find supported auth scheme", Unauthorized},
		{"no basic auth credentials", Unauthorized},
		{"authorization failed", Unauthorized},
		{"unauthorized: ", Unauthorized}, // the code of the registry protocol, before the registry's own words
		{"401 Unauthorized", Unauthorized},
		{"403 Forbidden", Unauthorized},
		{"insufficient_scope", Unauthorized},
		{"no such host", Unreachable},
		{"connection refused", Unreachable},
		{"connection reset", Unreachable},
		{"no route to host", Unreachable},
		{"network is unreachable", Unreachable},
		{"i/o timeout", Unreachable},
		{"TLS handshake timeout", Unreachable},
		{"server gave HTTP response to HTTPS client", Unreachable},
	} {
		if strings.Contains(text, known.says) {
			return known.kind
		}
	}
	if serverError.MatchString(text) {
		return Unreachable
	}
	switch {
	case networkError(err):
		return Unreachable
	case errdefs.IsNotFound(err), strings.HasSuffix(text, ": not found"):
		return ImageMissing
	}
	return PullFailed
}

func networkError(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) ||
		errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET)
}

// networkReason says the innermost cause, without URLs.
func networkReason(err error) string {
	var status remoteerrors.ErrUnexpectedStatus
	if errors.As(err, &status) {
		return "it answered " + status.Status
	}
	text := err.Error()
	if m := serverError.FindStringSubmatch(text); m != nil {
		return "it answered " + strings.TrimSpace(m[1])
	}
	if strings.Contains(text, "certificate") {
		return "its certificate is not trusted here"
	}
	for _, known := range []string{
		"no such host", "connection refused", "connection reset", "no route to host", "network is unreachable",
		"server gave HTTP response to HTTPS client",
	} {
		if strings.Contains(text, known) {
			return known
		}
	}
	var netErr net.Error
	if errors.As(err, &netErr) && netErr.Timeout() || strings.Contains(text, "timeout") {
		return "timeout"
	}
	return "connection lost"
}

// retryDelays are the pauses between attempts at a registry that does not answer. Layers have their own retries inside
// BuildKit.
var retryDelays = []time.Duration{500 * time.Millisecond, 2 * time.Second}

func retry[T any](ctx context.Context, try func() (T, error)) (T, error) {
	for _, delay := range retryDelays {
		result, err := try()
		if err == nil || ctx.Err() != nil || !worthRetry(err) {
			return result, err
		}
		select {
		case <-ctx.Done():
			return result, err
		case <-time.After(delay):
		}
	}
	return try()
}

// worthRetry is false where the answer will be the same: a name that does not resolve, a missing image, silence.
func worthRetry(err error) bool {
	var dns *net.DNSError
	if errors.As(err, &dns) && dns.IsNotFound {
		return false
	}
	var netErr net.Error
	if errors.As(err, &netErr) && netErr.Timeout() {
		return false // it took its time already
	}
	var lost cache.NeedsRemoteProviderError // another pull's layer was pruned in between
	return classify(err) == Unreachable || errors.As(err, &lost)
}
