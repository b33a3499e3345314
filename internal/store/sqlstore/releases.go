package sqlstore

import (
	"context"
	"encoding/json"
	"strings"

	"slipway/internal/ci"
	"slipway/internal/store"
)

// PutRelease implements [store.Releases].
func (db *DB) PutRelease(ctx context.Context, r ci.Release, manifests []byte) error {
	return db.tx(ctx, func(t *tx) error {
		var repo int64
		if err := t.get(ctx, `SELECT id FROM repos WHERE name = ?`, []any{r.Repo}, &repo); err != nil {
			return err
		}
		_, err := t.exec(ctx, `
			INSERT INTO releases (repo_id, environment, namespace, number, run, step, commit_hash, author, title, made_by, link,
				of_number, started, finished, status, message, restored, images, digest, probe)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (repo_id, environment, namespace, number, started) DO NOTHING`,
			repo, text(r.Environment), text(r.Namespace), r.Number, r.Run, text(r.Step), text(r.Commit), text(r.Author), text(r.Title),
			text(r.By), text(r.Link), r.Of, instant(r.Started), instant(r.Finished), string(r.Status), text(r.Message), r.Restored,
			object{r.Images}, text(r.Digest), object{r.Probe})
		if err != nil || len(manifests) == 0 {
			return err
		}
		_, err = t.exec(ctx, `
			INSERT INTO release_manifests (release_id, sealed)
			SELECT id, ? FROM releases WHERE repo_id = ? AND environment = ? AND namespace = ? AND number = ? AND started = ?
			ON CONFLICT (release_id) DO NOTHING`,
			manifests, repo, text(r.Environment), text(r.Namespace), r.Number, instant(r.Started))
		return err
	})
}

func scanRelease(row scanner) (r ci.Release, err error) {
	err = row.Scan(&r.ID, &r.Repo, &r.Environment, &r.Namespace, &r.Number, &r.Run, &r.Step, &r.Commit, &r.Author, &r.Title, &r.By,
		&r.Link, &r.Of, (*instant)(&r.Started), (*instant)(&r.Finished), (*string)(&r.Status), &r.Message, &r.Restored,
		object{&r.Images}, &r.Digest, object{&r.Probe})
	return r, err
}

const selectReleases = `
	SELECT releases.id, repos.name, environment, namespace, number, run, step, commit_hash, author, title, made_by,
		releases.link, of_number, started, finished, status, message, restored, images, digest, probe
	FROM releases JOIN repos ON repos.id = repo_id `

// FindRelease implements [store.Releases].
func (db *DB) FindRelease(ctx context.Context, repo string, id int64) (r ci.Release, err error) {
	err = db.read(ctx, func(t *tx) error {
		r, err = one(ctx, t, scanRelease, selectReleases+`WHERE releases.id = ? AND repos.name = ?`, id, repo)
		return err
	})
	return r, err
}

// FindManifests implements [store.Releases].
func (db *DB) FindManifests(ctx context.Context, id int64) (sealed []byte, err error) {
	err = db.read(ctx, func(t *tx) error {
		return t.get(ctx, `SELECT sealed FROM release_manifests WHERE release_id = ?`, []any{id}, &sealed)
	})
	return sealed, err
}

// NewestReleases implements [store.Releases].
func (db *DB) NewestReleases(ctx context.Context, filter store.NewestFilter) (releases []ci.Release, err error) {
	var asked conditions
	asked.add(`NOT torn_down`, true)
	asked.add(`repo_id = (SELECT id FROM repos WHERE name = ?)`, filter.Repo != "", filter.Repo)
	err = db.read(ctx, func(t *tx) error {
		releases, err = list(ctx, t, scanRelease, selectReleases+`
			JOIN (
				SELECT id, row_number() OVER (PARTITION BY repo_id, environment, namespace, status ORDER BY started DESC, id DESC) AS place
				FROM releases `+asked.where()+`
			) places ON places.id = releases.id AND place <= ?
			ORDER BY started DESC, releases.id DESC`, append(asked.args, filter.Each)...)
		return err
	})
	return releases, err
}

// ListReleases implements [store.Releases].
func (db *DB) ListReleases(ctx context.Context, filter store.ReleaseFilter) (releases []ci.Release, err error) {
	var asked conditions
	asked.add(`repos.name = ?`, filter.Repo != "", filter.Repo)
	asked.add(`repos.name IN {list}`, filter.Repos != nil, object{filter.Repos})
	asked.add(`environment = ?`, filter.Environment != "", filter.Environment)
	asked.add(`namespace = ?`, filter.Namespace != "", filter.Namespace)
	asked.add(`run = ?`, filter.Run != 0, filter.Run)
	whole, digest := imagePatterns(filter.Image)
	asked.add(`(images LIKE ? ESCAPE '!' OR images LIKE ? ESCAPE '!')`, filter.Image != "", whole, digest)
	asked.add(`(started, releases.id) < (SELECT started, id FROM releases WHERE id = ?)`, filter.Before != 0, filter.Before)
	err = db.read(ctx, func(t *tx) error {
		releases, err = list(ctx, t, scanRelease, selectReleases+asked.where()+` ORDER BY started DESC, releases.id DESC LIMIT ?`, append(asked.args, rowLimit(filter.Limit))...)
		return err
	})
	return releases, err
}

// imagePatterns returns what the JSON of a list of images is like that has the image: as a whole reference, or as the
// digest of one.
func imagePatterns(image string) (whole, digest string) {
	quoted, err := json.Marshal(text(image))
	if err != nil { // text leaves nothing that JSON does not have
		return "", ""
	}
	inner := strings.NewReplacer("!", "!!", "%", "!%", "_", "!_").Replace(strings.Trim(string(quoted), `"`))
	return `%"` + inner + `"%`, `%@` + inner + `"%`
}

// PutPreview implements [store.Previews].
func (db *DB) PutPreview(ctx context.Context, p ci.Preview) error {
	return db.tx(ctx, func(t *tx) error {
		content, err := json.Marshal(p)
		if err != nil {
			return err
		}
		return t.must(ctx, `
			INSERT INTO previews (run_id, job, step, preview)
			SELECT runs.id, ?, ?, ? FROM runs JOIN repos ON repos.id = repo_id WHERE repos.name = ? AND runs.number = ?
			ON CONFLICT (run_id, job, step) DO UPDATE SET preview = excluded.preview`,
			p.Job, p.Step, text(string(content)), p.Repo, p.Run)
	})
}

func scanPreview(row scanner) (p ci.Preview, err error) {
	return p, row.Scan(object{&p})
}

// ListPreviews implements [store.Previews].
func (db *DB) ListPreviews(ctx context.Context, repo string, run int64) (previews []ci.Preview, err error) {
	err = db.read(ctx, func(t *tx) error {
		previews, err = list(ctx, t, scanPreview, `
			SELECT preview FROM previews JOIN runs ON runs.id = run_id JOIN repos ON repos.id = repo_id
			WHERE repos.name = ? AND runs.number = ? ORDER BY job, step`, repo, run)
		return err
	})
	return previews, err
}
