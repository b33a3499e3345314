// Package trace follows what runs in a cluster back to the release that brought it, and with that to its run, its commit
// and its author. Nothing but the cluster is needed for it: objects say to which environment they belong, and the cluster
// keeps the releases of each.
//
// Start with [Tracer]: [Tracer.Object] follows a pod or another object up to what was deployed, [Tracer.URL] goes from
// an address to the pods that answer there, and [Tracer.Image] looks for an image in the releases.
package trace

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/kube"
	"slipway/internal/release"
	"slipway/internal/rollout"
)

// Tracer follows trails in one cluster. It may be used concurrently.
type Tracer struct {
	Client *kube.Client
}

// Trail is the way from something back to its release, as far as it goes.
type Trail struct {
	// Steps are what was found on the way, each in a few words.
	Steps []string `json:"steps"`
	// Namespace, Environment and Repo name the place that it belongs to; empty if the trail ends before.
	Namespace   string `json:"namespace,omitempty"`
	Environment string `json:"environment,omitempty"`
	Repo        string `json:"repo,omitempty"`
	// Release is the one that it comes from, or nil.
	Release *ci.Release `json:"release,omitempty"`
	// Serves is the number of the release that serves there; 0 if none does.
	Serves int64 `json:"serves,omitempty"`
	// End says why the trail ends before a release; empty if there is one.
	End string `json:"end,omitempty"`
}

func (t *Trail) step(format string, args ...any) {
	t.Steps = append(t.Steps, fmt.Sprintf(format, args...))
}

// ends ends the trail before a release.
func (t Trail) ends(format string, args ...any) Trail {
	t.End = fmt.Sprintf(format, args...)
	return t
}

// Object follows an object up to what was deployed. Kind is as people write it: pod, deploy, deployment.apps.
func (t Tracer) Object(ctx context.Context, namespace, kind, name string) (Trail, error) {
	gvk, err := t.kind(kind)
	if err != nil {
		return Trail{}, err
	}
	object, err := t.get(ctx, gvk, namespace, name)
	if apierrors.IsNotFound(err) {
		return Trail{}, fault.New(fault.NotFound, "there is no %s/%s in the namespace %s", strings.ToLower(gvk.Kind), name, namespace)
	}
	if err != nil {
		return Trail{}, t.Client.Explain(err)
	}
	trail, err := t.follow(ctx, Trail{}, object)
	return trail, t.Client.Explain(err)
}

// kinds are those that people type, by all their names.
var kinds = map[string]schema.GroupVersionKind{
	"pod": {Version: "v1", Kind: "Pod"}, "service": {Version: "v1", Kind: "Service"}, "configmap": {Version: "v1", Kind: "ConfigMap"},
	"secret": {Version: "v1", Kind: "Secret"}, "persistentvolumeclaim": {Version: "v1", Kind: "PersistentVolumeClaim"},
	"deployment": {Group: "apps", Version: "v1", Kind: "Deployment"}, "replicaset": {Group: "apps", Version: "v1", Kind: "ReplicaSet"},
	"statefulset": {Group: "apps", Version: "v1", Kind: "StatefulSet"}, "daemonset": {Group: "apps", Version: "v1", Kind: "DaemonSet"},
	"job": {Group: "batch", Version: "v1", Kind: "Job"}, "cronjob": {Group: "batch", Version: "v1", Kind: "CronJob"},
	"ingress": {Group: "networking.k8s.io", Version: "v1", Kind: "Ingress"},
}

var short = map[string]string{
	"po": "pod", "svc": "service", "cm": "configmap", "pvc": "persistentvolumeclaim", "deploy": "deployment", "rs": "replicaset",
	"sts": "statefulset", "ds": "daemonset", "cj": "cronjob", "ing": "ingress", "ingresses": "ingress",
}

// Known reports whether kind is the name of a kind that every cluster has.
func Known(kind string) bool {
	_, ok := kinds[singular(kind)]
	return ok
}

func singular(kind string) string {
	kind = strings.ToLower(kind)
	if long, ok := short[kind]; ok {
		return long
	}
	if _, ok := kinds[strings.TrimSuffix(kind, "s")]; ok {
		return strings.TrimSuffix(kind, "s")
	}
	return kind
}

// kind returns the kind of that name: one that is known, or kind.group as kubectl has it.
func (t Tracer) kind(name string) (schema.GroupVersionKind, error) {
	if gvk, ok := kinds[singular(name)]; ok {
		return gvk, nil
	}
	resource, group, _ := strings.Cut(strings.ToLower(name), ".")
	gvk, err := t.Client.Mapper.KindFor(schema.GroupVersionResource{Group: group, Resource: resource})
	if meta.IsNoMatchError(err) {
		return gvk, fault.New(fault.Invalid, "the cluster has no kind %q; write it with its group, such as certificate.cert-manager.io", name)
	}
	return gvk, t.Client.Explain(err)
}

