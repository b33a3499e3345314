package ci

import "time"

// Rollout is a picture of how far the deployment of a step is, for people who watch it. A later one replaces it.
type Rollout struct {
	// JobNumber and StepNumber say whose it is, by their numbers in the run and in the job. The store sets them.
	JobNumber  int `json:"job"`
	StepNumber int `json:"step"`
	// Updated is when the picture was taken.
	Updated time.Time `json:"updated"`
	// Back is true while, and after, the release before is put back. Workloads are those of that release then.
	Back bool `json:"back,omitempty"`
	// Workloads are the objects whose rollout is followed, hooks included, in the order in which they take part.
	Workloads []Workload `json:"workloads"`
	// Failed are those that failed, as they stood then, if the release before was put back.
	Failed []Workload `json:"failed,omitempty"`
	// Omitted is how many more there are; those that are done are left out first.
	Omitted int `json:"omitted,omitempty"`
}

// Workload is how far the rollout of one object is.
type Workload struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	// Hook is "before" or "after" for a Job that runs before or after the rest.
	Hook  string        `json:"hook,omitempty"`
	State WorkloadState `json:"state"`
	// Text says in words how far it is, Trouble what stands in the way, if anything does.
	Text    string `json:"text,omitempty"`
	Trouble string `json:"trouble,omitempty"`
	// Desired is how many pods there shall be, Updated how many of the new version exist, Ready how many of those serve.
	// Old is how many pods of other versions are left, OldReady how many of those serve. All are 0 for what has no pods.
	Desired  int `json:"desired,omitempty"`
	Updated  int `json:"updated,omitempty"`
	Ready    int `json:"ready,omitempty"`
	Old      int `json:"old,omitempty"`
	OldReady int `json:"old_ready,omitempty"`
	// Restarts is how often containers of the new version were started again.
	Restarts int `json:"restarts,omitempty"`
	// Events are the newest of the cluster's about it, newest first.
	Events []WorkloadEvent `json:"events,omitempty"`
	// Log has the last lines of the container that ends again and again, and LogOf names that.
	Log   []string `json:"log,omitempty"`
	LogOf string   `json:"log_of,omitempty"`
}

// WorkloadState is the state of a [Workload].
type WorkloadState string

// The states of workloads.
const (
	WorkloadWaits   WorkloadState = "waiting"  // its turn has not come
	WorkloadRolls   WorkloadState = "rolling"  // under way
	WorkloadTrouble WorkloadState = "troubled" // under way, but something stands in the way
	WorkloadDone    WorkloadState = "done"
	WorkloadFailed  WorkloadState = "failed"
)

// WorkloadEvent is something that happened in the cluster.
type WorkloadEvent struct {
	Time    time.Time `json:"time"`
	Object  string    `json:"object"` // pod web-1
	Reason  string    `json:"reason"`
	Message string    `json:"message"`
	// Count is how often it happened.
	Count   int  `json:"count,omitempty"`
	Warning bool `json:"warning,omitempty"`
}
