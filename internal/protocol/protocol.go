// Package protocol is what a runner and the server say to each other: claim a job, renew its lease, append its events,
// finish it.
//
// [Server] is the server's side as a runner sees it. Package flow implements it; [Client] speaks it over HTTP to the
// handler that [Handler] makes of it. `slipway exec` implements it on a terminal. So a runner is the same program next
// to the server, across the network, and on a laptop.
//
// Every call may be repeated: events carry a sequence number, and output carries its offset, so that what the server has
// already is not stored twice.
package protocol

import (
	"context"
	"errors"
	"time"

	"slipway/internal/ci"
	"slipway/internal/engine"
	"slipway/internal/plan"
)

// ErrLeaseLost says that the job is no longer the runner's: it was finished, canceled for good, or given up. The runner
// removes what it has of the job.
var ErrLeaseLost = errors.New("the job's lease is lost")

// Server is what a runner needs of a server.
type Server interface {
	Gatekeeper
	// Claim waits up to the server's poll time for a job that fits, and returns nil when there is none.
	Claim(ctx context.Context, claim Claim) (*Assignment, error)
	// Resume returns the assignment of a job that the runner holds already, with its secrets: a runner that was restarted
	// has them nowhere else.
	Resume(ctx context.Context, lease string) (*Assignment, error)
	// Renew extends the lease, and says whether somebody wants the job to stop.
	Renew(ctx context.Context, lease string) (Renewal, error)
	// Append stores events, in order. Those with a Seq that was stored before are skipped.
	Append(ctx context.Context, lease string, events []Event) error
	// Finish ends the job and its lease. Every event must have been appended before.
	Finish(ctx context.Context, lease string, outcome Outcome) error
}

// Gatekeeper lets deploy steps through to their environments.
type Gatekeeper interface {
	// Permit asks whether a deploy step of the job, by its number, may change its environment now. It is answered at once if it
	// may, if it may not, or if the reason why it must wait is another than known, which the runner heard last; else within the
	// server's poll time. What the step deploys to, and for whom, the server knows itself.
	Permit(ctx context.Context, lease string, step int, known string) (Permit, error)
}

// Permit is the answer to a deploy step.
type Permit struct {
	// State is how the step stands: it may go on, must wait, or must not deploy.
	State ci.GateState `json:"state"`
	// Reason says why it waits or must not, in one sentence.
	Reason string `json:"reason,omitempty"`
	// Environment is the name under which it is deployed; with Namespace, Policy and URL as the environment's rules and the step
	// together say. An empty Namespace leaves it to the step.
	Environment string    `json:"environment,omitempty"`
	Namespace   string    `json:"namespace,omitempty"`
	Policy      ci.Policy `json:"policy,omitzero"`
	URL         string    `json:"url,omitempty"`
	// Kubeconfig is that of the environment; empty leaves it to the step.
	Kubeconfig string `json:"kubeconfig,omitempty"`
	// Secrets are those that Policy names, as far as they exist and the run may have them, by these names.
	Secrets map[string]string `json:"secrets,omitempty"`
	// Reserved are the namespaces of the repo's other environments, which the step must leave alone.
	Reserved []ci.Reserved `json:"reserved,omitempty"`
	// Review is true for a review environment: its namespace is made with it and removed with it.
	Review bool `json:"review,omitempty"`
}

// Claim describes a runner that wants a job.
type Claim struct {
	// Lease is a token that the runner made up, of at least [MinLease] random characters. A claim that is repeated with
	// the same lease gives the job that it gave before, so that none is lost with an answer.
	Lease  string            `json:"lease"`
	Runner string            `json:"runner"`
	OS     string            `json:"os"`
	Arch   string            `json:"arch"`
	Labels map[string]string `json:"labels,omitempty"`
}

// Assignment is a job with all that its runner must know.
type Assignment struct {
	// Lease is the token that the runner shows from now on.
	Lease string `json:"lease"`
	JobID int64  `json:"job_id"`
	// Repo and Run name the run for people; Link is its page.
	Repo string `json:"repo"`
	Run  int64  `json:"run"`
	Link string `json:"link,omitempty"`
	// Commit is the full hash of what runs, By the login of who caused it.
	Commit string `json:"commit,omitempty"`
	By     string `json:"by,omitempty"`
	// Author is who wrote the commit, Title the first line of its message.
	Author  string `json:"author,omitempty"`
	Title   string `json:"title,omitempty"`
	Trusted bool   `json:"trusted,omitempty"`
	// Fork is true for the pull request of a fork: strangers wrote what runs.
	Fork bool `json:"fork,omitempty"`

	Job plan.Job `json:"job"`
	// Secrets are those of the job's secrets that exist and that this run may have, by the names that the plan uses.
	Secrets map[string]string `json:"secrets,omitempty"`
	// Denied are the names of secrets that exist, but not for this run: it comes from a pull request.
	Denied []string `json:"denied,omitempty"`
	Clone  Clone    `json:"clone"`
	// Auths are logins at registries, the server's own with the job's token among them.
	Auths []engine.Auth `json:"auths,omitempty"`
	// Registry is the host of the server's own registry, and Images are what the run has pushed so far.
	Registry string     `json:"registry,omitempty"`
	Images   []ci.Image `json:"images,omitempty"`
	// Mirrors are the other registries whose images the server's own has, such as docker.io. It is asked for them first.
	Mirrors []string `json:"mirrors,omitempty"`
	// JobsFailed names the run's jobs that have failed so far.
	JobsFailed []string `json:"jobs_failed,omitempty"`
	// Started is when the job was claimed first; Deadline is when it must be over.
	Started  time.Time `json:"started"`
	Deadline time.Time `json:"deadline"`
	// CommitTime is the commit's own time, for reproducible images.
	CommitTime time.Time `json:"commit_time,omitzero"`
}

