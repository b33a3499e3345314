package remote

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker/auth"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
)

// maxTokens bounds how many tokens are kept.
const maxTokens = 1000

// tokens are Authorization headers by registry and scope, for as long as they are good.
type tokens struct {
	mu  sync.Mutex
	all map[string]token
}

type token struct {
	header  string
	expires time.Time
}

func (t *tokens) find(key string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	found, ok := t.all[key]
	if !ok || time.Now().After(found.expires) {
		return ""
	}
	return found.header
}

func (t *tokens) put(key, header string, life time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all == nil || len(t.all) >= maxTokens {
		t.all = map[string]token{}
	}
	t.all[key] = token{header, time.Now().Add(life)}
}

// drop forgets a token that was refused, unless somebody has put a new one.
func (t *tokens) drop(key, header string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all[key].header == header {
		delete(t.all, key)
	}
}

// authorize follows the challenge of an answer (https://distribution.github.io/distribution/spec/auth/token/).
func (c *Client) authorize(ctx context.Context, host, key, scope string, header http.Header) error {
	username, password, err := c.login(host)
	if err != nil {
		return fmt.Errorf("find the login for %s: %w", host, err)
	}
	refused := &Error{Host: host, Status: http.StatusUnauthorized}
	for _, challenge := range auth.ParseAuthHeader(header) {
		switch challenge.Scheme {
		case auth.BasicAuth:
			if username == "" || password == "" {
				continue
			}
			c.tokens.put(key, "Basic "+base64.StdEncoding.EncodeToString([]byte(username+":"+password)), time.Hour)
			return nil
		case auth.BearerAuth:
			options, err := auth.GenerateTokenOptions(ctx, host, username, password, challenge)
			if err != nil {
				return fmt.Errorf("the token endpoint of %s: %w", host, err)
			}
			realm, err := url.Parse(options.Realm)
			if err != nil || realm.Scheme != "https" && !(realm.Scheme == "http" && c.plain(host, realm)) {
				return fmt.Errorf("the token endpoint of %s, %.200q, is not reached by HTTPS; nothing was sent there", host, options.Realm)
			}
			options.Scopes = []string{scope}
			text, life, err := c.fetchToken(ctx, options)
			if err != nil {
				return tokenError(host, err)
			}
			c.tokens.put(key, "Bearer "+text, life)
			return nil
		}
	}
	return refused
}

// plain reports whether a token for a registry may be asked for by plain HTTP there: of the registry itself, on whatever port,
// if that is spoken to so, or of a host that is by itself.
func (c *Client) plain(host string, realm *url.URL) bool {
	if slices.Contains(c.insecure, realm.Host) {
		return true
	}
	own := url.URL{Host: host}
	return slices.Contains(c.insecure, host) && own.Hostname() == realm.Hostname()
}

// fetchToken gets a token, by GET with Basic credentials, or by a form if there is but an identity token.
func (c *Client) fetchToken(ctx context.Context, o auth.TokenOptions) (text string, life time.Duration, err error) {
	var seconds int
	if o.Username == "" && o.Secret != "" {
		resp, err := auth.FetchTokenWithOAuth(ctx, c.http, nil, "slipway", o)
		if err != nil {
			return "", 0, err
		}
		text, seconds = resp.AccessToken, resp.ExpiresInSeconds
	} else {
		resp, err := auth.FetchToken(ctx, c.http, nil, o)
		if err != nil {
			return "", 0, err
		}
		text, seconds = resp.Token, resp.ExpiresInSeconds
	}
	if seconds <= 0 {
		seconds = 60 // the least that a token is good for, says Docker's specification
	}
	return text, time.Duration(min(seconds, 3600)) * time.Second * 9 / 10, nil
}

// tokenError makes the answer of a token endpoint that of its registry.
func tokenError(host string, err error) error {
	var answer remoteerrors.ErrUnexpectedStatus
	if errors.As(err, &answer) {
		return &Error{Host: host, Status: answer.StatusCode}
	}
	return fmt.Errorf("ask %s for a token: %w", host, redact(err))
}
