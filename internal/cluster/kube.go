package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// kube makes the few requests that starting and looking at a cluster takes. They are plain HTTP; a whole client would be
// the larger part of this package.
type kube struct {
	server string
	client *http.Client
}

func (l layout) kube(n network) (*kube, error) {
	config, err := l.tlsConfig("ca.crt", "admin")
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		TLSClientConfig: config,
		IdleConnTimeout: time.Second,
		// A packet to a Service that nobody translates yet gets lost, and TCP would wait for a second before it sends the
		// next. On one machine the kernel accepts at once, however busy the server is.
		DialContext: (&net.Dialer{Timeout: 250 * time.Millisecond}).DialContext,
	}
	return &kube{n.server(), &http.Client{Transport: transport}}, nil
}

func (k *kube) close() { k.client.CloseIdleConnections() }

// tlsConfig trusts the authority in the file ca and shows the named certificate. Empty means neither.
func (l layout) tlsConfig(ca, cert string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS13}
	if ca != "" {
		pem, err := os.ReadFile(l.in("pki", ca))
		if err != nil {
			return nil, fmt.Errorf("read the cluster's authority: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", l.in("pki", ca))
		}
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(l.in("pki", cert+".crt"), l.in("pki", cert+".key"))
		if err != nil {
			return nil, fmt.Errorf("read the certificate %s: %w", cert, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 4 << 20

func (k *kube) do(ctx context.Context, method, url, contentType string, body []byte, into any) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := k.client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		var status struct{ Message string }
		_ = json.Unmarshal(b, &status)
		if status.Message == "" {
			status.Message = firstLine(b)
		}
		return fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, status.Message)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(b, into)
}

func (k *kube) get(ctx context.Context, path string, into any) error {
	return k.do(ctx, http.MethodGet, k.server+path, "", nil, into)
}

// getAt asks another address of the API server.
func (k *kube) getAt(ctx context.Context, server, path string) error {
	return k.do(ctx, http.MethodGet, server+path, "", nil, nil)
}

// apply applies an object on the server, at its path.
func (k *kube) apply(ctx context.Context, path, yaml string) error {
	return k.do(ctx, http.MethodPatch, k.server+path+"?fieldManager=slipway-cluster&force=true", "application/apply-patch+yaml", []byte(yaml), nil)
}

// nodeReady reports why the node takes no pods yet, or nil. What the kubelet reported before since doesn't count: it is
// about the kubelet before this one.
func (k *kube) nodeReady(ctx context.Context, since time.Time) error {
	var node struct {
		Spec struct {
			Taints []struct{ Key string }
		}
		Status struct {
			Conditions []struct {
				Type, Status, Message string
				LastHeartbeatTime     time.Time
			}
		}
	}
	if err := k.get(ctx, "/api/v1/nodes/"+nodeName, &node); err != nil {
		return err
	}
	ready := errors.New("the kubelet has not reported yet")
	for _, c := range node.Status.Conditions {
		if c.Type == "Ready" && !c.LastHeartbeatTime.Before(since.Truncate(time.Second)) {
			ready = nil
			if c.Status != "True" {
				ready = errors.New("the node is not ready: " + c.Message)
			}
		}
	}
	if ready != nil {
		return ready
	}
	for _, t := range node.Spec.Taints {
		if strings.HasPrefix(t.Key, "node.kubernetes.io/") {
			return errors.New("the node takes no pods: " + t.Key)
		}
	}
	return nil
}

// defaultAccount reports whether pods can be made in the namespace default.
func (k *kube) defaultAccount(ctx context.Context) error {
	return k.get(ctx, "/api/v1/namespaces/default/serviceaccounts/default", nil)
}

// httpProbe asks url, whose host must be an address, from within the cluster's network.
func (l layout) httpProbe(ctx context.Context, url, ca, cert string) error {
	config, err := l.tlsConfig(ca, cert)
	if err != nil {
		return err
	}
	transport := &http.Transport{
		TLSClientConfig:   config,
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
			// A socket belongs to the network that its thread was in when it was made, for good.
			err = l.inNetwork(func() error {
				conn, err = (&net.Dialer{Timeout: time.Second}).DialContext(ctx, network, address)
				return err
			})
			return conn, err
		},
	}
	k := &kube{client: &http.Client{Transport: transport}}
	return k.do(ctx, http.MethodGet, url, "", nil, nil)
}