func (t Tracer) get(ctx context.Context, gvk schema.GroupVersionKind, namespace, name string) (*unstructured.Unstructured, error) {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(gvk)
	return u, t.Client.Objects.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, u)
}

// maxOwners bounds how many owners an object has above it.
const maxOwners = 10

// follow goes from an object up to the one that was deployed, which says to which environment it belongs.
func (t Tracer) follow(ctx context.Context, trail Trail, object *unstructured.Unstructured) (Trail, error) {
	origin := origin{}
	name, place := "", ""
	for range maxOwners {
		name = nameOf(object)
		trail.step("%s", name)
		origin.see(object)
		place = cmp.Or(object.GetAnnotations()[rollout.OwnerAnnotation], place) // ReplicaSets have those of their Deployment
		above := metav1.GetControllerOf(object)
		if above == nil {
			break
		}
		gv, err := schema.ParseGroupVersion(above.APIVersion)
		if err != nil {
			return trail, err
		}
		next, err := t.get(ctx, gv.WithKind(above.Kind), object.GetNamespace(), above.Name)
		if apierrors.IsNotFound(err) && place != "" {
			break
		}
		if apierrors.IsNotFound(err) {
			return trail.ends("%s belongs to %s/%s, which is gone", name, strings.ToLower(above.Kind), above.Name), nil
		}
		if err != nil {
			return trail, err
		}
		object = next
	}
	if place != "" {
		return t.releaseOf(ctx, trail, place, origin)
	}
	if by := object.GetLabels()["app.kubernetes.io/managed-by"]; by != "" && by != "slipway" {
		return trail.ends("%s was not deployed by Slipway: its label app.kubernetes.io/managed-by says %q", name, by), nil
	}
	return trail.ends("%s was not deployed to an environment of Slipway: it has no annotation %s", name, rollout.OwnerAnnotation), nil
}

func nameOf(u *unstructured.Unstructured) string {
	name := strings.ToLower(u.GetKind()) + "/" + u.GetName()
	if u.GetNamespace() != "" {
		name += " in " + u.GetNamespace()
	}
	return name
}

// origin is what the objects of a trail tell of the time when what runs was brought.
type origin struct {
	// made is when the version came to be; zero if the trail began above the pods.
	made   time.Time
	images []string
}

// see looks at an object on the way up. A ReplicaSet stands for one version of its Deployment; a pod does so where there is
// nothing between it and its workload.
func (o *origin) see(u *unstructured.Unstructured) {
	switch u.GetKind() {
	case "Pod":
		o.made, o.images = u.GetCreationTimestamp().Time, imagesIn(u, "spec")
	case "ReplicaSet":
		o.made, o.images = u.GetCreationTimestamp().Time, imagesIn(u, "spec", "template", "spec")
	}
}

func imagesIn(u *unstructured.Unstructured, fields ...string) (images []string) {
	for _, list := range []string{"initContainers", "containers"} {
		containers, _, _ := unstructured.NestedSlice(u.Object, append(slices.Clone(fields), list)...)
		for _, c := range containers {
			if m, ok := c.(map[string]any); ok {
				if image, ok := m["image"].(string); ok {
					images = append(images, image)
				}
			}
		}
	}
	return images
}

// madeDuring reports whether the version came to be while the release was rolled out. Releases may follow each other faster than
// clocks are apart, so this is asked first. A cluster counts in whole seconds.
func (o origin) madeDuring(r *ci.Release) bool {
	return !r.Started.Truncate(time.Second).After(o.made) && (r.Finished.IsZero() || !r.Finished.Before(o.made))
}

// skew is how far the clocks of a runner and of a cluster may be apart.
const skew = 10 * time.Second

// releaseOf finds the release that brought something of an environment.
func (t Tracer) releaseOf(ctx context.Context, trail Trail, owner string, origin origin) (Trail, error) {
	namespace, _, _ := strings.Cut(owner, "/")
	states, err := release.Environments(ctx, t.Client, namespace)
	if err != nil {
		return trail, err
	}
	for _, s := range states {
		place := release.Place{Client: t.Client, Namespace: s.Namespace, Environment: s.Environment, Repo: s.Repo}
		if place.ID() != owner {
			continue
		}
		trail.Namespace, trail.Environment, trail.Repo, trail.Serves = s.Namespace, s.Environment, s.Repo, s.Current
		history, err := place.History(ctx)
		if err != nil {
			return trail, err
		}
		if s.Pending {
			history = append([]ci.Release{s.Latest}, history...)
		}
		r, why := pick(history, s, origin)
		if r == nil {
			return trail.ends("%s", why), nil
		}
		trail.Release = r
		return trail, nil
	}
	return trail.ends("it belongs to %s, of which the cluster has no records (any more)", owner), nil
}

