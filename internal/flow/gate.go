package flow

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/plan"
	"slipway/internal/protocol"
	"slipway/internal/store"
)

// A deploy step comes to a gate before it changes its environment. What decides there is known to the server: the run's event, the
// run's plan, the environment's rules, and what people said. The runner only asks, again and again while it must wait, so that a wait
// survives both.

// Permit implements [protocol.Gatekeeper].
func (f *Flow) Permit(ctx context.Context, lease string, step int, known string) (protocol.Permit, error) {
	ctx, cancel := context.WithTimeout(ctx, pollTime)
	defer cancel()
	run, _, err := f.leased(ctx, lease)
	if err != nil {
		return protocol.Permit{}, err
	}
	// Votes and cancellations are changes of the run itself, rules are of no run, and what is newer comes to a gate of the same repo.
	changes, stop := f.follow(func(c change) bool {
		return c.run.ID == 0 || c.run.ID == run.ID || c.gate != "" && c.run.Repo == run.Repo
	})
	defer stop()
	var permit protocol.Permit
	for {
		now, err := f.permit(ctx, lease, step)
		if err != nil && permit.State == ci.GateWaiting && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return permit, nil // the time was over while it was looked for what has changed
		}
		if permit = now; err != nil || permit.State != ci.GateWaiting || permit.Reason != known {
			return permit, err
		}
		select {
		case <-ctx.Done():
			return permit, nil
		case <-changes:
		}
	}
}

// permit answers a deploy step as things stand now.
func (f *Flow) permit(ctx context.Context, lease string, number int) (protocol.Permit, error) {
	run, jobID, err := f.leased(ctx, lease)
	if err != nil {
		return protocol.Permit{}, err
	}
	job := jobOf(&run, jobID)
	deploy, err := f.deployOf(ctx, run, job, number)
	if err != nil {
		return protocol.Permit{}, err
	}
	rules, err := f.Store.ListEnvironments(ctx, run.Repo)
	if err != nil {
		return protocol.Permit{}, fmt.Errorf("list the environments of %s: %w", run.Repo, err)
	}
	if len(rules) == 0 {
		return protocol.Permit{State: ci.GatePassed, Environment: deploy.Environment, Policy: deploy.Policy}, nil
	}
	v := visit{event: run.Event, deploy: deploy, now: f.Now()}
	refused := v.find(rules)
	// What changes nothing, and what Slipway heals of itself, leaves no trace at the gate: no deployment that waits gives way to it.
	if refused == "" && (deploy.Action == plan.ActionDiff || v.ordered() && v.event.Order.Own && deploy.Action != plan.ActionTeardown) {
		return f.pass(ctx, v, rules)
	}
	if refused == "" && v.rules.Pattern() {
		f.turns.Lock()
		defer f.turns.Unlock()
		if v.turn, v.turnReason, err = f.turn(ctx, run, v); err != nil {
			return protocol.Permit{}, err
		}
	}
	newer, err := f.newer(ctx, run, v.environment.Name)
	if err != nil {
		return protocol.Permit{}, err
	}
	var gate ci.Gate
	_, err = f.Store.UpdateGate(ctx, run.ID, job.Number, number, func(g *ci.Gate) error {
		before := *g
		v.settle(g, refused, newer)
		if gate = *g; g.State == before.State && g.Reason == before.Reason {
			return errSame
		}
		return nil
	})
	switch {
	case err == nil:
		if err := f.showGate(ctx, run, jobID, gate); err != nil {
			return protocol.Permit{}, err
		}
	case !errors.Is(err, errSame):
		return protocol.Permit{}, fmt.Errorf("keep how a deployment stands at its gate: %w", err)
	}
	if gate.State != ci.GatePassed {
		return protocol.Permit{State: gate.State, Reason: gate.Reason}, nil
	}
	if deploy.Action == plan.ActionDeploy {
		if err := f.noteReview(ctx, run, v); err != nil {
			return protocol.Permit{}, err
		}
	}
	return f.pass(ctx, v, rules)
}

// errSame ends the change of a gate that stands as it stood: those that wait are looked at again and again, which must not write
// each time.
var errSame = errors.New("the gate has not changed")

