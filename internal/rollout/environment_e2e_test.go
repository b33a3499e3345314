package rollout_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/kube"
	"slipway/internal/release"
	"slipway/internal/rollout"
)

// place is the environment that the tests deploy to.
func (s *site) place() release.Place {
	s.t.Helper()
	client, err := kube.FromFile(s.Kubeconfig, "")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(client.Close)
	return release.Place{Client: client, Namespace: s.Namespace, Environment: "test"}
}

func (s *site) state() release.State {
	s.t.Helper()
	state, err := s.place().Load(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return state
}

func (s *site) history() []ci.Release {
	s.t.Helper()
	history, err := s.place().History(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	return history
}

// rollback goes back by hand.
func (s *site) rollback(number int64) (string, error) {
	s.t.Helper()
	place := s.place()
	var out strings.Builder
	_, err := rollout.Rollback(s.t.Context(), rollout.Request{
		Client: place.Client, Namespace: place.Namespace, Environment: place.Environment, Timeout: 90 * time.Second,
		Release: ci.Release{By: "ann"},
	}, number, &out)
	s.t.Logf("%v\n%s", err, out.String())
	return out.String(), err
}

// wantThere wants that exactly those of the tests' own objects are in the namespace that are named.
func (s *site) wantThere(want ...string) {
	s.t.Helper()
	got := s.Kubectl("get", "deployments,configmaps,services,persistentvolumeclaims,jobs", "-o", "name", "--field-selector=metadata.name!=kube-root-ca.crt")
	if strings.Join(strings.Fields(got), " ") != strings.Join(want, " ") {
		s.t.Errorf("in the cluster are %q, want %q", strings.Fields(got), want)
	}
}

func config(name, value string) string {
	return "\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + "}\ndata: {value: " + value + "}\n"
}

func (s *site) value(name string) string {
	s.t.Helper()
	return s.Kubectl("get", "configmap", name, "-o", "jsonpath={.data.value}")
}

const claim = `
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {storageClassName: none, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
`

func TestPrune(t *testing.T) {
	s := start(t)
	s.must(config("a", "x") + config("b", "x") + config("kept", "x"))
	s.Kubectl("annotate", "configmap", "kept", "slipway/prune=false")
	s.Kubectl("create", "configmap", "foreign")
	_, out := s.must(config("a", "x") + config("c", "x"))
	wantLines(t, out, "differences: 1 to create, 1 to delete, 1 to keep, 1 to leave", "- configmap/b: delete", "= configmap/kept: keep", "configmap/b: deleted")
	s.wantThere("configmap/a", "configmap/c", "configmap/foreign", "configmap/kept")

	// What somebody else took over is not deleted.
	s.Kubectl("annotate", "--overwrite", "configmap", "c", "slipway/owner=elsewhere/production")
	s.must(config("a", "x"))
	s.wantThere("configmap/a", "configmap/c", "configmap/foreign", "configmap/kept")
	d, out := s.preview(config("d", "x"))
	wantLines(t, out, "differences: 1 to create, 1 to delete, 1 to keep", "+ configmap/d: create", "- configmap/a: delete")
	if d.Empty() {
		t.Error("a deletion is no difference")
	}
	s.wantThere("configmap/a", "configmap/c", "configmap/foreign", "configmap/kept")
}

// TestPruneData lets a claim leave the manifests: it stays, unless its annotation says otherwise.
func TestPruneData(t *testing.T) {
	s := start(t)
	place := s.place()
	// Nothing makes the volume, so the deployment does not end well, but the claim is there.
	short := func(step *rollout.Step) { step.Timeout = 3 * time.Second }
	s.fails(config("a", "x")+claim, fault.Failed, []string{"persistentvolumeclaim/data"}, short)
	_, out := s.must(config("a", "x"))
	wantLines(t, out, "= persistentvolumeclaim/data: keep")
	s.wantThere("configmap/a", "persistentvolumeclaim/data")
	s.Kubectl("annotate", "persistentvolumeclaim", "data", "slipway/prune=true")
	s.must(config("a", "x"))
	s.Kubectl("wait", "--for=delete", "persistentvolumeclaim/data", "--timeout=30s")
	s.wantThere("configmap/a")
	if state, err := place.Load(t.Context()); err != nil || len(state.Objects) != 1 {
		t.Errorf("the inventory is %v, %v", state.Objects, err)
	}
}

func TestForeign(t *testing.T) {
	s := start(t)
	other := func(step *rollout.Step) { step.Environment = "other" }
	s.must(config("a", "x"))
	_, out, err := s.deploy(t.Context(), config("a", "changed")+config("b", "changed"), other)
	wantError(t, err, fault.Conflict, "app.yaml:3:1: configmap/a belongs to the environment "+s.Namespace+"/test", "slipway/adopt")
	wantLines(t, out, "x configmap/a: refuse")
	s.fails(config("a", "changed"), fault.Conflict, []string{"configmap/a belongs to the environment"}, func(step *rollout.Step) { step.Environment = "" })
	s.Kubectl("create", "configmap", "helms")
	s.Kubectl("annotate", "configmap", "helms", "meta.helm.sh/release-name=shop")
	s.fails(config("a", "x")+config("helms", "changed"), fault.Conflict, []string{"configmap/helms belongs to the Helm release shop"})
	s.wantThere("configmap/a", "configmap/helms")
	if got := s.value("a"); got != "x" {
		t.Errorf("the refused deployment changed the object to %q", got)
	}
	// Taken over on purpose.
	s.must(strings.Replace(config("a", "changed"), "{name: a}", `{name: a, annotations: {slipway/adopt: "true"}}`, 1), other)
	if got := s.value("a"); got != "changed" {
		t.Errorf("the adopted object has %q", got)
	}
}

// TestRollbackAfterFailure deploys an image that does not exist, together with an object that is new, one that is gone
// and one that changes, and wants the cluster as it was.
func TestRollbackAfterFailure(t *testing.T) {
	s := start(t)
	s.must(web() + config("a", "one") + config("gone", "one"))
	s.wantServing("v1", "v1")
	broken := strings.NewReplacer("slipway.test/deploy:1", "slipway.test/none:1", "IfNotPresent", "Never").Replace(web("v1}", "v2}"))
	result, out, err := s.deploy(t.Context(), broken+config("a", "two")+config("new", "two"))
	wantError(t, err, fault.Failed, "may not pull image", "the old version still serves: 2 of 2", "; ROLLED BACK: release 1 serves again")
	wantLines(t, out, "ROLLING BACK to release 1", "configmap/new: deleted")
	s.wantThere("deployment.apps/web", "configmap/a", "configmap/gone")
	s.wantServing("v1", "v1")
	if got := s.value("a"); got != "one" {
		t.Errorf("the ConfigMap has %q after going back", got)
	}
	if r := result.Release; r == nil || r.Number != 2 || r.Status != ci.Failure || r.Restored != 1 {
		t.Errorf("release %+v", result.Release)
	}
	state := s.state()
	if state.Current != 1 || state.Last != 2 || state.Pending || state.Locked != "" || len(state.Objects) != 3 {
		t.Errorf("state %+v", state)
	}
	if _, out := s.preview(web() + config("a", "one") + config("gone", "one")); !strings.Contains(out, "differences: 3 to leave\n") {
		t.Errorf("the cluster is not exactly as release 1 left it: %s", out)
	}
	result, _ = s.must(web("v1}", "v3}"))
	if result.Release.Number != 3 {
		t.Errorf("the next release is %d", result.Release.Number)
	}
	s.wantThere("deployment.apps/web")
}

// TestRollbackByHand goes back over a release that deleted and added objects, and forth again.
func TestRollbackByHand(t *testing.T) {
	s := start(t)
	s.must(web() + config("a", "one") + config("gone", "one") + "\n---" + job("succeed"))
	s.must(web("v1}", "v2}") + config("a", "two") + config("new", "two") + "\n---" + strings.Replace(job("succeed"), "env: [", "env: [{name: VERSION, value: v2}, ", 1))
	ran := s.Kubectl("get", "job", "migrate", "-o", "jsonpath={.metadata.uid}")
	s.wantServing("v2", "v2")
	out, err := s.rollback(0)
	if err != nil {
		t.Fatal(err)
	}
	wantLines(t, out, "going back to release 1 of the environment test of the namespace "+s.Namespace)
	s.wantServing("v1", "v1")
	s.wantThere("deployment.apps/web", "configmap/a", "configmap/gone", "job.batch/migrate")
	if got := s.value("a"); got != "one" {
		t.Errorf("the ConfigMap has %q", got)
	}
	if again := s.Kubectl("get", "job", "migrate", "-o", "jsonpath={.metadata.uid}"); again != ran {
		t.Error("the Job was run again by the rollback")
	}
	if _, err := s.rollback(0); fault.Of(err).Code != fault.NotFound {
		t.Errorf("going back before the first release: %v", err)
	}
	if _, err := s.rollback(2); err != nil {
		t.Fatal(err)
	}
	s.wantServing("v2", "v2")
	if _, err := s.rollback(99); fault.Of(err).Code != fault.NotFound {
		t.Errorf("going to a release that is not there: %v", err)
	}
	history := s.history()
	if len(history) != 4 || history[0].Number != 4 || history[0].Of != 2 || history[0].By != "ann" || history[1].Of != 1 || history[3].Status != ci.Success {
		t.Errorf("history %+v", history)
	}
	if record, err := s.place().Find(t.Context(), 1); err != nil || len(record.Objects) != 4 || len(record.Images) != 1 {
		t.Errorf("release 1 is %+v, %v", record, err)
	}
	if got := s.Kubectl("get", "secret", "slipway.test.1", "-o", "jsonpath={.immutable}"); got != "true" {
		t.Error("the record of a release can be changed")
	}
}

// TestNothingChanged deploys what is there already while the cluster cannot run it: that is no reason to go anywhere.
func TestNothingChanged(t *testing.T) {
	s := start(t)
	s.must(web())
	s.Kubectl("create", "quota", "none", "--hard=pods=0")
	s.Kubectl("delete", "pods", "--all")
	_, out, err := s.deploy(t.Context(), web(), func(step *rollout.Step) { step.Timeout = 20 * time.Second })
	wantError(t, err, fault.Failed, "deployment/web", "; nothing was changed")
	if state := s.state(); strings.Contains(out, "ROLL") || state.Locked != "" || state.Current != 1 {
		t.Errorf("the state is %+v", state)
	}
}

// TestKeepFailed leaves a failed release as it is, and goes back by hand.
func TestKeepFailed(t *testing.T) {
	s := start(t)
	s.must(web())
	_, _, err := s.deploy(t.Context(), web(absent()...)+config("new", "x"), func(step *rollout.Step) { step.KeepFailed = true })
	wantError(t, err, fault.Failed, "may not pull image", "it is not rolled back, as was asked")
	s.wantThere("deployment.apps/web", "configmap/new")
	out, err := s.rollback(0)
	if err != nil {
		t.Fatal(err)
	}
	wantLines(t, out, "configmap/new: deleted")
	s.wantThere("deployment.apps/web")
	s.wantServing("v1", "v1")
	if state := s.state(); state.Current != 3 {
		t.Errorf("release %d serves", state.Current)
	}
}

// TestRollbackFails breaks the way back: the release to go back to needs an object that is no longer allowed.
func TestRollbackFails(t *testing.T) {
	s := start(t)
	s.must(web())
	s.Kubectl("create", "quota", "none", "--hard=configmaps=0")
	s.Kubectl("delete", "secret", "slipway.test.1")
	_, _, err := s.deploy(t.Context(), web(absent()...))
	wantError(t, err, fault.Failed, "may not pull image", "ROLLBACK FAILED: going back to release 1 failed as well", "is locked until somebody has looked at it")
	s.fails(web(), fault.Conflict, []string{"is locked: release 2 failed, and going back to release 1 failed as well", "slipway env unlock test -n " + s.Namespace})
	place := s.place()
	if err := place.Unlock(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.must(web("v1}", "v3}"))
	s.wantServing("v3", "v3")
}

// TestResumed ends a deployment in its middle as a killed runner does, and goes on with it by another process.
func TestResumed(t *testing.T) {
	s := start(t)
	s.must(web(), func(step *rollout.Step) { step.Release = ci.Release{Repo: "team/app", Run: 6, Step: "deploy"} })
	run := func(step *rollout.Step) {
		step.Release = ci.Release{Repo: "team/app", Run: 7, Step: "deploy"}
		step.Resumed = func() bool { return true }
	}
	ctx, kill := context.WithCancel(t.Context())
	defer kill()
	_, _, err := s.deploy(ctx, web("v1}", "v2}"), run, s.onLine(func(line string) {
		if strings.Contains(line, "deployment/web: configured") {
			kill()
		}
	}))
	place := s.place()
	place.Repo = "team/app"
	if state, _ := place.Load(t.Context()); err == nil || !state.Pending {
		t.Fatalf("the deployment was not interrupted: %v", err)
	}
	s.line = nil
	result, out := s.must(web("v1}", "v2}"), run)
	wantLines(t, out, "going on with release 2, which was not finished")
	if strings.Contains(out, "waiting for that") {
		t.Error("the successor waited for its own lock")
	}
	s.wantServing("v2", "v2")
	if r := result.Release; r.Number != 2 || r.Status != ci.Success || r.Run != 7 {
		t.Errorf("release %+v", r)
	}
	if state, _ := place.Load(t.Context()); state.Pending || state.Current != 2 || state.Repo != "team/app" {
		t.Errorf("state %+v", state)
	}
	// Another step of the same run is refused, and another repo may not touch what this one has.
	s.fails(web(), fault.Conflict, []string{"was deployed by the step deploy of this very run"}, func(step *rollout.Step) {
		step.Release = ci.Release{Repo: "team/app", Run: 7, Step: "more"}
	})
	s.fails(web(), fault.Conflict, []string{"deployment/web belongs to the environment " + s.Namespace + "/test/team/app"}, func(step *rollout.Step) {
		step.Release = ci.Release{Repo: "team/other", Run: 1, Step: "deploy"}
	})
	// A successor whose version does not work goes back.
	ctx, kill = context.WithCancel(t.Context())
	defer kill()
	bad := web(absent("v1}", "v3}")...)
	run = func(step *rollout.Step) {
		step.Release = ci.Release{Repo: "team/app", Run: 8, Step: "deploy"}
		step.Resumed = func() bool { return true }
	}
	_, _, err = s.deploy(ctx, bad, run, s.onLine(func(line string) {
		if strings.Contains(line, "deployment/web: configured") {
			kill()
		}
	}))
	if err == nil {
		t.Fatal("the deployment was not interrupted")
	}
	s.line = nil
	s.fails(bad, fault.Failed, []string{"ROLLED BACK: release 2 serves again"}, run)
	s.wantServing("v2", "v2")
}
