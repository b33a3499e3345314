package rollout

import (
	"context"
	"maps"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"slipway/internal/ci"
	"slipway/internal/release"
)

// clear takes back what a release that did not end has left behind, before another one begins.
func (d *deployment) clear(ctx context.Context) error {
	p, s := d.state.Progress, d.r.Policy.Strategy
	if p == nil || p.Kind != ci.Recreate && d.resumes() && s != nil && s.Kind == p.Kind {
		return nil // introduce goes on with it
	}
	d.p.linef("release %d was left in the middle of its %s; it is taken back first", p.Release, p.Kind)
	return retry(ctx, d.r.Client, d.p, func() error { return d.withdraw(ctx) })
}

// resumes reports whether this process goes on with a release that another has begun.
func (d *deployment) resumes() bool {
	return d.state.Pending && d.state.Latest.Run > 0 && d.state.Latest.Run == d.r.Release.Run
}

// withdraw takes a release that comes by steps out of the cluster: all traffic goes to the version before, and what was
// temporary is gone. It may be repeated.
func (d *deployment) withdraw(ctx context.Context) error {
	p := d.state.Progress
	switch {
	case p == nil:
		return nil
	case p.Kind == ci.Recreate:
		return d.endRecreate(ctx)
	}
	record, err := d.place.Find(ctx, d.state.Current)
	if err != nil {
		return err
	}
	s := &steps{deployment: d, strategy: ci.Strategy{Kind: p.Kind}, track: trackOf(p.Kind), progress: p, before: byKey(objectsOf(record))}
	saved := d.deadline
	defer func() { d.deadline = saved }()
	if err := s.within(ctx, s.takeBack); err != nil {
		return err
	}
	d.state.Objects = release.Without(d.state.Objects, p.Temporary)
	return d.saveProgress(ctx, nil)
}

// takeBack is the way of withdraw: first the version before has all its pods, then all the traffic, and then the new
// version goes.
func (s *steps) takeBack(ctx context.Context) error {
	request := s.r
	request.Objects = nil
	for _, w := range s.progress.Workloads {
		if o := s.before[w.Key()]; o.Unstructured != nil {
			request.Objects = append(request.Objects, o)
		}
	}
	differences, err := diff(ctx, request)
	if err == nil {
		err = differences.Err()
	}
	if err != nil {
		return err
	}
	if _, err := apply(ctx, request, differences, s.p); err != nil {
		return err
	}
	for i, w := range s.progress.Workloads {
		if _, says := replicasOf(differences[i].Object.Unstructured); says || differences[i].live == nil {
			continue
		}
		if live, _ := replicasOf(differences[i].live); live == w.Scaled && live != w.Replicas { // else somebody else scales it
			if err := s.scale(ctx, w.Ref, w.Replicas); err != nil {
				return err
			}
		}
	}
	if _, err := watch(ctx, request, s.deadline, s.timeout, s.p); err != nil {
		return err
	}
	if err := s.directBack(ctx); err != nil {
		return err
	}
	return s.discard(ctx)
}

// returnForeign gives routes of others the rules back that they had before a release that has not ended.
func (d *deployment) returnForeign(ctx context.Context) error {
	if d.state.Progress == nil {
		return nil
	}
	s := &steps{deployment: d, progress: d.state.Progress}
	for _, route := range s.progress.Routes {
		if len(route.Rules) == 0 {
			continue
		}
		rules, err := s.rulesBefore(route)
		if err != nil {
			return err
		}
		if err := s.putRules(ctx, route, rules); err != nil {
			return err
		}
	}
	return nil
}

// directBack gives all traffic to the version before, which is rolled out.
func (s *steps) directBack(ctx context.Context) error {
	wait := false
	for _, w := range s.progress.Workloads {
		before, ok := s.before[w.Key()]
		if !ok {
			continue
		}
		c := canary{Workload: w, before: before.Unstructured}
		for _, ref := range s.progress.Services {
			service, ok := s.before[ref.Key()]
			if !ok || ref.Namespace != w.Namespace || !selects(service.Unstructured, podLabels(c.before)) {
				continue
			}
			live, err := s.find(ctx, service.Unstructured)
			if err != nil {
				return err
			}
			if live != nil && !maps.Equal(selectorOf(live), selectorOf(service.Unstructured)) {
				c.services = append(c.services, service.Unstructured)
			}
		}
		if err := s.direct(ctx, &c, oldOnly); err != nil {
			return err
		}
		if err := s.settle(ctx, &c, oldOnly); err != nil {
			return err
		}
	}
	for _, route := range s.progress.Routes {
		rules, err := s.rulesBefore(route)
		if err == nil {
			err = s.putRules(ctx, route, rules)
		}
		if err != nil {
			return err
		}
		wait = true
	}
	if wait {
		return sleep(ctx, notice)
	}
	return nil
}

// discard removes what was temporary, of which nothing gets traffic any more: the pods first, so that the Services can be
// again as their manifests say.
func (s *steps) discard(ctx context.Context) error {
	for _, ref := range s.progress.Temporary {
		if isDeployment(ref.Object()) {
			if err := s.delete(ctx, ref); err != nil {
				return err
			}
		}
	}
	for _, w := range s.progress.Workloads {
		before, ok := s.before[w.Key()]
		for ok {
			pods, err := s.pods(ctx, w.Namespace, with(selectorLabels(before.Unstructured), TrackLabel, s.track))
			if apierrors.IsForbidden(err) || err == nil && len(pods) == 0 {
				break
			}
			if err != nil {
				return err
			}
			if err := sleep(ctx, interval); err != nil {
				return err
			}
		}
	}
	for _, ref := range s.progress.Services {
		service, ok := s.before[ref.Key()]
		if !ok {
			continue
		}
		if err := s.put(ctx, service.Unstructured); err != nil {
			return err
		}
	}
	for _, ref := range s.progress.Temporary {
		if err := s.delete(ctx, ref); err != nil {
			return err
		}
	}
	return nil
}

func selectorLabels(deployment *unstructured.Unstructured) map[string]string {
	labels, _, _ := unstructured.NestedStringMap(deployment.Object, "spec", "selector", "matchLabels")
	return labels
}
