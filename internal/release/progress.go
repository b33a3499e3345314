package release

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"slipway/internal/ci"
	"slipway/internal/fault"
)

// Progress is how far a release is that comes by steps, with what is needed to go on with it or to take it back.
type Progress struct {
	// Release is the number of the release, Kind its strategy.
	Release int64           `json:"release"`
	Kind    ci.StrategyKind `json:"kind"`
	// Step is the index of the present step, of Steps, and Weight the share of the traffic that it gives to the new version in percent.
	Step   int   `json:"step"`
	Steps  int   `json:"steps"`
	Weight int64 `json:"weight"`
	// Reached is when the traffic was so; zero if it is not yet.
	Reached time.Time `json:"reached,omitzero"`
	// Held is true when somebody wants it to stay at this step.
	Held bool `json:"held,omitempty"`
	// Passed is true when all steps are over, and the new version takes the place of the old one.
	Passed bool `json:"passed,omitempty"`
	// Workloads are the Deployments that have a new version, Services those that select their pods.
	Workloads []Workload `json:"workloads,omitempty"`
	Services  []Ref      `json:"services,omitempty"`
	// Routes are the HTTPRoutes whose weights are set.
	Routes []Route `json:"routes,omitempty"`
	// Temporary are the objects that are there only until the release has ended. They are in the inventory, too.
	Temporary []Ref `json:"temporary,omitempty"`
}

// Workload is a Deployment that has a new version.
type Workload struct {
	Ref
	// Replicas is how many pods it had before.
	Replicas int64 `json:"replicas"`
	// Scaled is how many a step has left it meanwhile; 0 if that was not changed.
	Scaled int64 `json:"scaled,omitempty"`
}

// Route is an HTTPRoute whose weights are set.
type Route struct {
	Ref
	// Rules are those that it had before, as JSON, if it is not one of the environment's own objects.
	Rules json.RawMessage `json:"rules,omitempty"`
}

// Verb is what somebody tells a release that comes by steps.
type Verb string

// The verbs.
const (
	Next   Verb = "next"   // go on with the next step now
	Finish Verb = "finish" // leave out all further steps and checks
	Hold   Verb = "hold"   // stay at this step until somebody says otherwise
	Abort  Verb = "abort"  // go back
)

// Instruction is a verb for a certain step of a certain release, so that of two people who say the same at once only one is
// heard.
type Instruction struct {
	Verb    Verb   `json:"verb"`
	Release int64  `json:"release"`
	Step    int    `json:"step"`
	By      string `json:"by,omitempty"`
}

// instructionAnnotation is where the Lease has an [Instruction] as JSON.
const instructionAnnotation = "slipway/instruction"

// Tell gives an instruction to the release that is under way in p, for its present step. Whoever deploys it looks every second.
func (p Place) Tell(ctx context.Context, verb Verb, by string) (Progress, error) {
	s, err := p.Load(ctx)
	switch {
	case err != nil:
		return Progress{}, err
	case s.Progress == nil || s.Progress.Steps == 0 || !s.Pending:
		return Progress{}, fault.New(fault.Conflict, "no release of %s comes by steps right now", p)
	case s.Progress.Passed && verb != Abort:
		return Progress{}, fault.New(fault.Conflict, "release %d of %s has passed all its steps already", s.Progress.Release, p)
	}
	instruction := Instruction{Verb: verb, Release: s.Progress.Release, Step: s.Progress.Step, By: by}
	data, err := json.Marshal(instruction)
	if err != nil {
		return Progress{}, fmt.Errorf("encode an instruction: %w", err)
	}
	there := false
	err = p.annotate(ctx, func(annotations map[string]string) {
		there = true
		annotations[instructionAnnotation] = string(data)
	})
	if err == nil && !there {
		err = fault.New(fault.Conflict, "nobody deploys to %s right now", p)
	}
	return *s.Progress, err
}

// Instruction returns the instruction that was given last, if there is one.
func (p Place) Instruction(ctx context.Context) (Instruction, bool, error) {
	lease, err := p.lease(ctx)
	if err != nil || lease == nil || lease.Annotations[instructionAnnotation] == "" {
		return Instruction{}, false, err
	}
	var i Instruction
	if json.Unmarshal([]byte(lease.Annotations[instructionAnnotation]), &i) != nil {
		return Instruction{}, false, nil // not written by us
	}
	return i, true, nil
}

// Forget removes an instruction that came from [Place.Instruction], unless there is another one by now.
func (p Place) Forget(ctx context.Context, i Instruction) error {
	data, err := json.Marshal(i)
	if err != nil {
		return fmt.Errorf("encode an instruction: %w", err)
	}
	return p.annotate(ctx, func(annotations map[string]string) {
		if annotations[instructionAnnotation] == string(data) {
			delete(annotations, instructionAnnotation)
		}
	})
}

// annotate changes the annotations of the Lease, if there is one.
func (p Place) annotate(ctx context.Context, change func(map[string]string)) error {
	for {
		lease, err := p.lease(ctx)
		if err != nil || lease == nil {
			return err
		}
		if lease.Annotations == nil {
			lease.Annotations = map[string]string{}
		}
		change(lease.Annotations)
		_, err = p.Client.Core.CoordinationV1().Leases(p.Namespace).Update(ctx, lease, metav1.UpdateOptions{FieldManager: "slipway"})
		if !apierrors.IsConflict(err) { // who holds the lock writes to it as well
			return err
		}
	}
}
