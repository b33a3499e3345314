package rollout_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"slipway/internal/ci"
	"slipway/internal/fault"
)

// TestRecreate watches the pods: all old ones are gone before there is a new one. The way back is the same.
func TestRecreate(t *testing.T) {
	s := start(t)
	s.must(app())
	recreate := by(ci.Strategy{Kind: ci.Recreate})
	pods := s.watchPods()
	s.must(app("v1}", "v2}"), recreate)
	s.wantPlain("deployment.apps/web", "service/web")
	s.wantLeft("v2", "v2")
	if got := s.Kubectl("get", "deployment", "web", "-o", "jsonpath={.spec.strategy.type} {.spec.strategy.rollingUpdate.maxUnavailable}"); got != "RollingUpdate 0" {
		t.Errorf("afterwards the strategy is %s", got)
	}
	s.fails(app(absent("v1}", "v3}")...), fault.Failed, []string{"may not pull image", "ROLLED BACK: release 2 serves again"}, recreate)
	s.wantLeft("v2", "v2")
	s.wantPlain("deployment.apps/web", "service/web")
	// It is canceled while the old pods end.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, _, err := s.deploy(ctx, app("v1}", "v4}"), recreate, s.onLine(func(line string) {
		if strings.HasPrefix(line, "deployment/web: configured") {
			cancel()
		}
	}))
	wantError(t, err, fault.Failed, "canceled", "ROLLED BACK: release 2 serves again")
	s.line = nil
	s.wantLeft("v2", "v2")
	if _, err := s.rollback(1); err != nil {
		t.Fatal(err)
	}
	s.wantLeft("v1", "v1")
	s.wantPlain("deployment.apps/web", "service/web")
	if mixed := pods(); mixed != "" {
		t.Errorf("two versions ran at once: %s", mixed)
	}
}

// watchPods watches the pods until the function that it returns is called, which says what was there at once that should
// not have been.
func (s *site) watchPods() (mixed func() string) {
	s.t.Helper()
	ctx, stop := context.WithCancel(s.t.Context())
	client := s.place().Client
	list, err := client.Core.CoreV1().Pods(s.Namespace).List(ctx, metav1.ListOptions{LabelSelector: "app=web"})
	if err != nil {
		s.t.Fatal(err)
	}
	w, err := client.Core.CoreV1().Pods(s.Namespace).Watch(ctx, metav1.ListOptions{LabelSelector: "app=web", ResourceVersion: list.ResourceVersion})
	if err != nil {
		s.t.Fatal(err)
	}
	running := map[string]string{}
	for _, pod := range list.Items {
		running[pod.Name] = pod.Labels["pod-template-hash"]
	}
	var found string
	done := make(chan struct{})
	go func() {
		defer close(done)
		for event := range w.ResultChan() {
			pod, ok := event.Object.(*corev1.Pod)
			if !ok {
				return
			}
			if event.Type == watch.Deleted {
				delete(running, pod.Name)
				continue
			}
			running[pod.Name] = pod.Labels["pod-template-hash"]
			for name, hash := range running {
				if hash != running[pod.Name] {
					found = fmt.Sprintf("%s and %s", name, pod.Name)
				}
			}
		}
	}()
	return func() string {
		stop()
		w.Stop()
		<-done
		return found
	}
}
