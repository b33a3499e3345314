package release

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"slipway/internal/ci"
	"slipway/internal/kube"
)

// List returns the releases of all environments of a namespace, or of the whole cluster if namespace is empty, without their
// manifests, by place and the newest first. They are those that the environments could go back to.
func List(ctx context.Context, c *kube.Client, namespace string) ([]ci.Release, error) {
	list := &metav1.PartialObjectMetadataList{}
	list.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "SecretList"})
	if err := c.Objects.List(ctx, list, client.InNamespace(namespace), client.MatchingLabels{kindLabel: "release"}); err != nil {
		return nil, err
	}
	var releases []ci.Release
	for _, item := range list.Items {
		var r ci.Release
		if json.Unmarshal([]byte(item.Annotations[headAnnotation]), &r) == nil && r.Number > 0 {
			releases = append(releases, r)
		}
	}
	slices.SortFunc(releases, func(a, b ci.Release) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Environment, b.Environment),
			strings.Compare(a.Repo, b.Repo), cmp.Compare(b.Number, a.Number))
	})
	return releases, nil
}
