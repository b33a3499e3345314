package sqlstore

import (
	"context"
	"errors"
	"time"

	"slipway/internal/store"
)

// putCached makes reference the cache's.
func putCached(ctx context.Context, t *tx, repository int64, reference, digest string, size int64, at time.Time) error {
	_, err := t.exec(ctx, `
		INSERT INTO registry_cached (repository_id, reference, digest, size, checked, used) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (repository_id, reference) DO UPDATE SET digest = excluded.digest, checked = excluded.checked,
			used = excluded.used`,
		repository, reference, digest, size, instant(at), instant(at))
	return err
}

// uncache takes references from the cache: they are somebody's now.
func uncache(ctx context.Context, t *tx, repository int64, references ...string) error {
	for _, reference := range references {
		if _, err := t.exec(ctx, `DELETE FROM registry_cached WHERE repository_id = ? AND reference = ?`, repository, reference); err != nil {
			return err
		}
	}
	return nil
}

// PutCached implements [store.Cache].
func (db *DB) PutCached(ctx context.Context, m store.Manifest, tags ...string) error {
	return db.tx(ctx, func(t *tx) error {
		repository, err := openRepository(ctx, t, m.Repository)
		if err != nil {
			return err
		}
		id, err := liveManifest(ctx, t, repository, m.Digest)
		switch {
		case errors.Is(err, store.ErrNotFound):
			if id, err = insertManifest(ctx, t, repository, m); err != nil {
				return err
			}
			if err := putCached(ctx, t, repository, m.Digest, m.Digest, m.Size, m.Created); err != nil {
				return err
			}
		case err != nil:
			return err
		}
		for _, tag := range tags {
			_, err := findTag(ctx, t, repository, tag)
			if err == nil {
				_, err = findCachedTag(ctx, t, repository, tag)
				if errors.Is(err, store.ErrNotFound) {
					continue // somebody's
				}
			}
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			if err := putTag(ctx, t, repository, tag, id, m); err != nil {
				return err
			}
			if err := putCached(ctx, t, repository, tag, m.Digest, 0, m.Created); err != nil {
				return err
			}
		}
		return nil
	})
}

func findTag(ctx context.Context, t *tx, repository int64, tag string) (manifest int64, err error) {
	return one(ctx, t, value[int64], `SELECT manifest_id FROM registry_tags WHERE repository_id = ? AND name = ?`, repository, tag)
}

// cachedTag holds for the row t of a tag that is where the cache put it.
const cachedTag = `EXISTS (
	SELECT 1 FROM registry_cached tc JOIN registry_manifests tm ON tm.id = t.manifest_id AND tm.digest = tc.digest
	WHERE tc.repository_id = t.repository_id AND tc.reference = t.name)`

func findCachedTag(ctx context.Context, t *tx, repository int64, tag string) (manifest int64, err error) {
	return one(ctx, t, value[int64], `
		SELECT t.manifest_id FROM registry_tags t WHERE t.repository_id = ? AND t.name = ? AND `+cachedTag, repository, tag)
}

// LinkCached implements [store.Cache].
func (db *DB) LinkCached(ctx context.Context, repository string, b store.Blob) error {
	return db.tx(ctx, func(t *tx) error {
		id, err := openRepository(ctx, t, repository)
		if err != nil {
			return err
		}
		linked, err := one(ctx, t, value[int64], `SELECT count(*) FROM registry_links WHERE repository_id = ? AND digest = ?`, id, b.Digest)
		if err != nil {
			return err
		}
		if err := linkBlob(ctx, t, id, b); err != nil || linked > 0 {
			return err // whoever has it keeps it
		}
		return putCached(ctx, t, id, b.Digest, b.Digest, b.Size, b.Linked)
	})
}

// FindCached implements [store.Cache].
func (db *DB) FindCached(ctx context.Context, repository, reference string) (c store.Cached, err error) {
	err = db.read(ctx, func(t *tx) error {
		return t.get(ctx, `
			SELECT c.digest, c.checked, c.used
			FROM registry_repositories r JOIN registry_cached c ON c.repository_id = r.id
			WHERE r.name = ? AND c.reference = ? AND (
				EXISTS (SELECT 1 FROM registry_manifests m WHERE m.repository_id = r.id AND m.digest = c.reference AND m.deleted IS NULL)
				OR EXISTS (SELECT 1 FROM registry_links l WHERE l.repository_id = r.id AND l.digest = c.reference)
				OR EXISTS (SELECT 1 FROM registry_tags t WHERE t.repository_id = r.id AND t.name = c.reference AND `+cachedTag+`))`,
			[]any{repository, reference}, &c.Digest, (*instant)(&c.Checked), (*instant)(&c.Used))
	})
	return c, err
}

