package rollout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/polling"
	"github.com/fluxcd/cli-utils/pkg/object"
	"github.com/fluxcd/pkg/ssa"
	ssaerrors "github.com/fluxcd/pkg/ssa/errors"
	"github.com/fluxcd/pkg/ssa/utils"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"slipway/internal/fault"
	"slipway/internal/kube"
	"slipway/internal/manifest"
)

// Change is what applying did to an object.
type Change struct {
	Object manifest.Object
	// Action is created, configured, replaced or unchanged.
	Action string
}

// Prepare gives the objects of r their namespaces and annotations, and checks what the cluster knows of them without
// changing it: that their kinds exist, and their namespaces. It may be repeated.
func Prepare(ctx context.Context, r Request) error {
	if err := checkHooks(r.Objects); err != nil {
		return err
	}
	namespace := cmp.Or(r.Namespace, r.Client.Namespace, "default")
	builtin := manifest.BuiltinScope(r.Objects)
	var failure error
	manifest.SetNamespace(r.Objects, namespace, func(gvk schema.GroupVersionKind) (namespaced, known bool) {
		if failure != nil {
			return false, false
		}
		mapping, err := r.Client.Mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
		switch {
		case err == nil:
			return mapping.Scope.Name() == meta.RESTScopeNameNamespace, true
		case meta.IsNoMatchError(err):
			return builtin(gvk) // defined by a CustomResourceDefinition among the objects, or reported below
		}
		failure = err
		return false, false
	})
	if failure != nil {
		return r.Client.Explain(failure)
	}
	if err := checkKinds(r, builtin); err != nil {
		return err
	}
	if err := checkNamespaces(ctx, r); err != nil {
		return err
	}
	if r.Environment != "" {
		for _, o := range r.Objects {
			annotations := o.GetAnnotations()
			if annotations == nil {
				annotations = map[string]string{}
			}
			annotations[EnvironmentAnnotation] = r.Environment
			if !utils.IsNamespace(o.Unstructured) {
				annotations[OwnerAnnotation] = r.place().ID()
			}
			o.SetAnnotations(annotations)
		}
	}
	return nil
}

// checkKinds finds objects of kinds that neither the cluster nor the objects define.
func checkKinds(r Request, builtin manifest.Scope) error {
	for _, o := range r.Objects {
		gvk := o.GroupVersionKind()
		_, err := r.Client.Mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
		if !meta.IsNoMatchError(err) {
			if err != nil {
				return r.Client.Explain(err)
			}
			continue
		}
		if _, known := builtin(gvk); known && strings.Contains(gvk.Group, ".") && !strings.HasSuffix(gvk.Group, ".k8s.io") {
			continue // its definition is applied first
		}
		if other, err := r.Client.Mapper.RESTMapping(gvk.GroupKind()); err == nil {
			return fault.New(fault.Invalid, "%s: the cluster has no %s in version %s; it has %s", o.Origin, gvk.Kind, gvk.GroupVersion(), other.GroupVersionKind.GroupVersion())
		}
		return fault.New(fault.Invalid, "%s: the cluster has no kind %s of %s; is the name right, and is its CustomResourceDefinition installed?", o.Origin, gvk.Kind, gvk.GroupVersion())
	}
	return nil
}

// checkNamespaces finds namespaces that neither exist nor are among the objects.
func checkNamespaces(ctx context.Context, r Request) error {
	users := map[string]manifest.Object{}
	for _, o := range r.Objects {
		if _, ok := users[o.GetNamespace()]; !ok && o.GetNamespace() != "" {
			users[o.GetNamespace()] = o
		}
	}
	for _, o := range r.Objects {
		if utils.IsNamespace(o.Unstructured) {
			delete(users, o.GetName())
		}
	}
	for _, name := range slices.Sorted(maps.Keys(users)) {
		_, err := r.Client.Core.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		switch {
		case err == nil, apierrors.IsForbidden(err): // an account of one namespace may not look; applying will tell
		case apierrors.IsNotFound(err):
			return fault.New(fault.NotFound, "%s: %s is for the namespace %s, which does not exist; create it, or add a Namespace object to the manifests",
				users[name].Origin, users[name], name)
		default:
			return r.Client.Explain(err)
		}
	}
	return nil
}

