package flow_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/flow"
	"slipway/internal/flow/flowtest"
	"slipway/internal/plan"
	"slipway/internal/protocol"
)

func TestRollbackOrder(t *testing.T) {
	d := newDock(t)
	d.change("production", func(e *ci.Environment) { e.Approvals = 0 })
	if _, err := d.Rollback(t.Context(), flowtest.Repo, "production", "", 0, "bob"); fault.Of(err).Code != fault.NotFound {
		t.Errorf("rolled back what was never deployed: %v", err)
	}
	run, lease := d.accept(d.Event(ship("production")))
	d.ask(lease)
	d.release(lease, 1, "production", "shop")
	d.end(lease, ci.Success)
	if _, err := d.Rollback(t.Context(), flowtest.Repo, "production", "", 7, "bob"); fault.Of(err).Code != fault.NotFound {
		t.Errorf("rolled back to a release that does not exist: %v", err)
	}
	d.change("production", func(e *ci.Environment) {
		e.Approvals, e.Freezes = 2, []ci.Freeze{{From: time.Unix(0, 0), Until: d.Clock.Now().Add(time.Hour)}}
	})
	back, err := d.Rollback(t.Context(), flowtest.Repo, "production", "", 1, "bob")
	if err != nil || back.Event.Kind != ci.Rollback || back.Event.After != run.Event.After || back.Event.Commit.Title() != "Roll production back to release 1" ||
		len(back.Jobs) != 1 || len(back.Jobs[0].Steps) != 1 || back.Status != ci.Pending {
		t.Fatalf("%+v, %v", back, err)
	}
	planned, err := d.DB.FindPlan(t.Context(), back.ID)
	if err != nil || planned.Jobs[0].Steps[0].Deploy.Action != plan.ActionRollback || planned.Jobs[0].Steps[0].Deploy.Release != 1 {
		t.Errorf("the plan is %+v, %v", planned, err)
	}
	lease = d.claim(back)
	permit := d.ask(lease) // nobody must approve it, and no freeze holds it
	d.want(permit, ci.GatePassed, "")
	if permit.Namespace != "shop" || permit.Kubeconfig != gateKubeconfig {
		t.Errorf("permitted %+v", permit)
	}
	d.end(lease, ci.Success)
	// But who may not deploy may not go back either.
	d.change("production", func(e *ci.Environment) { e.Deployers = []string{"ann"} })
	back, err = d.Rollback(t.Context(), flowtest.Repo, "production", "", 1, "bob")
	if err != nil {
		t.Fatal(err)
	}
	d.want(d.ask(d.claim(back)), ci.GateRefused, "bob may not deploy to production")
}

// Without rules, the way to the cluster is that of the step which deployed.
func TestRollbackWithoutRules(t *testing.T) {
	d := &dock{T: t, Server: flowtest.New(t)}
	if err := d.PutSecret(t.Context(), flowtest.Repo, "k", gateKubeconfig, false); err != nil {
		t.Fatal(err)
	}
	_, lease := d.accept(d.Event(ship("production", "namespace: shop", "kubeconfig: {from_secret: k}", "timeout: 60")))
	d.release(lease, 1, "production", "shop")
	d.end(lease, ci.Success)
	back, err := d.Rollback(t.Context(), flowtest.Repo, "production", "", 0, "bob")
	if err != nil {
		t.Fatal(err)
	}
	lease = d.claim(back)
	a, err := d.Resume(t.Context(), lease)
	if err != nil {
		t.Fatal(err)
	}
	deploy := a.Job.Steps[0].Deploy
	if deploy.Kubeconfig.Secret != "k" || a.Secrets["k"] != gateKubeconfig || deploy.Timeout != 60 || deploy.Namespace.Text != "shop" || deploy.Action != plan.ActionRollback {
		t.Errorf("%+v with the secrets %d", deploy, len(a.Secrets))
	}
	d.want(d.ask(lease), ci.GatePassed, "")
}

