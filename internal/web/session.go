package web

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"

	"slipway/internal/auth"
	"slipway/internal/fault"
)

// A session is a cookie with a token in it, sealed with the server's key: nothing is kept for it here, it outlives a
// restart, and who gets hold of the cookie has a session of this server until it ends, not a token for git, the registry
// and the API. The token is looked up on every request, so that removing it ends its sessions at once.
const (
	sessionTime = 30 * 24 * time.Hour
	sealedFor   = "web session"
	// maxToken bounds what the form takes, in bytes.
	maxToken = 1 << 10
)

type session struct {
	Token string    `json:"token"`
	Until time.Time `json:"until"`
}

// cookieName has a prefix that makes browsers insist on https and this very host (RFC 6265bis, section 4.1.3.2).
func (p *pages) cookieName() string {
	if p.secure {
		return "__Host-slipway"
	}
	return "slipway"
}

// who returns who asks; a stranger, and who has a session that is over, is nobody.
func (p *pages) who(r *http.Request) (auth.Principal, error) {
	cookie, err := r.Cookie(p.cookieName())
	if err != nil {
		return auth.Principal{}, nil
	}
	sealed, err := base64.RawURLEncoding.DecodeString(cookie.Value)
	if err != nil {
		return auth.Principal{}, nil
	}
	text, err := p.Flow.Keys.Open(sealed, sealedFor)
	if err != nil {
		return auth.Principal{}, nil
	}
	var s session
	if err := json.Unmarshal(text, &s); err != nil || !p.Flow.Now().Before(s.Until) {
		return auth.Principal{}, nil
	}
	who, err := p.Auth.Find(r.Context(), s.Token)
	if err != nil && fault.Of(err).Code == fault.Unauthorized {
		return auth.Principal{}, nil
	}
	return who, err
}

// loginView is the page to log in.
type loginView struct {
	Next  string
	Error string
}

func (p *pages) loginForm(w http.ResponseWriter, r *http.Request) error {
	return p.render(w, r, http.StatusOK, "login", "Log in", "", loginView{Next: local(r.URL.Query().Get("next"))})
}

func (p *pages) login(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	if err := r.ParseForm(); err != nil {
		return fault.New(fault.Invalid, "the form cannot be read: %w", err)
	}
	token := strings.TrimSpace(r.PostForm.Get("token"))
	view := loginView{Next: local(r.PostForm.Get("next"))}
	if token == "" || len(token) > maxToken {
		view.Error = "this is not a token; it begins with slw_"
		return p.render(w, r, http.StatusUnauthorized, "login", "Log in", "", view)
	}
	if _, err := p.Auth.Find(r.Context(), token); err != nil {
		found := fault.Of(err)
		if found.Code != fault.Unauthorized {
			return err
		}
		view.Error = found.Message
		return p.render(w, r, http.StatusUnauthorized, "login", "Log in", "", view)
	}
	text, err := json.Marshal(session{Token: token, Until: p.Flow.Now().Add(sessionTime)})
	if err != nil {
		return err
	}
	sealed, err := p.Flow.Keys.Seal(text, sealedFor)
	if err != nil {
		return err
	}
	p.setCookie(w, base64.RawURLEncoding.EncodeToString(sealed), int(sessionTime/time.Second))
	http.Redirect(w, r, view.Next, http.StatusSeeOther)
	return nil
}

func (p *pages) logout(w http.ResponseWriter, r *http.Request) error {
	p.setCookie(w, "", -1)
	http.Redirect(w, r, "/", http.StatusSeeOther)
	return nil
}

func (p *pages) setCookie(w http.ResponseWriter, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{
		Name: p.cookieName(), Value: value, Path: "/", MaxAge: maxAge,
		HttpOnly: true, Secure: p.secure, SameSite: http.SameSiteLaxMode,
	})
}

// local returns address if it is a page of this server, else the first page: a login must not lead elsewhere.
func local(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "" || u.Host != "" || u.Opaque != "" || !strings.HasPrefix(address, "/") ||
		strings.HasPrefix(address, "//") || strings.ContainsAny(address, "\\\t\r\n") {
		return "/"
	}
	return address
}
