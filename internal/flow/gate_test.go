package flow_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/flow"
	"slipway/internal/flow/flowtest"
	"slipway/internal/protocol"
	"slipway/internal/store"
)

// ship is a pipeline whose only step deploys to an environment.
func ship(environment string, settings ...string) string {
	return fmt.Sprintf(`kind: pipeline
type: docker
name: ship
clone: {disable: true}
steps:
- name: deploy
  image: slipway/deploy
  settings: {manifests: [k8s], environment: "%s"%s}
`, environment, strings.Join(append([]string{""}, settings...), ", "))
}

// dock is a server whose repo has environments, and a runner's view of it.
type dock struct {
	*testing.T
	*flowtest.Server
	leases int
}

const gateKubeconfig = `apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "https://kube.example.com:6443"}}]
users: [{name: u, user: {token: very-secret-token}}]
`

// newDock returns a server with the environments production (which wants two approvals) and review/*.
func newDock(t *testing.T) *dock {
	d := &dock{T: t, Server: flowtest.New(t)}
	d.add("production", func(e *ci.Environment) {
		e.Namespace, e.Branches, e.Approvals, e.Approvers = "shop", []string{"main"}, 2, []string{"bob", "cem", "ada"}
	})
	d.add("review/*", func(e *ci.Environment) { e.Namespace, e.Lifetime = "shop-{branch}", 72*time.Hour })
	return d
}

func (d *dock) add(name string, change func(*ci.Environment)) {
	d.Helper()
	if _, err := d.AddEnvironment(d.Context(), flowtest.Repo, name, gateKubeconfig, change); err != nil {
		d.Fatal(err)
	}
}

func (d *dock) change(name string, change func(*ci.Environment)) {
	d.Helper()
	if _, err := d.ChangeEnvironment(d.Context(), flowtest.Repo, name, nil, change); err != nil {
		d.Fatal(err)
	}
}

// accept makes a run of an event, and claims its job.
func (d *dock) accept(event ci.Event) (ci.Run, string) {
	d.Helper()
	run, skip, err := d.Accept(d.Context(), flowtest.Repo, event)
	if err != nil || skip != "" || run.Status != ci.Pending {
		d.Fatalf("accepted as %+v, %q, %v", run, skip, err)
	}
	return run, d.claim(run)
}

func (d *dock) claim(run ci.Run) string {
	d.Helper()
	d.leases++
	lease := fmt.Sprintf("lease %d %s", d.leases, strings.Repeat("x", protocol.MinLease))
	a, err := d.Claim(d.Context(), protocol.Claim{Lease: lease, Runner: "r", OS: "linux", Arch: "amd64"})
	if err != nil || a == nil || a.Run != run.Number {
		d.Fatalf("claimed %+v, %v, want run %d", a, err, run.Number)
	}
	return lease
}

// ask asks at the gate, and is answered at once because no reason is known.
func (d *dock) ask(lease string) protocol.Permit {
	d.Helper()
	permit, err := d.Permit(d.Context(), lease, 1, "")
	if err != nil {
		d.Fatal(err)
	}
	return permit
}

func (d *dock) want(permit protocol.Permit, state ci.GateState, reason string) {
	d.Helper()
	if permit.State != state || !strings.Contains(permit.Reason, reason) {
		d.Errorf("the gate says %s %q, want %s %q", permit.State, permit.Reason, state, reason)
	}
	if state != ci.GatePassed && permit.Kubeconfig != "" {
		d.Errorf("a kubeconfig for one that is %s", state)
	}
}

func (d *dock) vote(run ci.Run, choice ci.Choice, who, comment string) error {
	_, err := d.Vote(d.Context(), flow.Ballot{Repo: run.Repo, Run: run.Number, Choice: choice, Who: who, Comment: comment})
	return err
}

func (d *dock) end(lease string, status ci.Status) {
	d.Helper()
	if err := d.Finish(d.Context(), lease, protocol.Outcome{Status: status, Time: d.Clock.Now()}); err != nil {
		d.Fatal(err)
	}
}

