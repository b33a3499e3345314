package sqlstore

import (
	"context"
	"slices"
	"strings"
	"time"

	"slipway/internal/store"
)

// repositoryID returns the id of a repository, or ErrNotFound.
func repositoryID(ctx context.Context, t *tx, name string) (int64, error) {
	return one(ctx, t, value[int64], `SELECT id FROM registry_repositories WHERE name = ?`, name)
}

// manifestsWith returns the manifests of a repository that a condition on m chooses, by digest, with their references.
func manifestsWith(ctx context.Context, t *tx, repository string, content bool, condition string, args ...any) ([]store.Manifest, error) {
	column := "NULL"
	if content {
		column = "m.content"
	}
	at := map[int64]int{} // by id
	manifests, err := list(ctx, t, func(row scanner) (m store.Manifest, err error) {
		var annotations *string
		var id int64
		err = row.Scan(&id, &m.Digest, &m.MediaType, &m.ArtifactType, &m.Subject, &annotations, &m.Content, &m.Size,
			(*instant)(&m.Created), &m.By, (*instant)(&m.Used), (*instant)(&m.Deleted))
		m.Repository, m.Annotations = repository, rawJSON(annotations)
		at[id] = len(at)
		return m, err
	}, `
		SELECT m.id, m.digest, m.media_type, m.artifact_type, m.subject, m.annotations, `+column+`, m.size, m.created, m.created_by, m.used, m.deleted
		FROM registry_manifests m WHERE `+condition+` ORDER BY m.digest`, args...)
	if err != nil {
		return nil, err
	}
	_, err = list(ctx, t, func(row scanner) (none struct{}, err error) {
		var id int64
		var r store.Reference
		err = row.Scan(&id, &r.Digest, &r.Manifest, &r.Size)
		m := &manifests[at[id]]
		m.References = append(m.References, r)
		return none, err
	}, `
		SELECT m.id, f.digest, f.is_manifest, coalesce(b.size, c.size, 0)
		FROM registry_manifests m JOIN registry_references f ON f.manifest_id = m.id
		LEFT JOIN registry_blobs b ON b.digest = f.digest AND NOT f.is_manifest
		LEFT JOIN registry_manifests c ON c.repository_id = f.repository_id AND c.digest = f.digest AND f.is_manifest
		WHERE `+condition+` ORDER BY m.digest, f.digest`, args...)
	return manifests, err
}

// nonNil returns texts as what becomes a JSON array, even if it is empty.
func nonNil(texts []string) []string { return append([]string{}, texts...) }

// PickManifests implements [store.Graph].
func (db *DB) PickManifests(ctx context.Context, repository string, digests []string) (manifests []store.Manifest, err error) {
	err = db.read(ctx, func(t *tx) error {
		manifests = nil
		id, err := repositoryID(ctx, t, repository)
		if err != nil {
			return err
		}
		manifests, err = manifestsWith(ctx, t, repository, false, `m.repository_id = ? AND m.digest IN {list}`, id, object{nonNil(digests)})
		return err
	})
	return manifests, err
}

// FindUsers implements [store.Graph].
func (db *DB) FindUsers(ctx context.Context, repository string, digests []string, limit int) (users map[string]store.Users, err error) {
	err = db.read(ctx, func(t *tx) error {
		users = map[string]store.Users{}
		id, err := repositoryID(ctx, t, repository)
		if err != nil {
			return err
		}
		if err := addTags(ctx, t, id, digests, limit, users); err != nil {
			return err
		}
		return addReferrers(ctx, t, id, digests, limit, users)
	})
	return users, err
}

// addTags adds the tags that point at manifests.
func addTags(ctx context.Context, t *tx, repository int64, digests []string, limit int, users map[string]store.Users) error {
	_, err := list(ctx, t, func(row scanner) (none struct{}, err error) {
		var digest, tag string
		var tagged int
		err = row.Scan(&digest, &tag, &tagged)
		u := users[digest]
		u.Tags, u.Tagged = append(u.Tags, tag), tagged
		users[digest] = u
		return none, err
	}, `
		SELECT digest, name, tagged FROM (
			SELECT m.digest, t.name, row_number() OVER (PARTITION BY m.id ORDER BY t.name) AS place, count(*) OVER (PARTITION BY m.id) AS tagged
			FROM registry_manifests m JOIN registry_tags t ON t.manifest_id = m.id
			WHERE m.repository_id = ? AND m.digest IN {list}
		) AS tags WHERE place <= ? ORDER BY digest, name`, repository, object{nonNil(digests)}, limit)
	return err
}

// addReferrers adds how many manifests refer to digests. It stops to count at the limit: all images of a repository may
// have a layer in common.
func addReferrers(ctx context.Context, t *tx, repository int64, digests []string, limit int, users map[string]store.Users) error {
	_, err := list(ctx, t, func(row scanner) (none struct{}, err error) {
		var digest string
		var n int
		if err = row.Scan(&digest, &n); n > 0 {
			u := users[digest]
			u.Manifests = n
			users[digest] = u
		}
		return none, err
	}, `
		WITH wanted (digest) AS {list}
		SELECT w.digest, (SELECT count(*) FROM (
			SELECT 1 AS found FROM registry_references f JOIN registry_manifests m ON m.id = f.manifest_id
			WHERE f.repository_id = ? AND f.digest = w.digest AND m.deleted IS NULL LIMIT ?) AS few)
		FROM wanted w`, object{nonNil(digests)}, repository, limit)
	return err
}

