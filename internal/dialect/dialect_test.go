package dialect

import (
	"slices"
	"testing"

	"slipway/internal/ci"
	"slipway/internal/plan"
)

func TestCompile(t *testing.T) {
	text := []byte("kind: pipeline\nsteps: [{name: a, image: b}]\n")
	in := plan.Input{Event: ci.Event{Kind: ci.Push, Ref: "refs/heads/main", Target: "main", After: "abc"}}
	for _, name := range []string{".drone.yml", "sub/.drone.yaml", "whatever"} {
		p, problems, err := Compile(plan.Source{Name: name, Text: text}, in)
		if err != nil || len(problems) != 0 || len(p.Jobs) != 1 || p.Jobs[0].Steps[1].Name != "a" {
			t.Errorf("%s: %v %v %v", name, p, problems, err)
		}
	}
	if !slices.Equal(Files(), []string{".drone.yml", ".drone.yaml"}) {
		t.Errorf("files are %v", Files())
	}
	for _, name := range Names() {
		if _, _, err := CompileAs(name, plan.Source{Name: "x", Text: text}, in); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := CompileAs("jenkins", plan.Source{}, in); err == nil {
		t.Error("there is no such dialect")
	}
}