// branch is the push of a new commit to a branch.
func (d *dock) branch(name, file string) ci.Event {
	event := d.Event(file)
	event.Ref, event.Source, event.Target = "refs/heads/"+name, name, name
	return event
}

func TestGateApprovals(t *testing.T) {
	d := newDock(t)
	heal := true
	d.change("production", func(e *ci.Environment) { e.Policy.Heal, e.URL = &heal, "https://shop.example.com" })
	run, lease := d.accept(d.Event(ship("production")))
	if err := d.vote(run, ci.Approve, "bob", ""); fault.Of(err).Code != fault.Conflict {
		t.Errorf("approved before anything waits: %v", err)
	}
	d.want(d.ask(lease), ci.GateWaiting, "waits for 2 of 2 approvals of production")
	if got := d.Server.Run(1).Jobs[0].Steps[0].Message; got != "waits for 2 of 2 approvals of production" {
		t.Errorf("the step says %q", got)
	}
	for who, want := range map[string]string{"eve": "eve may not approve deployments to production; its rules name bob, cem, ada", "Ada": "Ada caused run 1"} {
		if err := d.vote(run, ci.Approve, who, ""); fault.Of(err).Code != fault.Forbidden || !strings.Contains(err.Error(), want) {
			t.Errorf("approved by %s: %v", who, err)
		}
	}
	// The answer comes when the reason changes, and a vote counts once.
	answers := make(chan protocol.Permit)
	go func() {
		permit, err := d.Permit(t.Context(), lease, 1, "waits for 2 of 2 approvals of production")
		if err != nil {
			t.Error(err)
		}
		answers <- permit
	}()
	for range 2 {
		if err := d.vote(run, ci.Approve, "bob", "looks good"); err != nil {
			t.Fatal(err)
		}
	}
	d.want(<-answers, ci.GateWaiting, "waits for 1 of 2 approvals of production; approved by bob")

	// The server dies, and the runner asks the next one.
	d.Clock.Forward(2 * time.Hour)
	d.Restart()
	d.want(d.ask(lease), ci.GateWaiting, "waits for 1 of 2 approvals")
	if err := d.vote(run, ci.Approve, "cem", ""); err != nil {
		t.Fatal(err)
	}
	permit := d.ask(lease)
	d.want(permit, ci.GatePassed, "")
	if permit.Namespace != "shop" || permit.Kubeconfig != gateKubeconfig || permit.Environment != "production" || !*permit.Policy.Heal || permit.Review || permit.URL != "https://shop.example.com" {
		t.Errorf("permitted %+v", permit)
	}
	if got := d.Server.Run(1).Jobs[0].Steps[0].Message; got != "" {
		t.Errorf("a step that goes on says %q", got)
	}
	// Whoever approved is kept, and the wait does not count against the time limit.
	gates, err := d.DB.ListGates(t.Context(), store.GateFilter{Repo: flowtest.Repo, Run: 1})
	if err != nil || len(gates) != 1 || len(gates[0].Votes) != 2 || gates[0].Votes[0].Comment != "looks good" || gates[0].Ended.IsZero() {
		t.Errorf("the gate is kept as %+v, %v", gates, err)
	}
	a, err := d.Resume(t.Context(), lease)
	if err != nil || a.Deadline.Sub(a.Started) < 3*time.Hour {
		t.Errorf("the job must be over %s after its start, %v", a.Deadline.Sub(a.Started), err)
	}
	d.change("production", func(e *ci.Environment) { e.Approvals = 3 })
	d.want(d.ask(lease), ci.GatePassed, "") // what has passed has passed
	if err := d.DeleteEnvironment(t.Context(), flowtest.Repo, "production"); err != nil {
		t.Fatal(err)
	}
	d.want(d.ask(lease), ci.GateRefused, `no environment "production"`)
}

