package rollout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	ssaerrors "github.com/fluxcd/pkg/ssa/errors"
	"github.com/fluxcd/pkg/ssa/utils"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/kube"
	"slipway/internal/manifest"
)

// Action is what a deployment would do to an object.
type Action string

// The actions.
const (
	Create    Action = "create"
	Update    Action = "change"
	Replace   Action = "replace"    // delete, and create again: a field changes that cannot
	Prune     Action = "delete"     // it left the manifests
	Keep      Action = "keep"       // it left the manifests, but its data or its annotation keeps it
	RunBefore Action = "run before" // a hook, before the rest; see HookAnnotation
	RunAfter  Action = "run after"  // a hook, after the rest
	Unchanged Action = "leave"
	Refuse    Action = "refuse" // the cluster, or Slipway, does not allow it; see Difference.Err
)

// Difference is what a deployment would do to one object.
type Difference struct {
	Object manifest.Object
	Action Action
	// Fields are those that would change.
	Fields []Field
	// Notes are sentences about what deserves a second look.
	Notes []string
	// Err says why the object is refused.
	Err error
	// Authors are those who set the fields that differ; only [Drift] finds them out.
	Authors []ci.Author

	live    *unstructured.Unstructured // nil if there is none
	untried bool                       // there was no dry run
	// othersScale is true if somebody else owns the number of replicas, so that applying leaves it out.
	othersScale bool
}

// Differences is what a deployment would do, in the order of the objects.
type Differences []Difference

// Empty reports whether nothing would change. Hooks run with every release, and so change nothing by themselves.
func (d Differences) Empty() bool {
	return !slices.ContainsFunc(d, func(one Difference) bool {
		return one.Action != Unchanged && one.Action != Keep && one.Action != RunBefore && one.Action != RunAfter
	})
}

// withoutJobs returns the differences but those of Jobs: they do something once, and going back does not do it again.
func (d Differences) withoutJobs() Differences {
	return slices.DeleteFunc(slices.Clone(d), func(one Difference) bool { return isJob(one.Object.Unstructured) })
}

// Err returns the first error of an object that is refused.
func (d Differences) Err() error {
	for _, one := range d {
		if one.Err != nil {
			return one.Err
		}
	}
	return nil
}

// concurrency is how many requests are under way at once when many objects are looked at.
const concurrency = 16

// Diff returns what [Deploy] would do with the objects of r, by a dry run of the server: admission, defaults and the
// rights of the account are in it, and nothing changes. It calls [Prepare]. An object that is refused is part of the
// answer (see [Differences.Err]); an error means that there is no answer.
func Diff(ctx context.Context, r Request) (Differences, error) {
	if err := Prepare(ctx, r); err != nil {
		return nil, err
	}
	d := newDeployment(r, newPrinter(io.Discard), nil)
	if r.Environment != "" {
		var err error
		if d.state, err = d.place.Load(ctx); err != nil {
			return nil, r.Client.Explain(err)
		}
	}
	differences, prune, kept, err := d.diff(ctx)
	return slices.Concat(differences, prune, kept), r.Client.Explain(err)
}

// diff compares prepared objects with the cluster.
func diff(ctx context.Context, r Request) (Differences, error) {
	scaled, err := autoscaled(ctx, r)
	if err != nil {
		return nil, err
	}
	known, err := findMany(ctx, r)
	if err != nil {
		return nil, err
	}
	all := make(Differences, len(r.Objects))
	err = each(ctx, len(r.Objects), func(ctx context.Context, i int) (err error) {
		o := r.Objects[i]
		live, ok := known[objectKey(o)]
		if !ok {
			if live, err = find(ctx, r.Client, o.Unstructured); err != nil {
				return err
			}
		}
		if hookOf(o) != "" {
			all[i], err = diffHook(ctx, r, o, live)
			return err
		}
		all[i], err = diffObject(ctx, r, o, live, scaled[objectKey(o)])
		return err
	})
	return all, err
}

// many is how many objects of a kind and namespace make it worth to ask for all that there are at once.
const many = 10

