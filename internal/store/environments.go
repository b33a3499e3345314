package store

import (
	"context"

	"slipway/internal/ci"
)

// Environments are the places that repos deploy to, with their rules.
type Environments interface {
	// PutEnvironment inserts the environment, or replaces the one of that name but for its time of creation. Of a repo that
	// does not exist it says ErrNotFound.
	PutEnvironment(ctx context.Context, environment ci.Environment) error
	// ListEnvironments returns the environments of a repo, or of all repos if repo is empty, by repo, position and name.
	ListEnvironments(ctx context.Context, repo string) ([]ci.Environment, error)
	// DeleteEnvironment removes an environment, or says ErrNotFound; ErrInUse if there are review environments of it.
	DeleteEnvironment(ctx context.Context, repo, name string) error
}

// Gates are what deploy steps come to before they may change an environment.
type Gates interface {
	// UpdateGate loads the gate of a step, lets update change it, and stores it, in one transaction that no other UpdateGate of
	// the step interleaves with. It returns the gate as stored. One that is not there yet is made: update finds State empty. An
	// error of update rolls back and is returned as it is. update may be called more than once, and must not call the store.
	// Of a run that does not exist it says ErrNotFound.
	UpdateGate(ctx context.Context, runID int64, job, step int, update func(*ci.Gate) error) (ci.Gate, error)
	// ListGates returns gates, those of the newest run first.
	ListGates(ctx context.Context, filter GateFilter) ([]ci.Gate, error)
}

// GateFilter chooses gates. Its zero value means the newest 50 of all repos.
type GateFilter struct {
	// Repo and Environment, if they are not empty, are those of the gates.
	Repo, Environment string
	// Run, if it is not 0, is the number of the run; Repo should be set, too.
	Run int64
	// Waiting leaves out gates that are decided, and those of runs that are over.
	Waiting bool
	// Open leaves out gates of runs that are over.
	Open bool
	// Limit is at most 500; 0 means 50.
	Limit int
}

// Reviews are the review environments that exist.
type Reviews interface {
	// UpdateReview loads the review environment of that name, lets update change it, and stores it, in one transaction that no
	// other UpdateReview of it interleaves with. One that is not there yet is made: update finds Created zero. If update
	// returns ErrNotFound the row is removed, with which its releases count as torn down, or not made, and UpdateReview returns
	// nil; any other error rolls back and is returned as it is. update may be called more than once, and must not call the
	// store. Of a repo that does not exist it says ErrNotFound.
	UpdateReview(ctx context.Context, repo, name string, update func(*ci.Review) error) error
	// ListReviews returns the review environments of a repo, or of all repos if repo is empty, by repo and name.
	ListReviews(ctx context.Context, repo string) ([]ci.Review, error)
}
