package storetest

import (
	"testing"
	"time"

	"slipway/internal/ci"
	"slipway/internal/store"
)

func testSecrets(t *testing.T, s store.Store) {
	secret := ci.Secret{Repo: "a/b", Name: "Token", Sealed: []byte{0, 255, 1}, PullRequests: true, Updated: noon}
	wantErr(t, s.PutSecret(t.Context(), secret), store.ErrNotFound)
	putRepo(t, s, "a/b")
	putRepo(t, s, "a/c")
	check(t, s.PutSecret(t.Context(), secret))
	other := ci.Secret{Repo: "a/b", Name: "account", Sealed: []byte("x"), Updated: noon}
	check(t, s.PutSecret(t.Context(), other))
	elsewhere := ci.Secret{Repo: "a/c", Name: "token", Sealed: []byte("y"), Updated: noon}
	check(t, s.PutSecret(t.Context(), elsewhere))

	list := func(repo string, want ...ci.Secret) {
		t.Helper()
		got, err := s.ListSecrets(t.Context(), repo)
		check(t, err)
		same(t, got, want)
	}
	list("a/b", other, secret)
	list("a/c", elsewhere)
	list("no/no")

	secret = ci.Secret{Repo: "a/b", Name: "TOKEN", Sealed: []byte("new"), Updated: noon.Add(time.Hour)}
	check(t, s.PutSecret(t.Context(), secret))
	list("a/b", other, secret)

	wantErr(t, s.DeleteSecret(t.Context(), "a/b", "no"), store.ErrNotFound)
	wantErr(t, s.DeleteSecret(t.Context(), "no/no", "token"), store.ErrNotFound)
	check(t, s.DeleteSecret(t.Context(), "a/b", "toKen"))
	list("a/b", other)
	list("a/c", elsewhere)
}

func testTokens(t *testing.T, s store.Store) {
	_, err := s.FindToken(t.Context(), hash("one"))
	wantErr(t, err, store.ErrNotFound)

	one := ci.Token{Name: "ann", Hash: hash("one"), Scopes: []string{"repo:a/b", "pull"}, Expires: noon, Created: noon}
	two := ci.Token{Name: "ann", Hash: hash("two"), Scopes: []string{"admin"}, Created: noon}
	check(t, s.PutToken(t.Context(), &one))
	check(t, s.PutToken(t.Context(), &two))
	if one.ID == 0 || one.ID == two.ID {
		t.Fatalf("the IDs are %d and %d", one.ID, two.ID)
	}
	wantErr(t, s.PutToken(t.Context(), &ci.Token{Name: "eve", Hash: hash("one")}), store.ErrExists)

	got, err := s.FindToken(t.Context(), hash("one"))
	check(t, err)
	same(t, got, one)
	all, err := s.ListTokens(t.Context())
	check(t, err)
	same(t, all, []ci.Token{one, two})

	check(t, s.DeleteToken(t.Context(), one.ID))
	wantErr(t, s.DeleteToken(t.Context(), one.ID), store.ErrNotFound)
	_, err = s.FindToken(t.Context(), hash("one"))
	wantErr(t, err, store.ErrNotFound)
	all, err = s.ListTokens(t.Context())
	check(t, err)
	same(t, all, []ci.Token{two})
}
