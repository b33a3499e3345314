package plan

import (
	"bytes"
	"encoding/json"
	"fmt"

	"slipway/internal/ci"
)

// Version is the version of the plan's JSON form that this package writes.
const Version = 1

// Plan is a pipeline file compiled for one event.
type Plan struct {
	Version int   `json:"version"`
	Jobs    []Job `json:"jobs"`
}

// Outcome is how a job or step stands when the next one is chosen.
type Outcome string

// The outcomes that conditions speak of.
const (
	Success Outcome = "success"
	Failure Outcome = "failure"
)

// Job is what runs together in one sandbox: one workspace, one network, one set of volumes.
type Job struct {
	Name string `json:"name"`
	// Needs names the jobs that must be done before this one starts.
	Needs []string `json:"needs,omitempty"`
	// On lists the outcomes of the needed jobs, taken together, under which the job runs; empty means success only.
	On []Outcome `json:"on,omitempty"`
	// OS and Arch are GOOS and GOARCH of the runner that may claim the job; empty means any.
	OS   string `json:"os,omitempty"`
	Arch string `json:"arch,omitempty"`
	// Labels must all be among the labels of the runner that claims the job.
	Labels map[string]string `json:"labels,omitempty"`
	// Timeout bounds the job in seconds from claim to end; 0 means the repo's limit.
	Timeout int64 `json:"timeout,omitempty"`
	// Network says how the containers see each other.
	Network Network `json:"network,omitempty"`
	// Workspace is the folder that all containers of the job share, as an absolute path inside them.
	Workspace string `json:"workspace"`
	// Checkout is where in the workspace the commit is checked out, as a relative path; empty means the workspace itself.
	// The paths of built-in steps are relative to it. It differs where a pipeline shares more than its source between
	// steps, as a GOPATH.
	Checkout string   `json:"checkout,omitempty"`
	Volumes  []Volume `json:"volumes,omitempty"`
	// Env is the environment of every step. What a step's own Env has too wins there.
	Env map[string]Value `json:"env,omitempty"`
	// PullSecrets names secrets that hold a Docker configuration (auths) for pulling images.
	PullSecrets []string `json:"pull_secrets,omitempty"`
	Steps       []Step   `json:"steps"`
}

// Network says how the containers of a job see each other.
type Network string

// The kinds of network.
const (
	// Named gives each container an address of its own and the name of its step. It is the default.
	Named Network = ""
	// Shared puts all containers on one address, as a Kubernetes pod does.
	Shared Network = "shared"
)

// Volume is storage that steps of a job may mount.
type Volume struct {
	Name string `json:"name"`
	// Host is a folder of the runner's machine; only trusted repos may have it. Empty means a temporary volume, which
	// lives as long as the job.
	Host string `json:"host,omitempty"`
	// Memory keeps a temporary volume in memory; only trusted repos may have it.
	Memory bool `json:"memory,omitempty"`
	// Size bounds a temporary volume in bytes; 0 means no bound of its own.
	Size int64 `json:"size,omitempty"`
}

// Kind says what a step does.
type Kind string

// The kinds of steps. Each has the field of Step of the same name set, and no other.
const (
	KindClone  Kind = "clone"  // checks the commit out into the workspace
	KindExec   Kind = "exec"   // runs a command in a container
	KindImage  Kind = "image"  // builds an image and pushes it
	KindDeploy Kind = "deploy" // renders manifests, applies them and watches the rollout
)

// Step is one container, or one built-in action, of a job.
type Step struct {
	Name string `json:"name"`
	Kind Kind   `json:"kind"`
	// Needs names the steps of the same job that must have ended before this one starts, or have started if they are
	// detached.
	Needs []string `json:"needs,omitempty"`
	// On lists the outcomes of the job so far under which the step runs; empty means success only.
	On []Outcome `json:"on,omitempty"`
	// IgnoreFailure keeps a failure of the step from failing the job.
	IgnoreFailure bool `json:"ignore_failure,omitempty"`
	// FailFast ends the job at once when the step fails: running steps are stopped.
	FailFast bool `json:"fail_fast,omitempty"`
	// Detach lets the job go on as soon as the step has started. A detached step is stopped when the other steps are
	// done, and its exit code does not matter. Services are detached steps.
	Detach bool `json:"detach,omitempty"`
	// Timeout bounds the step in seconds; 0 means that only the job's limit holds.
	Timeout int64 `json:"timeout,omitempty"`
	// Env is what the step's environment has besides, or instead of, the job's; see [Job.EnvOf].
	Env map[string]Value `json:"env,omitempty"`

	Clone  *Clone  `json:"clone,omitempty"`
	Exec   *Exec   `json:"exec,omitempty"`
	Image  *Image  `json:"image,omitempty"`
	Deploy *Deploy `json:"deploy,omitempty"`
}

