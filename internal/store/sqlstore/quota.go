package sqlstore

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"

	"slipway/internal/store"
)

// PutQuota implements [store.Quotas].
func (db *DB) PutQuota(ctx context.Context, repository string, bytes int64) error {
	return db.tx(ctx, func(t *tx) error {
		// Pushes that no quota held for were not counted.
		if _, err := t.exec(ctx, `DELETE FROM registry_quota_use`); err != nil {
			return err
		}
		if bytes <= 0 {
			_, err := t.exec(ctx, `DELETE FROM registry_quotas WHERE repository = ?`, repository)
			return err
		}
		_, err := t.exec(ctx, `
			INSERT INTO registry_quotas (repository, bytes) VALUES (?, ?)
			ON CONFLICT (repository) DO UPDATE SET bytes = excluded.bytes`, repository, bytes)
		return err
	})
}

// FindQuotas implements [store.Quotas].
func (db *DB) FindQuotas(ctx context.Context, repository string) (quotas []store.Quota, err error) {
	err = db.read(ctx, func(t *tx) error {
		if quotas, err = quotasOf(ctx, t, repository); err != nil {
			return err
		}
		for i := range quotas {
			if err := countQuota(ctx, t, &quotas[i]); err != nil {
				return err
			}
		}
		return nil
	})
	return quotas, err
}

// HasQuota implements [store.Quotas].
func (db *DB) HasQuota(ctx context.Context, repository string) (holds bool, err error) {
	err = db.read(ctx, func(t *tx) error {
		quotas, err := quotasOf(ctx, t, repository)
		holds = len(quotas) > 0
		return err
	})
	return holds, err
}

// CheckQuota implements [store.Quotas].
func (db *DB) CheckQuota(ctx context.Context, repository string, bytes, staged int64) error {
	return db.read(ctx, func(t *tx) error {
		quotas, err := quotasOf(ctx, t, repository)
		if err != nil {
			return err
		}
		for _, q := range quotas {
			staged := staged
			if strings.Count(q.Repository, "/") > 1 {
				staged = 0 // of others below the repo, perhaps
			}
			atMost, err := one(ctx, t, value[int64], `SELECT bytes FROM registry_quota_use WHERE repository = ?`, q.Repository)
			if err == nil && fits(atMost, bytes, q.Bytes) && fits(atMost+staged, bytes, twice(q.Bytes)) {
				continue
			}
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
			if err := countQuota(ctx, t, &q); err != nil {
				return err
			}
			q.Stored += staged
			if !fits(q.Used, bytes, q.Bytes) || !fits(q.Stored, bytes, twice(q.Bytes)) {
				return &store.QuotaError{Quota: q}
			}
		}
		return nil
	})
}

// fits reports whether have and more are together at most limit.
func fits(have, more, limit int64) bool { return have <= limit && more <= limit-have }

func twice(n int64) int64 {
	if n > math.MaxInt64/2 {
		return math.MaxInt64
	}
	return 2 * n
}

// keepQuota says *store.QuotaError if a repository has more than it may, after a transaction gave it at most that many
// bytes. It locks what it counts until the transaction ends, so of several pushes at once, each counts those before.
func keepQuota(ctx context.Context, t *tx, repository string, bytes int64) error {
	quotas, err := quotasOf(ctx, t, repository)
	if err != nil {
		return err
	}
	for _, q := range quotas { // in the same order in each transaction
		if _, err := t.exec(ctx, `INSERT INTO registry_quota_use (repository, bytes) VALUES (?, -1) ON CONFLICT DO NOTHING`, q.Repository); err != nil {
			return err
		}
		atMost, err := one(ctx, t, value[int64], `SELECT bytes FROM registry_quota_use WHERE repository = ? {update}`, q.Repository)
		if err != nil {
			return err
		}
		if atMost >= 0 && fits(atMost, bytes, q.Bytes) {
			atMost += bytes
		} else {
			if err := countQuota(ctx, t, &q); err != nil {
				return err
			}
			if q.Used > q.Bytes || q.Stored > twice(q.Bytes) {
				return &store.QuotaError{Quota: q}
			}
			atMost = q.Stored
		}
		if _, err := t.exec(ctx, `UPDATE registry_quota_use SET bytes = ? WHERE repository = ?`, atMost, q.Repository); err != nil {
			return err
		}
	}
	return nil
}

