package flow

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/plan"
	"slipway/internal/store"
)

// Cluster is one that environments of repos have, beside that of the runners.
type Cluster struct {
	// Name is the address of its API server; several with the same one are told apart by a repo of theirs.
	Name string
	// Kubeconfig is the way to it. Err says why it cannot be had.
	Kubeconfig string
	Err        error
	// Repos are those that have environments there, and Namespaces are where these are, as far as their rules say.
	Repos, Namespaces []string
}

// Clusters returns the clusters of the environments of all repos, each way to one once.
func (f *Flow) Clusters(ctx context.Context) ([]Cluster, error) {
	all, err := f.Store.ListEnvironments(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("list the environments: %w", err)
	}
	reviews, err := f.Store.ListReviews(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("list the review environments: %w", err)
	}
	var clusters []Cluster
	add := func(list *[]string, text string) {
		if text != "" && !slices.Contains(*list, text) {
			*list = append(*list, text)
		}
	}
	for _, e := range all {
		if len(e.Kubeconfig) == 0 {
			continue
		}
		made := Cluster{Name: e.Cluster}
		made.Kubeconfig, made.Err = f.openKubeconfig(e)
		i := slices.IndexFunc(clusters, func(c Cluster) bool { return made.Err == nil && c.Err == nil && c.Kubeconfig == made.Kubeconfig })
		if i < 0 {
			if slices.ContainsFunc(clusters, func(c Cluster) bool { return c.Name == made.Name }) {
				made.Name += " of " + e.Repo + " " + e.Name
			}
			i = len(clusters)
			clusters = append(clusters, made)
		}
		c := &clusters[i]
		add(&c.Repos, e.Repo)
		if !e.Pattern() {
			add(&c.Namespaces, e.Namespace)
			continue
		}
		for _, r := range reviews {
			if r.Repo == e.Repo && r.Pattern == e.Name {
				add(&c.Namespaces, r.Namespace)
			}
		}
	}
	return clusters, nil
}

// healPatience is how long a run that is to heal waits for a runner, and is in the sentence that says so.
const healPatience = 30 * time.Minute

// Heal puts the release back that serves in an environment, because the cluster has come to differ from it, by a run of its
// own, and returns when that is over. If such a run is under way, it is waited for instead. When ctx ends, the run goes on. A run that
// no runner takes within half an hour is canceled, because what it would put back grows old; then the error is [fault.Unavailable].
func (f *Flow) Heal(ctx context.Context, d ci.Drift) error {
	changes, stop := f.Changes()
	defer stop()
	run, err := f.healing(ctx, d)
	if err != nil {
		return err
	}
	for !run.Status.Done() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changes:
		case <-time.After(10 * time.Second): // changes may be missed
		}
		if run, err = f.FindRun(ctx, d.Repo, run.Number); err != nil {
			return err
		}
		if run.Status == ci.Pending && f.Now().Sub(run.Created) > healPatience {
			if _, err := f.Cancel(ctx, d.Repo, run.Number, self); err != nil && fault.Of(err).Code != fault.Conflict {
				return err
			}
			return fault.New(fault.Unavailable, "no runner took run %d within half an hour, which was to put release %d back in %s", run.Number, d.Release, d.Environment)
		}
	}
	if run.Status != ci.Success {
		return fault.New(fault.Failed, "run %d, which was to put release %d back in %s, ended as %s: %s", run.Number, d.Release, d.Environment, run.Status, problemOf(run))
	}
	return nil
}

// healing returns the run that puts a release back: one that was started before, or a new one.
func (f *Flow) healing(ctx context.Context, d ci.Drift) (ci.Run, error) {
	order := ci.Order{
		Action: string(plan.ActionRollback), Environment: d.Environment, Namespace: d.Namespace, Release: d.Release,
		Reason: "the cluster differs from what was deployed", Own: true,
	}
	open, err := f.Store.ListRuns(ctx, store.RunFilter{Repo: d.Repo, Unfinished: true})
	if err != nil {
		return ci.Run{}, fmt.Errorf("list the runs that go on: %w", err)
	}
	for _, run := range open {
		if run.Event.Order != nil && *run.Event.Order == order {
			return run, nil
		}
	}
	about := int64(0)
	releases, err := f.Store.ListReleases(ctx, store.ReleaseFilter{Repo: d.Repo, Environment: d.Environment, Namespace: d.Namespace, Limit: 500})
	if err != nil {
		return ci.Run{}, fmt.Errorf("list the releases of %s: %w", d.Environment, err)
	}
	if i := slices.IndexFunc(releases, func(r ci.Release) bool { return r.Number == d.Release }); i >= 0 {
		about = releases[i].Run
	}
	event, err := f.orderEvent(ctx, d.Repo, about, self, fmt.Sprintf("Put release %d of %s back, from which the cluster differs", d.Release, d.Environment))
	if err != nil {
		return ci.Run{}, err
	}
	event.Kind, event.DeployTo, event.Order = ci.Rollback, d.Environment, &order
	return f.StartOrder(ctx, d.Repo, event)
}

// problemOf says in a sentence why a run failed.
func problemOf(run ci.Run) string {
	for _, job := range run.Jobs {
		for _, step := range job.Steps {
			if step.Message != "" {
				return step.Message
			}
		}
		if job.Message != "" {
			return job.Message
		}
	}
	return cmp.Or(run.Message, "it says no reason")
}
