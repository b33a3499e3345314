package kube

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"slipway/internal/fault"
)

// config returns a kubeconfig for server, with the lines that are given in its cluster and its user.
func config(server, cluster, user string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Config
current-context: a
contexts: [{name: a, context: {cluster: a, user: a, namespace: shop}}]
clusters: [{name: a, cluster: {server: %q, %s}}]
users: [{name: a, user: {%s}}]
`, server, cluster, user)
}

// TestUntrusted has kubeconfigs of a secret that reach into the machine.
func TestUntrusted(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("hush"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ content, want string }{
		"exec":               {config("https://a", "", "exec: {apiVersion: client.authentication.k8s.io/v1, command: touch, args: [/tmp/x], interactiveMode: Never}"), "exec (a program"},
		"auth-provider":      {config("https://a", "", "auth-provider: {name: gcp}"), "auth-provider"},
		"tokenFile":          {config("https://a", "", "tokenFile: "+secret), "tokenFile"},
		"client-certificate": {config("https://a", "", "client-certificate: "+secret), "client-certificate-data"},
		"client-key":         {config("https://a", "", "client-key: "+secret), "client-key-data"},
		"authority":          {config("https://a", "certificate-authority: "+secret, "token: x"), "certificate-authority-data"},
		"no YAML":            {"token: hush\n\t- ", "cannot be read"},
		"empty":              {"", "no current context"},
		"wrong context":      {strings.Replace(config("https://a", "", ""), "current-context: a", "current-context: b", 1), "no current context"},
		"no server":          {config("", "", "token: x"), "set server"},
		"large":              {strings.Repeat("#", MaxKubeconfig+1), "larger than 1024 KiB"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := FromKubeconfig([]byte(c.content))
			if f := fault.Of(err); err == nil || f.Code != fault.Invalid || !strings.Contains(f.Message, c.want) {
				t.Errorf("got %v, want that it is invalid for %q", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "hush") {
				t.Errorf("the error has the secret: %v", err)
			}
		})
	}
}

func TestFromKubeconfig(t *testing.T) {
	c, err := FromKubeconfig([]byte(config("https://kube.example.com:6443", "", "token: x")))
	if err != nil {
		t.Fatal(err)
	}
	if c.host() != "kube.example.com:6443" || c.Namespace != "shop" {
		t.Errorf("host %s and namespace %s", c.host(), c.Namespace)
	}
}

func TestFromFileMissing(t *testing.T) {
	_, err := FromFile(filepath.Join(t.TempDir(), "none"), "")
	if f := fault.Of(err); err == nil || f.Code != fault.NotFound {
		t.Errorf("got %v, want that it is not found", err)
	}
}

// ask asks a server for a namespace and returns the explained error.
func ask(t *testing.T, kubeconfig string) error {
	t.Helper()
	c, err := FromKubeconfig([]byte(kubeconfig))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err = c.Core.CoreV1().Namespaces().Get(ctx, "a", metav1.GetOptions{})
	return c.Explain(err)
}

func wantFault(t *testing.T, err error, code fault.Code, parts ...string) {
	t.Helper()
	f := fault.Of(err)
	if err == nil || f.Code != code {
		t.Fatalf("got %v, want code %s", err, code)
	}
	for _, part := range parts {
		if !strings.Contains(f.Message, part) {
			t.Errorf("error %q does not say %q", f.Message, part)
		}
	}
}

func TestExplainConnection(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := ln.Addr().String()
	ln.Close()
	wantFault(t, ask(t, config("https://"+closed, "", "token: x")), fault.Unavailable, closed+" cannot be reached", "connection refused")
	wantFault(t, ask(t, config("https://kube.invalid", "", "token: x")), fault.Unavailable, "kube.invalid cannot be reached")

	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	wantFault(t, ask(t, config(strings.Replace(plain.URL, "http:", "https:", 1), "", "token: x")), fault.Unavailable, "does not speak TLS")

	// A server that hangs up is told at once, not after client-go's ten silent tries.
	hangs, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer hangs.Close()
	tries := make(chan struct{}, 100)
	go func() {
		for {
			conn, err := hangs.Accept()
			if err != nil {
				return
			}
			tries <- struct{}{}
			conn.Close()
		}
	}()
	wantFault(t, ask(t, config("http://"+hangs.Addr().String(), "", "token: x")), fault.Unavailable, "the connection broke")
	if len(tries) >= 10 { // discovery asks more than once by itself
		t.Errorf("%d tries were made in silence", len(tries))
	}
}

func TestExplainAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		code   fault.Code
		want   string
	}{
		"unauthorized": {401, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"Unauthorized","reason":"Unauthorized","code":401}`, fault.Unauthorized, "does not accept the credentials"},
		"forbidden": {
			403, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"namespaces \"a\" is forbidden: User \"bob\" cannot get resource \"namespaces\" in API group \"\" in the namespace \"a\"","reason":"Forbidden","code":403}`,
			fault.Forbidden, "the account bob may not get namespaces in the namespace a; a Role there has to allow it",
		},
		"forbidden in the cluster": {
			403, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"x is forbidden: User \"bob\" cannot create resource \"clusterroles\" in API group \"rbac.authorization.k8s.io\" at the cluster scope","reason":"Forbidden","code":403}`,
			fault.Forbidden, "the account bob may not create clusterroles.rbac.authorization.k8s.io in the cluster; a ClusterRole has to allow it",
		},
		"starting": {503, "no", fault.Unavailable, "cannot be reached"},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(c.status)
				io.WriteString(w, c.body)
			}))
			defer server.Close()
			wantFault(t, ask(t, config(server.URL, "", "token: x")), c.code, c.want)
		})
	}
}

