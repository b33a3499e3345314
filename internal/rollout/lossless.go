package rollout

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/version"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/kube"
	"slipway/internal/manifest"
)

// A rollout loses requests where a pod's end and everybody's knowledge of it race each other. [secureWorkload] says what a
// workload needs so that they don't, in a copy of its manifest; it reads no cluster. [secure] reads what it needs to know.

// LosslessAnnotation on a workload says what Slipway does not add to it: "off" for nothing at all, or some of surge,
// drain, ready, budget and readiness, separated by commas.
const LosslessAnnotation = "slipway/lossless"

// AddedForAnnotation says, on an object that is in no manifest, for which other one Slipway added it.
const AddedForAnnotation = "slipway/added-for"

// The parts of a rollout without losses, as LosslessAnnotation has them.
const (
	partSurge     = "surge"     // a new pod is ready before an old one ends
	partDrain     = "drain"     // an old pod goes on serving until no new requests come to it
	partReady     = "ready"     // everybody knows a new pod before an old one ends
	partBudget    = "budget"    // the cluster's own maintenance ends one pod at a time
	partReadiness = "readiness" // the cluster can tell when a pod serves
)

// addition is what a workload needs besides what its manifest says.
type addition struct {
	// fields are those that were added, with their reasons.
	fields []Field
	// problems are what may lose requests in spite of them, as parts of sentences; notes what deserves a look.
	problems, notes []string
	// object, if it is not empty, is why the whole object was added.
	object string
	err    error
}

// additions are by the keys of the objects.
type additions map[string]*addition

// surroundings are what is known of a workload besides its manifest.
type surroundings struct {
	policy ci.Lossless
	// without are the parts that are left out.
	without map[string]bool
	// native is true if the cluster's nodes can sleep by themselves before they end a container.
	native bool
	// scaled is true if the number of replicas is not the manifest's.
	scaled bool
	// claim is a claim of the pods whose volume one node at a time can use, with its access mode.
	claim string
}

// secure adds to the objects of the deployment what they need to lose no request. It reads the cluster, and adds once.
func (d *deployment) secure(ctx context.Context) error {
	policy := ci.Lossless{}
	if d.r.Policy.Lossless != nil {
		policy = *d.r.Policy.Lossless
	}
	if err := policy.Check(); err != nil {
		return fault.New(fault.Invalid, "the policy lossless cannot be used: %w", err)
	}
	if d.additions != nil || d.r.manual || policy.Mode == ci.LosslessOff {
		return nil
	}
	policy.Drain, policy.Ready = cmp.Or(policy.Drain, ci.DefaultDrain), cmp.Or(policy.Ready, ci.DefaultReady)
	s := securer{r: d.r, policy: policy, additions: additions{}, objects: slices.Clone(d.r.Objects)}
	if err := s.all(ctx); err != nil {
		return err
	}
	d.additions = s.additions
	if policy.Mode != ci.LosslessCheck {
		d.r.Objects = s.objects
	}
	return nil
}

// securer looks at all workloads of a request. It is used by one goroutine.
type securer struct {
	r         Request
	policy    ci.Lossless
	objects   []manifest.Object
	additions additions

	services map[string][]map[string]string // selectors by namespace
	budgets  map[string]budgets             // by namespace
	scaled   map[string]string              // by the key of what is scaled; nil if it was not read
	native   *bool
}

