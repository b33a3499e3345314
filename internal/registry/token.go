package registry

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"
)

// maxScopes bounds the scopes of one token.
const maxScopes = 64

// tokenHeader is the header of all our tokens. Comparing it whole leaves a forger no algorithm to choose.
var tokenHeader = base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`))

// claims are the payload of a token (RFC 7519; access is Docker's,
// https://distribution.github.io/distribution/spec/auth/jwt/).
type claims struct {
	Issuer   string   `json:"iss"`
	Subject  string   `json:"sub"`
	Audience string   `json:"aud"`
	Expires  int64    `json:"exp"`
	From     int64    `json:"nbf"`
	Issued   int64    `json:"iat"`
	ID       string   `json:"jti"`
	Access   []access `json:"access"`
}

type access struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []Action `json:"actions"`
}

// sign returns c as a token.
func (h *Handler) sign(c claims) (string, error) {
	payload, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	text := tokenHeader + "." + base64.RawURLEncoding.EncodeToString(payload)
	return text + "." + base64.RawURLEncoding.EncodeToString(h.mac(text)), nil
}

// verify reports whether token is one of ours and valid now.
func (h *Handler) verify(token string) (claims, bool) {
	text, signature, ok := cutLastDot(token)
	if !ok {
		return claims{}, false
	}
	header, encoded, _ := strings.Cut(text, ".")
	mac, err := base64.RawURLEncoding.DecodeString(signature)
	if err != nil || header != tokenHeader || !hmac.Equal(mac, h.mac(text)) {
		return claims{}, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return claims{}, false
	}
	var c claims
	if err := json.Unmarshal(payload, &c); err != nil {
		return claims{}, false
	}
	now := h.now().Unix()
	return c, c.Audience == h.service && c.From <= now && now < c.Expires
}

func cutLastDot(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '.')
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}

func (h *Handler) mac(text string) []byte {
	m := hmac.New(sha256.New, h.key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

// tokenGrants are what a token allows. The zero value is nobody, who may do nothing.
type tokenGrants struct {
	subject string
	access  []access
}

func (c claims) grants() tokenGrants { return tokenGrants{c.Subject, c.Access} }

// Subject implements Grants.
func (g tokenGrants) Subject() string { return g.subject }

// Allows implements Grants.
func (g tokenGrants) Allows(repository string, action Action) bool {
	kind := "repository"
	if action == Catalog {
		kind, repository = "registry", "catalog"
	}
	for _, a := range g.access {
		if a.Type == kind && a.Name == repository && slices.Contains(a.Actions, action) {
			return true
		}
	}
	return false
}

// serveToken gives out tokens: GET with Basic credentials (Docker's token flow,
// https://distribution.github.io/distribution/spec/auth/token/) or POST with a form (its OAuth2 variant).
func (h *Handler) serveToken(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Cache-Control", "no-store")
	var username, password string
	var given bool
	var scopes []string
	switch r.Method {
	case http.MethodGet:
		username, password, given = r.BasicAuth()
		given = given || r.Header.Get("Authorization") != ""
		scopes = r.URL.Query()["scope"]
	case http.MethodPost:
		r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
		rc := http.NewResponseController(w)
		setReadDeadline(rc, time.Now().Add(h.stallTime))
		err := r.ParseForm()
		setReadDeadline(rc, time.Time{})
		if err != nil {
			return fail(http.StatusBadRequest, codeUnsupported, "the form of the token request cannot be read: %v", err)
		}
		given = true
		switch grant := r.PostForm.Get("grant_type"); grant {
		case "password":
			username, password = r.PostForm.Get("username"), r.PostForm.Get("password")
		case "refresh_token":
			password = r.PostForm.Get("refresh_token")
		default:
			return fail(http.StatusBadRequest, codeUnsupported, "grant_type must be password or refresh_token, not %.50q", grant)
		}
		scopes = r.PostForm["scope"]
	default:
		w.Header().Set("Allow", "GET, POST")
		return fail(http.StatusMethodNotAllowed, codeUnsupported, "a token is asked for by GET or POST")
	}

	var grants Grants
	var err error
	if given {
		grants, err = h.access(r.Context(), username, password)
	} else {
		grants, err = h.authority.Access(r.Context(), "", "")
	}
	if errors.Is(err, ErrCredentials) {
		w.Header().Set("WWW-Authenticate", `Basic realm="Slipway"`)
		return fail(http.StatusUnauthorized, codeUnauthorized, "unknown user name or token")
	}
	if err != nil {
		return err
	}
	now := h.now()
	c := claims{
		Issuer: h.service, Audience: h.service, ID: rand.Text(),
		Issued: now.Unix(), From: now.Unix(), Expires: now.Add(h.tokenLife).Unix(),
		Access: cutScopes(grants, scopes),
	}
	if given {
		c.Subject = grants.Subject()
	}
	token, err := h.sign(c)
	if err != nil {
		return err
	}
	body, err := json.Marshal(map[string]any{
		"token": token, "access_token": token, "token_type": "Bearer",
		"expires_in": int(h.tokenLife.Seconds()), "issued_at": now.UTC().Format(time.RFC3339),
	})
	if err != nil {
		return err
	}
	h.writeJSON(w, r, http.StatusOK, body)
	return nil
}

// cutScopes returns of what was asked for what grants allow. A scope is <type>:<name>:<actions>, several may stand in
// one parameter; what cannot be read is not allowed, which is all that a client need know.
func cutScopes(grants Grants, params []string) []access {
	allowed := []access{} // an empty list, not null, for clients that read the token
	for _, param := range params {
		for scope := range strings.FieldsSeq(param) {
			if len(allowed) == maxScopes {
				return allowed
			}
			kind, rest, _ := strings.Cut(scope, ":")
			i := strings.LastIndexByte(rest, ':')
			if i < 0 {
				continue
			}
			name, actions := rest[:i], strings.Split(rest[i+1:], ",")
			a := access{Type: kind, Name: name}
			switch {
			case kind == "registry" && name == "catalog":
				if grants.Allows("", Catalog) {
					a.Actions = []Action{Catalog}
				}
			case kind == "repository" && validName(name):
				for _, action := range []Action{Pull, Push, Delete} {
					if (slices.Contains(actions, string(action)) || slices.Contains(actions, "*")) && grants.Allows(name, action) {
						a.Actions = append(a.Actions, action)
					}
				}
			}
			if a.Actions != nil {
				allowed = append(allowed, a)
			}
		}
	}
	return allowed
}
