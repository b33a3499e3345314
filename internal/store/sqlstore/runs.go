package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"slipway/internal/ci"
	"slipway/internal/plan"
	"slipway/internal/store"
)

// CreateRun implements [store.Runs].
func (db *DB) CreateRun(ctx context.Context, run *ci.Run) error {
	if len(run.Jobs) > 0 || len(run.Images) > 0 {
		return fmt.Errorf("create a run of %s: a new run has no jobs and no images; UpdateRun adds them", run.Repo)
	}
	stored := *run
	normalize(&stored)
	stored.Event.Commit.Author.Time = utc(stored.Event.Commit.Author.Time)
	err := db.tx(ctx, func(t *tx) error {
		// The row of the repo is the lock: of two runs one gets its number, and finds its delivery, after the other.
		var repoID int64
		err := t.get(ctx, `UPDATE repos SET last_run = last_run + 1 WHERE name = ? RETURNING id, last_run`,
			[]any{run.Repo}, &repoID, &stored.Number)
		if errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("repo %q: %w", run.Repo, err)
		} else if err != nil {
			return err
		}
		if run.Event.Delivery != "" {
			first, err := one(ctx, t, value[int64], `SELECT id FROM runs WHERE repo_id = ? AND delivery = ? AND ref = ?`,
				repoID, run.Event.Delivery, run.Event.Ref)
			if err == nil {
				if stored, err = loadRun(ctx, t, first); err != nil {
					return err
				}
				return store.ErrExists // which also takes the number back
			}
			if !errors.Is(err, store.ErrNotFound) {
				return err
			}
		}
		return t.get(ctx, `
			INSERT INTO runs (repo_id, number, parent, ref, delivery, event, status, done, message, warnings, created,
				started, finished)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id`,
			[]any{
				repoID, stored.Number, stored.Parent, stored.Event.Ref, stored.Event.Delivery,
				object{stored.Event},
				string(stored.Status), stored.Status.Done(), stored.Message,
				object{stored.Warnings},
				instant(stored.Created), instant(stored.Started), instant(stored.Finished),
			},
			&stored.ID)
	})
	if err == nil || errors.Is(err, store.ErrExists) {
		*run = stored
	}
	return err
}

// FindRun implements [store.Runs].
func (db *DB) FindRun(ctx context.Context, repo string, number int64) (run ci.Run, err error) {
	err = db.read(ctx, func(t *tx) error {
		id, err := one(ctx, t, value[int64], `
			SELECT id FROM runs WHERE repo_id = (SELECT id FROM repos WHERE name = ?) AND number = ?`, repo, number)
		if err != nil {
			return err
		}
		run, err = loadRun(ctx, t, id)
		return err
	})
	return run, err
}

// FindPlan implements [store.Runs].
func (db *DB) FindPlan(ctx context.Context, runID int64) (p plan.Plan, err error) {
	err = db.read(ctx, func(t *tx) error {
		p, err = loadPlan(ctx, t, runID)
		return err
	})
	return p, err
}

func loadPlan(ctx context.Context, t *tx, runID int64) (p plan.Plan, err error) {
	err = t.get(ctx, `SELECT plan FROM runs WHERE id = ? AND plan IS NOT NULL`, []any{runID}, object{&p})
	return p, err
}

const selectRun = `
	SELECT runs.id, repos.name, number, parent, event, status, message, warnings, runs.created, started, finished
	FROM runs JOIN repos ON repos.id = repo_id `

func scanRun(row scanner) (run ci.Run, err error) {
	err = row.Scan(&run.ID, &run.Repo, &run.Number, &run.Parent, object{&run.Event}, (*string)(&run.Status),
		&run.Message, object{&run.Warnings}, (*instant)(&run.Created), (*instant)(&run.Started),
		(*instant)(&run.Finished))
	return run, err
}