// deployOf returns a deploy step of a job as it was planned.
func (f *Flow) deployOf(ctx context.Context, run ci.Run, job *ci.Job, number int) (*plan.Deploy, error) {
	planned, err := f.Store.FindPlan(ctx, run.ID)
	if err != nil {
		return nil, fmt.Errorf("find the plan of a run: %w", err)
	}
	i := slices.IndexFunc(planned.Jobs, func(j plan.Job) bool { return j.Name == job.Name })
	if number < 1 || number > len(planned.Jobs[i].Steps) || planned.Jobs[i].Steps[number-1].Deploy == nil {
		return nil, fault.New(fault.Invalid, "step %d of job %d is no deploy step", number, job.ID)
	}
	return planned.Jobs[i].Steps[number-1].Deploy, nil
}

// pass is the answer to a step that may go on.
func (f *Flow) pass(ctx context.Context, v visit, rules []ci.Environment) (protocol.Permit, error) {
	kubeconfig, err := f.openKubeconfig(v.rules)
	if err != nil {
		return protocol.Permit{}, err
	}
	reviews, err := f.Store.ListReviews(ctx, v.rules.Repo)
	if err != nil {
		return protocol.Permit{}, fmt.Errorf("list the review environments of %s: %w", v.rules.Repo, err)
	}
	e := v.environment
	policy := e.Policy.With(v.deploy.Policy)
	secrets, _, err := f.openSecrets(ctx, v.rules.Repo, v.event, policy.Secrets())
	if err != nil {
		return protocol.Permit{}, err
	}
	return protocol.Permit{
		State: ci.GatePassed, Environment: e.Name, Namespace: e.Namespace, Policy: policy, URL: e.URL, Secrets: secrets,
		Kubeconfig: kubeconfig, Review: v.rules.Pattern(), Reserved: ci.Reserve(rules, reviews, e),
	}, nil
}

// showGate lets the run say why its step waits.
func (f *Flow) showGate(ctx context.Context, run ci.Run, jobID int64, gate ci.Gate) error {
	run, err := f.Store.UpdateRun(ctx, run.ID, func(d *store.Draft) error {
		job := d.Job(jobID)
		if job.Status != ci.Running {
			return protocol.ErrLeaseLost
		}
		if step := &job.Steps[gate.Step-1]; !step.Status.Done() {
			step.Message = gate.Reason
		}
		return nil
	})
	if err != nil {
		return err
	}
	f.tell(change{run: run, gate: gate.Environment})
	f.reporter.put(run)
	return nil
}

// newer returns the gates of later runs at the same environment that wait or were passed.
func (f *Flow) newer(ctx context.Context, run ci.Run, environment string) (newer []ci.Gate, err error) {
	for _, waiting := range []bool{true, false} {
		gates, err := f.Store.ListGates(ctx, store.GateFilter{Repo: run.Repo, Environment: environment, Waiting: waiting})
		if err != nil {
			return nil, fmt.Errorf("list who waits for %s: %w", environment, err)
		}
		for _, g := range gates {
			if g.Run > run.Number && (waiting || g.State == ci.GatePassed) {
				newer = append(newer, g)
			}
		}
	}
	return newer, nil
}

// visit is a deploy step at the gate of its environment.
type visit struct {
	event  ci.Event
	deploy *plan.Deploy
	now    time.Time
	// rules are those of the environment, which may be a pattern; environment is what they are for the run's branch.
	rules, environment ci.Environment
	branch             string
	// turn and turnReason say why it is not the step's turn at a review environment; empty if it is.
	turn       ci.GateState
	turnReason string
}

// ordered reports whether the step is all that its run does, because a person or the server asked for just that.
func (v *visit) ordered() bool { return v.event.Order != nil }

