// Package flowtest makes a [flow.Flow] of real parts for tests: SQLite, logs, blobs and keys in a temporary folder, and a
// forge in memory that can be told to fail. Start with [New].
package flowtest

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/internal/auth"
	"slipway/internal/blob"
	"slipway/internal/ci"
	"slipway/internal/flow"
	"slipway/internal/forge"
	"slipway/internal/plan"
	"slipway/internal/runlog"
	"slipway/internal/secret"
	"slipway/internal/store/sqlstore"
)

// Repo is the repo that every new server serves: private, on [Forge], and trusted.
const Repo = "ada/engine"

// Server is a flow and what it is made of.
type Server struct {
	*flow.Flow
	DB    *sqlstore.DB
	Logs  *runlog.Logs
	Keys  *secret.Keys
	Auth  *auth.Authority
	Forge *Forge
	Clock *Clock
	Dir   string

	t testing.TB
}

// New returns a server that serves [Repo], whose token at the forge is "forge-token-of-ada". It is closed at the end of
// the test.
func New(t testing.TB) *Server {
	t.Helper()
	s := &Server{t: t, Dir: t.TempDir(), Forge: &Forge{}, Clock: &Clock{}}
	s.open()
	t.Cleanup(func() { s.close(time.Minute) })
	if _, err := s.AddRepo(t.Context(), flow.NewRepo{
		Name: Repo, Forge: Kind, ForgeURL: "https://git.example.com", Token: "forge-token-of-ada", Trusted: true,
	}); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *Server) open() {
	s.t.Helper()
	ctx := context.WithoutCancel(s.t.Context())
	must := func(err error) {
		s.t.Helper()
		if err != nil {
			s.t.Fatal(err)
		}
	}
	var err error
	s.DB, err = sqlstore.Open(ctx, filepath.Join(s.Dir, "slipway.db"))
	must(err)
	s.Keys, err = secret.OpenKeys(filepath.Join(s.Dir, "secret.key"))
	must(err)
	blobs, err := blob.OpenDir(filepath.Join(s.Dir, "blobs"))
	must(err)
	s.Logs, err = runlog.Open(ctx, filepath.Join(s.Dir, "logs"), blobs, runlog.Options{})
	must(err)
	s.Auth = &auth.Authority{Tokens: s.DB, Jobs: s.DB, Key: []byte("a key of at least 32 bytes, for tests"), Now: s.Clock.Now}
	s.Flow = flow.New(flow.Options{
		Store: s.DB, Logs: s.Logs, Keys: s.Keys, Auth: s.Auth, Now: s.Clock.Now,
		Forges: map[string]forge.Forge{Kind: s.Forge},
		System: plan.System{Proto: "https", Host: "slipway.example.com", Registry: "slipway.example.com"},
		URL:    "https://slipway.example.com", Registry: "slipway.example.com", Mirrors: []string{"docker.io"}, Log: slog.New(slog.DiscardHandler),
	})
}

func (s *Server) close(patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s.Flow.Close(ctx)
	if err := s.Logs.Close(); err != nil {
		s.t.Error(err)
	}
	if err := s.DB.Close(); err != nil {
		s.t.Error(err)
	}
}

// Restart puts a new flow in the old one's place, as after the death of the process, and recovers.
func (s *Server) Restart() {
	s.t.Helper()
	s.close(time.Minute)
	s.open()
	if err := s.Recover(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
}

// Push accepts a push of a commit that has the given .drone.yml.
func (s *Server) Push(file string) ci.Run {
	s.t.Helper()
	run, skip, err := s.Accept(s.t.Context(), Repo, s.Event(file))
	if err != nil || skip != "" {
		s.t.Fatalf("Accept: skip %q, error %v", skip, err)
	}
	return run
}

// Event returns the push of a new commit that has the given .drone.yml.
func (s *Server) Event(file string) ci.Event {
	commit := s.Forge.Commit(map[string]string{".drone.yml": file})
	return ci.Event{
		Kind: ci.Push, Delivery: "delivery of " + commit, Ref: "refs/heads/main", After: commit, Source: "main", Target: "main", Sender: "ada",
		Commit: ci.Commit{Message: "Grind the cogs", Author: ci.Signature{Name: "Ada", Email: "ada@example.com", Time: s.Clock.Now()}},
	}
}

// PullRequest returns the pull request of a new commit that has the given .drone.yml.
func (s *Server) PullRequest(file string, fork bool) ci.Event {
	event := s.Event(file)
	event.Kind, event.Ref, event.Source = ci.PullRequest, "refs/pull/1/head", "topic"
	event.PullRequest = &ci.Change{Number: 1, Title: "Grind more cogs", Fork: fork, HeadRepo: "eve/engine"}
	return event
}

// Run returns a run of [Repo] as it stands.
func (s *Server) Run(number int64) ci.Run {
	s.t.Helper()
	run, err := s.FindRun(s.t.Context(), Repo, number)
	if err != nil {
		s.t.Fatal(err)
	}
	return run
}

// Await waits until a run of [Repo] is as the condition says.
func (s *Server) Await(number int64, condition func(ci.Run) bool) ci.Run {
	s.t.Helper()
	changes, stop := s.Changes()
	defer stop()
	limit := time.NewTimer(2 * time.Minute) // a test that waits in vain shall say for what
	defer limit.Stop()
	for {
		run := s.Run(number)
		if condition(run) {
			return run
		}
		select {
		case <-changes:
		case <-limit.C:
			s.t.Fatalf("run %d does not come to what the test waits for; it is %+v", number, run)
		}
	}
}

// Log returns what the log of a step has, by the numbers of job and step.
func (s *Server) Log(run ci.Run, job, step int) string {
	s.t.Helper()
	if len(run.Jobs) < job || len(run.Jobs[job-1].Steps) < step {
		s.t.Fatalf("the run has no step %d in job %d: %+v", step, job, run)
	}
	var text logBuffer
	if err := s.CopyLog(s.t.Context(), &text, run.Jobs[job-1].ID, step, 0, false); err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

type logBuffer []byte

func (b *logBuffer) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	return len(p), nil
}

// Clock is a clock that tests may set forward. Its zero value goes with the machine's.
type Clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

// Now returns the time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

// Forward sets the clock forward.
func (c *Clock) Forward(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

// Kind is the kind of [Forge].
const Kind = "gitea"

// Forge is a forge in memory. Its zero value is ready.
type Forge struct {
	mu       sync.Mutex
	commits  map[string]map[string]string
	statuses []forge.Status
	comments []forge.Comment
	failing  error
	reported chan struct{}
	// CloneURL is what Describe says; empty means an address that nobody answers at.
	CloneURL string
}

var (
	_ forge.Forge     = (*Forge)(nil)
	_ forge.Commenter = (*Forge)(nil)
)

// Commit adds a commit with files, and returns its hash.
func (f *Forge) Commit(files map[string]string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.commits == nil {
		f.commits = map[string]map[string]string{}
	}
	hash := fmt.Sprintf("%040x", len(f.commits)+1)
	f.commits[hash] = files
	return hash
}

// Put adds files to a commit whose hash is known.
func (f *Forge) Put(hash string, files map[string]string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.commits == nil {
		f.commits = map[string]map[string]string{}
	}
	f.commits[hash] = files
}

// Fail makes reading and reporting fail with err, or work again if it is nil.
func (f *Forge) Fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failing = err
}

// Statuses returns what was reported of a commit, in order.
func (f *Forge) Statuses(commit string) (states []forge.Status) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.statuses {
		if s.Commit == commit {
			states = append(states, s)
		}
	}
	return states
}

