package rollout_test

import (
	"strings"
	"testing"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/rollout"
)

const service = `
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
`

// served is the Deployment of web without a termination grace period, and its Service.
func served(edit ...string) string {
	return web(append([]string{"terminationGracePeriodSeconds: 0\n      ", ""}, edit...)...) + service
}

// secured is what the cluster has of what makes a roll lossless.
func (s *site) secured() string {
	s.t.Helper()
	return s.Kubectl("get", "deployment/web", "-o", "jsonpath={.spec.strategy.rollingUpdate.maxUnavailable} {.spec.minReadySeconds} "+
		"{.spec.template.spec.terminationGracePeriodSeconds} {.spec.template.spec.containers[0].lifecycle.preStop.sleep.seconds} {.spec.template.spec.containers[0].env[0].value}")
}

func (s *site) wantBudgets(want string) {
	s.t.Helper()
	got := s.Kubectl("get", "poddisruptionbudgets", "-o", "jsonpath={range .items[*]}{.metadata.name} {.spec.maxUnavailable}{end}")
	if got != want {
		s.t.Errorf("the budgets are %q, want %q", got, want)
	}
}

func (s *site) wantSecured(want string) {
	s.t.Helper()
	if got := s.secured(); got != want {
		s.t.Errorf("in the cluster is %q, want %q", got, want)
	}
}

// TestLossless lets what is added come, stay, yield to the manifest, come back with a rollback, and go.
func TestLossless(t *testing.T) {
	s := start(t)
	_, out := s.must(served())
	wantLines(t, out, "differences: 3 to create", "+ deployment/web: create",
		"    spec.strategy.rollingUpdate.maxUnavailable: + 0 (added, so that a new pod is ready before an old one ends)",
		`    spec.template.spec.containers[web].lifecycle.preStop: + {"sleep":{"seconds":5}} (added, so that an old pod serves until no new requests come to it)`,
		"    spec.template.spec.terminationGracePeriodSeconds: + 35 (added, the time to drain and the 30 seconds that programs had before)",
		"    spec.minReadySeconds: + 1 (added, so that everybody knows a new pod before an old one ends)",
		"+ poddisruptionbudget/web: create", "    note: added for deployment/web, so that the cluster's maintenance ends one of its pods at a time")
	s.wantSecured("0 1 35 5 v1")
	s.wantBudgets("web 1")
	s.wantNoDrift(s.place(), 1)
	if budget := s.Kubectl("get", "poddisruptionbudget/web", "-o", `jsonpath={.metadata.annotations.slipway/added-for} {.spec.selector.matchLabels.app} {.status.expectedPods}`); budget != "deployment/web web 2" {
		t.Errorf("the budget is %q", budget)
	}
	if d, out := s.preview(served()); !d.Empty() || !strings.Contains(out, "differences: 3 to leave\n") {
		t.Errorf("the same again is %s", out)
	}

	// A failed release that has nothing of it, and goes back to all of it.
	s.fails(served("v1}", "v2}", "serve}", "crash}", "metadata: {name: web}\nspec:\n  replicas", "metadata: {name: web, annotations: {slipway/lossless: 'off'}}\nspec:\n  replicas"),
		fault.Failed, []string{"exits with code 3", "ROLLED BACK: release 1"})
	s.wantSecured("0 1 35 5 v1")
	s.wantBudgets("web 1")

	// The manifest has the last word, and its own budget.
	own := served("path: /, port: 8080}, periodSeconds: 1}", "path: /, port: 8080}, periodSeconds: 1}\n        lifecycle: {preStop: {sleep: {seconds: 1}}}",
		"progressDeadlineSeconds", "strategy: {rollingUpdate: {maxUnavailable: 1}}\n  progressDeadlineSeconds") + `
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: own}
spec: {minAvailable: 1, selector: {matchLabels: {app: web}}}
`
	_, out = s.must(own)
	wantLines(t, out, "    note: requests may be lost: its container web drains for 1 s, not 5 s (lifecycle.preStop)", "- poddisruptionbudget/web: delete")
	s.wantSecured("1 1 30 1 v1")
	s.wantBudgets("own ")
	s.fails(own, fault.Invalid, []string{"app.yaml:2:1: deployment/web may lose requests while it rolls, which the policy does not allow: its container web drains for 1 s, not 5 s"},
		lossless(ci.Lossless{Mode: ci.LosslessRequire}))
	if d, out := s.preview(served(), lossless(ci.Lossless{Mode: ci.LosslessCheck})); d.Empty() || !strings.Contains(out, "    note: missing is spec.minReadySeconds: 1, so that") {
		t.Errorf("a check says %s", out)
	}

	// Back to what was added, also by hand; then all of it goes with the workload.
	if out, err := s.rollback(1); err != nil || strings.Contains(out, "added") {
		t.Errorf("the rollback is %v", err)
	}
	s.wantSecured("0 1 35 5 v1")
	s.wantBudgets("web 1")
	_, out = s.must(config("a", "x"))
	wantLines(t, out, "- poddisruptionbudget/web: delete", "- deployment/web: delete")
	s.wantBudgets("")
}

