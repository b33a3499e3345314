package rollout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/polling"
	"github.com/fluxcd/pkg/ssa"
	ssaerrors "github.com/fluxcd/pkg/ssa/errors"
	"github.com/fluxcd/pkg/ssa/utils"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"slipway/internal/fault"
	"slipway/internal/kube"
	"slipway/internal/manifest"
)

// Change is what applying did to an object.
type Change struct {
	Object manifest.Object
	// Action is created, configured or unchanged.
	Action string
}

// Prepare gives the objects of r their namespaces and annotations, and checks what the cluster knows of them without
// changing it: that their kinds exist, and their namespaces. It may be repeated.
func Prepare(ctx context.Context, r Request) error {
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

// Apply applies prepared objects: definitions, namespaces and classes first, waiting until they are ready, then the rest.
// Each stage is tried by a dry run before any object of it changes. While the API server does not answer, Apply tries
// again until ctx is done. Its error names the object and where it is written. Changes are those made so far, also with
// an error. It may be repeated.
func Apply(ctx context.Context, r Request, out io.Writer) ([]Change, error) {
	return apply(ctx, r, newPrinter(out))
}

func apply(ctx context.Context, r Request, p *printer) ([]Change, error) {
	poller := polling.NewStatusPoller(r.Client.Objects, r.Client.Mapper, polling.Options{})
	manager := ssa.NewResourceManager(r.Client.Objects, poller, ssa.Owner{Field: FieldManager, Group: FieldManager})
	manager.SetConcurrency(8)
	var definitions, classes, rest []manifest.Object
	for _, o := range r.Objects {
		switch {
		case utils.IsClusterDefinition(o.Unstructured):
			definitions = append(definitions, o)
		case utils.IsClassDefinition(o.Unstructured):
			classes = append(classes, o)
		default:
			rest = append(rest, o)
		}
	}
	var changes []Change
	for i, stage := range [][]manifest.Object{definitions, classes, rest} {
		if len(stage) == 0 {
			continue
		}
		var set *ssa.ChangeSet
		err := retry(ctx, r.Client, p, func() error {
			var err error
			if set, err = manager.ApplyAll(ctx, unstructureds(stage), ssa.DefaultApplyOptions()); err != nil {
				return err
			}
			if i == 2 { // watched in detail later
				return nil
			}
			return manager.WaitForSetWithContext(ctx, set.ToObjMetadataSet(), ssa.WaitOptions{Interval: 200 * time.Millisecond, Timeout: time.Minute})
		})
		if set != nil {
			changes = append(changes, changesOf(set, stage)...)
		}
		if err != nil {
			return changes, refused(r.Client, err, stage)
		}
		for _, c := range changesOf(set, stage) {
			p.linef("%s: %s", c.Object, c.Action)
		}
	}
	return changes, nil
}

// unstructureds returns copies, because ssa sorts and changes what it is given.
func unstructureds(objects []manifest.Object) []*unstructured.Unstructured {
	us := make([]*unstructured.Unstructured, len(objects))
	for i, o := range objects {
		us[i] = o.DeepCopy()
	}
	return us
}

func changesOf(set *ssa.ChangeSet, objects []manifest.Object) []Change {
	var changes []Change
	for _, e := range set.Entries {
		for _, o := range objects {
			if o.GroupVersionKind().GroupKind() == e.ObjMetadata.GroupKind && o.GetName() == e.ObjMetadata.Name && o.GetNamespace() == e.ObjMetadata.Namespace {
				changes = append(changes, Change{o, e.Action.String()})
			}
		}
	}
	return changes
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
		code, hint = fault.Conflict, "; this field cannot change once the object exists, so delete the object first or give the new one another name"
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
