package flow

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"slipway/internal/auth"
	"slipway/internal/ci"
	"slipway/internal/engine"
	"slipway/internal/fault"
	"slipway/internal/plan"
	"slipway/internal/protocol"
	"slipway/internal/runlog"
	"slipway/internal/secret"
	"slipway/internal/store"
)

var _ protocol.Server = (*Flow)(nil)

// pollTime is how long a claim waits for a job before it is answered with none.
const pollTime = 20 * time.Second

// Claim implements [protocol.Server].
func (f *Flow) Claim(ctx context.Context, claim protocol.Claim) (*protocol.Assignment, error) {
	if len(claim.Lease) < protocol.MinLease {
		return nil, fault.New(fault.Invalid, "a claim has a lease of at least %d characters; update the runner", protocol.MinLease)
	}
	ctx, cancel := context.WithTimeout(ctx, pollTime)
	defer cancel()
	release, err := f.claims.hold(ctx, claim.Lease)
	if err != nil {
		return nil, nil
	}
	defer release()
	switch a, err := f.Resume(ctx, claim.Lease); {
	case ctx.Err() != nil:
		return nil, nil
	case !errors.Is(err, protocol.ErrLeaseLost):
		return a, err
	}
	changes, stop := f.Changes()
	defer stop()
	for {
		now := f.Now()
		run, jobID, err := f.Store.Claim(ctx, store.Claim{
			Runner: claim.Runner, OS: claim.OS, Arch: claim.Arch, Labels: claim.Labels, Now: now,
			Lease: ci.Lease{Hash: auth.Hash(claim.Lease), Until: now.Add(leaseTime)},
		})
		switch {
		case err == nil:
			run, err := f.Next(ctx, run.ID) // the run is running now
			if err != nil {
				return nil, err
			}
			if a, err := f.hand(ctx, run, jobID, claim.Lease); !errors.Is(err, protocol.ErrLeaseLost) {
				return a, err
			}
			continue
		case ctx.Err() != nil:
			return nil, nil
		case !errors.Is(err, store.ErrNotFound):
			return nil, fmt.Errorf("claim a job: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil, nil
		case <-changes:
		}
	}
}

// claims are the leases that are asked for now. Two requests with the same lease, of which one has been given up by its
// runner, must not both get a job.
type claims struct {
	mu   sync.Mutex
	held map[string]chan struct{}
}

// hold waits until no other request asks for the lease.
func (c *claims) hold(ctx context.Context, lease string) (release func(), err error) {
	for {
		c.mu.Lock()
		other, busy := c.held[lease]
		if !busy {
			if c.held == nil {
				c.held = map[string]chan struct{}{}
			}
			mine := make(chan struct{})
			c.held[lease] = mine
			c.mu.Unlock()
			return func() {
				c.mu.Lock()
				defer c.mu.Unlock()
				delete(c.held, lease)
				close(mine)
			}, nil
		}
		c.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-other:
		}
	}
}

// Resume implements [protocol.Server].
func (f *Flow) Resume(ctx context.Context, lease string) (*protocol.Assignment, error) {
	run, jobID, err := f.leased(ctx, lease)
	if err != nil {
		return nil, err
	}
	return f.hand(ctx, run, jobID, lease)
}

// hand returns the assignment of a job. A job of which there can be none, because its secrets cannot be opened for
// example, ends with the reason: asking again would not mend it.
func (f *Flow) hand(ctx context.Context, run ci.Run, jobID int64, lease string) (*protocol.Assignment, error) {
	a, err := f.assignment(ctx, run, jobID, lease)
	var reason *fault.Error
	if !errors.As(err, &reason) {
		return a, err
	}
	f.Log.Error("hand out a job", "repo", run.Repo, "run", run.Number, "error", errors.Join(reason, reason.Err))
	outcome := protocol.Outcome{Status: ci.Error, Message: reason.Message, Time: f.Now()}
	if err := f.endJob(context.WithoutCancel(ctx), run.ID, jobID, outcome); err != nil {
		return nil, err
	}
	return nil, protocol.ErrLeaseLost
}

// Renew implements [protocol.Server].
func (f *Flow) Renew(ctx context.Context, lease string) (protocol.Renewal, error) {
	run, jobID, err := f.leased(ctx, lease)
	if err != nil {
		return protocol.Renewal{}, err
	}
	job := jobOf(&run, jobID)
	now := f.Now()
	until := job.Lease.Until
	if until.Sub(now) < leaseTime*2/3 { // runners ask often; a write each time would be a waste
		until = now.Add(leaseTime)
		if _, err := f.Store.UpdateRun(ctx, run.ID, func(d *store.Draft) error {
			d.Job(jobID).Lease.Until = until
			return nil
		}); err != nil {
			return protocol.Renewal{}, fmt.Errorf("renew a lease: %w", err)
		}
	}
	return protocol.Renewal{Until: until, Cancel: job.Cancel}, nil
}