// ListRuns implements [store.Runs].
func (db *DB) ListRuns(ctx context.Context, filter store.RunFilter) (runs []ci.Run, err error) {
	var asked conditions
	asked.add(`repo_id = (SELECT id FROM repos WHERE name = ?)`, filter.Repo != "", filter.Repo)
	asked.add(`repo_id IN (SELECT id FROM repos WHERE name IN {list})`, filter.Repos != nil, object{filter.Repos})
	if n := len(filter.Numbers); n > 0 {
		var numbers []any
		for _, number := range filter.Numbers {
			numbers = append(numbers, number)
		}
		asked.add(`runs.number IN (?`+strings.Repeat(", ?", n-1)+`)`, true, numbers...)
	}
	asked.add(`runs.id < ?`, filter.Before > 0, filter.Before)
	asked.add(`runs.id IN (SELECT run_id FROM images WHERE ref = ? OR digest = ?)`, filter.Image != "", filter.Image, filter.Image)
	asked.add(`done = FALSE`, filter.Unfinished) // as the index says it
	query := selectRun + asked.where() + ` ORDER BY runs.id DESC`
	if !filter.Unfinished {
		query, asked.args = query+` LIMIT ?`, append(asked.args, rowLimit(filter.Limit))
	}
	err = db.read(ctx, func(t *tx) error {
		runs, err = list(ctx, t, scanRun, query, asked.args...)
		return err
	})
	return runs, err
}

// loadRun returns a run with its jobs, steps and images.
func loadRun(ctx context.Context, t *tx, id int64) (ci.Run, error) {
	run, err := one(ctx, t, scanRun, selectRun+`WHERE runs.id = ?`, id)
	if err != nil {
		return ci.Run{}, err
	}
	if run.Jobs, err = list(ctx, t, scanJob, selectJob+`WHERE run_id = ? ORDER BY number`, id); err != nil {
		return ci.Run{}, err
	}
	steps, err := list(ctx, t, scanStep, selectStep+`WHERE run_id = ? ORDER BY job_id, steps.number`, id)
	if err != nil {
		return ci.Run{}, err
	}
	addSteps(run.Jobs, steps)
	run.Images, err = list(ctx, t, scanImage, `SELECT ref, digest FROM images WHERE run_id = ? ORDER BY number`, id)
	return run, err
}

const selectJob = `
	SELECT id, run_id, number, name, needs, status, message, runner, started, finished, cancel, lease_hash, lease_until,
		lease_seq
	FROM jobs `

func scanJob(row scanner) (job ci.Job, err error) {
	err = row.Scan(&job.ID, &job.RunID, &job.Number, &job.Name, object{&job.Needs}, (*string)(&job.Status),
		&job.Message, &job.Runner, (*instant)(&job.Started), (*instant)(&job.Finished), &job.Cancel, &job.Lease.Hash,
		(*instant)(&job.Lease.Until), &job.Lease.Seq)
	return job, err
}

const selectStep = `
	SELECT job_id, steps.number, steps.name, kind, image, steps.needs, detach, steps.status, exit_code, steps.message,
		steps.started, steps.finished
	FROM steps JOIN jobs ON jobs.id = job_id `

// jobStep is a step and the job that it belongs to.
type jobStep struct {
	jobID int64
	ci.Step
}

func scanStep(row scanner) (s jobStep, err error) {
	err = row.Scan(&s.jobID, &s.Number, &s.Name, &s.Kind, &s.Image, object{&s.Needs}, &s.Detach, (*string)(&s.Status),
		&s.ExitCode, &s.Message, (*instant)(&s.Started), (*instant)(&s.Finished))
	return s, err
}

// addSteps gives each job its steps, which come in order.
func addSteps(jobs []ci.Job, steps []jobStep) {
	index := make(map[int64]*ci.Job, len(jobs))
	for i := range jobs {
		index[jobs[i].ID] = &jobs[i]
	}
	for _, s := range steps {
		index[s.jobID].Steps = append(index[s.jobID].Steps, s.Step)
	}
}

func scanImage(row scanner) (image ci.Image, err error) {
	return image, row.Scan(&image.Ref, &image.Digest)
}

// lockRun keeps other writers from the run, its jobs and its steps until the transaction ends.
func lockRun(ctx context.Context, t *tx, id int64) error {
	_, err := one(ctx, t, value[int64], `SELECT id FROM runs WHERE id = ? {update}`, id)
	return err
}

