package flow_test

import (
	"context"
	"errors"
	"reflect"
	"testing"

	"slipway/internal/ci"
	"slipway/internal/flow"
	"slipway/internal/flow/flowtest"
	"slipway/internal/retention"
)

// policies remembers what it is given.
type policies struct{ files []retention.File }

func (p *policies) PutFile(_ context.Context, f retention.File) ([]string, error) {
	p.files = append(p.files, f)
	return []string{"noticed"}, nil
}

// The policy of a repo is that of its images, which have no capitals.
func TestRetentionFileCapitals(t *testing.T) {
	s := flowtest.New(t)
	p := &policies{}
	s.Retention = p
	if _, err := s.AddRepo(t.Context(), flow.NewRepo{Name: "Acme/App", Forge: flowtest.Kind, ForgeURL: "https://git.example.com", Token: "t"}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Accept(t.Context(), "Acme/App", s.Event(pipeline(twoSteps))); err != nil {
		t.Fatal(err)
	}
	if len(p.files) != 1 || p.files[0].Repository != "acme/app" || p.files[0].By != "Acme/App run 1" {
		t.Errorf("the files are %+v", p.files)
	}
}

func TestRetentionFile(t *testing.T) {
	s := flowtest.New(t)
	p := &policies{}
	s.Retention = p
	event := s.Event("")
	event.After = s.Forge.Commit(map[string]string{".drone.yml": pipeline(twoSteps), retention.PolicyFile: "untagged: 1d\n"})
	run, _, err := s.Accept(t.Context(), flowtest.Repo, event)
	if err != nil {
		t.Fatal(err)
	}
	want := []retention.File{{Repository: flowtest.Repo, Commit: event.After, Text: "untagged: 1d\n", Run: run.ID, By: "ada/engine run 1"}}
	if !reflect.DeepEqual(p.files, want) || !reflect.DeepEqual(s.Run(1).Warnings, []string{"noticed"}) {
		t.Fatalf("the files are %+v, the warnings %q", p.files, s.Run(1).Warnings)
	}
	// A repetition, another branch and a pull request bring nothing; a push without the file says that there is none.
	if _, err := s.Flow.Restart(t.Context(), run.Repo, run.Number, "bob"); err != nil {
		t.Fatal(err)
	}
	other := event
	other.Ref, other.Delivery = "refs/heads/topic", "other"
	pull := s.PullRequest(pipeline(twoSteps), true)
	for _, event := range []ci.Event{other, pull} {
		if _, _, err := s.Accept(t.Context(), flowtest.Repo, event); err != nil {
			t.Fatal(err)
		}
	}
	if len(p.files) != 1 {
		t.Errorf("the files are %+v", p.files[1:])
	}
	s.Push(pipeline(twoSteps))
	if len(p.files) != 2 || p.files[1].Text != "" {
		t.Errorf("the files are %+v", p.files[1:])
	}
	s.Forge.Fail(errors.New("the forge has moved"))
	run = s.Push(pipeline(twoSteps))
	if len(p.files) != 2 || len(run.Warnings) != 1 {
		t.Errorf("the files are %+v, the warnings %q", p.files[2:], run.Warnings)
	}
}
