package remote

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// TestRedirectTakesNoCredentials follows a registry to another port of its host, which is another's perhaps.
func TestRedirectTakesNoCredentials(t *testing.T) {
	seen := "nobody came"
	storage := start(t, func(w http.ResponseWriter, r *http.Request) {
		seen = r.Header.Get("Authorization")
		fmt.Fprint(w, "hello")
	})
	host := start(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		http.Redirect(w, r, "http://"+storage+"/blob", http.StatusTemporaryRedirect)
	})
	c := New(Options{Insecure: []string{host, storage}, Login: func(string) (string, string, error) { return "octo", "secret", nil }})
	defer c.Close()
	blob, _, err := c.Blob(t.Context(), Repository{host, "octo/app"}, digest.FromString("hello").String())
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	if content, err := io.ReadAll(blob); err != nil || string(content) != "hello" || seen != "" {
		t.Errorf("got %q, %v; the storage saw %q", content, err, seen)
	}
}

// TestPlainRealm asks for tokens by plain HTTP only where that was allowed: a registry that is spoken to so must not send a
// login, or a question, to any address inside.
func TestPlainRealm(t *testing.T) {
	asked := 0
	inside := strings.Replace(start(t, func(w http.ResponseWriter, _ *http.Request) {
		asked++
		fmt.Fprint(w, `{"token":"good"}`)
	}), "127.0.0.1", "localhost", 1)
	host := start(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer good" {
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+inside+`/token",service="s"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprint(w, `{"tags":["1"]}`)
	})
	for _, insecure := range [][]string{{host}, {host, inside}} {
		c := New(Options{Insecure: insecure, Login: func(string) (string, string, error) { return "octo", "secret", nil }})
		defer c.Close()
		tags, err := c.Tags(t.Context(), Repository{host, "octo/app"})
		switch {
		case len(insecure) == 1 && (err == nil || !strings.Contains(err.Error(), "nothing was sent there") || asked != 0):
			t.Errorf("a realm that nobody allowed: %v, asked %d times", err, asked)
		case len(insecure) == 2 && (err != nil || len(tags) != 1):
			t.Errorf("a realm that is allowed: %v, %v", tags, err)
		}
	}
}

// TestPatience repeats what a busy registry refused, after as long as that says and no longer than the caller may wait.
func TestPatience(t *testing.T) {
	asked, deleted := 0, 0
	host := start(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodDelete:
			deleted++
			w.WriteHeader(http.StatusServiceUnavailable)
		case r.URL.Path == "/v2/late/tags/list":
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusTooManyRequests)
		case asked == 0:
			asked++
			now := time.Now()
			w.Header().Set("Date", now.UTC().Format(http.TimeFormat))
			w.Header().Set("Retry-After", now.Add(time.Second).UTC().Format(http.TimeFormat))
			w.WriteHeader(http.StatusTooManyRequests)
		case asked == 1:
			asked++
			w.WriteHeader(http.StatusServiceUnavailable)
		default:
			fmt.Fprint(w, `{"tags":["1"]}`)
		}
	})
	c := New(Options{Insecure: []string{host}, Patience: time.Minute})
	defer c.Close()
	if tags, err := c.Tags(t.Context(), Repository{host, "a"}); err != nil || len(tags) != 1 || asked != 2 {
		t.Errorf("got %v, %v", tags, err)
	}
	var answer *Error
	if _, err := c.Tags(t.Context(), Repository{host, "late"}); !errors.As(err, &answer) || answer.RetryAfter != time.Hour {
		t.Errorf("an hour is too long: %v", err)
	}
	if err := c.Delete(t.Context(), Repository{host, "a"}, "1"); err == nil || deleted != 1 {
		t.Errorf("deleted %d times, %v: something may have come of the first", deleted, err)
	}
	hasty := New(Options{Insecure: []string{host}})
	defer hasty.Close()
	asked = 0
	if _, err := hasty.Tags(t.Context(), Repository{host, "a"}); err == nil {
		t.Error("who has no patience waited")
	}
}
