package rollout_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/rollout"
)

// migration is a hook that says its version and does what mode says. It needs the ConfigMap settings.
func migration(when, version, mode string) string {
	return `---
apiVersion: batch/v1
kind: Job
metadata: {name: migrate-` + when + `, annotations: {slipway/hook: ` + when + `}}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 0
      containers:
      - name: migrate
        image: slipway.test/deploy:1
        imagePullPolicy: IfNotPresent
        env: [{name: VERSION, value: ` + version + `}, {name: MODE, value: ` + mode + `}]
        envFrom: [{configMapRef: {name: settings}}]
`
}

// wantOrder checks that the output has lines that begin with these, in this order.
func wantOrder(t *testing.T, out string, prefixes ...string) {
	t.Helper()
	rest := "\n" + out
	for _, prefix := range prefixes {
		_, after, ok := strings.Cut(rest, "\n"+prefix)
		if !ok {
			t.Fatalf("output has no line %q after the ones before, in\n%s", prefix, out)
		}
		rest = after
	}
}

// TestHooks runs hooks before and after the rest, each once for each release and never when going back.
func TestHooks(t *testing.T) {
	s := start(t)
	yaml := func(version string) string {
		return web("v1}", version+"}") + migration("before", version, "succeed") + migration("after", version, "succeed") + "---" + config("settings", version)
	}
	_, out := s.must(yaml("v1"))
	wantOrder(t, out, "differences: 1 to run before, 2 to create, 1 to run after", "> job/migrate-before: run before",
		"configmap/settings: created", "job/migrate-before: runs before the rest", "migrate-before | starting v1", "job/migrate-before: completed",
		"deployment/web: created", "deployment/web: rolled out", "job/migrate-after: runs after the rest", "migrate-after | starting v1",
		"job/migrate-after: completed", "release 1 of ")
	uid := func() string { return s.Kubectl("get", "job", "migrate-before", "-o", "jsonpath={.metadata.uid}") }
	first := uid()
	differences, _ := s.preview(yaml("v1"))
	if !differences.Empty() {
		t.Errorf("what only runs hooks changes something: %+v", differences)
	}
	_, out = s.must(yaml("v2"))
	wantOrder(t, out, "> job/migrate-before: run before", "    spec.template.spec.containers[migrate].env[VERSION].value: v1 -> v2", "migrate-before | starting v2")
	second := uid()
	if first == second {
		t.Error("the second release has no Job of its own")
	}
	s.wantNoDrift(s.place(), 2)
	out, err := s.rollback(1)
	if err != nil {
		t.Fatal(err)
	}
	if uid() != second || strings.Contains(out, "migrate") {
		t.Errorf("going back ran a hook:\n%s", out)
	}
	s.wantServing("v1", "v1")
	// Hooks that leave the manifests are deleted like everything else.
	s.must(web() + "---" + config("settings", "v1"))
	if got := s.Kubectl("get", "jobs", "-o", "name"); got != "" {
		t.Errorf("Jobs that left the manifests are still there: %s", got)
	}
}

// TestMigrationFails has a hook fail before anything else is changed: what it needed is put back, and the old version
// serves as before.
func TestMigrationFails(t *testing.T) {
	s := start(t)
	s.must(web() + migration("before", "v1", "succeed") + "---" + config("settings", "v1"))
	before := s.Kubectl("get", "deployment", "web", "-o", "jsonpath={.metadata.uid} {.metadata.generation} {.status.observedGeneration}")
	out := s.fails(web("v1}", "v2}")+migration("before", "v2", "crash")+"---"+config("settings", "v2")+"---"+config("new", "v2"), fault.Failed,
		[]string{"job/migrate-before: failed: pod migrate-before-", "exits with code 3", "ROLLED BACK: release 1 serves again"})
	wantOrder(t, out, "configmap/settings: configured", "migrate-before | cannot open the database: no such host", "ROLLING BACK to release 1", "configmap/settings: configured")
	s.wantServing("v1", "v1")
	if after := s.Kubectl("get", "deployment", "web", "-o", "jsonpath={.metadata.uid} {.metadata.generation} {.status.observedGeneration}"); after != before {
		t.Errorf("the Deployment was %q and is %q", before, after)
	}
	if got := s.value("settings"); got != "v1" {
		t.Errorf("settings is %q", got)
	}
	if got := s.Kubectl("get", "configmap", "new", "--ignore-not-found"); got != "" {
		t.Errorf("there is what the failed release would have brought: %s", got)
	}
	if state := s.state(); state.Current != 1 || state.Latest.Number != 2 || state.Latest.Status != ci.Failure || state.Latest.Restored != 1 || state.Pending || state.Locked != "" {
		t.Errorf("state %+v", state)
	}
	// Where nothing was needed, nothing was changed at all.
	s.fails(web("v1}", "v2}")+migration("before", "v3", "crash")+"---"+config("settings", "v1"), fault.Failed,
		[]string{"job/migrate-before: failed", "nothing was changed, and release 1 serves"})
	s.wantServing("v1", "v1")
}

// TestHookAfterFails goes back when the hook after the rest fails.
func TestHookAfterFails(t *testing.T) {
	s := start(t)
	s.must(web() + "---" + config("settings", "v1"))
	out := s.fails(web("v1}", "v2}")+migration("after", "v2", "crash")+"---"+config("settings", "v1"), fault.Failed,
		[]string{"job/migrate-after: failed", "ROLLED BACK: release 1 serves again"})
	wantOrder(t, out, "deployment/web: rolled out", "job/migrate-after: runs after the rest", "ROLLING BACK", "deployment/web: rolled out")
	s.wantServing("v1", "v1")
}