// Clone checks a commit out into the workspace.
type Clone struct {
	// Ref is the full reference that contains Commit.
	Ref    string `json:"ref"`
	Commit string `json:"commit"`
	// Merge, if set, is the full reference of the branch that is checked out first, and that Commit is merged into: a
	// pull request is tested as it would be after its merge.
	Merge string `json:"merge,omitempty"`
	// Depth limits the history; 0 means all of it.
	Depth   int `json:"depth,omitempty"`
	Retries int `json:"retries,omitempty"`
	// SkipVerify accepts any TLS certificate of the forge.
	SkipVerify bool `json:"skip_verify,omitempty"`
}

// Pull says when an image is asked for at its registry.
type Pull string

// The pull policies.
const (
	PullDefault Pull = ""              // always for the tag latest or none, else if missing
	PullAlways  Pull = "always"        // ask each time
	PullMissing Pull = "if-not-exists" // ask if it is not on this machine
	PullNever   Pull = "never"         // fail if it is not on this machine
)

// Exec runs a command in a container.
type Exec struct {
	// Image is a reference as people write it: busybox, golang:1.26, registry.example.com/a/b@sha256:...
	Image string `json:"image"`
	Pull  Pull   `json:"pull,omitempty"`
	// Entrypoint and Args replace the image's own when they are not empty. Replacing the entrypoint drops the image's
	// arguments too, as on Docker.
	Entrypoint []string `json:"entrypoint,omitempty"`
	Args       []string `json:"args,omitempty"`
	// Script is given to the command on its standard input; without one that is empty.
	Script string `json:"script,omitempty"`
	// WorkingDir is absolute; empty means the image's.
	WorkingDir string `json:"working_dir,omitempty"`
	// User is user[:group], names or numbers as the image knows them; empty means the image's.
	User       string   `json:"user,omitempty"`
	Mounts     []Mount  `json:"mounts,omitempty"`
	Devices    []Mount  `json:"devices,omitempty"`
	Privileged bool     `json:"privileged,omitempty"`
	DNS        []string `json:"dns,omitempty"`
	DNSSearch  []string `json:"dns_search,omitempty"`
	// ExtraHosts are "name:address".
	ExtraHosts []string `json:"extra_hosts,omitempty"`
	// Aliases are further names that the container answers to on the job's network.
	Aliases []string `json:"aliases,omitempty"`
	// HostNetwork puts the container on the network of the runner's machine; only trusted repos may have it.
	HostNetwork bool   `json:"host_network,omitempty"`
	Limits      Limits `json:"limits,omitzero"`
	// SkipRestCode, if not 0, is an exit code that means: all is well, skip the job's other steps.
	SkipRestCode int `json:"skip_rest_code,omitempty"`
}

// Mount puts a volume, or a device of the runner's machine, at a path of a container.
type Mount struct {
	// Source is the name of one of the job's volumes, or a device's path.
	Source string `json:"source"`
	Path   string `json:"path"`
}

// Limits bound a container; zero fields mean the runner's defaults.
type Limits struct {
	// Memory and Swap (memory and swap together) and SharedMemory (/dev/shm) are in bytes.
	Memory       int64 `json:"memory,omitempty"`
	Swap         int64 `json:"swap,omitempty"`
	SharedMemory int64 `json:"shared_memory,omitempty"`
	// MilliCPU is thousandths of a processor.
	MilliCPU int64 `json:"milli_cpu,omitempty"`
}

// Image builds an image from a Dockerfile and pushes it.
type Image struct {
	// Repo is the repository without tag, such as registry.example.com/a/b or a/b.
	Repo Value `json:"repo"`
	// Registry, if set, is the registry's host; Repo may or may not begin with it.
	Registry Value   `json:"registry,omitzero"`
	Tags     []Value `json:"tags"`
	// Context and Dockerfile are paths relative to the workspace; empty means "." and "Dockerfile" in the context.
	Context    string           `json:"context,omitempty"`
	Dockerfile string           `json:"dockerfile,omitempty"`
	Target     string           `json:"target,omitempty"`
	Args       map[string]Value `json:"args,omitempty"`
	Labels     map[string]Value `json:"labels,omitempty"`
	// CacheFrom are references of images whose layers may be reused.
	CacheFrom []string `json:"cache_from,omitempty"`
	// NoCache builds every layer again. Pull asks for newer base images.
	NoCache bool `json:"no_cache,omitempty"`
	Pull    bool `json:"pull,omitempty"`
	// Username and Password are for Registry; empty means what the runner has for it.
	Username Value `json:"username,omitzero"`
	Password Value `json:"password,omitzero"`
	// DryRun builds but does not push.
	DryRun bool `json:"dry_run,omitempty"`
	// Insecure speaks plain HTTP, or does not verify the certificate of, the registry.
	Insecure bool `json:"insecure,omitempty"`
}