// Append implements [protocol.Server].
func (f *Flow) Append(ctx context.Context, lease string, events []protocol.Event) error {
	run, jobID, err := f.leased(ctx, lease)
	if err != nil {
		return err
	}
	job := jobOf(&run, jobID)
	if err := check(job, events); err != nil {
		return err
	}
	quiet, moved := true, false // only logs and pictures, which change no state
	for _, e := range events {
		quiet, moved = quiet && (e.Log != nil || e.Rollout != nil), moved || e.Rollout != nil
		if err := f.appendLog(ctx, job, e); err != nil {
			return err
		}
		if err := f.appendRecord(ctx, &run, job, e); err != nil {
			return err
		}
	}
	if err := f.putRollouts(ctx, job, events); err != nil {
		return err
	}
	if quiet {
		if moved {
			f.changed(run)
		}
		return nil
	}
	// What steps do decides nothing about jobs, so the plan is not asked what is next.
	run, err = f.Store.UpdateRun(ctx, run.ID, func(d *store.Draft) error {
		job := d.Job(jobID)
		if job.Status != ci.Running {
			return protocol.ErrLeaseLost
		}
		for _, e := range events {
			if e.Seq <= job.Lease.Seq {
				continue
			}
			apply(d, job, e)
			job.Lease.Seq = e.Seq
		}
		return nil
	})
	if err != nil {
		return err
	}
	f.published(run)
	return nil
}

// appendLog stores what an event says to the log of its step.
func (f *Flow) appendLog(ctx context.Context, job *ci.Job, e protocol.Event) error {
	var err error
	switch {
	case e.Log != nil:
		err = f.Logs.Append(ctx, job.ID, e.Log.Step, e.Log.Offset, e.Log.Data)
	case e.End != nil:
		err = f.Logs.Finish(ctx, job.ID, e.End.Step)
	}
	var gap runlog.GapError
	if errors.As(err, &gap) || errors.Is(err, runlog.ErrFinished) { // asking again would not mend it
		return fault.New(fault.Conflict, "the log of job %d does not go on where the runner thinks: %w", job.ID, err)
	}
	return err
}

// putRollouts stores the newest picture of each step that events have one of. Whatever comes twice is replaced by what
// came after it then, too.
func (f *Flow) putRollouts(ctx context.Context, job *ci.Job, events []protocol.Event) error {
	newest := map[int]ci.Rollout{}
	for _, e := range events {
		if e.Rollout != nil {
			newest[e.Rollout.Step] = e.Rollout.Rollout
		}
	}
	for step, rollout := range newest {
		if err := f.Store.PutRollout(ctx, job.ID, step, rollout); err != nil {
			return fmt.Errorf("store how far a rollout is: %w", err)
		}
	}
	return nil
}

// check refuses what no runner sends, before any of it is stored.
func check(job *ci.Job, events []protocol.Event) error {
	if len(events) > protocol.MaxEvents {
		return fault.New(fault.TooLarge, "a message has %d events; at most %d are allowed", len(events), protocol.MaxEvents)
	}
	for _, e := range events {
		step := 0
		switch {
		case e.Start != nil:
			step = e.Start.Step
		case e.Log != nil:
			step = e.Log.Step
			if len(e.Log.Data) > protocol.MaxLogData {
				return fault.New(fault.TooLarge, "a piece of a log has %d bytes; at most %d are allowed", len(e.Log.Data), protocol.MaxLogData)
			}
		case e.End != nil:
			step = e.End.Step
			if !e.End.Status.Done() {
				return fault.New(fault.Invalid, "%q is not how a step can end", e.End.Status)
			}
		case e.Image != nil:
			step = e.Image.Step
		case e.Release != nil:
			step = e.Release.Step
			if r := e.Release.Release; !r.Status.Done() || r.Started.IsZero() || r.Number < 1 {
				return fault.New(fault.Invalid, "release %d of %q has not ended", r.Number, r.Environment)
			}
			if n := len(e.Release.Manifests); n > protocol.MaxManifests {
				return fault.New(fault.TooLarge, "the manifests of a release have %d bytes; at most %d are allowed", n, protocol.MaxManifests)
			}
		case e.Preview != nil:
			step = e.Preview.Step
		case e.Rollout != nil:
			step = e.Rollout.Step
			if data, err := json.Marshal(e.Rollout.Rollout); err != nil || len(data) > protocol.MaxRollout {
				return fault.New(fault.TooLarge, "how far a rollout is takes %d bytes; at most %d are allowed", len(data), protocol.MaxRollout)
			}
		}
		if step < 1 || step > len(job.Steps) {
			return fault.New(fault.Invalid, "event %d of job %d is about step %d, which does not exist", e.Seq, job.ID, step)
		}
		if e.Seq < 1 {
			return fault.New(fault.Invalid, "an event of job %d has the number %d; they count from 1", job.ID, e.Seq)
		}
	}
	return nil
}

