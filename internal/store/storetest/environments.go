package storetest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"slipway/internal/ci"
	"slipway/internal/store"
)

func testEnvironments(t *testing.T, s store.Store) {
	heal := true
	production := ci.Environment{
		Repo: "a/b", Name: "production", Cluster: "https://10.0.0.1:6443", Kubeconfig: []byte("sealed"), Namespace: "shop",
		Policy: ci.Policy{Heal: &heal}, Branches: []string{"main", "refs/tags/v*"}, Deployers: []string{"ann"}, Approvals: 2,
		Approvers: []string{"bob", "cem"}, Position: 2, URL: "https://shop.example.com", Created: noon, Updated: noon,
		Freezes: []ci.Freeze{{Reason: "holidays", From: noon, Until: noon.Add(time.Hour), Override: []string{"ann"}}},
	}
	wantErr(t, s.PutEnvironment(t.Context(), production), store.ErrNotFound)
	putRepo(t, s, "a/b")
	putRepo(t, s, "a/c")
	check(t, s.PutEnvironment(t.Context(), production))
	review := ci.Environment{Repo: "a/b", Name: "review/*", Namespace: "shop-{branch}", Lifetime: time.Hour, Position: 1, Created: noon, Updated: noon}
	check(t, s.PutEnvironment(t.Context(), review))
	other := ci.Environment{Repo: "a/c", Name: "production", Created: noon, Updated: noon}
	check(t, s.PutEnvironment(t.Context(), other))

	list := func(repo string, want ...ci.Environment) {
		t.Helper()
		got, err := s.ListEnvironments(t.Context(), repo)
		check(t, err)
		same(t, got, want)
	}
	list("a/b", review, production)
	list("", review, production, other)
	list("no/no")

	changed := production
	changed.Approvals, changed.Kubeconfig, changed.Position = 0, nil, 0
	changed.Created, changed.Updated = noon.Add(time.Hour), noon.Add(time.Hour)
	check(t, s.PutEnvironment(t.Context(), changed))
	changed.Created = noon
	list("a/b", changed, review)

	wantErr(t, s.DeleteEnvironment(t.Context(), "a/b", "staging"), store.ErrNotFound)
	wantErr(t, s.DeleteEnvironment(t.Context(), "no/no", "production"), store.ErrNotFound)
	check(t, s.UpdateReview(t.Context(), "a/b", "review/x", func(r *ci.Review) error { r.Pattern = "review/*"; return nil }))
	wantErr(t, s.DeleteEnvironment(t.Context(), "a/b", "review/*"), store.ErrInUse)
	check(t, s.DeleteEnvironment(t.Context(), "a/b", "production"))
	list("a/b", review)
	check(t, s.DeleteRepo(t.Context(), "a/b"))
	list("", other)
}

func testGates(t *testing.T, s store.Store) {
	putRepo(t, s, "a/b")
	first, second := createRun(t, s, "a/b"), createRun(t, s, "a/b")
	_, err := s.UpdateGate(t.Context(), 999, 1, 1, func(*ci.Gate) error { return nil })
	wantErr(t, err, store.ErrNotFound)

	wait := func(run ci.Run, environment string) ci.Gate {
		t.Helper()
		gate, err := s.UpdateGate(t.Context(), run.ID, 1, 2, func(g *ci.Gate) error {
			if g.State != "" || g.Repo != "a/b" || g.Run != run.Number || g.Job != 1 || g.Step != 2 {
				t.Errorf("a new gate is %+v", g)
			}
			g.Environment, g.State, g.Reason, g.Since = environment, ci.GateWaiting, "waits\x00 for 1 of 2", noon
			return nil
		})
		check(t, err)
		return gate
	}
	one, two := wait(first, "production"), wait(second, "staging")
	list := func(filter store.GateFilter, want ...ci.Gate) {
		t.Helper()
		got, err := s.ListGates(t.Context(), filter)
		check(t, err)
		same(t, got, want)
	}
	list(store.GateFilter{}, two, one)
	list(store.GateFilter{Repo: "a/b", Run: 1}, one)
	list(store.GateFilter{Environment: "staging", Waiting: true}, two)
	list(store.GateFilter{Limit: 1}, two)

	failed := errors.New("no")
	_, err = s.UpdateGate(t.Context(), first.ID, 1, 2, func(g *ci.Gate) error { g.State = ci.GatePassed; return failed })
	wantErr(t, err, failed)
	list(store.GateFilter{Run: 1}, one)

	// Votes that come at once are all there.
	var voters sync.WaitGroup
	for i := range 8 {
		voters.Go(func() {
			_, err := s.UpdateGate(t.Context(), first.ID, 1, 2, func(g *ci.Gate) error {
				g.Votes = append(g.Votes, ci.Vote{Who: fmt.Sprint("v", i), Choice: ci.Approve, Comment: "\x00", Time: noon})
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	voters.Wait()
	passed, err := s.UpdateGate(t.Context(), first.ID, 1, 2, func(g *ci.Gate) error {
		g.State, g.Ended = ci.GatePassed, noon.Add(time.Minute)
		return nil
	})
	check(t, err)
	if n := len(passed.Votes); n != 8 || slices.ContainsFunc(passed.Votes, func(v ci.Vote) bool { return v.Choice != ci.Approve }) {
		t.Errorf("%d of 8 votes are there", n)
	}
	list(store.GateFilter{Run: 1}, passed)
	list(store.GateFilter{Waiting: true}, two)
	list(store.GateFilter{Open: true}, two, passed)

	_, err = s.UpdateRun(t.Context(), second.ID, func(d *store.Draft) error { d.Status = ci.Canceled; return nil })
	check(t, err)
	list(store.GateFilter{Waiting: true})
	list(store.GateFilter{Open: true}, passed)
	list(store.GateFilter{}, two, passed)
}

func testReviews(t *testing.T, s store.Store) {
	put := func(name string, change func(*ci.Review) error) error {
		return s.UpdateReview(t.Context(), "a/b", name, change)
	}
	made := ci.Review{
		Repo: "a/b", Name: "review/x", Pattern: "review/*", Branch: "x", Namespace: "shop-x", URL: "https://x.example.com", Run: 7,
		Created: noon, Updated: noon, Ends: noon.Add(time.Hour),
	}
	set := func(want ci.Review) func(*ci.Review) error {
		return func(r *ci.Review) error { *r = want; return nil }
	}
	wantErr(t, put("review/x", set(made)), store.ErrNotFound)
	putRepo(t, s, "a/b")
	check(t, put("review/x", func(r *ci.Review) error {
		same(t, *r, ci.Review{Repo: "a/b", Name: "review/x"})
		*r = made
		return nil
	}))
	list := func(repo string, want ...ci.Review) {
		t.Helper()
		got, err := s.ListReviews(t.Context(), repo)
		check(t, err)
		same(t, got, want)
	}
	list("", made)
	list("a/b", made)
	list("a/c")
	failed := errors.New("no")
	wantErr(t, put("review/x", func(r *ci.Review) error { r.Run = 9; return failed }), failed)
	made.Run, made.Updated, made.Teardown = 8, noon.Add(time.Minute), 9
	check(t, put("review/x", set(made)))
	list("a/b", made)
	gone := func(*ci.Review) error { return store.ErrNotFound }
	check(t, put("review/y", gone))
	check(t, put("review/x", gone))
	list("")
}
