package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Action is something that may be done to a repository.
type Action string

// The actions, as scopes of the Docker token flow name them.
const (
	Pull   Action = "pull"
	Push   Action = "push"
	Delete Action = "delete"
	// Catalog is to list all repositories. It is asked of the repository with the empty name.
	Catalog Action = "catalog"
)

// ErrCredentials is what an [Authority] answers to a name or password that it does not know, or that has expired.
var ErrCredentials = errors.New("unknown user name or token")

// Authority knows who may do what.
type Authority interface {
	// Access returns what the holder of the credentials may do. An empty username with a password is a bare token; both
	// empty is everybody, without credentials. Credentials that are not good, or an anonymous holder who may do nothing,
	// get ErrCredentials; any other error says that the Authority itself failed.
	Access(ctx context.Context, username, password string) (Grants, error)
}

// Grants are what one holder may do.
type Grants interface {
	// Subject names the holder in the histories of tags, such as "octo" or "octo/app run 7".
	Subject() string
	// Allows reports whether the holder may do action to the repository.
	Allows(repository string, action Action) bool
}

// holder is who makes a request.
type holder struct {
	Grants
	// anonymous is true without credentials, token with a token of ours, which has only the scopes that it was asked for.
	anonymous, token bool
	// sealed is who asked for the token.
	sealed string
}

// authenticate finds out who makes the request. It says ErrCredentials if they are not who they say.
func (h *Handler) authenticate(r *http.Request) (holder, error) {
	header := r.Header.Get("Authorization")
	if header == "" {
		grants, err := h.authority.Access(r.Context(), "", "")
		if errors.Is(err, ErrCredentials) {
			grants, err = tokenGrants{}, nil
		}
		return holder{Grants: grants, anonymous: true}, err
	}
	if username, password, ok := r.BasicAuth(); ok {
		grants, err := h.access(r.Context(), username, password)
		return holder{Grants: grants}, err
	}
	scheme, token, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return holder{}, ErrCredentials
	}
	token = strings.TrimSpace(token)
	if claims, ok := h.verify(token); ok {
		return holder{Grants: claims.grants(), anonymous: claims.Subject == "", token: true, sealed: claims.Holder}, nil
	}
	grants, err := h.access(r.Context(), "", token)
	return holder{Grants: grants}, err
}

// access is Authority.Access for credentials that were given: empty ones are not an anonymous holder then.
func (h *Handler) access(ctx context.Context, username, password string) (Grants, error) {
	if password == "" {
		return nil, ErrCredentials
	}
	return h.authority.Access(ctx, username, password)
}

// authorize says whether who may do action to the repository; if not, it sets the challenge that tells a client how to
// get there.
func (h *Handler) authorize(w http.ResponseWriter, r *http.Request, who holder, repository string, action Action) error {
	if who.Allows(repository, action) {
		return h.still(w, r, who, repository, action)
	}
	what := repository
	if action == Catalog {
		what = "the list of repositories"
	}
	if !who.anonymous && !who.token {
		return fail(http.StatusForbidden, codeDenied, "%s may not %s %s", who.Subject(), action, what)
	}
	scope := "registry:catalog:*"
	switch action {
	case Pull:
		scope = "repository:" + repository + ":pull"
	case Push:
		// Clients read before they write.
		scope = "repository:" + repository + ":pull,push"
		if from := r.URL.Query().Get("from"); r.URL.Query().Has("mount") && validName(from) && from != repository {
			scope += " repository:" + from + ":pull" // one token for both ends of a mount
		}
	case Delete:
		scope = "repository:" + repository + ":delete"
	}
	message, code := fmt.Sprintf("the token of %s does not allow to %s %s", who.Subject(), action, what), codeDenied
	if who.anonymous {
		message, code = fmt.Sprintf("log in to %s %s", action, what), codeUnauthorized
	}
	insufficient := ""
	if who.token {
		insufficient = message
	}
	h.challenge(w, r, scope, insufficient)
	return fail(http.StatusUnauthorized, code, "%s", message)
}

// still asks for who shows one of our tokens whether they may do action to this day: a job must not push when it is over, nor
// somebody whose token was removed. Reading goes on until the token ends.
func (h *Handler) still(w http.ResponseWriter, r *http.Request, who holder, repository string, action Action) error {
	if action == Pull || who.sealed == "" {
		return nil
	}
	username, password, err := h.unseal(who.sealed)
	if err != nil {
		return fmt.Errorf("find out who holds a token: %w", err)
	}
	grants, err := h.access(r.Context(), username, password)
	if err == nil && grants.Allows(repository, action) {
		return nil
	}
	if err != nil && !errors.Is(err, ErrCredentials) {
		return err
	}
	h.challenge(w, r, "", "")
	return fail(http.StatusUnauthorized, codeUnauthorized, "%s may not do that any more; log in again", who.Subject())
}

// challenge sets WWW-Authenticate. A message in insufficient says what the client's token does not allow (RFC 6750); Docker
// shows that, and shows nothing of the body if it asked by HEAD.
func (h *Handler) challenge(w http.ResponseWriter, r *http.Request, scope, insufficient string) {
	value := fmt.Sprintf("Bearer realm=%q,service=%q", h.realm(r), h.service)
	if scope != "" {
		value += fmt.Sprintf(",scope=%q", scope)
	}
	if insufficient != "" {
		value += fmt.Sprintf(`,error="insufficient_scope",error_description="%s"`, safeText(insufficient))
	}
	w.Header().Set("WWW-Authenticate", value)
}

// realm is the address of the token endpoint by the name that the client came by, so that it reaches it. What a proxy says
// of that name is believed: who lies leads only themselves astray.
func (h *Handler) realm(r *http.Request) string {
	host := r.Host
	if forwarded := first(r.Header.Get("X-Forwarded-Host")); forwarded != "" {
		host = forwarded
	}
	scheme := "http"
	if r.TLS != nil || strings.EqualFold(first(r.Header.Get("X-Forwarded-Proto")), "https") || strings.EqualFold("https://"+host, h.url) {
		scheme = "https"
	}
	return scheme + "://" + safeHost(host) + "/v2/token"
}

// first returns the first of a list that proxies have added to: the client's.
func first(list string) string {
	one, _, _ := strings.Cut(list, ",")
	return strings.TrimSpace(one)
}

// safeText replaces what a quoted string of a header cannot hold (RFC 6750, section 3).
func safeText(text string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' || c == '"' || c == '\\' {
			return '?'
		}
		return c
	}, text)
}

// safeHost drops what no host has, so that nothing breaks out of a quoted string.
func safeHost(host string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.ContainsRune(".-_:[]", c):
			return c
		}
		return -1
	}, host)
}
