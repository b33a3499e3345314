package ci

import (
	"strings"
	"time"
)

// EventKind says what happened at a forge. The values are stable: they are stored, and shown to people.
type EventKind string

// The kinds of events.
const (
	Push        EventKind = "push"
	Tag         EventKind = "tag"
	PullRequest EventKind = "pull_request"
	Cron        EventKind = "cron"
	Promote     EventKind = "promote"
	Rollback    EventKind = "rollback"
	Manual      EventKind = "manual"
	// Delete says that a branch is gone. It starts no pipeline; Ref, Before and Sender are set, and After is empty.
	Delete EventKind = "delete"
)

// ParseEventKind returns the kind that s names, if it is one that pipelines may run for.
func ParseEventKind(s string) (EventKind, bool) {
	switch k := EventKind(s); k {
	case Push, Tag, PullRequest, Cron, Promote, Rollback, Manual:
		return k, true
	}
	return "", false
}

// Event is something that happened to a repo and may start a run. It is immutable once accepted.
type Event struct {
	Kind EventKind `json:"kind"`
	// Action refines Kind; for a pull request "opened" or "synchronized", else empty.
	Action string `json:"action,omitempty"`
	// Delivery identifies the message that brought the event, so that a replay is recognised. Unique per repo, or empty.
	Delivery string `json:"delivery,omitempty"`

	// Ref is the full git reference: refs/heads/main, refs/tags/v1, refs/pull/7/head.
	Ref string `json:"ref"`
	// Before and After are full commit hashes. Before is empty for a new branch.
	Before string `json:"before,omitempty"`
	After  string `json:"after"`
	// Source is the branch that the change comes from, Target the one that it is for. They differ only on a pull
	// request; both are empty for a tag.
	Source string `json:"source,omitempty"`
	Target string `json:"target,omitempty"`

	Commit      Commit  `json:"commit"`
	PullRequest *Change `json:"pull_request,omitempty"`
	// Sender is the login of who caused the event, as the forge or the pusher says.
	Sender string `json:"sender,omitempty"`
	// By is the name of the token that caused it, where it came to Slipway itself: a push to its own git endpoint, a restart,
	// a promotion. Empty if a forge vouches for Sender.
	By string `json:"by,omitempty"`
	// Link is the page of the commit or change at the forge.
	Link string `json:"link,omitempty"`

	// CronName is the name of the schedule, for [Cron].
	CronName string `json:"cron,omitempty"`
	// DeployTo is the environment, for [Promote] and [Rollback].
	DeployTo string `json:"deploy_to,omitempty"`
	// Params are what a person gave a manual run, a promotion or a rollback.
	Params map[string]string `json:"params,omitempty"`
	// Order, if it is set, is what the run does instead of a pipeline.
	Order *Order `json:"order,omitempty"`
}

// Order is something that is done to an environment without a pipeline: going back, tearing down.
type Order struct {
	// Action is one of package plan's actions of a deploy step.
	Action      string `json:"action"`
	Environment string `json:"environment"`
	// Namespace is where the environment is; empty leaves it to the environment's rules.
	Namespace string `json:"namespace,omitempty"`
	// Release is the release to go back to; 0 means the last good one before that which serves.
	Release int64 `json:"release,omitempty"`
	// Reason says why, for people.
	Reason string `json:"reason,omitempty"`
	// Own is true if nobody asked for it but Slipway itself.
	Own bool `json:"own,omitempty"`
}

// Actor returns who caused the event, as far as it is known for sure: what a pusher calls themself does not count.
func (e Event) Actor() string {
	if e.By != "" {
		return e.By
	}
	return e.Sender
}

// Commit describes the commit at Event.After.
type Commit struct {
	Message string    `json:"message,omitempty"`
	Author  Signature `json:"author"`
	Link    string    `json:"link,omitempty"`
}

// Title returns the first line of the message.
func (c Commit) Title() string {
	title, _, _ := strings.Cut(c.Message, "\n")
	return strings.TrimSpace(title)
}

// Signature names a person: Login at the forge, Name and Email in git.
type Signature struct {
	Login  string    `json:"login,omitempty"`
	Name   string    `json:"name,omitempty"`
	Email  string    `json:"email,omitempty"`
	Avatar string    `json:"avatar,omitempty"`
	Time   time.Time `json:"time,omitzero"`
}

// Change is a pull request (GitLab: merge request).
type Change struct {
	Number int64  `json:"number"`
	Title  string `json:"title,omitempty"`
	Draft  bool   `json:"draft,omitempty"`
	// Fork is true when the head is in another repository than the base. Such a change gets no secrets.
	Fork bool `json:"fork,omitempty"`
	// HeadRepo is the full name of the repository of the head.
	HeadRepo string `json:"head_repo,omitempty"`
}

// Branch returns the branch that an event's conditions speak of: the target of a pull request, the pushed branch, or
// "" for a tag.
func (e Event) Branch() string { return e.Target }

// TagName returns the tag's name without refs/tags/, or "".
func (e Event) TagName() string {
	name, ok := strings.CutPrefix(e.Ref, "refs/tags/")
	if !ok {
		return ""
	}
	return name
}

// FromFork reports whether the event's content comes from outside the repo, and must not see secrets. A pull request of
// which nothing is known is taken for a fork's.
func (e Event) FromFork() bool {
	if e.PullRequest == nil {
		return e.Kind == PullRequest
	}
	return e.PullRequest.Fork
}
