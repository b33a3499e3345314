package rollout_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/kube"
	"slipway/internal/release"
	"slipway/internal/rollout"
)

// elastic is an app whose manifest leaves open how many pods it has.
func elastic(version string) string {
	return app("v1}", version+"}", "  replicas: 2\n", "", "{seconds: 3}", "{seconds: 1}")
}

// scaling changes how many pods the Deployment web has, as autoscalers do.
type scaling struct {
	*site
	client  *kube.Client
	manager string
}

func (s *site) scaledBy(manager string) *scaling {
	s.t.Helper()
	c, err := kube.FromFile(s.Kubeconfig, "")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(c.Close)
	return &scaling{s, c, manager}
}

func (s *scaling) scale(ctx context.Context, n int32) error {
	deployments := s.client.Core.AppsV1().Deployments(s.Namespace)
	scale, err := deployments.GetScale(ctx, "web", metav1.GetOptions{})
	if err != nil {
		return err
	}
	scale.Spec.Replicas = n
	_, err = deployments.UpdateScale(ctx, "web", scale, metav1.UpdateOptions{FieldManager: s.manager})
	return err
}

// follows scales while a release waits, until its temporary Deployment has as many pods as the one beside it, and then tells
// what is to happen. It is not to be called where the release is held up.
func (s *scaling) follows(temporary string, n int32, verb release.Verb) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 3*time.Minute)
	defer cancel()
	err := s.scale(ctx, n)
	for err == nil {
		d, failure := s.client.Core.AppsV1().Deployments(s.Namespace).Get(ctx, temporary, metav1.GetOptions{})
		if err = failure; err == nil && *d.Spec.Replicas == n {
			break
		}
		select {
		case <-ctx.Done():
			err = fmt.Errorf("it has not got %d pods: %w", n, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
	if err != nil {
		s.t.Errorf("%s does not follow: %v", temporary, err)
	}
	s.tell(verb)
}

// at has f called beside the release when it waits for people at a step.
func (s *scaling) at(steps map[string]func()) func(*rollout.Step) {
	return s.onLine(func(line string) {
		for step, f := range steps {
			if strings.Contains(line, step+": waiting until somebody says") {
				go f()
			}
		}
	})
}

// wantScaled wants that many pods of a version, no drift, and nobody's hand on their number but the scaler's.
func (s *scaling) wantScaled(n int, version string) {
	s.t.Helper()
	versions := make([]string, n)
	for i := range versions {
		versions[i] = version
	}
	if got := s.Kubectl("get", "deployment", "web", "-o", "jsonpath={.spec.replicas}"); got != fmt.Sprint(n) {
		s.t.Errorf("the Deployment wants %s pods, want %d", got, n)
	}
	s.wantLeft(versions...)
	if s.manager != "" {
		d, err := s.client.Core.AppsV1().Deployments(s.Namespace).Get(s.t.Context(), "web", metav1.GetOptions{})
		if err != nil {
			s.t.Fatal(err)
		}
		for _, entry := range d.ManagedFields {
			if entry.Manager != s.manager && entry.Subresource != "status" && entry.FieldsV1 != nil && strings.Contains(entry.FieldsV1.GetRawString(), `"f:replicas"`) {
				s.t.Errorf("%s has its hand on the number of pods: %s", entry.Manager, entry.FieldsV1.GetRawString())
			}
		}
	}
	s.wantNoDrift(s.place(), s.state().Current)
}

// TestScaledByAutoscaler has a HorizontalPodAutoscaler act while releases come by steps. The cluster has nothing that measures, so
// the test acts in its name.
func TestScaledByAutoscaler(t *testing.T) {
	s := start(t).scaledBy("kube-controller-manager")
	s.must(elastic("v1"))
	s.Kubectl("autoscale", "deployment", "web", "--min=1", "--max=6")
	if err := s.scale(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	half := ci.Strategy{Kind: ci.Canary, Steps: []ci.StrategyStep{{Weight: 50, Manual: true}}}
	s.must(elastic("v2"), by(half), s.at(map[string]func(){"step 1 of 1": func() { s.follows("web-canary", 3, release.Finish) }}))
	s.wantScaled(3, "v2")
	s.must(elastic("v3"), by(ci.Strategy{Kind: ci.BlueGreen, Manual: true}), s.at(map[string]func(){"step 1 of 2": func() { s.follows("web-preview", 2, release.Next) }}))
	s.wantScaled(2, "v3")
	s.fails(elastic("v4"), fault.Failed, []string{"canary was stopped at step 1 of 1 by ann", "ROLLED BACK: release 3 serves again"}, by(half),
		s.at(map[string]func(){"step 1 of 1": func() { s.follows("web-canary", 3, release.Abort) }}))
	s.wantScaled(3, "v3")
}

// TestScaledByOthers has somebody scale of whom the cluster knows no autoscaler. What a step has left fewer pods gets them back.
func TestScaledByOthers(t *testing.T) {
	s := start(t).scaledBy("keda")
	s.must(elastic("v1"))
	if err := s.scale(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	more := ci.Strategy{Kind: ci.Canary, Steps: []ci.StrategyStep{{Weight: 50, Manual: true}, {Weight: 80, Manual: true}}}
	s.fails(elastic("v2"), fault.Failed, []string{"canary was stopped at step 1 of 2 by ann", "ROLLED BACK: release 1 serves again"}, by(more),
		s.at(map[string]func(){"step 1 of 2": func() { s.follows("web-canary", 1, release.Abort) }}))
	s.wantScaled(1, "v1")
	s.must(elastic("v2"), by(more), s.at(map[string]func(){
		"step 1 of 2": func() { s.follows("web-canary", 3, release.Next) },
		"step 2 of 2": func() { s.tell(release.Finish) },
	}))
	s.manager = "" // the step has had its hand on it
	s.wantScaled(3, "v2")
}