func (s *securer) all(ctx context.Context) error {
	s.services, s.budgets = map[string][]map[string]string{}, map[string]budgets{}
	var budgeted []manifest.Object
	for i, o := range s.objects {
		if !rolls(o.Unstructured) {
			continue
		}
		without, err := leftOut(o)
		if err != nil {
			s.additions[objectKey(o)] = &addition{err: err}
			continue
		}
		if without == nil {
			continue
		}
		serves, err := s.serves(ctx, o)
		if err != nil {
			return err
		}
		if !serves {
			continue
		}
		around, err := s.surroundings(ctx, o, without)
		if err != nil {
			return err
		}
		secured := manifest.Object{Unstructured: o.DeepCopy(), Origin: o.Origin}
		added := secureWorkload(secured.Unstructured, around)
		budget, err := s.budget(ctx, secured, around, added)
		if err != nil {
			return err
		}
		if budget != nil {
			budgeted = append(budgeted, *budget)
		}
		s.judge(secured, added)
		s.objects[i] = secured
		s.additions[objectKey(o)] = added
	}
	s.objects = append(s.objects, budgeted...)
	return nil
}

// judge applies the mode of the policy.
func (s *securer) judge(o manifest.Object, a *addition) {
	for _, problem := range a.problems {
		a.notes = append(a.notes, "requests may be lost: "+problem)
	}
	switch {
	case s.policy.Mode == ci.LosslessCheck:
		for _, f := range a.fields {
			a.notes = append(a.notes, fmt.Sprintf("missing is %s: %s, %s", f.Path, f.New, f.Reason))
		}
		a.fields = nil
	case s.policy.Mode == ci.LosslessRequire && len(a.problems) > 0:
		a.err = fault.New(fault.Invalid, "%s: %s may lose requests while it rolls, which the policy does not allow: %s; put this right, or leave it out by the annotation %s",
			o.Origin, o, strings.Join(a.problems, "; "), LosslessAnnotation)
	}
}

// rolls reports whether the pods of an object are replaced by newer ones.
func rolls(u *unstructured.Unstructured) bool {
	switch u.GroupVersionKind().GroupKind().String() {
	case "Deployment.apps", "StatefulSet.apps", "DaemonSet.apps":
		return true
	}
	return false
}

// leftOut returns the parts that the annotation of an object leaves out; nil means all.
func leftOut(o manifest.Object) (map[string]bool, error) {
	without := map[string]bool{}
	text, ok := o.GetAnnotations()[LosslessAnnotation]
	if !ok {
		return without, nil
	}
	if text == "off" {
		return nil, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		switch part {
		case partSurge, partDrain, partReady, partBudget, partReadiness:
			without[part] = true
		default:
			return nil, fault.New(fault.Invalid, "%s: the annotation %s of %s has %q; write \"off\", or some of surge, drain, ready, budget and readiness, separated by commas",
				o.Origin, LosslessAnnotation, o, oneLine(part))
		}
	}
	return without, nil
}

