package trace

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"slipway/internal/fault"
)

// route leads from an address to a Service.
type route struct {
	// via is the Ingress or HTTPRoute, and the rule in it.
	via                string
	namespace, service string
	// rank is greater for a rule that counts before others: a host of its own before a wildcard before none, an exact path
	// before a prefix, a longer one before a shorter one.
	rank [3]int
}

// URL follows an address to the pods that answer there: by the Ingresses of the cluster, by HTTPRoutes, or as the name of a
// Service. It returns a trail for each workload behind it.
func (t Tracer) URL(ctx context.Context, address *url.URL) ([]Trail, error) {
	host := strings.ToLower(address.Hostname())
	path := cmp.Or(address.Path, "/")
	routes, err := t.routes(ctx, host, path)
	if err != nil {
		return nil, t.Client.Explain(err)
	}
	if len(routes) == 0 {
		return nil, fault.New(fault.NotFound, "no Ingress, HTTPRoute or Service of the cluster answers for %s%s", host, path)
	}
	way := best(routes)
	trail := Trail{}
	trail.step("%s", way.via)
	trails, err := t.service(ctx, trail, way.namespace, way.service)
	return trails, t.Client.Explain(err)
}

// best returns the one of some routes that counts.
func best(routes []route) route {
	return slices.MaxFunc(routes, func(a, b route) int { return slices.Compare(a.rank[:], b.rank[:]) })
}

// routes returns all rules that an address fits.
func (t Tracer) routes(ctx context.Context, host, path string) ([]route, error) {
	ingresses, err := t.Client.Core.NetworkingV1().Ingresses("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	var routes []route
	for _, ingress := range ingresses.Items {
		routes = append(routes, ingressRoutes(ingress, host, path)...)
	}
	more, err := t.httpRoutes(ctx, host, path)
	if err != nil {
		return nil, err
	}
	routes = append(routes, more...)
	// Names of Services: web.shop, web.shop.svc, web.shop.svc.cluster.local.
	if parts := strings.SplitN(host, ".", 4); len(parts) == 2 || len(parts) > 2 && parts[2] == "svc" {
		_, err := t.Client.Core.CoreV1().Services(parts[1]).Get(ctx, parts[0], metav1.GetOptions{})
		switch {
		case err == nil:
			routes = append(routes, route{via: "the name of a service", namespace: parts[1], service: parts[0]})
		case !apierrors.IsNotFound(err):
			return nil, err
		}
	}
	return routes, nil
}

func ingressRoutes(ingress networkingv1.Ingress, host, path string) (routes []route) {
	name := fmt.Sprintf("ingress/%s in %s", ingress.Name, ingress.Namespace)
	if backend := ingress.Spec.DefaultBackend; backend != nil && backend.Service != nil {
		routes = append(routes, route{via: name + ": its default", namespace: ingress.Namespace, service: backend.Service.Name, rank: [3]int{-1, 0, 0}})
	}
	for _, rule := range ingress.Spec.Rules {
		hostRank, ok := matchHost(rule.Host, host)
		if !ok || rule.HTTP == nil {
			continue
		}
		for _, p := range rule.HTTP.Paths {
			exact := p.PathType != nil && *p.PathType == networkingv1.PathTypeExact
			if p.Backend.Service == nil || !matchPath(p.Path, path, exact) {
				continue
			}
			routes = append(routes, route{
				via: fmt.Sprintf("%s: %s%s", name, cmp.Or(rule.Host, "*"), p.Path), namespace: ingress.Namespace, service: p.Backend.Service.Name,
				rank: [3]int{hostRank, pathRank(exact), len(p.Path)},
			})
		}
	}
	return routes
}

func pathRank(exact bool) int {
	if exact {
		return 1
	}
	return 0
}

// matchHost reports whether a rule's host, which may begin with a wildcard or be empty, is for a host, and how well.
func matchHost(rule, host string) (rank int, ok bool) {
	rule = strings.ToLower(rule)
	switch {
	case rule == "" || rule == "*":
		return 0, true
	case rule == host:
		return 1000, true
	case strings.HasPrefix(rule, "*."):
		return len(rule), strings.HasSuffix(host, rule[1:]) && len(host) > len(rule)-1
	}
	return 0, false
}

// matchPath reports whether a rule's path is for a path: the same, or a prefix by whole elements.
func matchPath(rule, path string, exact bool) bool {
	if exact {
		return rule == path
	}
	rule = strings.TrimSuffix(rule, "/")
	return path == rule || strings.HasPrefix(path, rule+"/")
}

// httpRoutes returns the rules of HTTPRoutes, in clusters that have them.
func (t Tracer) httpRoutes(ctx context.Context, host, path string) (routes []route, err error) {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(schema.GroupVersionKind{Group: "gateway.networking.k8s.io", Version: "v1", Kind: "HTTPRouteList"})
	if err := t.Client.Objects.List(ctx, list); err != nil {
		if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) || apierrors.IsForbidden(err) { // an account that may read Ingresses alone still gets these
			return nil, nil
		}
		return nil, err
	}
	for _, item := range list.Items {
		hosts, _, _ := unstructured.NestedStringSlice(item.Object, "spec", "hostnames")
		if len(hosts) == 0 {
			hosts = []string{""}
		}
		rules, _, _ := unstructured.NestedSlice(item.Object, "spec", "rules")
		for _, h := range hosts {
			hostRank, ok := matchHost(h, host)
			for _, rule := range rules {
				if m, is := rule.(map[string]any); ok && is {
					routes = append(routes, httpRule(item, m, h, path, hostRank)...)
				}
			}
		}
	}
	return routes, nil
}

