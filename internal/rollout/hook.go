package rollout

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	ssaerrors "github.com/fluxcd/pkg/ssa/errors"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"slipway/internal/fault"
	"slipway/internal/kube"
	"slipway/internal/manifest"
)

// Annotations of hooks: Jobs that run once for each release, before or after the rest of it.
const (
	// HookAnnotation is "before" or "after". On an object that is no Job, "before" has it applied before the Jobs that run
	// before, and "after" means nothing: it is applied with the rest.
	HookAnnotation = "slipway/hook"
	// HookWeightAnnotation is a whole number: hooks run one after another, the lightest first, and those of the same
	// weight by name. Without it, it is 0.
	HookWeightAnnotation = "slipway/hook-weight"
	// HookDeleteAnnotation is "succeeded" if the Job shall be deleted after a release that is rolled out. Without it, the
	// Job stays until the next release.
	HookDeleteAnnotation = "slipway/hook-delete"
	// hookRunAnnotation says, on a Job in the cluster, which deployment it was made for. A deployment that is taken up by
	// another process finds by it what it has run already.
	hookRunAnnotation = "slipway/hook-run"
)

// When hooks run.
const (
	HookBefore = "before"
	HookAfter  = "after"
)

// hookOf returns when an object runs as a hook, or "" if it is none.
func hookOf(o manifest.Object) string {
	if !isJob(o.Unstructured) {
		return ""
	}
	return o.GetAnnotations()[HookAnnotation]
}

// checkHooks finds annotations of hooks that mean nothing.
func checkHooks(objects []manifest.Object) error {
	for _, o := range objects {
		annotations := o.GetAnnotations()
		when, ok := annotations[HookAnnotation]
		if !ok {
			continue
		}
		if when != HookBefore && when != HookAfter {
			return fault.New(fault.Invalid, "%s: the annotation %s of %s is %q; it can be %q or %q", o.Origin, HookAnnotation, o, when, HookBefore, HookAfter)
		}
		if o.GroupVersionKind().GroupKind() == podKind.GroupKind() {
			return fault.New(fault.Invalid, "%s: %s has the annotation %s, but only Jobs run as hooks; make a Job of it", o.Origin, o, HookAnnotation)
		}
		if weight, ok := annotations[HookWeightAnnotation]; ok {
			if _, err := strconv.Atoi(weight); err != nil {
				return fault.New(fault.Invalid, "%s: the annotation %s of %s is %q, and no whole number", o.Origin, HookWeightAnnotation, o, weight)
			}
		}
		if policy, ok := annotations[HookDeleteAnnotation]; ok && policy != "succeeded" {
			return fault.New(fault.Invalid, "%s: the annotation %s of %s is %q; it can be %q", o.Origin, HookDeleteAnnotation, o, policy, "succeeded")
		}
	}
	return nil
}

func hookWeight(o manifest.Object) int {
	weight, _ := strconv.Atoi(o.GetAnnotations()[HookWeightAnnotation]) // Prepare has checked it
	return weight
}

// diffHook says what running a hook would change, by trying to create it under another name.
func diffHook(ctx context.Context, r Request, o manifest.Object, live *unstructured.Unstructured) (Difference, error) {
	d := Difference{Object: o, Action: RunBefore, live: live}
	if hookOf(o) == HookAfter {
		d.Action = RunAfter
	}
	if err := foreign(r, o, live); err != nil {
		d.Action, d.Err = Refuse, err
		return d, nil
	}
	if live != nil {
		d.Fields = compare(r.Mask, live, pruneToLive(o.Unstructured, live))
	}
	trial := o.DeepCopy()
	trial.SetName("")
	trial.SetGenerateName(o.GetName() + "-")
	err := r.Client.Objects.Create(ctx, trial, client.DryRunAll, client.FieldOwner(FieldManager))
	switch {
	case err == nil:
	case kube.Unreachable(err), ctx.Err() != nil:
		return d, err
	case meta.IsNoMatchError(err), apierrors.IsNotFound(err):
		d.Notes = append(d.Notes, "not tried, because what it needs is created first")
	default:
		d.Action = Refuse
		d.Err = refused(r.Client, ssaerrors.NewDryRunErr(err, o.Unstructured), []manifest.Object{o})
	}
	return d, nil
}

// phases are the parts of a deployment in their order: early are the objects that the hooks before need.
type phases struct {
	early, before, rest, after Differences
}