func lossless(l ci.Lossless) func(*rollout.Step) {
	return func(step *rollout.Step) { step.Policy.Lossless = &l }
}

// TestLosslessLeftOut deploys what is to have nothing, or not all.
func TestLosslessLeftOut(t *testing.T) {
	s := start(t)
	annotated := func(value string) string {
		return served("metadata: {name: web}\nspec:\n  replicas", "metadata: {name: web, annotations: {slipway/lossless: '"+value+"'}}\nspec:\n  replicas")
	}
	if _, out := s.preview(strings.TrimSuffix(served(), service)); strings.Contains(out, "added") {
		t.Error("something is added to what no Service selects")
	}
	s.must(annotated("drain,budget"), lossless(ci.Lossless{Ready: 2}))
	s.wantSecured("0 2 30  v1")
	s.wantBudgets("")
	d, _ := s.preview(annotated("slow"))
	wantError(t, d.Err(), fault.Invalid, `app.yaml:2:1: the annotation slipway/lossless of deployment/web has "slow"`)
	if _, out := s.preview(annotated("off")); strings.Contains(out, "added") {
		t.Error("off by annotation: something is added")
	}
	if _, out := s.preview(served(), lossless(ci.Lossless{Mode: ci.LosslessOff})); strings.Contains(out, "added") {
		t.Error("off by policy: something is added")
	}
}

// TestLosslessRights deploys as an account that may do the least.
func TestLosslessRights(t *testing.T) {
	s := start(t)
	s.Kubectl("create", "serviceaccount", "deployer")
	s.Kubectl("create", "role", "deployer", "--verb=get,patch,create,delete,list,update",
		"--resource=deployments.apps,replicasets.apps,services,pods,events,secrets,leases.coordination.k8s.io,horizontalpodautoscalers.autoscaling")
	s.Kubectl("create", "rolebinding", "deployer", "--role=deployer", "--serviceaccount="+s.Namespace+":deployer")
	s.config = s.kubeconfig("deployer")
	_, out := s.must(served())
	wantLines(t, out, "    note: no PodDisruptionBudget is added, because the account system:serviceaccount:"+s.Namespace+":deployer may not list poddisruptionbudgets.policy in the namespace "+s.Namespace+"; a Role there has to allow it")
	s.wantSecured("0 1 35 5 v1")
	s.Kubectl("create", "role", "looker", "--verb=list", "--resource=poddisruptionbudgets.policy")
	s.Kubectl("create", "rolebinding", "looker", "--role=looker", "--serviceaccount="+s.Namespace+":deployer")
	_, out = s.must(served("v1}", "v2}"))
	wantLines(t, out, "    note: no PodDisruptionBudget is added, because the account may not create poddisruptionbudgets.policy in the namespace "+s.Namespace)
	s.wantSecured("0 1 35 5 v2")
}
