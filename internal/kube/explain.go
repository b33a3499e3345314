package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"syscall"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"slipway/internal/fault"
)

// Explain returns err as a [fault.Error] with one sentence for people, if it is about the way to the API server or
// about what the account may do. Any other error comes back as it is.
func (c *Client) Explain(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	var known *fault.Error
	if errors.As(err, &known) {
		return err
	}
	if f := c.explainTLS(err); f != nil {
		return f
	}
	switch {
	case apierrors.IsUnauthorized(err):
		if end, ok := c.expired(time.Now()); ok {
			return c.fault(fault.Unauthorized, err, "the client certificate in the kubeconfig expired on %s; get a new kubeconfig", end.UTC().Format("2006-01-02 15:04 MST"))
		}
		return c.fault(fault.Unauthorized, err, "the Kubernetes API at %s does not accept the credentials in the kubeconfig; they may have expired or been revoked, so get new ones", c.host())
	case apierrors.IsForbidden(err):
		if sentence, ok := forbidden(err.Error()); ok {
			return c.fault(fault.Forbidden, err, "%s", sentence)
		}
	}
	if Unreachable(err) {
		return c.fault(fault.Unavailable, err, "the Kubernetes API at %s cannot be reached: %s; is the address right, is the cluster up, and may this machine connect to it?", c.host(), cause(err))
	}
	return err
}

func (c *Client) fault(code fault.Code, err error, format string, args ...any) error {
	return &fault.Error{Code: code, Message: fmt.Sprintf(format, args...), Err: err}
}

// Unreachable reports whether err means that the API server did not answer, so that the same request may succeed later.
func Unreachable(err error) bool {
	var netErr net.Error
	var status apierrors.APIStatus
	switch {
	case err == nil, errors.Is(err, context.Canceled):
		return false
	case errors.As(err, &status):
		// A server that starts or stops, or a proxy before it.
		return apierrors.IsServiceUnavailable(err) || apierrors.IsServerTimeout(err) || apierrors.IsTimeout(err) ||
			apierrors.IsTooManyRequests(err) || status.Status().Code == 502
	case errors.As(err, &netErr), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNREFUSED):
		return true
	}
	// The HTTP/2 client has no exported errors for a connection that was lost.
	return strings.Contains(err.Error(), "http2: ")
}

// cause says in few words why a server cannot be reached.
func cause(err error) string {
	var dns *net.DNSError
	var status apierrors.APIStatus
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return "there is no host of that name"
	case errors.As(err, &dns):
		return "the name server does not answer"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there (connection refused)"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "there is no route to it"
	case errors.As(err, &status):
		return "it answers " + strings.TrimSpace(status.Status().Message)
	case isTimeout(err):
		return "it does not answer in time"
	}
	return "the connection broke (" + innermost(err).Error() + ")"
}

func isTimeout(err error) bool {
	var netErr net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &netErr) && netErr.Timeout()
}

func innermost(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return err
		}
		err = inner
	}
}

// explainTLS returns a fault if err is about certificates, else nil.
func (c *Client) explainTLS(err error) error {
	var (
		unknown  x509.UnknownAuthorityError
		invalid  x509.CertificateInvalidError
		hostname x509.HostnameError
		record   tls.RecordHeaderError
		alert    tls.AlertError
	)
	switch {
	case errors.As(err, &unknown):
		return c.fault(fault.Unavailable, err, "the certificate of the Kubernetes API at %s is not signed by the authority in the kubeconfig; check certificate-authority-data", c.host())
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return c.fault(fault.Unavailable, err, "the certificate of the Kubernetes API at %s is valid from %s to %s, and not now; the cluster's certificates have to be renewed, or this machine's clock is wrong",
			c.host(), invalid.Cert.NotBefore.UTC().Format(time.DateOnly), invalid.Cert.NotAfter.UTC().Format(time.DateOnly))
	case errors.As(err, &invalid):
		return c.fault(fault.Unavailable, err, "the certificate of the Kubernetes API at %s is not valid: %s", c.host(), invalid.Error())
	case errors.As(err, &hostname):
		return c.fault(fault.Unavailable, err, "the certificate of the Kubernetes API at %s is for other names; use one of the names that it has as server in the kubeconfig", c.host())
	case errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return c.fault(fault.Unavailable, err, "what answers at %s does not speak TLS; is that the Kubernetes API?", c.host())
	case errors.As(err, &alert):
		if end, ok := c.expired(time.Now()); ok {
			return c.fault(fault.Unauthorized, err, "the client certificate in the kubeconfig expired on %s; get a new kubeconfig", end.UTC().Format("2006-01-02 15:04 MST"))
		}
		return c.fault(fault.Unauthorized, err, "the Kubernetes API at %s refuses the TLS connection: %s", c.host(), alert.Error())
	}
	return nil
}

// expired reports whether the client's own certificate is over, and since when.
func (c *Client) expired(now time.Time) (time.Time, bool) {
	block, _ := pem.Decode(c.certificate)
	if block == nil {
		return time.Time{}, false
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil || now.Before(certificate.NotAfter) {
		return time.Time{}, false
	}
	return certificate.NotAfter, true
}

// denied matches how Kubernetes' authorisation says no; see responsewriters.Forbidden in k8s.io/apiserver.
var denied = regexp.MustCompile(`User "([^"]*)" cannot (\w+) resource "([^"]*)" in API group "([^"]*)"(?: in the namespace "([^"]*)")?`)

// forbidden returns the sentence for an answer of Kubernetes' authorisation. Admission says "forbidden" as well, of
// other things, in its own words.
func forbidden(message string) (string, bool) {
	m := denied.FindStringSubmatch(message)
	if m == nil {
		return "", false
	}
	account, verb, resource, group, namespace := m[1], m[2], m[3], m[4], m[5]
	if group != "" {
		resource += "." + group
	}
	if namespace == "" {
		return fmt.Sprintf("the account %s may not %s %s in the cluster; a ClusterRole has to allow it", account, verb, resource), true
	}
	return fmt.Sprintf("the account %s may not %s %s in the namespace %s; a Role there has to allow it", account, verb, resource, namespace), true
}
