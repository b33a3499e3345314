package rollout_test

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"slipway/internal/fault"
	"slipway/internal/kube"
	"slipway/internal/rollout"
)

func TestCrashLoop(t *testing.T) {
	s := start(t)
	s.must(web())
	out := s.fails(web("v1}", "v2}", "serve}", "crash}"), fault.Failed,
		[]string{"deployment/web: pod web-", "exits with code 3, 3 times so far", "the old version still serves: 2 of 2 of its pods are ready"})
	s.wantServing("v1", "v1")
	for _, want := range []string{"the last lines of the log of pod web-", "  | starting v2\n", "  | cannot open the database: no such host\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("output does not have %q", want)
		}
	}
}

func TestOutOfMemory(t *testing.T) {
	s := start(t)
	s.fails(web("serve}", "eat}", "imagePullPolicy", "resources: {limits: {memory: 20Mi}}\n        imagePullPolicy"), fault.Failed,
		[]string{"OOMKilled", "there is no older version, so nothing serves"})
}

func TestCommandMissing(t *testing.T) {
	s := start(t)
	s.must(web())
	s.fails(web("v1}", "v2}", "imagePullPolicy", "command: [/no/such/program]\n        imagePullPolicy"), fault.Failed,
		[]string{"cannot be started", "/no/such/program", "the old version still serves"})
	s.wantServing("v1", "v1")
}

func TestConfigMapMissing(t *testing.T) {
	s := start(t)
	s.fails(web("imagePullPolicy", "envFrom: [{configMapRef: {name: settings}}]\n        imagePullPolicy"), fault.Failed,
		[]string{"cannot be started", `configmap "settings" not found`})
}

func TestSecretVolumeMissing(t *testing.T) {
	s := start(t)
	s.fails(web("containers:", "volumes: [{name: v, secret: {secretName: tls}}]\n      containers:", "imagePullPolicy", "volumeMounts: [{name: v, mountPath: /v}]\n        imagePullPolicy"), fault.Failed,
		[]string{"cannot be started", `secret "tls" not found`})
}

func TestReadinessFails(t *testing.T) {
	s := start(t)
	s.must(web())
	s.fails(web("v1}", "v2}", "path: /", "path: /broken"), fault.Failed,
		[]string{"not rolled out within 8s", "runs, but is not ready", "statuscode: 500", "the old version still serves: 2 of 2"},
		func(step *rollout.Step) { step.Timeout = 8 * time.Second })
	s.wantServing("v1", "v1")
}

func TestProgressDeadline(t *testing.T) {
	s := start(t)
	s.fails(web("path: /", "path: /broken", "progressDeadlineSeconds: 600", "progressDeadlineSeconds: 5"), fault.Failed,
		[]string{"no progress for 5 seconds (its progressDeadlineSeconds)", "runs, but is not ready"})
}

func TestUnschedulable(t *testing.T) {
	s := start(t)
	s.fails(web("containers:", "nodeSelector: {no: such}\n      containers:"), fault.Failed,
		[]string{"fits on no node", "node affinity/selector"},
		func(step *rollout.Step) { step.Timeout = 5 * time.Second })
}

func TestQuota(t *testing.T) {
	s := start(t)
	s.Apply(`
apiVersion: v1
kind: ResourceQuota
metadata: {name: none}
spec: {hard: {pods: "0"}}
`)
	s.awaitQuota()
	s.fails(web(), fault.Failed, []string{"no pod can be created", "exceeded quota"})
}

// awaitQuota waits until no pod may be created: the cluster enforces a quota a moment after it is there.
func (s *site) awaitQuota() {
	s.t.Helper()
	client, err := kube.FromFile(s.Kubeconfig, "")
	if err != nil {
		s.t.Fatal(err)
	}
	defer client.Close()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "one"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "one", Image: image}}}}
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	defer cancel()
	for !apierrors.IsForbidden(err) {
		select {
		case <-ctx.Done():
			s.t.Fatal("the quota does not hold: ", err)
		case <-time.After(50 * time.Millisecond):
		}
		_, err = client.Core.CoreV1().Pods(s.Namespace).Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	}
}
