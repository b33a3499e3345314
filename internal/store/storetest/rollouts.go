package storetest

import (
	"testing"

	"slipway/internal/ci"
	"slipway/internal/store"
)

func testRollouts(t *testing.T, s store.Store) {
	putRepo(t, s, "a/b")
	run := addJobs(t, s, createRun(t, s, "a/b").ID, "build", "deploy")
	run, err := s.UpdateRun(t.Context(), run.ID, func(d *store.Draft) error {
		for i := range d.Jobs {
			d.Jobs[i].Steps = []ci.Step{{Name: "one", Status: ci.Pending}, {Name: "two", Status: ci.Pending}}
		}
		return nil
	})
	check(t, err)
	build, deploy := run.Jobs[0], run.Jobs[1]
	list := func(runID int64, want ...ci.Rollout) {
		t.Helper()
		got, err := s.ListRollouts(t.Context(), runID)
		check(t, err)
		same(t, got, want)
	}
	list(run.ID)
	picture := ci.Rollout{Updated: noon, Workloads: []ci.Workload{{
		Kind: "Deployment", Name: "web", State: ci.WorkloadRolls, Text: "1 of 2 \u00fc", Desired: 2, Updated: 1, OldReady: 2, Old: 2,
		Events: []ci.WorkloadEvent{{Time: noon, Object: "pod web-1", Reason: "BackOff", Message: "no", Count: 3, Warning: true}}, Log: []string{"a", "b"},
	}}}
	check(t, s.PutRollout(t.Context(), deploy.ID, 2, picture))
	check(t, s.PutRollout(t.Context(), build.ID, 1, ci.Rollout{Updated: noon, Back: true}))
	first, second := ci.Rollout{JobNumber: 1, StepNumber: 1, Updated: noon, Back: true}, picture
	second.JobNumber, second.StepNumber = 2, 2
	list(run.ID, first, second)

	picture.Workloads[0].State = ci.WorkloadDone
	check(t, s.PutRollout(t.Context(), deploy.ID, 2, picture))
	second.Workloads = picture.Workloads
	list(run.ID, first, second)

	other := createRun(t, s, "a/b")
	list(other.ID)
	wantErr(t, s.PutRollout(t.Context(), deploy.ID, 3, picture), store.ErrNotFound)
	wantErr(t, s.PutRollout(t.Context(), 4711, 1, picture), store.ErrNotFound)
	check(t, s.DeleteRepo(t.Context(), "a/b"))
	list(run.ID)
}
