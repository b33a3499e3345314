package sqlstore

import (
	"context"

	"slipway/internal/ci"
)

// PutRollout implements [store.Rollouts].
func (db *DB) PutRollout(ctx context.Context, jobID int64, step int, r ci.Rollout) error {
	return db.tx(ctx, func(t *tx) error {
		return t.must(ctx, `
			INSERT INTO rollouts (job_id, step, picture)
			SELECT job_id, number, ? FROM steps WHERE job_id = ? AND number = ?
			ON CONFLICT (job_id, step) DO UPDATE SET picture = excluded.picture`,
			object{r}, jobID, step)
	})
}

// ListRollouts implements [store.Rollouts].
func (db *DB) ListRollouts(ctx context.Context, runID int64) (rollouts []ci.Rollout, err error) {
	err = db.read(ctx, func(t *tx) error {
		rollouts, err = list(ctx, t, func(row scanner) (r ci.Rollout, err error) {
			var job, step int
			err = row.Scan(&job, &step, object{&r})
			r.JobNumber, r.StepNumber = job, step
			return r, err
		}, `
			SELECT jobs.number, rollouts.step, picture FROM rollouts JOIN jobs ON jobs.id = job_id
			WHERE run_id = ? ORDER BY jobs.number, rollouts.step`, runID)
		return err
	})
	return rollouts, err
}
