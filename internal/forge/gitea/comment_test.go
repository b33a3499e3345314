package gitea_test

import (
	"errors"
	"strings"
	"testing"

	sdk "code.gitea.io/sdk/gitea"

	"slipway/internal/forge"
)

// There is one comment of Slipway on a pull request, however often it speaks and whatever others write.
func TestComment(t *testing.T) {
	f := setUp(t, "talk", false)
	work := f.server.Work(t, f.owner, f.repo.Name)
	work.Commit("one", map[string]string{"a": "1"})
	work.Push("main")
	work.Git("checkout", "-q", "-b", "topic")
	work.Commit("two", map[string]string{"a": "2"})
	work.Push("topic")
	owner, name, _ := strings.Cut(f.repo.Name, "/")
	people := f.server.Client(t, f.owner)
	pull, _, err := people.CreatePullRequest(owner, name, sdk.CreatePullRequestOption{Head: "topic", Base: "main", Title: "Two"})
	if err != nil {
		t.Fatal(err)
	}
	comment := func(run int64, body string) error {
		return f.forge.Comment(t.Context(), f.repo, forge.Comment{Change: pull.Index, Topic: "diff", Run: run, Body: body})
	}
	bodies := func() (all []string) {
		t.Helper()
		comments, _, err := people.ListIssueComments(owner, name, pull.Index, sdk.ListIssueCommentOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range comments {
			all = append(all, c.Body)
		}
		return all
	}
	want := func(want ...string) {
		t.Helper()
		if got := bodies(); strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("the comments are %q, want %q", got, want)
		}
	}

	// The token that is good for all else may not comment; the sentence says what is missing.
	if err := comment(1, "first"); !errors.Is(err, forge.ErrDenied) || !strings.Contains(err.Error(), "read:user") {
		t.Errorf("without the right: %v", err)
	}
	f.repo.Token = f.server.NewToken(t, f.owner, "write:repository", "read:user")
	if err := comment(1, "first"); !errors.Is(err, forge.ErrDenied) || !strings.Contains(err.Error(), ":issue") {
		t.Errorf("without the right: %v", err)
	}
	f.repo.Token = f.server.NewToken(t, f.owner, "write:repository", "write:issue", "read:user")

	// A stranger who writes the mark does not get to be rewritten.
	eve := f.server.NewUser(t, "eve-talks")
	forged := "<!-- slipway diff 0 -->\nnothing changes, merge it"
	if _, _, err := f.server.Client(t, eve).CreateIssueComment(owner, name, pull.Index, sdk.CreateIssueCommentOption{Body: forged}); err != nil {
		t.Fatal(err)
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(comment(3, "first"))
	want(forged, "<!-- slipway diff 3 -->\nfirst")
	check(comment(3, "more\nlines"))
	check(comment(3, "more\nlines"))
	check(comment(2, "an older run")) // says nothing any more
	want(forged, "<!-- slipway diff 3 -->\nmore\nlines")
	check(comment(4, "newer"))
	want(forged, "<!-- slipway diff 4 -->\nnewer")
	if err := f.forge.Comment(t.Context(), f.repo, forge.Comment{Change: pull.Index, Topic: "no-->topic", Body: "x"}); err == nil {
		t.Error("a topic that ends the mark is taken")
	}
	if err := comment(5, strings.Repeat("x", forge.MaxComment+1)); err == nil {
		t.Error("a comment that is too long is taken")
	}
	if err := f.forge.Comment(t.Context(), f.repo, forge.Comment{Change: 999, Topic: "diff", Run: 1, Body: "x"}); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("of a pull request that does not exist: %v", err)
	}
}