// apply applies what d says, definitions, namespaces and classes first, waiting until they are ready, then the rest. What
// could not be tried before is tried by a dry run before any object of its stage changes. While the API server does not
// answer, apply tries again until ctx is done. Its error names the object and where it is written. Changes are those made
// so far, also with an error.
func apply(ctx context.Context, r Request, d Differences, p *printer) ([]Change, error) {
	var stages [3]Differences // definitions, classes, the rest
	for _, one := range d {
		switch u := one.Object.Unstructured; {
		case utils.IsClusterDefinition(u):
			stages[0] = append(stages[0], one)
		case utils.IsClassDefinition(u):
			stages[1] = append(stages[1], one)
		default:
			stages[2] = append(stages[2], one)
		}
	}
	var changes []Change
	for i, stage := range stages {
		if len(stage) == 0 {
			continue
		}
		if err := retryUntried(ctx, r, stage, p); err != nil {
			return changes, err
		}
		slices.SortStableFunc(stage, func(a, b Difference) int { return applyOrder(a.Object, b.Object) })
		for _, one := range stage {
			var change Change
			err := retry(ctx, r.Client, p, func() (err error) {
				change, err = applyOne(ctx, r, one)
				return err
			})
			if err != nil {
				return changes, refused(r.Client, ssaerrors.NewDryRunErr(err, one.Object.Unstructured), r.Objects)
			}
			changes = append(changes, change)
			p.linef("%s: %s", change.Object, change.Action)
		}
		if i == 2 { // watched in detail later
			break
		}
		if err := retry(ctx, r.Client, p, func() error { return established(ctx, r, stage) }); err != nil {
			return changes, refused(r.Client, err, r.Objects)
		}
	}
	return changes, nil
}

// applyOrder puts what others need first, by the order of kinds that ssa knows.
func applyOrder(a, b manifest.Object) int {
	us := ssa.SortableUnstructureds{a.Unstructured, b.Unstructured}
	switch {
	case us.Less(0, 1):
		return -1
	case us.Less(1, 0):
		return 1
	}
	return 0
}

// retryUntried tries the objects that could not be tried before what they need was there.
func retryUntried(ctx context.Context, r Request, stage Differences, p *printer) error {
	for i, one := range stage {
		if !one.untried {
			continue
		}
		err := retry(ctx, r.Client, p, func() error {
			live, err := find(ctx, r.Client, one.Object.Unstructured)
			if err != nil {
				return err
			}
			stage[i], err = diffObject(ctx, r, one.Object, live, "")
			return err
		})
		if err != nil {
			return refused(r.Client, ssaerrors.NewDryRunErr(err, one.Object.Unstructured), r.Objects)
		}
	}
	return stage.Err()
}

// applyOne does to an object what one says.
func applyOne(ctx context.Context, r Request, one Difference) (Change, error) {
	change := Change{Object: one.Object, Action: "configured"}
	switch one.Action {
	case Unchanged:
		change.Action = "unchanged"
		return change, nil
	case Create:
		change.Action = "created"
	case Replace:
		change.Action = "replaced"
		if err := remove(ctx, r.Client, one.live); err != nil {
			return change, err
		}
	}
	return change, put(ctx, r.Client, one.desired())
}

// put applies an object as Slipway's own, and makes u what the server has then, or would have.
func put(ctx context.Context, c *kube.Client, u *unstructured.Unstructured, options ...client.ApplyOption) error {
	options = append(options, client.ForceOwnership, client.FieldOwner(FieldManager))
	return c.Objects.Apply(ctx, client.ApplyConfigurationFromUnstructured(u), options...)
}

