package ci

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Login is how a request says who sends it, and how it knows whom it asks. What is secret is named, never written.
type Login struct {
	// Token is sent as a bearer token (RFC 6750).
	Token *FromSecret `json:"token,omitempty"`
	// Username and Password are sent by basic authentication (RFC 7617).
	Username string      `json:"username,omitempty"`
	Password *FromSecret `json:"password,omitempty"`
	// CA has the certificates in PEM by which that of the server is verified, in place of those that the machine trusts.
	CA *FromSecret `json:"ca,omitempty"`
}

// FromSecret stands for the value of a secret of the repo.
type FromSecret struct {
	// Secret is its name, whatever its case.
	Secret string `json:"secret"`
}

// secrets returns the names of the secrets of l.
func (l Login) secrets() (names []string) {
	for _, from := range []*FromSecret{l.Token, l.Password, l.CA} {
		if from != nil {
			names = append(names, from.Secret)
		}
	}
	return names
}

// CheckFor reports the first thing that is wrong with a login at a URL.
func (l Login) CheckFor(url string) error {
	switch names := l.secrets(); {
	case l == Login{}:
		return nil
	case slices.ContainsFunc(names, func(name string) bool { return name == "" || len(name) > 250 }):
		return errors.New("token, password and ca must name a secret")
	case strings.HasPrefix(url, "/"):
		return errors.New("a path is asked by way of the API server, so it has no login and no ca; give the check a whole url")
	case (l.Username == "") != (l.Password == nil):
		return errors.New("username and password need each other")
	case l.Token != nil && l.Password != nil:
		return errors.New("a login is a token, or a username and a password, not both")
	case strings.ContainsAny(l.Username, ":\r\n") || len(l.Username) > 250:
		return fmt.Errorf("%.50q cannot be a username", l.Username)
	case l.CA != nil && !strings.HasPrefix(url, "https://"):
		return errors.New("a ca is for a url that begins with https://")
	}
	return nil
}

// Secrets returns the names of the secrets that p mentions, sorted, each once.
func (p Policy) Secrets() []string {
	var names []string
	if p.Probe != nil {
		names = p.Probe.secrets()
	}
	if p.Strategy != nil {
		for _, c := range p.Strategy.AllChecks() {
			names = append(names, c.secrets()...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
