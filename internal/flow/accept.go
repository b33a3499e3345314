package flow

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"slipway/internal/ci"
	"slipway/internal/dialect"
	"slipway/internal/fault"
	"slipway/internal/forge"
	"slipway/internal/plan"
	"slipway/internal/store"
)

// Accept turns an event into a run, compiles the pipeline file at its commit, and lets the first jobs start. A pipeline
// file that cannot run gives a run too, one that has ended in [ci.Error] and says why. The same delivery again gives the
// run that it gave before. An event whose author asked for no run gives none, and the directive that says so.
func (f *Flow) Accept(ctx context.Context, repoName string, event ci.Event) (run ci.Run, skip string, err error) {
	if directive := forge.Skip(event); directive != "" {
		return ci.Run{}, directive, nil
	}
	if _, err := f.findRepo(ctx, repoName); err != nil {
		return ci.Run{}, "", err
	}
	run, err = f.create(ctx, ci.Run{Repo: repoName, Event: event})
	return run, "", err
}

// Restart runs the event of an earlier run again, as a new run that who caused.
func (f *Flow) Restart(ctx context.Context, repo string, number int64, who string) (ci.Run, error) {
	earlier, err := f.FindRun(ctx, repo, number)
	if err != nil {
		return ci.Run{}, err
	}
	event := earlier.Event
	event.Delivery, event.By = "", who
	if event.Order != nil {
		again := *event.Order
		again.Own = false
		event.Order = &again
	}
	return f.create(ctx, ci.Run{Repo: repo, Event: event, Parent: number})
}

func (f *Flow) create(ctx context.Context, run ci.Run) (ci.Run, error) {
	run.Status, run.Created = ci.Pending, f.Now()
	err := f.Store.CreateRun(ctx, &run)
	if errors.Is(err, store.ErrExists) {
		return f.FindRun(ctx, run.Repo, run.Number)
	}
	if err != nil {
		return ci.Run{}, fmt.Errorf("store a run of %s: %w", run.Repo, err)
	}
	// From here on the run exists: it ends with a reason even if whoever brought the event goes away.
	return f.prepare(context.WithoutCancel(ctx), run)
}

// prepare gives a stored run its plan and starts it, or ends it with the reason why not.
func (f *Flow) prepare(ctx context.Context, run ci.Run) (ci.Run, error) {
	compiled, warnings, err := f.compile(ctx, run)
	if err != nil && fault.Of(err).Code == fault.Internal && !errors.As(err, new(plan.Problems)) {
		f.Log.Error("make the plan of a run", "repo", run.Repo, "run", run.Number, "error", err)
	}
	warnings = append(warnings, f.takeRetention(ctx, run)...)
	run, updateErr := f.Store.UpdateRun(ctx, run.ID, func(d *store.Draft) error {
		if len(d.Jobs) > 0 || d.Status.Done() {
			return nil
		}
		d.Warnings = warnings
		now := f.Now()
		switch {
		case err != nil:
			d.Status, d.Message, d.Finished = ci.Error, sentence(err), now
		case len(compiled.Jobs) == 0:
			d.Status, d.Finished = ci.Skipped, now
			d.Message = fmt.Sprintf("no pipeline runs on this %s", strings.ReplaceAll(string(d.Event.Kind), "_", " "))
		default:
			d.Plan = &compiled
			d.Jobs = jobsOf(compiled)
			decide(&d.Run, compiled, now)
		}
		return nil
	})
	if updateErr != nil {
		return ci.Run{}, fmt.Errorf("store the plan of a run: %w", updateErr)
	}
	f.published(run)
	return run, nil
}

// sentence is what a run's message says of err. Problems of a pipeline file are for its author, word by word; of other
// errors only faults are for people.
func sentence(err error) string {
	var problems plan.Problems
	if errors.As(err, &problems) {
		return problems.Error()
	}
	return fault.Of(err).Message
}

