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
)

// report writes the state of a run to its forge, as a commit status.
func (f *Flow) report(ctx context.Context, run ci.Run) error {
	repo, err := f.findRepo(ctx, run.Repo)
	if err != nil {
		return err
	}
	at, known, err := f.forgeOf(repo)
	if err != nil {
		return err
	}
	return at.Report(ctx, known, forge.Status{
		Commit: run.Event.After, Context: forge.Context(run.Event.Kind), State: run.Status,
		Description: describe(run), Link: f.Link(run.Repo, run.Number),
	})
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

// reporter tells forges of runs in the background: each run in a goroutine of its own, so that a forge that is away
// holds up nobody else, and always with the newest state. Where that was not told because the server died,
// [Flow.Recover] tells it again.
type reporter struct {
	report func(context.Context, ci.Run) error
	log    *slog.Logger

	mu sync.Mutex
	// pending has an entry for each run that has a goroutine: the state that it shall tell next, or nil.
	pending map[int64]*ci.Run
	closed  bool
	work    sync.WaitGroup
}

// reportTime bounds the attempts to tell one state, so that a forge that is gone for good is given up.
const reportTime = 10 * time.Minute

func (r *reporter) put(run ci.Run) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	_, busy := r.pending[run.ID]
	r.pending[run.ID] = &run
	if !busy {
		r.work.Go(func() { r.tell(run.ID) })
	}
}

// tell tells the states of one run until there is no newer one.
func (r *reporter) tell(id int64) {
	var told ci.Status
	for {
		r.mu.Lock()
		run := r.pending[id]
		if run == nil {
			delete(r.pending, id)
			r.mu.Unlock()
			return
		}
		r.pending[id] = nil
		r.mu.Unlock()
		if run.Status == told {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), reportTime)
		if err := r.insist(ctx, *run); err != nil {
			r.log.Warn("cannot tell the forge of a run", "repo", run.Repo, "run", run.Number, "status", run.Status, "error", err)
		} else {
			told = run.Status
		}
		cancel()
	}
}

// insist reports until it succeeds, a newer state makes it pointless, the reporter closes, or ctx is done.
func (r *reporter) insist(ctx context.Context, run ci.Run) error {
	for wait := time.Second; ; wait = min(2*wait, time.Minute) {
		attempt, cancel := context.WithTimeout(ctx, 20*time.Second)
		err := r.report(attempt, run)
		cancel()
		if err == nil || errors.Is(err, forge.ErrDenied) || errors.Is(err, forge.ErrNotFound) || r.pointless(run.ID) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
	}
}

func (r *reporter) pointless(id int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed || r.pending[id] != nil
}

// close waits for what is on its way. After the first failure from now on, a state is given up.
func (r *reporter) close(ctx context.Context) error {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	done := make(chan struct{})
	go func() { r.work.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("tell forges of runs: %w", ctx.Err())
	}
}
