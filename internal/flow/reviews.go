package flow

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/plan"
	"slipway/internal/store"
)

// teardownPause is how long after a teardown that failed the next one is tried by itself.
const teardownPause = time.Hour

// noteReview remembers a review environment before anything is deployed to it, so that none is forgotten.
func (f *Flow) noteReview(ctx context.Context, run ci.Run, v visit) error {
	if !v.rules.Pattern() {
		return nil
	}
	e := v.environment
	err := f.Store.UpdateReview(ctx, run.Repo, e.Name, func(r *ci.Review) error {
		if r.Created.IsZero() {
			r.Created = v.now
		}
		r.Pattern, r.Branch, r.Namespace, r.URL = v.rules.Name, v.branch, e.Namespace, e.URL
		r.Run, r.Updated, r.Ends = run.Number, v.now, time.Time{}
		if e.Lifetime > 0 {
			r.Ends = v.now.Add(e.Lifetime)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("keep the review environment %s: %w", e.Name, err)
	}
	return nil
}

// noteReleased remembers the review environment of a release, from which its lifetime counts.
func (f *Flow) noteReleased(ctx context.Context, run ci.Run, r ci.Release) error {
	if order := run.Event.Order; order != nil && order.Action == string(plan.ActionTeardown) {
		return nil
	}
	rules, err := f.Store.ListEnvironments(ctx, run.Repo)
	if err != nil {
		return fmt.Errorf("list the environments of %s: %w", run.Repo, err)
	}
	found, branch, ok := ci.FindEnvironment(rules, r.Environment)
	if !ok {
		return nil
	}
	return f.noteReview(ctx, run, visit{rules: found, environment: found.For(branch), branch: branch, now: f.Now()})
}

// findReview returns a review environment that exists.
func (f *Flow) findReview(ctx context.Context, repo, name string) (ci.Review, error) {
	all, err := f.Store.ListReviews(ctx, repo)
	if err != nil {
		return ci.Review{}, fmt.Errorf("list the review environments of %s: %w", repo, err)
	}
	for _, r := range all {
		if r.Name == name {
			return r, nil
		}
	}
	return ci.Review{}, fault.New(fault.NotFound, "%s has no review environment %q; only those that a pattern such as review/* made can be torn down", repo, name)
}

// self is who causes what nobody asked for.
const self = "slipway"

// Teardown starts a run that removes a review environment with all that it has, or returns the one that is under way. If who is
// empty, Slipway itself wants it.
func (f *Flow) Teardown(ctx context.Context, repo, name, who, reason string) (ci.Run, error) {
	if _, err := f.findRepo(ctx, repo); err != nil {
		return ci.Run{}, err
	}
	review, err := f.findReview(ctx, repo, name)
	if err != nil {
		return ci.Run{}, err
	}
	if last, err := f.teardownOf(ctx, review); err != nil || last.ID != 0 && !last.Status.Done() {
		return last, err
	}
	title := "Tear down " + name
	if reason != "" {
		title += ": " + reason
	}
	event, err := f.orderEvent(ctx, repo, review.Run, cmp.Or(who, self), title)
	if err != nil {
		return ci.Run{}, err
	}
	event.DeployTo = name
	event.Order = &ci.Order{Action: string(plan.ActionTeardown), Environment: name, Namespace: review.Namespace, Reason: reason, Own: who == ""}
	run, err := f.StartOrder(ctx, repo, event)
	if err != nil {
		return ci.Run{}, err
	}
	err = f.Store.UpdateReview(ctx, repo, name, func(r *ci.Review) error {
		if r.Created.IsZero() {
			return store.ErrNotFound
		}
		r.Teardown = run.Number
		return nil
	})
	return run, err
}

// teardownOf returns the newest run that was to tear a review environment down; its ID is 0 if there is none.
func (f *Flow) teardownOf(ctx context.Context, review ci.Review) (ci.Run, error) {
	if review.Teardown == 0 {
		return ci.Run{}, nil
	}
	run, err := f.Store.FindRun(ctx, review.Repo, review.Teardown)
	if errors.Is(err, store.ErrNotFound) {
		return ci.Run{}, nil
	}
	return run, err
}

// Deleted tears down the review environments of a branch that is gone, and returns the runs that do so.
func (f *Flow) Deleted(ctx context.Context, repo string, event ci.Event) ([]ci.Run, error) {
	branch, ok := strings.CutPrefix(event.Ref, "refs/heads/")
	if !ok {
		return nil, nil
	}
	reviews, err := f.Store.ListReviews(ctx, repo)
	if err != nil {
		return nil, fmt.Errorf("list the review environments of %s: %w", repo, err)
	}
	coming, err := f.coming(ctx, repo, branch)
	if err != nil {
		return nil, err
	}
	for _, c := range coming {
		if slices.ContainsFunc(reviews, func(r ci.Review) bool { return r.Name == c.environment.Name }) {
			continue
		}
		if err := f.noteReview(ctx, c.run, c.visit); err != nil {
			return nil, err
		}
		reviews = append(reviews, ci.Review{Repo: repo, Name: c.environment.Name, Branch: branch})
	}
	var runs []ci.Run
	for _, r := range reviews {
		if r.Branch != branch {
			continue
		}
		run, err := f.Teardown(ctx, repo, r.Name, "", fmt.Sprintf("the branch %s was deleted", branch))
		if err != nil {
			return runs, err
		}
		runs = append(runs, run)
	}
	return runs, nil
}

// comer is a run with a deploy step that would come to a review environment.
type comer struct {
	visit
	run ci.Run
}

// coming returns what the runs of a branch that are under way would deploy to review environments. A branch that is deleted takes
// those along, too, although they are not there yet: the teardown keeps these runs from making them.
func (f *Flow) coming(ctx context.Context, repo, branch string) (all []comer, err error) {
	rules, err := f.Store.ListEnvironments(ctx, repo)
	if err != nil {
		return nil, fmt.Errorf("list the environments of %s: %w", repo, err)
	}
	runs, err := f.Store.ListRuns(ctx, store.RunFilter{Repo: repo, Unfinished: true})
	if err != nil {
		return nil, fmt.Errorf("list the runs of %s: %w", repo, err)
	}
	for _, run := range runs {
		if run.Event.Source != branch || run.Event.Order != nil {
			continue
		}
		planned, err := f.Store.FindPlan(ctx, run.ID)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, fmt.Errorf("find the plan of a run: %w", err)
		}
		for _, job := range planned.Jobs {
			for _, step := range job.Steps {
				c := comer{visit{event: run.Event, deploy: step.Deploy, now: f.Now()}, run}
				if step.Deploy != nil && step.Deploy.Action == plan.ActionDeploy && c.find(rules) == "" && c.rules.Pattern() &&
					!slices.ContainsFunc(all, func(other comer) bool { return other.environment.Name == c.environment.Name }) {
					all = append(all, c)
				}
			}
		}
	}
	return all, nil
}

// tidyReviews forgets the review environments that were torn down, and tears down those whose time is over.
func (f *Flow) tidyReviews(ctx context.Context) error {
	reviews, err := f.Store.ListReviews(ctx, "")
	if err != nil {
		return fmt.Errorf("list the review environments: %w", err)
	}
	var problems []error
	for _, r := range reviews {
		if err := f.tidyReview(ctx, r); err != nil {
			problems = append(problems, fmt.Errorf("review environment %s of %s: %w", r.Name, r.Repo, err))
		}
	}
	return errors.Join(problems...)
}

func (f *Flow) tidyReview(ctx context.Context, r ci.Review) error {
	last, err := f.teardownOf(ctx, r)
	switch {
	case err != nil:
		return err
	case last.ID != 0 && !last.Status.Done():
		return nil
	case last.Status == ci.Success && r.Run < last.Number:
		return f.forgetReview(ctx, last)
	}
	// One that failed for another reason than its time is tried again, too: the branch is gone, for example. What a person wished is
	// not: Slipway would do by itself what the gate may have refused to them.
	own := last.Event.Order != nil && last.Event.Order.Own
	due := !r.Ends.IsZero() && f.Now().After(r.Ends) || own && last.Status.Failed() && r.Run < last.Number
	if !due || last.ID != 0 && f.Now().Sub(last.Finished) < teardownPause {
		return nil
	}
	reason := "its lifetime is over"
	if own {
		reason = last.Event.Order.Reason
	}
	run, err := f.Teardown(ctx, r.Repo, r.Name, "", reason)
	if err == nil {
		f.Log.Info("tear down a review environment", "repo", r.Repo, "environment", r.Name, "run", run.Number, "reason", reason)
	}
	return err
}

// forgetReview forgets the review environment that a run tore down, unless something was deployed there since.
func (f *Flow) forgetReview(ctx context.Context, run ci.Run) error {
	order := run.Event.Order
	if order == nil || order.Action != string(plan.ActionTeardown) || run.Status != ci.Success {
		return nil
	}
	return f.Store.UpdateReview(ctx, run.Repo, order.Environment, func(r *ci.Review) error {
		if r.Created.IsZero() || r.Run < run.Number {
			return store.ErrNotFound
		}
		return nil
	})
}