// compile finds the pipeline file of a run and compiles it. A run that was ordered has none.
func (f *Flow) compile(ctx context.Context, run ci.Run) (plan.Plan, []string, error) {
	if run.Event.Order != nil {
		ordered, err := f.planOf(ctx, run.Repo, *run.Event.Order)
		return ordered, nil, err
	}
	repo, err := f.findRepo(ctx, run.Repo)
	if err != nil {
		return plan.Plan{}, nil, err
	}
	source, err := f.source(ctx, repo, run.Event.After)
	if err != nil {
		return plan.Plan{}, nil, err
	}
	compiled, problems, err := dialect.Compile(source, plan.Input{
		Event: run.Event, Repo: repo, System: f.System,
		Run: plan.RunInfo{Number: run.Number, Parent: run.Parent, Link: f.Link(run.Repo, run.Number), Created: run.Created},
	})
	var warnings []string
	for _, p := range problems {
		if p.Severity == plan.SeverityWarning { // the others are in err
			warnings = append(warnings, p.String())
		}
	}
	return compiled, warnings, err
}

// source returns the pipeline file at a commit.
func (f *Flow) source(ctx context.Context, repo ci.Repo, commit string) (plan.Source, error) {
	at, known, err := f.forgeOf(repo)
	if err != nil {
		return plan.Source{}, err
	}
	names := dialect.Files()
	if repo.Config != "" {
		names = []string{repo.Config}
	}
	for _, name := range names {
		text, err := at.File(ctx, known, commit, name)
		if errors.Is(err, forge.ErrNotFound) {
			continue
		}
		if errors.Is(err, forge.ErrTooLarge) {
			return plan.Source{}, fault.New(fault.TooLarge, "%s at commit %.10s is too large; a pipeline file has at most %d KiB", name, commit, forge.MaxFile>>10)
		}
		if err != nil {
			return plan.Source{}, fault.New(fault.Unavailable, "%w", err) // it says what was read, and where
		}
		return plan.Source{Name: name, Text: text}, nil
	}
	return plan.Source{}, fault.New(fault.NotFound, "commit %.10s has no pipeline file; looked for %s", commit, strings.Join(names, ", "))
}

// forgeOf returns the adapter of a repo, and the repo with its credentials in the clear.
func (f *Flow) forgeOf(repo ci.Repo) (forge.Forge, forge.Repo, error) {
	at, ok := f.Forges[repo.Forge]
	if !ok {
		return nil, forge.Repo{}, fault.New(fault.Internal, "this server knows no forge of the kind %q", repo.Forge)
	}
	known := forge.Repo{Repo: repo}
	for _, sealed := range []struct {
		name string
		from []byte
		to   *string
	}{{forgeToken, repo.ForgeToken, &known.Token}, {webhookSecret, repo.WebhookSecret, &known.WebhookSecret}} {
		if len(sealed.from) == 0 {
			continue
		}
		text, err := f.Keys.Open(sealed.from, repo.Name, sealed.name)
		if err != nil {
			return nil, forge.Repo{}, fault.New(fault.Internal, "cannot open the %s of %s: %w", sealed.name, repo.Name, err)
		}
		*sealed.to = string(text)
	}
	return at, known, nil
}

// Names under which a repo's credentials are sealed.
const (
	forgeToken    = "forge token"
	webhookSecret = "webhook secret"
)

// jobsOf returns the jobs of a plan as they are before anything has started.
func jobsOf(p plan.Plan) []ci.Job {
	jobs := make([]ci.Job, len(p.Jobs))
	for i, planned := range p.Jobs {
		job := ci.Job{Number: i + 1, Name: planned.Name, Needs: planned.Needs, Status: ci.Waiting}
		for k, step := range planned.Steps {
			s := ci.Step{Number: k + 1, Name: step.Name, Kind: string(step.Kind), Needs: step.Needs, Detach: step.Detach, Status: ci.Waiting}
			if step.Exec != nil {
				s.Image = step.Exec.Image
			}
			job.Steps = append(job.Steps, s)
		}
		jobs[i] = job
	}
	return jobs
}
