package gitea

import (
	"testing"

	"slipway/internal/ci"
)

func FuzzParse(f *testing.F) {
	for _, kind := range []string{"push", "pull_request", "create"} {
		f.Add(kind, []byte(`{"ref":"refs/heads/main","before":"0000000000000000000000000000000000000000","after":"1111111111111111111111111111111111111111","repository":{"id":1,"full_name":"ada/engine"},"head_commit":{"id":"1111111111111111111111111111111111111111","message":"x"}}`))
		f.Add(kind, []byte(`{"action":"opened","number":7,"repository":{"id":1,"full_name":"ada/engine"},"pull_request":{"state":"open","head":{"label":"x","ref":"x","sha":"1111111111111111111111111111111111111111","repo":{"id":1,"full_name":"ada/engine"}},"base":{"ref":"main","sha":"2222222222222222222222222222222222222222","repo":{"id":1,"full_name":"ada/engine"}}}}`))
		f.Add(kind, []byte(`{"action":"opened","number":7,"repository":null,"pull_request":{"head":null,"base":null}}`))
	}
	f.Fuzz(func(t *testing.T, kind string, body []byte) {
		event, reason, err := parse("ada/engine", kind, body)
		if err != nil || reason != "" {
			if event.Kind != "" || err != nil && reason != "" {
				t.Errorf("more than one result: %+v, %q, %v", event, reason, err)
			}
			return
		}
		if event.Kind == ci.Delete {
			if event.After != "" || event.Target == "" || !hashPattern.MatchString(event.Before) {
				t.Errorf("a branch that was deleted: %+v", event)
			}
			return
		}
		if !hashPattern.MatchString(event.After) || zero(event.After) {
			t.Errorf("an event of no commit: %+v", event)
		}
		switch event.Kind {
		case ci.Push:
			if event.Target == "" {
				t.Errorf("a push to no branch: %+v", event)
			}
		case ci.Tag:
			if event.TagName() == "" {
				t.Errorf("a tag without name: %+v", event)
			}
		case ci.PullRequest:
			if event.PullRequest == nil || event.PullRequest.Number < 1 {
				t.Errorf("a pull request without number: %+v", event)
			}
			if !event.FromFork() && event.PullRequest.HeadRepo == "" {
				t.Errorf("not from a fork, but from nowhere: %+v", event)
			}
		default:
			t.Errorf("an event of no kind: %+v", event)
		}
	})
}

func TestReasons(t *testing.T) {
	const about = `"repository":{"id":1,"full_name":"ada/engine"}`
	tests := []struct{ name, kind, body, want string }{
		{"deleted tag", "push", `{"ref":"refs/tags/x","before":"1111111111111111111111111111111111111111","after":"0000000000000000000000000000000000000000",` + about + `}`, "refs/tags/x was deleted"},
		{"another ref", "push", `{"ref":"refs/notes/x","after":"1111111111111111111111111111111111111111",` + about + `}`, `"refs/notes/x" is neither a branch nor a tag`},
		{"labelled", "pull_request", `{"action":"label_updated",` + about + `}`, `a pull request that was "label_updated" starts nothing`},
		{"new tag, as push says too", "create", `{}`, `Slipway has no use for the webhook event "create"`},
		{"no kind", "", `{}`, `Slipway has no use for the webhook event ""`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if event, reason, err := parse("ada/engine", test.kind, []byte(test.body)); reason != test.want || err != nil || event.Kind != "" {
				t.Errorf("parse = %+v, %q, %v, want %q", event, reason, err, test.want)
			}
		})
	}
}

func TestForeign(t *testing.T) {
	base := repository{ID: 1, FullName: "ada/engine"}
	tests := []struct {
		name string
		head side
		want bool
	}{
		{"branch of the repo", side{Label: "x", Ref: "x", Repository: &base}, false},
		{"fork", side{Label: "x", Ref: "x", Repository: &repository{ID: 2, FullName: "eve/engine"}}, true},
		{"fork that says it is the base", side{Label: "x", Ref: "x", Repository: &repository{ID: 2, FullName: "ada/engine"}}, true},
		{"fork that is gone", side{Label: "x", Ref: "refs/pull/1/head"}, true},
		{"AGit flow", side{Ref: "refs/pull/1/head", Repository: &base}, true},
		{"AGit flow of old versions", side{Label: "eve/x", Ref: "refs/pull/1/head", Repository: &base}, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			hook := pullHook{Repository: base}
			hook.Pull.Head = test.head
			if got := hook.foreign(); got != test.want {
				t.Errorf("foreign = %t, want %t", got, test.want)
			}
		})
	}
}

func TestDeletedBranch(t *testing.T) {
	body := `{"ref":"refs/heads/feature/x","before":"1111111111111111111111111111111111111111","after":"0000000000000000000000000000000000000000","sender":{"login":"ada"},"repository":{"id":1,"full_name":"ada/engine"}}`
	event, reason, err := parse("ada/engine", "push", []byte(body))
	if err != nil || reason != "" || event.Kind != ci.Delete || event.Ref != "refs/heads/feature/x" || event.Source != "feature/x" || event.Sender != "ada" || event.After != "" {
		t.Errorf("parse = %+v, %q, %v", event, reason, err)
	}
}
