package rollout

import (
	"github.com/fluxcd/pkg/ssa/utils"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"slipway/internal/fault"
	"slipway/internal/manifest"
)

// OwnerAnnotation says, on each object, to which environment it belongs: the namespace that has the environment's
// records, and its name. Namespaces are shared, and have none.
const OwnerAnnotation = "slipway/owner"

// AdoptAnnotation set to "true" in the manifest of an object takes the object over from whoever has it.
const AdoptAnnotation = "slipway/adopt"

// others are the marks by which other tools know what is theirs.
var others = []struct {
	tool       string
	annotation string
	label      string
}{
	{tool: "the Helm release", annotation: "meta.helm.sh/release-name"},
	{tool: "the Argo CD application", annotation: "argocd.argoproj.io/tracking-id"},
	{tool: "the Flux kustomization", label: "kustomize.toolkit.fluxcd.io/name"},
	{tool: "the Flux release", label: "helm.toolkit.fluxcd.io/name"},
}

// foreign returns an error if the object o, that is in the cluster as live, belongs to somebody else.
func foreign(r Request, o manifest.Object, live *unstructured.Unstructured) error {
	if live == nil || o.GetAnnotations()[AdoptAnnotation] == "true" || utils.IsNamespace(o.Unstructured) {
		return nil
	}
	const hint = "remove it there first, give this one another name, or set the annotation %s to \"true\" in its manifest to take it over"
	own := ""
	if r.Environment != "" {
		own = r.place().ID()
	}
	if owner := live.GetAnnotations()[OwnerAnnotation]; owner != "" {
		if owner == own {
			return nil
		}
		return fault.New(fault.Conflict, "%s: %s belongs to the environment %s; "+hint, o.Origin, o, oneLine(owner), AdoptAnnotation)
	}
	for _, other := range others {
		mark := live.GetLabels()[other.label]
		if other.annotation != "" {
			mark = live.GetAnnotations()[other.annotation]
		}
		if mark != "" {
			return fault.New(fault.Conflict, "%s: %s belongs to %s %s; "+hint, o.Origin, o, other.tool, oneLine(mark), AdoptAnnotation)
		}
	}
	return nil
}
