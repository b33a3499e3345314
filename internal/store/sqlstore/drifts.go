package sqlstore

import (
	"context"

	"slipway/internal/ci"
)

// PutDrift implements [store.Drifts].
func (db *DB) PutDrift(ctx context.Context, d ci.Drift) error {
	return db.tx(ctx, func(t *tx) error {
		_, err := t.exec(ctx, `
			INSERT INTO drifts (cluster, namespace, environment, repo, drift) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (cluster, namespace, environment, repo) DO UPDATE SET drift = excluded.drift`,
			text(d.Cluster), text(d.Namespace), text(d.Environment), text(d.Repo), object{d})
		return err
	})
}

// ListDrifts implements [store.Drifts].
func (db *DB) ListDrifts(ctx context.Context, repo string) (drifts []ci.Drift, err error) {
	err = db.read(ctx, func(t *tx) error {
		drifts, err = list(ctx, t, func(row scanner) (d ci.Drift, err error) { return d, row.Scan(object{&d}) }, `
			SELECT drift FROM drifts WHERE repo = ? OR ? = '' ORDER BY namespace, environment, repo, cluster`, repo, repo)
		return err
	})
	return drifts, err
}

// DeleteDrift implements [store.Drifts].
func (db *DB) DeleteDrift(ctx context.Context, d ci.Drift) error {
	return db.tx(ctx, func(t *tx) error {
		_, err := t.exec(ctx, `DELETE FROM drifts WHERE cluster = ? AND namespace = ? AND environment = ? AND repo = ?`,
			text(d.Cluster), text(d.Namespace), text(d.Environment), text(d.Repo))
		return err
	})
}
