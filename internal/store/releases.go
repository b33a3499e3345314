package store

import (
	"context"

	"slipway/internal/ci"
)

// Releases are the deployments of runs, as their runners reported them.
type Releases interface {
	// PutRelease stores a release that has ended, and its sealed manifests unless they are empty. One of the same repo,
	// environment, namespace, number and start that is there already stays as it is: releases never change, and a report
	// may come twice. Manifests that it lacks are added. Of a repo that does not exist it says ErrNotFound. Texts lose
	// bytes that are not UTF-8. The ID is the store's.
	PutRelease(ctx context.Context, release ci.Release, manifests []byte) error
	// FindRelease returns a release of a repo by its ID, or ErrNotFound.
	FindRelease(ctx context.Context, repo string, id int64) (ci.Release, error)
	// FindManifests returns the sealed manifests of a release, or ErrNotFound if there are none.
	FindManifests(ctx context.Context, id int64) ([]byte, error)
	// ListReleases returns releases by their start, newest first.
	ListReleases(ctx context.Context, filter ReleaseFilter) ([]ci.Release, error)
	// NewestReleases returns the newest releases of each environment, newest first. Those of review environments from before they
	// were torn down are left out.
	NewestReleases(ctx context.Context, filter NewestFilter) ([]ci.Release, error)
}

// NewestFilter chooses the newest releases of environments.
type NewestFilter struct {
	// Repo, if it is not empty, is that of the environments.
	Repo string
	// Each is how many releases of each status an environment has at most.
	Each int
}

// ReleaseFilter chooses releases. Its zero value means the newest 50 of all repos.
type ReleaseFilter struct {
	// Repo, Environment and Namespace, if they are not empty, are those of the releases.
	Repo, Environment, Namespace string
	// Repos, unless it is nil, are the repos that they may be of.
	Repos []string
	// Run, if it is not 0, is the number of the run that deployed; Repo should be set, too.
	Run int64
	// Image, if it is not empty, is one that the releases use: a whole reference, or a digest.
	Image string
	// Before, if it is not 0, is the ID of a release: only those that started before it are returned, for paging.
	Before int64
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

// Previews are what deployments would change, as steps of runs found out.
type Previews interface {
	// PutPreview stores a preview in the place of the one of the same run, job and step. Of a run that does not exist it
	// says ErrNotFound.
	PutPreview(ctx context.Context, preview ci.Preview) error
	// ListPreviews returns the previews of a run by job and step.
	ListPreviews(ctx context.Context, repo string, run int64) ([]ci.Preview, error)
}