func TestGateSelfApproval(t *testing.T) {
	d := newDock(t)
	d.change("production", func(e *ci.Environment) { e.Approvals, e.SelfApproval = 1, true })
	run, lease := d.accept(d.Event(ship("production")))
	d.want(d.ask(lease), ci.GateWaiting, "waits for 1 of 1")
	if err := d.vote(run, ci.Approve, "ada", ""); err != nil {
		t.Error(err)
	}
	d.want(d.ask(lease), ci.GatePassed, "")
}

func TestGateReject(t *testing.T) {
	d := newDock(t)
	run, lease := d.accept(d.Event(ship("production")))
	d.want(d.ask(lease), ci.GateWaiting, "")
	if err := d.vote(run, ci.Reject, "bob", "not on a Friday"); err != nil {
		t.Fatal(err)
	}
	if err := d.vote(run, ci.Approve, "cem", ""); fault.Of(err).Code != fault.Conflict {
		t.Errorf("approved after it was rejected: %v", err)
	}
	d.want(d.ask(lease), ci.GateRefused, "rejected by bob: not on a Friday")
}

func TestGateRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		event  func(d *dock) ci.Event
		reason string // empty: it is let through
	}{
		"a branch that is not protected": {func(d *dock) ci.Event { return d.branch("topic", ship("production")) }, "the branch topic may not deploy to production; its rules allow main"},
		"a pull request into main":       {func(d *dock) ci.Event { return d.PullRequest(ship("production"), false) }, "the ref refs/pull/1/head may not deploy to production"},
		"a fork":                         {func(d *dock) ci.Event { return d.PullRequest(ship("review/topic"), true) }, "a pull request from a fork may not deploy to review/topic"},
		"a typing error":                 {func(d *dock) ci.Event { return d.Event(ship("prodution")) }, `this repo has no environment "prodution", but production, review/*`},
		"another branch's review":        {func(d *dock) ci.Event { return d.branch("eve", ship("review/main")) }, "is the review environment of the branch main, and this run is of the branch eve"},
		"another namespace":              {func(d *dock) ci.Event { return d.branch("x", ship("review/x", "namespace: shop")) }, "is in the namespace shop-x, and the step names another"},
		"a secret's namespace": {func(d *dock) ci.Event {
			return d.branch("x", ship("review/x", "namespace: {from_secret: n}"))
		}, "the step names another"},
		"another cluster": {func(d *dock) ci.Event {
			return d.branch("x", ship("review/x", "kubeconfig: {from_secret: k}"))
		}, "the step brings a kubeconfig for another"},
		"a tag's review": {func(d *dock) ci.Event {
			event := d.Event(ship("review/v1"))
			event.Kind, event.Ref, event.Source, event.Target = ci.Tag, "refs/tags/v1", "", ""
			return event
		}, "which a branch has, and this run is of none"},
		"its own review":              {func(d *dock) ci.Event { return d.branch("x", ship("review/x", "namespace: shop-x")) }, ""},
		"its own review, by slug":     {func(d *dock) ci.Event { return d.branch("a/b", ship("review/"+ci.BranchSlug("a/b"))) }, ""},
		"a pull request's own review": {func(d *dock) ci.Event { return d.PullRequest(ship("review/topic"), false) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDock(t)
			_, lease := d.accept(test.event(d))
			if test.reason == "" {
				d.want(d.ask(lease), ci.GatePassed, "")
			} else {
				d.want(d.ask(lease), ci.GateRefused, test.reason)
			}
		})
	}
}

func TestGateDeployers(t *testing.T) {
	d := newDock(t)
	d.change("production", func(e *ci.Environment) { e.Approvals, e.Deployers = 0, []string{"ann"} })
	run, lease := d.accept(d.Event(ship("production")))
	d.want(d.ask(lease), ci.GateRefused, "ada may not deploy to production; its rules allow ann")
	d.end(lease, ci.Failure)
	// What a pusher calls themself does not count where their token is known.
	event := d.Event(ship("production"))
	event.Sender, event.By = "ann", "eve's token"
	_, lease = d.accept(event)
	d.want(d.ask(lease), ci.GateRefused, "eve's token may not deploy")
	d.end(lease, ci.Failure)
	// Who repeats a run has caused it.
	again, err := d.Flow.Restart(t.Context(), run.Repo, run.Number, "ann")
	if err != nil {
		t.Fatal(err)
	}
	d.want(d.ask(d.claim(again)), ci.GatePassed, "")
}

