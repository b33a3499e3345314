package registry_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"slipway/internal/registry"
)

// token asks for a token as Docker does.
func (s *site) token(user string, scopes ...string) string {
	s.t.Helper()
	auth := "Authorization: "
	if user != "" {
		auth += "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+user+"-password"))
	}
	a := s.want(s.do("GET", "/v2/token?"+url.Values{"service": {"slipway"}, "scope": scopes}.Encode(), nil, auth), 200)
	return s.readToken(a)
}

func (s *site) readToken(a answer) string {
	s.t.Helper()
	var body struct {
		Token       string
		AccessToken string `json:"access_token"`
		ExpiresIn   int    `json:"expires_in"`
	}
	if err := json.Unmarshal(a.body, &body); err != nil || body.Token == "" || body.Token != body.AccessToken || body.ExpiresIn != 300 {
		s.t.Fatalf("token: %v, %s", err, a.body)
	}
	return body.Token
}

// allowed returns the access that a token claims, as scopes.
func allowed(t *testing.T, token string) []string {
	t.Helper()
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Access []struct {
			Type, Name string
			Actions    []string
		}
	}
	if err := json.Unmarshal(payload, &claims); err != nil || claims.Access == nil {
		t.Fatalf("%v in %s", err, payload)
	}
	var scopes []string
	for _, a := range claims.Access {
		scopes = append(scopes, a.Type+":"+a.Name+":"+strings.Join(a.Actions, ","))
	}
	return scopes
}

// TestTokenFlow follows the challenge of a pull and a push as a client does.
func TestTokenFlow(t *testing.T) {
	s := newSite(t)
	a := s.want(s.do("POST", "/v2/octo/app/blobs/uploads/", nil, "Authorization: "), 401, "UNAUTHORIZED")
	s.wantHeader(a, "WWW-Authenticate", `Bearer realm="`+s.URL+`/v2/token",service="slipway",scope="repository:octo/app:pull,push"`)
	pull := s.token("octo", "repository:octo/app:pull")
	a = s.want(s.do("POST", "/v2/octo/app/blobs/uploads/", nil, "Authorization: Bearer "+pull), 401, "DENIED")
	if got := a.Header.Get("WWW-Authenticate"); !strings.HasSuffix(got, `,error="insufficient_scope",error_description="the token of octo does not allow to push octo/app"`) {
		t.Errorf("the challenge is %s", got)
	}
	push := s.token("octo", "repository:octo/app:pull,push")
	s.want(s.do("POST", "/v2/octo/app/blobs/uploads/", nil, "Authorization: Bearer "+push), 202)
	s.want(s.do("GET", "/v2/", nil, "Authorization: Bearer "+push), 200)
	s.want(s.do("DELETE", "/v2/octo/app/manifests/v1", nil, "Authorization: Bearer "+push), 401, "DENIED")
	s.want(s.do("POST", "/v2/other/app/blobs/uploads/", nil, "Authorization: Bearer "+push), 401, "DENIED")
	s.want(s.do("POST", "/v2/octo/app/copy/blobs/uploads/", nil, "Authorization: Bearer "+push), 401, "DENIED")

	// The same at GitLab's address, and by a form.
	a = s.want(s.do("GET", "/jwt/auth?scope=repository:octo/app:push", nil, "Authorization: Basic "+base64.StdEncoding.EncodeToString([]byte("octo:octo-password"))), 200)
	s.want(s.do("POST", "/v2/octo/app/blobs/uploads/", nil, "Authorization: Bearer "+s.readToken(a)), 202)
	for _, form := range []string{"grant_type=password&username=octo&password=octo-password", "grant_type=refresh_token&refresh_token=octo-password"} {
		a = s.want(s.do("POST", "/v2/token", strings.NewReader(form+"&scope=repository:octo/app:push"), "Content-Type: application/x-www-form-urlencoded", "Authorization: "), 200)
		s.want(s.do("POST", "/v2/octo/app/blobs/uploads/", nil, "Authorization: Bearer "+s.readToken(a)), 202)
	}
	s.want(s.do("POST", "/v2/token", strings.NewReader("grant_type=password&username=octo&password=x"), "Content-Type: application/x-www-form-urlencoded"), 401, "UNAUTHORIZED")
	s.want(s.do("POST", "/v2/token", strings.NewReader("grant_type=other"), "Content-Type: application/x-www-form-urlencoded"), 400, "UNSUPPORTED")
	s.want(s.do("PUT", "/v2/token", nil), 405, "UNSUPPORTED")
}

