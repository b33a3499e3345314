package rollout

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"slipway/internal/manifest"
)

// unstick deletes the pods of StatefulSets that are not ready and not of the version that is gone back to. The controller waits for
// each pod before it replaces the next, so those of a version that does not work would hold up the one that does for ever; see
// "Forced rollback" in the Kubernetes documentation of StatefulSets.
func (d *deployment) unstick(ctx context.Context) error {
	for _, o := range d.r.Objects {
		if !isKind(o.Unstructured, appsv1.GroupName, "StatefulSet") {
			continue
		}
		if err := retry(ctx, d.r.Client, d.p, func() error { return d.unstickSet(ctx, o) }); err != nil {
			if !apierrors.IsForbidden(err) {
				return err
			}
			d.p.linef("%s: whether pods of the version before hold it up is not known: %s", o, d.r.Client.Explain(err))
		}
	}
	return nil
}

func (d *deployment) unstickSet(ctx context.Context, o manifest.Object) error {
	core := d.r.Client.Core
	get := func() (*appsv1.StatefulSet, error) {
		return core.AppsV1().StatefulSets(o.GetNamespace()).Get(ctx, o.GetName(), metav1.GetOptions{})
	}
	set, err := get()
	for err == nil && set.Status.ObservedGeneration < set.Generation { // its revisions are not known yet
		if err = sleep(ctx, interval); err == nil {
			set, err = get()
		}
	}
	if err != nil || set.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
		return err
	}
	wanted := map[string]bool{set.Status.UpdateRevision: true}
	if rolling := set.Spec.UpdateStrategy.RollingUpdate; rolling != nil && rolling.Partition != nil && *rolling.Partition > 0 {
		wanted[set.Status.CurrentRevision] = true
	}
	pods, err := core.CoreV1().Pods(set.Namespace).List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(set.Spec.Selector)})
	if err != nil {
		return err
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if pod.DeletionTimestamp != nil || ready(pod) || wanted[pod.Labels[appsv1.StatefulSetRevisionLabel]] || !metav1.IsControlledBy(pod, set) {
			continue
		}
		err := core.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, *metav1.NewPreconditionDeleteOptions(string(pod.UID)))
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return err
		}
		d.p.linef("%s: pod %s is deleted, because it is not ready, and the pods of the version before would wait for it", o, pod.Name)
	}
	return nil
}
