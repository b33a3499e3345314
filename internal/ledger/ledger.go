// Package ledger reads the releases that the server keeps: their rendered manifests, for people, and by what two of them
// differ. [Ledger] is for the API and for the pages; package flow writes what it reads.
package ledger

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/flow"
	"slipway/internal/release"
	"slipway/internal/rollout"
	"slipway/internal/store"
)

// Ledger reads releases. It may be used concurrently.
type Ledger struct {
	Flow  *flow.Flow
	Store store.Releases
}

// Documents returns the manifests of a release, with the values of Secrets masked. What else in them is secret, a
// pipeline may have put there: they are for who may change the repo.
func (l Ledger) Documents(ctx context.Context, r ci.Release) ([]release.Document, error) {
	objects, err := l.objects(ctx, r)
	if err != nil {
		return nil, err
	}
	return release.Documents(objects)
}

// Before returns the good release of the same environment that r took the place of, or nil if there is none.
func (l Ledger) Before(ctx context.Context, r ci.Release) (*ci.Release, error) {
	for page := (store.ReleaseFilter{Repo: r.Repo, Environment: r.Environment, Namespace: r.Namespace, Before: r.ID}); ; {
		found, err := l.Store.ListReleases(ctx, page)
		if err != nil || len(found) == 0 {
			return nil, err
		}
		for _, earlier := range found {
			if earlier.Status == ci.Success {
				return &earlier, nil
			}
			page.Before = earlier.ID
		}
	}
}

// Diff returns what changed from one release to another one of the same environment, and how many objects changed that
// are too much to be told. From may be nil: then all is new. Values of Secrets are masked; see [Ledger.Documents].
func (l Ledger) Diff(ctx context.Context, from *ci.Release, to ci.Release) (differences []ci.Difference, omitted int, err error) {
	var before []*unstructured.Unstructured
	if from != nil {
		if from.Environment != to.Environment || from.Namespace != to.Namespace || from.Repo != to.Repo {
			return nil, 0, fault.New(fault.Invalid, "the two releases are of different environments: %s in %s, and %s in %s", from.Environment, from.Namespace, to.Environment, to.Namespace)
		}
		if before, err = l.objects(ctx, *from); err != nil {
			return nil, 0, err
		}
	}
	after, err := l.objects(ctx, to)
	if err != nil {
		return nil, 0, err
	}
	differences, omitted = rollout.Between(to.Namespace, before, after)
	return differences, omitted, nil
}

func (l Ledger) objects(ctx context.Context, r ci.Release) ([]*unstructured.Unstructured, error) {
	data, err := l.Flow.Manifests(ctx, r)
	if err != nil {
		return nil, err
	}
	objects, err := release.Decode(data)
	if err != nil {
		return nil, fmt.Errorf("release %d of %s: %w", r.Number, r.Repo, err)
	}
	return objects, nil
}

// Check returns an error if data are not the encoded manifests of a release.
func Check(data []byte) error {
	_, err := release.Decode(data)
	return err
}
