package buildkit

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/distribution/reference"

	"slipway/internal/engine"
)

// Mirror is a registry that is asked for images of another one first. What it does not have, or while it does not
// answer, comes from the registry itself.
type Mirror struct {
	// URL is scheme://host[:port][/prefix]. The image docker.io/library/busybox is asked for at
	// scheme://host/v2/prefix/library/busybox?ns=docker.io.
	URL string
	// Username and Password are for the mirror's host; empty means none. Every pull and every build that brings no login
	// of its own for that host uses them, so they should read what is everybody's, and nothing else.
	Username, Password string
}

// registries knows how each registry is reached.
type registries struct {
	client   *http.Client
	insecure []string

	mu      sync.RWMutex
	mirrors map[string][]docker.RegistryHost
	logins  []engine.Auth // of the mirrors
}

func newRegistries(mirrors map[string][]Mirror, insecure []string) (*registries, error) {
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		MaxIdleConns:          30,
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       time.Minute,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: resolveTime,
	}
	r := &registries{client: &http.Client{Transport: transport}, insecure: insecure}
	return r, r.setMirrors(mirrors)
}

// setMirrors replaces the mirrors of all registries. After an error they are as before.
func (r *registries) setMirrors(mirrors map[string][]Mirror) error {
	hosts := map[string][]docker.RegistryHost{}
	var logins []engine.Auth
	for host, list := range mirrors {
		for _, m := range list {
			u, err := url.Parse(m.URL)
			if err != nil || u.Host == "" || u.User != nil || (u.Scheme != "http" && u.Scheme != "https") {
				return fmt.Errorf("mirror of %s: the URL must be http(s)://host[/prefix] without credentials", host)
			}
			host := CanonicalHost(host)
			hosts[host] = append(hosts[host], docker.RegistryHost{
				Client: r.client, Host: u.Host, Scheme: u.Scheme, Path: path.Join("/v2", u.Path),
				Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve,
			})
			login := engine.Auth{Host: u.Host, Username: m.Username, Password: m.Password}
			if (m.Username != "" || m.Password != "") && !slices.Contains(logins, login) {
				logins = append(logins, login)
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mirrors, r.logins = hosts, logins
	return nil
}

// hosts is a [docker.RegistryHosts] without credentials.
func (r *registries) hosts(domain string) ([]docker.RegistryHost, error) {
	host := domain
	if host == "docker.io" {
		host = "registry-1.docker.io"
	}
	scheme := "https"
	if local, _ := docker.MatchLocalhost(host); local || slices.Contains(r.insecure, domain) {
		scheme = "http"
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	return append(slices.Clone(r.mirrors[domain]), docker.RegistryHost{
		Client: r.client, Host: host, Scheme: scheme, Path: "/v2",
		Capabilities: docker.HostCapabilityPull | docker.HostCapabilityResolve | docker.HostCapabilityPush,
	}), nil
}

// withLogins is [registries.hosts] with credentials, which a resolver of one call uses.
func (r *registries) withLogins(auths []engine.Auth) docker.RegistryHosts {
	authorizer := docker.NewDockerAuthorizer(
		docker.WithAuthClient(r.client),
		docker.WithAuthCreds(func(host string) (string, string, error) {
			login := r.login(auths, host)
			return login.Username, login.Password, nil
		}),
	)
	return func(domain string) ([]docker.RegistryHost, error) {
		hosts, err := r.hosts(domain)
		for i := range hosts {
			hosts[i].Authorizer = authorizer
		}
		return hosts, err
	}
}

// login returns the credentials for host, or none. Those of a call go before those of a mirror.
func (r *registries) login(auths []engine.Auth, host string) engine.Auth {
	host = CanonicalHost(host)
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, a := range slices.Concat(auths, r.logins) {
		if CanonicalHost(a.Host) == host {
			return a
		}
	}
	return engine.Auth{}
}

// CanonicalHost returns the name that image references have for a registry's host: all of Docker Hub's names, and the
// URLs that Docker configurations hold for it, are docker.io.
func CanonicalHost(host string) string {
	host = strings.TrimPrefix(strings.TrimPrefix(host, "https://"), "http://")
	host, _, _ = strings.Cut(host, "/")
	switch host = strings.ToLower(host); host {
	case "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com", "auth.docker.io":
		return "docker.io"
	}
	return host
}

// parseReference reads a reference as people write it: busybox is docker.io/library/busybox:latest.
func parseReference(ref string) (reference.Named, error) {
	named, err := reference.ParseNormalizedNamed(strings.TrimSpace(ref))
	if err != nil {
		return nil, fmt.Errorf("%q is not an image reference: %w", ref, err)
	}
	return reference.TagNameOnly(named), nil
}
