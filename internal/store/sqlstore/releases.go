package sqlstore

import (
	"context"
	"strings"

	"slipway/internal/ci"
	"slipway/internal/store"
)

// PutRelease implements [store.Releases].
func (db *DB) PutRelease(ctx context.Context, r ci.Release) error {
	return db.tx(ctx, func(t *tx) error {
		var repo int64
		if err := t.get(ctx, `SELECT id FROM repos WHERE name = ?`, []any{r.Repo}, &repo); err != nil {
			return err
		}
		_, err := t.exec(ctx, `
			INSERT INTO releases (repo_id, environment, namespace, number, run, step, commit_hash, made_by, link, of_number,
				started, finished, status, message, restored, images, digest, probe)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (repo_id, environment, namespace, number, started) DO NOTHING`,
			repo, text(r.Environment), text(r.Namespace), r.Number, r.Run, text(r.Step), text(r.Commit), text(r.By), text(r.Link), r.Of,
			instant(r.Started), instant(r.Finished), string(r.Status), text(r.Message), r.Restored, object{r.Images}, text(r.Digest), object{r.Probe})
		return err
	})
}

func scanRelease(row scanner) (r ci.Release, err error) {
	err = row.Scan(&r.Repo, &r.Environment, &r.Namespace, &r.Number, &r.Run, &r.Step, &r.Commit, &r.By, &r.Link, &r.Of,
		(*instant)(&r.Started), (*instant)(&r.Finished), (*string)(&r.Status), &r.Message, &r.Restored, object{&r.Images}, &r.Digest, object{&r.Probe})
	return r, err
}

const selectReleases = `
	SELECT repos.name, environment, namespace, number, run, step, commit_hash, made_by, releases.link, of_number, started, finished,
		status, message, restored, images, digest, probe
	FROM releases JOIN repos ON repos.id = repo_id `

// NewestReleases implements [store.Releases].
func (db *DB) NewestReleases(ctx context.Context, limit int) (releases []ci.Release, err error) {
	err = db.read(ctx, func(t *tx) error {
		releases, err = list(ctx, t, scanRelease, selectReleases+`
			JOIN (
				SELECT id, row_number() OVER (PARTITION BY repo_id, environment, namespace, status ORDER BY id DESC) AS place FROM releases
			) places ON places.id = releases.id AND place <= ?
			ORDER BY releases.id DESC`, limit)
		return err
	})
	return releases, err
}

// ListReleases implements [store.Releases].
func (db *DB) ListReleases(ctx context.Context, filter store.ReleaseFilter) (releases []ci.Release, err error) {
	var where []string
	var args []any
	add := func(condition string, set bool, arg any) {
		if set {
			where, args = append(where, condition), append(args, arg)
		}
	}
	add(`repos.name = ?`, filter.Repo != "", filter.Repo)
	add(`environment = ?`, filter.Environment != "", filter.Environment)
	add(`namespace = ?`, filter.Namespace != "", filter.Namespace)
	add(`run = ?`, filter.Run != 0, filter.Run)
	query := selectReleases
	if len(where) > 0 {
		query += `WHERE ` + strings.Join(where, ` AND `)
	}
	limit := min(filter.Limit, 500)
	if limit <= 0 {
		limit = 50
	}
	err = db.read(ctx, func(t *tx) error {
		releases, err = list(ctx, t, scanRelease, query+` ORDER BY releases.id DESC LIMIT ?`, append(args, limit)...)
		return err
	})
	return releases, err
}
