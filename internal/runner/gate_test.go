package runner_test

import (
	"strings"
	"testing"
	"time"

	"slipway/internal/ci"
	"slipway/internal/flow"
	"slipway/internal/store"
)

const shipPipeline = `
steps:
- name: deploy
	image: slipway/deploy
	settings: {manifests: [none.yaml], environment: production}
`

// waiting is a condition for until: a deployment of the run waits at its gate.
func (b *bench) waiting(number int64) func() bool {
	return func() bool {
		gates, err := b.DB.ListGates(b.T.Context(), store.GateFilter{Repo: "ada/engine", Run: number, Waiting: true})
		if err != nil {
			b.Fatal(err)
		}
		return len(gates) == 1
	}
}

func (b *bench) protect() {
	b.Helper()
	_, err := b.AddEnvironment(b.T.Context(), "ada/engine", "production", "", func(e *ci.Environment) { e.Approvals = 1 })
	if err != nil {
		b.Fatal(err)
	}
}

// A deployment that waits leaves its seat to others, survives the runner and the server, and goes on when it is approved.
func TestWaitForApproval(t *testing.T) {
	b := newBench(t)
	b.capacity = 1
	b.protect()
	run := b.Push(pipeline(shipPipeline))
	stop := b.start()
	b.until("the deployment waits", b.waiting(run.Number))
	other := b.Push(pipeline("steps: [{name: a, image: busybox, commands: [\"true\"]}]\n"))
	b.wantRun(b.Await(other.Number, finished), ci.Success, "")
	b.Await(run.Number, func(run ci.Run) bool {
		return run.Jobs[0].Steps[0].Message == "waits for 1 of 1 approvals of production"
	})
	stop()
	b.Clock.Forward(90 * time.Minute) // longer than a job may take
	b.Server.Restart()
	b.start()
	b.until("the next runner has taken the step up", func() bool {
		return strings.Contains(b.Log(b.Server.Run(run.Number), 1, 1), "the runner was restarted")
	})
	if _, err := b.Vote(t.Context(), flow.Ballot{Repo: "ada/engine", Run: run.Number, Choice: ci.Approve, Who: "bob"}); err != nil {
		t.Fatal(err)
	}
	run = b.Await(run.Number, finished)
	b.wantRun(run, ci.Failure, "none.yaml") // the gate let it through to its manifests
	if log := b.Log(run, 1, 1); !strings.Contains(log, "slipway: waits for 1 of 1 approvals of production\n") {
		t.Errorf("the log is %q", log)
	}
	b.clean()
}

func TestRejectedSupersededCanceled(t *testing.T) {
	b := newBench(t)
	b.capacity = 1
	b.protect()
	b.start()
	first := b.Push(pipeline(shipPipeline))
	b.until("the first waits", b.waiting(first.Number))
	second := b.Push(pipeline(shipPipeline))
	b.wantRun(b.Await(first.Number, finished), ci.Canceled, "run 2 brings something newer to production")
	b.until("the second waits", b.waiting(second.Number))
	if _, err := b.Vote(t.Context(), flow.Ballot{Repo: "ada/engine", Run: second.Number, Choice: ci.Reject, Who: "bob", Comment: "not today"}); err != nil {
		t.Fatal(err)
	}
	b.wantRun(b.Await(second.Number, finished), ci.Failure, "rejected by bob: not today")
	third := b.Push(pipeline(shipPipeline))
	b.until("the third waits", b.waiting(third.Number))
	if _, err := b.Cancel(t.Context(), "ada/engine", third.Number, "ada"); err != nil {
		t.Fatal(err)
	}
	b.wantRun(b.Await(third.Number, finished), ci.Canceled, "canceled by ada")
	b.clean()
}