// apply brings a job up to date with one event, which has been checked.
func apply(d *store.Draft, job *ci.Job, e protocol.Event) {
	switch {
	case e.Start != nil:
		step := &job.Steps[e.Start.Step-1]
		step.Status, step.Started = ci.Running, e.Time
	case e.End != nil:
		step := &job.Steps[e.End.Step-1]
		step.Status, step.ExitCode, step.Message = e.End.Status, e.End.ExitCode, e.End.Message
		if !step.Started.IsZero() {
			step.Finished = e.Time
		}
	case e.Image != nil:
		if !slices.Contains(d.Images, e.Image.Image) {
			d.Images = append(d.Images, e.Image.Image)
		}
	}
}

// Finish implements [protocol.Server].
func (f *Flow) Finish(ctx context.Context, lease string, outcome protocol.Outcome) error {
	if !outcome.Status.Done() {
		return fault.New(fault.Invalid, "%q is not how a job can end", outcome.Status)
	}
	run, jobID, err := f.leased(ctx, lease)
	if err != nil {
		return err
	}
	return f.endJob(ctx, run.ID, jobID, outcome)
}

// endJob ends a running job, whoever says so.
func (f *Flow) endJob(ctx context.Context, runID, jobID int64, outcome protocol.Outcome) error {
	run, err := f.update(ctx, runID, func(d *store.Draft) error {
		job := d.Job(jobID)
		if job == nil || job.Status != ci.Running {
			return protocol.ErrLeaseLost
		}
		endJob(job, outcome)
		return nil
	})
	if err != nil {
		return err
	}
	if err := f.forgetReview(ctx, run); err != nil { // it is tried again
		f.Log.Error("forget a review environment", "repo", run.Repo, "run", run.Number, "error", err)
	}
	return nil
}

func endJob(job *ci.Job, outcome protocol.Outcome) {
	job.Status, job.Finished = outcome.Status, outcome.Time
	if !job.Cancel || outcome.Status != ci.Canceled { // who canceled it stands in the message already
		job.Message = outcome.Message
	}
	job.Lease = ci.Lease{}
	endSteps(job, outcome.Status, outcome.Time)
}

// CopyLog copies the log of a step to w, from byte offset on. With follow it goes on until the step has ended or ctx is
// done.
func (f *Flow) CopyLog(ctx context.Context, w io.Writer, jobID int64, step int, offset int64, follow bool) error {
	read := f.Logs.Read
	if follow {
		read = f.Logs.Follow
	}
	log, err := read(ctx, jobID, step, offset)
	if err != nil {
		return err
	}
	defer log.Close()
	_, err = io.Copy(w, log)
	return err
}

