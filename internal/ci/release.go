package ci

import "time"

// Release is one deployment to an environment: who brought what there, when, and what came of it. It is immutable once
// the deployment has ended. Its number counts from 1 within its environment.
type Release struct {
	// ID is the server's number of the row, unique among all releases; 0 in the cluster.
	ID int64 `json:"id,omitempty"`
	// Environment and Namespace name the place, Number the release in it.
	Environment string `json:"environment"`
	Namespace   string `json:"namespace"`
	Number      int64  `json:"number"`
	// Repo, Run and Step are what deployed; they are empty for a deployment from a terminal.
	Repo string `json:"repo,omitempty"`
	Run  int64  `json:"run,omitempty"`
	Step string `json:"step,omitempty"`
	// Commit is the full hash, By the login of who caused the run or typed the command, Link the page of the run.
	Commit string `json:"commit,omitempty"`
	By     string `json:"by,omitempty"`
	Link   string `json:"link,omitempty"`
	// Author is who wrote the commit, Title the first line of its message.
	Author string `json:"author,omitempty"`
	Title  string `json:"title,omitempty"`
	// Of is the number of the release whose manifests this one repeats: a rollback by hand.
	Of       int64     `json:"of,omitempty"`
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished,omitzero"`
	// Status is Success, Failure or Canceled. Message says why it is not Success.
	Status  Status `json:"status"`
	Message string `json:"message,omitempty"`
	// Strategy is how it was brought in; empty means that it rolled.
	Strategy StrategyKind `json:"strategy,omitempty"`
	// Restored is the number of the release that was put back because this one failed; 0 if none was.
	Restored int64 `json:"restored,omitempty"`
	// Images are the references that its pods use, sorted.
	Images []string `json:"images,omitempty"`
	// Digest is the SHA-256 of its rendered manifests, in hex.
	Digest string `json:"digest,omitempty"`
	// Probe is what became of the requests that were sent throughout the rollout; nil if none were.
	Probe *Probed `json:"probe,omitempty"`
}
