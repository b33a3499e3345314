package forge

import (
	"context"
	"errors"
	"log/slog"
	"net/http"

	"slipway/internal/ci"
)

// Forge is where repos live. Its methods may be called concurrently, are bounded by their context and by time limits of
// their own, and may be repeated. Their errors are single sentences that may be shown to the repo's people; they never
// hold a credential.
type Forge interface {
	// Describe completes what only the forge knows of repo: its default branch, clone URL and page, and whether it is
	// private. It also checks that the token may do what the other methods need, and otherwise returns [ErrDenied].
	Describe(ctx context.Context, repo Repo) (ci.Repo, error)

	// Register makes sure that the forge calls hookURL, signed with repo's webhook secret. Repeating it changes nothing.
	Register(ctx context.Context, repo Repo, hookURL string) error

	// Hook turns a webhook into an event. Its signature is checked before anything in it is believed: [ErrForged].
	// A message that is genuine but starts nothing, such as a ping or a deleted branch, gives a reason in place of an
	// event: exactly one of the three results is set.
	Hook(ctx context.Context, repo Repo, header http.Header, body []byte) (event ci.Event, reason string, err error)

	// File returns the file at a commit, of at most [MaxFile] bytes. commit is a full hash, path is relative to the
	// repo's root. It returns [ErrNotFound] if the commit has no such file, and [ErrTooLarge] if it is larger.
	File(ctx context.Context, repo Repo, commit, path string) ([]byte, error)

	// Report writes a commit status. A later one with the same commit and context takes its place.
	Report(ctx context.Context, repo Repo, status Status) error
}

// Brancher is a Forge that can say which branches work goes on in.
type Brancher interface {
	// OpenBranches returns the names of the default branch and of those that were not merged into it: they have commits
	// that it has not. One that points at its newest commit counts as open, because it may have been made just now. Nil says
	// that they are not known, because there are too many.
	OpenBranches(ctx context.Context, repo Repo) ([]string, error)
}

// Errors that callers tell apart.
var (
	ErrNotFound = errors.New("not found")
	ErrDenied   = errors.New("not allowed")
	ErrForged   = errors.New("the webhook's signature is wrong")
	ErrTooLarge = errors.New("too large")
)

// Bounds of what is taken from a forge, in bytes.
const (
	MaxHook = 25 << 20
	MaxFile = 1 << 20
)

// Repo is a [ci.Repo] with the credentials for its forge in the clear. It prints and logs as its name.
type Repo struct {
	ci.Repo
	// Token lets Slipway in at the forge. Empty for the own endpoint.
	Token string
	// WebhookSecret is the key of the webhooks' signatures.
	WebhookSecret string
}

// String returns the repo's name, so that no formatting verb meant for people shows a credential.
func (r Repo) String() string { return r.Name }

// GoString does the same for %#v.
func (r Repo) GoString() string { return r.Name }

// LogValue does the same for logs.
func (r Repo) LogValue() slog.Value { return slog.StringValue(r.Name) }

// Status is what a forge shows next to a commit.
type Status struct {
	// Commit is the full hash.
	Commit string
	// Context tells apart what reports on the same commit; see [Context].
	Context string
	State   ci.Status
	// Description is one short sentence; adapters cut it to what their forge takes.
	Description string
	// Link is the page of the run.
	Link string
}

// Context returns the context of the statuses that the runs of an event write: slipway/push, slipway/tag,
// slipway/pull_request and so on. A protected branch can require it by that name, so it never changes.
func Context(kind ci.EventKind) string { return "slipway/" + string(kind) }