// split returns the phases of a deployment.
func split(d Differences) phases {
	var p phases
	for _, one := range d {
		switch hookOf(one.Object) {
		case HookBefore:
			p.before = append(p.before, one)
		case HookAfter:
			p.after = append(p.after, one)
		}
	}
	needed := neededBy(p.before, d)
	for _, one := range d {
		switch {
		case hookOf(one.Object) != "":
		case needed[objectKey(one.Object)] || one.Object.GetAnnotations()[HookAnnotation] == HookBefore:
			p.early = append(p.early, one)
		default:
			p.rest = append(p.rest, one)
		}
	}
	order := func(a, b Difference) int {
		return cmp.Or(cmp.Compare(hookWeight(a.Object), hookWeight(b.Object)), strings.Compare(a.Object.GetName(), b.Object.GetName()))
	}
	slices.SortStableFunc(p.before, order)
	slices.SortStableFunc(p.after, order)
	return p
}

// neededBy returns, by key, the objects of all that the pods of hooks refer to: their namespaces, accounts with their
// rights, ConfigMaps, Secrets and claims. A hook finds them as its own release has them.
func neededBy(hooks, all Differences) map[string]bool {
	needed := map[string]bool{}
	need := func(group, kind, namespace, name string) {
		if name != "" {
			needed[group+"/"+kind+"/"+namespace+"/"+name] = true
		}
	}
	for _, hook := range hooks {
		var job batchv1.Job
		if runtime.DefaultUnstructuredConverter.FromUnstructured(hook.Object.Object, &job) != nil {
			continue // the API server will say what is wrong with it
		}
		namespace := job.Namespace
		need("", "Namespace", "", namespace)
		forPod(job.Spec.Template.Spec, func(kind, name string) { need("", kind, namespace, name) })
	}
	for _, one := range all { // the rights of their accounts
		o := one.Object
		if kind := o.GetKind(); kind != "RoleBinding" && kind != "ClusterRoleBinding" {
			continue
		}
		subjects, _, _ := unstructured.NestedSlice(o.Object, "subjects")
		for _, s := range subjects {
			subject, _ := s.(map[string]any)
			name, _ := subject["name"].(string)
			namespace, _ := subject["namespace"].(string)
			if subject["kind"] != "ServiceAccount" || !needed["/ServiceAccount/"+cmp.Or(namespace, o.GetNamespace())+"/"+name] {
				continue
			}
			need("rbac.authorization.k8s.io", o.GetKind(), o.GetNamespace(), o.GetName())
			kind, _, _ := unstructured.NestedString(o.Object, "roleRef", "kind")
			role, _, _ := unstructured.NestedString(o.Object, "roleRef", "name")
			of := ""
			if kind == "Role" {
				of = o.GetNamespace()
			}
			need("rbac.authorization.k8s.io", kind, of, role)
		}
	}
	found := map[string]bool{}
	for _, one := range all {
		gk := one.Object.GroupVersionKind().GroupKind()
		if needed[gk.Group+"/"+gk.Kind+"/"+one.Object.GetNamespace()+"/"+one.Object.GetName()] {
			found[objectKey(one.Object)] = true
		}
	}
	return found
}

// forPod calls need for each object of its namespace that a pod refers to.
func forPod(spec corev1.PodSpec, need func(kind, name string)) {
	need("ServiceAccount", spec.ServiceAccountName)
	for _, secret := range spec.ImagePullSecrets {
		need("Secret", secret.Name)
	}
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		for _, from := range c.EnvFrom {
			if from.ConfigMapRef != nil {
				need("ConfigMap", from.ConfigMapRef.Name)
			}
			if from.SecretRef != nil {
				need("Secret", from.SecretRef.Name)
			}
		}
		for _, env := range c.Env {
			if from := env.ValueFrom; from != nil && from.ConfigMapKeyRef != nil {
				need("ConfigMap", from.ConfigMapKeyRef.Name)
			} else if from != nil && from.SecretKeyRef != nil {
				need("Secret", from.SecretKeyRef.Name)
			}
		}
	}
	for _, v := range spec.Volumes {
		switch {
		case v.ConfigMap != nil:
			need("ConfigMap", v.ConfigMap.Name)
		case v.Secret != nil:
			need("Secret", v.Secret.SecretName)
		case v.PersistentVolumeClaim != nil:
			need("PersistentVolumeClaim", v.PersistentVolumeClaim.ClaimName)
		case v.Projected != nil:
			for _, source := range v.Projected.Sources {
				if source.ConfigMap != nil {
					need("ConfigMap", source.ConfigMap.Name)
				}
				if source.Secret != nil {
					need("Secret", source.Secret.Name)
				}
			}
		}
	}
}

// runHooks runs hooks one after another, each to its end.
func (d *deployment) runHooks(ctx context.Context, hooks Differences) error {
	for _, hook := range hooks {
		if err := d.runHook(ctx, hook.Object); err != nil {
			return err
		}
	}
	return nil
}