// UpdateRun implements [store.Runs].
func (db *DB) UpdateRun(ctx context.Context, runID int64, update func(*store.Draft) error) (ci.Run, error) {
	var draft store.Draft
	err := db.tx(ctx, func(t *tx) error {
		if err := lockRun(ctx, t, runID); err != nil {
			return err
		}
		before, err := loadRun(ctx, t, runID)
		if err != nil {
			return err
		}
		draft = store.Draft{Run: clone(before)}
		if err := update(&draft); err != nil {
			return err
		}
		normalize(&draft.Run)
		if err := saveRun(ctx, t, before, &draft); err != nil {
			return fmt.Errorf("update run %d of %s: %w", before.Number, before.Repo, err)
		}
		return nil
	})
	if err != nil {
		return ci.Run{}, err
	}
	return draft.Run, nil
}

// clone returns a copy of run that update may change without changing run.
func clone(run ci.Run) ci.Run {
	run.Warnings = slices.Clone(run.Warnings)
	run.Images = slices.Clone(run.Images)
	run.Jobs = slices.Clone(run.Jobs)
	for i := range run.Jobs {
		job := &run.Jobs[i]
		job.Needs = slices.Clone(job.Needs)
		job.Lease.Hash = slices.Clone(job.Lease.Hash)
		job.Steps = slices.Clone(job.Steps)
		for k := range job.Steps {
			job.Steps[k].Needs = slices.Clone(job.Steps[k].Needs)
		}
	}
	return run
}

// normalize gives run the form that it has when it is loaded: times in UTC, texts that both databases take, numbers.
func normalize(run *ci.Run) {
	run.Message = text(run.Message)
	run.Created, run.Started, run.Finished = utc(run.Created), utc(run.Started), utc(run.Finished)
	for i := range run.Jobs {
		job := &run.Jobs[i]
		job.RunID = run.ID
		if job.Number == 0 {
			job.Number = i + 1
		}
		job.Message = text(job.Message)
		job.Started, job.Finished, job.Lease.Until = utc(job.Started), utc(job.Finished), utc(job.Lease.Until)
		if len(job.Lease.Hash) == 0 {
			job.Lease.Hash = nil
		}
		for k := range job.Steps {
			step := &job.Steps[k]
			if step.Number == 0 {
				step.Number = k + 1
			}
			step.Message = text(step.Message)
			step.Started, step.Finished = utc(step.Started), utc(step.Finished)
		}
	}
}

// saveRun stores what differs between before and draft.
func saveRun(ctx context.Context, t *tx, before ci.Run, draft *store.Draft) error {
	after := &draft.Run
	if after.ID != before.ID || after.Repo != before.Repo || after.Number != before.Number ||
		after.Parent != before.Parent || !after.Created.Equal(before.Created) || !reflect.DeepEqual(after.Event, before.Event) {
		return errors.New("its ID, repo, number, parent, event and time of creation cannot change")
	}
	if after.Status != before.Status || after.Message != before.Message || !slices.Equal(after.Warnings, before.Warnings) ||
		!after.Started.Equal(before.Started) || !after.Finished.Equal(before.Finished) {
		if _, err := t.exec(ctx, `
			UPDATE runs SET status = ?, done = ?, message = ?, warnings = ?, started = ?, finished = ? WHERE id = ?`,
			string(after.Status), after.Status.Done(), after.Message, object{after.Warnings}, instant(after.Started),
			instant(after.Finished), after.ID); err != nil {
			return err
		}
	}
	if draft.Plan != nil {
		if _, err := t.exec(ctx, `UPDATE runs SET plan = ? WHERE id = ?`, object{draft.Plan}, after.ID); err != nil {
			return err
		}
	}
	if err := saveJobs(ctx, t, before.Jobs, draft); err != nil {
		return err
	}
	return saveImages(ctx, t, before, after)
}

// saveImages stores the images that before does not have.
func saveImages(ctx context.Context, t *tx, before ci.Run, after *ci.Run) error {
	if len(after.Images) < len(before.Images) || !slices.Equal(before.Images, after.Images[:len(before.Images)]) {
		return errors.New("images may be added, but neither changed nor removed")
	}
	for i := len(before.Images); i < len(after.Images); i++ {
		if _, err := t.exec(ctx, `INSERT INTO images (run_id, number, ref, digest) VALUES (?, ?, ?, ?)`,
			after.ID, i+1, after.Images[i].Ref, after.Images[i].Digest); err != nil {
			return err
		}
	}
	return nil
}

