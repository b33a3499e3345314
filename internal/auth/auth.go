// Package auth says who somebody is and what they may do: people and programs by their tokens, jobs by a token that dies
// with the job, runners by theirs.
//
// [Authority.Find] turns a token's text into a [Principal]; everything else asks the principal. Token texts are random
// and only their hashes are stored, so that finding one by its hash tells nothing of the others by timing.
package auth

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/store"
)

// Scopes of tokens. [ScopeRepo] and [ScopePullRepo] are followed by the name of one repo. No two repos have names that differ only
// by case, and images have no capitals, so case does not count in it.
const (
	ScopeAdmin = "admin" // everything
	ScopeRepo  = "repo:" // read, push, run and settings of one repo and its images
	ScopePull  = "pull"  // read all images, for clusters
	// ScopePullRepo is to read the images of one repo.
	ScopePullRepo = "pull:"
	ScopeRunner   = "runner" // claim jobs
	// ScopeMetrics is to read the server's metrics.
	ScopeMetrics = "metrics"
)

// ValidScope reports whether s can be the scope of a token.
func ValidScope(s string) bool {
	name, isRepo := strings.CutPrefix(s, ScopeRepo)
	if !isRepo {
		name, isRepo = strings.CutPrefix(s, ScopePullRepo)
	}
	return s == ScopeAdmin || s == ScopePull || s == ScopeRunner || s == ScopeMetrics || isRepo && strings.Count(name, "/") == 1
}

// Principal is somebody who showed a good token.
type Principal struct {
	// Name is for logs and histories: the token's name, or "octo/app run 7".
	Name   string
	Scopes []string
	// Job is the ID of the running job that this is, or 0. A job may read its repo and, unless ReadOnly, push its images.
	Job      int64
	ReadOnly bool
}

func (p Principal) has(scope string) bool { return slices.Contains(p.Scopes, scope) }

// hasFor reports whether p has the scope of that kind for a repo.
func (p Principal) hasFor(kind, repo string) bool {
	return slices.ContainsFunc(p.Scopes, func(s string) bool {
		name, ok := strings.CutPrefix(s, kind)
		return ok && name != "" && ci.ImageName(name) == ci.ImageName(repo)
	})
}

// Admin reports whether p may do everything.
func (p Principal) Admin() bool { return p.has(ScopeAdmin) }

// Runner reports whether p may claim jobs.
func (p Principal) Runner() bool { return p.has(ScopeRunner) || p.Admin() }

// Measures reports whether p may read the metrics.
func (p Principal) Measures() bool { return p.has(ScopeMetrics) || p.Admin() }

// Manages reports whether p may change the repo: push, run, cancel, set secrets.
func (p Principal) Manages(repo string) bool {
	return p.Admin() || p.Job == 0 && p.hasFor(ScopeRepo, repo)
}

// Reads reports whether p may read the repo's source, runs and logs.
func (p Principal) Reads(repo string) bool { return p.Admin() || p.hasFor(ScopeRepo, repo) }

// MirrorPrefix is where the images of other registries are in the registry. All who may pull anything may pull them, and
// runners, which run everybody's steps.
const MirrorPrefix = "mirror/"

// Pulls reports whether p may pull the image repository, see [ci.ImageOwner].
func (p Principal) Pulls(image string) bool {
	return p.has(ScopePull) || p.hasFor(ScopePullRepo, ci.ImageOwner(image)) || p.Reads(ci.ImageOwner(image)) || strings.HasPrefix(image, MirrorPrefix) && p.pullsAny()
}

// pullsAny reports whether p may pull any image, or runs what pulls.
func (p Principal) pullsAny() bool {
	return slices.ContainsFunc(p.Scopes, func(s string) bool {
		return s == ScopeAdmin || s == ScopePull || s == ScopeRunner || strings.HasPrefix(s, ScopePullRepo) || strings.HasPrefix(s, ScopeRepo)
	})
}

// Pushes reports whether p may push to the image repository, and delete from it.
func (p Principal) Pushes(image string) bool {
	return p.Admin() || !p.ReadOnly && p.hasFor(ScopeRepo, ci.ImageOwner(image))
}