// TouchCached implements [store.Cache].
func (db *DB) TouchCached(ctx context.Context, repository, reference string, used, checked time.Time) error {
	return db.tx(ctx, func(t *tx) error {
		_, err := t.exec(ctx, `
			UPDATE registry_cached SET used = ?, checked = coalesce(?, checked)
			WHERE reference = ? AND repository_id = (SELECT id FROM registry_repositories WHERE name = ?)`,
			instant(used), instant(checked), reference, repository)
		return err
	})
}

// maxEvicted is how much one transaction of EvictCached forgets, so that others get their turn.
const maxEvicted = 100

// EvictCached implements [store.Cache].
func (db *DB) EvictCached(ctx context.Context, limit int64, then, at time.Time) (freed, size int64, err error) {
	err = db.tx(ctx, func(t *tx) error {
		freed = 0
		size, err = one(ctx, t, value[int64], `SELECT CAST(coalesce(sum(size), 0) AS BIGINT) FROM registry_cached`)
		if err != nil {
			return err
		}
		for range maxEvicted {
			if size <= limit {
				return nil
			}
			n, err := evictOldest(ctx, t, then, at)
			if errors.Is(err, store.ErrNotFound) {
				return nil
			}
			if err != nil {
				return err
			}
			freed, size = freed+n, size-n
		}
		return nil
	})
	return freed, size, err
}

// evictOldest forgets one manifest or blob, and returns its size. An index goes before its images and an image before its
// blobs, which are as old as it or older and so are next; what a tag of somebody's points at does not go.
func evictOldest(ctx context.Context, t *tx, then, at time.Time) (size int64, err error) {
	const old = `
		SELECT c.repository_id, c.reference, c.size FROM registry_cached c
		WHERE c.used < ? AND c.size > 0
		AND NOT EXISTS (SELECT 1 FROM registry_references r WHERE r.repository_id = c.repository_id AND r.digest = c.reference)
		AND NOT EXISTS (
			SELECT 1 FROM registry_manifests m JOIN registry_tags t ON t.manifest_id = m.id
			WHERE m.repository_id = c.repository_id AND m.digest = c.reference AND NOT ` + cachedTag + `)`
	for {
		var repository int64
		var digest string
		if err := t.get(ctx, old+` ORDER BY c.used, c.reference LIMIT 1`, []any{instant(then)}, &repository, &digest, &size); err != nil {
			return 0, err
		}
		// Whoever pushes to the repository may have come to need it: looked at again, with the lock that a push has.
		if _, err := one(ctx, t, value[int64], `SELECT id FROM registry_repositories WHERE id = ? {update}`, repository); err != nil {
			return 0, err
		}
		err := t.get(ctx, old+` AND c.repository_id = ? AND c.reference = ?`, []any{instant(then), repository, digest}, &repository, &digest, &size)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return 0, err
		}
		return size, evict(ctx, t, repository, digest, at)
	}
}

// evict forgets a manifest or a blob for good. A manifest that was deleted and not purged yet goes like any other: nobody
// needs to restore what can be fetched.
func evict(ctx context.Context, t *tx, repository int64, digest string, at time.Time) error {
	id, err := one(ctx, t, value[int64], `SELECT id FROM registry_manifests WHERE repository_id = ? AND digest = ?`, repository, digest)
	if err == nil {
		var tags []string
		tags, err = dropTags(ctx, t, repository, id, store.Change{By: store.Mirror, At: at})
		if err != nil {
			return err
		}
		if err := t.must(ctx, `DELETE FROM registry_manifests WHERE id = ?`, id); err != nil {
			return err
		}
		err = uncache(ctx, t, repository, tags...)
	} else if errors.Is(err, store.ErrNotFound) {
		_, err = t.exec(ctx, `DELETE FROM registry_links WHERE repository_id = ? AND digest = ?`, repository, digest)
	}
	return errors.Join(err, uncache(ctx, t, repository, digest))
}