// find finds the rules of the step's environment, and says why the step may not deploy there whoever approves.
func (v *visit) find(rules []ci.Environment) (refused string) {
	name := v.deploy.Environment
	v.environment = ci.Environment{Name: name}
	if v.event.FromFork() {
		return fmt.Sprintf("a pull request from a fork may not deploy to %s", name)
	}
	found, part, ok := ci.FindEnvironment(rules, name)
	if !ok {
		var names []string
		for _, e := range rules {
			names = append(names, e.Name)
		}
		return fmt.Sprintf("this repo has no environment %q, but %s; correct the step's setting environment, or make it by: slipway env create %s '%[1]s'",
			name, strings.Join(names, ", "), rules[0].Repo)
	}
	v.rules, v.branch = found, part
	if found.Pattern() && !v.ordered() {
		// Else one branch could take the place of another's.
		switch source := v.event.Source; {
		case source == "":
			return fmt.Sprintf("%s is a review environment, which a branch has, and this run is of none: its ref is %s", name, v.event.Ref)
		case part != source && part != ci.BranchSlug(source):
			return fmt.Sprintf("%s is the review environment of the branch %s, and this run is of the branch %s", name, part, source)
		default:
			v.branch = source
		}
	}
	v.environment = found.For(v.branch)
	if v.ordered() && v.event.Order.Namespace != "" {
		v.environment.Namespace = v.event.Order.Namespace
	}
	switch namespace := v.deploy.Namespace; {
	case found.Namespace == "" || namespace.IsZero() || v.ordered():
	case namespace.Secret != "" || namespace.Fact != "" || namespace.Text != v.environment.Namespace:
		return fmt.Sprintf("%s is in the namespace %s, and the step names another; remove its setting namespace", name, v.environment.Namespace)
	}
	if len(found.Kubeconfig) > 0 && !v.deploy.Kubeconfig.IsZero() {
		return fmt.Sprintf("%s has its own cluster, and the step brings a kubeconfig for another; remove its setting kubeconfig", name)
	}
	if v.deploy.Action == plan.ActionDiff { // it changes nothing
		return ""
	}
	if !v.ordered() && !found.Allows(v.event.Ref) {
		return fmt.Sprintf("%s may not deploy to %s; its rules allow %s", refOf(v.event.Ref), name, allowed(found))
	}
	if who := v.event.Actor(); len(found.Deployers) > 0 && !ci.Names(found.Deployers, who) && !(v.ordered() && v.event.Order.Own) {
		if who == "" {
			who = "an event that nobody caused"
		}
		return fmt.Sprintf("%s may not deploy to %s; its rules allow %s", who, name, strings.Join(found.Deployers, ", "))
	}
	return ""
}

func refOf(ref string) string {
	if branch, ok := strings.CutPrefix(ref, "refs/heads/"); ok {
		return "the branch " + branch
	}
	if tag, ok := strings.CutPrefix(ref, "refs/tags/"); ok {
		return "the tag " + tag
	}
	return "the ref " + ref
}

func allowed(e ci.Environment) string {
	if len(e.Branches) == 0 {
		return "all branches and tags, but no pull requests"
	}
	return strings.Join(e.Branches, ", ")
}

// settle brings a gate to how the step stands now. Refused is why it may not deploy whoever approves, or empty.
func (v *visit) settle(g *ci.Gate, refused string, newer []ci.Gate) {
	if g.Since.IsZero() {
		g.Since = v.now
	}
	if g.State == ci.GatePassed && refused != "" { // the rules are gone since, and with them the way in
		g.State, g.Reason = ci.GateRefused, refused
	}
	if g.State != "" && g.State != ci.GateWaiting {
		return
	}
	g.Environment = v.environment.Name
	if g.State, g.Reason = ci.GateRefused, refused; refused == "" {
		g.State, g.Reason = v.decide(*g, newer)
	}
	if g.State != ci.GateWaiting {
		g.Ended = v.now
	}
}

