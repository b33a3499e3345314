package remote

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func start(t *testing.T, handler http.HandlerFunc) (host string) {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

func TestParseRepository(t *testing.T) {
	for text, want := range map[string]Repository{
		"busybox":                {"docker.io", "library/busybox"},
		"octo/app":               {"docker.io", "octo/app"},
		"ghcr.io/octo/app":       {"ghcr.io", "octo/app"},
		"localhost:5000/a/b/c":   {"localhost:5000", "a/b/c"},
		"index.docker.io/octo/x": {"docker.io", "octo/x"},
	} {
		if got, err := ParseRepository(text); err != nil || got != want {
			t.Errorf("%s is %v, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "Octo/App", "a:1", "a@sha256:" + strings.Repeat("0", 64), "../a", "https://ghcr.io/a"} {
		if got, err := ParseRepository(bad); err == nil {
			t.Errorf("%q is %v", bad, got)
		}
	}
	if got := New(Options{}).url(Repository{"docker.io", "library/busybox"}, "tags/list", nil).String(); got != "https://registry-1.docker.io/v2/library/busybox/tags/list" {
		t.Errorf("Docker Hub is at %s", got)
	}
}

// TestToken follows the token flow at the address of GitLab, keeps the token, and gets a new one when it is refused.
func TestToken(t *testing.T) {
	given := 0
	valid := ""
	host := start(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/jwt/auth" {
			user, password, _ := r.BasicAuth()
			if user != "octo" || password != "secret" || r.URL.Query().Get("scope") != "repository:octo/app:pull" || r.URL.Query().Get("service") != "registry" {
				w.WriteHeader(http.StatusForbidden)
				return
			}
			given++
			valid = fmt.Sprint("token", given)
			fmt.Fprintf(w, `{"token":%q,"expires_in":300}`, valid)
			return
		}
		if r.Header.Get("Authorization") != "Bearer "+valid {
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/jwt/auth",service="registry",scope="repository:other:pull"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, `{"tags":["1"]}`)
	})
	password := "secret"
	c := New(Options{Insecure: []string{host}, Login: func(string) (string, string, error) { return "octo", password, nil }})
	defer c.Close()
	repo := Repository{host, "octo/app"}
	for i, want := range []int{1, 1, 2, 2} {
		if i == 2 {
			valid = "another" // it is refused before its time
		}
		if tags, err := c.Tags(t.Context(), repo); err != nil || len(tags) != 1 || given != want {
			t.Errorf("%v, %v, %d tokens", tags, err, given)
		}
	}
	valid, password = "another", "wrong"
	var answer *Error
	if _, err := c.Tags(t.Context(), repo); !errors.As(err, &answer) || answer.Status != http.StatusForbidden || strings.Contains(err.Error(), "wrong") {
		t.Errorf("a wrong password: %v", err)
	}
}

// TestIdentityToken shows an identity token, which has no user name, by OAuth2's way.
func TestIdentityToken(t *testing.T) {
	host := start(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/token" && r.FormValue("refresh_token") == "identity" && r.FormValue("grant_type") == "refresh_token":
			fmt.Fprint(w, `{"access_token":"good"}`)
		case r.Header.Get("Authorization") == "Bearer good":
			fmt.Fprint(w, `{"tags":null}`)
		default:
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="s"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	c := New(Options{Insecure: []string{host}, Login: func(string) (string, string, error) { return "", "identity", nil }})
	defer c.Close()
	if tags, err := c.Tags(t.Context(), Repository{host, "a"}); err != nil || tags != nil {
		t.Errorf("%v, %v", tags, err)
	}
}

// TestBasic logs in to a registry that has no tokens, and is asked for no login by one that wants none.
func TestBasic(t *testing.T) {
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("octo:secret"))
	refused := 0
	host := start(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != want {
			refused++
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, `{"tags":[]}`)
	})
	c := New(Options{Insecure: []string{host}, Login: func(string) (string, string, error) { return "octo", "secret", nil }})
	defer c.Close()
	for range 2 {
		if _, err := c.Tags(t.Context(), Repository{host, "a"}); err != nil || refused != 1 {
			t.Errorf("%v, refused %d times", err, refused)
		}
	}
	anonymous := New(Options{Insecure: []string{host}})
	defer anonymous.Close()
	var answer *Error
	if _, err := anonymous.Tags(t.Context(), Repository{host, "a"}); !errors.As(err, &answer) || answer.Status != http.StatusUnauthorized {
		t.Errorf("without a login: %v", err)
	}
}

// TestTagsPages reads page after page, and follows no link elsewhere or in circles.
func TestTagsPages(t *testing.T) {
	link := `</v2/a/tags/list?last=1>; rel="next"`
	host := start(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("last") {
		case "":
			w.Header().Set("Link", link)
			fmt.Fprint(w, `{"tags":["1"]}`)
		case "1":
			fmt.Fprint(w, `{"tags":["2"]}`)
		default:
			w.Header().Set("Link", link)
			fmt.Fprint(w, `{"tags":[]}`)
		}
	})
	c := New(Options{Insecure: []string{host}})
	defer c.Close()
	if tags, err := c.Tags(t.Context(), Repository{host, "a"}); err != nil || !slices.Equal(tags, []string{"1", "2"}) {
		t.Errorf("%q, %v", tags, err)
	}
	for _, link = range []string{`<http://192.0.2.1/v2/a/tags/list>; rel="next"`, `</v2/a/tags/list?last=x>; rel="next"`, `<%zz>; rel="next"`} {
		if tags, err := c.Tags(t.Context(), Repository{host, "a"}); err == nil {
			t.Errorf("%s gives %q", link, tags)
		}
	}
}

