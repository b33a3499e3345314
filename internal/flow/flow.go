// Package flow is what happens between a push and its result, in order: [Flow.Accept] turns an event into a run with a
// plan, [Flow.Next] decides which jobs may start, [Flow.Claim] and its siblings serve the runners, and [Flow.Finish]
// ends a job and begins what comes after it. Read this package first; docs/one-run.md walks through it.
//
// All state is in the store, so that a server which is killed at any moment goes on where it was: [Flow.Recover].
package flow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"slipway/internal/auth"
	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/forge"
	"slipway/internal/plan"
	"slipway/internal/retention"
	"slipway/internal/runlog"
	"slipway/internal/secret"
	"slipway/internal/store"
)

// Options say what a flow is made of.
type Options struct {
	Store store.Store
	Logs  *runlog.Logs
	Keys  *secret.Keys
	Auth  *auth.Authority
	// Forges are the adapters by [ci.Repo.Forge].
	Forges map[string]forge.Forge
	// System is what pipelines may know of the server.
	System plan.System
	// URL is the server's root as people and forges reach it. Inside is how runners' machines reach it; empty means URL.
	URL    string
	Inside string
	// Registry is the host of the own registry, as images name it.
	Registry string
	// Mirrors are the hosts of other registries whose images it has, such as docker.io.
	Mirrors []string
	// Timeout bounds jobs whose repo and plan set no limit; 0 means an hour.
	Timeout time.Duration
	// Retention takes the registry's policies from repos' default branches; nil means that they are not read.
	Retention interface {
		PutFile(ctx context.Context, file retention.File) (warnings []string, err error)
	}
	Log *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Flow carries events to results. It may be used concurrently; [Flow.Close] waits for what it does in the background.
type Flow struct {
	Options
	changes  changes
	claims   claims
	reporter *reporter
	remarker *reporter
	// turns is held from when it is decided whose turn at a review environment it is until that is stored.
	turns sync.Mutex
}

// leaseTime is how long a runner may be silent before its job is given up: long enough for a server to be updated.
const leaseTime = 5 * time.Minute

// New returns a flow.
func New(opts Options) *Flow {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Timeout == 0 {
		opts.Timeout = time.Hour
	}
	if opts.Inside == "" {
		opts.Inside = opts.URL
	}
	f := &Flow{Options: opts}
	f.reporter = newReporter(statuses(f.report), opts.Log)
	f.remarker = newReporter(remarks(f.comment), opts.Log)
	return f
}

// Close waits until the statuses and comments that are on their way to forges have arrived, or ctx is done. What has not arrived by
// then is told by the next process, see [Flow.Recover].
func (f *Flow) Close(ctx context.Context) {
	f.reporter.close(ctx)
	f.remarker.close(ctx)
}

// Recover takes up what a server that was killed left: runs without a plan get theirs, jobs that may start become
// pending, and forges are told again. It is called once, before anything else. Leases get time anew, because their
// runners could not renew them while the server was away.
func (f *Flow) Recover(ctx context.Context) error {
	if err := f.checkKeys(ctx); err != nil {
		return err
	}
	runs, err := f.Store.ListRuns(ctx, store.RunFilter{Unfinished: true})
	if err != nil {
		return fmt.Errorf("look for unfinished runs: %w", err)
	}
	open := map[int64]bool{}
	for _, found := range runs {
		run, err := f.recoverRun(ctx, found)
		if err != nil {
			return fmt.Errorf("recover run %s %d: %w", found.Repo, found.Number, err)
		}
		for _, job := range run.Jobs {
			open[job.ID] = !job.Status.Done()
		}
	}
	if err := f.archiveLeft(ctx, open); err != nil {
		return err
	}
	recent, err := f.Store.ListRuns(ctx, store.RunFilter{})
	if err != nil {
		return fmt.Errorf("look for recent runs: %w", err)
	}
	told := map[statusKey]bool{}
	for _, run := range recent { // newest first: of several with the same status only that one counts
		if key := keyOf(run); !told[key] {
			told[key] = true
			if f.Now().Sub(run.Finished) < time.Hour {
				f.reporter.put(run)
			}
		}
		if remarkable(run) && !told[remarkKey(run)] && (!run.Status.Done() || f.Now().Sub(run.Finished) < time.Hour) {
			told[remarkKey(run)] = true
			f.remarker.put(run)
		}
	}
	if len(runs) > 0 {
		f.Log.Info("found unfinished runs", "runs", len(runs))
	}
	return nil
}

// checkKeys opens something that is sealed. A lost key would else be noticed by one run after another, and what is sealed
// meanwhile with a new one would be lost when the old one is back.
func (f *Flow) checkKeys(ctx context.Context) error {
	repos, err := f.Store.ListRepos(ctx)
	if err != nil {
		return fmt.Errorf("list the repos: %w", err)
	}
	for _, repo := range repos[:min(len(repos), 100)] {
		secrets, err := f.Store.ListSecrets(ctx, repo.Name)
		if err != nil {
			return fmt.Errorf("list the secrets of %s: %w", repo.Name, err)
		}
		_, _, err = f.forgeOf(repo)
		if err == nil && len(secrets) > 0 {
			_, err = f.Keys.OpenSecret(secrets[0])
		}
		if err != nil {
			return &fault.Error{
				Code: fault.Invalid, Err: err,
				Message: fmt.Sprintf("the secrets of %s were sealed with another key; restore the file secret.key in the data folder from a backup", repo.Name),
			}
		}
		if len(secrets)+len(repo.ForgeToken) > 0 {
			return nil
		}
	}
	return nil
}

// recoverRun takes up one unfinished run, and returns it as it stands then.
func (f *Flow) recoverRun(ctx context.Context, found ci.Run) (ci.Run, error) {
	run, err := f.Store.FindRun(ctx, found.Repo, found.Number)
	if err != nil {
		return ci.Run{}, err
	}
	if len(run.Jobs) == 0 {
		return f.prepare(ctx, run)
	}
	return f.update(ctx, run.ID, func(d *store.Draft) error {
		for i := range d.Jobs {
			if d.Jobs[i].Status == ci.Running {
				d.Jobs[i].Lease.Until = f.Now().Add(leaseTime)
			}
		}
		return nil
	})
}

// archiveLeft puts away the logs of jobs that ended just before the server did. open are the jobs that are not done.
func (f *Flow) archiveLeft(ctx context.Context, open map[int64]bool) error {
	live, err := f.Logs.Live()
	if err != nil {
		return fmt.Errorf("look for logs that are not archived: %w", err)
	}
	for _, job := range live {
		if !open[job] {
			if err := f.Logs.Archive(ctx, job); err != nil {
				return fmt.Errorf("archive the logs of job %d: %w", job, err)
			}
		}
	}
	return nil
}

// Run expires leases, and tears down review environments whose time is over, until ctx is done.
func (f *Flow) Run(ctx context.Context) {
	tick := time.NewTicker(leaseTime / 10)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := f.expire(ctx); err != nil && ctx.Err() == nil {
				f.Log.Error("give up jobs whose runner is silent", "error", err)
			}
			if err := f.tidyReviews(ctx); err != nil && ctx.Err() == nil {
				f.Log.Error("tidy up review environments", "error", err)
			}
		}
	}
}

