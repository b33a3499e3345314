package rollout

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/fluxcd/pkg/ssa/utils"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"slipway/internal/fault"
	"slipway/internal/manifest"
	"slipway/internal/release"
)

// ReviewAnnotation on a namespace names the review environment that it was made for. With that environment it is removed.
const ReviewAnnotation = "slipway/review"

// withNamespace returns the objects of r, with the namespace of a review environment among them unless it is there already and
// not Slipway's.
func withNamespace(ctx context.Context, r Request, p *printer) ([]manifest.Object, error) {
	place := r.place()
	if slices.ContainsFunc(r.Objects, func(o manifest.Object) bool {
		return utils.IsNamespace(o.Unstructured) && o.GetName() == place.Namespace
	}) {
		return r.Objects, nil
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(r.Timeout, DefaultTimeout))
	defer cancel()
	var live *corev1.Namespace
	for told := false; ; {
		err := retry(ctx, r.Client, p, func() (err error) {
			live, err = r.Client.Core.CoreV1().Namespaces().Get(ctx, place.Namespace, metav1.GetOptions{})
			return err
		})
		switch {
		case apierrors.IsNotFound(err):
			live = nil
		case apierrors.IsForbidden(err): // an account of one namespace may not look, and cannot make it either
			return r.Objects, nil
		case err != nil:
			return nil, r.Client.Explain(err)
		}
		if live == nil || live.DeletionTimestamp == nil {
			break
		}
		if !told { // an earlier one of the same branch goes
			p.linef("namespace/%s: is being deleted; waiting for that", place.Namespace)
			told = true
		}
		if !pause(ctx) {
			return nil, fault.New(fault.Failed, "namespace/%s: is still being deleted; nothing was applied", place.Namespace)
		}
	}
	if live != nil {
		switch owner := live.Annotations[ReviewAnnotation]; owner {
		case place.ID():
		case "":
			return r.Objects, nil
		default:
			return nil, fault.New(fault.Conflict, "the namespace %s belongs to the review environment %s, with which it would be deleted; choose another namespace for %s", place.Namespace, oneLine(owner), place.Environment)
		}
	}
	namespace := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Namespace",
		"metadata": map[string]any{
			"name":        place.Namespace,
			"labels":      map[string]any{"app.kubernetes.io/managed-by": "slipway"},
			"annotations": map[string]any{ReviewAnnotation: place.ID()},
		},
	}}
	made := manifest.Object{Unstructured: namespace, Origin: manifest.Position{File: "the review environment"}}
	return append(slices.Clone(r.Objects), made), nil
}

// pause waits between two looks, or reports that ctx is done.
func pause(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(200 * time.Millisecond):
		return true
	}
}

// RunRollback is [Rollback] for a step, of which it needs no workspace.
func RunRollback(ctx context.Context, s Step, number int64, out io.Writer) (Result, error) {
	client, err := s.client()
	if err != nil {
		return Result{}, err
	}
	defer client.Close()
	return Rollback(ctx, s.bare(client), number, out)
}

// RunTeardown is [Teardown] for a step, of which it needs no workspace.
func RunTeardown(ctx context.Context, s Step, out io.Writer) error {
	client, err := s.client()
	if err != nil {
		return err
	}
	defer client.Close()
	return Teardown(ctx, s.bare(client), out)
}

// Teardown removes an environment from its cluster: all objects of its inventory in the reverse order of applying, claims and their
// data too, then what the cluster remembers of it, and then its namespace if it was made for it. What has the annotation
// slipway/prune: "false" stays, as do definitions of custom resources, which others may use; a namespace with something that stays
// stays as well. It may be repeated after a crash, and an environment that is gone is no error. Of r it takes all but the objects.
func Teardown(ctx context.Context, r Request, out io.Writer) error {
	if r.Environment == "" {
		return fault.New(fault.Invalid, "say which environment to tear down")
	}
	r.Release.Started = time.Now().UTC()
	p := newPrinter(out)
	r.Client.OnWarning(func(text string) { p.linef("warning of the cluster: %s", text) })
	defer r.Client.OnWarning(nil)
	d := newDeployment(r, p, &Result{})
	namespace, err := d.namespace(ctx)
	switch {
	case err != nil:
		return r.Client.Explain(err)
	case namespace == nil:
		p.linef("%s is gone: there is no namespace %s", d.place, d.place.Namespace)
		return nil
	case namespace.DeletionTimestamp == nil:
		if err := d.locked(ctx, d.teardown); err != nil {
			return r.Client.Explain(err)
		}
	}
	return r.Client.Explain(d.dropNamespace(ctx, namespace))
}

// namespace returns the environment's namespace, or nil if there is none. One that the account may not look at is taken for one that
// is not Slipway's.
func (d *deployment) namespace(ctx context.Context) (*corev1.Namespace, error) {
	ctx, cancel := context.WithDeadline(ctx, d.deadline)
	defer cancel()
	var found *corev1.Namespace
	err := retry(ctx, d.r.Client, d.p, func() (err error) {
		found, err = d.r.Client.Core.CoreV1().Namespaces().Get(ctx, d.place.Namespace, metav1.GetOptions{})
		return err
	})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case apierrors.IsForbidden(err):
		return &corev1.Namespace{}, nil
	}
	return found, err
}

