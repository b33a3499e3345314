package rollout

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"slipway/internal/fault"
	"slipway/internal/manifest"
	"slipway/internal/release"
)

// notice is how long nodes and gateways may take to send traffic where an object that they watch says; kube-proxy
// collects changes for a second.
const notice = 2 * time.Second

// httpRoute is the kind that has weights.
var httpRoute = schema.GroupKind{Group: "gateway.networking.k8s.io", Kind: "HTTPRoute"}

// audience says which of the pods that a Service selects by its manifest get its traffic.
type audience int

const (
	everyone audience = iota // the Service is as its manifest says
	oldOnly
	newOnly
)

// servicesOf returns the Services of the release that serves which select the pods of a Deployment.
func (s *steps) servicesOf(ctx context.Context, before, after *unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	var services []*unstructured.Unstructured
	for _, key := range slices.Sorted(maps.Keys(s.before)) {
		service := s.before[key]
		if !isService(service.Unstructured) || service.GetNamespace() != before.GetNamespace() || !selects(service.Unstructured, podLabels(before)) {
			continue
		}
		live, err := find(ctx, s.r.Client, service.Unstructured)
		if err != nil {
			return nil, err
		}
		if live == nil {
			continue
		}
		if !selects(service.Unstructured, podLabels(after)) {
			return nil, fault.New(fault.Invalid, "the pods of the new version of %s do not have the labels by which %s selects those of the old one, so the two cannot share its traffic",
				manifest.Name(before), service)
		}
		services = append(services, service.Unstructured)
	}
	return services, nil
}

// exclusive returns an error if a Service selects other pods than those of one Deployment: its traffic cannot be moved.
func (s *steps) exclusive(ctx context.Context, service, deployment *unstructured.Unstructured) error {
	apps := s.r.Client.Core.AppsV1()
	sets, err := apps.ReplicaSets(service.GetNamespace()).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	own := map[types.UID]bool{}
	for i := range sets.Items {
		own[sets.Items[i].UID] = metav1.IsControlledBy(&sets.Items[i], deployment)
	}
	pods, err := s.pods(ctx, service.GetNamespace(), selectorOf(service))
	if err != nil {
		return err
	}
	for i := range pods {
		if owner := metav1.GetControllerOf(&pods[i]); owner == nil || !own[owner.UID] {
			return fault.New(fault.Conflict, "%s sends traffic to other pods than those of %s, too (such as %s), so all of it cannot go to one version; give each deployment a service of its own",
				manifest.Name(service), manifest.Name(deployment), pods[i].Name)
		}
	}
	return nil
}

// pods returns the pods with certain labels that are not ending.
func (s *steps) pods(ctx context.Context, namespace string, selector map[string]string) ([]corev1.Pod, error) {
	list, err := s.r.Client.Core.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(selector).String()})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Items, func(pod corev1.Pod) bool {
		return pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	}), nil
}

// routesTo returns the HTTPRoutes of a namespace that send to one of the Services, whoever they belong to.
func (s *steps) routesTo(ctx context.Context, namespace string, services []*unstructured.Unstructured) ([]release.Route, error) {
	if len(services) == 0 {
		return nil, nil
	}
	mapping, err := s.r.Client.Mapper.RESTMapping(httpRoute)
	if meta.IsNoMatchError(err) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(mapping.GroupVersionKind.GroupVersion().WithKind(httpRoute.Kind + "List"))
	err = s.r.Client.Objects.List(ctx, list, client.InNamespace(namespace))
	switch {
	case apierrors.IsNotFound(err): // the kind comes or goes just now, so there are none
		return nil, nil
	case apierrors.IsForbidden(err):
		s.linef("whether an HTTPRoute has to share the traffic is not known: %s", s.r.Client.Explain(err))
		return nil, nil
	case err != nil:
		return nil, err
	}
	var routes []release.Route
	for i := range list.Items {
		live := &list.Items[i]
		if !slices.ContainsFunc(services, func(service *unstructured.Unstructured) bool { return routesTo(live, service.GetName()) }) {
			continue
		}
		route := release.Route{Ref: release.RefOf(live)}
		if _, own := s.before[route.Key()]; !own {
			if route.Rules, err = json.Marshal(rulesOf(live)); err != nil {
				return nil, fmt.Errorf("remember the rules of %s: %w", manifest.Name(live), err)
			}
		}
		routes = append(routes, route)
	}
	return routes, nil
}

// routed reports whether HTTPRoutes have the weights of any Deployment.
func (s *steps) routed() bool { return len(s.progress.Routes) > 0 }

