// Package store defines what Slipway remembers: repos, runs and their jobs, secrets and tokens, and the tags and
// manifests of the registry.
//
// The interfaces are cut by role, so that each user asks for what it needs; [Store] is all of them, and sqlstore
// implements it on SQLite and PostgreSQL. The suite in storetest says what every implementation must hold to. Bulk bytes
// (logs, layers) are not here but in package blob.
//
// All methods may be called concurrently, and each is one transaction. Times are kept to the nanosecond and come back in
// UTC; one outside of the years 1678 to 2261 is refused.
package store

import (
	"context"
	"errors"
	"time"

	"slipway/internal/ci"
	"slipway/internal/plan"
)

// Errors that callers branch on.
var (
	// ErrNotFound says that what was asked for does not exist.
	ErrNotFound = errors.New("not found")
	// ErrExists says that what was to be made exists.
	ErrExists = errors.New("exists already")
	// ErrInUse says that something still needs what was to be removed.
	ErrInUse = errors.New("in use")
)

// Store is everything that Slipway remembers.
type Store interface {
	Repos
	Runs
	Queue
	Secrets
	Tokens
	Registry
	Releases
	Rollouts
	Environments
	Gates
	Reviews
	Previews
	Drifts
	// Close lets go of the database.
	Close() error
}

// Repos are the repositories that Slipway serves.
type Repos interface {
	// PutRepo inserts the repo, or updates the one of the same name, and sets its ID and Created: an update leaves the
	// time of creation as it was. If there is one whose name differs only by case, it says ErrExists.
	PutRepo(ctx context.Context, repo *ci.Repo) error
	// FindRepo returns the repo of that name, or ErrNotFound.
	FindRepo(ctx context.Context, name string) (ci.Repo, error)
	// FindImageOwner returns the repo that a repository of images belongs to, or ErrNotFound: the one whose [ci.ImageName] is
	// the [ci.ImageOwner] of the repository, however that is written.
	FindImageOwner(ctx context.Context, images string) (ci.Repo, error)
	// ListRepos returns all repos by name.
	ListRepos(ctx context.Context) ([]ci.Repo, error)
	// DeleteRepo removes the repo and its runs and secrets. Of a repo that does not exist it says ErrNotFound.
	DeleteRepo(ctx context.Context, name string) error
}

// Runs are the runs of all repos, with their plans, jobs and steps.
type Runs interface {
	// CreateRun stores a run without jobs and images, and sets its ID and Number. Numbers have no gaps. If the repo has a
	// run with the same, non-empty Event.Delivery and Event.Ref, it changes *run to that one, as FindRun returns it, and
	// returns ErrExists. Of a repo that does not exist it says ErrNotFound.
	CreateRun(ctx context.Context, run *ci.Run) error
	// FindRun returns a run with its jobs, steps and images, or ErrNotFound.
	FindRun(ctx context.Context, repo string, number int64) (ci.Run, error)
	// FindPlan returns the plan of a run, or ErrNotFound if it has none.
	FindPlan(ctx context.Context, runID int64) (plan.Plan, error)
	// ListRuns returns runs without jobs, newest first.
	ListRuns(ctx context.Context, filter RunFilter) ([]ci.Run, error)
	// UpdateRun loads a run with its jobs, steps and images, lets update change it, and stores what changed, all in one
	// transaction that no other UpdateRun or Claim of the run interleaves with. It returns the run as stored. Jobs, steps
	// and images may be added but not removed; the ID, repo, number, parent, event and creation time cannot change. A new
	// job has ID 0 and gets one; a job or step of Number 0 gets its position. Messages lose bytes that are not UTF-8. An
	// error of update rolls back and is returned as it is. update may be called more than once, when the database asks
	// for a transaction to be repeated, and must not call the store.
	UpdateRun(ctx context.Context, runID int64, update func(*Draft) error) (ci.Run, error)
}

// Draft is a run in the hands of UpdateRun.
type Draft struct {
	ci.Run
	// Plan, if update sets it, is stored as the run's plan. It is not loaded.
	Plan *plan.Plan
}

// Job returns the draft's job of that ID, or nil.
func (d *Draft) Job(id int64) *ci.Job {
	for i := range d.Jobs {
		if d.Jobs[i].ID == id {
			return &d.Jobs[i]
		}
	}
	return nil
}

// RunFilter chooses runs. Its zero value means the newest 50 of all repos.
type RunFilter struct {
	Repo string
	// Repos, unless it is nil, are the repos that they may be of.
	Repos []string
	// Numbers, if they are not empty, are those that the runs may have; 500 at most. Repo should be set, too.
	Numbers []int64
	// Before returns only runs with a smaller ID, for paging; 0 means from the newest.
	Before int64
	// Image, if it is not empty, returns only runs that pushed it: a reference as it was pushed, or a digest.
	Image string
	// Unfinished returns only runs that are not done, oldest included however many there are; Limit does not count then.
	Unfinished bool
	// Limit is at most 500; 0 means 50.
	Limit int
}

// Queue hands jobs to runners. The rows of jobs are the queue: a job is claimed by a lease on its row.
type Queue interface {
	// Claim leases the oldest pending job that claim fits, sets it Running and Started to claim.Now, and returns its run
	// (with that job among its Jobs) and the job's ID. What a job asks for is in the run's plan, under the job's name.
	// When there is none it returns ErrNotFound. Of two concurrent claims one gets the job.
	Claim(ctx context.Context, claim Claim) (run ci.Run, jobID int64, err error)
	// FindLease returns the run and the ID of the job that is Running under the lease whose token has that hash, or
	// ErrNotFound.
	FindLease(ctx context.Context, hash []byte) (run ci.Run, jobID int64, err error)
	// FindRunning returns the run of the job of that ID if the job is Running, or ErrNotFound.
	FindRunning(ctx context.Context, jobID int64) (ci.Run, error)
	// ExpiredLeases returns the running jobs whose lease ended before now.
	ExpiredLeases(ctx context.Context, now time.Time) ([]ci.Job, error)
}

// Claim is a runner's wish for a job.
type Claim struct {
	Runner string
	// OS, Arch and Labels are the runner's. A job fits when what it asks for is among them.
	OS, Arch string
	Labels   map[string]string
	Lease    ci.Lease
	Now      time.Time
}

// Secrets are the sealed secrets of repos. Names are matched without regard to case, and keep the case they were put in.
type Secrets interface {
	// PutSecret inserts the secret or replaces the one of that name. Of a repo that does not exist it says ErrNotFound.
	PutSecret(ctx context.Context, secret ci.Secret) error
	// ListSecrets returns the secrets of a repo by name, with their sealed values.
	ListSecrets(ctx context.Context, repo string) ([]ci.Secret, error)
	// DeleteSecret removes a secret, or says ErrNotFound.
	DeleteSecret(ctx context.Context, repo, name string) error
}

// Tokens let people and programs in.
type Tokens interface {
	// PutToken stores a token and sets its ID. Of a hash that is there already it says ErrExists.
	PutToken(ctx context.Context, token *ci.Token) error
	// FindToken returns the token whose text has that SHA-256, or ErrNotFound.
	FindToken(ctx context.Context, hash []byte) (ci.Token, error)
	// ListTokens returns all tokens, oldest first.
	ListTokens(ctx context.Context) ([]ci.Token, error)
	// DeleteToken removes a token, or says ErrNotFound.
	DeleteToken(ctx context.Context, id int64) error
}
