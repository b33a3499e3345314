package ci

import (
	"fmt"
	"strings"
)

// Preview is what a deployment would change in an environment, found out without changing it. Nothing in it is secret:
// values of Secrets are masked, and so is every value that the run's secrets have.
type Preview struct {
	// Repo, Run, Job, Step and Commit are what found it out: the numbers of the run, and of the job and the step in it.
	// The server sets them. Name is the name of the step.
	Repo   string `json:"repo,omitempty"`
	Run    int64  `json:"run,omitempty"`
	Job    int    `json:"job,omitempty"`
	Step   int    `json:"step,omitempty"`
	Name   string `json:"name,omitempty"`
	Commit string `json:"commit,omitempty"`
	// Environment and Namespace name the place.
	Environment string `json:"environment"`
	Namespace   string `json:"namespace,omitempty"`
	// Differences are those of the objects that would not stay as they are, in the order in which they would be applied.
	Differences []Difference `json:"differences,omitempty"`
	// Same is how many objects would stay as they are; Omitted how many differences were too much to be told.
	Same    int `json:"same,omitempty"`
	Omitted int `json:"omitted,omitempty"`
	// Message says why it could not be found out, as one sentence; empty if it could.
	Message string `json:"message,omitempty"`
}

// Difference is what happens to one object.
type Difference struct {
	// Object is kind/name, Namespace where it is if that is not the environment's.
	Object    string `json:"object"`
	Namespace string `json:"namespace,omitempty"`
	// Action is create, change, replace, delete, keep, refuse, or of a hook run before or run after.
	Action string `json:"action"`
	// Fields are those that change.
	Fields []Field `json:"fields,omitempty"`
	// Caution says what makes the change one to think about before it is made, such as data that is deleted.
	Caution string `json:"caution,omitempty"`
	// Notes are further sentences. Error says why the object is refused.
	Notes []string `json:"notes,omitempty"`
	Error string   `json:"error,omitempty"`
}

// Field is one field of an object that changes.
type Field struct {
	// Path is the field as people write it: spec.template.spec.containers[web].image.
	Path string `json:"path"`
	// Old and New are the values as one line; empty where the field is not there.
	Old string `json:"old,omitempty"`
	New string `json:"new,omitempty"`
	// Lines are the lines that differ, each beginning with - or +, if the value is a text of several lines. Old and New are
	// empty then.
	Lines []string `json:"lines,omitempty"`
	// Reason says why Slipway added the field; it is empty for what the manifest says.
	Reason string `json:"reason,omitempty"`
}

// Summary says in a few words what would happen: "1 to create, 2 to change". Objects that stay do not count.
func (p Preview) Summary() string {
	if p.Message != "" {
		return "not known"
	}
	counts := map[string]int{}
	for _, d := range p.Differences {
		counts[d.Action]++
	}
	var parts []string
	for _, action := range []string{"run before", "create", "change", "replace", "delete", "keep", "run after", "refuse"} {
		if n := counts[action]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d to %s", n, action))
		}
	}
	if p.Omitted > 0 {
		parts = append(parts, fmt.Sprintf("%d more", p.Omitted))
	}
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, ", ")
}