// TestChallengeName has a holder whose name would break out of a header's quoted string.
func TestChallengeName(t *testing.T) {
	s := newSite(t, func(o *registry.Options) {
		o.Authority = people{"odd": {"ödd\"\\, realm=", "odd-password", []string{"pull octo/app"}}}
	})
	a := s.want(s.do("POST", "/v2/octo/app/blobs/uploads/", nil, "Authorization: Bearer "+s.token("odd", "repository:octo/app:pull")), 401, "DENIED")
	if got := a.Header.Get("WWW-Authenticate"); !strings.HasSuffix(got, `,error_description="the token of ?dd??, realm= does not allow to push octo/app"`) {
		t.Errorf("the challenge is %s", got)
	}
}

// TestTokenScopes asks for too much, and gets what the holder may have.
func TestTokenScopes(t *testing.T) {
	s := newSite(t)
	for _, test := range []struct {
		user   string
		scopes []string
		want   []string
	}{
		{"octo", []string{"repository:octo/app:pull,push,delete"}, []string{"repository:octo/app:pull,push,delete"}},
		{"octo", []string{"repository:octo/app:*"}, []string{"repository:octo/app:pull,push,delete"}},
		{"octo", []string{"repository:shared/x:pull,push"}, []string{"repository:shared/x:pull"}},
		{"octo", []string{"repository:other/app:pull,push"}, nil},
		{"octo", []string{"repository:octo/app:push repository:octo/app/x:pull"}, []string{"repository:octo/app:push", "repository:octo/app/x:pull"}},
		{"octo", []string{"registry:catalog:*"}, nil},
		{"admin", []string{"registry:catalog:*"}, []string{"registry:catalog:catalog"}},
		{"octo", []string{"repository:octo/app:catalog,admin,"}, nil},
		{"octo", []string{"", ":", "::", "repository", "repository:octo/app", "other:octo/app:pull", "repository:OCTO/app:pull", "repository:octo/app/../../x:pull"}, nil},
		{"reader", []string{"repository:octo/app:pull,push"}, []string{"repository:octo/app:pull"}},
		{"", []string{"repository:public/x:pull,push", "repository:octo/app:pull"}, []string{"repository:public/x:pull"}},
	} {
		if got := allowed(t, s.token(test.user, test.scopes...)); !slices.Equal(got, test.want) {
			t.Errorf("%s asks for %q: got %q, want %q", test.user, test.scopes, got, test.want)
		}
	}
	many := strings.Repeat("repository:octo/app:pull ", 1000)
	if got := allowed(t, s.token("octo", many)); len(got) > 100 {
		t.Errorf("a token with %d scopes", len(got))
	}
}