// decide says how the step stands: what people said so far, the time, and those that came after it.
func (v *visit) decide(g ci.Gate, newer []ci.Gate) (ci.GateState, string) {
	e := v.environment
	if i := slices.IndexFunc(g.Votes, func(vote ci.Vote) bool { return vote.Choice == ci.Reject }); i >= 0 {
		return ci.GateRefused, rejection(g.Votes[i])
	}
	switch {
	case v.turn != "" && (v.turn != ci.GateWaiting || v.ordered()):
		return v.turn, v.turnReason
	case v.ordered(): // going back, or tearing down, needs nobody's leave
		return ci.GatePassed, ""
	}
	var waits []string
	if v.turn == ci.GateWaiting {
		waits = append(waits, v.turnReason)
	}
	// Who is no approver any more has not approved.
	approvals := slices.DeleteFunc(slices.Clone(g.Votes), func(vote ci.Vote) bool {
		return vote.Choice != ci.Approve || len(e.Approvers) > 0 && !ci.Names(e.Approvers, vote.Who)
	})
	if missing := e.Approvals - len(approvals); missing > 0 {
		text := fmt.Sprintf("waits for %d of %d approvals of %s", missing, e.Approvals, e.Name)
		if by := names(approvals); by != "" {
			text += "; approved by " + by
		}
		waits = append(waits, text)
	}
	freeze, until, frozen := ci.FrozenUntil(e.Freezes, v.now, func(f ci.Freeze) bool {
		return slices.ContainsFunc(g.Votes, func(vote ci.Vote) bool {
			return vote.Choice == ci.Override && ci.Names(f.Override, vote.Who)
		})
	})
	if frozen {
		text := fmt.Sprintf("%s is frozen until %s", e.Name, moment(until, v.now))
		if freeze.Reason != "" {
			text += ": " + freeze.Reason
		}
		waits = append(waits, text)
	}
	if len(waits) == 0 {
		return ci.GatePassed, ""
	}
	if len(newer) > 0 {
		return ci.GateSuperseded, fmt.Sprintf("run %d brings something newer to %s, so this deployment is not needed any more", newer[0].Run, e.Name)
	}
	return ci.GateWaiting, strings.Join(waits, "; ")
}

func rejection(vote ci.Vote) string {
	text := "rejected by " + vote.Who
	if vote.Comment != "" {
		text += ": " + vote.Comment
	}
	return text
}

// names lists who gave votes.
func names(votes []ci.Vote) string {
	var who []string
	for _, v := range votes {
		who = append(who, v.Who)
	}
	return strings.Join(who, ", ")
}

// moment says when something is, in the words of the next days if it is one of them.
func moment(t, now time.Time) string {
	layout := "Monday 15:04"
	if t.Sub(now) > 6*24*time.Hour {
		layout = "2 January 2006 15:04"
	}
	return t.Format(layout) + " " + t.Location().String()
}

// Ballot is what somebody says of the deployments of a run that wait.
type Ballot struct {
	Repo string
	Run  int64
	// Environment is the one that is meant; empty means all that the run waits for.
	Environment string
	Choice      ci.Choice
	Comment     string
	Who         string
}

// maxComment bounds what somebody says of a deployment, in bytes.
const maxComment = 1000

// Vote approves or rejects the deployments of a run that wait, or lets them pass although their environment is frozen, and returns
// their gates.
func (f *Flow) Vote(ctx context.Context, b Ballot) ([]ci.Gate, error) {
	if len(b.Comment) > maxComment {
		return nil, fault.New(fault.TooLarge, "a comment has at most %d bytes", maxComment)
	}
	run, err := f.FindRun(ctx, b.Repo, b.Run)
	if err != nil {
		return nil, err
	}
	waiting, err := f.Store.ListGates(ctx, store.GateFilter{Repo: b.Repo, Run: b.Run, Environment: b.Environment, Waiting: true})
	if err != nil {
		return nil, fmt.Errorf("list what waits: %w", err)
	}
	if len(waiting) == 0 {
		return nil, fault.New(fault.Conflict, "no deployment of run %d of %s waits now", b.Run, b.Repo)
	}
	rules, err := f.Store.ListEnvironments(ctx, b.Repo)
	if err != nil {
		return nil, fmt.Errorf("list the environments of %s: %w", b.Repo, err)
	}
	caused, err := f.caused(ctx, run, b.Who)
	if err != nil {
		return nil, err
	}
	for _, g := range waiting { // all or none
		if err := f.mayVote(b, caused, g, rules); err != nil {
			return nil, err
		}
	}
	for i, g := range waiting {
		waiting[i], err = f.Store.UpdateGate(ctx, run.ID, g.Job, g.Step, func(g *ci.Gate) error { return f.take(g, b) })
		if err != nil {
			return nil, err
		}
	}
	f.changed(run)
	return waiting, nil
}

