package runner

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"slipway/internal/ci"
	"slipway/internal/engine"
	"slipway/internal/plan"
	"slipway/internal/protocol"
	"slipway/internal/secret"
)

// Reasons for which a job is stopped. They are the causes of the context that its steps run under.
var (
	errCanceled = errors.New("somebody canceled the run")
	errTimeout  = errors.New("the job ran over its time limit")
	errFailFast = errors.New("a step failed that ends the job at once")
	// errDetached says that the runner itself stops: the job is left as it is, for the next process to take up.
	errDetached = errors.New("the runner stops and leaves the job running")
)

// walk takes one job through its steps. One goroutine, in run, owns the state of the graph; each step that runs has a
// goroutine of its own, which reports to it.
type walk struct {
	runner  *Runner
	a       *protocol.Assignment
	journal *journal
	env     engine.Env
	masker  *secret.Masker
	// hub answers Docker daemons of the job for the server's mirror of Docker Hub; nil if it has none.
	hub http.Handler
	// life is done when the runner stops, job (a child of life) also when the job shall stop.
	life context.Context
	job  context.Context
	stop context.CancelCauseFunc
	// limit is the job's time limit, seats are the runner's.
	limit *limit
	seats *seats

	states  []stepState
	reports chan report
	running int
	// failed and skipRest are the job's standing so far.
	failed   bool
	skipRest bool
	// broken is the first failure's sentence, and errored whether it was an [ci.Error].
	broken  string
	errored bool
	images  []ci.Image
}

// stepState says where a step is in the graph.
type stepState int

const (
	stepWaits   stepState = iota
	stepRuns              // has a goroutine, and dependents wait for it
	stepSettled           // dependents may go on; a detached step may run still
)

// report is what a step's goroutine tells the owner of the graph.
type report struct {
	index int
	// started is true when a detached step has started; its end is reported later.
	started bool
	end     protocol.StepEnd
	images  []ci.Image
	// err is errDetached, or a failure of the runner's own machine.
	err error
}

// run walks the job to its end. It returns errDetached when the runner stops before that.
func (w *walk) run() (protocol.Outcome, error) {
	steps := w.a.Job.Steps
	w.states = make([]stepState, len(steps))
	w.reports = make(chan report)
	w.images = slices.Clone(w.a.Images)
	var machine error
	for {
		if machine == nil {
			if err := w.startReady(); err != nil {
				machine = err
				w.stop(err)
			}
		}
		if w.onlyDetachedRun() {
			w.stop(nil) // services end with the last step
		}
		if w.running == 0 {
			break
		}
		r := <-w.reports
		if r.err != nil {
			machine = r.err
			w.stop(r.err)
		}
		w.take(r)
	}
	if machine != nil {
		return protocol.Outcome{}, machine
	}
	return w.outcome(), nil
}

// startReady settles or starts every step whose needs are settled, until nothing more can be done.
func (w *walk) startReady() error {
	for again := true; again; {
		again = false
		for i := range w.a.Job.Steps {
			if w.states[i] != stepWaits || !w.needsSettled(i) {
				continue
			}
			settled, err := w.begin(i)
			if err != nil {
				return err
			}
			again = again || settled
		}
	}
	return nil
}

func (w *walk) needsSettled(i int) bool {
	for _, need := range w.a.Job.Steps[i].Needs {
		at := slices.IndexFunc(w.a.Job.Steps, func(s plan.Step) bool { return s.Name == need })
		if w.states[at] != stepSettled {
			return false
		}
	}
	return true
}

// begin starts a step, or settles it at once because it has ended in an earlier process or is to be skipped.
func (w *walk) begin(i int) (settled bool, err error) {
	step, done := w.a.Job.Steps[i], w.journal.step(i+1)
	if done.end != nil {
		w.states[i] = stepSettled
		w.images = append(w.images, done.images...)
		w.judge(step, *done.end)
		return true, nil
	}
	stopped := w.job.Err() != nil
	if stopped && w.life.Err() != nil {
		return false, errDetached // the step is the next process's, which must not find it skipped
	}
	if !done.started && (w.skipRest || stopped || !runsOn(step, w.failed)) {
		w.states[i] = stepSettled
		return true, w.journal.add(protocol.Event{End: &protocol.StepEnd{Step: i + 1, Status: ci.Skipped}})
	}
	w.states[i] = stepRuns
	w.running++
	s := w.newStep(i)
	go func() { w.reports <- s.run() }()
	return false, nil
}

