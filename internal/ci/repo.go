package ci

import "time"

// Repo is a repository that Slipway serves.
type Repo struct {
	ID int64 `json:"id"`
	// Name is owner/name, unique on this server.
	Name string `json:"name"`
	// Forge names the kind of forge: "slipway" for the own git endpoint, "gitea".
	Forge string `json:"forge"`
	// ForgeURL is the root of the forge, such as https://git.example.com; empty for the own endpoint.
	ForgeURL string `json:"forge_url,omitempty"`
	CloneURL string `json:"clone_url"`
	Link     string `json:"link,omitempty"`
	// Branch is the default branch.
	Branch  string `json:"branch"`
	Private bool   `json:"private"`
	// PublicImages lets everybody pull its images, without a token.
	PublicImages bool `json:"public_images"`
	// Trusted allows privileged steps and host mounts.
	Trusted bool `json:"trusted"`
	// Config is the path of the pipeline file; empty means to look for the dialects' usual names.
	Config string `json:"config,omitempty"`
	// Timeout bounds each job; 0 means the server's default.
	Timeout time.Duration `json:"timeout,omitempty"`
	Created time.Time     `json:"created"`
	// ForgeToken and WebhookSecret are sealed (see package secret) and never leave the server.
	ForgeToken    []byte `json:"-"`
	WebhookSecret []byte `json:"-"`
}

// Secret is a named secret of a repo. Its value is sealed by package secret and never shown again.
type Secret struct {
	Repo   string `json:"repo"`
	Name   string `json:"name"`
	Sealed []byte `json:"-"`
	// PullRequests allows the secret in runs of pull requests of the same repository. Forks never get it.
	PullRequests bool      `json:"pull_requests"`
	Updated      time.Time `json:"updated"`
}

// Token lets a person or a program in. Only a hash of it is stored.
type Token struct {
	ID   int64  `json:"id"`
	Name string `json:"name"`
	// Hash is the SHA-256 of the token's text.
	Hash []byte `json:"-"`
	// Scopes are what it allows: "admin", "repo:owner/name" or "pull" (all images, read only).
	Scopes  []string  `json:"scopes"`
	Expires time.Time `json:"expires,omitzero"`
	Created time.Time `json:"created"`
}
