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
	case Delete:
		scope = "repository:" + repository + ":delete"
	}
	h.challenge(w, r, scope, who.token)
	if who.anonymous {
		return fail(http.StatusUnauthorized, codeUnauthorized, "log in to %s %s", action, what)
	}
	return fail(http.StatusUnauthorized, codeDenied, "the token of %s does not allow to %s %s", who.Subject(), action, what)
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
	h.challenge(w, r, "", false)
	return fail(http.StatusUnauthorized, codeUnauthorized, "%s may not do that any more; log in again", who.Subject())
}

// challenge sets WWW-Authenticate. The token endpoint is on the name that the client came by, so that it reaches it.
func (h *Handler) challenge(w http.ResponseWriter, r *http.Request, scope string, insufficient bool) {
	scheme := "http"
	if r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https") {
		scheme = "https"
	}
	value := fmt.Sprintf("Bearer realm=%q,service=%q", scheme+"://"+safeHost(r.Host)+"/v2/token", h.service)
	if scope != "" {
		value += fmt.Sprintf(",scope=%q", scope)
	}
	if insufficient {
		value += `,error="insufficient_scope"`
	}
	w.Header().Set("WWW-Authenticate", value)
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