// directs reports whether an object says where traffic goes, and is changed for the steps.
func (s *steps) directs(u *unstructured.Unstructured) bool {
	key := release.RefOf(u).Key()
	return slices.ContainsFunc(s.progress.Routes, func(r release.Route) bool { return r.Key() == key }) ||
		slices.ContainsFunc(s.progress.Services, func(r release.Ref) bool { return r.Key() == key })
}

// set gives the new version a share of the traffic: it makes the pods first, and lets them have it when they are ready.
func (s *steps) set(ctx context.Context, weight int64) error {
	err := s.within(ctx, func(ctx context.Context) error {
		var temporary []manifest.Object
		for i := range s.canaries {
			c := &s.canaries[i]
			if err := s.bringUp(ctx, c, weight); err != nil {
				return err
			}
			temporary = append(temporary, manifest.Object{Unstructured: c.temporary})
		}
		if err := s.wait(ctx, temporary); err != nil {
			return err
		}
		for i := range s.canaries {
			if err := s.share(ctx, &s.canaries[i], weight); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.progress.Weight = weight
	return nil
}

// sizes returns how many pods the old and the new version of a Deployment have at a weight.
func (s *steps) sizes(c *canary, live, weight int64) (oldPods, newPods int64) {
	full := c.Replicas
	if c.follows() {
		full = live
	}
	after := full
	if n, says := replicasOf(c.after); says && !c.autoscaled {
		after = n
	}
	switch {
	case s.track == trackPreview || weight == 100:
		return full, after
	case len(c.routes) > 0:
		return full, min(full, max(1, (full*weight+99)/100))
	}
	return portions(full, weight)
}

// follows reports whether somebody else says how many pods the Deployment has: an autoscaler, or whoever scales what the
// manifests leave open.
func (c *canary) follows() bool {
	if c.autoscaled {
		return true
	}
	_, said := replicasOf(c.before)
	_, says := replicasOf(c.after)
	return !said && !says && c.Scaled == 0
}

// scaleOld gives the old version of a Deployment that many of its pods, all of them for its full number. What somebody else scales meanwhile
// is left alone.
func (s *steps) scaleOld(ctx context.Context, c *canary, live, wanted int64) error {
	if c.autoscaled || wanted == live || c.Scaled != 0 && c.Scaled != live {
		return nil
	}
	if c.follows() {
		c.Replicas = live
	}
	c.Scaled = 0
	if wanted != c.Replicas {
		c.Scaled = wanted
	}
	for i := range s.progress.Workloads {
		if w := &s.progress.Workloads[i]; w.Key() == c.Key() {
			w.Replicas, w.Scaled = c.Replicas, cmp.Or(c.Scaled, live) // who takes it back knows, whether it happened or not
		}
	}
	if err := s.save(ctx); err != nil {
		return err
	}
	return s.scale(ctx, c.Ref, wanted)
}

// bringUp makes the pods of the new version that a weight needs.
func (s *steps) bringUp(ctx context.Context, c *canary, weight int64) error {
	live, err := s.find(ctx, c.temporary)
	if err != nil {
		return err
	}
	stable, err := s.find(ctx, c.before)
	if err != nil {
		return err
	}
	if stable == nil {
		return fault.New(fault.Failed, "%s was deleted while its new version was brought in", manifest.Name(c.before))
	}
	if live == nil && (weight == 0 || weight == 100 || len(c.routes) > 0) {
		// Pods of the new version would get traffic as soon as they are ready, as they have the labels for it.
		if err := s.direct(ctx, c, oldOnly); err != nil {
			return err
		}
	}
	for _, service := range c.services {
		if err := s.putTemporary(ctx, temporaryService(service, s.track)); err != nil {
			return err
		}
	}
	n, _ := replicasOf(stable)
	_, wanted := s.sizes(c, n, weight)
	has, _ := replicasOf(live)
	c.temporary = temporaryDeployment(c.after, s.track, max(wanted, has))
	return s.putTemporary(ctx, c.temporary)
}

// share lets the pods of the new version, which are ready, have their share of the traffic, and says so.
func (s *steps) share(ctx context.Context, c *canary, weight int64) error {
	who := everyone
	switch {
	case weight == 100:
		who = newOnly
	case weight == 0 || len(c.routes) > 0:
		who = oldOnly
	}
	if err := s.direct(ctx, c, who); err != nil {
		return err
	}
	for _, route := range c.routes {
		if err := s.weigh(ctx, c, route, weight); err != nil {
			return err
		}
	}
	stable, err := s.find(ctx, c.before)
	if err != nil || stable == nil {
		return err
	}
	n, _ := replicasOf(stable)
	oldPods, newPods := s.sizes(c, n, weight)
	if err := s.scaleOld(ctx, c, n, oldPods); err != nil {
		return err
	}
	if err := s.resize(ctx, c, newPods); err != nil {
		return err
	}
	if err := s.settle(ctx, c, who); err != nil {
		return err
	}
	name := manifest.Name(c.before)
	switch {
	case weight == 0:
		s.linef("the new version of %s is up and gets no traffic yet (%s)", name, countPods(newPods))
	case weight == 100:
		s.linef("all traffic of %s goes to the new version (%s)", name, countPods(newPods))
	case len(c.routes) > 0:
		s.linef("%d %% of the traffic of %s goes to the new version by %s (%d of %s)", weight, name, manifest.Name(c.routes[0].Object()), newPods, countPods(newPods+oldPods))
	default:
		s.linef("%d %% of the traffic of %s goes to the new version (%d of %s)", newPods*100/(newPods+oldPods), name, newPods, countPods(newPods+oldPods))
	}
	return nil
}

func countPods(n int64) string {
	if n == 1 {
		return "1 pod"
	}
	return fmt.Sprintf("%d pods", n)
}

// resize changes the number of pods of a temporary Deployment.
func (s *steps) resize(ctx context.Context, c *canary, replicas int64) error {
	if has, _ := replicasOf(c.temporary); has == replicas {
		return nil
	}
	c.temporary = temporaryDeployment(c.after, s.track, replicas)
	return s.putTemporary(ctx, c.temporary)
}

// putTemporary makes a temporary object what it should be.
func (s *steps) putTemporary(ctx context.Context, u *unstructured.Unstructured) error {
	live, err := s.find(ctx, u)
	if err != nil {
		return err
	}
	if live != nil && !s.ours(live) {
		return fault.New(fault.Conflict, "%s was made by somebody else meanwhile", manifest.Name(u))
	}
	if err := s.put(ctx, u); err != nil {
		return err
	}
	if live == nil {
		s.p.linef("%s: created", manifest.Name(u))
	}
	return nil
}

// put applies an object. While the API server does not answer, it tries again.
func (s *steps) put(ctx context.Context, u *unstructured.Unstructured) error {
	err := retry(ctx, s.r.Client, s.p, func() error { return put(ctx, s.r.Client, u.DeepCopy()) })
	if err != nil {
		return refused(s.r.Client, err, []manifest.Object{{Unstructured: u}})
	}
	return nil
}

// find returns an object as it is in the cluster, or nil. While the API server does not answer, it tries again.
func (s *steps) find(ctx context.Context, u *unstructured.Unstructured) (live *unstructured.Unstructured, err error) {
	err = retry(ctx, s.r.Client, s.p, func() error {
		live, err = find(ctx, s.r.Client, u)
		return err
	})
	return live, err
}

// scale changes the number of pods of a Deployment, and nothing else of it.
func (s *steps) scale(ctx context.Context, ref release.Ref, replicas int64) error {
	patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas))
	return retry(ctx, s.r.Client, s.p, func() error {
		return s.r.Client.Objects.Patch(ctx, ref.Object(), patch, client.FieldOwner(FieldManager))
	})
}

// direct says who gets the traffic of the Services of a Deployment.
func (s *steps) direct(ctx context.Context, c *canary, who audience) error {
	for _, service := range c.services {
		u, err := s.directed(ctx, c, service, who)
		if err != nil {
			return err
		}
		if err := s.put(ctx, u); err != nil {
			return err
		}
	}
	return nil
}

// directed returns a Service whose traffic goes to who.
func (s *steps) directed(ctx context.Context, c *canary, service *unstructured.Unstructured, who audience) (*unstructured.Unstructured, error) {
	switch who {
	case oldOnly:
		hash, err := s.hash(ctx, c.Ref)
		if err != nil {
			return nil, err
		}
		return withSelector(service, with(selectorOf(service), hashLabel, hash)), nil
	case newOnly:
		if o, still := byKey(s.r.Objects)[release.RefOf(service).Key()]; still {
			service = o.Unstructured
		}
		return withSelector(service, with(selectorOf(service), TrackLabel, s.track)), nil
	}
	return service, nil
}

// hash returns what tells the pods of a Deployment's present version from all others.
func (s *steps) hash(ctx context.Context, ref release.Ref) (hash string, err error) {
	apps := s.r.Client.Core.AppsV1()
	err = retry(ctx, s.r.Client, s.p, func() error {
		d, err := apps.Deployments(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		sets, err := apps.ReplicaSets(ref.Namespace).List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(d.Spec.Selector)})
		if err != nil {
			return err
		}
		if newest, _ := splitSets(d, sets.Items); newest != nil {
			hash = newest.Labels[hashLabel]
		}
		if hash == "" {
			return fault.New(fault.Failed, "%s has no ReplicaSet of its present version", manifest.Name(ref.Object()))
		}
		return nil
	})
	return hash, err
}