// TestExpired has a server's certificate that is over, and a client's.
func TestExpired(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2021, 1, 1, 0, 0, 0, 0, time.UTC),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	b64 := base64.StdEncoding.EncodeToString

	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	pair, err := tlsPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	server.TLS = pair
	server.StartTLS()
	defer server.Close()
	wantFault(t, ask(t, config(server.URL, "certificate-authority-data: "+b64(certPEM), "token: x")), fault.Unavailable,
		"valid from 2020-01-01 to 2021-01-01, and not now")

	refuses := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }))
	defer refuses.Close()
	wantFault(t, ask(t, config(refuses.URL, "insecure-skip-tls-verify: true", fmt.Sprintf("client-certificate-data: %s, client-key-data: %s", b64(certPEM), b64(keyPEM)))),
		fault.Unauthorized, "the client certificate in the kubeconfig expired on 2021-01-01 00:00 UTC")
}

func TestExplainLeavesAlone(t *testing.T) {
	c := &Client{Host: "https://a"}
	for _, err := range []error{nil, context.Canceled, errors.New("something else"), fault.New(fault.Conflict, "x")} {
		if got := c.Explain(err); !errors.Is(got, err) || (got == nil) != (err == nil) {
			t.Errorf("Explain(%v) is %v", err, got)
		}
	}
}

// FuzzKubeconfig looks for kubeconfigs that are accepted although they reach into the machine.
func FuzzKubeconfig(f *testing.F) {
	f.Add(config("https://a", "certificate-authority: /etc/passwd", "token: x"))
	f.Add(config("https://a", "", "tokenFile: /etc/passwd"))
	f.Add(config("http://a", "proxy-url: 'http://b'", "token: x"))
	f.Fuzz(func(t *testing.T, content string) {
		c, err := FromKubeconfig([]byte(content))
		if err == nil && c.Host == "" {
			t.Error("a client without a server")
		}
	})
}

func tlsPair(certPEM, keyPEM []byte) (*tls.Config, error) {
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	return &tls.Config{Certificates: []tls.Certificate{pair}}, err
}
