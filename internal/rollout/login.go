package rollout

import (
	"crypto/x509"
	"fmt"
	"strings"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/probe"
)

// login returns a login with the values of its secrets. Whose it is is for the error.
func (r Request) login(l ci.Login, whose string) (login probe.Login, err error) {
	value := func(from *ci.FromSecret) string {
		if from == nil || err != nil {
			return ""
		}
		text := strings.TrimSpace(r.Secrets[from.Secret])
		if text == "" {
			how := fmt.Sprintf("give it by: --secret %s=FILE", from.Secret)
			if r.Release.Run > 0 {
				how = fmt.Sprintf("set it by: slipway secret set %s %s, for pull requests with --pull-requests", r.Release.Repo, from.Secret)
			}
			err = fault.New(fault.Invalid, "the secret %s, which %s needs, is not there or empty; %s", oneLine(from.Secret), whose, how)
		}
		return text
	}
	login = probe.Login{Token: value(l.Token), Username: l.Username, Password: value(l.Password)}
	if pem := value(l.CA); pem != "" {
		if login.CA = x509.NewCertPool(); !login.CA.AppendCertsFromPEM([]byte(pem)) {
			err = fault.New(fault.Invalid, "the secret %s, which %s needs, has no certificate in PEM", oneLine(l.CA.Secret), whose)
		}
	}
	return login, err
}
