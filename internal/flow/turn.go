package flow

import (
	"context"
	"errors"
	"fmt"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/plan"
	"slipway/internal/store"
)

// A review environment comes with its first deployment and goes with its teardown, and both are runs that may meet: a branch is
// deleted while its last push is still being tested. Of the two, only one is under way at a time, and the newer has the last word.
// Else a deployment could bring back what was just removed.

// turn says whether a step that comes to a review environment may begin now: nothing if it may, or how it stands and why. Whoever
// acts on it holds [Flow.turns] until that is stored.
func (f *Flow) turn(ctx context.Context, run ci.Run, v visit) (ci.GateState, string, error) {
	if v.deploy.Action == plan.ActionTeardown {
		return f.turnOfTeardown(ctx, run, v.environment.Name)
	}
	at := store.GateFilter{Repo: run.Repo, Environment: v.environment.Name, Limit: maxGates}
	newest, err := f.Store.ListGates(ctx, at)
	if err != nil {
		return "", "", fmt.Errorf("list who was at the gate of %s: %w", at.Environment, err)
	}
	for _, g := range newest {
		if g.Run <= run.Number {
			break
		}
		teardown, err := f.teardownAt(ctx, g)
		switch {
		case err != nil:
			return "", "", err
		case teardown.ID == 0 || g.State == ci.GateWaiting && teardown.Status.Done():
			continue
		}
		why := ""
		if reason := teardown.Event.Order.Reason; reason != "" {
			why = ", because " + reason
		}
		return ci.GateRefused, fmt.Sprintf("run %d, which is newer than this one, tears %s down%s; to deploy there again, push to the branch or restart this run",
			g.Run, g.Environment, why), nil
	}
	at.Open = true
	open, err := f.Store.ListGates(ctx, at)
	if err != nil {
		return "", "", fmt.Errorf("list what is done to %s: %w", at.Environment, err)
	}
	for _, g := range open {
		if g.Run >= run.Number {
			continue
		}
		switch teardown, err := f.teardownAt(ctx, g); {
		case err != nil:
			return "", "", err
		case teardown.ID != 0 && !teardown.Status.Done():
			return ci.GateWaiting, fmt.Sprintf("run %d tears %s down; waiting for its end", g.Run, g.Environment), nil
		}
	}
	return "", "", nil
}

// teardownAt returns the run of a gate that waits or was passed, if it is a teardown; else its ID is 0.
func (f *Flow) teardownAt(ctx context.Context, g ci.Gate) (ci.Run, error) {
	if g.State != ci.GatePassed && g.State != ci.GateWaiting {
		return ci.Run{}, nil
	}
	run, err := f.Store.FindRun(ctx, g.Repo, g.Run)
	if errors.Is(err, store.ErrNotFound) || err == nil && (run.Event.Order == nil || run.Event.Order.Action != string(plan.ActionTeardown)) {
		return ci.Run{}, nil
	}
	return run, err
}

// maxGates bounds how far back it is looked for what else came to an environment.
const maxGates = 500

func (f *Flow) turnOfTeardown(ctx context.Context, run ci.Run, environment string) (ci.GateState, string, error) {
	switch review, err := f.findReview(ctx, run.Repo, environment); {
	case err != nil && fault.Of(err).Code != fault.NotFound: // one that is forgotten may be torn down again
		return "", "", err
	case review.Run > run.Number:
		return ci.GateSuperseded, fmt.Sprintf("run %d, which is newer than this one, has deployed to %s, so it stays", review.Run, environment), nil
	}
	gates, err := f.Store.ListGates(ctx, store.GateFilter{Repo: run.Repo, Environment: environment, Open: true, Limit: maxGates})
	if err != nil {
		return "", "", fmt.Errorf("list what is deployed to %s: %w", environment, err)
	}
	for _, g := range gates {
		if g.State != ci.GatePassed || g.Run == run.Number {
			continue
		}
		other, err := f.Store.FindRun(ctx, run.Repo, g.Run)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return "", "", err
		}
		if !other.Jobs[g.Job-1].Steps[g.Step-1].Status.Done() {
			return ci.GateWaiting, fmt.Sprintf("run %d changes %s; waiting for its end", g.Run, environment), nil
		}
	}
	return "", "", nil
}