// TestErrors makes of an answer what people can read, and of a Retry-After a pause.
func TestErrors(t *testing.T) {
	host := start(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusTooManyRequests)
		fmt.Fprint(w, `{"errors":[{"code":"TOOMANYREQUESTS","message":"slower\u001b[2J"}]}`)
	})
	c := New(Options{Insecure: []string{host}})
	defer c.Close()
	_, err := c.Resolve(t.Context(), Repository{host, "a"}, "1")
	var answer *Error
	if !errors.As(err, &answer) || answer.RetryAfter != 7*time.Second {
		t.Errorf("%v", err)
	}
	_, err = c.Manifest(t.Context(), Repository{host, "a"}, "1")
	if want := host + ` answers 429 Too Many Requests: "TOOMANYREQUESTS slower\x1b[2J"`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestUploadElsewhere sends neither content nor login to an address on another host.
func TestUploadElsewhere(t *testing.T) {
	host := start(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		w.Header().Set("Location", "http://192.0.2.1/upload")
		w.WriteHeader(http.StatusAccepted)
	})
	c := New(Options{Insecure: []string{host}})
	defer c.Close()
	if err := c.PutBlob(t.Context(), Repository{host, "a"}, []byte("x")); err == nil {
		t.Error("uploaded")
	}
}

func FuzzNextPage(f *testing.F) {
	for _, seed := range []string{`</v2/a/tags/list?last=1>; rel="next"`, `<>;next`, `<//x/y>; rel=next`, `<%zz>;next`, ``} {
		f.Add(seed)
	}
	base, err := url.Parse("https://registry.example.com/v2/a/tags/list")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, link string) {
		next, err := nextPage(&http.Response{Header: http.Header{"Link": {link}}, Request: &http.Request{URL: base}})
		if err == nil && next != nil && (next.Host != base.Host || next.Scheme != base.Scheme) {
			t.Errorf("%q leads to %s", link, next)
		}
	})
}

// TestDigest refuses a manifest whose digest is not what was asked for.
func TestDigest(t *testing.T) {
	host := start(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{}`) })
	c := New(Options{Insecure: []string{host}})
	defer c.Close()
	for ref, want := range map[string]error{digest.FromString(`{}`).String(): nil, digest.FromString(`x`).String(): ErrCorrupt, "1": nil, digest.SHA512.FromString(`{}`).String(): nil} {
		if _, err := c.Manifest(t.Context(), Repository{host, "a"}, ref); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", ref, err, want)
		}
	}
}
