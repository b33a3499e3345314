package sqlstore

import (
	"context"
	"errors"

	"slipway/internal/ci"
	"slipway/internal/store"
)

// PutEnvironment implements [store.Environments].
func (db *DB) PutEnvironment(ctx context.Context, e ci.Environment) error {
	return db.tx(ctx, func(t *tx) error {
		var repo int64
		if err := t.get(ctx, `SELECT id FROM repos WHERE name = ? {update}`, []any{e.Repo}, &repo); err != nil {
			return err
		}
		earlier, err := one(ctx, t, scanEnvironment, selectEnvironments+`WHERE repo_id = ? AND environments.name = ?`, repo, e.Name)
		if err == nil {
			e.Created = earlier.Created
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		e.Created, e.Updated = utc(e.Created), utc(e.Updated)
		_, err = t.exec(ctx, `
			INSERT INTO environments (repo_id, name, position, rules, kubeconfig) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (repo_id, name) DO UPDATE SET position = excluded.position, rules = excluded.rules, kubeconfig = excluded.kubeconfig`,
			repo, e.Name, e.Position, object{e}, blob(e.Kubeconfig))
		return err
	})
}

const selectEnvironments = `
	SELECT repos.name, environments.name, rules, kubeconfig FROM environments JOIN repos ON repos.id = repo_id `

func scanEnvironment(row scanner) (e ci.Environment, err error) {
	var repo, name string
	err = row.Scan(&repo, &name, object{&e}, &e.Kubeconfig)
	e.Repo, e.Name = repo, name
	return e, err
}

// ListEnvironments implements [store.Environments].
func (db *DB) ListEnvironments(ctx context.Context, repo string) (environments []ci.Environment, err error) {
	err = db.read(ctx, func(t *tx) error {
		environments, err = list(ctx, t, scanEnvironment, selectEnvironments+`WHERE ? = '' OR repos.name = ?
			ORDER BY repos.name, position, environments.name`, repo, repo)
		return err
	})
	return environments, err
}

// DeleteEnvironment implements [store.Environments].
func (db *DB) DeleteEnvironment(ctx context.Context, repo, name string) error {
	return db.tx(ctx, func(t *tx) error {
		var id int64
		if err := t.get(ctx, `SELECT id FROM repos WHERE name = ? {update}`, []any{repo}, &id); err != nil {
			return err
		}
		var reviews int
		if err := t.get(ctx, `SELECT count(*) FROM reviews WHERE repo_id = ? AND pattern = ?`, []any{id, name}, &reviews); err != nil {
			return err
		}
		if reviews > 0 {
			return store.ErrInUse
		}
		return t.must(ctx, `DELETE FROM environments WHERE repo_id = ? AND name = ?`, id, name)
	})
}

const selectGates = `
	SELECT repos.name, runs.number, gates.job, gates.step, environment, gates.state, reason, since, ended, votes, run_id
	FROM gates JOIN runs ON runs.id = run_id JOIN repos ON repos.id = runs.repo_id `

func scanGate(row scanner) (g ci.Gate, err error) {
	err = row.Scan(&g.Repo, &g.Run, &g.Job, &g.Step, &g.Environment, (*string)(&g.State), &g.Reason,
		(*instant)(&g.Since), (*instant)(&g.Ended), object{&g.Votes}, &g.RunID)
	return g, err
}

// UpdateGate implements [store.Gates].
func (db *DB) UpdateGate(ctx context.Context, runID int64, job, step int, update func(*ci.Gate) error) (gate ci.Gate, err error) {
	err = db.tx(ctx, func(t *tx) error {
		gate = ci.Gate{Job: job, Step: step, RunID: runID}
		// The run's row is the lock, because the gate's may not be there yet.
		if err := t.get(ctx, `
			SELECT repos.name, runs.number FROM runs JOIN repos ON repos.id = repo_id WHERE runs.id = ? {update}`, []any{runID},
			&gate.Repo, &gate.Run); err != nil {
			return err
		}
		found, err := one(ctx, t, scanGate, selectGates+`WHERE run_id = ? AND gates.job = ? AND gates.step = ?`, runID, job, step)
		if err == nil {
			gate = found
		} else if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if err := update(&gate); err != nil {
			return err
		}
		gate.Environment, gate.Reason = text(gate.Environment), text(gate.Reason)
		gate.Since, gate.Ended = utc(gate.Since), utc(gate.Ended)
		for i := range gate.Votes {
			gate.Votes[i].Time, gate.Votes[i].Comment = utc(gate.Votes[i].Time), text(gate.Votes[i].Comment)
		}
		_, err = t.exec(ctx, `
			INSERT INTO gates (run_id, job, step, environment, state, reason, since, ended, votes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (run_id, job, step) DO UPDATE SET environment = excluded.environment, state = excluded.state,
				reason = excluded.reason, since = excluded.since, ended = excluded.ended, votes = excluded.votes`,
			runID, job, step, gate.Environment, string(gate.State), gate.Reason, instant(gate.Since), instant(gate.Ended), object{gate.Votes})
		return err
	})
	return gate, err
}

// ListGates implements [store.Gates].
func (db *DB) ListGates(ctx context.Context, filter store.GateFilter) (gates []ci.Gate, err error) {
	var asked conditions
	asked.add(`repos.name = ?`, filter.Repo != "", filter.Repo)
	asked.add(`environment = ?`, filter.Environment != "", filter.Environment)
	asked.add(`runs.number = ?`, filter.Run != 0, filter.Run)
	asked.add(`gates.state = 'waiting' AND runs.done = FALSE`, filter.Waiting)
	asked.add(`runs.done = FALSE`, filter.Open)
	err = db.read(ctx, func(t *tx) error {
		gates, err = list(ctx, t, scanGate, selectGates+asked.where()+` ORDER BY run_id DESC, gates.job, gates.step LIMIT ?`, append(asked.args, rowLimit(filter.Limit))...)
		return err
	})
	return gates, err
}

const selectReviews = `
	SELECT repos.name, reviews.name, pattern, reviews.branch, namespace, url, run, reviews.created, updated, ends, teardown
	FROM reviews JOIN repos ON repos.id = repo_id `

func scanReview(row scanner) (r ci.Review, err error) {
	err = row.Scan(&r.Repo, &r.Name, &r.Pattern, &r.Branch, &r.Namespace, &r.URL, &r.Run,
		(*instant)(&r.Created), (*instant)(&r.Updated), (*instant)(&r.Ends), &r.Teardown)
	return r, err
}

// UpdateReview implements [store.Reviews].
func (db *DB) UpdateReview(ctx context.Context, repo, name string, update func(*ci.Review) error) error {
	return db.tx(ctx, func(t *tx) error {
		var id int64
		if err := t.get(ctx, `SELECT id FROM repos WHERE name = ? {update}`, []any{repo}, &id); err != nil {
			return err
		}
		review, err := one(ctx, t, scanReview, selectReviews+`WHERE repo_id = ? AND reviews.name = ?`, id, name)
		if errors.Is(err, store.ErrNotFound) {
			review = ci.Review{Repo: repo, Name: name}
		} else if err != nil {
			return err
		}
		switch err := update(&review); {
		case errors.Is(err, store.ErrNotFound):
			n, err := t.exec(ctx, `DELETE FROM reviews WHERE repo_id = ? AND name = ?`, id, name)
			if err == nil && n > 0 {
				_, err = t.exec(ctx, `UPDATE releases SET torn_down = TRUE WHERE repo_id = ? AND environment = ? AND NOT torn_down`, id, name)
			}
			return err
		case err != nil:
			return err
		}
		_, err = t.exec(ctx, `
			INSERT INTO reviews (repo_id, name, pattern, branch, namespace, url, run, created, updated, ends, teardown)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (repo_id, name) DO UPDATE SET pattern = excluded.pattern, branch = excluded.branch, namespace = excluded.namespace,
				url = excluded.url, run = excluded.run, updated = excluded.updated, ends = excluded.ends, teardown = excluded.teardown`,
			id, text(name), review.Pattern, text(review.Branch), review.Namespace, review.URL, review.Run,
			instant(review.Created), instant(review.Updated), instant(review.Ends), review.Teardown)
		return err
	})
}

// ListReviews implements [store.Reviews].
func (db *DB) ListReviews(ctx context.Context, repo string) (reviews []ci.Review, err error) {
	err = db.read(ctx, func(t *tx) error {
		reviews, err = list(ctx, t, scanReview, selectReviews+`WHERE ? = '' OR repos.name = ? ORDER BY repos.name, reviews.name`, repo, repo)
		return err
	})
	return reviews, err
}