// AwaitStatus waits until the newest status of a commit is the given one.
func (f *Forge) AwaitStatus(t testing.TB, commit string, want ci.Status) forge.Status {
	t.Helper()
	limit := time.NewTimer(2 * time.Minute)
	defer limit.Stop()
	for {
		f.mu.Lock()
		if f.reported == nil {
			f.reported = make(chan struct{})
		}
		next := f.reported
		f.mu.Unlock()
		all := f.Statuses(commit)
		if len(all) > 0 && all[len(all)-1].State == want {
			return all[len(all)-1]
		}
		select {
		case <-next:
		case <-limit.C:
			t.Fatalf("the forge was not told of status %s; it has %+v", want, all)
		}
	}
}

// Describe implements [forge.Forge].
func (f *Forge) Describe(_ context.Context, repo forge.Repo) (ci.Repo, error) {
	described := repo.Repo
	described.Branch, described.Private = "main", true
	described.CloneURL = f.CloneURL
	if described.CloneURL == "" {
		described.CloneURL = "https://git.example.com/" + repo.Name + ".git"
	}
	return described, nil
}

// Register implements [forge.Forge].
func (f *Forge) Register(context.Context, forge.Repo, string) error { return nil }

// Hook implements [forge.Forge]. A body is genuine when it is the webhook's secret, and then a push of the first commit.
func (f *Forge) Hook(_ context.Context, repo forge.Repo, header http.Header, body []byte) (ci.Event, string, error) {
	if string(body) != repo.WebhookSecret {
		return ci.Event{}, "", forge.ErrForged
	}
	if header["Ping"] != nil {
		return ci.Event{}, "it is a ping", nil
	}
	return ci.Event{Kind: ci.Push, Delivery: "hook", Ref: "refs/heads/main", After: fmt.Sprintf("%040x", 1), Target: "main"}, "", nil
}

// File implements [forge.Forge].
func (f *Forge) File(_ context.Context, _ forge.Repo, commit, path string) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failing != nil {
		return nil, f.failing
	}
	text, ok := f.commits[commit][path]
	if !ok {
		return nil, forge.ErrNotFound
	}
	return []byte(text), nil
}

// Report implements [forge.Forge].
func (f *Forge) Report(_ context.Context, _ forge.Repo, status forge.Status) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failing != nil {
		return f.failing
	}
	f.statuses = append(f.statuses, status)
	f.wake()
	return nil
}

// Comment implements [forge.Commenter].
func (f *Forge) Comment(_ context.Context, _ forge.Repo, comment forge.Comment) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failing != nil {
		return f.failing
	}
	f.comments = append(f.comments, comment)
	f.wake()
	return nil
}

// wake wakes who waits for a report. The caller holds the lock.
func (f *Forge) wake() {
	if f.reported != nil {
		close(f.reported)
		f.reported = nil
	}
}

// AwaitComment waits until the newest comment on a pull request has all of the parts.
func (f *Forge) AwaitComment(t testing.TB, change int64, parts ...string) forge.Comment {
	t.Helper()
	limit := time.NewTimer(2 * time.Minute)
	defer limit.Stop()
	for {
		f.mu.Lock()
		if f.reported == nil {
			f.reported = make(chan struct{})
		}
		next, all := f.reported, f.comments
		f.mu.Unlock()
		for _, comment := range slices.Backward(all) {
			if comment.Change != change {
				continue
			}
			if !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(comment.Body, part) }) {
				return comment
			}
			break
		}
		select {
		case <-next:
		case <-limit.C:
			t.Fatalf("there was no comment with all of %q; there are %+v", parts, all)
		}
	}
}
