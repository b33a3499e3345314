package release

import (
	"cmp"
	"context"
	"fmt"
	"time"
)

// Changing says in a few words who changes p right now, or "" if nobody does. Clocks may differ: it is asked by the
// cluster's records, and a holder that has not been heard of for two minutes counts as gone.
func (p Place) Changing(ctx context.Context) (string, error) {
	lease, err := p.lease(ctx)
	if err != nil || lease == nil || holderOf(lease) == "" {
		return "", err
	}
	if renewed := lease.Spec.RenewTime; renewed == nil || time.Since(renewed.Time) > 4*lockDuration {
		return "", nil
	}
	return cmp.Or(lease.Annotations[reasonAnnotation], "held by "+holderOf(lease)), nil
}

// Standing says in a sentence why the environment is not, or not for sure, what its release that serves says: it is being
// changed, it is locked, or there is no such release. It returns "" if all is well.
func (s State) Standing() string {
	switch {
	case s.Locked != "":
		return "the environment is locked: " + s.Locked
	case s.Pending:
		return fmt.Sprintf("release %d is being rolled out", s.Latest.Number)
	case s.Current == 0 && s.Last == 0:
		return "nothing was deployed there"
	case s.Current == 0:
		return "no release was good yet"
	}
	return ""
}

// StateRef names the Secret that holds the state of p. It changes with each release.
func (p Place) StateRef() Ref {
	return Ref{Version: "v1", Kind: "Secret", Namespace: p.Namespace, Name: p.stateName()}
}
