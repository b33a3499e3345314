package rollout_test

import (
	"slices"
	"strings"
	"testing"

	"slipway/internal/fault"
	"slipway/internal/kube"
	"slipway/internal/rollout"
)

// TestImagesInUse asks for the images of pods, of workloads that have none now, and of releases, as an account of one
// namespace.
func TestImagesInUse(t *testing.T) {
	s := start(t)
	s.Kubectl("create", "serviceaccount", "asker")
	client, err := kube.FromKubeconfig(s.kubeconfig("asker"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	_, err = rollout.ImagesInUse(t.Context(), client, []string{s.Namespace})
	wantError(t, err, fault.Forbidden, "may not list pods")

	s.Apply(`{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: asker}, rules: [{apiGroups: ["*"], resources: ["*"], verbs: [list]}]}`)
	s.Kubectl("create", "rolebinding", "asker", "--role=asker", "--serviceaccount="+s.Namespace+":asker")
	s.must(web())
	s.must(config("a", "x"))
	s.Apply(`
apiVersion: batch/v1
kind: CronJob
metadata: {name: nightly}
spec:
  schedule: "0 3 * * *"
  suspend: true
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: "ci.example.com/octo/nightly:7"}]}}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: asleep}
spec:
  replicas: 0
  selector: {matchLabels: {app: asleep}}
  template:
    metadata: {labels: {app: asleep}}
    spec: {containers: [{name: a, image: "ci.example.com/octo/asleep:1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: runs}
spec: {terminationGracePeriodSeconds: 0, containers: [{name: a, image: "slipway.test/deploy:1", imagePullPolicy: Never}]}
`)
	s.Kubectl("rollout", "status", "deployment/asleep", "--timeout=60s")
	s.Kubectl("set", "image", "deployment/asleep", "a=ci.example.com/octo/asleep:2")
	s.Kubectl("rollout", "status", "deployment/asleep", "--timeout=60s")
	s.Kubectl("wait", "--for=condition=Ready", "pod/runs", "--timeout=60s")
	s.Kubectl("delete", "pods", "-l", "app=web", "--now")
	uses, err := rollout.ImagesInUse(t.Context(), client, []string{s.Namespace})
	if err != nil {
		t.Fatal(err)
	}
	of := func(image string) string {
		i := slices.IndexFunc(uses, func(u rollout.ImageUse) bool { return u.Image == image })
		if i < 0 {
			return ""
		}
		return uses[i].Reason
	}
	for image, want := range map[string]string{
		"ci.example.com/octo/nightly:7": "cronjob/nightly of the namespace " + s.Namespace + " has it",
		"ci.example.com/octo/asleep:2":  "deployment/asleep of the namespace " + s.Namespace + " has it",
		"slipway.test/deploy:1":         "pod/runs of the namespace " + s.Namespace + " runs it",
	} {
		if got := of(image); got != want {
			t.Errorf("%s: %q, want %q", image, got, want)
		}
	}
	if got := of("ci.example.com/octo/asleep:1"); !strings.HasPrefix(got, "replicaset/asleep-") { // for kubectl rollout undo
		t.Errorf("of the image of a Deployment's earlier revision it says %q", got)
	}
	if !slices.ContainsFunc(uses, func(u rollout.ImageUse) bool {
		return strings.Contains(u.Image, "sha256:") && strings.Contains(u.Reason, "pod/runs")
	}) {
		t.Errorf("what the node says that it runs is not in %+v", uses)
	}
	s.Kubectl("delete", "pod", "runs", "--now")
	if uses, err = rollout.ImagesInUse(t.Context(), client, []string{s.Namespace}); err != nil {
		t.Fatal(err)
	}
	if got := of("slipway.test/deploy:1"); got != "test of the namespace "+s.Namespace+" can go back to release 1" {
		t.Errorf("of the image of an earlier release it says %q", got)
	}
}
