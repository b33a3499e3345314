package rollout_test

import (
	"context"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"slipway/internal/fault"
	"slipway/internal/kube"
	"slipway/internal/rollout"
)

// review makes a step one of a review environment in a namespace of its own, which is gone after the test.
func (s *site) review(namespace string) func(*rollout.Step) {
	s.t.Helper()
	client, err := kube.FromFile(s.Kubeconfig, "")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = client.Core.CoreV1().Namespaces().Delete(context.WithoutCancel(s.t.Context()), namespace, metav1.DeleteOptions{})
		client.Close()
	})
	return func(step *rollout.Step) { step.Review, step.Namespace, step.Environment = true, namespace, "review/x" }
}

func (s *site) teardown(set ...func(*rollout.Step)) (string, error) {
	s.t.Helper()
	step := rollout.Step{
		Namespace: s.Namespace, Environment: "test", Timeout: 90 * time.Second,
		Client: func() (*kube.Client, error) { return kube.FromFile(s.Kubeconfig, "") },
	}
	for _, f := range set {
		f(&step)
	}
	var out strings.Builder
	err := rollout.RunTeardown(s.t.Context(), step, &out)
	s.t.Logf("%v\n%s", err, out.String())
	return out.String(), err
}

// TestReviewNamespace makes a namespace with a review environment, and removes both, also when something in it does not go at first.
func TestReviewNamespace(t *testing.T) {
	s := start(t)
	own := s.Namespace + "-x"
	review := s.review(own)
	s.must(config("a", "x")+config("stubborn", "x"), review)
	if got := s.Kubectl("get", "namespace", own, "-o", `jsonpath={.metadata.annotations.slipway/review}`); got != own+"/review/x" {
		t.Errorf("the namespace is made for %q", got)
	}
	_, out := s.must(config("a", "x")+config("stubborn", "x"), review)
	wantLines(t, out, "namespace/"+own+": unchanged")

	// Another review environment may not share what goes with this one.
	s.fails(config("a", "x"), fault.Conflict, []string{"belongs to the review environment " + own + "/review/x"}, review, func(step *rollout.Step) { step.Environment = "review/y" })

	s.Kubectl("patch", "configmap", "stubborn", "-n", own, "--type=merge", "-p", `{"metadata":{"finalizers":["slipway.test/stays"]}}`)
	if _, err := s.teardown(review, func(step *rollout.Step) { step.Timeout = 5 * time.Second }); err == nil {
		t.Fatal("it was torn down although something does not go")
	} else {
		wantError(t, err, fault.Failed, "was stopped before its end")
	}
	s.Kubectl("patch", "configmap", "stubborn", "-n", own, "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	if _, err := s.teardown(review); err != nil {
		t.Fatal(err)
	}
	if got := s.Kubectl("get", "namespace", own, "--ignore-not-found", "-o", "name"); got != "" {
		t.Errorf("there is still %s", got)
	}
	out, err := s.teardown(review)
	if err != nil || !strings.Contains(out, "is gone") {
		t.Errorf("a second time: %v, %s", err, out)
	}

	// One that goes is waited for, and then made anew.
	s.must(config("a", "x"), review)
	s.Kubectl("delete", "namespace", own, "--wait=false")
	s.must(config("b", "x"), review)
	if got := s.Kubectl("get", "configmap", "b", "-n", own, "-o", "jsonpath={.data.value}"); got != "x" {
		t.Errorf("in the new namespace is %q", got)
	}
}

// TestTeardownInForeignNamespace removes what the environment brought, data too, from a namespace that others made.
func TestTeardownInForeignNamespace(t *testing.T) {
	s := start(t)
	foreign := func(step *rollout.Step) { step.Review = true }
	s.Kubectl("create", "configmap", "foreign")
	s.must(config("a", "x")+config("kept", "x"), foreign)
	s.Kubectl("annotate", "configmap", "kept", "slipway/prune=false")
	// Nothing makes the volume, so the deployment does not end well, but the claim is there.
	s.fails(config("kept", "x")+claim+set, fault.Failed, []string{"persistentvolumeclaim/"}, foreign, func(step *rollout.Step) { step.Timeout, step.KeepFailed = 10*time.Second, true })
	s.Kubectl("get", "persistentvolumeclaim", "data-set-0")
	out, err := s.teardown()
	if err != nil {
		t.Fatal(err)
	}
	wantLines(t, out, "configmap/kept: stays in the cluster", "persistentvolumeclaim/data: deleted", "persistentvolumeclaim/data-set-0: deleted")
	s.Kubectl("wait", "--for=delete", "persistentvolumeclaim/data-set-0", "--timeout=60s")
	s.wantThere("configmap/foreign", "configmap/kept")
	if got := s.Kubectl("get", "secrets", "-o", "name"); got != "" {
		t.Errorf("records are left: %s", got)
	}
}

const set = `
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: set}
spec:
  selector: {matchLabels: {app: set}}
  serviceName: set
  template:
    metadata: {labels: {app: set}}
    spec: {containers: [{name: c, image: "slipway.test/deploy:1", volumeMounts: [{name: data, mountPath: /data}]}]}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {storageClassName: none, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
`