// weigh gives the new version its weight in a route.
func (s *steps) weigh(ctx context.Context, c *canary, route release.Route, weight int64) error {
	rules, err := s.rulesBefore(route)
	if err != nil {
		return err
	}
	for _, service := range c.services {
		rules = weighRules(rules, service.GetName(), temporaryName(service.GetName(), s.track), route.Namespace, weight)
	}
	return s.putRules(ctx, route, rules)
}

// rulesBefore returns the rules that a route had before the steps.
func (s *steps) rulesBefore(route release.Route) ([]any, error) {
	if len(route.Rules) == 0 {
		return rulesOf(s.before[route.Key()].Unstructured), nil
	}
	var rules []any
	if err := json.Unmarshal(route.Rules, &rules); err != nil {
		return nil, fmt.Errorf("read the rules of %s: %w", manifest.Name(route.Object()), err)
	}
	return rules, nil
}

// putRules changes the rules of a route. Of one that is not the environment's own, nothing else is touched.
func (s *steps) putRules(ctx context.Context, route release.Route, rules []any) error {
	if len(route.Rules) == 0 {
		return s.put(ctx, withRules(s.before[route.Key()].Unstructured, rules))
	}
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"rules": rules}})
	if err != nil {
		return fmt.Errorf("encode the rules of %s: %w", manifest.Name(route.Object()), err)
	}
	err = retry(ctx, s.r.Client, s.p, func() error {
		err := s.r.Client.Objects.Patch(ctx, route.Object(), client.RawPatch(types.MergePatchType, patch), client.FieldOwner(FieldManager))
		return client.IgnoreNotFound(err)
	})
	if err != nil {
		return refused(s.r.Client, err, []manifest.Object{{Unstructured: route.Object()}})
	}
	return nil
}

