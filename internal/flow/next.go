package flow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/plan"
	"slipway/internal/store"
)

// Next decides what comes next in a run: jobs whose needs are done become pending or are skipped, and a run without open
// jobs is over. It is idempotent; everything that changes a job ends with it.
func (f *Flow) Next(ctx context.Context, runID int64) (ci.Run, error) {
	return f.update(ctx, runID, func(*store.Draft) error { return nil })
}

// update changes a run, decides what is next, and lets everybody know, as one step.
func (f *Flow) update(ctx context.Context, runID int64, change func(*store.Draft) error) (ci.Run, error) {
	planned, err := f.Store.FindPlan(ctx, runID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return ci.Run{}, fmt.Errorf("find the plan of a run: %w", err)
	}
	var ended []int64
	run, err := f.Store.UpdateRun(ctx, runID, func(d *store.Draft) error {
		open := map[int64]bool{}
		for _, job := range d.Jobs {
			open[job.ID] = !job.Status.Done()
		}
		if err := change(d); err != nil {
			return err
		}
		decide(&d.Run, planned, f.Now())
		ended = nil // it may be called again
		for _, job := range d.Jobs {
			if job.Status.Done() && open[job.ID] {
				ended = append(ended, job.ID)
			}
		}
		return nil
	})
	if err != nil {
		return ci.Run{}, err
	}
	f.published(run)
	for _, job := range ended { // also of one that never ran: who follows its logs comes to their end
		if err := f.Logs.Archive(context.WithoutCancel(ctx), job); err != nil {
			f.Log.Error("archive logs; they stay readable where they are", "repo", run.Repo, "run", run.Number, "error", err)
		}
	}
	return run, nil
}

// published tells followers, waiting runners and the forge of a run's new state.
func (f *Flow) published(run ci.Run) {
	f.changed(run)
	f.reporter.put(run)
}

// decide brings the statuses of a run's waiting jobs, and of the run itself, up to date with the jobs that are done.
func decide(run *ci.Run, planned plan.Plan, now time.Time) {
	if run.Status.Done() || len(run.Jobs) == 0 {
		return
	}
	for again := true; again; {
		again = false
		for i := range run.Jobs {
			job := &run.Jobs[i]
			if job.Status != ci.Waiting || !needsDone(run, job) {
				continue
			}
			outcome := plan.Success
			if blame := failedNeed(run, job); blame != "" {
				outcome = plan.Failure
				job.Message = fmt.Sprintf("%s failed", blame)
			}
			if runsOn(planned, job.Name, outcome) {
				job.Status, job.Message = ci.Pending, ""
				continue
			}
			job.Status, job.Finished = ci.Skipped, now
			endSteps(job, ci.Skipped, now)
			again = true
		}
	}
	run.Status = runStatus(run.Jobs)
	switch {
	case run.Status.Done():
		run.Finished = now
		run.Message = runMessage(run)
	case run.Status == ci.Running && run.Started.IsZero():
		run.Started = now
	}
}

func runsOn(planned plan.Plan, job string, outcome plan.Outcome) bool {
	i := slices.IndexFunc(planned.Jobs, func(j plan.Job) bool { return j.Name == job })
	if i < 0 {
		return false
	}
	if on := planned.Jobs[i].On; len(on) > 0 {
		return slices.Contains(on, outcome)
	}
	return outcome == plan.Success
}

func findJob(run *ci.Run, name string) *ci.Job {
	i := slices.IndexFunc(run.Jobs, func(j ci.Job) bool { return j.Name == name })
	return &run.Jobs[i]
}

func needsDone(run *ci.Run, job *ci.Job) bool {
	return !slices.ContainsFunc(job.Needs, func(name string) bool { return !findJob(run, name).Status.Done() })
}

// failedNeed returns the name of a job that failed among all that job needs, however far away, or "".
func failedNeed(run *ci.Run, job *ci.Job) string {
	seen := map[string]bool{}
	queue := slices.Clone(job.Needs)
	for len(queue) > 0 {
		name := queue[0]
		queue = queue[1:]
		if seen[name] {
			continue
		}
		seen[name] = true
		need := findJob(run, name)
		if need.Status.Failed() {
			return name
		}
		queue = append(queue, need.Needs...)
	}
	return ""
}

// runStatus is what the statuses of a run's jobs amount to.
func runStatus(jobs []ci.Job) ci.Status {
	count := map[ci.Status]int{}
	for _, job := range jobs {
		count[job.Status]++
	}
	open := count[ci.Waiting] + count[ci.Pending] + count[ci.Running]
	switch {
	case open > 0 && open == len(jobs) && count[ci.Running] == 0:
		return ci.Pending
	case open > 0:
		return ci.Running
	}
	for _, status := range []ci.Status{ci.Canceled, ci.Error, ci.Failure, ci.Success} {
		if count[status] > 0 {
			return status
		}
	}
	return ci.Skipped
}

// runMessage says in one sentence why a run ended as it did.
func runMessage(run *ci.Run) string {
	for _, job := range run.Jobs {
		if job.Status == run.Status && job.Status.Failed() && job.Message != "" {
			if len(run.Jobs) == 1 {
				return job.Message
			}
			return fmt.Sprintf("job %q: %s", job.Name, job.Message)
		}
	}
	return run.Message
}

// endSteps ends the steps of a job that have not ended.
func endSteps(job *ci.Job, status ci.Status, now time.Time) {
	for i := range job.Steps {
		step := &job.Steps[i]
		if step.Status.Done() {
			continue
		}
		if step.Status != ci.Running { // it never began
			step.Status = ci.Skipped
			continue
		}
		step.Status, step.Finished = status, now
	}
}

// Cancel stops a run: jobs that no runner has are canceled at once, the others as soon as their runner hears of it.
// Canceling a run that is over is a conflict.
func (f *Flow) Cancel(ctx context.Context, repo string, number int64, who string) (ci.Run, error) {
	run, err := f.FindRun(ctx, repo, number)
	if err != nil {
		return ci.Run{}, err
	}
	return f.update(ctx, run.ID, func(d *store.Draft) error {
		if d.Status.Done() {
			return fault.New(fault.Conflict, "run %d of %s is over already: %s", number, repo, d.Status)
		}
		now := f.Now()
		message := "canceled by " + who
		for i := range d.Jobs {
			job := &d.Jobs[i]
			switch job.Status {
			case ci.Waiting, ci.Pending:
				job.Status, job.Message, job.Finished = ci.Canceled, message, now
				endSteps(job, ci.Skipped, now)
			case ci.Running:
				job.Cancel, job.Message = true, message
			}
		}
		if len(d.Jobs) == 0 {
			d.Status, d.Message, d.Finished = ci.Canceled, message, now
		}
		return nil
	})
}