func TestPromote(t *testing.T) {
	const file = `kind: pipeline
type: docker
name: build
clone: {disable: true}
steps: [{name: a, image: busybox, commands: [make]}]
trigger: {event: [push]}
---
kind: pipeline
type: docker
name: ship
clone: {disable: true}
steps:
- name: deploy
  image: slipway/deploy
  settings: {manifests: [k8s]}
  when: {target: [production]}
- name: say
  image: busybox
  commands: [echo]
trigger: {event: [promote, rollback], target: [production, staging]}
`
	d := newDock(t)
	d.change("production", func(e *ci.Environment) { e.Approvals = 0 })
	run, lease := d.accept(d.Event(file))
	promote := func(number int64, target string) (ci.Run, error) {
		return d.Promote(t.Context(), flow.Promotion{Repo: flowtest.Repo, Run: number, Kind: ci.Promote, Target: target, Who: "bob", Params: map[string]string{"FOO": "bar"}})
	}
	if _, err := promote(1, "production"); fault.Of(err).Code != fault.Conflict {
		t.Errorf("promoted while it runs: %v", err)
	}
	image := ci.Image{Ref: "slipway.example.com/ada/engine:1", Digest: "sha256:abc"}
	if err := d.Append(t.Context(), lease, []protocol.Event{{Seq: 1, Image: &protocol.Image{Step: 1, Image: image}}}); err != nil {
		t.Fatal(err)
	}
	d.end(lease, ci.Success)
	promoted, err := promote(1, "production")
	if err != nil || promoted.Parent != 1 || promoted.Event.Kind != ci.Promote || promoted.Event.DeployTo != "production" || promoted.Event.After != run.Event.After || promoted.Event.Actor() != "bob" {
		t.Fatalf("%+v, %v", promoted, err)
	}
	if len(promoted.Jobs) != 1 || promoted.Jobs[0].Name != "ship" || len(promoted.Jobs[0].Steps) != 2 {
		t.Fatalf("the jobs are %+v", promoted.Jobs)
	}
	check := func(lease string) {
		t.Helper()
		a, err := d.Resume(t.Context(), lease)
		if err != nil || !slices.Equal(a.Images, []ci.Image{image}) {
			t.Fatalf("the images are %+v, %v", a.Images, err)
		}
		env := a.Job.Env
		if env["DRONE_DEPLOY_TO"].Text != "production" || env["DRONE_BUILD_EVENT"].Text != "promote" || env["FOO"].Text != "bar" || env["DRONE_BUILD_PARENT"].Text == "0" {
			t.Errorf("the variables are %+v", env)
		}
	}
	lease = d.claim(promoted)
	check(lease)
	if permit := d.ask(lease); permit.Environment != "production" || permit.State != ci.GatePassed {
		t.Errorf("permitted %+v", permit)
	}
	d.end(lease, ci.Success)
	// What was promoted, and what is repeated, knows the images as well.
	again, err := promote(2, "production")
	if err != nil {
		t.Fatal(err)
	}
	lease = d.claim(again)
	check(lease)
	d.end(lease, ci.Failure)
	if again, err = d.Flow.Restart(t.Context(), flowtest.Repo, again.Number, "ann"); err != nil {
		t.Fatal(err)
	}
	lease = d.claim(again)
	check(lease)
	d.end(lease, ci.Success)

	fork, skip, err := d.Accept(t.Context(), flowtest.Repo, d.PullRequest(strings.ReplaceAll(file, "[push]", "[pull_request]"), true))
	if err != nil || skip != "" {
		t.Fatal(err, skip)
	}
	d.end(d.claim(fork), ci.Success)
	if _, err := promote(fork.Number, "production"); fault.Of(err).Code != fault.Forbidden {
		t.Errorf("a fork's work was promoted: %v", err)
	}
	for _, wrong := range []flow.Promotion{
		{Run: 1, Kind: ci.Push, Target: "x"},
		{Run: 1, Kind: ci.Promote},
		{Run: 1, Kind: ci.Promote, Target: "x", Params: map[string]string{"A=B": "c"}},
		{Run: 99, Kind: ci.Promote, Target: "x"},
	} {
		wrong.Repo, wrong.Who = flowtest.Repo, "bob"
		if run, err := d.Promote(t.Context(), wrong); err == nil {
			t.Errorf("%+v gave run %d", wrong, run.Number)
		}
	}
	back, err := d.Promote(t.Context(), flow.Promotion{Repo: flowtest.Repo, Run: 1, Kind: ci.Rollback, Target: "staging", Who: "bob"})
	if err != nil || back.Event.Kind != ci.Rollback || back.Status != ci.Pending || len(back.Jobs[0].Steps) != 1 {
		t.Errorf("%+v, %v", back, err)
	}
}
