package flow_test

import (
	"sync"
	"testing"
	"time"

	"slipway/internal/ci"
	"slipway/internal/flow/flowtest"
	"slipway/internal/protocol"
)

// gone has the branch x deleted, and returns the teardown with the lease of its job.
func (d *dock) gone() (ci.Run, string) {
	d.Helper()
	runs, err := d.Deleted(d.Context(), flowtest.Repo, ci.Event{Kind: ci.Delete, Ref: "refs/heads/x", Sender: "ada"})
	if err != nil || len(runs) != 1 {
		d.Fatalf("torn down by %+v, %v", runs, err)
	}
	return runs[0], d.claim(runs[0])
}

// TestTurnOfOlder has a branch deleted while its runs are under way: what deploys already comes to its end first, and what
// would have deployed later does not.
func TestTurnOfOlder(t *testing.T) {
	d := newDock(t)
	_, under := d.accept(d.branch("x", ship("review/x")))
	d.want(d.ask(under), ci.GatePassed, "")
	late, slow := d.accept(d.branch("x", ship("review/x")))
	_, teardown := d.gone()
	d.want(d.ask(teardown), ci.GateWaiting, "run 1 changes review/x; waiting for its end")
	const refusal = "run 3, which is newer than this one, tears review/x down, because the branch x was deleted; to deploy there again, push to the branch or restart this run"
	d.want(d.ask(slow), ci.GateRefused, refusal)
	d.want(d.ask(under), ci.GatePassed, "") // by a runner that was started again
	d.Clock.Forward(time.Minute)
	d.release(under, 1, "review/x", "shop-x")
	d.want(d.ask(teardown), ci.GateWaiting, "run 1 changes review/x")
	d.end(under, ci.Success)
	d.want(d.ask(teardown), ci.GatePassed, "")
	d.end(teardown, ci.Success)
	d.reviews(0)
	d.end(slow, ci.Failure)

	// Also long after it, and in a step that comes to its gate for the first time; a restart is a newer run.
	d.Clock.Forward(time.Hour)
	again, err := d.Flow.Restart(t.Context(), flowtest.Repo, late.Number, "ann")
	if err != nil {
		t.Fatal(err)
	}
	lease := d.claim(again)
	d.want(d.ask(lease), ci.GatePassed, "")
	d.release(lease, 1, "review/x", "shop-x")
	d.end(lease, ci.Success)
	d.reviews(1)
}

// TestTurnAfter asks for the first time when the environment is gone.
func TestTurnAfter(t *testing.T) {
	d := newDock(t)
	_, first := d.accept(d.branch("x", ship("review/x")))
	d.want(d.ask(first), ci.GatePassed, "")
	d.end(first, ci.Success)
	_, late := d.accept(d.branch("x", ship("review/x")))
	_, other := d.accept(d.branch("y", ship("review/y")))
	_, teardown := d.gone()
	d.want(d.ask(teardown), ci.GatePassed, "")
	d.end(teardown, ci.Success)
	d.reviews(0)
	d.Restart()
	d.want(d.ask(late), ci.GateRefused, "run 4, which is newer than this one, tears review/x down, because the branch x was deleted")
	d.reviews(0)
	d.want(d.ask(other), ci.GatePassed, "")

	// A push to the branch that is there again is welcome.
	_, lease := d.accept(d.branch("x", ship("review/x")))
	d.want(d.ask(lease), ci.GatePassed, "")
	d.reviews(2)
}

// TestTurnBefore has the branch deleted before its environment was ever there: it does not come.
func TestTurnBefore(t *testing.T) {
	d := newDock(t)
	run, late := d.accept(d.branch("x", ship("review/x")))
	_, other := d.accept(d.branch("y", ship("review/y")))
	again, teardown := d.gone()
	if twice, _ := d.Deleted(t.Context(), flowtest.Repo, ci.Event{Kind: ci.Delete, Ref: "refs/heads/x"}); len(twice) != 1 || twice[0].ID != again.ID {
		t.Errorf("told twice, it is torn down by %+v", twice)
	}
	if review := d.reviews(1)[0]; review.Name != "review/x" || review.Namespace != "shop-x" || review.Run != run.Number {
		t.Errorf("what is torn down is %+v", review)
	}
	d.want(d.ask(teardown), ci.GatePassed, "")
	d.end(teardown, ci.Success)
	d.reviews(0)
	d.want(d.ask(late), ci.GateRefused, "run 3, which is newer than this one, tears review/x down, because the branch x was deleted")
	d.want(d.ask(other), ci.GatePassed, "")
}

// TestTurnOfNewer has the branch pushed again before its environment is removed: the newer run keeps it, and the teardown is not
// tried again.
func TestTurnOfNewer(t *testing.T) {
	d := newDock(t)
	_, lease := d.accept(d.branch("x", ship("review/x")))
	d.want(d.ask(lease), ci.GatePassed, "")
	d.end(lease, ci.Success)
	run, teardown := d.gone()
	_, lease = d.accept(d.branch("x", ship("review/x")))
	d.want(d.ask(lease), ci.GatePassed, "")
	d.want(d.ask(teardown), ci.GateSuperseded, "run 3, which is newer than this one, has deployed to review/x, so it stays")
	d.end(teardown, ci.Canceled)
	d.end(lease, ci.Success)
	d.Clock.Forward(2 * time.Hour)
	d.tidy()
	d.reviews(1)
	if last := d.Server.Run(run.Number + 1); last.Event.Order != nil {
		t.Errorf("run %d is %+v", last.Number, last)
	}
	if _, err := d.FindRun(t.Context(), flowtest.Repo, 4); err == nil {
		t.Error("it is torn down again")
	}
}

// TestTurnRaces has both come at once, many times: never are both let in.
func TestTurnRaces(t *testing.T) {
	d := newDock(t)
	_, lease := d.accept(d.branch("x", ship("review/x")))
	d.want(d.ask(lease), ci.GatePassed, "")
	d.end(lease, ci.Success)
	for range 10 {
		_, deploy := d.accept(d.branch("x", ship("review/x")))
		_, teardown := d.gone()
		var permits [2]protocol.Permit
		var both sync.WaitGroup
		for i, lease := range []string{deploy, teardown} {
			both.Go(func() {
				permit, err := d.Permit(t.Context(), lease, 1, "")
				if err != nil {
					t.Error(err)
				}
				permits[i] = permit
			})
		}
		both.Wait()
		first, second := permits[0].State, permits[1].State
		if (first == ci.GatePassed) == (second == ci.GatePassed) {
			t.Fatalf("the deployment is %s, the teardown %s", first, second)
		}
		d.end(deploy, ci.Success)
		d.want(d.ask(teardown), ci.GatePassed, "")
		d.end(teardown, ci.Failure)
	}
}
