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
	"slipway/internal/release"
)

// recreate rolls out so that no pod of the new version of a Deployment runs before the last one of the old version has
// ended. The controller of Deployments does it, by its strategy Recreate, which they have only meanwhile: when all is
// over they are as their manifests say. The state of the environment remembers which have it.
func (d *deployment) recreate(ctx, applying context.Context, strategy ci.Strategy, differences Differences) error {
	differences = slices.Clone(differences)
	p := &release.Progress{Release: d.record.Number, Kind: ci.Recreate}
	var originals []manifest.Object
	for i, one := range differences {
		if !recreated(strategy, one) {
			continue
		}
		originals = append(originals, one.Object)
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
	for _, o := range originals {
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
	for _, o := range originals {
		if err := d.rollAgain(applying, o); err != nil {
			return err
		}
		if err := retry(applying, d.r.Client, d.p, func() error { return put(applying, d.r.Client, o.DeepCopy()) }); err != nil {
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
		if err := d.rollAgain(ctx, manifest.Object{Unstructured: w.Object()}); err != nil {
			return err
		}
	}
	return d.saveProgress(ctx, nil)
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