// remove deletes an object with all that depends on it, and waits until it is gone. If another has its name by now, that
// one is left alone.
func remove(ctx context.Context, c *kube.Client, u *unstructured.Unstructured) error {
	uid := u.GetUID()
	err := c.Objects.Delete(ctx, u.DeepCopy(), client.PropagationPolicy(metav1.DeletePropagationForeground), client.Preconditions{UID: &uid})
	for err == nil {
		live, failure := find(ctx, c, u)
		switch {
		case failure != nil:
			return failure
		case live == nil || live.GetUID() != uid:
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// established waits until the objects of a stage are ready to be used by those of the next.
func established(ctx context.Context, r Request, stage Differences) error {
	poller := polling.NewStatusPoller(r.Client.Objects, r.Client.Mapper, polling.Options{})
	manager := ssa.NewResourceManager(r.Client.Objects, poller, ssa.Owner{Field: FieldManager, Group: FieldManager})
	var set object.ObjMetadataSet
	for _, one := range stage {
		set = append(set, object.UnstructuredToObjMetadata(one.Object.Unstructured))
	}
	return manager.WaitForSetWithContext(ctx, set, ssa.WaitOptions{Interval: 200 * time.Millisecond, Timeout: time.Minute})
}

// refused says in one sentence what the cluster has against one of the objects.
func refused(c *kube.Client, err error, objects []manifest.Object) error {
	if explained := c.Explain(err); !errors.Is(err, explained) {
		return explained
	}
	subject, message := "", err.Error()
	var dry *ssaerrors.DryRunErr
	if errors.As(err, &dry) && dry.InvolvedObject() != nil {
		u := dry.InvolvedObject()
		subject = manifest.Name(u)
		for _, o := range objects {
			if o.GroupVersionKind() == u.GroupVersionKind() && o.GetName() == u.GetName() && o.GetNamespace() == u.GetNamespace() {
				subject = fmt.Sprintf("%s: %s", o.Origin, o)
			}
		}
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		message = reason(status.Status())
	}
	code := fault.Invalid
	hint := ""
	switch {
	case strings.Contains(message, "immutable"):
		code, hint = fault.Conflict, "; "+unchangeable+", so delete the object first or give the new one another name"
	case apierrors.IsNotFound(err) && strings.HasPrefix(message, "namespaces "):
		code, hint = fault.NotFound, "; create the namespace, or add a Namespace object to the manifests"
	case apierrors.IsConflict(err):
		code = fault.Conflict
	case apierrors.IsForbidden(err):
		code = fault.Forbidden
	}
	if subject != "" {
		subject += " "
	}
	return &fault.Error{Code: code, Message: fmt.Sprintf("%sis refused by the cluster: %s%s", subject, oneLine(message), hint), Err: err}
}

// patching is how the API server begins when a field has the wrong type.
var patching = regexp.MustCompile(`^failed to create typed patch object \([^)]*\): `)

// reason returns what the API server has against an object. Of what is invalid, the values are left out if they are
// long: they may be whole pod templates.
func reason(status metav1.Status) string {
	if status.Details == nil || status.Reason != metav1.StatusReasonInvalid || len(status.Details.Causes) == 0 {
		return patching.ReplaceAllString(status.Message, "")
	}
	var causes []string
	for _, c := range status.Details.Causes {
		message := c.Message
		if i := strings.LastIndex(message, ": "); len(message) > 200 && i >= 0 {
			message = message[i+2:]
		}
		if cause := c.Field + ": " + message; !slices.Contains(causes, cause) {
			causes = append(causes, cause)
		}
	}
	return strings.Join(causes, "; ")
}

// retry calls f until it returns something other than that the API server does not answer, or ctx is done.
func retry(ctx context.Context, c *kube.Client, p *printer, f func() error) error {
	for o := (outage{client: c, printer: p}); ; {
		err := f()
		if err == nil {
			o.over()
		}
		if !o.again(ctx, err) {
			return err
		}
	}
}

// outage counts how often the API server did not answer, and says so once.
type outage struct {
	client  *kube.Client
	printer *printer
	tries   int
}

// over says that the API server answers, if it did not before.
func (o *outage) over() {
	if o.tries > 0 {
		o.printer.linef("the Kubernetes API answers again")
	}
	o.tries = 0
}

// again reports whether what failed with err should be tried again, after waiting for the right time.
func (o *outage) again(ctx context.Context, err error) bool {
	if !kube.Unreachable(err) || ctx.Err() != nil {
		return false
	}
	if o.tries == 0 {
		o.printer.linef("%s", o.client.Explain(err))
		o.printer.linef("trying again until the time is over")
	}
	wait := min(250*time.Millisecond<<min(o.tries, 5), 5*time.Second)
	o.tries++
	select {
	case <-ctx.Done():
		return false
	case <-time.After(wait):
		return true
	}
}
