package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/manifest"
	"slipway/internal/release"
)

// introduce applies what differs in the way that the policy's strategy says, and watches it. Applying is ctx with the
// deadline. Going back by hand takes no steps, but a version that may not run beside another may not then either.
func (d *deployment) introduce(ctx, applying context.Context, differences Differences) error {
	s := d.r.Policy.Strategy
	switch {
	case s == nil || s.Kind == ci.Rolling:
		return d.roll(ctx, applying, differences)
	case s.Kind == ci.Recreate:
		return d.recreate(ctx, applying, *s, differences)
	case d.r.manual:
		return d.roll(ctx, applying, differences)
	}
	return d.bySteps(ctx, applying, *s, differences)
}

// stepsOf returns the steps of a strategy, each with all its checks. Blue-green has two: nothing for the new version, and
// then everything.
func stepsOf(s ci.Strategy) []ci.StrategyStep {
	if s.Kind == ci.BlueGreen {
		return []ci.StrategyStep{{Weight: 0, Manual: s.Manual, Checks: s.Checks}, {Weight: 100, Pause: s.Keep, Checks: s.After}}
	}
	steps := slices.Clone(s.Steps)
	if len(steps) == 0 {
		steps = ci.DefaultSteps()
	}
	for i := range steps {
		steps[i].Checks = slices.Concat(s.Checks, steps[i].Checks)
	}
	return steps
}

// steps brings a new version in step by step: beside each Deployment there is a temporary one with the new version, to
// which more and more of the traffic goes. When all steps have passed, the Deployment itself gets the new version, and the
// temporary one goes, so that nothing in the cluster says any more how the version came. The state of the environment has
// all that a successor needs to go on, or anybody to take it back. It is used by one goroutine.
type steps struct {
	*deployment
	strategy ci.Strategy
	track    string
	steps    []ci.StrategyStep
	progress *release.Progress
	// before is what the release that serves has, by key.
	before map[string]manifest.Object
	// canaries are the Deployments that have a new version.
	canaries []canary
	// told has the newest instruction that is not carried out yet, if there is one.
	told chan release.Instruction
}

// canary is a Deployment that has a new version.
type canary struct {
	release.Workload
	// before and after are its manifests, temporary is the Deployment that has the new version.
	before, after, temporary *unstructured.Unstructured
	// services are those of the release that serves which select its pods, and routes what sends to these.
	services   []*unstructured.Unstructured
	routes     []release.Route
	autoscaled bool
}

// bySteps carries out a strategy that has steps.
func (d *deployment) bySteps(ctx, applying context.Context, strategy ci.Strategy, differences Differences) (err error) {
	s := &steps{deployment: d, strategy: strategy, track: trackOf(strategy.Kind), steps: stepsOf(strategy), told: make(chan release.Instruction, 1)}
	if err := s.prepare(applying, differences); err != nil {
		return stopped(ctx, applying, err, "nothing was applied")
	}
	if len(s.canaries) == 0 {
		return d.roll(ctx, applying, differences)
	}
	ctx, stop := s.listen(ctx)
	defer func() {
		// Somebody's instruction to go back is the cause, whatever it interrupted.
		if abort := (*aborted)(nil); errors.As(context.Cause(ctx), &abort) && err != nil {
			err = fault.New(fault.Failed, "%s", abort)
		}
		stop()
	}()
	s.r.painter.plan(s.r.Objects, false)
	order := split(differences)
	first, held := s.separate(order.rest)
	if err := s.applyFirst(ctx, order, first); err != nil {
		return err
	}
	for !s.progress.Passed {
		step := s.steps[s.progress.Step]
		if err := s.set(ctx, step.Weight); err != nil {
			return err
		}
		if s.progress.Reached.IsZero() {
			s.progress.Reached = time.Now().UTC()
			if err := s.save(ctx); err != nil {
				return err
			}
		}
		over, err := s.hold(ctx, step)
		if err != nil {
			return err
		}
		s.progress.Held, s.progress.Reached = false, time.Time{}
		if s.progress.Step+1 < len(s.steps) && !over {
			s.progress.Step++
		} else {
			s.progress.Passed = true
		}
		if err := s.save(ctx); err != nil {
			return err
		}
	}
	return s.replace(ctx, held, order.after)
}

