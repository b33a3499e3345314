package sqlstore

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// migrations are numbered 0001_name.sql, 0002_name.sql, without gaps. A file that was released is never changed.
//
//go:embed migrations/*.sql
var migrations embed.FS

// migrate brings the tables to the newest version that this binary knows, all or nothing. Who comes second waits and
// finds the work done.
func (db *DB) migrate(ctx context.Context) error {
	files, err := fs.Glob(migrations, "migrations/*.sql") // sorted
	if err != nil {
		return err
	}
	return db.tx(ctx, func(t *tx) error {
		if db.dialect.lockSchema != "" {
			if _, err := t.exec(ctx, db.dialect.lockSchema); err != nil {
				return err
			}
		}
		if _, err := t.exec(ctx, `CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)`); err != nil {
			return err
		}
		var version int
		if err := t.get(ctx, `SELECT coalesce(max(version), 0) FROM schema_version`, nil, &version); err != nil {
			return err
		}
		if version > len(files) {
			return fmt.Errorf("%s was written by a newer slipway (its version is %d, this binary knows %d); start the newer one, or restore a backup from before the upgrade",
				db.where, version, len(files))
		}
		for i, file := range files[version:] {
			number, err := strconv.Atoi(strings.TrimPrefix(file, "migrations/")[:4])
			if err != nil || number != version+i+1 {
				return fmt.Errorf("migration %s is not number %d", file, version+i+1)
			}
			script, err := migrations.ReadFile(file)
			if err != nil {
				return err
			}
			if _, err := t.exec(ctx, string(script)); err != nil {
				return fmt.Errorf("migration %s: %w", file, err)
			}
			if _, err := t.exec(ctx, `INSERT INTO schema_version (version) VALUES (?)`, number); err != nil {
				return err
			}
		}
		return nil
	})
}