// SecretValues returns every value of the assignment that no log may show.
func (a *Assignment) SecretValues() []string {
	values := []string{a.Lease, a.Clone.Password}
	for _, value := range a.Secrets {
		values = append(values, value)
	}
	for _, auth := range a.Auths {
		values = append(values, auth.Password)
	}
	return values
}

// Clone says where the repo is.
type Clone struct {
	URL      string `json:"url"`
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
	// Steps is true when the job's steps may see the login, for git commands of their own.
	Steps bool `json:"steps,omitempty"`
}

// Renewal is the answer to Renew.
type Renewal struct {
	// Until is when the lease ends if it is not renewed again.
	Until time.Time `json:"until"`
	// Cancel is true when the job shall stop.
	Cancel bool `json:"cancel,omitempty"`
}

// Event is something that happened in a job. Exactly one of the pointer fields is set.
type Event struct {
	// Seq counts the events of a job from 1, without gaps.
	Seq     int64      `json:"seq"`
	Time    time.Time  `json:"time"`
	Start   *StepStart `json:"start,omitempty"`
	Log     *Log       `json:"log,omitempty"`
	End     *StepEnd   `json:"end,omitempty"`
	Image   *Image     `json:"image,omitempty"`
	Release *Release   `json:"release,omitempty"`
	Rollout *Rollout   `json:"rollout,omitempty"`
	Preview *Preview   `json:"preview,omitempty"`
}

// Image says that a step pushed an image.
type Image struct {
	Step int `json:"step"`
	ci.Image
}

// Release says that a deployment of a step has ended. Whose it is (Repo, Run, Step, Commit, By, Link) the server knows itself.
type Release struct {
	Step    int        `json:"step"`
	Release ci.Release `json:"release"`
	// Manifests are the rendered manifests as package release encodes them, of at most [MaxManifests] bytes. They may
	// hold secrets: the server keeps them sealed. Empty if there was nothing to keep.
	Manifests []byte `json:"manifests,omitempty"`
}

// Preview says what a deployment would change, as a step found out. The server replaces what the step said before.
type Preview struct {
	Step    int        `json:"step"`
	Preview ci.Preview `json:"preview"`
}

// Rollout is how far the deployment of a step is. A later one replaces it.
type Rollout struct {
	Step    int        `json:"step"`
	Rollout ci.Rollout `json:"rollout"`
}

// StepStart says that a step has begun.
type StepStart struct {
	Step int `json:"step"`
}

// Log is a piece of a step's output, with secrets masked already.
type Log struct {
	Step int `json:"step"`
	// Offset is where Data begins in the step's masked output.
	Offset int64  `json:"offset"`
	Data   []byte `json:"data"`
	// Raw is how many bytes of the step's own output, before masking, this and all pieces before it stand for. It lets a
	// restarted runner go on at the right place. Server and viewers ignore it.
	Raw int64 `json:"raw"`
}

// StepEnd says how a step ended.
type StepEnd struct {
	Step     int       `json:"step"`
	Status   ci.Status `json:"status"`
	ExitCode int       `json:"exit_code,omitempty"`
	Message  string    `json:"message,omitempty"`
}

// Outcome is how a job ended. Steps that never ended are set to match.
type Outcome struct {
	Status  ci.Status `json:"status"`
	Message string    `json:"message,omitempty"`
	Time    time.Time `json:"time"`
}

// Bounds of the messages. A runner splits what is larger.
const (
	MaxEvents  = 1000     // in one Append
	MaxLogData = 64 << 10 // bytes of one Log
	MaxRollout = 1 << 20  // bytes of one Rollout, as JSON
	MaxBody    = 16 << 20 // bytes of one request or answer
	MinLease   = 26       // characters of a lease's token, for 128 random bits in base32

	MaxManifests = 1 << 20 // bytes of the manifests of one Release; a Secret of a cluster holds no more
	MaxPreview   = 1 << 20 // bytes of one Preview as JSON
)
