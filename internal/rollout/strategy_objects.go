package rollout

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"math"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"slipway/internal/ci"
	"slipway/internal/manifest"
	"slipway/internal/release"
)

// The functions here say what objects a strategy needs. They read no cluster.

// TrackLabel is on the pods of a new version that is tried beside the old one, and on all that exists only for that. Its
// value is canary or preview.
const TrackLabel = "slipway/track"

// hashLabel tells the pods of a Deployment's versions apart.
const hashLabel = appsv1.DefaultDeploymentUniqueLabelKey

// The values of [TrackLabel].
const (
	trackCanary  = "canary"
	trackPreview = "preview"
)

// trackOf is what the temporary objects of a strategy are called.
func trackOf(kind ci.StrategyKind) string {
	if kind == ci.BlueGreen {
		return trackPreview
	}
	return trackCanary
}

// temporaryName is the name of what stands beside an object while a strategy is under way.
func temporaryName(name, track string) string {
	const longest = 63 // of a Service
	if len(name)+1+len(track) > longest {
		sum := sha256.Sum256([]byte(name))
		hash := hex.EncodeToString(sum[:4])
		name = strings.TrimRight(name[:longest-len(hash)-len(track)-2], "-.") + "-" + hash
	}
	return name + "-" + track
}

// temporaryDeployment returns the Deployment that has the new version of o beside the old one. Its pods have all labels of
// o's, so that policies for these are for them, too, and the label of the track, by which they are told apart.
func temporaryDeployment(o *unstructured.Unstructured, track string, replicas int64) *unstructured.Unstructured {
	u := temporary(o, track)
	for _, path := range [][]string{{"spec", "selector", "matchLabels"}, {"spec", "template", "metadata", "labels"}} {
		labels, _, _ := unstructured.NestedStringMap(u.Object, path...)
		_ = unstructured.SetNestedStringMap(u.Object, with(labels, TrackLabel, track), path...) // the server has accepted o
	}
	_ = unstructured.SetNestedField(u.Object, replicas, "spec", "replicas")
	return u
}

// temporaryService returns the Service by which the new version alone can be reached.
func temporaryService(o *unstructured.Unstructured, track string) *unstructured.Unstructured {
	u := temporary(o, track)
	spec := map[string]any{}
	old, _, _ := unstructured.NestedMap(o.Object, "spec")
	for _, key := range []string{"ports", "sessionAffinity", "sessionAffinityConfig", "publishNotReadyAddresses", "ipFamilies", "ipFamilyPolicy", "trafficDistribution"} {
		if value, ok := old[key]; ok {
			spec[key] = value
		}
	}
	if ports, ok := spec["ports"].([]any); ok {
		for _, port := range ports {
			if port, ok := port.(map[string]any); ok {
				delete(port, "nodePort")
			}
		}
	}
	if old["clusterIP"] == "None" {
		spec["clusterIP"] = "None"
	}
	u.Object["spec"] = spec
	return withSelector(u, with(selectorOf(o), TrackLabel, track))
}

// temporary returns a copy of o under its temporary name.
func temporary(o *unstructured.Unstructured, track string) *unstructured.Unstructured {
	u := o.DeepCopy()
	u.SetName(temporaryName(o.GetName(), track))
	u.SetLabels(with(u.GetLabels(), TrackLabel, track))
	annotations := u.GetAnnotations()
	for _, key := range []string{PruneAnnotation, AdoptAnnotation, ReplaceAnnotation} { // are about o
		delete(annotations, key)
	}
	u.SetAnnotations(annotations)
	delete(u.Object, "status")
	return u
}

