package sqlstore

import (
	"context"
	"strings"

	"slipway/internal/ci"
)

// PutSecret implements [store.Secrets].
func (db *DB) PutSecret(ctx context.Context, secret ci.Secret) error {
	return db.tx(ctx, func(t *tx) error {
		return t.must(ctx, `
			INSERT INTO secrets (repo_id, folded, name, sealed, pull_requests, updated)
			SELECT id, ?, ?, ?, ?, ? FROM repos WHERE name = ?
			ON CONFLICT (repo_id, folded) DO UPDATE SET name = excluded.name, sealed = excluded.sealed,
				pull_requests = excluded.pull_requests, updated = excluded.updated`,
			strings.ToLower(secret.Name), secret.Name, secret.Sealed, secret.PullRequests, instant(secret.Updated),
			secret.Repo)
	})
}

func scanSecret(row scanner) (secret ci.Secret, err error) {
	err = row.Scan(&secret.Repo, &secret.Name, &secret.Sealed, &secret.PullRequests, (*instant)(&secret.Updated))
	return secret, err
}

// ListSecrets implements [store.Secrets].
func (db *DB) ListSecrets(ctx context.Context, repo string) (secrets []ci.Secret, err error) {
	err = db.read(ctx, func(t *tx) error {
		secrets, err = list(ctx, t, scanSecret, `
			SELECT repos.name, secrets.name, sealed, pull_requests, updated
			FROM secrets JOIN repos ON repos.id = repo_id
			WHERE repos.name = ? ORDER BY folded`, repo)
		return err
	})
	return secrets, err
}

// DeleteSecret implements [store.Secrets].
func (db *DB) DeleteSecret(ctx context.Context, repo, name string) error {
	return db.tx(ctx, func(t *tx) error {
		return t.must(ctx, `
			DELETE FROM secrets WHERE repo_id = (SELECT id FROM repos WHERE name = ?) AND folded = ?`,
			repo, strings.ToLower(name))
	})
}
