package rollout_test

import (
	"strings"
	"testing"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/release"
	"slipway/internal/rollout"
)

const scaler = `
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec: {scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}, minReplicas: 1, maxReplicas: 3}
`

const credentials = `
---
apiVersion: v1
kind: Secret
metadata: {name: credentials}
stringData: {password: hunter2}
`

// drift compares the environment, and returns what is printed of it.
func (s *site) drift(place release.Place) (rollout.DriftReport, string) {
	s.t.Helper()
	report, err := rollout.Drift(s.t.Context(), place)
	if err != nil {
		s.t.Fatal(err)
	}
	var out strings.Builder
	rollout.WriteDrift(&out, ci.Drift{Namespace: place.Namespace, Release: report.Release.Number, Objects: report.Objects(), Unknown: report.Unknown})
	s.t.Log(out.String())
	return report, out.String()
}

// wantNoDrift wants all to be as the release of that number left it.
func (s *site) wantNoDrift(place release.Place, number int64) {
	s.t.Helper()
	if report, out := s.drift(place); report.Unknown != "" || !report.Differences.Empty() || report.Release.Number != number {
		s.t.Errorf("release %d: %s, want release %d to be there", report.Release.Number, out, number)
	}
}

// TestDrift changes what was deployed by hand in all ways, and puts it back.
func TestDrift(t *testing.T) {
	s := start(t)
	place := s.place()
	if report, _ := s.drift(place); report.Unknown != "nothing was deployed there" {
		t.Errorf("of an environment without a release it says %q", report.Unknown)
	}
	s.must(web() + scaler + config("a", "one") + config("b", "one") + credentials + "\n---" + job("succeed"))
	s.wantNoDrift(place, 1)

	// What is nobody's drift.
	s.Kubectl("scale", "deployment", "web", "--replicas=1")
	s.Kubectl("delete", "job", "migrate")
	s.Kubectl("annotate", "configmap", "a", "example.com/note=hello")
	s.Kubectl("rollout", "restart", "deployment", "web")
	s.Kubectl("create", "configmap", "foreign")
	s.wantNoDrift(place, 1)

	s.Kubectl("set", "env", "deployment/web", "VERSION=by-hand")
	s.Kubectl("delete", "configmap", "b")
	s.Kubectl("patch", "secret", "credentials", "--patch", `{"stringData": {"password": "stolen"}}`, "--field-manager=mallory")
	s.Kubectl("annotate", "configmap", "a", "slipway/environment-")
	report, out := s.drift(place)
	wantLines(t, out,
		"not as release 1 left it: 3 changed, 1 missing", "spec.template.spec.containers[web].env[VERSION].value: by-hand, not v1",
		"configmap/b: missing", "data.password: another (secret) than that of the release", "metadata.annotations.slipway/environment: (none), not test")
	for _, who := range []string{"deployment/web: changed by kubectl-set at ", "secret/credentials: changed by mallory at ", "configmap/a: changed"} {
		if !strings.Contains(out, who) {
			t.Errorf("it does not say %q", who)
		}
	}
	if strings.Contains(out, "stolen") || strings.Contains(out, "hunter2") || strings.Contains(out, "spec.replicas") {
		t.Error("it says too much")
	}
	if len(report.Differences) != 4 {
		t.Errorf("%d objects differ", len(report.Differences))
	}

	if _, err := s.rollback(1); err != nil {
		t.Fatal(err)
	}
	s.wantNoDrift(place, 2)
	if got := s.Kubectl("get", "deployment", "web", "-o", "jsonpath={.spec.replicas}"); got != "1" {
		t.Errorf("healing set the replicas that the autoscaler sets to %s", got)
	}

	// Somebody takes an object over: that cannot be put back.
	s.Kubectl("annotate", "--overwrite", "configmap", "a", "slipway/owner=elsewhere/production")
	if report, _ := s.drift(place); len(report.Differences) != 1 || fault.Of(report.Differences.Err()).Code != fault.Conflict ||
		!strings.Contains(report.Objects()[0].Problem, "belongs to the environment elsewhere/production") {
		t.Errorf("of an object that was taken over it says %+v", report.Objects())
	}
}

// TestDriftOfFailure compares after releases that failed.
func TestDriftOfFailure(t *testing.T) {
	s := start(t)
	place := s.place()
	s.must(web() + config("a", "one"))
	broken := web("slipway.test/deploy:1", "slipway.test/none:1", "IfNotPresent", "Never") + config("a", "two")
	s.fails(broken, fault.Failed, []string{"ROLLED BACK"})
	s.wantNoDrift(place, 1)
	keep := func(step *rollout.Step) { step.KeepFailed = true }
	s.fails(broken, fault.Failed, []string{"not rolled back"}, keep)
	if report, _ := s.drift(place); !strings.Contains(report.Unknown, "release 3 failed and was left as it is") || !report.Differences.Empty() {
		t.Errorf("of a release that was left failed it says %q", report.Unknown)
	}
	lock, err := place.Lock(t.Context(), "a test", "deployed by a test", func(string) {}, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Unlock(t.Context())
	if report, _ := s.drift(place); report.Unknown != "it is being changed: deployed by a test" {
		t.Errorf("during a deployment it says %q", report.Unknown)
	}
}
