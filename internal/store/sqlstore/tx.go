package sqlstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"slipway/internal/store"
)

// maxAttempts bounds how often a transaction is repeated because another one was in its way.
const maxAttempts = 10

// tx is a transaction. Its errors explain themselves.
type tx struct {
	db *DB
	tx *sql.Tx
}

// tx runs fn in a transaction that may write, and commits if fn returns nil. When the database asks for it, the
// transaction is repeated: fn must not rely on having run once. On SQLite there is one such transaction at a time. On
// PostgreSQL the isolation level is READ COMMITTED, so fn locks ({update}) what it reads in order to change it.
func (db *DB) tx(ctx context.Context, fn func(*tx) error) error {
	for attempt := 1; ; attempt++ {
		err := db.once(ctx, db.writer, nil, fn)
		if err == nil || attempt == maxAttempts || !db.dialect.retryable(err) {
			return err
		}
		pause := time.NewTimer(time.Duration(1+rand.IntN(10<<min(attempt, 5))) * time.Millisecond)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return err
		}
	}
}

// read runs fn in a transaction that sees one state of the database and writes nothing.
func (db *DB) read(ctx context.Context, fn func(*tx) error) error {
	options := &sql.TxOptions{ReadOnly: true}
	if db.dialect.numbered {
		options.Isolation = sql.LevelRepeatableRead
	}
	return db.once(ctx, db.reader, options, fn)
}

func (db *DB) once(ctx context.Context, pool *sql.DB, options *sql.TxOptions, fn func(*tx) error) error {
	inner, err := pool.BeginTx(ctx, options)
	if err != nil {
		return db.explain(err)
	}
	defer inner.Rollback() // after Commit it does nothing; when fn panics it lets go of the locks
	if err := fn(&tx{db, inner}); err != nil {
		return err
	}
	return db.explain(inner.Commit())
}

// exec runs a statement and returns how many rows it changed.
func (t *tx) exec(ctx context.Context, query string, args ...any) (int64, error) {
	result, err := t.tx.ExecContext(ctx, t.db.dialect.spell(query), args...)
	if err != nil {
		return 0, t.db.explain(err)
	}
	n, err := result.RowsAffected()
	return n, t.db.explain(err)
}

// must is exec of a statement that has to change a row: none is ErrNotFound.
func (t *tx) must(ctx context.Context, query string, args ...any) error {
	n, err := t.exec(ctx, query, args...)
	if err == nil && n == 0 {
		return store.ErrNotFound
	}
	return err
}

// get scans the only row that query returns into dest; no row is ErrNotFound.
func (t *tx) get(ctx context.Context, query string, args []any, dest ...any) error {
	err := t.tx.QueryRowContext(ctx, t.db.dialect.spell(query), args...).Scan(dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return store.ErrNotFound
	}
	return t.db.explain(err)
}

// scanner is a row whose columns can be scanned.
type scanner interface{ Scan(dest ...any) error }

// list returns what scan makes of each row of query.
func list[T any](ctx context.Context, t *tx, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
	rows, err := t.tx.QueryContext(ctx, t.db.dialect.spell(query), args...)
	if err != nil {
		return nil, t.db.explain(err)
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		one, err := scan(rows)
		if err != nil {
			return nil, t.db.explain(err)
		}
		all = append(all, one)
	}
	return all, t.db.explain(rows.Err())
}

// one returns what scan makes of the only row of query; no row is ErrNotFound.
func one[T any](ctx context.Context, t *tx, scan func(scanner) (T, error), query string, args ...any) (T, error) {
	v, err := scan(t.tx.QueryRowContext(ctx, t.db.dialect.spell(query), args...))
	if errors.Is(err, sql.ErrNoRows) {
		return v, store.ErrNotFound
	}
	return v, t.db.explain(err)
}

// value scans a single column.
func value[T any](row scanner) (v T, err error) { return v, row.Scan(&v) }

// instant is a time as it is stored: nanoseconds since 1970 in UTC, and NULL for the zero time.
type instant time.Time

// Value implements [driver.Valuer].
func (i instant) Value() (driver.Value, error) {
	t := time.Time(i)
	if t.IsZero() {
		return nil, nil
	}
	n := t.UnixNano()
	if !time.Unix(0, n).Equal(t) {
		return nil, fmt.Errorf("the time %s cannot be stored; years 1678 to 2261 can", t)
	}
	return n, nil
}

// Scan implements [sql.Scanner].
func (i *instant) Scan(src any) error {
	switch n := src.(type) {
	case nil:
		*i = instant{}
	case int64:
		*i = instant(time.Unix(0, n).UTC())
	default:
		return fmt.Errorf("a time is stored as %T", src)
	}
	return nil
}

// object is a value that is stored as JSON; to scan it, v is a pointer.
type object struct{ v any }

// Value implements [driver.Valuer].
func (o object) Value() (driver.Value, error) {
	text, err := json.Marshal(o.v)
	return string(text), err
}

// Scan implements [sql.Scanner].
func (o object) Scan(src any) error {
	switch text := src.(type) {
	case string:
		return json.Unmarshal([]byte(text), o.v)
	case []byte:
		return json.Unmarshal(text, o.v)
	}
	return fmt.Errorf("an object is stored as %T", src)
}

// blob returns b as it is stored: NULL when it is empty, so that it comes back as nil.
func blob(b []byte) any {
	if len(b) == 0 {
		return nil
	}
	return b
}

// text returns s without what PostgreSQL refuses in a text: NUL and invalid UTF-8. Messages may quote anything.
func text(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

// utc returns t as it comes back from the database.
func utc(t time.Time) time.Time { return t.Round(0).UTC() }
