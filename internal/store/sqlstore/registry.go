package sqlstore

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"slipway/internal/store"
)

// openRepository returns the id of a repository, which it makes if needed, and locks it until the transaction ends: what
// a manifest may rely on and what may be deleted is decided for one repository by one transaction at a time.
func openRepository(ctx context.Context, t *tx, name string) (id int64, err error) {
	err = t.get(ctx, `
		INSERT INTO registry_repositories (name) VALUES (?)
		ON CONFLICT (name) DO UPDATE SET name = excluded.name
		RETURNING id`, []any{name}, &id)
	return id, err
}

// lockRepository is openRepository of one that must exist.
func lockRepository(ctx context.Context, t *tx, name string) (int64, error) {
	return one(ctx, t, value[int64], `SELECT id FROM registry_repositories WHERE name = ? {update}`, name)
}

// PutManifest implements [store.Manifests].
func (db *DB) PutManifest(ctx context.Context, m store.Manifest, tags ...string) error {
	return db.tx(ctx, func(t *tx) error {
		repository, err := openRepository(ctx, t, m.Repository)
		if err != nil {
			return err
		}
		id, err := liveManifest(ctx, t, repository, m.Digest)
		switch {
		case err == nil:
			_, err = t.exec(ctx, `UPDATE registry_manifests SET used = ? WHERE id = ?`, instant(m.Created), id)
		case errors.Is(err, store.ErrNotFound):
			if err = checkReferences(ctx, t, repository, m); err == nil {
				id, err = insertManifest(ctx, t, repository, m)
			}
			if err == nil {
				err = keepQuota(ctx, t, m.Repository, m.Size)
			}
		}
		if err != nil {
			return err
		}
		for _, tag := range tags {
			if err := putTag(ctx, t, repository, tag, id, m); err != nil {
				return err
			}
		}
		return uncache(ctx, t, repository, append(slices.Clone(tags), m.Digest)...)
	})
}

// liveManifest returns the id of a manifest that is about to be put, or ErrNotFound. If it was deleted, it goes for good:
// what it needs may have gone meanwhile, and whoever puts it now puts a new one.
func liveManifest(ctx context.Context, t *tx, repository int64, digest string) (id int64, err error) {
	var deleted *int64
	err = t.get(ctx, `SELECT id, deleted FROM registry_manifests WHERE repository_id = ? AND digest = ?`, []any{repository, digest}, &id, &deleted)
	if err != nil || deleted == nil {
		return id, err
	}
	if _, err := t.exec(ctx, `DELETE FROM registry_manifests WHERE id = ?`, id); err != nil {
		return 0, err
	}
	return 0, store.ErrNotFound
}

// checkReferences says *store.MissingError if the repository lacks something that m refers to.
func checkReferences(ctx context.Context, t *tx, repository int64, m store.Manifest) error {
	missing := &store.MissingError{Repository: m.Repository}
	for _, r := range m.References {
		query := `
			SELECT b.size FROM registry_links l JOIN registry_blobs b ON b.digest = l.digest
			WHERE l.repository_id = ? AND l.digest = ?`
		if r.Manifest {
			query = `SELECT size FROM registry_manifests WHERE repository_id = ? AND digest = ? AND deleted IS NULL`
		}
		size, err := one(ctx, t, value[int64], query, repository, r.Digest)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if err != nil || size != r.Size {
			missing.References = append(missing.References, r)
		}
	}
	if len(missing.References) > 0 {
		return missing
	}
	return nil
}

func insertManifest(ctx context.Context, t *tx, repository int64, m store.Manifest) (id int64, err error) {
	var annotations any
	if m.Annotations != nil {
		annotations = string(m.Annotations)
	}
	err = t.get(ctx, `
		INSERT INTO registry_manifests (repository_id, digest, media_type, artifact_type, subject, annotations, content,
			size, created, created_by, used)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id`,
		[]any{
			repository, m.Digest, m.MediaType, m.ArtifactType, m.Subject, annotations, m.Content,
			m.Size, instant(m.Created), text(m.By), instant(m.Created),
		}, &id)
	if err != nil {
		return 0, err
	}
	for _, r := range m.References {
		_, err := t.exec(ctx, `
			INSERT INTO registry_references (manifest_id, repository_id, digest, is_manifest) VALUES (?, ?, ?, ?)
			ON CONFLICT DO NOTHING`, id, repository, r.Digest, r.Manifest)
		if err != nil {
			return 0, err
		}
	}
	return id, nil
}

