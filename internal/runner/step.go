package runner

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"syscall"
	"time"

	"slipway/internal/ci"
	"slipway/internal/engine"
	"slipway/internal/plan"
	"slipway/internal/protocol"
)

// stopGrace bounds how long a step may take to die once it has been told to.
const stopGrace = 30 * time.Second

// stepRun is one step that runs: the step with everything resolved, and where its output goes.
type stepRun struct {
	w       *walk
	index   int
	step    plan.Step
	env     map[string]string
	resolve func(plan.Value) string
	images  []ci.Image
	log     *stepLog
	resumed bool // an earlier process has begun it
	fresh   bool // its log is empty
	pushed  []ci.Image
	// permitted is where a deploy step may deploy.
	permitted protocol.Permit
}

// newStep resolves a step. It runs on the goroutine that owns the graph, because facts are read from there.
func (w *walk) newStep(i int) *stepRun {
	done := w.journal.step(i + 1)
	s := &stepRun{
		w: w, index: i, step: w.a.Job.Steps[i], env: map[string]string{},
		images: slices.Clone(w.images), resumed: done.started, fresh: done.logged == 0, pushed: done.images,
		log: newStepLog(w.journal, w.masker, i+1, done),
	}
	facts := map[plan.Fact]string{}
	for _, f := range plan.Facts() {
		facts[f] = w.fact(f)
	}
	value := func(v plan.Value) (string, bool) {
		switch {
		case v.Secret != "":
			text, ok := w.a.Secrets[v.Secret]
			return text, ok
		case v.Fact != "":
			return facts[v.Fact], true
		}
		return v.Text, true
	}
	s.resolve = func(v plan.Value) string { text, _ := value(v); return text }
	for name, v := range w.a.Job.EnvOf(s.step) {
		if text, ok := value(v); ok {
			s.env[name] = text
		}
	}
	return s
}

// run carries the step out and reports its end.
func (s *stepRun) run() report {
	end, err := s.carryOut()
	if err == nil {
		end.Step = s.index + 1
		err = errors.Join(s.log.flush(), s.w.journal.add(protocol.Event{End: &end}))
	}
	return report{index: s.index, end: end, images: s.pushed, err: err}
}

func (s *stepRun) carryOut() (protocol.StepEnd, error) {
	if !s.resumed {
		if err := s.w.journal.add(protocol.Event{Start: &protocol.StepStart{Step: s.index + 1}}); err != nil {
			return protocol.StepEnd{}, err
		}
	}
	if s.fresh { // else it was killed after it had warned
		s.log.say(s.missingSecrets()...)
	}
	if s.resumed && s.step.Kind != plan.KindExec {
		s.log.say("the runner was restarted; this step begins again")
	}
	ctx := s.w.job
	// Before its time begins. A fork's preview says itself that there is none.
	if s.step.Kind == plan.KindDeploy && (s.step.Deploy.Action != plan.ActionDiff || !s.w.a.Fork) {
		var err error
		if s.permitted, err = s.permit(); err != nil {
			return s.ended(ctx, err)
		}
	}
	if s.step.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Duration(s.step.Timeout)*time.Second,
			fmt.Errorf("the step ran over its time limit of %s", time.Duration(s.step.Timeout)*time.Second))
		defer cancel()
	}
	if s.step.Kind == plan.KindExec {
		return s.exec(ctx)
	}
	var err error
	switch s.step.Kind {
	case plan.KindClone:
		err = s.clone(ctx)
	case plan.KindImage:
		err = s.image(ctx)
	case plan.KindDeploy:
		err = s.deploy(ctx)
	default:
		err = fmt.Errorf("this runner does not know steps of kind %q; update it", s.step.Kind)
	}
	return s.ended(ctx, err)
}