// take adds a vote to a gate.
func (f *Flow) take(g *ci.Gate, b Ballot) error {
	if g.State != ci.GateWaiting {
		return fault.New(fault.Conflict, "the deployment to %s does not wait any more; it is %s", g.Environment, g.State)
	}
	vote := ci.Vote{Who: b.Who, Choice: b.Choice, Comment: b.Comment, Time: f.Now()}
	same := func(v ci.Vote) bool { return strings.EqualFold(v.Who, b.Who) && v.Choice == b.Choice }
	if slices.ContainsFunc(g.Votes, same) {
		return nil
	}
	g.Votes = append(g.Votes, vote)
	if b.Choice == ci.Reject { // for good, also if its runner is away
		g.State, g.Reason, g.Ended = ci.GateRefused, rejection(vote), vote.Time
	}
	return nil
}

// maxRestarts bounds how far back it is looked for who caused a run.
const maxRestarts = 100

// caused reports whether somebody caused a run: by its event, by restarting it, or by an earlier one that it restarts, whose
// content is theirs.
func (f *Flow) caused(ctx context.Context, run ci.Run, who string) (bool, error) {
	for range maxRestarts {
		if ci.Names([]string{run.Event.Sender, run.Event.By}, who) {
			return true, nil
		}
		if run.Parent == 0 {
			return false, nil
		}
		earlier, err := f.Store.FindRun(ctx, run.Repo, run.Parent)
		if errors.Is(err, store.ErrNotFound) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if earlier.Event.Kind != run.Event.Kind || earlier.Event.DeployTo != run.Event.DeployTo { // it was promoted
			return false, nil
		}
		run = earlier
	}
	return false, nil
}

// mayVote returns why somebody may not say that of a deployment. Caused says that the run is theirs.
func (f *Flow) mayVote(b Ballot, caused bool, g ci.Gate, rules []ci.Environment) error {
	e, _, ok := ci.FindEnvironment(rules, g.Environment)
	if !ok {
		return fault.New(fault.Conflict, "the environment %s has no rules any more", g.Environment)
	}
	switch b.Choice {
	case ci.Approve, ci.Reject:
		switch {
		case caused && b.Choice == ci.Reject:
			return nil
		case len(e.Approvers) > 0 && !ci.Names(e.Approvers, b.Who):
			return fault.New(fault.Forbidden, "%s may not %s deployments to %s; its rules name %s", b.Who, b.Choice, g.Environment, strings.Join(e.Approvers, ", "))
		case caused && !e.SelfApproval:
			return fault.New(fault.Forbidden, "%s caused run %d, so somebody else has to approve its deployment to %s", b.Who, b.Run, g.Environment)
		}
		return nil
	case ci.Override:
		freeze, _, frozen := ci.FrozenUntil(e.Freezes, f.Now(), nil)
		switch {
		case !frozen:
			return fault.New(fault.Conflict, "%s is not frozen now", g.Environment)
		case !ci.Names(freeze.Override, b.Who):
			return fault.New(fault.Forbidden, "%s may not override the freeze of %s; %s may", b.Who, g.Environment, anybody(freeze.Override))
		}
		return nil
	}
	return fault.New(fault.Invalid, "%q is none of approve, reject and override", b.Choice)
}

func anybody(list []string) string {
	if len(list) == 0 {
		return "nobody"
	}
	return strings.Join(list, ", ")
}

// waited returns how long the steps of a job were at gates, which does not count against its time limit.
func (f *Flow) waited(ctx context.Context, run ci.Run, job int) (total time.Duration, err error) {
	gates, err := f.Store.ListGates(ctx, store.GateFilter{Repo: run.Repo, Run: run.Number, Limit: 500})
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return 0, fmt.Errorf("list the gates of a run: %w", err)
	}
	for _, g := range gates {
		if g.Job != job {
			continue
		}
		end := g.Ended
		if end.IsZero() {
			end = f.Now()
		}
		total += end.Sub(g.Since)
	}
	return total, nil
}
