package web

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"slipway/internal/auth"
	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/flow"
	"slipway/internal/store"
)

// runView is the page of a run.
type runView struct {
	Run  ci.Run
	Repo ci.Repo
	// Manages is true if the viewer may cancel and restart the run; Stranger, if a login might help.
	Manages, Stranger bool
	// Canceling is true between the request and its effect.
	Canceling bool
	Problems  []problem
	Warnings  []problem
	Graph     *graphView
	// Rollouts are how far its deployments are.
	Rollouts []rolloutView
	// Releases are what the run deployed, and Previews what it found out that deployments would change.
	Releases []ci.Release
	Previews []ci.Preview
	// Waiting are the gates that its deployments wait at, Voted those that people let them pass.
	Waiting, Voted []ci.Gate
	// At is the step whose log is shown. Its Job is nil if the run has no steps.
	At  place
	Log logPart
}

// place is a step of a run.
type place struct {
	Job  *ci.Job
	Step *ci.Step
}

// String returns the step as addresses name it, "job.step", or "".
func (at place) String() string {
	if at.Job == nil {
		return ""
	}
	return fmt.Sprintf("%d.%d", at.Job.Number, at.Step.Number)
}

// Is reports whether at is the step of that job. Templates ask.
func (at place) Is(job, step int) bool {
	return at.Job != nil && at.Job.Number == job && at.Step.Number == step
}

// logPart is the part of a log that a page shows.
type logPart struct {
	Lines template.HTML
	// Last is the number of the last line.
	Last int
	// Earlier and Later are the addresses of the parts before and after, or empty.
	Earlier, Later string
	// Follows is true if the part grows with the log.
	Follows bool
	// Problem says why the log cannot be shown.
	Problem string
}

// Link returns the address of the run's page.
func (v runView) Link() string { return runLink(v.Run) }

// StepLink returns the address of the page with the log of a step.
func (v runView) StepLink(job, step int) string { return stepLink(v.Run, job, step) }

// JobMessage returns what there is to say of a job that the run's message does not say already.
func (v runView) JobMessage(job ci.Job) string {
	if strings.Contains(v.Run.Message, job.Message) {
		return ""
	}
	return job.Message
}

func runLink(run ci.Run) string { return fmt.Sprintf("/%s/runs/%d", run.Repo, run.Number) }

func stepLink(run ci.Run, job, step int) string {
	return fmt.Sprintf("%s/%d/%d", runLink(run), job, step)
}

// problem is one line of what is wrong with a pipeline file.
type problem struct {
	// Place is file:line:column, or empty.
	Place   string
	Message string
}

// positioned matches the text of a [plan.Problem].
var positioned = regexp.MustCompile(`^([^\s:]+(?::\d+:\d+)?): (.*)$`)

func problemOf(line string) problem {
	if m := positioned.FindStringSubmatch(line); m != nil && strings.ContainsAny(m[1], ".:/") {
		return problem{m[1], strings.TrimPrefix(m[2], "warning: ")}
	}
	return problem{Message: line}
}

func problemsOf(text string) []problem {
	var all []problem
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			all = append(all, problemOf(line))
		}
	}
	return all
}

// find returns the run of a request, its repo, and who asks.
func (p *pages) find(r *http.Request) (ci.Run, ci.Repo, auth.Principal, error) {
	repo, who, err := p.readable(r)
	if err != nil {
		return ci.Run{}, repo, who, err
	}
	number, err := strconv.ParseInt(r.PathValue("number"), 10, 64)
	if err != nil {
		return ci.Run{}, repo, who, fault.New(fault.NotFound, "%s has no run %.20q", repo.Name, r.PathValue("number"))
	}
	run, err := p.Flow.FindRun(r.Context(), repo.Name, number)
	return run, repo, who, err
}