// ended turns the error of a built-in action, or of starting a container, into the step's end.
func (s *stepRun) ended(ctx context.Context, err error) (protocol.StepEnd, error) {
	switch {
	case s.w.life.Err() != nil && err != nil:
		return protocol.StepEnd{}, errDetached
	case err == nil:
		return protocol.StepEnd{Status: ci.Success}, nil
	case ctx.Err() != nil:
		return s.stopped(ctx), nil
	}
	var start *engine.StartError
	if errors.As(err, &start) {
		err = start.Err // which step it is stands above its log, and beside its name
	}
	text := oneLine(err.Error())
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		text = s.w.runner.cannot("", err)
	}
	message := s.w.masker.Mask(text)
	s.log.say(message)
	status := ci.Failure
	if s.step.Kind == plan.KindExec || s.step.Kind == plan.KindClone {
		status = ci.Error // the fault is not the pipeline's
	}
	return protocol.StepEnd{Status: status, ExitCode: 1, Message: message}, nil
}

// stopped is the end of a step that was told to stop.
func (s *stepRun) stopped(ctx context.Context) protocol.StepEnd {
	end := protocol.StepEnd{Status: ci.Canceled}
	switch cause := context.Cause(ctx); {
	case s.step.Detach && errors.Is(cause, context.Canceled):
		end.Status = ci.Success // a service whose job is done
	case s.w.job.Err() == nil:
		end.Status, end.Message = ci.Failure, cause.Error() // the step's own limit
		s.log.say(end.Message)
	default:
		end.Message = cause.Error()
		s.log.say(end.Message)
	}
	return end
}

// exec runs the step's container, or follows one that an earlier process started.
func (s *stepRun) exec(ctx context.Context) (protocol.StepEnd, error) {
	step := engine.Step{Name: s.step.Name, Exec: *s.step.Exec, Env: s.env, Offset: s.log.base, Progress: progress{s.log}}
	if sentence := s.offerHub(&step); sentence != "" && s.fresh {
		s.log.say(sentence)
	}
	proc, err := s.w.env.Start(ctx, step, s.log)
	if err != nil {
		return s.ended(ctx, err)
	}
	if s.step.Detach {
		s.w.reports <- report{index: s.index, started: true}
	}
	stopped := context.AfterFunc(ctx, func() {
		if s.w.life.Err() != nil {
			return
		}
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
		defer cancel()
		if err := proc.Stop(grace); err != nil {
			s.w.runner.log.Error("stop a step", "job", s.w.a.JobID, "step", s.step.Name, "error", err)
		}
	})
	defer stopped()
	result, err := proc.Wait(s.w.life)
	if err != nil {
		if s.w.life.Err() != nil {
			return protocol.StepEnd{}, errDetached
		}
		return s.ended(ctx, err)
	}
	// A step that ended by itself while the runner stops has ended as it did.
	byItself := s.w.life.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled)
	if ctx.Err() != nil && !byItself {
		end := s.stopped(ctx)
		end.ExitCode = result.ExitCode
		return end, nil
	}
	end := protocol.StepEnd{Status: ci.Success, ExitCode: result.ExitCode}
	switch {
	case result.OOM:
		end.Status, end.Message = ci.Failure, "the kernel killed it for want of memory; raise mem_limit or use less"
		s.log.say(end.Message)
	case result.ExitCode != 0 && result.ExitCode != s.step.Exec.SkipRestCode:
		end.Status = ci.Failure
		if s.step.Detach { // nobody waits for it, and what needs it fails in ways that do not name it
			end.Message = fmt.Sprintf("it ended with exit code %d while the job still ran", result.ExitCode)
			s.log.say(end.Message)
		}
	}
	return end, nil
}

// missingSecrets says which secrets the step asked for and does not get.
func (s *stepRun) missingSecrets() (sentences []string) {
	env := s.w.a.Job.EnvOf(s.step)
	job := plan.Job{Env: env, Steps: []plan.Step{s.step}}
	variables := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if secret := env[name].Secret; secret != "" {
			variables[secret] = name
		}
	}
	for _, name := range job.Secrets() {
		if _, ok := s.w.a.Secrets[name]; ok {
			continue
		}
		effect := "a setting is empty"
		if variable, ok := variables[name]; ok {
			effect = variable + " is not set"
		}
		if slices.Contains(s.w.a.Denied, name) {
			sentences = append(sentences, fmt.Sprintf("secret %q is not given to pull requests; %s", name, effect))
		} else {
			sentences = append(sentences, fmt.Sprintf("this repo has no secret %q; %s. Add it by: slipway secret set %s %s", name, effect, s.w.a.Repo, name))
		}
	}
	return sentences
}
