package sqlstore

import (
	"context"
	"errors"
	"time"

	"slipway/internal/store"
)

// TouchBlob implements [store.BlobLinks].
func (db *DB) TouchBlob(ctx context.Context, repository, digest string, at time.Time) error {
	return db.tx(ctx, func(t *tx) error {
		return t.must(ctx, `
			UPDATE registry_links SET linked = ?
			WHERE digest = ? AND repository_id = (SELECT id FROM registry_repositories WHERE name = ?)`, instant(at), digest, repository)
	})
}

// purgeBatch bounds how long one transaction of PurgeRegistry keeps other writers waiting.
const purgeBatch = 500

// PurgeRegistry implements [store.Garbage].
func (db *DB) PurgeRegistry(ctx context.Context, then time.Time) (purged store.Purged, err error) {
	for {
		var n int64
		err := db.tx(ctx, func(t *tx) error {
			type manifest struct {
				repository int64
				digest     string
			}
			gone, err := list(ctx, t, func(row scanner) (m manifest, err error) {
				return m, row.Scan(&m.repository, &m.digest)
			}, `
				DELETE FROM registry_manifests WHERE id IN (SELECT id FROM registry_manifests WHERE deleted < ? LIMIT ?)
					AND deleted < ? RETURNING repository_id, digest`, instant(then), purgeBatch, instant(then))
			if err != nil {
				return err
			}
			n = int64(len(gone))
			for _, m := range gone {
				if err := uncache(ctx, t, m.repository, m.digest); err != nil {
					return err
				}
			}
			return nil
		})
		purged.Manifests += n
		if err != nil {
			return purged, err
		}
		if n == 0 {
			break
		}
	}

	if purged.Tags, err = db.forgetTags(ctx, then); err != nil {
		return purged, err
	}

	// Looking needs no lock; what is found is looked at again with the repository's, which every push takes.
	type candidate struct {
		repository string
		digest     string
	}
	last := candidate{}
	for {
		var found []candidate
		err := db.read(ctx, func(t *tx) (err error) {
			found, err = list(ctx, t, func(row scanner) (c candidate, err error) {
				return c, row.Scan(&c.repository, &c.digest)
			}, `
				SELECT r.name, l.digest FROM registry_links l JOIN registry_repositories r ON r.id = l.repository_id
				WHERE l.linked < ? AND (r.name > ? OR r.name = ? AND l.digest > ?) AND NOT EXISTS (
					SELECT 1 FROM registry_references f
					WHERE f.repository_id = l.repository_id AND f.digest = l.digest AND NOT f.is_manifest)
				AND NOT EXISTS (
					SELECT 1 FROM registry_cached c WHERE c.repository_id = l.repository_id AND c.reference = l.digest)
				ORDER BY r.name, l.digest LIMIT ?`, instant(then), last.repository, last.repository, last.digest, purgeBatch)
			return err
		})
		if err != nil || len(found) == 0 {
			return purged, err
		}
		last = found[len(found)-1]
		for len(found) > 0 {
			name, digests := found[0].repository, []string(nil)
			for len(found) > 0 && found[0].repository == name {
				digests = append(digests, found[0].digest)
				found = found[1:]
			}
			n, err := db.unlinkUnused(ctx, name, digests, then)
			purged.Links += n
			if err != nil {
				return purged, err
			}
		}
	}
}

// forgetTags removes the histories of tags that were deleted before then, but for the last store.MaxDeletedTags of each
// repository, and returns of how many.
func (db *DB) forgetTags(ctx context.Context, then time.Time) (forgotten int64, err error) {
	type deletion struct {
		repository, id int64
		name           string
	}
	for {
		var n int64
		err := db.tx(ctx, func(t *tx) error {
			found, err := list(ctx, t, func(row scanner) (d deletion, err error) {
				return d, row.Scan(&d.repository, &d.id, &d.name)
			}, `
				SELECT repository_id, id, name FROM (
					SELECT h.repository_id, h.id, h.name, h.at, row_number() OVER (PARTITION BY h.repository_id ORDER BY h.id DESC) AS place
					FROM registry_tag_history h WHERE h.digest = '' AND NOT EXISTS (
						SELECT 1 FROM registry_tag_history l WHERE l.repository_id = h.repository_id AND l.name = h.name AND l.id > h.id)
				) d WHERE place > ? AND at < ? LIMIT ?`, store.MaxDeletedTags, instant(then), purgeBatch)
			n = int64(len(found))
			for _, d := range found {
				// A tag that was made again meanwhile keeps what it was given then.
				if _, err := t.exec(ctx, `DELETE FROM registry_tag_history WHERE repository_id = ? AND name = ? AND id <= ?`, d.repository, d.name, d.id); err != nil {
					return err
				}
			}
			return err
		})
		forgotten += n
		if err != nil || n == 0 {
			return forgotten, err
		}
	}
}