// quotasOf returns the quotas that hold for a repository, the widest first, without what is used of them.
func quotasOf(ctx context.Context, t *tx, repository string) ([]store.Quota, error) {
	if strings.HasPrefix(repository, "mirror/") {
		return nil, nil
	}
	scan := func(row scanner) (q store.Quota, err error) { return q, row.Scan(&q.Repository, &q.Bytes) }
	var names []any
	repo, slashes := repository, 0
	for i, c := range repository + "/" {
		if c == '/' {
			names = append(names, repository[:i])
			if slashes++; slashes == 2 {
				repo = repository[:i]
			}
		}
	}
	// The empty name is first, and no repository's.
	quotas, err := list(ctx, t, scan, `
		SELECT repository, bytes FROM registry_quotas
		WHERE repository IN ('', ?`+strings.Repeat(", ?", len(names)-1)+`) ORDER BY repository`, names...)
	if err != nil || len(quotas) == 0 || quotas[0].Repository != "" {
		return quotas, err
	}
	forAll := store.Quota{Repository: repo, Bytes: quotas[0].Bytes}
	quotas = quotas[1:]
	for i, q := range quotas {
		if q.Repository == repo {
			return quotas, nil
		}
		if q.Repository > repo {
			return append(append(append([]store.Quota{}, quotas[:i]...), forAll), quotas[i:]...), nil
		}
	}
	return append(quotas, forAll), nil
}

// countQuota sets what is used of a quota. What only deleted images need is looked for from those, of which there are few.
func countQuota(ctx context.Context, t *tx, q *store.Quota) error {
	// What begins with the name and a slash stands before what begins with the name and a zero, the next character.
	const within = `(SELECT id FROM registry_repositories WHERE name = ? OR name > ? AND name < ?)`
	below := []any{q.Repository, q.Repository + "/", q.Repository + "0"}
	var unneeded int64
	err := t.get(ctx, `
		SELECT (SELECT CAST(coalesce(sum(b.size), 0) AS BIGINT) FROM registry_blobs b WHERE b.digest IN (
				SELECT digest FROM registry_links WHERE repository_id IN `+within+`))
			+ (SELECT CAST(coalesce(sum(size), 0) AS BIGINT) FROM registry_manifests WHERE repository_id IN `+within+`),
			(SELECT CAST(coalesce(sum(b.size), 0) AS BIGINT) FROM registry_blobs b WHERE b.digest IN (
				SELECT f.digest FROM registry_manifests m JOIN registry_references f ON f.manifest_id = m.id
				WHERE m.repository_id IN `+within+` AND m.deleted IS NOT NULL AND NOT f.is_manifest)
			AND NOT EXISTS (
				SELECT 1 FROM registry_references f JOIN registry_manifests m ON m.id = f.manifest_id
				WHERE f.digest = b.digest AND f.repository_id IN `+within+` AND NOT f.is_manifest AND m.deleted IS NULL)
			AND NOT EXISTS (
				SELECT 1 FROM registry_links l WHERE l.digest = b.digest AND l.repository_id IN `+within+` AND NOT EXISTS (
					SELECT 1 FROM registry_references f WHERE f.repository_id = l.repository_id AND f.digest = l.digest AND NOT f.is_manifest))
			AND EXISTS (SELECT 1 FROM registry_links l WHERE l.digest = b.digest AND l.repository_id IN `+within+`))
			+ (SELECT CAST(coalesce(sum(size), 0) AS BIGINT) FROM registry_manifests WHERE repository_id IN `+within+` AND deleted IS NOT NULL)`,
		slices.Repeat(below, 7), &q.Stored, &unneeded)
	q.Used = q.Stored - unneeded
	return err
}