// optional returns nil in place of the errors that mean that the account may not look, or that there is nothing to look at.
func optional(err error) error {
	if apierrors.IsForbidden(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// serves reports whether a Service selects the pods of a workload: one of the objects, or one in the cluster.
func (s *securer) serves(ctx context.Context, o manifest.Object) (bool, error) {
	namespace := o.GetNamespace()
	selectors, ok := s.services[namespace]
	if !ok {
		for _, other := range s.r.Objects {
			if other.GroupVersionKind().GroupKind().String() == "Service" && other.GetNamespace() == namespace {
				selector, _, _ := unstructured.NestedStringMap(other.Object, "spec", "selector")
				selectors = append(selectors, selector)
			}
		}
		list, err := s.r.Client.Core.CoreV1().Services(namespace).List(ctx, metav1.ListOptions{})
		if err := optional(err); err != nil {
			return false, err
		}
		if list != nil {
			for _, service := range list.Items {
				selectors = append(selectors, service.Spec.Selector)
			}
		}
		s.services[namespace] = selectors
	}
	pods := labels.Set(podLabels(o.Unstructured))
	return slices.ContainsFunc(selectors, func(selector map[string]string) bool {
		return len(selector) > 0 && labels.SelectorFromSet(selector).Matches(pods)
	}), nil
}

func podLabels(u *unstructured.Unstructured) map[string]string {
	found, _, _ := unstructured.NestedStringMap(u.Object, "spec", "template", "metadata", "labels")
	return found
}

func (s *securer) surroundings(ctx context.Context, o manifest.Object, without map[string]bool) (surroundings, error) {
	around := surroundings{policy: s.policy, without: without}
	var err error
	if s.native == nil {
		native, err := sleeps(ctx, s.r.Client)
		if err != nil {
			return around, err
		}
		s.native = &native
	}
	around.native = *s.native
	if replicas, ok := replicasOf(o.Unstructured); !ok || replicas < 2 {
		if s.scaled == nil {
			if s.scaled, err = autoscaled(ctx, s.r); err != nil {
				return around, err
			}
		}
		around.scaled = s.scaled[objectKey(o)] != ""
	}
	around.claim, err = s.exclusive(ctx, o)
	return around, err
}

// sleeps reports whether the cluster's nodes sleep by themselves before they end a container: Kubernetes 1.30 and newer
// (https://kubernetes.io/docs/concepts/containers/container-lifecycle-hooks/). What cannot be read is taken for new.
func sleeps(ctx context.Context, c *kube.Client) (bool, error) {
	info, err := c.Version(ctx)
	switch {
	case err != nil && kube.Unreachable(err):
		return false, err
	case err != nil:
		return true, nil
	}
	v, err := version.ParseGeneric(info)
	return err != nil || v.AtLeast(version.MajorMinor(1, 30)), nil
}

// exclusive returns a claim of the pods of a Deployment that one node at a time can use, with its access mode. All pods
// of a Deployment share its claims.
func (s *securer) exclusive(ctx context.Context, o manifest.Object) (string, error) {
	if o.GetKind() != "Deployment" {
		return "", nil
	}
	volumes, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "volumes")
	for _, v := range volumes {
		volume, _ := v.(map[string]any)
		name, ok, _ := unstructured.NestedString(volume, "persistentVolumeClaim", "claimName")
		if !ok {
			continue
		}
		claim := &unstructured.Unstructured{}
		claim.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PersistentVolumeClaim"))
		claim.SetNamespace(o.GetNamespace())
		claim.SetName(name)
		i := slices.IndexFunc(s.r.Objects, func(other manifest.Object) bool {
			return objectKey(other) == objectKey(manifest.Object{Unstructured: claim})
		})
		if i >= 0 {
			claim = s.r.Objects[i].Unstructured
		} else {
			live, err := find(ctx, s.r.Client, claim)
			if err := optional(err); err != nil {
				return "", err
			}
			if live == nil {
				continue
			}
			claim = live
		}
		modes, _, _ := unstructured.NestedStringSlice(claim.Object, "spec", "accessModes")
		shared := slices.ContainsFunc(modes, func(m string) bool { return m == "ReadWriteMany" || m == "ReadOnlyMany" })
		if len(modes) > 0 && !shared {
			return fmt.Sprintf("%s (%s)", name, strings.Join(modes, ", ")), nil
		}
	}
	return "", nil
}

// explain adds to the differences which of their fields Slipway added and why, and refuses what the policy does.
func (a additions) explain(d Differences) {
	for i := range d {
		one := &d[i]
		added := a[objectKey(one.Object)]
		if added == nil || one.Action == Refuse {
			continue
		}
		if added.err != nil {
			one.Action, one.Err = Refuse, added.err
			continue
		}
		if added.object != "" && one.Action == Create {
			one.Notes = append(one.Notes, "added "+added.object)
		}
		if one.Action == Create {
			one.Fields = append(one.Fields, added.fields...)
		}
		for j := range one.Fields {
			f := &one.Fields[j]
			for _, by := range added.fields {
				if f.Path == by.Path || strings.HasPrefix(by.Path, f.Path+".") || strings.HasPrefix(f.Path, by.Path+".") {
					f.Reason = by.Reason
				}
			}
		}
		one.Notes = append(one.Notes, added.notes...)
	}
}
