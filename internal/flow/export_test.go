package flow

import "context"

// Expire gives up the jobs whose runner is silent, as Run does now and then.
func Expire(ctx context.Context, f *Flow) error { return f.expire(ctx) }

// TidyReviews looks after the review environments, as Run does now and then.
func TidyReviews(ctx context.Context, f *Flow) error { return f.tidyReviews(ctx) }
