package flow

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/plan"
	"slipway/internal/store"
)

// An order is a run without a pipeline: its event says what is done to an environment, and its plan is one job with one deploy step
// and no clone. A runner carries it out as any other, so logs, watching and safety from crashes are the same.

// StartOrder starts a run that does nothing but the order of its event. Of the event, Kind, Order, By and the commit should be
// set. Who may do so is the caller's to check; the environment's rules are checked at its gate.
func (f *Flow) StartOrder(ctx context.Context, repo string, event ci.Event) (ci.Run, error) {
	if event.Order == nil {
		return ci.Run{}, fault.New(fault.Internal, "a run without a pipeline needs an order")
	}
	event.Delivery = ""
	return f.create(ctx, ci.Run{Repo: repo, Event: event})
}

// planOf is the plan of an order. It asks for nothing but what is stored, so that a server which was killed makes the same again.
func (f *Flow) planOf(ctx context.Context, repo string, order ci.Order) (plan.Plan, error) {
	deploy := plan.Deploy{
		Action: plan.Action(order.Action), Release: order.Release, Environment: order.Environment, Namespace: plan.Text(order.Namespace),
	}
	// Without rules, only the step that deployed there knows the way to the cluster.
	last, err := f.lastDeploy(ctx, repo, order.Environment, order.Namespace)
	if err != nil {
		return plan.Plan{}, err
	}
	if last != nil {
		deploy.Policy, deploy.Timeout = last.Policy, last.Timeout
		if rules, err := f.Store.ListEnvironments(ctx, repo); err != nil {
			return plan.Plan{}, fmt.Errorf("list the environments of %s: %w", repo, err)
		} else if e, _, ok := ci.FindEnvironment(rules, order.Environment); !ok || len(e.Kubeconfig) == 0 {
			deploy.Kubeconfig = last.Kubeconfig
		}
	}
	p := plan.Plan{Version: plan.Version, Jobs: []plan.Job{{
		Name: order.Action, Workspace: "/workspace",
		Steps: []plan.Step{{Name: order.Action, Kind: plan.KindDeploy, Deploy: &deploy}},
	}}}
	return p, p.Validate()
}

// lastDeploy returns the deploy step that made the newest release of an environment, or nil.
func (f *Flow) lastDeploy(ctx context.Context, repo, environment, namespace string) (*plan.Deploy, error) {
	releases, err := f.Store.ListReleases(ctx, store.ReleaseFilter{Repo: repo, Environment: environment, Namespace: namespace})
	if err != nil {
		return nil, fmt.Errorf("list the releases of %s: %w", environment, err)
	}
	for _, r := range releases {
		run, err := f.Store.FindRun(ctx, repo, r.Run)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		planned, err := f.Store.FindPlan(ctx, run.ID)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, err
		}
		for _, job := range planned.Jobs {
			for _, step := range job.Steps {
				if step.Name == r.Step && step.Deploy != nil {
					return step.Deploy, nil
				}
			}
		}
	}
	return nil, nil
}

// Rollback starts a run that brings an environment back to a release, or to the last good one before that which serves if number
// is 0. An empty namespace means the only one that the environment was deployed to.
func (f *Flow) Rollback(ctx context.Context, repo, environment, namespace string, number int64, who string) (ci.Run, error) {
	if _, err := f.findRepo(ctx, repo); err != nil {
		return ci.Run{}, err
	}
	releases, err := f.Store.ListReleases(ctx, store.ReleaseFilter{Repo: repo, Environment: environment, Namespace: namespace, Limit: 500})
	if err != nil {
		return ci.Run{}, fmt.Errorf("list the releases of %s: %w", environment, err)
	}
	places := map[string]bool{}
	for _, r := range releases {
		places[r.Namespace] = true
	}
	switch {
	case len(places) == 0:
		return ci.Run{}, fault.New(fault.NotFound, "no run of %s has deployed to %s", repo, place(environment, namespace))
	case len(places) > 1:
		return ci.Run{}, fault.New(fault.Invalid, "%s was deployed to several namespaces; say which is meant: %s", environment, strings.Join(slices.Sorted(maps.Keys(places)), ", "))
	}
	newest := releases[0]
	title := fmt.Sprintf("Roll %s back", environment)
	if number > 0 {
		title += fmt.Sprintf(" to release %d", number)
		i := slices.IndexFunc(releases, func(r ci.Release) bool { return r.Number == number })
		if i < 0 {
			return ci.Run{}, fault.New(fault.NotFound, "%s has no release %d", place(environment, newest.Namespace), number)
		}
		newest.Run = releases[i].Run
	}
	event, err := f.orderEvent(ctx, repo, newest.Run, who, title)
	if err != nil {
		return ci.Run{}, err
	}
	event.Kind, event.DeployTo = ci.Rollback, environment
	event.Order = &ci.Order{Action: string(plan.ActionRollback), Environment: environment, Namespace: newest.Namespace, Release: number}
	return f.StartOrder(ctx, repo, event)
}