// teardown removes the objects and the records. It runs while the environment is locked.
func (d *deployment) teardown(ctx context.Context) error {
	ctx, cancel := context.WithDeadline(ctx, d.deadline)
	defer cancel()
	objects := make([]manifest.Object, len(d.state.Objects))
	for i, ref := range d.state.Objects {
		objects[i] = manifest.Object{Unstructured: ref.Object()}
	}
	slices.SortStableFunc(objects, func(a, b manifest.Object) int { return applyOrder(b, a) })
	p := d.p
	p.linef("tearing down %s: %d objects", d.place, len(objects))
	if err := d.returnForeign(ctx); err != nil {
		return err
	}
	var stays []release.Ref
	var first error
	for _, o := range objects {
		kept, err := d.removeObject(ctx, o)
		switch {
		case err != nil && ctx.Err() != nil:
			return &fault.Error{Code: fault.Failed, Message: "the teardown was stopped before its end; start it again to remove what is left", Err: err}
		case err != nil:
			sentence := fault.New(fault.Failed, "%s could not be deleted: %s", o, d.r.Client.Explain(err))
			p.linef("%s", sentence)
			first = cmp.Or[error](first, sentence)
		case kept:
			stays = append(stays, release.RefOf(o.Unstructured))
		}
	}
	if first != nil {
		return first
	}
	d.state.Objects = stays
	if err := retry(ctx, d.r.Client, p, func() error { return d.place.Remove(ctx) }); err != nil {
		return fmt.Errorf("forget %s: %w", d.place, err)
	}
	return nil
}

// removeObject deletes an object of the environment with all that depends on it, or says that it stays.
func (d *deployment) removeObject(ctx context.Context, o manifest.Object) (kept bool, err error) {
	if utils.IsNamespace(o.Unstructured) { // its own comes last; others belong to more than one
		return false, nil
	}
	err = retry(ctx, d.r.Client, d.p, func() error {
		live, err := find(ctx, d.r.Client, o.Unstructured)
		switch {
		case meta.IsNoMatchError(err): // its definition is gone, and all objects with it
			return nil
		case err != nil:
			return err
		case live == nil || live.GetAnnotations()[OwnerAnnotation] != d.place.ID():
			return nil
		}
		wish := live.GetAnnotations()[PruneAnnotation]
		if kept = wish == "false" || wish != "true" && live.GetKind() == "CustomResourceDefinition"; kept {
			d.p.linef("%s: stays in the cluster", o)
			return nil
		}
		if err := remove(ctx, d.r.Client, live); err != nil {
			return err
		}
		d.p.linef("%s: deleted", o)
		if live.GetKind() == "StatefulSet" {
			return d.removeClaims(ctx, live)
		}
		return nil
	})
	return kept, err
}

// removeClaims deletes the claims that a StatefulSet made for its pods.
func (d *deployment) removeClaims(ctx context.Context, set *unstructured.Unstructured) error {
	templates, _, _ := unstructured.NestedSlice(set.Object, "spec", "volumeClaimTemplates")
	var names []string
	for _, one := range templates {
		if fields, ok := one.(map[string]any); ok {
			name, _, _ := unstructured.NestedString(fields, "metadata", "name")
			names = append(names, regexp.QuoteMeta(name))
		}
	}
	if len(names) == 0 {
		return nil
	}
	pattern, err := regexp.Compile(`^(?:` + strings.Join(names, "|") + `)-` + regexp.QuoteMeta(set.GetName()) + `-[0-9]+$`)
	if err != nil {
		return err
	}
	claims := d.r.Client.Core.CoreV1().PersistentVolumeClaims(set.GetNamespace())
	all, err := claims.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, claim := range all.Items {
		if !pattern.MatchString(claim.Name) {
			continue
		}
		if err := claims.Delete(ctx, claim.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		d.p.linef("persistentvolumeclaim/%s: deleted", claim.Name)
	}
	return nil
}

// dropNamespace deletes the namespace if it was made for this environment and nothing stays in it, and waits until it is gone.
func (d *deployment) dropNamespace(ctx context.Context, namespace *corev1.Namespace) error {
	if namespace.Annotations[ReviewAnnotation] != d.place.ID() {
		d.p.linef("%s is torn down", d.place)
		return nil
	}
	if i := slices.IndexFunc(d.state.Objects, func(ref release.Ref) bool { return ref.Namespace == d.place.Namespace }); i >= 0 {
		d.p.linef("namespace/%s: stays, because %s %s in it stays", namespace.Name, d.state.Objects[i].Kind, d.state.Objects[i].Name)
		return nil
	}
	ctx, cancel := context.WithDeadline(ctx, d.deadline)
	defer cancel()
	namespaces := d.r.Client.Core.CoreV1().Namespaces()
	err := retry(ctx, d.r.Client, d.p, func() error {
		err := namespaces.Delete(ctx, namespace.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &namespace.UID}})
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	for {
		live, err := d.namespace(ctx)
		if err != nil && ctx.Err() == nil {
			return err
		}
		if err == nil && (live == nil || live.UID != namespace.UID) {
			d.p.linef("namespace/%s: deleted", namespace.Name)
			d.p.linef("%s is torn down", d.place)
			return nil
		}
		if !pause(ctx) {
			reason := "something in it does not go"
			if live != nil {
				reason = cmp.Or(stuck(live), reason)
			}
			return fault.New(fault.Failed, "namespace/%s: is not gone within %s: %s", namespace.Name, d.timeout, reason)
		}
	}
}

// stuck says why a namespace does not go, as far as the cluster knows.
func stuck(namespace *corev1.Namespace) string {
	var reasons []string
	for _, c := range namespace.Status.Conditions {
		if c.Status == corev1.ConditionTrue {
			reasons = append(reasons, oneLine(c.Message))
		}
	}
	return strings.Join(reasons, "; ")
}
