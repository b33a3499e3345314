package forge_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"slipway/internal/ci"
	"slipway/internal/forge"
)

func TestRepoNeverPrintsCredentials(t *testing.T) {
	repo := forge.Repo{Repo: ci.Repo{Name: "ada/engine"}, Token: "hush-token", WebhookSecret: "hush-secret"}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "repo", repo)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "repo", &repo)
	all := log.String() + fmt.Sprintf("%v %+v %#v %s %v", repo, repo, repo, repo, &repo)
	if strings.Contains(all, "hush") {
		t.Errorf("a credential shows in %s", all)
	}
	if !strings.Contains(all, "ada/engine") {
		t.Errorf("the name does not show in %s", all)
	}
}

func TestSkip(t *testing.T) {
	tests := []struct {
		name  string
		event ci.Event
		want  string
	}{
		{"plain push", ci.Event{Kind: ci.Push, Commit: ci.Commit{Message: "Add a skip button for ci"}}, ""},
		{"title of commit", ci.Event{Kind: ci.Push, Commit: ci.Commit{Message: "Fix typo [skip ci]"}}, "[skip ci]"},
		{"body of commit", ci.Event{Kind: ci.Push, Commit: ci.Commit{Message: "Fix typo\n\n[CI SKIP]\n"}}, "[ci skip]"},
		{"stars", ci.Event{Kind: ci.Push, Commit: ci.Commit{Message: "Fix ***NO_CI***"}}, "***no_ci***"},
		{"title of pull request", ci.Event{Kind: ci.PullRequest, PullRequest: &ci.Change{Title: "Draft [ci skip]"}}, "[ci skip]"},
		{"tag", ci.Event{Kind: ci.Tag, Commit: ci.Commit{Message: "Release [skip ci]"}}, ""},
		{"manual", ci.Event{Kind: ci.Manual, Commit: ci.Commit{Message: "Release [skip ci]"}}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := forge.Skip(test.event); got != test.want {
				t.Errorf("Skip = %q, want %q", got, test.want)
			}
		})
	}
}