// TestHookResumed kills a deployment while its hook runs: the one that takes it up follows the same Job. One that is
// canceled stops it.
func TestHookResumed(t *testing.T) {
	s := start(t)
	yaml := migration("before", "v1", "serve") + "---" + config("settings", "v1") // it serves until it is deleted
	byRun := func(step *rollout.Step) { step.Release = ci.Release{Repo: "ada/engine", Run: 7, Step: "deploy"} }
	interrupted := func(resumed bool) (string, error) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		_, out, err := s.deploy(ctx, yaml, byRun, func(step *rollout.Step) { step.Resumed = func() bool { return resumed } }, s.onLine(func(line string) {
			if strings.HasPrefix(line, "migrate-before | starting v1") {
				cancel()
			}
		}))
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("the deployment ended with %v", err)
		}
		return out, err
	}
	uid := func() string {
		return s.Kubectl("get", "job", "migrate-before", "--ignore-not-found", "-o", "jsonpath={.metadata.uid}")
	}
	interrupted(true)
	first := uid()
	if first == "" {
		t.Fatal("the Job of an interrupted deployment is gone")
	}
	out, _ := interrupted(true)
	wantOrder(t, out, "going on with release 1, which was not finished", "job/migrate-before: was begun by this deployment already, and is not run again", "migrate-before | starting v1")
	if uid() != first {
		t.Error("the hook ran twice")
	}
	out, _ = interrupted(false)
	wantOrder(t, out, "job/migrate-before: was begun by this deployment already", "job/migrate-before: stopped and deleted, because it had not ended")
	if uid() != "" {
		t.Error("the Job of a canceled deployment is still there")
	}
}

// TestHookStuck stops a hook that cannot start, so that it is not in the way of the next release.
func TestHookStuck(t *testing.T) {
	s := start(t)
	stuck := strings.Replace(migration("before", "v1", "succeed"), "slipway.test/deploy:1", "slipway.test/none:1", 1)
	stuck = strings.Replace(stuck, "IfNotPresent", "Never", 1)
	s.fails(stuck+"---"+config("settings", "v1"), fault.Failed, []string{"job/migrate-before: pod migrate-before-", "may not pull image"})
	s.must(migration("before", "v1", "succeed") + "---" + config("settings", "v1"))
}

func TestHookInvalid(t *testing.T) {
	s := start(t)
	bad := strings.Replace(migration("before", "v1", "succeed"), "slipway/hook: before", "slipway/hook: sometimes", 1)
	s.fails(bad, fault.Invalid, []string{"app.yaml:2:1", `slipway/hook of job/migrate-before is "sometimes"`})
	bad = strings.Replace(migration("before", "v1", "succeed"), "slipway/hook: before", "slipway/hook: before, slipway/hook-weight: first", 1)
	s.fails(bad, fault.Invalid, []string{`slipway/hook-weight of job/migrate-before is "first"`})
	bad = strings.Replace(migration("before", "v1", "succeed"), "restartPolicy: Never", "restartPolicy: Sometimes", 1)
	s.fails(bad, fault.Invalid, []string{"job/migrate-before is refused by the cluster", "restartPolicy"})
}

// TestPicture checks what people who watch are shown: no more often than promised, and at the end how it ended.
func TestPicture(t *testing.T) {
	s := start(t)
	var pictures []ci.Rollout
	watched := func(step *rollout.Step) {
		step.Picture = func(p ci.Rollout) { pictures = append(pictures, p) }
	}
	s.must(web()+"---"+config("settings", "v1")+migration("before", "v1", "succeed"), watched)
	last := pictures[len(pictures)-1]
	if len(last.Workloads) != 2 || last.Back || last.Workloads[0].Hook != "before" || last.Workloads[0].State != ci.WorkloadDone {
		t.Fatalf("the last picture is %+v", last)
	}
	if w := last.Workloads[1]; w.Kind != "Deployment" || w.Name != "web" || w.State != ci.WorkloadDone || w.Desired != 2 || w.Updated != 2 || w.Ready != 2 || w.Old != 0 {
		t.Errorf("the Deployment is shown as %+v", w)
	}
	pictures = nil
	s.fails(web("v1}", "v2}", "serve}", "crash}")+"---"+config("settings", "v1"), fault.Failed, []string{"exits with code 3"}, watched)
	var crashed *ci.Workload
	for i := range pictures {
		if i > 0 && pictures[i].Updated.Before(pictures[i-1].Updated) {
			t.Error("pictures are not in order")
		}
		for k, w := range pictures[i].Workloads {
			if w.State == ci.WorkloadFailed {
				crashed = &pictures[i].Workloads[k]
			}
		}
	}
	if crashed == nil || crashed.OldReady == 0 || crashed.Restarts < 2 || len(crashed.Events) == 0 || !strings.Contains(crashed.Trouble, "exits with code 3") ||
		!strings.Contains(strings.Join(crashed.Log, "\n"), "cannot open the database") {
		t.Errorf("the crash is shown as %+v", crashed)
	}
	last = pictures[len(pictures)-1]
	if !last.Back || len(last.Failed) != 1 || last.Failed[0].State != ci.WorkloadFailed || len(last.Workloads) != 1 || last.Workloads[0].State != ci.WorkloadDone {
		t.Errorf("the last picture is %+v", last)
	}
	if took := last.Updated.Sub(pictures[0].Updated); len(pictures) > 10+2*int(took/time.Second+1) {
		t.Errorf("%d pictures within %s", len(pictures), took)
	}
}