// aborted is the instruction to go back.
type aborted struct{ sentence string }

// Error implements error.
func (a *aborted) Error() string { return a.sentence }

// listen looks for instructions until stop is called. The context that it returns ends when one of them is to go back.
func (s *steps) listen(ctx context.Context) (heard context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			instruction, ok, err := s.place.Instruction(ctx)
			if err == nil && ok {
				err = s.place.Forget(ctx, instruction)
			}
			if err == nil && ok && instruction.Release == s.record.Number {
				if instruction.Verb == release.Abort {
					cancel(&aborted{fmt.Sprintf("%s was stopped at step %d of %d by %s", s.strategy.Kind, instruction.Step+1, len(s.steps), orSomebody(instruction.By))})
					return
				}
				select { // a newer instruction counts, and one to go back is heard whatever is under way
				case <-s.told:
				default:
				}
				s.told <- instruction // nobody else sends
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-done
	}
}

func orSomebody(who string) string {
	if who == "" {
		return "somebody"
	}
	return oneLine(who)
}

func (s *steps) linef(format string, args ...any) {
	s.p.linef("%s: %s", s.strategy.Kind, fmt.Sprintf(format, args...))
}

// save records how far it is.
func (s *steps) save(ctx context.Context) error { return s.saveProgress(ctx, s.progress) }

func (d *deployment) saveProgress(ctx context.Context, p *release.Progress) error {
	d.state.Progress = p
	err := retry(ctx, d.r.Client, d.p, func() error { return d.place.Save(ctx, &d.state) })
	if err != nil {
		return fmt.Errorf("record how far the release is: %w", err)
	}
	return nil
}

// prepare finds out for which Deployments there are steps, and all that concerns them: of what is in the cluster, or, if
// another process has begun, of what that has recorded. It leaves canaries empty if there is nothing to do by steps.
func (s *steps) prepare(ctx context.Context, differences Differences) error {
	if err := s.loginsKnown(); err != nil {
		return err
	}
	now := byKey(s.r.Objects)
	for _, name := range s.strategy.Deployments {
		if !slices.ContainsFunc(s.r.Objects, func(o manifest.Object) bool { return isDeployment(o.Unstructured) && o.GetName() == name }) {
			return fault.New(fault.Invalid, "the strategy is for deployment/%s, which no manifest has", name)
		}
	}
	if s.state.Current == 0 {
		s.linef("there is no earlier release to come from, so there are no steps")
		return nil
	}
	record, err := s.place.Find(ctx, s.state.Current)
	if err != nil {
		return err
	}
	s.before = byKey(objectsOf(record))
	scaled, err := autoscaled(ctx, s.r)
	if err != nil {
		return err
	}
	if s.state.Progress != nil { // of this very release: any other was taken back before
		s.progress = s.state.Progress
	} else if err := s.plan(ctx, differences, scaled); err != nil {
		return err
	}
	for _, w := range s.progress.Workloads {
		before, after := s.before[w.Key()], now[w.Key()]
		if before.Unstructured == nil || after.Unstructured == nil || s.progress.Kind != s.strategy.Kind || s.progress.Steps != len(s.steps) {
			return fault.New(fault.Conflict, "release %d was begun with other manifests or another strategy than it should go on with", s.record.Number)
		}
		c := canary{Workload: w, before: before.Unstructured, after: after.Unstructured, autoscaled: scaled[objectKey(after)] != ""}
		c.temporary = temporaryDeployment(c.after, s.track, 0)
		for _, ref := range s.progress.Services {
			if service := s.before[ref.Key()]; service.Unstructured != nil && ref.Namespace == w.Namespace && selects(service.Unstructured, podLabels(c.before)) {
				c.services = append(c.services, service.Unstructured)
			}
		}
		for _, route := range s.progress.Routes {
			if route.Namespace == w.Namespace {
				c.routes = append(c.routes, route)
			}
		}
		s.canaries = append(s.canaries, c)
	}
	return s.checkable()
}

