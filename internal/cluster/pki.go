package cluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

const (
	authorityLife = 10 * 365 * 24 * time.Hour
	leafLife      = 3 * 365 * 24 * time.Hour
)

// An authority signs certificates. The cluster has three, as upstream wants it: a client of etcd must not be a client of
// the API server, and the front proxy may name any user.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// A leaf is one certificate that a component needs.
type leaf struct {
	name      string // file name without its ending
	by        string // authority
	user      string // common name
	groups    []string
	serves    []netip.Addr // addresses of a server's certificate; none for a client's
	names     []string     // DNS names of a server's certificate
	clientToo bool         // a server's certificate that is also shown to others
}

// leaves lists every certificate but the authorities.
func leaves(n network) []leaf {
	loopback := netip.MustParseAddr("127.0.0.1")
	return []leaf{
		{name: "etcd", by: "etcd-ca", user: "etcd", serves: []netip.Addr{loopback}, clientToo: true},
		{name: "apiserver-etcd", by: "etcd-ca", user: "kube-apiserver"},
		{name: "front-proxy", by: "front-proxy-ca", user: "front-proxy"},
		{
			name: "apiserver", by: "ca", user: "kube-apiserver",
			serves: []netip.Addr{n.node(), n.api(), loopback},
			names:  []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"},
		},
		{name: "apiserver-kubelet", by: "ca", user: userAPIServer},
		{name: "kubelet-server", by: "ca", user: "system:node:" + nodeName, groups: []string{"system:nodes"}, serves: []netip.Addr{n.node(), loopback}, names: []string{nodeName}},
		{name: "loopback-server", by: "ca", user: "localhost", serves: []netip.Addr{loopback}, names: []string{"localhost"}},
		{name: "admin", by: "ca", user: "admin", groups: []string{"system:masters"}},
		{name: "kubelet", by: "ca", user: "system:node:" + nodeName, groups: []string{"system:nodes"}},
		{name: "controller-manager", by: "ca", user: "system:kube-controller-manager"},
		{name: "scheduler", by: "ca", user: "system:kube-scheduler"},
		{name: "proxy", by: "ca", user: "system:kube-proxy"},
		{name: "dns", by: "ca", user: userDNS},
	}
}

// Users whose rights [bootstrapObjects] grants. Upstream grants those of the others by itself.
const (
	userAPIServer = "slipway:apiserver"
	userDNS       = "slipway:dns"
)

// makePKI writes the certificates of a cluster to dir. The authorities and the key of the service accounts are made
// once and kept, for what they signed must stay valid; all others are made anew, with three years to live.
func makePKI(dir string, n network, now time.Time) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the folder of the certificates: %w", err)
	}
	authorities := map[string]authority{}
	for _, name := range []string{"ca", "etcd-ca", "front-proxy-ca"} {
		a, err := loadOrMakeAuthority(dir, name, now)
		if err != nil {
			return fmt.Errorf("make the certificate authority %s: %w", name, err)
		}
		authorities[name] = a
	}
	for _, l := range leaves(n) {
		if err := authorities[l.by].issue(dir, l, now); err != nil {
			return fmt.Errorf("make the certificate %s: %w", l.name, err)
		}
	}
	path := filepath.Join(dir, "service-account.key")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		key, err := newKey()
		if err != nil {
			return err
		}
		public, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			return err
		}
		if err := writeFile(filepath.Join(dir, "service-account.pub"), encode("PUBLIC KEY", public), 0o600); err != nil {
			return err
		}
		return writeKey(path, key)
	}
	return nil
}

func newKey() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func encode(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func writeKey(path string, key crypto.Signer) error {
	der, err := x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey))
	if err != nil {
		return err
	}
	return writeFile(path, encode("EC PRIVATE KEY", der), 0o600)
}

func serial() (*big.Int, error) { return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)) }

// loadOrMakeAuthority makes an authority anew when half of its life is over, and with it every certificate: the caller
// issues those right after.
func loadOrMakeAuthority(dir, name string, now time.Time) (authority, error) {
	certPath, keyPath := filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	if a, err := loadAuthority(certPath, keyPath); err == nil && now.Before(a.cert.NotAfter.Add(-authorityLife/2)) {
		return a, nil
	}
	key, err := newKey()
	if err != nil {
		return authority{}, err
	}
	number, err := serial()
	if err != nil {
		return authority{}, err
	}
	template := &x509.Certificate{
		SerialNumber:          number,
		Subject:               pkix.Name{CommonName: "slipway cluster " + name},
		NotBefore:             now.Add(-5 * time.Minute), // for clocks that are set back a little
		NotAfter:              now.Add(authorityLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return authority{}, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return authority{}, err
	}
	// The key first: a certificate without its key would be taken for a whole authority's after a crash.
	if err := writeKey(keyPath, key); err != nil {
		return authority{}, err
	}
	return authority{cert, key}, writeFile(certPath, encode("CERTIFICATE", der), 0o644)
}

func loadAuthority(certPath, keyPath string) (authority, error) {
	certPEM, err := os.ReadFile(certPath)
	if err != nil {
		return authority{}, err
	}
	keyPEM, err := os.ReadFile(keyPath)
	if err != nil {
		return authority{}, err
	}
	certBlock, _ := pem.Decode(certPEM)
	keyBlock, _ := pem.Decode(keyPEM)
	if certBlock == nil || keyBlock == nil {
		return authority{}, errors.New("not PEM")
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return authority{}, err
	}
	key, err := x509.ParseECPrivateKey(keyBlock.Bytes)
	if err != nil {
		return authority{}, err
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return authority{}, errors.New("the key is another certificate's")
	}
	return authority{cert, key}, nil
}

func (a authority) issue(dir string, l leaf, now time.Time) error {
	key, err := newKey()
	if err != nil {
		return err
	}
	number, err := serial()
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: number,
		Subject:      pkix.Name{CommonName: l.user, Organization: l.groups},
		NotBefore:    now.Add(-5 * time.Minute),
		NotAfter:     now.Add(leafLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		DNSNames:     l.names,
	}
	for _, ip := range l.serves {
		template.IPAddresses = append(template.IPAddresses, net.IP(ip.AsSlice()))
	}
	if len(l.serves) > 0 {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if len(l.serves) == 0 || l.clientToo {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return err
	}
	if err := writeKey(filepath.Join(dir, l.name+".key"), key); err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, l.name+".crt"), encode("CERTIFICATE", der), 0o644)
}