// saveJobs stores the jobs and steps that differ from before, gives new jobs their IDs, and notes what jobs ask of their
// runners, for [DB.Claim].
func saveJobs(ctx context.Context, t *tx, before []ci.Job, draft *store.Draft) error {
	known := make(map[int64]ci.Job, len(before))
	for _, job := range before {
		known[job.ID] = job
	}
	wish := wishes(ctx, t, draft)
	for i := range draft.Jobs {
		job := &draft.Jobs[i]
		old, exists := known[job.ID]
		delete(known, job.ID)
		switch {
		case job.ID == 0:
			asks, err := wish(job.Name)
			if err != nil {
				return err
			}
			if err := insertJob(ctx, t, job, asks); err != nil {
				return err
			}
		case !exists:
			return fmt.Errorf("job %d is not one of its jobs, or is there twice", job.ID)
		default:
			if !sameJob(old, *job) {
				if err := updateJob(ctx, t, *job); err != nil {
					return err
				}
			}
			if draft.Plan != nil || old.Name != job.Name {
				asks, err := wish(job.Name)
				if err != nil {
					return err
				}
				if _, err := t.exec(ctx, `UPDATE jobs SET wants = ? WHERE id = ?`, object{asks}, job.ID); err != nil {
					return err
				}
			}
		}
		if err := saveSteps(ctx, t, old.Steps, *job); err != nil {
			return err
		}
	}
	if len(known) > 0 {
		return errors.New("jobs may be added and changed, but not removed")
	}
	return nil
}

// saveSteps stores the steps of job that differ from before.
func saveSteps(ctx context.Context, t *tx, before []ci.Step, job ci.Job) error {
	known := make(map[int]ci.Step, len(before))
	for _, step := range before {
		known[step.Number] = step
	}
	for _, step := range job.Steps {
		old, exists := known[step.Number]
		delete(known, step.Number)
		if exists && sameStep(old, step) {
			continue
		}
		statement := `
			INSERT INTO steps (name, kind, image, needs, detach, status, exit_code, message, started, finished, job_id, number)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
		if exists {
			statement = `
				UPDATE steps SET name = ?, kind = ?, image = ?, needs = ?, detach = ?, status = ?, exit_code = ?,
					message = ?, started = ?, finished = ?
				WHERE job_id = ? AND number = ?`
		}
		if _, err := t.exec(ctx, statement, step.Name, step.Kind, step.Image, object{step.Needs}, step.Detach,
			string(step.Status), step.ExitCode, step.Message, instant(step.Started), instant(step.Finished), job.ID,
			step.Number); err != nil {
			return err
		}
	}
	if len(known) > 0 {
		return errors.New("steps may be added and changed, but not removed")
	}
	return nil
}

func insertJob(ctx context.Context, t *tx, job *ci.Job, asks wants) error {
	return t.get(ctx, `
		INSERT INTO jobs (run_id, number, name, needs, status, message, runner, started, finished, cancel, lease_hash,
			lease_until, lease_seq, wants)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id`,
		[]any{
			job.RunID, job.Number, job.Name,
			object{job.Needs},
			string(job.Status), job.Message, job.Runner,
			instant(job.Started), instant(job.Finished), job.Cancel, blob(job.Lease.Hash), instant(job.Lease.Until),
			job.Lease.Seq,
			object{asks},
		}, &job.ID)
}

func updateJob(ctx context.Context, t *tx, job ci.Job) error {
	_, err := t.exec(ctx, `
		UPDATE jobs SET number = ?, name = ?, needs = ?, status = ?, message = ?, runner = ?, started = ?, finished = ?,
			cancel = ?, lease_hash = ?, lease_until = ?, lease_seq = ?
		WHERE id = ?`,
		job.Number, job.Name, object{job.Needs}, string(job.Status), job.Message, job.Runner, instant(job.Started),
		instant(job.Finished), job.Cancel, blob(job.Lease.Hash), instant(job.Lease.Until), job.Lease.Seq, job.ID)
	return err
}

// sameJob reports whether the rows of a and b are equal; steps have rows of their own.
func sameJob(a, b ci.Job) bool {
	a.Steps, b.Steps = nil, nil
	return reflect.DeepEqual(a, b)
}

func sameStep(a, b ci.Step) bool { return reflect.DeepEqual(a, b) }