// plan finds out for which Deployments there are steps, and records it. Nothing has been changed when it fails.
func (s *steps) plan(ctx context.Context, differences Differences, scaled map[string]string) error {
	p := &release.Progress{Release: s.record.Number, Kind: s.strategy.Kind, Steps: len(s.steps), Weight: -1}
	for _, one := range differences {
		w, ok, err := s.covers(one)
		if err != nil || !ok {
			if err != nil {
				return err
			}
			continue
		}
		before := s.before[w.Key()].Unstructured
		services, err := s.servicesOf(ctx, before, one.Object.Unstructured)
		if err != nil {
			return err
		}
		if len(services) == 0 && s.strategy.Kind == ci.BlueGreen {
			s.linef("no service sends traffic to %s, so it rolls", one.Object)
			continue
		}
		var routes []release.Route
		if s.strategy.Kind == ci.Canary {
			if routes, err = s.routesTo(ctx, w.Namespace, services); err != nil {
				return err
			}
		}
		if err := s.possible(ctx, one, services, routes, scaled[objectKey(one.Object)]); err != nil {
			return err
		}
		p.Workloads = append(p.Workloads, w)
		p.Temporary = append(p.Temporary, release.RefOf(temporary(one.Object.Unstructured, s.track)))
		for _, service := range services {
			ref := release.RefOf(service)
			if !slices.Contains(p.Services, ref) {
				p.Services = append(p.Services, ref)
				p.Temporary = append(p.Temporary, release.RefOf(temporary(service, s.track)))
			}
		}
		for _, route := range routes {
			if !slices.ContainsFunc(p.Routes, func(r release.Route) bool { return r.Key() == route.Key() }) {
				p.Routes = append(p.Routes, route)
			}
		}
	}
	if len(p.Workloads) == 0 {
		s.linef("no deployment that serves gets a new version, so there are no steps")
		s.progress = p
		return nil
	}
	for _, ref := range p.Temporary {
		live, err := find(ctx, s.r.Client, ref.Object())
		if err != nil {
			return err
		}
		if _, wanted := byKey(s.r.Objects)[ref.Key()]; wanted || live != nil && !s.ours(live) {
			return fault.New(fault.Conflict, "the %s needs the name %s for a while, which something else has; give that one another name", s.strategy.Kind, manifest.Name(ref.Object()))
		}
	}
	if err := s.wantServing(ctx, p.Workloads); err != nil {
		return err
	}
	s.progress, s.begun = p, true
	s.state.Objects = release.Union(s.state.Objects, p.Temporary)
	return s.save(ctx)
}

// ours reports whether an object was made by a strategy in this environment.
func (d *deployment) ours(live *unstructured.Unstructured) bool {
	return live.GetAnnotations()[OwnerAnnotation] == d.place.ID() && live.GetLabels()[TrackLabel] != ""
}

// covers reports whether there are steps for an object: a Deployment that serves, gets a new version, and is meant.
func (s *steps) covers(one Difference) (release.Workload, bool, error) {
	o := one.Object
	w := release.Workload{Ref: release.RefOf(o.Unstructured)}
	meant := len(s.strategy.Deployments) == 0 || slices.Contains(s.strategy.Deployments, o.GetName())
	before, known := s.before[w.Key()]
	if !isDeployment(o.Unstructured) || !meant || one.Action != Update || !known {
		return w, false, nil
	}
	if !changesPods(one) {
		return w, false, nil
	}
	if paused, _, _ := unstructured.NestedBool(o.Object, "spec", "paused"); paused {
		return w, false, nil
	}
	w.Replicas = 1
	if n, ok := replicasOf(one.live); ok {
		w.Replicas = n
	}
	for key, value := range podLabels(before.Unstructured) {
		if key == TrackLabel {
			return w, false, fault.New(fault.Invalid, "%s: the pods of %s have the label %s: %s, which strategies need for themselves", o.Origin, o, key, value)
		}
	}
	return w, w.Replicas > 0, nil
}