// runHook runs one hook to its end, with its log in that of the deployment. A Job that this very deployment has begun, in
// a process that was killed, is followed and not run again. One that fails and is not over, or whose deployment is
// canceled, is stopped.
func (d *deployment) runHook(ctx context.Context, o manifest.Object) error {
	limited, cancel := context.WithDeadline(ctx, d.deadline)
	defer cancel()
	job, err := d.startHook(ctx, limited, o)
	if err != nil {
		return stopped(ctx, limited, err, fmt.Sprintf("%s was not run", o))
	}
	tail := newTail(limited, d.r.Client, d.p, job)
	defer tail.close()
	_, err = d.watchHook(ctx, o, tail.drain)
	if err != nil && !d.abandoned(ctx) {
		d.stopHook(ctx, o, job)
	}
	return err
}

// watchHook follows a Job to its end.
func (d *deployment) watchHook(ctx context.Context, o manifest.Object, drain func()) ([]Status, error) {
	r := d.r
	r.Objects, r.drain = []manifest.Object{o}, drain
	statuses, err := watch(ctx, r, d.deadline, d.timeout, d.p)
	d.result.Statuses = append(d.result.Statuses, statuses...)
	return statuses, err
}

// hookRun names this deployment on the Jobs that it runs. It is the same after its process was killed and another one has
// taken it up.
func (d *deployment) hookRun() string {
	run := d.r.holder()
	if d.record.Number > 0 {
		run = fmt.Sprintf("release %d of %s, %s", d.record.Number, d.place.ID(), run)
	}
	return run
}

// startHook returns the Job of o that belongs to this deployment: a new one, in place of that of an earlier release, or
// the one that is there already.
func (d *deployment) startHook(ctx, limited context.Context, o manifest.Object) (*unstructured.Unstructured, error) {
	for {
		var live *unstructured.Unstructured
		err := retry(limited, d.r.Client, d.p, func() (err error) {
			live, err = find(limited, d.r.Client, o.Unstructured)
			return err
		})
		switch {
		case err != nil:
			return nil, err
		case live == nil:
			job := o.DeepCopy()
			annotations := job.GetAnnotations()
			annotations[hookRunAnnotation] = d.hookRun()
			job.SetAnnotations(annotations)
			// If the answer is lost, the next try finds the Job, or makes it: it is the same request.
			err := retry(limited, d.r.Client, d.p, func() error { return put(limited, d.r.Client, job) })
			if err != nil {
				return nil, refused(d.r.Client, ssaerrors.NewDryRunErr(err, o.Unstructured), []manifest.Object{o})
			}
			d.p.linef("%s: runs %s the rest", o, hookOf(o))
			return job, nil
		case live.GetAnnotations()[hookRunAnnotation] == d.hookRun() && live.GetDeletionTimestamp() == nil:
			d.p.linef("%s: was begun by this deployment already, and is not run again", o)
			return live, nil
		case !jobIsOver(live) && live.GetDeletionTimestamp() == nil:
			d.p.linef("%s: still runs for %s; waiting for its end", o, cmp.Or(oneLine(live.GetAnnotations()[hookRunAnnotation]), "somebody else"))
			if _, err := d.watchHook(ctx, o, nil); err != nil && limited.Err() != nil {
				return nil, err
			}
		}
		err = retry(limited, d.r.Client, d.p, func() error { return remove(limited, d.r.Client, live) })
		if err != nil {
			return nil, err
		}
	}
}

// stopHook deletes a Job that is not over, so that it does nothing any more when the release before serves again.
func (d *deployment) stopHook(ctx context.Context, o manifest.Object, job *unstructured.Unstructured) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	live, err := find(ctx, d.r.Client, job)
	if err == nil && live != nil && live.GetUID() == job.GetUID() && !jobIsOver(live) {
		if err = remove(ctx, d.r.Client, live); err == nil {
			d.p.linef("%s: stopped and deleted, because it had not ended", o)
		}
	}
	if err != nil {
		d.p.linef("%s: could not be stopped: %s", o, d.r.Client.Explain(err))
	}
}

// tidyHooks deletes the Jobs that shall not stay after a good release.
func (d *deployment) tidyHooks(ctx context.Context) {
	for _, o := range d.r.Objects {
		if d.r.manual || hookOf(o) == "" || o.GetAnnotations()[HookDeleteAnnotation] != "succeeded" {
			continue
		}
		err := d.r.Client.Objects.Delete(ctx, o.DeepCopy(), client.PropagationPolicy(metav1.DeletePropagationBackground))
		if err != nil && !apierrors.IsNotFound(err) {
			d.p.linef("%s: could not be deleted: %s", o, d.r.Client.Explain(err))
		}
	}
}
