package rollout

import (
	"context"
	"fmt"
	"slices"

	authorizationv1 "k8s.io/api/authorization/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"slipway/internal/manifest"
)

// budgets are the PodDisruptionBudgets of a namespace: those of the manifests, and those in the cluster that stay there.
type budgets struct {
	selectors []labels.Selector
	// names says of each name whether what is in the cluster is an environment's own.
	names map[string]bool
	// why, if it is not empty, says why none can be added.
	why string
}

// budget returns the PodDisruptionBudget that a workload needs, or nil: one pod at a time may be evicted, so that whoever
// empties a node does not end all pods at once, and is not held up either. Only an environment remembers that it has one.
func (s *securer) budget(ctx context.Context, o manifest.Object, around surroundings, added *addition) (*manifest.Object, error) {
	replicas, _ := replicasOf(o.Unstructured)
	if s.r.Environment == "" || around.without[partBudget] || o.GetKind() == "DaemonSet" || replicas < 2 && !around.scaled {
		return nil, nil
	}
	there, err := s.budgetsOf(ctx, o.GetNamespace())
	if err != nil {
		return nil, err
	}
	pods := labels.Set(podLabels(o.Unstructured))
	if slices.ContainsFunc(there.selectors, func(selector labels.Selector) bool { return selector.Matches(pods) }) {
		return nil, nil
	}
	own, taken := there.names[o.GetName()]
	selector, ok, _ := unstructured.NestedMap(o.Object, "spec", "selector")
	switch {
	case !ok:
		return nil, nil // the cluster will refuse the workload
	case there.why != "":
		added.notes = append(added.notes, "no PodDisruptionBudget is added, because "+there.why)
		return nil, nil
	case taken && !own:
		added.notes = append(added.notes, fmt.Sprintf("no PodDisruptionBudget is added, because there is another one with the name %s", o.GetName()))
		return nil, nil
	}
	annotations := map[string]any{AddedForAnnotation: o.String()}
	for _, key := range []string{EnvironmentAnnotation, OwnerAnnotation} {
		annotations[key] = o.GetAnnotations()[key]
	}
	metadata := map[string]any{"name": o.GetName(), "namespace": o.GetNamespace(), "annotations": annotations}
	if given, ok, _ := unstructured.NestedMap(o.Object, "metadata", "labels"); ok {
		metadata["labels"] = given
	}
	spec := map[string]any{"selector": selector, "maxUnavailable": int64(1)}
	if around.native { // since 1.27, pods that don't work need not hold up whoever empties a node
		spec["unhealthyPodEvictionPolicy"] = "AlwaysAllow"
	}
	budget := &manifest.Object{Origin: o.Origin, Unstructured: &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata, "spec": spec,
	}}}
	s.budgets[o.GetNamespace()].names[o.GetName()] = false // for a workload of another kind with the same name
	s.additions[objectKey(*budget)] = &addition{object: fmt.Sprintf("for %s, so that the cluster's maintenance ends one of its pods at a time", o)}
	return budget, nil
}

// budgetsOf reads the budgets of a namespace, once.
func (s *securer) budgetsOf(ctx context.Context, namespace string) (budgets, error) {
	if b, ok := s.budgets[namespace]; ok {
		return b, nil
	}
	b := budgets{names: map[string]bool{}}
	add := func(selector *metav1.LabelSelector) {
		if parsed, err := metav1.LabelSelectorAsSelector(selector); err == nil {
			b.selectors = append(b.selectors, parsed)
		}
	}
	for _, o := range s.r.Objects {
		if o.GroupVersionKind().GroupKind().String() != "PodDisruptionBudget.policy" || o.GetNamespace() != namespace {
			continue
		}
		var typed policyv1.PodDisruptionBudget
		if runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &typed) == nil {
			add(typed.Spec.Selector)
		}
		b.names[o.GetName()] = false
	}
	list, err := s.r.Client.Core.PolicyV1().PodDisruptionBudgets(namespace).List(ctx, metav1.ListOptions{})
	switch {
	case apierrors.IsForbidden(err):
		b.why = s.r.Client.Explain(err).Error()
	case err != nil:
		return b, err
	default:
		for _, one := range list.Items {
			own := one.Annotations[OwnerAnnotation] == s.r.place().ID()
			if !own || one.Annotations[PruneAnnotation] == "false" {
				add(one.Spec.Selector)
			}
			if _, ok := b.names[one.Name]; !ok {
				b.names[one.Name] = own
			}
		}
		if b.why, err = s.mayNot(ctx, namespace); err != nil {
			return b, err
		}
	}
	s.budgets[namespace] = b
	return b, nil
}

// mayNot says what the account may not do with budgets that it must to have one: to fail for something that nobody
// asked for would be worse than not to have it.
func (s *securer) mayNot(ctx context.Context, namespace string) (string, error) {
	for _, verb := range []string{"create", "patch", "delete"} {
		review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: namespace, Verb: verb, Group: "policy", Resource: "poddisruptionbudgets"},
		}}
		answer, err := s.r.Client.Core.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
		switch {
		case apierrors.IsForbidden(err):
			return "", nil // who may not ask finds out
		case err != nil:
			return "", err
		case !answer.Status.Allowed:
			return fmt.Sprintf("the account may not %s poddisruptionbudgets.policy in the namespace %s", verb, namespace), nil
		}
	}
	return "", nil
}
