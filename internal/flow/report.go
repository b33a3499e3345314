package flow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"slipway/internal/ci"
	"slipway/internal/forge"
	"slipway/internal/store"
)

// report writes the state of a run to its forge, as a commit status.
func (f *Flow) report(ctx context.Context, run ci.Run) error {
	if run.Event.Order != nil {
		return nil // it says nothing of the commit
	}
	at, known, err := f.audience(ctx, run)
	if err != nil || at == nil {
		return err
	}
	return at.Report(ctx, known, forge.Status{
		Commit: run.Event.After, Context: forge.Context(run.Event.Kind), State: run.Status,
		Description: describe(run), Link: f.Link(run.Repo, run.Number),
	})
}

// audience returns the forge of a run's repo; nil if the repo was removed, and nobody is left to tell.
func (f *Flow) audience(ctx context.Context, run ci.Run) (forge.Forge, forge.Repo, error) {
	repo, err := f.Store.FindRepo(ctx, run.Repo)
	if errors.Is(err, store.ErrNotFound) {
		return nil, forge.Repo{}, nil
	}
	if err != nil {
		return nil, forge.Repo{}, err
	}
	return f.forgeOf(repo)
}

// describe says in one line how a run stands.
func describe(run ci.Run) string {
	switch run.Status {
	case ci.Pending:
		return fmt.Sprintf("run %d waits for a runner", run.Number)
	case ci.Running:
		return fmt.Sprintf("run %d is running", run.Number)
	case ci.Success:
		return fmt.Sprintf("run %d succeeded in %s", run.Number, run.Finished.Sub(run.Started).Round(time.Second))
	}
	text := fmt.Sprintf("run %d: %s", run.Number, run.Status)
	if first, _, _ := strings.Cut(run.Message, "\n"); first != "" {
		text += ": " + first
	}
	return text
}

// reporter tells forges of runs in the background: each commit status, and each comment, in a goroutine of its own, so that
// a forge that is away holds up nobody else, and always with the newest state of the newest run. Where that was not told
// because the server died, [Flow.Recover] tells it again.
type reporter struct {
	telling
	log *slog.Logger

	// ctx ends with the reporter: then what is on its way is given up.
	ctx  context.Context
	stop context.CancelFunc
	work sync.WaitGroup

	mu      sync.Mutex
	pending map[statusKey]*statusQueue // those that have a goroutine
	closed  bool
}

// statusKey names a commit status, or a comment: a restarted run writes over the one of the run that it repeats.
type statusKey struct{ repo, commit, context string }

func keyOf(run ci.Run) statusKey {
	return statusKey{run.Repo, run.Event.After, forge.Context(run.Event.Kind)}
}

// statusQueue is what shall be told of a commit status.
type statusQueue struct {
	next   *ci.Run       // not told yet, or nil
	newest int64         // the number of the newest run
	wake   chan struct{} // has room for one signal that there is something newer
}

// telling is what a reporter tells, and where.
type telling struct {
	report func(context.Context, ci.Run) error
	// key names what is written: a commit status or a comment.
	key func(ci.Run) statusKey
	// same reports whether what was told of one state of a run is as true of another.
	same func(told, run ci.Run) bool
}

// statuses are told by report, each once.
func statuses(report func(context.Context, ci.Run) error) telling {
	return telling{report, keyOf, func(told, run ci.Run) bool { return run.Status == told.Status && run.Number == told.Number }}
}

// remarks on pull requests are told by report, each time that there is more to say of the same run.
func remarks(report func(context.Context, ci.Run) error) telling {
	return telling{report, remarkKey, func(ci.Run, ci.Run) bool { return false }}
}

func newReporter(what telling, log *slog.Logger) *reporter {
	r := &reporter{telling: what, log: log, pending: map[statusKey]*statusQueue{}}
	r.ctx, r.stop = context.WithCancel(context.Background())
	return r
}

// reportTime bounds the attempts to tell one state, so that a forge that is gone for good is given up.
const reportTime = 10 * time.Minute

func (r *reporter) put(run ci.Run) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	key := r.key(run)
	queue, busy := r.pending[key]
	if !busy {
		queue = &statusQueue{wake: make(chan struct{}, 1)}
		r.pending[key] = queue
		r.work.Go(func() { r.tell(key, queue) })
	}
	if run.Number < queue.newest {
		return
	}
	queue.next, queue.newest = &run, run.Number
	queue.signal()
}

func (q *statusQueue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// tell tells what is in a queue until there is nothing newer.
func (r *reporter) tell(key statusKey, queue *statusQueue) {
	var told ci.Run
	for {
		r.mu.Lock()
		run := queue.next
		queue.next = nil
		if run == nil {
			delete(r.pending, key)
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		if r.same(told, *run) {
			continue
		}
		if err := r.insist(*run, queue); err != nil {
			r.log.Warn("cannot tell the forge of a run", "repo", run.Repo, "run", run.Number, "status", run.Status, "error", err)
		} else {
			told = *run
		}
	}
}

// insist reports until it succeeds, trying again is of no use, a newer state takes its place, or the reporter closes.
func (r *reporter) insist(run ci.Run, queue *statusQueue) error {
	ctx, cancel := context.WithTimeout(r.ctx, reportTime)
	defer cancel()
	select {
	case <-queue.wake: // what it announced is what is told now
	default:
	}
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		attempt, cancel := context.WithTimeout(ctx, 20*time.Second)
		err := r.report(attempt, run)
		cancel()
		if err == nil || errors.Is(err, forge.ErrDenied) || errors.Is(err, forge.ErrNotFound) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-queue.wake:
			return err
		case <-time.After(wait):
		}
		if r.isClosed() {
			return err
		}
	}
}

func (r *reporter) isClosed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed
}

// close waits for what is on its way, and gives it up when ctx is done. What failed before is not tried again.
func (r *reporter) close(ctx context.Context) {
	r.mu.Lock()
	r.closed = true
	for _, queue := range r.pending {
		queue.signal()
	}
	r.mu.Unlock()
	defer context.AfterFunc(ctx, r.stop)()
	r.work.Wait()
	r.stop()
}