// findRepo returns a repo, or a fault for people.
func (f *Flow) findRepo(ctx context.Context, name string) (ci.Repo, error) {
	repo, err := f.Store.FindRepo(ctx, name)
	if errors.Is(err, store.ErrNotFound) {
		return ci.Repo{}, fault.New(fault.NotFound, "there is no repo %q; slipway repo list shows those that there are", name)
	}
	return repo, err
}

// FindRun returns a run with its jobs, or a fault for people.
func (f *Flow) FindRun(ctx context.Context, repo string, number int64) (ci.Run, error) {
	run, err := f.Store.FindRun(ctx, repo, number)
	if errors.Is(err, store.ErrNotFound) {
		return ci.Run{}, fault.New(fault.NotFound, "%s has no run %d", repo, number)
	}
	return run, err
}

// Link returns the address of a run's page.
func (f *Flow) Link(repo string, number int64) string {
	return fmt.Sprintf("%s/%s/runs/%d", f.URL, repo, number)
}

// changes tells followers that something changed.
type changes struct {
	mu        sync.Mutex
	followers map[chan int64]func(change) bool
}

// change is what followers are told of: a run that changed, or something without a run if its ID is 0.
type change struct {
	run ci.Run
	// gate is the environment at whose gate a step of the run stands another way than before; it may be empty.
	gate string
}

// Changes returns a channel of the IDs of runs that change from now on, until stop is called. A follower that is slow
// misses IDs rather than holding anybody up: after each receipt it looks at the state, not at the history.
func (f *Flow) Changes() (ids <-chan int64, stop func()) {
	return f.follow(func(change) bool { return true })
}

// follow is Changes of those that somebody wants to hear of. Wants must be quick.
func (f *Flow) follow(wants func(change) bool) (ids <-chan int64, stop func()) {
	c := make(chan int64, 64)
	f.changes.mu.Lock()
	defer f.changes.mu.Unlock()
	if f.changes.followers == nil {
		f.changes.followers = map[chan int64]func(change) bool{}
	}
	f.changes.followers[c] = wants
	return c, func() {
		f.changes.mu.Lock()
		defer f.changes.mu.Unlock()
		delete(f.changes.followers, c)
	}
}

func (f *Flow) changed(run ci.Run) { f.tell(change{run: run}) }

func (f *Flow) tell(news change) {
	f.changes.mu.Lock()
	defer f.changes.mu.Unlock()
	for c, wants := range f.changes.followers {
		if !wants(news) {
			continue
		}
		select {
		case c <- news.run.ID:
		default:
		}
	}
}

// stir wakes all who wait for a change, without one of a run.
func (f *Flow) stir() { f.changed(ci.Run{}) }