// run is the page of a run, with the log of a step: the one that the address names, or the one that matters most now.
func (p *pages) run(w http.ResponseWriter, r *http.Request) error {
	run, repo, who, err := p.find(r)
	if err != nil {
		return err
	}
	at, auto := choose(run, place{}), r.PathValue("step") == ""
	if !auto {
		if at, err = stepAt(run, number(r.PathValue("job")), number(r.PathValue("step"))); err != nil {
			return err
		}
	}
	view := p.runView(run, repo, who, at)
	if err := p.addRecords(r.Context(), &view); err != nil {
		return err
	}
	view.Log = p.logPart(r.Context(), run, at, number(r.URL.Query().Get("line")))
	live := ""
	if !run.Status.Done() {
		live = view.Link() + "/live"
		if auto {
			live += "?auto=1"
		}
	}
	return p.render(w, r, http.StatusOK, "run", titleOf(run), live, view)
}

func titleOf(run ci.Run) string { return fmt.Sprintf("%s %d: %s", run.Repo, run.Number, run.Status) }

func (p *pages) runView(run ci.Run, repo ci.Repo, who auth.Principal, at place) runView {
	view := runView{
		Run: run, Repo: repo, Manages: who.Manages(repo.Name), Stranger: who.Name == "", At: at,
		Problems: problemsOf(run.Message),
		Graph:    graphOf(run, func(job, step int) string { return stepLink(run, job, step) }),
	}
	for _, line := range run.Warnings {
		view.Warnings = append(view.Warnings, problemsOf(line)...)
	}
	for _, job := range run.Jobs {
		view.Canceling = view.Canceling || job.Cancel && !job.Status.Done()
	}
	return view
}

// addRecords adds what the run deployed, and what it found out.
func (p *pages) addRecords(ctx context.Context, v *runView) (err error) {
	if v.Releases, err = p.Store.ListReleases(ctx, store.ReleaseFilter{Repo: v.Run.Repo, Run: v.Run.Number}); err != nil {
		return err
	}
	if v.Previews, err = p.Store.ListPreviews(ctx, v.Run.Repo, v.Run.Number); err != nil {
		return err
	}
	gates, err := p.Store.ListGates(ctx, store.GateFilter{Repo: v.Run.Repo, Run: v.Run.Number})
	if err != nil {
		return err
	}
	for _, g := range gates {
		switch {
		case g.State == ci.GateWaiting && !v.Run.Status.Done():
			v.Waiting = append(v.Waiting, g)
		case g.State == ci.GatePassed && len(g.Votes) > 0:
			v.Voted = append(v.Voted, g)
		}
	}
	v.Rollouts, err = p.rollouts(ctx, v.Run)
	return err
}

// Changes returns the address of the page of what deployments would change.
func (v runView) Changes() string { return runLink(v.Run) + "/changes" }

// choose returns the step that matters most to somebody who follows the run and now looks at current: that one while it
// runs, then the next that does; at the end, the first that made the run fail.
func choose(run ci.Run, current place) place {
	var running, failed, ended, first place
	for i := range run.Jobs {
		job := &run.Jobs[i]
		for k := range job.Steps {
			step := &job.Steps[k]
			here := place{job, step}
			if first.Job == nil {
				first = here
			}
			switch {
			case step.Status == ci.Running && (current.Is(job.Number, step.Number) || running.Job == nil && !step.Detach):
				running = here
				if current.Is(job.Number, step.Number) {
					return here
				}
			case (step.Status == ci.Failure || step.Status == ci.Error) && failed.Job == nil:
				failed = here
			}
			if step.Status.Done() && !step.Started.IsZero() && !step.Finished.Before(ended.finished()) {
				ended = here
			}
		}
	}
	candidates := []place{running, ended, first}
	if run.Status.Failed() {
		candidates = []place{failed, ended, first}
	}
	for _, at := range candidates {
		if at.Job != nil {
			return at
		}
	}
	return place{}
}

func (at place) finished() time.Time {
	if at.Job == nil {
		return time.Time{}
	}
	return at.Step.Finished
}

// stepAt returns the step of that number in the job of that number.
func stepAt(run ci.Run, job, step int) (place, error) {
	if job < 1 || job > len(run.Jobs) || step < 1 || step > len(run.Jobs[job-1].Steps) {
		return place{}, fault.New(fault.NotFound, "run %d of %s has no such step", run.Number, run.Repo)
	}
	return place{&run.Jobs[job-1], &run.Jobs[job-1].Steps[step-1]}, nil
}

// number reads a number that counts from 1; what is none is 0.
func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0
	}
	return max(0, n)
}