// Deploy renders manifests, applies them to a cluster and watches the rollout to its end.
type Deploy struct {
	// Action is what is done; empty means that the manifests are deployed.
	Action Action `json:"action,omitempty"`
	// Release is the release to go back to, for [ActionRollback]; 0 means the last good one before that which serves.
	Release int64 `json:"release,omitempty"`
	// Environment names the place; it is "production" when nothing else is said.
	Environment string `json:"environment"`
	// Namespace is where objects go that name none; empty means "default".
	Namespace Value `json:"namespace,omitzero"`
	// Manifests are files and folders relative to the workspace; those of Kustomize, Helm and Jsonnet are rendered.
	Manifests []string `json:"manifests"`
	// Images maps the names of images in the manifests to references; what this run pushed is known by itself.
	Images map[string]Value `json:"images,omitempty"`
	// Variables are filled into the manifests.
	Variables map[string]Value `json:"variables,omitempty"`
	// Values are files relative to the workspace with values for Helm charts; later ones win.
	Values []string `json:"values,omitempty"`
	// Set has values for Helm charts by their path, such as image.tag. Numbers, true, false and null in Set are what they
	// look like; what is in SetString is text, as is a secret.
	Set       map[string]Value `json:"set,omitempty"`
	SetString map[string]Value `json:"set_string,omitempty"`
	// ReleaseName is the name that Helm charts know the release by; empty means that of the chart.
	ReleaseName string `json:"release_name,omitempty"`
	// Kubeconfig is the content of a kubeconfig; empty means the runner's own cluster.
	Kubeconfig Value `json:"kubeconfig,omitzero"`
	// Timeout bounds the rollout in seconds; 0 means 10 minutes.
	Timeout int64 `json:"timeout,omitempty"`
	// Policy is what the step says instead of its environment's policy.
	Policy ci.Policy `json:"policy,omitzero"`
}

// Action is what a deploy step does.
type Action string

// The actions of a deploy step.
const (
	ActionDeploy   Action = ""         // renders the manifests and brings them into the cluster
	ActionDiff     Action = "diff"     // says what deploying would change
	ActionRollback Action = "rollback" // goes back to an earlier release; there are no manifests
	ActionTeardown Action = "teardown" // removes everything that the environment has; there are no manifests
)

// Value is a text that is known now, or the name of a secret or a fact that is known only when a step starts. At most
// one field is set. Its JSON form is a string for Text, else {"secret": "name"} or {"fact": "job.status"}.
type Value struct {
	Text   string
	Secret string
	Fact   Fact
}

// Text returns the Value of a text.
func Text(s string) Value { return Value{Text: s} }

// FromSecret returns the Value that the secret of the given name has when the step starts. If there is no such secret,
// a variable is left out of the environment and a setting is empty.
func FromSecret(name string) Value { return Value{Secret: name} }

// FromFact returns the Value that a fact has when the step starts.
func FromFact(f Fact) Value { return Value{Fact: f} }

// IsZero reports whether v is the empty text.
func (v Value) IsZero() bool { return v == Value{} }

// MarshalJSON implements [json.Marshaler].
func (v Value) MarshalJSON() ([]byte, error) {
	var form any = v.Text
	switch {
	case v.Secret != "":
		form = map[string]string{"secret": v.Secret}
	case v.Fact != "":
		form = map[string]Fact{"fact": v.Fact}
	}
	// Whether < > & are escaped is left to the encoder that asks.
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(form)
	return b.Bytes(), err
}

// UnmarshalJSON implements [json.Unmarshaler].
func (v *Value) UnmarshalJSON(data []byte) error {
	var text string
	if err := json.Unmarshal(data, &text); err == nil {
		*v = Value{Text: text}
		return nil
	}
	var named struct {
		Secret string `json:"secret"`
		Fact   Fact   `json:"fact"`
	}
	if err := json.Unmarshal(data, &named); err != nil {
		return fmt.Errorf("a value is a string, {\"secret\": name} or {\"fact\": name}: %w", err)
	}
	if (named.Secret == "") == (named.Fact == "") {
		return fmt.Errorf("a value has either a secret or a fact")
	}
	*v = Value{Secret: named.Secret, Fact: named.Fact}
	return nil
}

// Fact names something that only the runner knows, when a step starts.
type Fact string

// The facts.
const (
	JobStatus     Fact = "job.status"     // success or failure, so far
	JobStarted    Fact = "job.started"    // Unix seconds
	JobsFailed    Fact = "jobs.failed"    // names of the run's failed jobs so far, joined by commas
	StepsFailed   Fact = "steps.failed"   // names of the job's failed steps so far, joined by commas
	Now           Fact = "now"            // Unix seconds at the start of the step
	RunnerName    Fact = "runner.name"    // the name of the runner
	CloneMachine  Fact = "clone.machine"  // the host that the repo is cloned from
	CloneUsername Fact = "clone.username" // the login for it
	ClonePassword Fact = "clone.password" // the password for it; masked like a secret
)

// Facts lists all facts.
func Facts() []Fact {
	return []Fact{JobStatus, JobStarted, JobsFailed, StepsFailed, Now, RunnerName, CloneMachine, CloneUsername, ClonePassword}
}
