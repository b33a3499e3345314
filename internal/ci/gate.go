package ci

import "time"

// Gate is what a deploy step of a run comes to before it may change its environment. It stays after the step has passed, so
// that who let it pass is known.
type Gate struct {
	Repo string `json:"repo"`
	Run  int64  `json:"run"`
	// Job and Step are the numbers of the step in its run.
	Job  int `json:"job"`
	Step int `json:"step"`
	// Environment is what the step deploys to; a review environment with its branch.
	Environment string    `json:"environment"`
	State       GateState `json:"state"`
	// Reason says in one sentence why the step waits, was refused or gave way. Empty if it passed at once.
	Reason string `json:"reason,omitempty"`
	// Since is when the step came; Ended when it was decided.
	Since time.Time `json:"since"`
	Ended time.Time `json:"ended,omitzero"`
	// Votes are what people said, oldest first; one for each person.
	Votes []Vote `json:"votes,omitempty"`
	// RunID is the run's ID in the store.
	RunID int64 `json:"-"`
}

// GateState is how a step stands at its gate.
type GateState string

// The states of a gate. It waits before it is one of the others, and those are final.
const (
	GateWaiting    GateState = "waiting"
	GatePassed     GateState = "passed"
	GateRefused    GateState = "refused"
	GateSuperseded GateState = "superseded" // a newer deployment took its place
)

// Vote is what one person said of a deployment that waits.
type Vote struct {
	Who     string    `json:"who"`
	Choice  Choice    `json:"choice"`
	Comment string    `json:"comment,omitempty"`
	Time    time.Time `json:"time"`
}

// Choice is a vote on a deployment.
type Choice string

// The choices.
const (
	Approve  Choice = "approve"
	Reject   Choice = "reject"
	Override Choice = "override" // let it pass although the environment is frozen
)