func TestGateFreeze(t *testing.T) {
	d := newDock(t)
	now := d.Clock.Now()
	d.change("production", func(e *ci.Environment) {
		e.Approvals = 0
		e.Freezes = []ci.Freeze{{Reason: "holidays", From: now.Add(-time.Hour), Until: now.Add(time.Hour), Override: []string{"ann"}}}
	})
	_, lease := d.accept(d.Event(ship("production")))
	d.want(d.ask(lease), ci.GateWaiting, "production is frozen until "+now.Add(time.Hour).UTC().Format("Monday 15:04 ")+"UTC: holidays")
	d.Clock.Forward(61 * time.Minute)
	d.want(d.ask(lease), ci.GatePassed, "")
	d.end(lease, ci.Success)

	d.change("production", func(e *ci.Environment) { e.Freezes[0].Until = now.Add(24 * time.Hour); e.Approvals = 1 })
	run, lease := d.accept(d.Event(ship("production")))
	d.want(d.ask(lease), ci.GateWaiting, "waits for 1 of 1 approvals of production; production is frozen until")
	if err := d.vote(run, ci.Override, "bob", ""); fault.Of(err).Code != fault.Forbidden || !strings.Contains(err.Error(), "bob may not override the freeze of production; ann may") {
		t.Errorf("overridden by bob: %v", err)
	}
	if err := d.vote(run, ci.Override, "ann", "a fix"); err != nil {
		t.Fatal(err)
	}
	d.want(d.ask(lease), ci.GateWaiting, "waits for 1 of 1 approvals of production")
	if err := d.vote(run, ci.Approve, "bob", ""); err != nil {
		t.Fatal(err)
	}
	d.want(d.ask(lease), ci.GatePassed, "")
	d.Clock.Forward(48 * time.Hour)
	run, lease = d.accept(d.Event(ship("production")))
	d.ask(lease)
	if err := d.vote(run, ci.Override, "ann", ""); fault.Of(err).Code != fault.Conflict {
		t.Errorf("overridden although nothing is frozen: %v", err)
	}
}

func TestGateNewestWins(t *testing.T) {
	d := newDock(t)
	_, first := d.accept(d.Event(ship("production")))
	d.want(d.ask(first), ci.GateWaiting, "")
	second, secondLease := d.accept(d.Event(ship("production")))
	d.want(d.ask(secondLease), ci.GateWaiting, "")
	d.want(d.ask(first), ci.GateSuperseded, "run 2 brings something newer to production")
	d.want(d.ask(first), ci.GateSuperseded, "run 2")
	// One that is over does not count.
	if _, err := d.Cancel(t.Context(), second.Repo, second.Number, "ada"); err != nil {
		t.Fatal(err)
	}
	d.end(secondLease, ci.Canceled)
	third, thirdLease := d.accept(d.Event(ship("production")))
	d.want(d.ask(thirdLease), ci.GateWaiting, "")
	_, fourth := d.accept(d.Event(ship("production")))
	_ = fourth // has not come to the gate yet
	for _, who := range []string{"bob", "cem"} {
		if err := d.vote(third, ci.Approve, who, ""); err != nil {
			t.Fatal(err)
		}
	}
	d.want(d.ask(thirdLease), ci.GatePassed, "")
	d.want(d.ask(fourth), ci.GateWaiting, "")
}