// findMany returns, by key, the objects of r of which there are many: nil for those that are not in the cluster. Kinds
// that the account may not list, and of which the cluster has far more than r, are left out.
func findMany(ctx context.Context, r Request) (map[string]*unstructured.Unstructured, error) {
	type group struct {
		gvk       schema.GroupVersionKind
		namespace string
	}
	groups := map[group][]manifest.Object{}
	for _, o := range r.Objects {
		g := group{o.GroupVersionKind(), o.GetNamespace()}
		groups[g] = append(groups[g], o)
	}
	found := map[string]*unstructured.Unstructured{}
	for g, objects := range groups {
		if len(objects) < many {
			continue
		}
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(g.gvk.GroupVersion().WithKind(g.gvk.Kind + "List"))
		err := r.Client.Objects.List(ctx, list, client.InNamespace(g.namespace), client.Limit(int64(4*len(objects))))
		switch {
		case apierrors.IsForbidden(err), apierrors.IsNotFound(err), meta.IsNoMatchError(err), err == nil && list.GetContinue() != "":
			continue
		case err != nil:
			return nil, err
		}
		for _, o := range objects {
			found[objectKey(o)] = nil
		}
		for i := range list.Items {
			found[objectKey(manifest.Object{Unstructured: &list.Items[i]})] = &list.Items[i]
		}
	}
	return found, nil
}

// autoscaled returns which objects, by their keys, are scaled by a HorizontalPodAutoscaler, and the name of that: one
// among the objects, or one in the cluster.
func autoscaled(ctx context.Context, r Request) (map[string]string, error) {
	scaled := map[string]string{}
	add := func(scaler *unstructured.Unstructured) {
		version, _, _ := unstructured.NestedString(scaler.Object, "spec", "scaleTargetRef", "apiVersion")
		kind, _, _ := unstructured.NestedString(scaler.Object, "spec", "scaleTargetRef", "kind")
		name, _, _ := unstructured.NestedString(scaler.Object, "spec", "scaleTargetRef", "name")
		target := &unstructured.Unstructured{}
		target.SetAPIVersion(version)
		target.SetKind(kind)
		target.SetNamespace(scaler.GetNamespace())
		target.SetName(name)
		scaled[objectKey(manifest.Object{Unstructured: target})] = manifest.Name(scaler)
	}
	namespaces := map[string]bool{}
	for _, o := range r.Objects {
		gk := o.GroupVersionKind().GroupKind()
		if gk.Group == "apps" {
			namespaces[o.GetNamespace()] = true
		}
		if gk.Group == "autoscaling" && gk.Kind == "HorizontalPodAutoscaler" {
			add(o.Unstructured)
		}
	}
	for namespace := range namespaces {
		list := &unstructured.UnstructuredList{}
		list.SetAPIVersion("autoscaling/v2")
		list.SetKind("HorizontalPodAutoscalerList")
		err := r.Client.Objects.List(ctx, list, client.InNamespace(namespace))
		switch {
		case err == nil:
			for i := range list.Items {
				add(&list.Items[i])
			}
		case apierrors.IsForbidden(err), apierrors.IsNotFound(err), meta.IsNoMatchError(err):
			// Then only those among the objects are known.
		default:
			return nil, err
		}
	}
	return scaled, nil
}

