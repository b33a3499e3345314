package store

import (
	"context"

	"slipway/internal/ci"
)

// Drifts say how environments differ from what was deployed to them. Each is named by its Cluster, Namespace, Environment
// and Repo.
type Drifts interface {
	// PutDrift stores what is known of an environment in place of what was known before.
	PutDrift(ctx context.Context, drift ci.Drift) error
	// ListDrifts returns what is known of the environments of a repo, or of all if repo is empty, by namespace, environment,
	// repo and cluster.
	ListDrifts(ctx context.Context, repo string) ([]ci.Drift, error)
	// DeleteDrift forgets an environment, of which only the name counts. It need not exist.
	DeleteDrift(ctx context.Context, drift ci.Drift) error
}