// possible returns an error if the steps cannot be taken.
func (s *steps) possible(ctx context.Context, one Difference, services []*unstructured.Unstructured, routes []release.Route, scaler string) error {
	for _, step := range s.steps {
		if scaler != "" && len(routes) == 0 && step.Weight > 50 && step.Weight < 100 {
			return fault.New(fault.Invalid, "a canary of %s cannot get %d %% of the traffic: that needs fewer pods of the old version, but %s scales them; use weights up to 50, 100, or an HTTPRoute",
				one.Object, step.Weight, scaler)
		}
		if len(routes) == 0 && step.Weight > 0 && step.Weight < 100 {
			continue
		}
		for _, service := range services {
			if err := s.exclusive(ctx, service, one.live); err != nil {
				return err
			}
		}
	}
	return nil
}

// wantServing waits until the Deployments are as the release that serves has them: steps compare with it.
func (s *steps) wantServing(ctx context.Context, workloads []release.Workload) error {
	request := s.r
	request.Objects = nil
	for _, w := range workloads {
		request.Objects = append(request.Objects, s.before[w.Key()])
	}
	_, err := watch(ctx, request, s.deadline, s.timeout, s.p)
	if err != nil {
		return fault.New(fault.Failed, "the version that serves is not well, so there is nothing to compare a new one with: %s; deploy with the strategy %s to replace it at once",
			fault.Of(s.r.Client.Explain(err)).Message, ci.Rolling)
	}
	return nil
}

// separate returns what is applied before the steps, and what after them. What the new version may need comes before; what
// has an old version that serves stays until the new one has passed.
func (s *steps) separate(differences Differences) (first, held Differences) {
	keys := map[string]bool{}
	for _, w := range s.progress.Workloads {
		keys[w.Key()] = true
	}
	for _, ref := range s.progress.Services {
		keys[ref.Key()] = true
	}
	for _, route := range s.progress.Routes {
		keys[route.Key()] = true
	}
	for _, one := range differences {
		switch {
		case keys[release.RefOf(one.Object.Unstructured).Key()], one.Action != Create && runsPods(one.Object.Unstructured):
			held = append(held, one)
		default:
			first = append(first, one)
		}
	}
	return first, held
}

// runsPods reports whether an object makes pods that go on running, or says how many.
func runsPods(u *unstructured.Unstructured) bool {
	switch u.GroupVersionKind().GroupKind().String() {
	case "Deployment.apps", "StatefulSet.apps", "DaemonSet.apps", "ReplicaSet.apps", "CronJob.batch",
		"HorizontalPodAutoscaler.autoscaling", "PodDisruptionBudget.policy":
		return true
	}
	return false
}

// applyFirst applies what comes before the steps, with the hooks.
func (s *steps) applyFirst(ctx context.Context, order phases, first Differences) error {
	return s.within(ctx, func(applying context.Context) error {
		if err := s.apply(ctx, applying, order.early); err != nil {
			return err
		}
		if s.progress.Weight < 0 { // else they have run, and may be gone since
			if err := s.runHooks(ctx, order.before); err != nil {
				return err
			}
		}
		if err := s.apply(ctx, applying, first); err != nil {
			return err
		}
		var changed []manifest.Object
		for _, one := range first {
			if one.Action != Unchanged {
				changed = append(changed, one.Object)
			}
		}
		return s.wait(ctx, changed)
	})
}

// within calls f with a context that bounds a part of the release: pauses do not count, so each part has the whole time.
func (s *steps) within(ctx context.Context, f func(ctx context.Context) error) error {
	s.deadline = time.Now().Add(s.timeout)
	limited, cancel := context.WithDeadline(ctx, s.deadline)
	defer cancel()
	err := f(limited)
	if known := (*fault.Error)(nil); err == nil || errors.As(err, &known) {
		return err
	}
	return stopped(ctx, limited, err, "the new version did not take the place of the old one")
}

// wait watches objects until they are rolled out.
func (s *steps) wait(ctx context.Context, objects []manifest.Object) error {
	request := s.r
	request.Objects = objects
	_, err := watch(ctx, request, s.deadline, s.timeout, s.p)
	return err
}

