package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"slipway/internal/kube"
	"slipway/internal/manifest"
	"slipway/internal/release"
)

// ImageUse is an image that somebody in a cluster needs.
type ImageUse struct {
	// Image is a reference with a tag or a digest, as it is written there or as the node says what it runs; or a digest alone,
	// which may be that of an image's configuration.
	Image string
	// Reason says who needs it and how, such as "pod web-1 of the namespace shop runs it".
	Reason string
}

// workloads are the kinds whose pods may be made at any time. ReplicaSets are asked also below others: a Deployment's earlier
// ones are what kubectl rollout undo goes back to, and those of what is not known here, such as a Rollout, are all that
// says what that would run.
var workloads = []schema.GroupVersionKind{
	{Group: "apps", Version: "v1", Kind: "ReplicaSet"},
	{Group: "apps", Version: "v1", Kind: "Deployment"},
	{Group: "apps", Version: "v1", Kind: "StatefulSet"},
	{Group: "apps", Version: "v1", Kind: "DaemonSet"},
	{Group: "batch", Version: "v1", Kind: "Job"},
	{Group: "batch", Version: "v1", Kind: "CronJob"},
	{Version: "v1", Kind: "ReplicationController"},
	{Version: "v1", Kind: "Pod"},
}

// page is how many objects are asked for at once, so that a large cluster does not have to fit into memory.
const page = 250

// ImagesInUse returns the images that the pods of a cluster run, that its workloads would run, and that the releases have
// which its environments could go back to, each once. Of an account that may not look at the whole cluster, the namespaces
// are asked that are given. What cannot be asked is an error: an image that is missing here may be one that is needed.
func ImagesInUse(ctx context.Context, c *kube.Client, namespaces []string) ([]ImageUse, error) {
	uses := &imageUses{reasons: map[string]string{}}
	err := uses.collect(ctx, c, metav1.NamespaceAll)
	if apierrors.IsForbidden(err) && len(namespaces) > 0 {
		err = nil
		for _, namespace := range namespaces {
			err = errors.Join(err, uses.collect(ctx, c, namespace))
		}
	}
	if err != nil {
		return nil, c.Explain(err)
	}
	return uses.all, nil
}

// imageUses collects who needs an image; who was found first is enough.
type imageUses struct {
	all     []ImageUse
	reasons map[string]string
}

func (u *imageUses) add(image, format string, args ...any) {
	if image == "" || u.reasons[image] != "" {
		return
	}
	u.reasons[image] = fmt.Sprintf(format, args...)
	u.all = append(u.all, ImageUse{image, u.reasons[image]})
}

func (u *imageUses) collect(ctx context.Context, c *kube.Client, namespace string) error {
	for _, kind := range slices.Backward(workloads) { // pods first: who runs an image is the best reason, and an old revision the last
		if err := u.workloads(ctx, c, kind, namespace); err != nil {
			return fmt.Errorf("list %ss: %w", strings.ToLower(kind.Kind), err)
		}
	}
	releases, err := release.List(ctx, c, namespace)
	if err != nil {
		return fmt.Errorf("list releases: %w", err)
	}
	for _, r := range releases {
		for _, image := range r.Images {
			u.add(image, "%s of the namespace %s can go back to release %d", r.Environment, r.Namespace, r.Number)
		}
	}
	return nil
}

// workloads adds the images of the objects of one kind.
func (u *imageUses) workloads(ctx context.Context, c *kube.Client, kind schema.GroupVersionKind, namespace string) error {
	list := &unstructured.UnstructuredList{}
	for next := ""; ; {
		list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
		if err := c.Objects.List(ctx, list, client.InNamespace(namespace), client.Limit(page), client.Continue(next)); err != nil {
			return err
		}
		for i := range list.Items {
			u.object(&list.Items[i])
		}
		if next = list.GetContinue(); next == "" {
			return nil
		}
		list = &unstructured.UnstructuredList{}
	}
}

func (u *imageUses) object(o *unstructured.Unstructured) {
	verb := "has it"
	if o.GetKind() == "Pod" {
		verb = "runs it"
	}
	for _, image := range manifest.ImagesOf([]manifest.Object{{Unstructured: o}}) {
		u.add(image, "%s of the namespace %s %s", manifest.Name(o), o.GetNamespace(), verb)
	}
	for _, list := range []string{"initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"} {
		statuses, _, _ := unstructured.NestedSlice(o.Object, "status", list)
		for _, s := range statuses {
			m, _ := s.(map[string]any)
			image, _ := m["imageID"].(string)
			// Docker's shim puts its name first, and of an image that came without a digest has that of its configuration.
			image = strings.TrimPrefix(strings.TrimPrefix(image, "docker-pullable://"), "docker://")
			u.add(image, "%s of the namespace %s runs it", manifest.Name(o), o.GetNamespace())
		}
	}
}