func runsOn(step plan.Step, failed bool) bool {
	outcome := plan.Success
	if failed {
		outcome = plan.Failure
	}
	if len(step.On) == 0 {
		return outcome == plan.Success
	}
	return slices.Contains(step.On, outcome)
}

// onlyDetachedRun reports whether all that runs are detached steps that nothing waits for any more.
func (w *walk) onlyDetachedRun() bool {
	return w.running > 0 && !slices.ContainsFunc(w.states, func(s stepState) bool { return s != stepSettled })
}

// take brings the graph up to date with a report.
func (w *walk) take(r report) {
	w.states[r.index] = stepSettled
	if r.started {
		return
	}
	w.running--
	w.images = append(w.images, r.images...)
	if r.err == nil {
		w.judge(w.a.Job.Steps[r.index], r.end)
	}
}

// judge draws a step's end into the job's standing.
func (w *walk) judge(step plan.Step, end protocol.StepEnd) {
	switch {
	case step.Detach && end.Status != ci.Error:
		// How a service ends says nothing about the job; that it could not start does.
	case end.Status == ci.Success && step.Exec != nil && step.Exec.SkipRestCode != 0 && end.ExitCode == step.Exec.SkipRestCode:
		w.skipRest = true
	case end.Status.Failed() && !step.IgnoreFailure:
		if !w.failed {
			w.broken = failureSentence(step, end)
		}
		w.failed = true
		w.errored = w.errored || end.Status == ci.Error
		if step.FailFast {
			w.stop(errFailFast)
		}
	}
}

func failureSentence(step plan.Step, end protocol.StepEnd) string {
	if end.Message != "" {
		return fmt.Sprintf("step %q: %s", step.Name, end.Message)
	}
	return fmt.Sprintf("step %q ended with exit code %d", step.Name, end.ExitCode)
}

func (w *walk) outcome() protocol.Outcome {
	o := protocol.Outcome{Status: ci.Success, Time: w.runner.now()}
	switch cause := context.Cause(w.job); {
	case errors.Is(cause, errCanceled):
		o.Status, o.Message = ci.Canceled, errCanceled.Error()
	case errors.As(cause, new(errSuperseded)):
		o.Status, o.Message = ci.Canceled, cause.Error()
	case errors.Is(cause, errTimeout):
		limit := w.a.Deadline.Sub(w.a.Started).Round(time.Second)
		o.Status, o.Message = ci.Failure, fmt.Sprintf("%s of %s", errTimeout, limit)
	case w.errored:
		o.Status, o.Message = ci.Error, w.broken
	case w.failed:
		o.Status, o.Message = ci.Failure, w.broken
	}
	return o
}

// fact returns the value of a fact for a step that starts now.
func (w *walk) fact(f plan.Fact) string {
	switch f {
	case plan.JobStatus:
		if w.failed || len(w.a.JobsFailed) > 0 {
			return string(plan.Failure)
		}
		return string(plan.Success)
	case plan.JobStarted:
		return fmt.Sprint(w.a.Started.Unix())
	case plan.JobsFailed:
		return strings.Join(w.a.JobsFailed, ",")
	case plan.StepsFailed:
		return strings.Join(w.stepsFailed(), ",")
	case plan.Now:
		return fmt.Sprint(w.runner.now().Unix())
	case plan.RunnerName:
		return w.runner.opts.Name
	}
	if !w.a.Clone.Steps {
		return ""
	}
	switch f {
	case plan.CloneMachine:
		return hostOf(w.a.Clone.URL)
	case plan.CloneUsername:
		return w.a.Clone.Username
	case plan.ClonePassword:
		return w.a.Clone.Password
	}
	return ""
}

func (w *walk) stepsFailed() []string {
	var names []string
	for i, step := range w.a.Job.Steps {
		if end := w.journal.step(i + 1).end; end != nil && end.Status.Failed() {
			names = append(names, step.Name)
		}
	}
	return names
}
