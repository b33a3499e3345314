package sqlstore

import (
	"context"
	"errors"

	"slipway/internal/store"
)

// deleteUnneeded deletes a manifest that nobody will miss, with what is about it; else it says ErrInUse. What is about another
// one that stays is needed, so the two go together, and come back together.
func deleteUnneeded(ctx context.Context, t *tx, id int64, c store.Change) error {
	about, err := one(ctx, t, value[int64], `
		SELECT count(s.id) FROM registry_manifests m
		LEFT JOIN registry_manifests s ON s.repository_id = m.repository_id AND s.digest = m.subject AND s.deleted IS NULL
		WHERE m.id = ?`, id)
	if err != nil {
		return err
	}
	if about > 0 {
		return store.ErrInUse
	}
	return deleteWhole(ctx, t, id, c)
}

func deleteWhole(ctx context.Context, t *tx, id int64, c store.Change) error {
	uses, err := one(ctx, t, value[int64], `
		SELECT (SELECT count(*) FROM registry_tags WHERE manifest_id = m.id)
			+ (SELECT count(*) FROM registry_references f JOIN registry_manifests i ON i.id = f.manifest_id
				WHERE f.repository_id = m.repository_id AND f.digest = m.digest AND f.is_manifest AND i.deleted IS NULL)
			+ (CASE WHEN m.used > ? THEN 1 ELSE 0 END)
		FROM registry_manifests m WHERE m.id = ?`, instant(c.At), id)
	if err != nil {
		return err
	}
	if uses > 0 {
		return store.ErrInUse
	}
	about, err := list(ctx, t, value[int64], `
		SELECT s.id FROM registry_manifests m
		JOIN registry_manifests s ON s.repository_id = m.repository_id AND s.subject = m.digest AND s.subject <> ''
		WHERE m.id = ? AND s.deleted IS NULL ORDER BY s.id`, id)
	if err != nil {
		return err
	}
	for _, other := range about { // which ends: nobody can make two that are about each other
		if err := deleteWhole(ctx, t, other, c); err != nil {
			return err
		}
	}
	return t.must(ctx, `UPDATE registry_manifests SET deleted = ? WHERE id = ?`, instant(c.At), id)
}

// Restore implements [store.Tags].
func (db *DB) Restore(ctx context.Context, c store.Change) error {
	return db.tx(ctx, func(t *tx) error {
		repository, err := lockRepository(ctx, t, c.Repository)
		if err != nil {
			return err
		}
		id, err := restoreManifest(ctx, t, repository, c, c.Digest)
		if err == nil {
			err = keepQuota(ctx, t, c.Repository, 0)
		}
		if err != nil || c.Reference == "" {
			return err
		}
		m := store.Manifest{Digest: c.Digest, Created: c.At, By: c.By}
		if c.Immutable != nil && c.Immutable(c.Reference) {
			m.Immutable = []string{c.Reference}
		}
		return putTag(ctx, t, repository, c.Reference, id, m)
	})
}

// restoreManifest makes the manifest, those of its images that were deleted, and the signatures and the like that went with
// them visible again, if all that they need is there, and returns its id.
func restoreManifest(ctx context.Context, t *tx, repository int64, c store.Change, digest string) (id int64, err error) {
	var deleted *int64
	err = t.get(ctx, `SELECT id, deleted FROM registry_manifests WHERE repository_id = ? AND digest = ?`, []any{repository, digest}, &id, &deleted)
	if err != nil {
		return 0, err
	}
	m := store.Manifest{Repository: c.Repository}
	if m.References, err = references(ctx, t, id); err != nil {
		return 0, err
	}
	for _, r := range m.References {
		// Indexes of indexes end: nobody can make two that refer to each other.
		if r.Manifest {
			if _, err := restoreManifest(ctx, t, repository, c, r.Digest); err != nil && !errors.Is(err, store.ErrNotFound) {
				return 0, err
			}
		}
	}
	if deleted != nil {
		if err := checkReferences(ctx, t, repository, m); err != nil {
			return 0, err
		}
	}
	// Not found: it was purged a moment ago.
	if err := t.must(ctx, `UPDATE registry_manifests SET deleted = NULL, used = ? WHERE id = ?`, instant(c.At), id); err != nil {
		return 0, err
	}
	if deleted == nil {
		return id, nil
	}
	about, err := list(ctx, t, value[string], `
		SELECT digest FROM registry_manifests WHERE repository_id = ? AND subject = ? AND subject <> '' AND deleted >= ?`, repository, digest, *deleted)
	if err != nil {
		return 0, err
	}
	for _, signature := range about {
		_, err := restoreManifest(ctx, t, repository, c, signature)
		if err != nil && !errors.Is(err, store.ErrNotFound) && !errors.As(err, new(*store.MissingError)) {
			return 0, err
		}
	}
	return id, nil
}

