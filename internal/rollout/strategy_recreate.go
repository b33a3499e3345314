package rollout

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"slipway/internal/ci"
	"slipway/internal/manifest"
)

// recreate rolls out so that no pod of the new version of a Deployment runs before the last one of the old version has
// ended. The controller of Deployments does it, by its strategy Recreate, which they have only meanwhile: when all is
// over they are as their manifests say.
func (d *deployment) recreate(ctx, applying context.Context, strategy ci.Strategy, differences Differences) error {
	differences = slices.Clone(differences)
	var changed []int
	for i, one := range differences {
		if !recreated(strategy, one) {
			continue
		}
		// The server would refuse an object that says Recreate, as long as the one in the cluster has bounds for rolling.
		if err := d.setStrategy(applying, one.Object.Unstructured, map[string]any{"type": string(appsv1.RecreateDeploymentStrategyType), "rollingUpdate": nil}); err != nil {
			return stopped(ctx, applying, err, "nothing was applied")
		}
		d.p.linef("recreate: all pods of %s end before new ones begin", one.Object)
		d.begun = true
		meanwhile := one.Object
		meanwhile.Unstructured = one.Object.DeepCopy()
		unstructured.RemoveNestedField(meanwhile.Object, "spec", "strategy")
		differences[i].Object, differences[i].Action = meanwhile, Update
		changed = append(changed, i)
	}
	objects := d.r.Objects
	err := d.roll(ctx, applying, differences)
	if err != nil {
		return err
	}
	for _, i := range changed {
		o := objects[slices.IndexFunc(objects, func(o manifest.Object) bool { return objectKey(o) == objectKey(differences[i].Object) })]
		own, _, _ := unstructured.NestedMap(o.Object, "spec", "strategy")
		if err := d.setStrategy(applying, o.Unstructured, own); err != nil {
			return err
		}
		if err := retry(applying, d.r.Client, d.p, func() error { return put(applying, d.r.Client, o.DeepCopy()) }); err != nil {
			return err
		}
	}
	return nil
}

// recreated reports whether an object is a Deployment that is in the cluster and gets other pods, or that an interrupted
// deployment has left with the strategy of its own.
func recreated(strategy ci.Strategy, one Difference) bool {
	o := one.Object
	if !isDeployment(o.Unstructured) || one.Action != Update || len(strategy.Deployments) > 0 && !slices.Contains(strategy.Deployments, o.GetName()) {
		return false
	}
	kind := func(u *unstructured.Unstructured) string {
		kind, _, _ := unstructured.NestedString(u.Object, "spec", "strategy", "type")
		return kind
	}
	const recreate = string(appsv1.RecreateDeploymentStrategyType)
	if kind(o.Unstructured) == recreate {
		return false // it does so anyway
	}
	return kind(one.live) == recreate || slices.ContainsFunc(one.Fields, func(f Field) bool { return strings.HasPrefix(f.Path, "spec.template") })
}

// setStrategy changes how a Deployment brings in new pods, and nothing else; nil means as is usual.
func (d *deployment) setStrategy(ctx context.Context, deployment *unstructured.Unstructured, strategy map[string]any) error {
	var value any = strategy
	if len(strategy) == 0 {
		value = nil
	}
	data, err := json.Marshal(map[string]any{"spec": map[string]any{"strategy": value}})
	if err != nil {
		return fmt.Errorf("encode a strategy: %w", err)
	}
	return retry(ctx, d.r.Client, d.p, func() error {
		return d.r.Client.Objects.Patch(ctx, deployment.DeepCopy(), client.RawPatch(types.MergePatchType, data), client.FieldOwner(FieldManager))
	})
}