// putTag points a tag at the manifest, and remembers it if that is news.
func putTag(ctx context.Context, t *tx, repository int64, tag string, manifest int64, m store.Manifest) error {
	old, err := one(ctx, t, value[int64], `SELECT manifest_id FROM registry_tags WHERE repository_id = ? AND name = ?`, repository, tag)
	if err == nil && old == manifest {
		// No news for its history, but it is as young as its last push, and goes with the run that made that.
		_, err := t.exec(ctx, `UPDATE registry_tags SET updated = ?, updated_by = ? WHERE repository_id = ? AND name = ?`,
			instant(m.Created), text(m.By), repository, tag)
		return err
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if err == nil {
		if slices.Contains(m.Immutable, tag) {
			return store.ErrExists
		}
		if _, err := t.exec(ctx, `UPDATE registry_manifests SET used = ? WHERE id = ?`, instant(m.Created), old); err != nil {
			return err
		}
	}
	_, err = t.exec(ctx, `
		INSERT INTO registry_tags (repository_id, name, manifest_id, updated, updated_by) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (repository_id, name) DO UPDATE SET manifest_id = excluded.manifest_id, updated = excluded.updated,
			updated_by = excluded.updated_by`,
		repository, tag, manifest, instant(m.Created), text(m.By))
	if err != nil {
		return err
	}
	return putTagChange(ctx, t, repository, tag, store.TagChange{Digest: m.Digest, At: m.Created, By: m.By})
}

func putTagChange(ctx context.Context, t *tx, repository int64, tag string, c store.TagChange) error {
	_, err := t.exec(ctx, `INSERT INTO registry_tag_history (repository_id, name, digest, at, changed_by) VALUES (?, ?, ?, ?, ?)`,
		repository, tag, c.Digest, instant(c.At), text(c.By))
	if err != nil {
		return err
	}
	_, err = t.exec(ctx, `
		DELETE FROM registry_tag_history WHERE repository_id = ? AND name = ? AND id <= (
			SELECT id FROM registry_tag_history WHERE repository_id = ? AND name = ? ORDER BY id DESC LIMIT 1 OFFSET ?)`,
		repository, tag, repository, tag, store.MaxTagHistory)
	return err
}

// FindManifest implements [store.Manifests].
func (db *DB) FindManifest(ctx context.Context, repository, reference string) (m store.Manifest, err error) {
	query := `
		SELECT m.digest, m.media_type, m.artifact_type, m.subject, m.annotations, m.content, m.size, m.created, m.created_by
		FROM registry_repositories r `
	if strings.Contains(reference, ":") {
		query += `JOIN registry_manifests m ON m.repository_id = r.id WHERE r.name = ? AND m.digest = ? AND m.deleted IS NULL`
	} else {
		query += `
			JOIN registry_tags t ON t.repository_id = r.id JOIN registry_manifests m ON m.id = t.manifest_id
			WHERE r.name = ? AND t.name = ?`
	}
	err = db.read(ctx, func(t *tx) error {
		m, err = one(ctx, t, func(row scanner) (m store.Manifest, err error) {
			var annotations *string
			err = row.Scan(&m.Digest, &m.MediaType, &m.ArtifactType, &m.Subject, &annotations, &m.Content, &m.Size,
				(*instant)(&m.Created), &m.By)
			m.Repository = repository
			m.Annotations = rawJSON(annotations)
			return m, err
		}, query, repository, reference)
		return err
	})
	return m, err
}

func rawJSON(s *string) json.RawMessage {
	if s == nil {
		return nil
	}
	return json.RawMessage(*s)
}

// DeleteManifest implements [store.Manifests].
func (db *DB) DeleteManifest(ctx context.Context, c store.Change) (tags []string, err error) {
	err = db.tx(ctx, func(t *tx) error {
		repository, err := lockRepository(ctx, t, c.Repository)
		if err != nil {
			return err
		}
		id, err := one(ctx, t, value[int64], `
			SELECT id FROM registry_manifests WHERE repository_id = ? AND digest = ? AND deleted IS NULL`, repository, c.Reference)
		if err != nil {
			return err
		}
		if c.Unneeded {
			return deleteUnneeded(ctx, t, id, c)
		}
		if tags, err = dropTags(ctx, t, repository, id, c); err != nil {
			return err
		}
		return t.must(ctx, `UPDATE registry_manifests SET deleted = ? WHERE id = ?`, instant(c.At), id)
	})
	return tags, err
}

// dropTags deletes the tags of a manifest that is about to go, and returns them.
func dropTags(ctx context.Context, t *tx, repository, id int64, c store.Change) (tags []string, err error) {
	tags, err = list(ctx, t, value[string], `SELECT name FROM registry_tags WHERE manifest_id = ? ORDER BY name`, id)
	if err != nil {
		return nil, err
	}
	if c.Immutable != nil && slices.ContainsFunc(tags, c.Immutable) {
		return nil, store.ErrExists
	}
	for _, tag := range tags {
		if err := putTagChange(ctx, t, repository, tag, store.TagChange{At: c.At, By: c.By}); err != nil {
			return nil, err
		}
	}
	_, err = t.exec(ctx, `DELETE FROM registry_tags WHERE manifest_id = ?`, id)
	return tags, err
}

// maxAnnotations is the most bytes of annotations on a page of referrers.
const maxAnnotations = 4 << 20

// ListReferrers implements [store.Manifests].
func (db *DB) ListReferrers(ctx context.Context, f store.ReferrerFilter) (manifests []store.Manifest, more bool, err error) {
	err = db.read(ctx, func(t *tx) error {
		manifests, more = nil, false
		rows, err := t.tx.QueryContext(ctx, db.dialect.spell(`
			SELECT m.digest, m.media_type, m.artifact_type, m.subject, m.annotations, m.size, m.created, m.created_by
			FROM registry_repositories r JOIN registry_manifests m ON m.repository_id = r.id
			WHERE r.name = ? AND m.subject = ? AND m.subject <> '' AND m.digest > ? AND (? = '' OR m.artifact_type = ?)
				AND m.deleted IS NULL
			ORDER BY m.digest LIMIT ?`),
			f.Repository, f.Subject, f.Last, f.ArtifactType, f.ArtifactType, f.Limit+1)
		if err != nil {
			return db.explain(err)
		}
		defer rows.Close()
		size := 0
		for rows.Next() {
			if len(manifests) == f.Limit || size > maxAnnotations {
				more = true
				return nil
			}
			m := store.Manifest{Repository: f.Repository}
			var annotations *string
			err := rows.Scan(&m.Digest, &m.MediaType, &m.ArtifactType, &m.Subject, &annotations, &m.Size, (*instant)(&m.Created), &m.By)
			if err != nil {
				return db.explain(err)
			}
			m.Annotations = rawJSON(annotations)
			size += len(m.Annotations)
			manifests = append(manifests, m)
		}
		return db.explain(rows.Err())
	})
	return manifests, more, err
}

func scanTag(row scanner) (tag store.Tag, err error) {
	return tag, row.Scan(&tag.Name, &tag.Digest, (*instant)(&tag.Updated), &tag.By)
}

// ListTags implements [store.Tags].
func (db *DB) ListTags(ctx context.Context, page store.Page) (tags []store.Tag, err error) {
	err = db.read(ctx, func(t *tx) error {
		repository, err := repositoryID(ctx, t, page.Repository)
		if err != nil {
			return err
		}
		tags, err = list(ctx, t, scanTag, `
			SELECT t.name, m.digest, t.updated, t.updated_by
			FROM registry_tags t JOIN registry_manifests m ON m.id = t.manifest_id
			WHERE t.repository_id = ? AND t.name > ? ORDER BY t.name LIMIT ?`, repository, page.Last, page.Limit)
		return err
	})
	return tags, err
}

// DeleteTag implements [store.Tags].
func (db *DB) DeleteTag(ctx context.Context, c store.Change) error {
	return db.tx(ctx, func(t *tx) error {
		repository, err := lockRepository(ctx, t, c.Repository)
		if err != nil {
			return err
		}
		if c.Immutable != nil && c.Immutable(c.Reference) {
			return store.ErrExists
		}
		manifest, err := one(ctx, t, value[int64], `
			DELETE FROM registry_tags WHERE repository_id = ? AND name = ? AND (? = '' OR coalesce(updated, 0) <= ? AND manifest_id = (
				SELECT id FROM registry_manifests m WHERE m.repository_id = registry_tags.repository_id AND m.digest = ?))
			RETURNING manifest_id`, repository, c.Reference, c.Digest, instant(c.At), c.Digest)
		if err != nil {
			return err
		}
		if _, err := t.exec(ctx, `UPDATE registry_manifests SET used = ? WHERE id = ?`, instant(c.At), manifest); err != nil {
			return err
		}
		return putTagChange(ctx, t, repository, c.Reference, store.TagChange{At: c.At, By: c.By})
	})
}

// TagHistory implements [store.Tags].
func (db *DB) TagHistory(ctx context.Context, repository, tag string, limit int) (changes []store.TagChange, err error) {
	err = db.read(ctx, func(t *tx) error {
		changes, err = list(ctx, t, func(row scanner) (c store.TagChange, err error) {
			return c, row.Scan(&c.Digest, (*instant)(&c.At), &c.By)
		}, `
			SELECT h.digest, h.at, h.changed_by
			FROM registry_repositories r JOIN registry_tag_history h ON h.repository_id = r.id
			WHERE r.name = ? AND h.name = ? ORDER BY h.id DESC LIMIT ?`, repository, tag, limit)
		return err
	})
	return changes, err
}

// ListRepositories implements [store.Tags].
func (db *DB) ListRepositories(ctx context.Context, page store.Page) (names []string, err error) {
	err = db.read(ctx, func(t *tx) error {
		names, err = list(ctx, t, value[string], `SELECT name FROM registry_repositories WHERE name > ? ORDER BY name LIMIT ?`, page.Last, page.Limit)
		return err
	})
	return names, err
}

// LinkBlob implements [store.BlobLinks].
func (db *DB) LinkBlob(ctx context.Context, repository string, b store.Blob) error {
	return db.tx(ctx, func(t *tx) error {
		id, err := openRepository(ctx, t, repository)
		if err != nil {
			return err
		}
		if err := errors.Join(linkBlob(ctx, t, id, b), uncache(ctx, t, id, b.Digest)); err != nil {
			return err
		}
		return keepQuota(ctx, t, repository, b.Size)
	})
}

func linkBlob(ctx context.Context, t *tx, repository int64, b store.Blob) error {
	_, err := t.exec(ctx, `
		INSERT INTO registry_blobs (digest, size, linked) VALUES (?, ?, ?)
		ON CONFLICT (digest) DO UPDATE SET linked = excluded.linked`, b.Digest, b.Size, instant(b.Linked))
	if err != nil {
		return err
	}
	return link(ctx, t, repository, b.Digest, b.Linked)
}

func link(ctx context.Context, t *tx, repository int64, digest string, at time.Time) error {
	_, err := t.exec(ctx, `
		INSERT INTO registry_links (repository_id, digest, linked) VALUES (?, ?, ?)
		ON CONFLICT (repository_id, digest) DO UPDATE SET linked = excluded.linked`, repository, digest, instant(at))
	return err
}

// MountBlob implements [store.BlobLinks].
func (db *DB) MountBlob(ctx context.Context, from, to, digest string, at time.Time) error {
	return db.tx(ctx, func(t *tx) error {
		id, err := openRepository(ctx, t, to)
		if err != nil {
			return err
		}
		// Without a lock on from: whoever removes the link meanwhile does not remove the blob, whose row is locked by this.
		err = t.must(ctx, `
			UPDATE registry_blobs SET linked = ? WHERE digest = ? AND EXISTS (
				SELECT 1 FROM registry_repositories r JOIN registry_links l ON l.repository_id = r.id
				WHERE r.name = ? AND l.digest = registry_blobs.digest)`, instant(at), digest, from)
		if err != nil {
			return err
		}
		if err := errors.Join(link(ctx, t, id, digest, at), uncache(ctx, t, id, digest)); err != nil {
			return err
		}
		size, err := one(ctx, t, value[int64], `SELECT size FROM registry_blobs WHERE digest = ?`, digest)
		if err != nil {
			return err
		}
		return keepQuota(ctx, t, to, size)
	})
}

// FindBlob implements [store.BlobLinks].
func (db *DB) FindBlob(ctx context.Context, repository, digest string) (b store.Blob, err error) {
	b.Digest = digest
	err = db.read(ctx, func(t *tx) error {
		return t.get(ctx, `
			SELECT b.size, l.linked FROM registry_repositories r
			JOIN registry_links l ON l.repository_id = r.id JOIN registry_blobs b ON b.digest = l.digest
			WHERE r.name = ? AND l.digest = ?`, []any{repository, digest}, &b.Size, (*instant)(&b.Linked))
	})
	return b, err
}

// UnlinkBlob implements [store.BlobLinks].
func (db *DB) UnlinkBlob(ctx context.Context, repository, digest string) error {
	return db.tx(ctx, func(t *tx) error {
		id, err := lockRepository(ctx, t, repository)
		if err != nil {
			return err
		}
		users, err := one(ctx, t, value[int64], `
			SELECT count(*) FROM registry_references f JOIN registry_manifests m ON m.id = f.manifest_id
			WHERE f.repository_id = ? AND f.digest = ? AND NOT f.is_manifest AND m.deleted IS NULL`, id, digest)
		if err != nil {
			return err
		}
		if users > 0 {
			return store.ErrInUse
		}
		return t.must(ctx, `DELETE FROM registry_links WHERE repository_id = ? AND digest = ?`, id, digest)
	})
}
