package remote

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

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