// pick returns the release of a history, newest first, that what was found comes from, or says why that cannot be known.
func pick(history []ci.Release, s release.State, o origin) (*ci.Release, string) {
	if len(history) == 0 {
		return nil, fmt.Sprintf("the environment %s has no release that ended yet", s.Environment)
	}
	at := func(number int64) *ci.Release {
		for i := range history {
			if history[i].Number == number {
				return &history[i]
			}
		}
		return nil
	}
	if o.made.IsZero() { // the workload itself: as it stands now
		if s.Pending || s.Latest.Status.Failed() && s.Latest.Restored == 0 && at(s.Latest.Number) != nil {
			return at(s.Latest.Number), ""
		}
		if r := at(s.Current); r != nil {
			return r, ""
		}
		return &history[0], ""
	}
	var fitting []*ci.Release
	for i := range history {
		if has(history[i], o.images) {
			fitting = append(fitting, &history[i])
		}
	}
	if len(fitting) == 0 {
		return nil, fmt.Sprintf("no release of %s that the cluster remembers has the image %s: either somebody changed it by hand, or it is older than the newest %d releases", s.Environment, strings.Join(o.images, ", "), release.Keep)
	}
	found := fitting[len(fitting)-1]
	if i := slices.IndexFunc(fitting, o.madeDuring); i >= 0 {
		found = fitting[i]
	} else if i := slices.IndexFunc(fitting, func(r *ci.Release) bool { return !r.Started.After(o.made.Add(skew)) }); i >= 0 {
		found = fitting[i]
	}
	// A rollback brings back the version of an earlier release, whose ReplicaSet is there still.
	for _, r := range fitting {
		if r.Number == s.Current && (r.Of == found.Number || r.Of != 0 && r.Digest == found.Digest) {
			found = r
		}
	}
	return found, ""
}

// has reports whether a release uses all of the images. What the cluster adds to pods itself is not among those of a
// ReplicaSet.
func has(r ci.Release, images []string) bool {
	for _, image := range images {
		if !slices.Contains(r.Images, image) {
			return false
		}
	}
	return true
}

// Image returns where an image was deployed: a trail for each environment of a namespace, or of the whole cluster if namespace
// is empty, with the newest release that uses it. The image is a whole reference, or a digest.
func (t Tracer) Image(ctx context.Context, namespace, image string) ([]Trail, error) {
	states, err := release.Environments(ctx, t.Client, namespace)
	if err != nil {
		return nil, t.Client.Explain(err)
	}
	var trails []Trail
	for _, s := range states {
		place := release.Place{Client: t.Client, Namespace: s.Namespace, Environment: s.Environment, Repo: s.Repo}
		history, err := place.History(ctx)
		if err != nil {
			return nil, t.Client.Explain(err)
		}
		for i, r := range history {
			if ref := Uses(r, image); ref != "" {
				trail := Trail{Namespace: s.Namespace, Environment: s.Environment, Repo: s.Repo, Serves: s.Current, Release: &history[i]}
				trail.step("%s", ref)
				if current := slices.IndexFunc(history, func(r ci.Release) bool { return r.Number == s.Current }); current >= 0 && Uses(history[current], image) != "" {
					trail.Release = &history[current] // also if a later one failed with it
				}
				trails = append(trails, trail)
				break
			}
		}
	}
	return trails, nil
}

// Uses returns the reference by which a release uses an image, or "". Two references with the same digest are the same
// image, wherever it is kept.
func Uses(r ci.Release, image string) string {
	wanted := digestOf(image)
	for _, ref := range r.Images {
		if ref == image || wanted != "" && digestOf(ref) == wanted {
			return ref
		}
	}
	return ""
}

func digestOf(image string) string {
	if strings.HasPrefix(image, "sha256:") {
		return image
	}
	_, digest, _ := strings.Cut(image, "@")
	return digest
}

// Title names the place of a trail.
func (t Trail) Title() string {
	if t.Environment == "" {
		return ""
	}
	return fmt.Sprintf("%s of %s in the namespace %s", t.Environment, cmp.Or(t.Repo, "no repo (deployed from terminals)"), t.Namespace)
}
