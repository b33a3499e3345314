// Package engine defines how a runner makes sandboxes and runs containers in them: [Engine] makes an [Env] for a job,
// and an Env starts a [Proc] for each step.
//
// Everything an engine makes is found again by the ids that it was given, so that a runner which died is succeeded by
// another that calls the same methods with the same ids and goes on. There are two implementations, oci (containers on
// this machine) and host (plain processes, for trusted repos); both pass the suite in enginetest.
package engine

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"

	"slipway/internal/plan"
)

// Engine makes the sandboxes of jobs. Its methods may be called concurrently.
type Engine interface {
	// Setup makes what the steps of a job share: workspace, volumes, network. Called again with the ID of a sandbox
	// that exists, also by another process, it returns that sandbox.
	Setup(ctx context.Context, spec Spec) (Env, error)
	// Sweep removes every sandbox whose ID keep does not hold, and everything that crashes left of sandboxes, and
	// returns the IDs of what it removed. A runner calls it once when it starts, before any Setup.
	Sweep(ctx context.Context, keep func(id string) bool) ([]string, error)
	// Close lets go of the engine's own resources. Sandboxes and steps are left as they are.
	Close() error
}

// Spec is what an engine needs to know of a job.
type Spec struct {
	// ID names the sandbox. It is unique on the machine and matches [a-z0-9][a-z0-9-]{0,47}.
	ID  string
	Job plan.Job
	// Auths are the credentials for pulling images.
	Auths []Auth
	// Trusted allows privileged containers, host mounts and what else [plan.Job.NeedsTrust] names.
	Trusted bool
}

var validID = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,47}$`)

// Validate reports what is wrong with s.
func (s Spec) Validate() error {
	if !validID.MatchString(s.ID) {
		return fmt.Errorf("sandbox id %q is not 1 to 48 lower-case letters, digits and dashes", s.ID)
	}
	if needs := s.Job.NeedsTrust(); needs != "" && !s.Trusted {
		return fmt.Errorf("%s, which only a trusted repo may have", needs)
	}
	return nil
}

// Auth is a login at a registry.
type Auth struct {
	// Host is the registry's host with its port if any: registry.example.com:5000, docker.io.
	Host     string
	Username string
	Password string
}

// Env is the sandbox of one job. Its methods may be called concurrently.
type Env interface {
	// Workspace returns the folder of this machine that the steps see as the job's workspace. Steps may put anything
	// into it, symbolic links to any place included: read it through [os.Root].
	Workspace() string
	// Start starts step and returns once its process runs. Called again for a step that was started, also by another
	// process, it returns a Proc of that step, and never starts it twice. out gets the step's output, stdout and stderr as
	// they come, from byte step.Offset on, until Wait returns; it is not called concurrently. The context bounds
	// what comes before the process starts, pulling the image included, but not the process: a start is not broken off
	// once it may have run. That the step could not be started is a [StartError].
	Start(ctx context.Context, step Step, out io.Writer) (Proc, error)
	// Close stops every step and removes all of the sandbox. It may be repeated.
	Close(ctx context.Context) error
}

// Step is a step of a job with everything resolved.
type Step struct {
	// Name is unique in the job.
	Name string
	Exec plan.Exec
	// Env holds secrets in the clear: it must reach the process and nothing else.
	Env map[string]string
	// Offset is the number of bytes of output that the caller has already.
	Offset int64
	// Progress, if not nil, gets lines about what is done before the step's process runs, such as pulling its image. They
	// are no part of the output and of its bytes. It is not called concurrently, nor after Start has returned.
	Progress io.Writer
	// Files are put into the step's file system before its process runs. What the image has at a path stays, and what is
	// mounted there hides it. An engine that has no file systems of steps puts them nowhere.
	Files []File
	// Local, if not nil, answers requests at [LocalAddress] in the network of the step, where nobody else reaches it, from
	// before its process runs until the Env or the Engine is closed; and again when Start finds the running step. Steps on
	// the network of this machine, and of an engine without networks, have none. It must bound what a request may take.
	Local http.Handler
}

// LocalAddress is where [Step.Local] answers. It is a loopback address: each network of steps has its own.
const LocalAddress = "127.0.0.1:27071"

// File is a file for a step, which everybody there may read.
type File struct {
	// Path is absolute.
	Path    string
	Content string
}

// Proc is a started step.
type Proc interface {
	// Wait waits for the step's end and for the last byte of its output. When ctx is done first, the step goes on and
	// Wait returns ctx's error. An error also says that there is no result because the step was killed from outside.
	// Wait is called once; a Proc that nobody waits for costs a goroutine until the Env or the Engine is closed.
	Wait(ctx context.Context) (Result, error)
	// Stop asks the step to end, by SIGTERM, and kills it after a grace of 10 seconds or when ctx is done. It returns
	// when the step has ended, and may be repeated.
	Stop(ctx context.Context) error
}

// Result is how a step ended.
type Result struct {
	// ExitCode is the code of the process, or 128 and the number of the signal that ended it.
	ExitCode int
	// OOM is true when the kernel killed a process of the step for want of memory.
	OOM bool
}

// StartError says that a step could not be started, and why, in one sentence for the step's log.
type StartError struct {
	Step string
	Err  error
}

// Error implements error.
func (e *StartError) Error() string { return fmt.Sprintf("start step %q: %v", e.Step, e.Err) }

// Unwrap returns the cause.
func (e *StartError) Unwrap() error { return e.Err }
