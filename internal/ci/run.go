package ci

import "time"

// Status is the state of a run, a job or a step.
type Status string

// The statuses. They move from Waiting to Pending to Running to one of the others, and never back.
const (
	Waiting  Status = "waiting"  // a job that others must finish before
	Pending  Status = "pending"  // may start: a run without a plan yet, a job without a runner yet
	Running  Status = "running"  // a runner works on it
	Success  Status = "success"  // done, and all was well
	Failure  Status = "failure"  // a step ended with a non-zero code
	Error    Status = "error"    // it could not be carried out: no image, no cluster, a wrong file
	Canceled Status = "canceled" // somebody stopped it, or a timeout did
	Skipped  Status = "skipped"  // its conditions did not hold
)

// Done reports whether s is final.
func (s Status) Done() bool { return s != Waiting && s != Pending && s != Running && s != "" }

// Failed reports whether s is final and not good.
func (s Status) Failed() bool { return s == Failure || s == Error || s == Canceled }

// Run is one execution of a plan. Its number counts from 1 within its repo.
type Run struct {
	ID     int64  `json:"id"`
	Repo   string `json:"repo"`
	Number int64  `json:"number"`
	// Parent is the number of the run that this one repeats, or 0.
	Parent int64  `json:"parent,omitempty"`
	Event  Event  `json:"event"`
	Status Status `json:"status"`
	// Message says in one sentence why the run could not start or ended as it did; empty when there is nothing to say.
	Message string `json:"message,omitempty"`
	// Warnings are about the pipeline file, each "file:line:column: message".
	Warnings []string  `json:"warnings,omitempty"`
	Created  time.Time `json:"created"`
	Started  time.Time `json:"started,omitzero"`
	Finished time.Time `json:"finished,omitzero"`
	Jobs     []Job     `json:"jobs,omitempty"`
	// Images are what the run pushed, in order.
	Images []Image `json:"images,omitempty"`
}

// Job is one job of a run's plan, and how far it is. Its number counts from 1 within its run.
type Job struct {
	ID       int64     `json:"id"`
	RunID    int64     `json:"run_id"`
	Number   int       `json:"number"`
	Name     string    `json:"name"`
	Needs    []string  `json:"needs,omitempty"`
	Status   Status    `json:"status"`
	Message  string    `json:"message,omitempty"`
	Runner   string    `json:"runner,omitempty"`
	Started  time.Time `json:"started,omitzero"`
	Finished time.Time `json:"finished,omitzero"`
	Steps    []Step    `json:"steps,omitempty"`
	// Cancel is true when somebody asked a running job to stop.
	Cancel bool `json:"cancel,omitempty"`
	// Lease is the claim of the runner that has the job.
	Lease Lease `json:"-"`
}

// Lease is a runner's claim of a job. It ends at Until unless it is renewed; a runner that cannot show its token has
// lost the job.
type Lease struct {
	// Hash is the SHA-256 of the lease's token.
	Hash  []byte
	Until time.Time
	// Seq is the number of the last event of the job that was stored.
	Seq int64
}

// Step is one step of a job, and how far it is. Its number counts from 1 within its job.
type Step struct {
	Number   int       `json:"number"`
	Name     string    `json:"name"`
	Kind     string    `json:"kind"`
	Image    string    `json:"image,omitempty"`
	Needs    []string  `json:"needs,omitempty"`
	Detach   bool      `json:"detach,omitempty"`
	Status   Status    `json:"status"`
	ExitCode int       `json:"exit_code,omitempty"`
	Message  string    `json:"message,omitempty"`
	Started  time.Time `json:"started,omitzero"`
	Finished time.Time `json:"finished,omitzero"`
}

// Image is an image that a run pushed.
type Image struct {
	// Ref is registry/repository:tag, Digest is sha256:...
	Ref    string `json:"ref"`
	Digest string `json:"digest"`
}