// CountImages implements [store.Browsing].
func (db *DB) CountImages(ctx context.Context, repository string) (n store.ImageCounts, err error) {
	err = db.read(ctx, func(t *tx) error {
		id, err := repositoryID(ctx, t, repository)
		if err != nil {
			return err
		}
		return t.get(ctx, `
			SELECT (SELECT count(*) FROM registry_tags WHERE repository_id = ?),
				(SELECT count(*) FROM registry_manifests m WHERE `+untagged+`),
				(SELECT count(*) FROM registry_manifests WHERE repository_id = ? AND deleted IS NOT NULL),
				(SELECT CAST(coalesce(sum(b.size), 0) AS BIGINT) FROM registry_links l JOIN registry_blobs b ON b.digest = l.digest WHERE l.repository_id = ?)
					+ (SELECT CAST(coalesce(sum(size), 0) AS BIGINT) FROM registry_manifests WHERE repository_id = ?)`,
			[]any{id, id, id, id, id}, &n.Tags, &n.Untagged, &n.Deleted, &n.Bytes)
	})
	return n, err
}

// untagged is the condition of manifests that no tag and no index leads to.
const untagged = `m.repository_id = ? AND m.deleted IS NULL
	AND NOT EXISTS (SELECT 1 FROM registry_tags t WHERE t.manifest_id = m.id)
	AND NOT EXISTS (SELECT 1 FROM registry_references f WHERE f.repository_id = m.repository_id AND f.digest = m.digest AND f.is_manifest)`

// BrowseTags implements [store.Browsing].
func (db *DB) BrowseTags(ctx context.Context, filter store.TagFilter) (tags []store.Tag, total int64, err error) {
	err = db.read(ctx, func(t *tx) error {
		id, err := repositoryID(ctx, t, filter.Repository)
		if err != nil {
			return err
		}
		var asked conditions
		asked.add(`t.repository_id = ?`, true, id)
		like := strings.NewReplacer("!", "!!", "%", "!%", "_", "!_").Replace(strings.ToLower(filter.Match))
		digest := strings.Contains(like, ":")
		asked.add(`lower(t.name) LIKE ? ESCAPE '!'`, like != "" && !digest, "%"+like+"%")
		asked.add(`t.manifest_id IN (SELECT id FROM registry_manifests WHERE repository_id = ? AND digest LIKE ? ESCAPE '!')`, digest, id, like+"%")
		total, err = one(ctx, t, value[int64], `SELECT count(*) FROM registry_tags t `+asked.where(), asked.args...)
		if err != nil {
			return err
		}
		tags, err = list(ctx, t, scanTag, `
			SELECT t.name, m.digest, t.updated, t.updated_by FROM registry_tags t JOIN registry_manifests m ON m.id = t.manifest_id `+
			asked.where()+` ORDER BY t.updated DESC, t.name LIMIT ? OFFSET ?`, append(asked.args, filter.Limit, filter.Skip)...)
		return err
	})
	return tags, total, err
}

// NewerTags implements [store.Browsing].
func (db *DB) NewerTags(ctx context.Context, repository string, then time.Time) (names []string, err error) {
	err = db.read(ctx, func(t *tx) error {
		id, err := repositoryID(ctx, t, repository)
		if err != nil {
			return err
		}
		names, err = list(ctx, t, value[string], `
			SELECT name FROM registry_tags WHERE repository_id = ? AND updated >= ? ORDER BY updated DESC, name`, id, instant(then))
		return err
	})
	return names, err
}

// BrowseImages implements [store.Browsing].
func (db *DB) BrowseImages(ctx context.Context, filter store.ImageFilter) (manifests []store.Manifest, err error) {
	condition, order := untagged, "m.used"
	if filter.Deleted {
		condition, order = `m.repository_id = ? AND m.deleted IS NOT NULL`, "m.deleted"
	}
	err = db.read(ctx, func(t *tx) error {
		manifests = nil
		id, err := repositoryID(ctx, t, filter.Repository)
		if err != nil {
			return err
		}
		digests, err := list(ctx, t, value[string], `
			SELECT m.digest FROM registry_manifests m WHERE `+condition+` ORDER BY `+order+` DESC, m.digest LIMIT ? OFFSET ?`, id, filter.Limit, filter.Skip)
		if err != nil || len(digests) == 0 {
			return err
		}
		manifests, err = manifestsWith(ctx, t, filter.Repository, false, `m.repository_id = ? AND m.digest IN {list}`, id, object{digests})
		slices.SortFunc(manifests, func(a, b store.Manifest) int {
			return slices.Index(digests, a.Digest) - slices.Index(digests, b.Digest)
		})
		return err
	})
	return manifests, err
}
