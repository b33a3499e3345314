package sqlstore

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"slipway/internal/ci"
	"slipway/internal/plan"
	"slipway/internal/store"
)

// wants is what a job asks of its runner. Jobs of equal wishes stand in one line of the queue; there are few lines, however
// many jobs wait.
type wants struct {
	OS     string            `json:"os,omitempty"`
	Arch   string            `json:"arch,omitempty"`
	Labels map[string]string `json:"labels,omitempty"` // json.Marshal sorts them
}

// fit reports whether the runner that makes claim has what w asks for.
func (w wants) fit(claim store.Claim) bool {
	if (w.OS != "" && w.OS != claim.OS) || (w.Arch != "" && w.Arch != claim.Arch) {
		return false
	}
	for key, value := range w.Labels {
		if have, ok := claim.Labels[key]; !ok || have != value {
			return false
		}
	}
	return true
}

// wishes returns a function that finds what the plan of draft, the new one or else the stored one, says that a job asks
// of its runner. The plan is loaded when it is first needed.
func wishes(ctx context.Context, t *tx, draft *store.Draft) func(job string) (wants, error) {
	var known map[string]wants
	return func(job string) (wants, error) {
		if known == nil {
			var p plan.Plan
			if draft.Plan != nil {
				p = *draft.Plan
			} else {
				var err error
				if p, err = loadPlan(ctx, t, draft.ID); err != nil && !errors.Is(err, store.ErrNotFound) {
					return wants{}, err
				}
			}
			known = make(map[string]wants, len(p.Jobs))
			for _, job := range p.Jobs {
				known[job.Name] = wants{job.OS, job.Arch, job.Labels}
			}
		}
		return known[job], nil
	}
}

// line is the jobs of one wish that wait, and the first of them.
type line struct {
	wants string
	first int64
}

func scanLine(row scanner) (l line, err error) { return l, row.Scan(&l.wants, &l.first) }

// Claim implements [store.Queue].
func (db *DB) Claim(ctx context.Context, claim store.Claim) (run ci.Run, jobID int64, err error) {
	// A look without a lock: most claims find nothing, and should not stand in the way of who writes.
	var lines []line
	err = db.read(ctx, func(t *tx) error {
		lines, err = fittingLines(ctx, t, claim)
		return err
	})
	if err != nil {
		return ci.Run{}, 0, err
	}
	if len(lines) == 0 {
		return ci.Run{}, 0, store.ErrNotFound
	}
	err = db.tx(ctx, func(t *tx) error {
		for {
			lines, err := fittingLines(ctx, t, claim)
			if err != nil {
				return err
			}
			if len(lines) == 0 {
				return store.ErrNotFound
			}
			runID, err := lockFirst(ctx, t, lines)
			if err == nil {
				jobID, err = firstOfRun(ctx, t, runID, lines)
			}
			if errors.Is(err, store.ErrNotFound) {
				continue // another claim was faster while this one waited for the lock; now no other can be
			} else if err != nil {
				return err
			}
			if _, err := t.exec(ctx, `
				UPDATE jobs SET status = ?, runner = ?, started = ?, lease_hash = ?, lease_until = ?, lease_seq = ?
				WHERE id = ?`,
				string(ci.Running), claim.Runner, instant(claim.Now), blob(claim.Lease.Hash), instant(claim.Lease.Until),
				claim.Lease.Seq, jobID); err != nil {
				return err
			}
			run, err = loadRun(ctx, t, runID)
			return err
		}
	})
	return run, jobID, err
}

