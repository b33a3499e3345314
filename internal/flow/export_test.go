package flow

import (
	"context"

	"slipway/internal/ci"
)

// Expire gives up the jobs whose runner is silent, as Run does now and then.
func Expire(ctx context.Context, f *Flow) error { return f.expire(ctx) }

// TidyReviews looks after the review environments, as Run does now and then.
func TidyReviews(ctx context.Context, f *Flow) error { return f.tidyReviews(ctx) }

// Healing is for tests that want the same twice.
func (f *Flow) Healing(ctx context.Context, d ci.Drift) (ci.Run, error) { return f.healing(ctx, d) }