// logPart reads the part of a log that a page shows: its end, or what begins at line from.
func (p *pages) logPart(ctx context.Context, run ci.Run, at place, from int) logPart {
	if at.Job == nil {
		return logPart{}
	}
	v := logView{from: from}
	err := p.Flow.CopyLog(ctx, &v, at.Job.ID, at.Step.Number, 0, false)
	part := logPart{
		Lines:   template.HTML(v.window(0)), // logView escapes what strangers wrote
		Follows: from == 0 && !at.Step.Status.Done(),
	}
	first, last := v.bounds()
	part.Last = last
	link := func(line int) string {
		return stepLink(run, at.Job.Number, at.Step.Number) + "?" + url.Values{"line": {strconv.Itoa(line)}}.Encode()
	}
	if first > 1 {
		part.Earlier = link(max(1, first-windowLines))
	}
	switch {
	case errors.Is(err, errWindowFull):
		part.Later = link(last + 1)
	case err != nil && ctx.Err() == nil:
		p.Log.Error("read a log", "repo", run.Repo, "run", run.Number, "job", at.Job.ID, "error", err)
		part.Problem = "the log cannot be read; the server's log has the details"
	}
	return part
}

// rawLog serves a log as it is. Secrets were masked before it was stored.
func (p *pages) rawLog(w http.ResponseWriter, r *http.Request) error {
	run, _, _, err := p.find(r)
	if err != nil {
		return err
	}
	at, err := stepAt(run, number(r.PathValue("job")), number(r.PathValue("step")))
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if err := p.Flow.CopyLog(r.Context(), w, at.Job.ID, at.Step.Number, 0, false); err != nil && r.Context().Err() == nil {
		p.Log.Warn("send a log", "repo", run.Repo, "run", run.Number, "error", err)
		_, _ = io.WriteString(w, "\n[the rest of the log cannot be read]\n")
	}
	return nil
}

func (p *pages) cancel(w http.ResponseWriter, r *http.Request) error {
	run, who, err := p.managed(w, r)
	if err != nil || who.Name == "" {
		return err
	}
	if _, err := p.Flow.Cancel(r.Context(), run.Repo, run.Number, who.Name); err != nil {
		return err
	}
	http.Redirect(w, r, runLink(run), http.StatusSeeOther)
	return nil
}

func (p *pages) restart(w http.ResponseWriter, r *http.Request) error {
	run, who, err := p.managed(w, r)
	if err != nil || who.Name == "" {
		return err
	}
	again, err := p.Flow.Restart(r.Context(), run.Repo, run.Number, who.Name)
	if err != nil {
		return err
	}
	http.Redirect(w, r, runLink(again), http.StatusSeeOther)
	return nil
}

// vote says of the deployments of a run what somebody clicked.
func (p *pages) vote(w http.ResponseWriter, r *http.Request) error {
	run, who, err := p.managed(w, r)
	if err != nil || who.Name == "" {
		return err
	}
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	if err := r.ParseForm(); err != nil {
		return fault.New(fault.Invalid, "the form cannot be read: %w", err)
	}
	_, err = p.Flow.Vote(r.Context(), flow.Ballot{
		Repo: run.Repo, Run: run.Number, Environment: r.PostForm.Get("environment"), Choice: ci.Choice(r.PostForm.Get("choice")),
		Comment: r.PostForm.Get("comment"), Who: who.Name,
	})
	if err != nil {
		return err
	}
	http.Redirect(w, r, runLink(run), http.StatusSeeOther)
	return nil
}

// managed returns the run that a request would change, and who does so. A stranger, whose name is empty, has been sent
// to log in.
func (p *pages) managed(w http.ResponseWriter, r *http.Request) (ci.Run, auth.Principal, error) {
	run, _, who, err := p.find(r)
	switch {
	case err != nil:
		return run, who, err
	case who.Name == "":
		http.Redirect(w, r, "/login?"+url.Values{"next": {runLink(run)}}.Encode(), http.StatusSeeOther)
		return run, who, nil
	case !who.Manages(run.Repo):
		return run, who, fault.New(fault.Forbidden, "the token %q does not allow to change %s; it needs the scope repo:%[2]s or admin", who.Name, run.Repo)
	}
	return run, who, nil
}