// Approving, rejecting and asking at once gives one end.
func TestGateRaces(t *testing.T) {
	d := newDock(t)
	d.change("production", func(e *ci.Environment) { e.Approvals = 1 })
	run, lease := d.accept(d.Event(ship("production")))
	d.want(d.ask(lease), ci.GateWaiting, "")
	var voters sync.WaitGroup
	voters.Go(func() { _ = d.vote(run, ci.Reject, "cem", "") })
	voters.Go(func() { _ = d.vote(run, ci.Approve, "bob", "") })
	var last protocol.Permit
	for last.State == "" || last.State == ci.GateWaiting {
		permit, err := d.Permit(t.Context(), lease, 1, last.Reason)
		if err != nil {
			t.Fatal(err)
		}
		last = permit
	}
	voters.Wait()
	for range 3 {
		if again := d.ask(lease); again.State != last.State {
			t.Errorf("first %s, then %s", last.State, again.State)
		}
	}
	gates, err := d.DB.ListGates(t.Context(), store.GateFilter{Repo: flowtest.Repo, Run: 1})
	if err != nil || gates[0].State != last.State {
		t.Errorf("it is kept as %+v, %v", gates, err)
	}
}

// A repo without environments deploys as it says.
func TestGateWithoutRules(t *testing.T) {
	d := &dock{T: t, Server: flowtest.New(t)}
	_, lease := d.accept(d.Event(ship("anything", "namespace: here")))
	permit := d.ask(lease)
	d.want(permit, ci.GatePassed, "")
	if permit.Environment != "anything" || permit.Namespace != "" || permit.Kubeconfig != "" {
		t.Errorf("permitted %+v", permit)
	}
	if _, err := d.Permit(t.Context(), lease, 7, ""); fault.Of(err).Code != fault.Invalid {
		t.Errorf("a step that does not exist: %v", err)
	}
	if _, err := d.Permit(t.Context(), "another", 1, ""); !errors.Is(err, protocol.ErrLeaseLost) {
		t.Errorf("a lease that does not exist: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := d.Permit(ctx, lease, 1, ""); err == nil {
		t.Error("no error for who is gone")
	}
}

// A step that may go on learns which namespaces are not its own.
func TestGateReserves(t *testing.T) {
	d := newDock(t)
	d.add("staging", func(*ci.Environment) {})
	_, lease := d.accept(d.branch("x", ship("review/x")))
	permit := d.ask(lease)
	shop := ci.Reserved{Cluster: "https://kube.example.com:6443", Namespace: "shop", Environment: "production"}
	if !slices.Equal(permit.Reserved, []ci.Reserved{shop}) {
		t.Errorf("for a review environment, %+v are reserved", permit.Reserved)
	}
	d.end(lease, ci.Success)
	_, lease = d.accept(d.Event(ship("staging", "namespace: shop")))
	permit = d.ask(lease)
	if review := (ci.Reserved{Cluster: shop.Cluster, Namespace: "shop-x", Environment: "review/x"}); !slices.Equal(permit.Reserved, []ci.Reserved{shop, review}) {
		t.Errorf("for staging, %+v are reserved", permit.Reserved)
	}
}

// The secrets that an environment's own policy names come with the permit, unless the event may not have them.
func TestGateSecrets(t *testing.T) {
	d := newDock(t)
	d.change("review/*", func(e *ci.Environment) {
		login := ci.Login{Token: &ci.FromSecret{Secret: "prometheus"}, CA: &ci.FromSecret{Secret: "missing"}}
		check := ci.Check{URL: "https://prometheus.example.com", Login: login, Query: "up", Condition: "> 0"}
		e.Policy.Strategy = &ci.Strategy{Kind: ci.Canary, Checks: []ci.Check{check}}
	})
	if err := d.PutSecret(t.Context(), flowtest.Repo, "Prometheus", "very-secret", false); err != nil {
		t.Fatal(err)
	}
	_, lease := d.accept(d.branch("x", ship("review/x")))
	if permit := d.ask(lease); len(permit.Secrets) != 1 || permit.Secrets["prometheus"] != "very-secret" {
		t.Errorf("with the permit come %v", permit.Secrets)
	}
	d.end(lease, ci.Success)
	event := d.PullRequest(ship("review/x"), false)
	event.Source = "x"
	_, lease = d.accept(event)
	permit := d.ask(lease)
	d.want(permit, ci.GatePassed, "")
	if len(permit.Secrets) != 0 {
		t.Errorf("a pull request gets %v", permit.Secrets)
	}
	d.end(lease, ci.Success)
	_, lease = d.accept(d.branch("x", ship("review/x", "strategy: rolling")))
	if permit := d.ask(lease); len(permit.Secrets) != 0 {
		t.Errorf("with another strategy come %v", permit.Secrets)
	}
}

// What a fork deployed somewhere is no release of the repo.
func TestForkReleases(t *testing.T) {
	d := &dock{T: t, Server: flowtest.New(t)}
	_, lease := d.accept(d.PullRequest(ship("production", "namespace: shop"), true))
	d.release(lease, 1, "production", "shop")
	d.end(lease, ci.Success)
	if releases, err := d.DB.ListReleases(t.Context(), store.ReleaseFilter{Repo: flowtest.Repo}); err != nil || len(releases) != 0 {
		t.Errorf("released %+v, %v", releases, err)
	}
}

// Who caused a run does not approve it in the shape of a restart by somebody else either, and an approval counts as long as its
// giver may approve.
func TestGateRestarted(t *testing.T) {
	d := newDock(t)
	event := d.Event(ship("production"))
	event.By = "cem"
	run, lease := d.accept(event)
	d.end(lease, ci.Canceled)
	again, err := d.Flow.Restart(t.Context(), run.Repo, run.Number, "ann")
	if err != nil {
		t.Fatal(err)
	}
	lease = d.claim(again)
	d.want(d.ask(lease), ci.GateWaiting, "2 of 2")
	if err := d.vote(again, ci.Approve, "cem", ""); fault.Of(err).Code != fault.Forbidden || !strings.Contains(err.Error(), "cem caused run 2") {
		t.Errorf("approved by who caused the run that was restarted: %v", err)
	}
	if err := d.vote(again, ci.Approve, "bob", ""); err != nil {
		t.Fatal(err)
	}
	d.want(d.ask(lease), ci.GateWaiting, "waits for 1 of 2 approvals of production; approved by bob")
	d.change("production", func(e *ci.Environment) { e.Approvers = []string{"cem", "ada"} })
	d.want(d.ask(lease), ci.GateWaiting, "waits for 2 of 2 approvals of production")
}

// counted is a store that tells when it is asked for a gate.
type counted struct {
	store.Store
	asked chan struct{}
}

func (c counted) UpdateGate(ctx context.Context, runID int64, job, step int, update func(*ci.Gate) error) (ci.Gate, error) {
	c.asked <- struct{}{}
	return c.Store.UpdateGate(ctx, runID, job, step, update)
}

// A gate that waits is looked at when something could have changed there, and not for each change of any run.
func TestGateIsLeftAlone(t *testing.T) {
	d := newDock(t)
	counted := counted{d.Flow.Store, make(chan struct{}, 100)}
	d.Flow.Store = counted // before there is a run, and with it somebody who uses the store
	_, lease := d.accept(d.Event(ship("production")))
	waits := d.ask(lease)
	d.want(waits, ci.GateWaiting, "waits for 2 of 2 approvals")
	for len(counted.asked) > 0 {
		<-counted.asked
	}
	answer := make(chan protocol.Permit, 1)
	go func() {
		permit, err := d.Permit(d.Context(), lease, 1, waits.Reason)
		if err != nil {
			d.Error(err)
		}
		answer <- permit
	}()
	<-counted.asked // the first look
	for range 20 {
		d.Push("kind: pipeline\nname: other\nsteps: []\n")
	}
	if _, err := d.Vote(d.Context(), flow.Ballot{Repo: flowtest.Repo, Run: 1, Choice: ci.Approve, Who: "bob"}); err != nil {
		t.Fatal(err)
	}
	d.want(<-answer, ci.GateWaiting, "waits for 1 of 2 approvals")
	if n := len(counted.asked); n != 2 { // by the vote itself, and for the vote
		t.Errorf("the gate was looked at %d times", n)
	}
}