// Tidies reports whether p may change what the image repository keeps: delete and move tags by hand, and set its policy.
// The empty name stands for all.
func (p Principal) Tidies(image string) bool {
	return p.Admin() || p.Job == 0 && p.hasFor(ScopeRepo, ci.ImageOwner(image))
}

// Authority knows the tokens. It may be used concurrently.
type Authority struct {
	Tokens store.Tokens
	// Jobs tells which jobs run.
	Jobs store.Queue
	// Key signs the tokens of jobs; at least 32 random bytes.
	Key []byte
	// Now is the clock.
	Now func() time.Time
}

// Find returns who has the token. A token that is not known, or has expired, gives a fault with [fault.Unauthorized].
func (a *Authority) Find(ctx context.Context, token string) (Principal, error) {
	if id, ok := a.checkJob(token); ok {
		run, err := a.Jobs.FindRunning(ctx, id)
		if errors.Is(err, store.ErrNotFound) {
			return Principal{}, fault.New(fault.Unauthorized, "the job that this token was for is over")
		}
		if err != nil {
			return Principal{}, err
		}
		return Principal{
			Name: fmt.Sprintf("%s run %d", run.Repo, run.Number), Scopes: []string{ScopeRepo + run.Repo},
			Job: id, ReadOnly: run.Event.FromFork(),
		}, nil
	}
	found, err := a.Tokens.FindToken(ctx, Hash(token))
	if errors.Is(err, store.ErrNotFound) {
		return Principal{}, fault.New(fault.Unauthorized, "the token is not known here; make one by: slipway token create NAME --scope SCOPE")
	}
	if err != nil {
		return Principal{}, err
	}
	if !found.Expires.IsZero() && !a.Now().Before(found.Expires) {
		return Principal{}, fault.New(fault.Unauthorized, "the token %q expired on %s", found.Name, found.Expires.Format(time.DateOnly))
	}
	return Principal{Name: found.Name, Scopes: found.Scopes}, nil
}

// Create makes and stores a token, and returns its text, which is not to be had again.
func (a *Authority) Create(ctx context.Context, name string, scopes []string, expires time.Time) (string, ci.Token, error) {
	for _, s := range scopes {
		if !ValidScope(s) {
			return "", ci.Token{}, fault.New(fault.Invalid, "%q is no scope; use admin, repo:OWNER/NAME, pull, pull:OWNER/NAME, runner or metrics", s)
		}
	}
	if name == "" || len(scopes) == 0 {
		return "", ci.Token{}, fault.New(fault.Invalid, "a token needs a name and at least one scope")
	}
	text := NewToken()
	token := ci.Token{Name: name, Hash: Hash(text), Scopes: scopes, Expires: expires, Created: a.Now()}
	if err := a.Tokens.PutToken(ctx, &token); err != nil {
		return "", ci.Token{}, fmt.Errorf("store the token: %w", err)
	}
	return text, token, nil
}

// NewToken returns the text of a new token: 160 random bits behind a prefix that secret scanners can know.
func NewToken() string {
	random := make([]byte, 20)
	_, _ = rand.Read(random) // it never fails, says its documentation
	return "slw_" + strings.ToLower(base32.StdEncoding.EncodeToString(random))
}

// Hash returns what is stored of a token.
func Hash(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

// JobToken returns the token of a job. It is good for as long as the job runs.
func (a *Authority) JobToken(id int64) string {
	return fmt.Sprintf("slj_%d_%s", id, hex.EncodeToString(a.sign(id)))
}

func (a *Authority) checkJob(token string) (int64, bool) {
	rest, ok := strings.CutPrefix(token, "slj_")
	if !ok {
		return 0, false
	}
	number, signature, _ := strings.Cut(rest, "_")
	id, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return 0, false
	}
	given, err := hex.DecodeString(signature)
	return id, err == nil && hmac.Equal(given, a.sign(id))
}

func (a *Authority) sign(id int64) []byte {
	mac := hmac.New(sha256.New, a.Key)
	fmt.Fprintf(mac, "slipway job token %d", id)
	return mac.Sum(nil)
}
