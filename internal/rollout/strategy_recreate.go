package rollout

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/manifest"
	"slipway/internal/release"
)

// recreate rolls out so that no pod of the new version of a Deployment runs before the last one of the old version has
// ended. The controller of Deployments does it, by its strategy Recreate, which they have only meanwhile: when all is
// over they are as their manifests say. The state of the environment remembers which have it.
func (d *deployment) recreate(ctx, applying context.Context, strategy ci.Strategy, differences Differences) error {
	differences = slices.Clone(differences)
	p := &release.Progress{Release: d.record.Number, Kind: ci.Recreate}
	var originals Differences
	for i, one := range differences {
		if !recreated(strategy, one) {
			continue
		}
		originals = append(originals, one)
		p.Workloads = append(p.Workloads, release.Workload{Ref: release.RefOf(one.Object.Unstructured)})
		differences[i].Object = manifest.Object{Unstructured: one.Object.DeepCopy(), Origin: one.Object.Origin}
		unstructured.RemoveNestedField(differences[i].Object.Object, "spec", "strategy")
	}
	if len(originals) == 0 {
		return d.roll(ctx, applying, differences)
	}
	d.begun = true
	if err := d.saveProgress(applying, p); err != nil {
		return err
	}
	for _, one := range originals {
		o := one.Object
		// The server would refuse an object that says Recreate, as long as the one in the cluster has bounds for rolling.
		err := d.setStrategy(applying, o, map[string]any{"type": string(appsv1.RecreateDeploymentStrategyType), "rollingUpdate": nil})
		if err != nil {
			return stopped(ctx, applying, err, "no pod was changed")
		}
		d.p.linef("recreate: all pods of %s end before new ones begin", o)
	}
	if err := d.roll(ctx, applying, differences); err != nil {
		return err
	}
	for _, one := range originals {
		o := one.Object
		if err := d.rollAgain(applying, o); err != nil {
			return err
		}
		if err := retry(applying, d.r.Client, d.p, func() error { return put(applying, d.r.Client, one.desired()) }); err != nil {
			return refused(d.r.Client, err, []manifest.Object{o})
		}
	}
	d.state.Progress = nil
	return nil
}

// rollAgain gives a Deployment the strategy back that its manifest says.
func (d *deployment) rollAgain(ctx context.Context, o manifest.Object) error {
	own, _, _ := unstructured.NestedMap(o.Object, "spec", "strategy")
	if own == nil {
		own = map[string]any{}
	}
	if own["type"] == nil {
		own["type"] = string(appsv1.RollingUpdateDeploymentStrategyType)
	}
	return d.setStrategy(ctx, o, own)
}

// endRecreate lets Deployments roll again that an unfinished release has left otherwise.
func (d *deployment) endRecreate(ctx context.Context) error {
	for _, w := range d.state.Progress.Workloads {
		live, err := find(ctx, d.r.Client, w.Object())
		if err != nil {
			return err
		}
		if live == nil {
			continue
		}
		if paused, _, _ := unstructured.NestedBool(live.Object, "spec", "paused"); !paused {
			if err := d.alone(ctx, w.Ref); err != nil {
				return err
			}
		}
		if err := d.rollAgain(ctx, manifest.Object{Unstructured: w.Object()}); err != nil {
			return err
		}
	}
	return d.saveProgress(ctx, nil)
}

// alone waits until all pods of a Deployment are of its present version. If it could roll before that, its new pods would
// begin beside the old ones that still end.
func (d *deployment) alone(ctx context.Context, ref release.Ref) error {
	for {
		done := false
		err := retry(ctx, d.r.Client, d.p, func() (err error) {
			done, err = d.isAlone(ctx, ref)
			return optional(err)
		})
		if err != nil || done {
			return err
		}
		if sleep(ctx, interval) != nil {
			return fault.New(fault.Failed, "the old pods of %s did not end in time", manifest.Name(ref.Object()))
		}
	}
}

// isAlone reports whether the present version of a Deployment has a ReplicaSet with all its pods, and there are no others. What
// the account may not look at is taken for true.
func (d *deployment) isAlone(ctx context.Context, ref release.Ref) (bool, error) {
	live, err := d.r.Client.Core.AppsV1().Deployments(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if err != nil {
		return true, err
	}
	selected := metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(live.Spec.Selector)}
	sets, err := d.r.Client.Core.AppsV1().ReplicaSets(ref.Namespace).List(ctx, selected)
	if err != nil {
		return true, err
	}
	i := slices.IndexFunc(sets.Items, func(set appsv1.ReplicaSet) bool { return metav1.IsControlledBy(&set, live) && isOf(&set, live) })
	if i < 0 || !hasPods(&sets.Items[i]) {
		return false, nil
	}
	hash := sets.Items[i].Labels[hashLabel]
	pods, err := d.r.Client.Core.CoreV1().Pods(ref.Namespace).List(ctx, selected)
	if err != nil {
		return true, err
	}
	return !slices.ContainsFunc(pods.Items, func(pod corev1.Pod) bool { return pod.Labels[hashLabel] != hash }), nil
}

// isOf reports whether a ReplicaSet has the pods that its Deployment wants. The revisions, which both have, say that late.
func isOf(set *appsv1.ReplicaSet, d *appsv1.Deployment) bool {
	template := set.Spec.Template.DeepCopy()
	delete(template.Labels, hashLabel)
	return equality.Semantic.DeepEqual(*template, d.Spec.Template)
}

// hasPods reports whether a ReplicaSet has made its pods, as far as it can.
func hasPods(set *appsv1.ReplicaSet) bool {
	fails := slices.ContainsFunc(set.Status.Conditions, func(c appsv1.ReplicaSetCondition) bool {
		return c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == corev1.ConditionTrue
	})
	return set.Status.ObservedGeneration >= set.Generation && (set.Status.Replicas >= replicas(set.Spec.Replicas) || fails)
}

// recreated reports whether an object is a Deployment that is in the cluster and gets other pods.
func recreated(strategy ci.Strategy, one Difference) bool {
	o := one.Object
	if !isDeployment(o.Unstructured) || one.Action != Update || len(strategy.Deployments) > 0 && !slices.Contains(strategy.Deployments, o.GetName()) {
		return false
	}
	kind, _, _ := unstructured.NestedString(o.Object, "spec", "strategy", "type")
	return kind != string(appsv1.RecreateDeploymentStrategyType) && changesPods(one)
}

// changesPods reports whether a workload gets other pods.
func changesPods(one Difference) bool {
	return slices.ContainsFunc(one.Fields, func(f Field) bool { return f.Path == "spec.template" || strings.HasPrefix(f.Path, "spec.template.") })
}

// setStrategy changes how a Deployment brings in new pods, and nothing else.
func (d *deployment) setStrategy(ctx context.Context, o manifest.Object, strategy map[string]any) error {
	data, err := json.Marshal(map[string]any{"spec": map[string]any{"strategy": strategy}})
	if err != nil {
		return fmt.Errorf("encode a strategy: %w", err)
	}
	err = retry(ctx, d.r.Client, d.p, func() error {
		return d.r.Client.Objects.Patch(ctx, o.DeepCopy(), client.RawPatch(types.MergePatchType, data), client.FieldOwner(FieldManager))
	})
	if err != nil {
		return refused(d.r.Client, err, []manifest.Object{o})
	}
	return nil
}