// TestTokenForged tries tokens that the registry did not make, or not for now.
func TestTokenForged(t *testing.T) {
	now := time.Date(2026, 2, 3, 12, 0, 0, 0, time.UTC)
	s := newSite(t, func(o *registry.Options) { o.Now = func() time.Time { return now } })
	good := s.token("octo", "repository:octo/app:pull,push")
	try := func(token string) int {
		return s.do("POST", "/v2/octo/app/blobs/uploads/", nil, "Authorization: Bearer "+token).StatusCode
	}
	if got := try(good); got != 202 {
		t.Fatalf("a good token gets %d", got)
	}
	parts := strings.Split(good, ".")
	decode := func(part string) string {
		b, err := base64.RawURLEncoding.DecodeString(part)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	b64 := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	signed := func(text, key string) string {
		m := hmac.New(sha256.New, []byte(key))
		m.Write([]byte(text))
		return text + "." + base64.RawURLEncoding.EncodeToString(m.Sum(nil))
	}
	const key = "a key for tests, of 32 bytes or more"
	more := b64(strings.Replace(decode(parts[1]), "octo/app", "other/x", 1))
	for what, token := range map[string]string{
		"nothing":            "",
		"dots":               "..",
		"no signature":       parts[0] + "." + parts[1] + ".",
		"two parts":          parts[0] + "." + parts[1],
		"algorithm none":     b64(`{"alg":"none","typ":"JWT"}`) + "." + parts[1] + ".",
		"changed claims":     parts[0] + "." + more + "." + parts[2],
		"another key":        signed(parts[0]+"."+parts[1], "another key of at least 32 bytes!!"),
		"an empty key":       signed(parts[0]+"."+parts[1], ""),
		"another header":     signed(b64(`{"typ":"JWT","alg":"HS256"}`)+"."+parts[1], key),
		"another audience":   signed(parts[0]+"."+b64(strings.Replace(decode(parts[1]), `"aud":"slipway"`, `"aud":"other"`, 1)), key),
		"not JSON":           signed(parts[0]+"."+b64("hello"), key),
		"a cut signature":    good[:len(good)-4],
		"a second signature": good + "." + parts[2],
	} {
		if got := try(token); got != 401 {
			t.Errorf("%s: %d", what, got)
		}
	}
	if got := try(signed(parts[0]+"."+parts[1], key)); got != 202 {
		t.Errorf("the test signs otherwise than the registry: %d", got)
	}
	now = now.Add(-time.Second)
	if got := try(good); got != 401 {
		t.Errorf("a token from the future: %d", got)
	}
	now = now.Add(5*time.Minute + time.Second)
	if got := try(good); got != 401 {
		t.Errorf("an expired token: %d", got)
	}
}

// fickle is an Authority that stops to know anybody.
type fickle struct {
	registry.Authority
	over atomic.Bool
}

func (f *fickle) Access(ctx context.Context, username, password string) (registry.Grants, error) {
	if f.over.Load() && password != "" {
		return nil, registry.ErrCredentials
	}
	return f.Authority.Access(ctx, username, password)
}

// TestTokenOfWhoIsGone takes the right to change anything from a token whose holder, such as a job, has none any more.
func TestTokenOfWhoIsGone(t *testing.T) {
	people := &fickle{Authority: testPeople}
	s := newSite(t, func(o *registry.Options) { o.Authority = people })
	blob := s.pushBlob("octo/app", []byte("hello"))
	token := s.token("octo", "repository:octo/app:*")
	for _, secret := range []string{"octo-password", base64.RawURLEncoding.EncodeToString([]byte("octo-password"))} {
		payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1])
		if err != nil || strings.Contains(string(payload), secret) {
			t.Errorf("the token says %s, %v", payload, err)
		}
	}
	bearer := "Authorization: Bearer " + token
	s.want(s.do("POST", "/v2/octo/app/blobs/uploads/", nil, bearer), 202)
	people.over.Store(true)
	a := s.want(s.do("POST", "/v2/octo/app/blobs/uploads/", nil, bearer), 401, "UNAUTHORIZED")
	if !strings.Contains(string(a.body), "octo may not do that any more") || a.Header.Get("WWW-Authenticate") == "" {
		t.Errorf("got %s", a.body)
	}
	s.want(s.do("DELETE", "/v2/octo/app/blobs/"+blob, nil, bearer), 401, "UNAUTHORIZED")
	s.want(s.do("GET", "/v2/octo/app/blobs/"+blob, nil, bearer), 200) // for 5 minutes
}

// TestCredentials uses credentials directly, without the token flow, as containerd's hosts.toml does.
func TestCredentials(t *testing.T) {
	s := newSite(t)
	basic := func(text string) string {
		return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(text))
	}
	path := "/v2/octo/app/blobs/uploads/"
	s.want(s.do("POST", path, nil, basic("octo:octo-password")), 202)
	s.want(s.do("POST", path, nil, "Authorization: Bearer octo-password"), 202)
	s.want(s.do("POST", path, nil, "Authorization: bearer octo-password"), 202)
	for _, auth := range []string{
		basic("octo:wrong"), basic("octo:"), basic(":"), basic("nobody:octo-password"), "Authorization: Bearer wrong",
		"Authorization: Basic !!!", "Authorization: Digest x", "Authorization: Bearer", "Authorization: octo-password",
	} {
		a := s.want(s.do("POST", path, nil, auth), 401, "UNAUTHORIZED")
		if !strings.HasPrefix(a.Header.Get("WWW-Authenticate"), "Bearer realm=") {
			t.Errorf("%s: no challenge", auth)
		}
		s.want(s.do("GET", "/v2/", nil, auth), 401, "UNAUTHORIZED")
		s.want(s.do("GET", "/v2/token", nil, auth), 401, "UNAUTHORIZED")
	}
	s.want(s.do("POST", path, nil, basic("reader:reader-password")), 403, "DENIED")
	s.want(s.do("GET", "/v2/_catalog", nil, basic("octo:octo-password")), 403, "DENIED")
	s.want(s.do("GET", "/v2/_catalog", nil, "Authorization: "), 401, "UNAUTHORIZED")
	s.want(s.do("GET", "/v2/_catalog", nil), 200)
}

