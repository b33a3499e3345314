package flow_test

import (
	"testing"
	"time"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/flow"
	"slipway/internal/flow/flowtest"
	"slipway/internal/protocol"
)

// release reports a release of the first step.
func (d *dock) release(lease string, number int64, environment, namespace string) {
	d.Helper()
	now := d.Clock.Now()
	err := d.Append(d.Context(), lease, []protocol.Event{{Seq: 1, Time: now, Release: &protocol.Release{Step: 1, Release: ci.Release{
		Environment: environment, Namespace: namespace, Number: number, Started: now, Finished: now, Status: ci.Success,
	}}}})
	if err != nil {
		d.Fatal(err)
	}
}

func TestReviews(t *testing.T) {
	d := newDock(t)
	run, lease := d.accept(d.branch("feature/x", ship("review/${DRONE_BRANCH}")))
	permit := d.ask(lease)
	d.want(permit, ci.GatePassed, "")
	slug := ci.BranchSlug("feature/x")
	if permit.Environment != "review/feature/x" || permit.Namespace != "shop-"+slug || !permit.Review {
		t.Errorf("permitted %+v", permit)
	}
	d.release(lease, 1, "review/feature/x", "shop-"+slug)
	d.end(lease, ci.Success)
	review := d.reviews(1)[0]
	if review.Branch != "feature/x" || review.Pattern != "review/*" || review.Run != run.Number || review.Ends.IsZero() {
		t.Errorf("the review environment is %+v", review)
	}
	// The rules that it needs stay.
	if err := d.DeleteEnvironment(t.Context(), flowtest.Repo, "review/*"); fault.Of(err).Code != fault.Conflict {
		t.Errorf("its pattern was deleted: %v", err)
	}
	if _, err := d.ChangeEnvironment(t.Context(), flowtest.Repo, "review/*", nil, func(e *ci.Environment) { e.Namespace = "other-{branch}" }); fault.Of(err).Code != fault.Conflict {
		t.Errorf("its pattern was moved: %v", err)
	}
	if _, err := d.Teardown(t.Context(), flowtest.Repo, "production", "bob", ""); fault.Of(err).Code != fault.NotFound {
		t.Errorf("production was torn down: %v", err)
	}

	// The branch goes, and the environment with it; the message may come twice.
	gone := ci.Event{Kind: ci.Delete, Ref: "refs/heads/feature/x", Before: run.Event.After, Sender: "ada"}
	for range 2 {
		runs, err := d.Deleted(t.Context(), flowtest.Repo, gone)
		if err != nil || len(runs) != 1 || runs[0].Number != 2 || runs[0].Event.Commit.Title() != "Tear down review/feature/x: the branch feature/x was deleted" {
			t.Fatalf("torn down by %+v, %v", runs, err)
		}
	}
	if runs, err := d.Deleted(t.Context(), flowtest.Repo, ci.Event{Kind: ci.Delete, Ref: "refs/heads/other"}); err != nil || len(runs) != 0 {
		t.Errorf("another branch: %v, %v", runs, err)
	}
	d.Restart() // its plan is the same again
	d.change("review/*", func(e *ci.Environment) { e.Deployers = []string{"ann"} })
	lease = d.claim(d.Server.Run(2))
	permit = d.ask(lease)
	d.want(permit, ci.GatePassed, "")
	if permit.Namespace != "shop-"+slug || permit.Environment != "review/feature/x" {
		t.Errorf("the teardown is permitted %+v", permit)
	}
	d.end(lease, ci.Failure)
	d.reviews(1)
	// One that failed is tried again, but not at once.
	d.tidy()
	if runs := d.Server.Run(2); runs.Number != 2 {
		t.Fatal("no run")
	}
	if _, err := d.FindRun(t.Context(), flowtest.Repo, 3); err == nil {
		t.Error("it is tried again at once")
	}
	d.Clock.Forward(61 * time.Minute)
	d.tidy()
	lease = d.claim(d.Server.Run(3))
	d.want(d.ask(lease), ci.GatePassed, "")
	d.end(lease, ci.Success)
	d.reviews(0)
	d.tidy()
}

func TestReviewLifetime(t *testing.T) {
	d := newDock(t)
	for range 2 {
		_, lease := d.accept(d.branch("x", ship("review/x")))
		d.want(d.ask(lease), ci.GatePassed, "")
		d.release(lease, 1, "review/x", "shop-x")
		d.end(lease, ci.Success)
		d.Clock.Forward(71 * time.Hour)
		d.tidy()
	}
	if _, err := d.FindRun(t.Context(), flowtest.Repo, 3); err == nil {
		t.Fatal("it was torn down before its time")
	}
	d.Clock.Forward(2 * time.Hour)
	d.tidy()
	d.tidy()
	run := d.Server.Run(3)
	if run.Event.Order == nil || run.Event.Order.Reason != "its lifetime is over" || run.Event.Order.Action != "teardown" {
		t.Fatalf("run 3 is %+v", run)
	}
	lease := d.claim(run)
	d.want(d.ask(lease), ci.GatePassed, "")
	// Something is pushed while it is torn down: it is there afterwards.
	_, other := d.accept(d.branch("x", ship("review/x")))
	d.want(d.ask(other), ci.GateWaiting, "run 3 tears review/x down; waiting for its end")
	d.end(lease, ci.Success)
	d.reviews(0)
	d.want(d.ask(other), ci.GatePassed, "")
	d.reviews(1)
	d.tidy()
	d.reviews(1)
	if _, err := d.FindRun(t.Context(), flowtest.Repo, 5); err == nil {
		t.Error("it is torn down again")
	}
}

func (d *dock) tidy() {
	d.Helper()
	if err := flow.TidyReviews(d.Context(), d.Flow); err != nil {
		d.Fatal(err)
	}
}

func (d *dock) reviews(n int) []ci.Review {
	d.Helper()
	all, err := d.DB.ListReviews(d.Context(), flowtest.Repo)
	if err != nil || len(all) != n {
		d.Fatalf("%d review environments, want %d: %+v, %v", len(all), n, all, err)
	}
	return all
}

// What a person may not tear down, Slipway does not tear down for them later.
func TestTeardownRefused(t *testing.T) {
	d := newDock(t)
	_, lease := d.accept(d.branch("x", ship("review/x")))
	d.want(d.ask(lease), ci.GatePassed, "")
	d.release(lease, 1, "review/x", "shop-x")
	d.end(lease, ci.Success)
	d.change("review/*", func(e *ci.Environment) { e.Deployers = []string{"ann"} })
	run, err := d.Teardown(t.Context(), flowtest.Repo, "review/x", "bob", "")
	if err != nil {
		t.Fatal(err)
	}
	lease = d.claim(run)
	d.want(d.ask(lease), ci.GateRefused, "bob may not deploy to review/x")
	d.end(lease, ci.Failure)
	d.Clock.Forward(2 * time.Hour)
	d.tidy()
	d.reviews(1)
	if _, err := d.FindRun(t.Context(), flowtest.Repo, run.Number+1); fault.Of(err).Code != fault.NotFound {
		t.Errorf("it is torn down all the same: %v", err)
	}
}
