package sqlstore

import (
	"context"
	"errors"
	"math"
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

// countQuota sets what is used of a quota.
func countQuota(ctx context.Context, t *tx, q *store.Quota) error {
	// What begins with the name and a slash stands before what begins with the name and a zero, the next character.
	where := `(r.name = ? OR r.name > ? AND r.name < ?)`
	below := []any{q.Repository, q.Repository + "/", q.Repository + "0"}
	return t.get(ctx, `
		SELECT CAST(coalesce(sum(CASE WHEN needed = 1 THEN size ELSE 0 END), 0) AS BIGINT), CAST(coalesce(sum(size), 0) AS BIGINT)
		FROM (
			SELECT b.digest, b.size, max(CASE
				WHEN EXISTS (SELECT 1 FROM registry_references f JOIN registry_manifests m ON m.id = f.manifest_id
					WHERE f.repository_id = l.repository_id AND f.digest = l.digest AND NOT f.is_manifest AND m.deleted IS NULL) THEN 1
				WHEN EXISTS (SELECT 1 FROM registry_references f
					WHERE f.repository_id = l.repository_id AND f.digest = l.digest AND NOT f.is_manifest) THEN 0
				ELSE 1 END) AS needed
			FROM registry_repositories r JOIN registry_links l ON l.repository_id = r.id JOIN registry_blobs b ON b.digest = l.digest
			WHERE `+where+` GROUP BY b.digest, b.size
			UNION ALL
			SELECT m.digest, m.size, CASE WHEN m.deleted IS NULL THEN 1 ELSE 0 END
			FROM registry_repositories r JOIN registry_manifests m ON m.repository_id = r.id WHERE `+where+`
		) AS counted`, append(below, below...), &q.Used, &q.Stored)
}