// expire gives up the jobs whose runner has been silent for too long. They are not run again by themselves: what their
// steps did so far, nobody knows.
func (f *Flow) expire(ctx context.Context) error {
	now := f.Now()
	jobs, err := f.Store.ExpiredLeases(ctx, now)
	if err != nil {
		return fmt.Errorf("look for silent runners: %w", err)
	}
	for _, job := range jobs {
		outcome := protocol.Outcome{Status: ci.Error, Time: now, Message: fmt.Sprintf(
			"the runner %s has not been heard of since %s; restart the run if its steps may run again",
			job.Runner, job.Lease.Until.Add(-leaseTime).UTC().Format(time.DateTime))}
		_, err := f.update(ctx, job.RunID, func(d *store.Draft) error {
			found := d.Job(job.ID)
			if found == nil || found.Status != ci.Running || !found.Lease.Until.Before(now) {
				return protocol.ErrLeaseLost // it ended, or was renewed, since it was looked for
			}
			endJob(found, outcome)
			return nil
		})
		if err != nil && !errors.Is(err, protocol.ErrLeaseLost) && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	return nil
}

func (f *Flow) leased(ctx context.Context, lease string) (ci.Run, int64, error) {
	run, jobID, err := f.Store.FindLease(ctx, auth.Hash(lease))
	if errors.Is(err, store.ErrNotFound) {
		return ci.Run{}, 0, protocol.ErrLeaseLost
	}
	return run, jobID, err
}

func jobOf(run *ci.Run, id int64) *ci.Job {
	i := slices.IndexFunc(run.Jobs, func(j ci.Job) bool { return j.ID == id })
	return &run.Jobs[i]
}

// assignment is all that a runner must know of a job.
func (f *Flow) assignment(ctx context.Context, run ci.Run, jobID int64, lease string) (*protocol.Assignment, error) {
	repo, err := f.findRepo(ctx, run.Repo)
	if err != nil {
		return nil, err
	}
	planned, err := f.Store.FindPlan(ctx, run.ID)
	if err != nil {
		return nil, fmt.Errorf("find the plan of a run: %w", err)
	}
	job := jobOf(&run, jobID)
	i := slices.IndexFunc(planned.Jobs, func(j plan.Job) bool { return j.Name == job.Name })
	a := &protocol.Assignment{
		Lease: lease, JobID: jobID, Repo: run.Repo, Run: run.Number, Link: f.Link(run.Repo, run.Number),
		Commit: run.Event.After, By: run.Event.Actor(), Author: author(run.Event.Commit), Title: title(run.Event.Commit),
		// A fork's pull request is not the repo's own work, whatever the repo is trusted with.
		Trusted: repo.Trusted && !run.Event.FromFork(), Fork: run.Event.FromFork(),
		Job: planned.Jobs[i], Registry: f.Registry, Mirrors: f.Mirrors,
		Started: job.Started, CommitTime: run.Event.Commit.Author.Time,
	}
	for _, other := range run.Jobs {
		if other.Status.Failed() {
			a.JobsFailed = append(a.JobsFailed, other.Name)
		}
	}
	limit := f.Timeout
	if repo.Timeout > 0 {
		limit = repo.Timeout
	}
	if t := time.Duration(a.Job.Timeout) * time.Second; t > 0 {
		limit = min(limit, t)
	}
	waited, err := f.waited(ctx, run, job.Number)
	if err != nil {
		return nil, err
	}
	a.Deadline = a.Started.Add(limit + waited)
	earlier, err := f.promotedImages(ctx, run)
	if err != nil {
		return nil, err
	}
	a.Images = append(earlier, run.Images...)

	token := f.Auth.JobToken(jobID)
	a.Auths = []engine.Auth{{Host: f.Registry, Username: "job", Password: token}}
	if err := f.addClone(a, repo, run.Event, token); err != nil {
		return nil, err
	}
	return a, f.addSecrets(ctx, a, run.Event)
}

// addClone says where the repo is and how to get in. Steps see the login only where they could not do without it, and
// never in a fork's pull request: a forge's token may do more than clone.
func (f *Flow) addClone(a *protocol.Assignment, repo ci.Repo, event ci.Event, jobToken string) error {
	_, known, err := f.forgeOf(repo)
	if err != nil {
		return err
	}
	a.Clone = protocol.Clone{URL: repo.CloneURL, Username: "slipway", Password: known.Token}
	if known.Token == "" { // the own endpoint
		a.Clone.URL = strings.Replace(repo.CloneURL, f.URL, f.Inside, 1)
		a.Clone.Password = jobToken
	}
	a.Clone.Steps = repo.Private && !event.FromFork()
	return nil
}

// addSecrets opens the secrets that the job mentions and that its event may have.
func (f *Flow) addSecrets(ctx context.Context, a *protocol.Assignment, event ci.Event) error {
	values, denied, err := f.openSecrets(ctx, a.Repo, event, a.Job.Secrets())
	a.Secrets, a.Denied = values, denied
	return err
}

// openSecrets returns the values of those of a repo's secrets that an event may have, by the given names, and the names of
// those that it may not have.
func (f *Flow) openSecrets(ctx context.Context, repo string, event ci.Event, names []string) (values map[string]string, denied []string, err error) {
	if len(names) == 0 {
		return nil, nil, nil
	}
	all, err := f.Store.ListSecrets(ctx, repo)
	if err != nil {
		return nil, nil, fmt.Errorf("list the secrets of %s: %w", repo, err)
	}
	allowed := secret.For(event, all)
	values = map[string]string{}
	for _, name := range names {
		if found, ok := secret.Find(allowed, name); ok {
			text, err := f.Keys.OpenSecret(found)
			if err != nil {
				return nil, nil, fault.New(fault.Internal, "cannot open the secret %q of %s: %w", name, repo, err)
			}
			values[name] = string(text)
		} else if _, ok := secret.Find(all, name); ok {
			denied = append(denied, name)
		}
	}
	return values, denied, nil
}
