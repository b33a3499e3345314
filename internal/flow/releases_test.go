package flow_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/flow/flowtest"
	"slipway/internal/protocol"
	"slipway/internal/store"
)

// What a runner reports of a release is kept with the commit of its run, and its manifests sealed; a rollback keeps the
// commit that it goes back to.
func TestReleaseRecord(t *testing.T) {
	s := flowtest.New(t)
	run := s.Push(pipeline(twoSteps))
	r := claim(t, s)
	if r.Author != "Ada" || r.Title != "Grind the cogs" {
		t.Errorf("the assignment says %q by %q", r.Title, r.Author)
	}
	report := func(number, of int64, manifests []byte) protocol.Event {
		return r.event(protocol.Event{Release: &protocol.Release{Step: 1, Manifests: manifests, Release: ci.Release{
			Environment: "production", Namespace: "shop", Number: number, Of: of, Status: ci.Success, Started: s.Clock.Now().Add(time.Duration(number)),
			Commit: "older", Author: "Eve", Title: "Before",
		}}})
	}
	r.append(report(1, 0, []byte("the secret manifests")), report(2, 1, nil))
	releases, err := s.DB.ListReleases(t.Context(), store.ReleaseFilter{})
	if err != nil || len(releases) != 2 {
		t.Fatalf("the releases are %+v, %v", releases, err)
	}
	back, first := releases[0], releases[1]
	if first.Commit != run.Event.After || first.Author != "Ada" || first.Title != "Grind the cogs" {
		t.Errorf("the release is %+v", first)
	}
	if back.Commit != "older" || back.Author != "Eve" || back.Title != "Before" || back.Run != run.Number {
		t.Errorf("the rollback is %+v", back)
	}
	sealed, err := s.DB.FindManifests(t.Context(), first.ID)
	if err != nil || bytes.Contains(sealed, []byte("secret")) {
		t.Errorf("the manifests are kept as %q, %v", sealed, err)
	}
	got, err := s.Manifests(t.Context(), first)
	if err != nil || string(got) != "the secret manifests" {
		t.Errorf("the manifests are %q, %v", got, err)
	}
	other := first // sealed manifests do not open as those of another release
	other.Number = 3
	if _, err := s.Manifests(t.Context(), other); err == nil {
		t.Error("the manifests open as those of another release")
	}
	if _, err := s.Manifests(t.Context(), back); fault.Of(err).Code != fault.NotFound {
		t.Errorf("manifests that are not there: %v", err)
	}
	if err := s.Append(t.Context(), r.lease, []protocol.Event{report(4, 0, make([]byte, protocol.MaxManifests+1))}); fault.Of(err).Code != fault.TooLarge {
		t.Errorf("manifests that are too large: %v", err)
	}
}

// What a step of a pull request finds out is said there, by the newest run alone, also after the server was restarted.
func TestPreviewComment(t *testing.T) {
	s := flowtest.New(t)
	run, _, err := s.Accept(t.Context(), flowtest.Repo, s.PullRequest(pipeline(twoSteps), false))
	if err != nil {
		t.Fatal(err)
	}
	r := claim(t, s)
	preview := func(step int, environment string, differences ...ci.Difference) {
		r.append(r.event(protocol.Event{Preview: &protocol.Preview{Step: step, Preview: ci.Preview{
			Environment: environment, Repo: "somebody/else", Run: 99, Differences: differences,
		}}}))
	}
	preview(1, "production", ci.Difference{Object: "service/web", Action: "create"})
	s.Forge.AwaitComment(t, 1, "`production`: 1 to create", "+ service/web: create", s.Link(flowtest.Repo, run.Number)+"/changes")
	preview(2, "staging")
	comment := s.Forge.AwaitComment(t, 1, "`production`", "`staging`: nothing")
	if comment.Run != run.Number || comment.Topic != "diff" {
		t.Errorf("the comment is %+v", comment)
	}
	previews, err := s.DB.ListPreviews(t.Context(), flowtest.Repo, run.Number)
	if err != nil || len(previews) != 2 || previews[0].Name != "one" || previews[0].Job != 1 || previews[0].Commit != run.Event.After {
		t.Errorf("the previews are %+v, %v", previews, err)
	}
	s.Forge.Fail(errors.New("away"))
	preview(2, "staging", ci.Difference{Object: "service/late", Action: "delete"})
	s.Restart()
	s.Forge.Fail(nil)
	s.Restart()
	s.Forge.AwaitComment(t, 1, "service/late")
	large := strings.Repeat("x", protocol.MaxPreview)
	event := r.event(protocol.Event{Preview: &protocol.Preview{Step: 1, Preview: ci.Preview{Message: large}}})
	if err := s.Append(t.Context(), r.lease, []protocol.Event{event}); fault.Of(err).Code != fault.TooLarge {
		t.Errorf("a preview that is too large: %v", err)
	}
}