// references returns what a manifest refers to. The size of what has gone is 0.
func references(ctx context.Context, t *tx, manifest int64) ([]store.Reference, error) {
	return list(ctx, t, func(row scanner) (r store.Reference, err error) {
		return r, row.Scan(&r.Digest, &r.Manifest, &r.Size)
	}, `
		SELECT f.digest, f.is_manifest, coalesce(b.size, m.size, 0) FROM registry_references f
		LEFT JOIN registry_blobs b ON b.digest = f.digest AND NOT f.is_manifest
		LEFT JOIN registry_manifests m ON m.repository_id = f.repository_id AND m.digest = f.digest AND f.is_manifest
		WHERE f.manifest_id = ? ORDER BY f.digest`, manifest)
}

// PutPolicy implements [store.Policies].
func (db *DB) PutPolicy(ctx context.Context, p store.Policy) error {
	return db.tx(ctx, func(t *tx) error {
		if p.Commit != "" {
			// Even without a text the row stays: it says which run was the last.
			err := t.must(ctx, `
				INSERT INTO registry_file_policies (repository, policy, updated, updated_by, commit_id, run_id) VALUES (?, ?, ?, ?, ?, ?)
				ON CONFLICT (repository) DO UPDATE SET policy = excluded.policy, updated = excluded.updated,
					updated_by = excluded.updated_by, commit_id = excluded.commit_id, run_id = excluded.run_id
				WHERE registry_file_policies.run_id <= excluded.run_id`,
				p.Repository, text(p.Text), instant(p.Updated), text(p.By), p.Commit, p.Run)
			if errors.Is(err, store.ErrNotFound) {
				return store.ErrExists
			}
			return err
		}
		if p.Text == "" {
			_, err := t.exec(ctx, `DELETE FROM registry_policies WHERE repository = ?`, p.Repository)
			return err
		}
		_, err := t.exec(ctx, `
			INSERT INTO registry_policies (repository, policy, updated, updated_by) VALUES (?, ?, ?, ?)
			ON CONFLICT (repository) DO UPDATE SET policy = excluded.policy, updated = excluded.updated,
				updated_by = excluded.updated_by`, p.Repository, text(p.Text), instant(p.Updated), text(p.By))
		return err
	})
}

// ListPolicies implements [store.Policies].
func (db *DB) ListPolicies(ctx context.Context) (policies []store.Policy, err error) {
	err = db.read(ctx, func(t *tx) error {
		policies, err = list(ctx, t, func(row scanner) (p store.Policy, err error) {
			return p, row.Scan(&p.Repository, &p.Text, (*instant)(&p.Updated), &p.By, &p.Commit, &p.Run)
		}, `
			SELECT repository, policy, updated, updated_by, '' AS commit_id, 0 AS run_id FROM registry_policies
			UNION ALL
			SELECT repository, policy, updated, updated_by, commit_id, run_id FROM registry_file_policies WHERE policy <> ''
			ORDER BY repository, run_id`)
		return err
	})
	return policies, err
}