// fittingLines returns the lines of the queue that claim fits, the one whose first job is oldest first. It steps through
// the index from line to line, and never along one. (The smallest ID of WHERE wants = ? would be the same, but
// PostgreSQL may look for that along the primary key, past all jobs that are done.)
func fittingLines(ctx context.Context, t *tx, claim store.Claim) ([]line, error) {
	var fitting []line
	for l := (line{}); ; {
		var err error
		l, err = one(ctx, t, scanLine, `
			SELECT wants, id FROM jobs WHERE status = 'pending' AND wants > ? ORDER BY wants, id LIMIT 1`, l.wants)
		if errors.Is(err, store.ErrNotFound) {
			break
		} else if err != nil {
			return nil, err
		}
		var w wants
		if err := json.Unmarshal([]byte(l.wants), &w); err != nil {
			return nil, fmt.Errorf("what job %d asks of its runner: %w", l.first, err)
		}
		if w.fit(claim) {
			fitting = append(fitting, l)
		}
	}
	slices.SortFunc(fitting, func(a, b line) int { return cmp.Compare(a.first, b.first) })
	return fitting, nil
}

// lockFirst locks the run of the first job in lines and returns its ID. Runs that other transactions have locked are
// passed over if there is another one, so that claims don't wait for each other.
func lockFirst(ctx context.Context, t *tx, lines []line) (int64, error) {
	if t.db.dialect.numbered {
		for _, l := range lines {
			runID, err := one(ctx, t, value[int64], `
				SELECT runs.id FROM jobs JOIN runs ON runs.id = run_id
				WHERE jobs.status = 'pending' AND wants BETWEEN ? AND ?
				ORDER BY wants, jobs.id LIMIT 1 FOR UPDATE OF runs SKIP LOCKED`, l.wants, l.wants)
			if !errors.Is(err, store.ErrNotFound) {
				return runID, err
			}
		}
	}
	runID, err := one(ctx, t, value[int64], `SELECT run_id FROM jobs WHERE id = ?`, lines[0].first)
	if err != nil {
		return 0, err
	}
	return runID, lockRun(ctx, t, runID)
}

// firstOfRun returns the oldest pending job of a run that stands in one of lines.
func firstOfRun(ctx context.Context, t *tx, runID int64, lines []line) (int64, error) {
	waiting, err := list(ctx, t, scanLine, `
		SELECT wants, id FROM jobs WHERE run_id = ? AND status = 'pending' ORDER BY id`, runID)
	if err != nil {
		return 0, err
	}
	for _, job := range waiting {
		if slices.ContainsFunc(lines, func(l line) bool { return l.wants == job.wants }) {
			return job.first, nil
		}
	}
	return 0, store.ErrNotFound
}

// FindLease implements [store.Queue].
func (db *DB) FindLease(ctx context.Context, hash []byte) (run ci.Run, jobID int64, err error) {
	if len(hash) == 0 {
		return ci.Run{}, 0, store.ErrNotFound
	}
	err = db.read(ctx, func(t *tx) error {
		var runID int64
		if err := t.get(ctx, `SELECT run_id, id FROM jobs WHERE status = 'running' AND lease_hash = ?`,
			[]any{hash}, &runID, &jobID); err != nil {
			return err
		}
		run, err = loadRun(ctx, t, runID)
		return err
	})
	return run, jobID, err
}

// FindRunning implements [store.Queue].
func (db *DB) FindRunning(ctx context.Context, jobID int64) (run ci.Run, err error) {
	err = db.read(ctx, func(t *tx) error {
		var runID int64
		if err := t.get(ctx, `SELECT run_id FROM jobs WHERE status = 'running' AND id = ?`, []any{jobID}, &runID); err != nil {
			return err
		}
		run, err = loadRun(ctx, t, runID)
		return err
	})
	return run, err
}

// ExpiredLeases implements [store.Queue].
func (db *DB) ExpiredLeases(ctx context.Context, now time.Time) (jobs []ci.Job, err error) {
	err = db.read(ctx, func(t *tx) error {
		const expired = `jobs.status = 'running' AND lease_until < ? `
		jobs, err = list(ctx, t, scanJob, selectJob+`WHERE `+expired+`ORDER BY id`, instant(now))
		if err != nil {
			return err
		}
		steps, err := list(ctx, t, scanStep, selectStep+`WHERE `+expired+`ORDER BY job_id, steps.number`, instant(now))
		if err != nil {
			return err
		}
		addSteps(jobs, steps)
		return nil
	})
	return jobs, err
}