// unlinkUnused removes those of the blobs from the repository that still nobody needs.
func (db *DB) unlinkUnused(ctx context.Context, repository string, digests []string, then time.Time) (unlinked int64, err error) {
	err = db.tx(ctx, func(t *tx) error {
		unlinked = 0
		id, err := lockRepository(ctx, t, repository)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, digest := range digests {
			n, err := t.exec(ctx, `
				DELETE FROM registry_links WHERE repository_id = ? AND digest = ? AND linked < ? AND NOT EXISTS (
					SELECT 1 FROM registry_references f
					WHERE f.repository_id = registry_links.repository_id AND f.digest = registry_links.digest AND NOT f.is_manifest)
				AND NOT EXISTS (
					SELECT 1 FROM registry_cached c
					WHERE c.repository_id = registry_links.repository_id AND c.reference = registry_links.digest)`,
				id, digest, instant(then))
			if err != nil {
				return err
			}
			unlinked += n
		}
		return nil
	})
	return unlinked, err
}

func scanBlob(row scanner) (b store.Blob, err error) {
	return b, row.Scan(&b.Digest, &b.Size, (*instant)(&b.Linked))
}

// ListUnlinked implements [store.Garbage].
func (db *DB) ListUnlinked(ctx context.Context, then time.Time, limit int) (blobs []store.Blob, err error) {
	err = db.read(ctx, func(t *tx) error {
		blobs, err = list(ctx, t, scanBlob, `
			SELECT digest, size, linked FROM registry_blobs b
			WHERE linked < ? AND NOT EXISTS (SELECT 1 FROM registry_links l WHERE l.digest = b.digest) LIMIT ?`, instant(then), limit)
		return err
	})
	return blobs, err
}

// ForgetBlob implements [store.Garbage].
func (db *DB) ForgetBlob(ctx context.Context, digest string, then time.Time) error {
	return db.tx(ctx, func(t *tx) error {
		// LinkBlob and MountBlob write to this row before they link. Whoever comes second waits, and sees what the first did.
		err := t.must(ctx, `
			DELETE FROM registry_blobs WHERE digest = ? AND linked < ? AND NOT EXISTS (
				SELECT 1 FROM registry_links l WHERE l.digest = registry_blobs.digest)`, digest, instant(then))
		if errors.Is(err, store.ErrNotFound) {
			if _, err := one(ctx, t, value[string], `SELECT digest FROM registry_blobs WHERE digest = ?`, digest); err != nil {
				return err
			}
			return store.ErrInUse
		}
		return err
	})
}

// ListBlobs implements [store.Inventory].
func (db *DB) ListBlobs(ctx context.Context, last string, limit int) (blobs []store.Blob, err error) {
	err = db.read(ctx, func(t *tx) error {
		blobs, err = list(ctx, t, scanBlob, `
			SELECT digest, size, linked FROM registry_blobs WHERE digest > ? ORDER BY digest LIMIT ?`, last, limit)
		return err
	})
	return blobs, err
}

// StatBlob implements [store.Inventory].
func (db *DB) StatBlob(ctx context.Context, digest string) (b store.Blob, err error) {
	err = db.read(ctx, func(t *tx) error {
		b, err = one(ctx, t, scanBlob, `SELECT digest, size, linked FROM registry_blobs WHERE digest = ?`, digest)
		return err
	})
	return b, err
}

// BlobRepositories implements [store.Inventory].
func (db *DB) BlobRepositories(ctx context.Context, digest string) (names []string, err error) {
	err = db.read(ctx, func(t *tx) error {
		names, err = list(ctx, t, value[string], `
			SELECT r.name FROM registry_links l JOIN registry_repositories r ON r.id = l.repository_id
			WHERE l.digest = ? ORDER BY r.name`, digest)
		return err
	})
	return names, err
}

// ListManifests implements [store.Inventory].
func (db *DB) ListManifests(ctx context.Context, page store.Page, content bool) (manifests []store.Manifest, err error) {
	err = db.read(ctx, func(t *tx) error {
		repository, err := repositoryID(ctx, t, page.Repository)
		if err != nil {
			return err
		}
		var digests []string
		digests, err = list(ctx, t, value[string], `
			SELECT digest FROM registry_manifests WHERE repository_id = ? AND digest > ? ORDER BY digest LIMIT ?`, repository, page.Last, page.Limit)
		if err != nil || len(digests) == 0 {
			manifests = nil
			return err
		}
		manifests, err = manifestsWith(ctx, t, page.Repository, content,
			`m.repository_id = ? AND m.digest >= ? AND m.digest <= ?`, repository, digests[0], digests[len(digests)-1])
		return err
	})
	return manifests, err
}

// RegistryTotals implements [store.Inventory].
func (db *DB) RegistryTotals(ctx context.Context) (n store.RegistryTotals, err error) {
	err = db.read(ctx, func(t *tx) error {
		return t.get(ctx, `
			SELECT (SELECT count(*) FROM registry_repositories), (SELECT count(*) FROM registry_tags),
				(SELECT count(*) FROM registry_manifests), (SELECT count(*) FROM registry_blobs),
				(SELECT CAST(coalesce(sum(size), 0) AS BIGINT) FROM registry_blobs)`,
			nil, &n.Repositories, &n.Tags, &n.Manifests, &n.Blobs, &n.Bytes)
	})
	return n, err
}