// httpRule returns what one rule of an HTTPRoute says of a path.
func httpRule(item unstructured.Unstructured, rule map[string]any, host, path string, hostRank int) (routes []route) {
	matches, _, _ := unstructured.NestedSlice(rule, "matches")
	if len(matches) == 0 {
		matches = []any{map[string]any{}}
	}
	backends, _, _ := unstructured.NestedSlice(rule, "backendRefs")
	for _, m := range matches {
		match, _ := m.(map[string]any)
		kind, _, _ := unstructured.NestedString(match, "path", "type")
		prefix, _, _ := unstructured.NestedString(match, "path", "value")
		prefix = cmp.Or(prefix, "/")
		if !matchPath(prefix, path, kind == "Exact") {
			continue
		}
		for _, b := range backends {
			backend, _ := b.(map[string]any)
			name, _, _ := unstructured.NestedString(backend, "name")
			namespace, _, _ := unstructured.NestedString(backend, "namespace")
			kindOf, _, _ := unstructured.NestedString(backend, "kind")
			if name == "" || cmp.Or(kindOf, "Service") != "Service" {
				continue
			}
			routes = append(routes, route{
				via:       fmt.Sprintf("httproute/%s in %s: %s%s", item.GetName(), item.GetNamespace(), cmp.Or(host, "*"), prefix),
				namespace: cmp.Or(namespace, item.GetNamespace()), service: name,
				rank: [3]int{hostRank, pathRank(kind == "Exact"), len(prefix)},
			})
		}
	}
	return routes
}

// service follows a Service to the pods behind it: a trail for each workload.
func (t Tracer) service(ctx context.Context, trail Trail, namespace, name string) ([]Trail, error) {
	service, err := t.Client.Core.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return []Trail{trail.ends("service/%s in %s, which it leads to, does not exist", name, namespace)}, nil
	}
	if err != nil {
		return nil, err
	}
	trail.step("service/%s in %s", name, namespace)
	if len(service.Spec.Selector) == 0 {
		return []Trail{trail.ends("service/%s selects no pods: what answers there is not in this cluster, or is set by hand", name)}, nil
	}
	pods, err := t.Client.Core.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: labels.SelectorFromSet(service.Spec.Selector).String()})
	if err != nil {
		return nil, err
	}
	if len(pods.Items) == 0 {
		return []Trail{trail.ends("service/%s has no pods", name)}, nil
	}
	// The ready ones answer. Those of one owner are alike.
	slices.SortStableFunc(pods.Items, func(a, b corev1.Pod) int { return cmp.Compare(readiness(b), readiness(a)) })
	var trails []Trail
	seen := map[string]bool{}
	for _, pod := range pods.Items {
		owner := pod.Name
		if above := metav1.GetControllerOf(&pod); above != nil {
			owner = above.Kind + "/" + above.Name
		}
		if seen[owner] || len(trails) > 0 && readiness(pod) == 0 {
			continue
		}
		seen[owner] = true
		object, err := t.get(ctx, kinds["pod"], namespace, pod.Name)
		if client.IgnoreNotFound(err) != nil {
			return nil, err
		}
		if err != nil {
			continue
		}
		own := trail
		own.Steps = slices.Clone(trail.Steps)
		if own, err = t.follow(ctx, own, object); err != nil {
			return nil, err
		}
		trails = append(trails, own)
	}
	return trails, nil
}

func readiness(pod corev1.Pod) int {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return 1
		}
	}
	return 0
}