func place(environment, namespace string) string {
	if namespace == "" {
		return environment
	}
	return environment + " in the namespace " + namespace
}

// orderEvent is the event of an order, without the order: of the commit of the run that it is about, if that is there still.
func (f *Flow) orderEvent(ctx context.Context, repo string, about int64, who, title string) (ci.Event, error) {
	event := ci.Event{
		Kind: ci.Manual, Sender: who, By: who,
		Commit: ci.Commit{Message: title, Author: ci.Signature{Login: who}},
	}
	run, err := f.Store.FindRun(ctx, repo, about)
	if errors.Is(err, store.ErrNotFound) {
		return event, nil
	}
	if err != nil {
		return ci.Event{}, err
	}
	event.Ref, event.After, event.Source, event.Target = run.Event.Ref, run.Event.After, run.Event.Source, run.Event.Target
	event.Link, event.Commit.Link = run.Event.Link, run.Event.Commit.Link
	return event, nil
}

// Promotion brings what a run made to another environment.
type Promotion struct {
	Repo string
	Run  int64
	// Kind is [ci.Promote], or [ci.Rollback] for what Drone calls that: a pipeline for the event rollback.
	Kind   ci.EventKind
	Target string
	Params map[string]string
	Who    string
}

// Bounds of what a promotion may bring.
const (
	maxParams = 100
	maxParam  = 16 << 10 // bytes of one
)

// Promote runs the pipeline of a run again, for the event promote and a target. The images that the run pushed are known to
// the new one, so that it deploys the very same ones without building any.
func (f *Flow) Promote(ctx context.Context, p Promotion) (ci.Run, error) {
	earlier, err := f.FindRun(ctx, p.Repo, p.Run)
	if err != nil {
		return ci.Run{}, err
	}
	switch {
	case p.Kind != ci.Promote && p.Kind != ci.Rollback:
		return ci.Run{}, fault.New(fault.Invalid, "%q is no way to promote a run; it is promote or rollback", p.Kind)
	case p.Target == "" || len(p.Target) > 300:
		return ci.Run{}, fault.New(fault.Invalid, "say which environment run %d is promoted to", p.Run)
	case earlier.Event.FromFork():
		return ci.Run{}, fault.New(fault.Forbidden, "run %d is of a pull request from a fork, and strangers' work is not promoted; merge it first", p.Run)
	case earlier.Event.Order != nil:
		return ci.Run{}, fault.New(fault.Conflict, "run %d has no pipeline: it was a %s; promote the run whose release it is about", p.Run, earlier.Event.Order.Action)
	case earlier.Status != ci.Success:
		return ci.Run{}, fault.New(fault.Conflict, "run %d is not promoted, because it has not succeeded: it is %s", p.Run, earlier.Status)
	case len(p.Params) > maxParams:
		return ci.Run{}, fault.New(fault.TooLarge, "a promotion has at most %d parameters", maxParams)
	}
	for name, value := range p.Params {
		if name == "" || strings.ContainsAny(name, "=\x00") || len(name)+len(value) > maxParam || strings.Contains(value, "\x00") {
			return ci.Run{}, fault.New(fault.Invalid, "%.50q cannot be a parameter; it is a NAME and a value of at most %d KiB", name, maxParam>>10)
		}
	}
	event := earlier.Event
	event.Kind, event.DeployTo, event.Params, event.Delivery, event.Action, event.CronName = p.Kind, p.Target, p.Params, "", "", ""
	event.Sender, event.By = p.Who, p.Who
	return f.create(ctx, ci.Run{Repo: p.Repo, Event: event, Parent: p.Run})
}

// maxPromotions bounds how far back images are looked for.
const maxPromotions = 20

// promotedImages are what the runs pushed that a run was promoted from, the oldest first.
func (f *Flow) promotedImages(ctx context.Context, run ci.Run) (images []ci.Image, err error) {
	for range maxPromotions {
		if run.Parent == 0 || run.Event.Kind != ci.Promote && run.Event.Kind != ci.Rollback {
			break
		}
		if run, err = f.Store.FindRun(ctx, run.Repo, run.Parent); errors.Is(err, store.ErrNotFound) {
			break
		}
		if err != nil {
			return nil, err
		}
		images = slices.Concat(run.Images, images)
	}
	return images, nil
}