// replace gives the Deployments themselves the new version, once it has passed, takes what was temporary out of the
// traffic, and deletes it: before the release is recorded as good, because requests may be lost in this moment as in any other.
func (s *steps) replace(ctx context.Context, held, after Differences) error {
	if last := s.steps[len(s.steps)-1].Weight; s.progress.Weight != 100 && s.routed() && last < 100 {
		// Services that select the old version only would be left without pods.
		if err := s.set(ctx, 100); err != nil {
			return err
		}
	}
	s.linef("passed; release %d takes the place of release %d", s.record.Number, s.state.Current)
	err := s.within(ctx, func(applying context.Context) error {
		request := s.r
		request.Objects = nil
		var traffic []manifest.Object
		for _, one := range held {
			if s.directs(one.Object.Unstructured) {
				traffic = append(traffic, one.Object)
			} else {
				request.Objects = append(request.Objects, one.Object)
			}
		}
		for _, objects := range [][]manifest.Object{request.Objects, traffic} {
			request.Objects = objects
			if err := s.take(ctx, applying, request); err != nil {
				return err
			}
		}
		if err := s.returnForeign(applying); err != nil {
			return err
		}
		for _, o := range traffic {
			if isService(o.Unstructured) {
				if err := s.settled(applying, o.Unstructured); err != nil {
					return err
				}
			}
		}
		if len(traffic) > 0 {
			if err := sleep(applying, notice); err != nil {
				return err
			}
		}
		return s.runHooks(ctx, after)
	})
	if err != nil {
		return err
	}
	s.prune = slices.DeleteFunc(s.prune, func(one Difference) bool { return one.live != nil && s.ours(one.live) })
	for _, ref := range s.progress.Temporary {
		live, err := find(ctx, s.r.Client, ref.Object())
		if err != nil {
			return err
		}
		if live == nil || !s.ours(live) {
			continue
		}
		one := Difference{Object: manifest.Object{Unstructured: ref.Object()}, Action: Prune, live: live}
		if s.deletePruned(ctx, Differences{one}) != nil { // it is tried again with what left the manifests
			s.prune = append(s.prune, one)
		}
	}
	s.state.Progress = nil
	return nil
}

// take applies the objects of a request as they differ now, and watches them. The steps may have taken days.
func (s *steps) take(ctx, applying context.Context, request Request) error {
	var differences Differences
	err := retry(applying, s.r.Client, s.p, func() (err error) {
		differences, err = diff(applying, request)
		return err
	})
	if err == nil {
		err = differences.Err()
	}
	if err != nil {
		return stopped(ctx, applying, err, "the new version did not take the place of the old one")
	}
	if err := s.apply(ctx, applying, differences); err != nil {
		return err
	}
	statuses, err := watch(ctx, request, s.deadline, s.timeout, s.p)
	s.result.Statuses = append(s.result.Statuses, statuses...)
	if err != nil {
		return err
	}
	for _, one := range differences {
		if err := s.scaleBack(applying, one); err != nil {
			return err
		}
	}
	return nil
}

// scaleBack gives a Deployment of which no manifest says how many pods it has the number that it had before it was applied, or
// before a step left it fewer. What somebody else has scaled stays.
func (s *steps) scaleBack(ctx context.Context, one Difference) error {
	i := slices.IndexFunc(s.canaries, func(c canary) bool { return c.Key() == release.RefOf(one.Object.Unstructured).Key() })
	if i < 0 || s.canaries[i].autoscaled {
		return nil
	}
	c := s.canaries[i]
	if _, says := replicasOf(c.after); says {
		return nil
	}
	live, err := s.find(ctx, c.after)
	if err != nil || live == nil {
		return err
	}
	before, _ := replicasOf(one.live)
	now, _ := replicasOf(live)
	wanted := before
	if c.Scaled != 0 && before == c.Scaled {
		wanted = c.Replicas
	}
	// The server sets a number to 1 that was in the manifest until now.
	_, said := replicasOf(c.before)
	if untouched := now == before || said && now == 1; now == wanted || !untouched {
		return nil
	}
	return s.scale(ctx, c.Ref, wanted)
}