// each calls f with 0 to n-1, some at once, and returns the first error; then the context of the others is done.
func each(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var wg sync.WaitGroup
	for range min(concurrency, n) {
		wg.Go(func() {
			for i := range next {
				if err := f(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := 0; i < n && ctx.Err() == nil; i++ {
		select {
		case next <- i:
		case <-ctx.Done():
		}
	}
	close(next)
	wg.Wait()
	return context.Cause(ctx)
}

func replicasOf(u *unstructured.Unstructured) (int64, bool) {
	if u == nil {
		return 0, false
	}
	replicas, ok, err := unstructured.NestedInt64(u.Object, "spec", "replicas")
	return replicas, ok && err == nil
}

// find returns an object as it is in the cluster, or nil.
func find(ctx context.Context, c *kube.Client, u *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	live := &unstructured.Unstructured{}
	live.SetGroupVersionKind(u.GroupVersionKind())
	err := c.Objects.Get(ctx, client.ObjectKeyFromObject(u), live)
	switch {
	case err == nil:
		return live, nil
	case apierrors.IsNotFound(err), meta.IsNoMatchError(err):
		return nil, nil
	}
	return nil, err
}

// diffObject compares one object with live, as it is in the cluster. If scaler is not empty, it names what scales the object; its number
// of replicas then is what it is, also in o. As long as it is Slipway's, it is applied like that: the server removes fields that their
// manager gives up, and so would set it to 1. Once the scaler has changed it, it is left out, so that a change that comes at the same
// moment stays.
func diffObject(ctx context.Context, r Request, o manifest.Object, live *unstructured.Unstructured, scaler string) (Difference, error) {
	d := Difference{Object: o, Action: Unchanged, live: live}
	if err := foreign(r, o, live); err != nil {
		d.Action, d.Err = Refuse, err
		return d, nil
	}
	if replicas, ok := replicasOf(d.live); ok && scaler != "" {
		if wanted, ok := replicasOf(o.Unstructured); ok && wanted != replicas {
			d.Notes = append(d.Notes, fmt.Sprintf("spec.replicas stays %d, because %s scales it", replicas, scaler))
		}
		if err := unstructured.SetNestedField(o.Object, replicas, "spec", "replicas"); err != nil {
			return d, fmt.Errorf("set the replicas of %s: %w", o, err)
		}
	}
	d.othersScale = scaler != "" && live != nil && !appliedReplicas(live)
	after := d.desired()
	err := put(ctx, r.Client, after, client.DryRunAll)
	switch {
	case err == nil && d.live == nil:
		d.Action = Create
	case err == nil:
		if d.Fields = compare(r.Mask, d.live, after); len(d.Fields) > 0 {
			d.Action = Update
			d.Notes = append(d.Notes, takenOver(d.live, after)...)
		}
	case kube.Unreachable(err), ctx.Err() != nil:
		return d, err
	case d.live == nil && (meta.IsNoMatchError(err) || apierrors.IsNotFound(err)):
		// Its definition or its namespace is among the objects; Prepare found nothing else that is missing.
		d.Action, d.untried = Create, true
		d.Notes = append(d.Notes, "not tried, because what it needs is created first")
	case d.live != nil && immutable(err) && replaceable(d.live, o):
		d.Action = Replace
		d.Fields = compare(r.Mask, d.live, pruneToLive(o.Unstructured, d.live))
		d.Notes = append(d.Notes, fmt.Sprintf("cannot change in place (%s), so it is deleted and created again", immutableFields(err)))
	default:
		d.Action = Refuse
		d.Err = refused(r.Client, ssaerrors.NewDryRunErr(err, o.Unstructured), []manifest.Object{o})
	}
	return d, nil
}

// appliedReplicas reports whether the number of replicas of an object is owned by Slipway, as a field that it has applied.
func appliedReplicas(live *unstructured.Unstructured) bool {
	return slices.ContainsFunc(live.GetManagedFields(), func(entry metav1.ManagedFieldsEntry) bool {
		return entry.Manager == FieldManager && entry.Operation == metav1.ManagedFieldsOperationApply && entry.FieldsV1 != nil &&
			slices.Contains(managedPaths(entry.FieldsV1.GetRawBytes()), "spec.replicas")
	})
}

// desired returns a copy of the object as it is applied.
func (d Difference) desired() *unstructured.Unstructured {
	u := d.Object.DeepCopy()
	utils.RemoveCABundleFromCRD(u)
	if d.othersScale && d.Action != Create && d.Action != Replace {
		unstructured.RemoveNestedField(u.Object, "spec", "replicas")
	}
	return u
}

// ReplaceAnnotation set to "true" on an object allows to delete it and create it again when a field changes that
// cannot change in place.
const ReplaceAnnotation = "slipway/replace"

// immutable reports whether err says that a field cannot change in place.
func immutable(err error) bool {
	return ssaerrors.IsImmutableError(err) && strings.Contains(err.Error(), "immutable") ||
		apierrors.IsInvalid(err) && strings.Contains(err.Error(), "are forbidden") && strings.Contains(err.Error(), "updates to")
}

func immutableFields(err error) string {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return "a field is immutable"
	}
	var fields []string
	for _, c := range status.Status().Details.Causes {
		if c.Field != "" && !slices.Contains(fields, c.Field) {
			fields = append(fields, c.Field)
		}
	}
	if len(fields) == 0 {
		return "a field is immutable"
	}
	return strings.Join(fields, ", ") + " is immutable"
}

// replaceable reports whether an object may be deleted to be created again: if its manifest says so, and if it is a Job
// that is over, of which nothing is lost but its logs.
func replaceable(live *unstructured.Unstructured, o manifest.Object) bool {
	if o.GetAnnotations()[ReplaceAnnotation] == "true" {
		return true
	}
	return isJob(live) && jobIsOver(live)
}

func isJob(u *unstructured.Unstructured) bool {
	gk := u.GroupVersionKind().GroupKind()
	return gk.Group == "batch" && gk.Kind == "Job"
}

func jobIsOver(job *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(job.Object, "status", "conditions")
	for _, c := range conditions {
		m, _ := c.(map[string]any)
		if (m["type"] == "Complete" || m["type"] == "Failed") && m["status"] == "True" {
			return true
		}
	}
	return false
}

// pruneToLive returns live with the fields that object sets. What the server would default in a new object is not
// known without creating it.
func pruneToLive(object, live *unstructured.Unstructured) *unstructured.Unstructured {
	merged := live.DeepCopy()
	merged.Object, _ = overlay(merged.Object, object.Object).(map[string]any)
	return merged
}

func overlay(under, over any) any {
	switch o := over.(type) {
	case map[string]any:
		u, ok := under.(map[string]any)
		if !ok {
			return over
		}
		for key, value := range o {
			u[key] = overlay(u[key], value)
		}
		return u
	case []any:
		u, ok := under.([]any)
		if !ok || len(u) != len(o) {
			return over
		}
		for i := range o {
			u[i] = overlay(u[i], o[i])
		}
		return u
	}
	return over
}

// takenOver says which other managers lose fields to Slipway by a change: whoever they are, they may set them again.
func takenOver(live, after *unstructured.Unstructured) []string {
	owners := map[string]string{} // by path
	for _, entry := range live.GetManagedFields() {
		if entry.Manager != FieldManager && entry.Subresource != "status" && entry.FieldsV1 != nil {
			for _, path := range managedPaths(entry.FieldsV1.GetRawBytes()) {
				owners[path] = entry.Manager
			}
		}
	}
	var kept []string
	for _, entry := range after.GetManagedFields() {
		if entry.Manager != FieldManager && entry.Subresource != "status" && entry.FieldsV1 != nil {
			kept = append(kept, managedPaths(entry.FieldsV1.GetRawBytes())...)
		}
	}
	lost := map[string][]string{}
	for path, manager := range owners {
		if !slices.Contains(kept, path) {
			lost[manager] = append(lost[manager], path)
		}
	}
	var notes []string
	for manager, paths := range lost {
		slices.Sort(paths)
		notes = append(notes, fmt.Sprintf("%s was set by %s and becomes Slipway's, because the manifest sets it too", shorten(strings.Join(paths, ", ")), oneLine(manager)))
	}
	slices.Sort(notes)
	return notes
}

// Write prints what would be done, and how much of each.
func (d Differences) Write(w io.Writer) {
	d.write(newPrinter(w))
}

var signs = map[Action]string{Create: "+", Update: "~", Replace: "!", Refuse: "x", Prune: "-", Keep: "=", RunBefore: ">", RunAfter: ">"}

func (d Differences) write(p *printer) {
	counts := map[Action]int{}
	for _, one := range d {
		counts[one.Action]++
	}
	var parts []string
	for _, action := range []Action{RunBefore, Create, Update, Replace, Prune, Keep, RunAfter, Refuse, Unchanged} {
		if counts[action] > 0 {
			parts = append(parts, fmt.Sprintf("%d to %s", counts[action], action))
		}
	}
	p.linef("differences: %s", cmp.Or(strings.Join(parts, ", "), "none"))
	for _, one := range d {
		one.write(p)
	}
}

func (d Difference) write(p *printer) {
	sign, ok := signs[d.Action]
	if !ok {
		return
	}
	p.linef("%s %s: %s", sign, d.Object, d.Action)
	for _, f := range d.Fields {
		f.write(p)
	}
	for _, note := range d.Notes {
		p.indentf("note: %s", note)
	}
	if d.Err != nil {
		p.indentf("%s", fault.Of(d.Err).Message)
	}
}

func (f Field) write(p *printer) {
	reason := ""
	if f.Reason != "" {
		reason = " (added, " + f.Reason + ")"
	}
	switch {
	case len(f.Lines) > 0:
		p.indentf("%s:", f.Path)
		for _, line := range f.Lines {
			p.indentf("  %s", line)
		}
	case f.Old == "":
		p.indentf("%s: + %s%s", f.Path, f.New, reason)
	case f.New == "":
		p.indentf("%s: - %s", f.Path, f.Old)
	case f.Old == masked:
		p.indentf("%s: %s -> another %s", f.Path, f.Old, f.New)
	default:
		p.indentf("%s: %s -> %s%s", f.Path, f.Old, f.New, reason)
	}
}
