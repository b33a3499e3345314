package rollout

import (
	"github.com/fluxcd/pkg/ssa/utils"

	"slipway/internal/fault"
)

// keepOut returns an error if something of r would go to a namespace that another environment of the repo has for itself: what
// waits at that one's gate must not come in by this one's.
func (s Step) keepOut(r Request) error {
	cluster := "" // the runner's own
	if len(s.Kubeconfig) > 0 {
		cluster = r.Client.Host
	}
	owner := func(namespace string) string {
		for _, reserved := range s.Reserved {
			if reserved.Cluster == cluster && reserved.Namespace == namespace {
				return reserved.Environment
			}
		}
		return ""
	}
	place := r.place()
	if other := owner(place.Namespace); other != "" {
		return fault.New(fault.Forbidden, "the namespace %s belongs to the environment %s of this repo; choose another one for %s", place.Namespace, other, place.Environment)
	}
	for _, o := range r.Objects {
		namespace := o.GetNamespace()
		if utils.IsNamespace(o.Unstructured) {
			namespace = o.GetName()
		}
		if other := owner(namespace); other != "" {
			return fault.New(fault.Forbidden, "%s: %s is for the namespace %s, which belongs to the environment %s of this repo; deploy it there", o.Origin, o, namespace, other)
		}
	}
	return nil
}
