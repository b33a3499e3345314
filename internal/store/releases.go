package store

import (
	"context"

	"slipway/internal/ci"
)

// Releases are the deployments of runs, as their runners reported them.
type Releases interface {
	// PutRelease stores a release that has ended. One of the same repo, environment, namespace, number and start that is
	// there already stays as it is: releases never change, and a report may come twice. Of a repo that does not exist it
	// says ErrNotFound. The message loses bytes that are not UTF-8.
	PutRelease(ctx context.Context, release ci.Release) error
	// ListReleases returns releases, newest first.
	ListReleases(ctx context.Context, filter ReleaseFilter) ([]ci.Release, error)
	// NewestReleases returns the newest releases of each environment of all repos: of each status at most limit.
	NewestReleases(ctx context.Context, limit int) ([]ci.Release, error)
}

// ReleaseFilter chooses releases. Its zero value means the newest 50 of all repos.
type ReleaseFilter struct {
	// Repo, Environment and Namespace, if they are not empty, are those of the releases.
	Repo, Environment, Namespace string
	// Run, if it is not 0, is the number of the run that deployed; Repo should be set, too.
	Run int64
	// Limit is at most 500; 0 means 50.
	Limit int
}

// Rollouts are the pictures of the deployments of steps: the newest of each step.
type Rollouts interface {
	// PutRollout stores the picture of a step of the job of that ID, in place of the one before. Of a step that does not
	// exist it says ErrNotFound. JobNumber and StepNumber are not stored.
	PutRollout(ctx context.Context, jobID int64, step int, rollout ci.Rollout) error
	// ListRollouts returns the pictures of a run, by job and step.
	ListRollouts(ctx context.Context, runID int64) ([]ci.Rollout, error)
}