// TestRealm holds that clients find the token endpoint: by the name that they came by, and by HTTPS if they came so.
func TestRealm(t *testing.T) {
	s := newSite(t, func(o *registry.Options) { o.URL = "https://ci.example.com" })
	realm := func(headers ...string) string {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/v2/", nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range headers {
			name, value, _ := strings.Cut(h, ": ")
			req.Header.Set(name, value)
		}
		req.Host = req.Header.Get("Host")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		got := resp.Header.Get("WWW-Authenticate")
		got, found := strings.CutPrefix(got, `Bearer realm="`)
		got, foundEnd := strings.CutSuffix(got, `/v2/token",service="slipway"`)
		if resp.StatusCode != http.StatusUnauthorized || !found || !foundEnd {
			t.Errorf("%q: %d, the challenge is %s", headers, resp.StatusCode, got)
		}
		return got
	}
	for _, test := range []struct {
		headers []string
		want    string
	}{
		{nil, s.URL},
		{[]string{"Host: 10.7.0.1:7070"}, "http://10.7.0.1:7070"},
		// Proxies say what they know, or only keep the name.
		{[]string{"Host: other.example.com", "X-Forwarded-Proto: https"}, "https://other.example.com"},
		{[]string{"Host: other.example.com", "X-Forwarded-Proto: HTTPS, http"}, "https://other.example.com"},
		{[]string{"Host: other.example.com", "X-Forwarded-Proto: http"}, "http://other.example.com"},
		{[]string{"Host: ci.example.com"}, "https://ci.example.com"},
		{[]string{"Host: CI.example.com", "X-Forwarded-Proto: http"}, "https://CI.example.com"},
		{[]string{"Host: ci.example.com:80"}, "http://ci.example.com:80"},
		{[]string{"Host: backend:7070", "X-Forwarded-Host: ci.example.com"}, "https://ci.example.com"},
		{[]string{"Host: backend:7070", "X-Forwarded-Host: a.example.com, b.example.com", "X-Forwarded-Proto: https"}, "https://a.example.com"},
		// A host that is none breaks out of nothing.
		{[]string{"Host: ci.example.com", `X-Forwarded-Host: x" service="y`}, "http://xservicey"},
	} {
		if got := realm(test.headers...); got != test.want {
			t.Errorf("%q: the client is sent to %s, want %s", test.headers, got, test.want)
		}
	}
}

// TestHistory finds in a tag's history who pushed.
func TestHistory(t *testing.T) {
	s := newSite(t)
	m := s.image("octo/app", nil)
	token := s.token("octo", "repository:octo/app:pull,push,delete")
	put := s.do("PUT", "/v2/octo/app/manifests/v1", strings.NewReader(string(m)), "Content-Type: "+mediaImage, "Authorization: Bearer "+token)
	s.want(put, 201)
	s.want(s.putManifest("octo/app", "v1", s.image("octo/app", nil)), 201)
	s.want(s.do("DELETE", "/v2/octo/app/manifests/v1", nil, "Authorization: Bearer "+token), 202)
	history, err := s.store.TagHistory(t.Context(), "octo/app", "v1", 10)
	if err != nil {
		t.Fatal(err)
	}
	var who []string
	for _, h := range history {
		who = append(who, h.By)
	}
	if !slices.Equal(who, []string{"octo", "admin", "octo"}) || history[0].Digest != "" || history[2].Digest != sum256(m) {
		t.Errorf("history %+v", history)
	}
}
