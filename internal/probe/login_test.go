package probe

import (
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestLogins sends the requests of a probe with logins, on new and on kept connections.
func TestLogins(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); r.Header.Get("Authorization") != "Bearer key" && user+password != "adakey" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(server.Close)
	own := x509.NewCertPool()
	own.AddCert(server.Certificate())
	for _, c := range []struct {
		login Login
		want  string // why requests are lost
	}{
		{Login{Token: "key", CA: own}, ""},
		{Login{Username: "ada", Password: "key", CA: own}, ""},
		{Login{CA: own}, "status 401"},
		{Login{Token: "key"}, "tls: failed to verify certificate: x509: certificate signed by unknown authority"},
	} {
		p := Start(t.Context(), Options{URL: server.URL, Rate: 500, Login: c.login, Local: true})
		until(t, p, "both kinds are sent", func(r Result) bool { return r.Fresh.Sent > 0 && r.Kept.Sent > keptConnections })
		r := p.Stop()
		if good := c.want == ""; good != (r.Lost == 0) || !good && (r.Lost != r.Sent || r.Causes[0].Text != c.want) {
			t.Errorf("with %+v: %s", c.login, r)
		}
	}
}