func with(labels map[string]string, key, value string) map[string]string {
	labels = maps.Clone(labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[key] = value
	return labels
}

func selectorOf(service *unstructured.Unstructured) map[string]string {
	selector, _, _ := unstructured.NestedStringMap(service.Object, "spec", "selector")
	return selector
}

// withSelector returns a copy of a Service that selects other pods.
func withSelector(service *unstructured.Unstructured, selector map[string]string) *unstructured.Unstructured {
	u := service.DeepCopy()
	_ = unstructured.SetNestedStringMap(u.Object, selector, "spec", "selector")
	return u
}

// selects reports whether a Service selects pods with these labels.
func selects(service *unstructured.Unstructured, labels map[string]string) bool {
	selector := selectorOf(service)
	for key, value := range selector {
		if has, ok := labels[key]; !ok || has != value {
			return false
		}
	}
	return len(selector) > 0
}

func isKind(u *unstructured.Unstructured, group, kind string) bool {
	gk := u.GroupVersionKind().GroupKind()
	return gk.Group == group && gk.Kind == kind
}

func isDeployment(u *unstructured.Unstructured) bool { return isKind(u, "apps", "Deployment") }
func isService(u *unstructured.Unstructured) bool    { return isKind(u, "", "Service") }

// portions returns how many pods of the old and of the new version make a share of the traffic, in percent, where each pod
// gets as much as any other. There are never fewer than full, nor more than twice as many, and the old version stays
// whole up to a share of a half, so that going back takes no time.
func portions(full, weight int64) (oldPods, newPods int64) {
	share := float64(weight) / 100
	switch {
	case weight == 0:
		return full, 1
	case weight <= 50:
		return full, max(1, int64(math.Round(float64(full)*share/(1-share))))
	case weight < 100:
		return max(1, int64(math.Round(float64(full)*(1-share)/share))), full
	}
	return full, full
}

// maxWeight is the largest that the Gateway API allows.
const maxWeight = 1_000_000

// weighRules returns the rules of an HTTPRoute in which weight percent of what goes to a Service goes to its temporary
// one. What shares a rule with the Service keeps its share.
func weighRules(rules []any, service, temporary, namespace string, weight int64) []any {
	weighed := make([]any, len(rules))
	for i, rule := range rules {
		weighed[i] = rule
		r, _ := rule.(map[string]any)
		refs, _ := r["backendRefs"].([]any)
		var all []any
		found := false
		for _, ref := range refs {
			backend, ok := ref.(map[string]any)
			if !ok {
				continue
			}
			old := backendWeight(backend)
			if !sendsTo(backend, service, namespace) {
				all = append(all, weighBackend(backend, "", old*100))
				continue
			}
			found = true
			all = append(all, weighBackend(backend, "", old*(100-weight)), weighBackend(backend, temporary, old*weight))
		}
		if found {
			boundWeights(all)
			changed := maps.Clone(r)
			changed["backendRefs"] = all
			weighed[i] = changed
		}
	}
	return weighed
}

func backendWeight(backend map[string]any) int64 {
	switch w := backend["weight"].(type) {
	case int64:
		return w
	case float64:
		return int64(w)
	}
	return 1
}

func weighBackend(backend map[string]any, name string, weight int64) map[string]any {
	backend = maps.Clone(backend)
	if name != "" {
		backend["name"] = name
	}
	backend["weight"] = weight
	return backend
}

// boundWeights makes weights as small as the Gateway API wants them, in the same proportions.
func boundWeights(backends []any) {
	var most int64
	for _, b := range backends {
		most = max(most, backendWeight(b.(map[string]any)))
	}
	if most <= maxWeight {
		return
	}
	for _, b := range backends {
		backend := b.(map[string]any)
		if w := backendWeight(backend); w > 0 {
			backend["weight"] = max(1, int64(float64(w)/float64(most)*maxWeight))
		}
	}
}

// sendsTo reports whether a backend of a route is a certain Service of the route's own namespace.
func sendsTo(backend map[string]any, service, namespace string) bool {
	is := func(key string, defaults ...string) bool {
		value, _ := backend[key].(string)
		for _, d := range defaults {
			if value == d {
				return true
			}
		}
		return false
	}
	return is("group", "", "core") && is("kind", "", "Service") && is("namespace", "", namespace) && backend["name"] == service
}

func rulesOf(route *unstructured.Unstructured) []any {
	rules, _, _ := unstructured.NestedSlice(route.Object, "spec", "rules")
	return rules
}

func withRules(route *unstructured.Unstructured, rules []any) *unstructured.Unstructured {
	u := route.DeepCopy()
	_ = unstructured.SetNestedSlice(u.Object, rules, "spec", "rules")
	return u
}

// routesTo reports whether a route sends anything to a Service.
func routesTo(route *unstructured.Unstructured, service string) bool {
	for _, rule := range rulesOf(route) {
		r, _ := rule.(map[string]any)
		refs, _ := r["backendRefs"].([]any)
		for _, ref := range refs {
			if backend, ok := ref.(map[string]any); ok && sendsTo(backend, service, route.GetNamespace()) {
				return true
			}
		}
	}
	return false
}

// byKey returns objects by the keys of their refs.
func byKey(objects []manifest.Object) map[string]manifest.Object {
	all := map[string]manifest.Object{}
	for _, o := range objects {
		all[release.RefOf(o.Unstructured).Key()] = o
	}
	return all
}