// settle waits until the cluster sends the traffic of a Deployment's Services to who.
func (s *steps) settle(ctx context.Context, c *canary, who audience) error {
	for _, service := range c.services {
		u, err := s.directed(ctx, c, service, who)
		if err != nil {
			return err
		}
		if err := s.settled(ctx, u); err != nil {
			return err
		}
	}
	if len(c.services) == 0 {
		return nil
	}
	return sleep(ctx, notice)
}

// settled waits until the endpoints of a Service are pods that it selects, and there is one.
func (s *steps) settled(ctx context.Context, service *unstructured.Unstructured) error {
	for {
		done := false
		err := retry(ctx, s.r.Client, s.p, func() error {
			pods, err := s.pods(ctx, service.GetNamespace(), selectorOf(service))
			if err != nil {
				return err
			}
			list, err := s.r.Client.Core.DiscoveryV1().EndpointSlices(service.GetNamespace()).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service.GetName()})
			if err != nil {
				return err
			}
			done = serves(list.Items, pods)
			return nil
		})
		switch {
		case apierrors.IsForbidden(err): // then all that is left is to wait
			return nil
		case err != nil || done:
			return err
		}
		if sleep(ctx, interval) != nil {
			return fault.New(fault.Failed, "%s did not send its traffic to other pods in time", manifest.Name(service))
		}
	}
}

// serves reports whether the endpoints that get traffic are among pods, and there are any if a pod is ready.
func serves(endpoints []discoveryv1.EndpointSlice, pods []corev1.Pod) bool {
	known := map[types.UID]bool{}
	anyReady := false
	for i := range pods {
		known[pods[i].UID] = true
		anyReady = anyReady || ready(&pods[i])
	}
	n := 0
	for _, slice := range endpoints {
		for _, e := range slice.Endpoints {
			if e.Conditions.Ready != nil && !*e.Conditions.Ready || e.TargetRef == nil {
				continue
			}
			if !known[e.TargetRef.UID] {
				return false
			}
			n++
		}
	}
	return n > 0 || !anyReady
}

// sleep waits, or returns why ctx has ended.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// delete removes a temporary object.
func (s *steps) delete(ctx context.Context, ref release.Ref) error {
	live, err := s.find(ctx, ref.Object())
	if err != nil || live == nil || !s.ours(live) {
		return err
	}
	uid := live.GetUID()
	err = retry(ctx, s.r.Client, s.p, func() error {
		return client.IgnoreNotFound(s.r.Client.Objects.Delete(ctx, live, client.PropagationPolicy(metav1.DeletePropagationBackground), client.Preconditions{UID: &uid}))
	})
	if err == nil {
		s.p.linef("%s: deleted", manifest.Name(ref.Object()))
	}
	return err
}
