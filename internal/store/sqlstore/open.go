// Package sqlstore keeps Slipway's state in SQLite or in PostgreSQL.
//
// [Open] chooses the database by its URL and brings its tables up to date. There is one set of statements for both; what
// differs stands in dialect.go. Start reading with DB.tx, in which every method does its work.
package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite" // the driver "sqlite"

	"slipway/internal/store"
)

// DB is an open database. It implements [store.Store].
type DB struct {
	dialect dialect
	// where names the database to people: a path, or a URL without its password.
	where string
	// writer and reader are the same pool on PostgreSQL. On SQLite, which has one writer at a time, writer holds a single
	// connection, so that writers queue here, where their contexts count, and not inside of SQLite.
	writer, reader *sql.DB
}

var _ store.Store = (*DB)(nil)

// Open opens the database at address, makes it if it is a SQLite file that does not exist, and migrates its tables to
// what this binary knows. Several processes may do so at the same time.
//
// An address is postgres://user:password@host/database with the parameters that libpq knows, sqlite:///path/file.db, or
// a plain path to a SQLite file. What SQLite acknowledged survives the death of the process but, as the price of speed,
// the last moments before a power cut may be gone (the database stays consistent); ?synchronous=full pays that price.
// PostgreSQL is as durable as it is configured to be.
//
// The context bounds the opening only.
func Open(ctx context.Context, address string) (*DB, error) {
	var db *DB
	var err error
	if strings.HasPrefix(address, "postgres://") || strings.HasPrefix(address, "postgresql://") {
		db, err = openPostgres(address)
	} else {
		db, err = openSQLite(address)
	}
	if err != nil {
		return nil, err
	}
	if err := db.migrate(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// Close implements [store.Store].
func (db *DB) Close() error {
	err := db.writer.Close()
	if db.reader != db.writer {
		err = errors.Join(err, db.reader.Close())
	}
	return err
}

func openPostgres(address string) (*DB, error) {
	config, err := pgx.ParseConfig(address)
	if err != nil {
		// The error of pgx repeats the address; even without the password that is more than a log needs.
		return nil, errors.New("the database URL is not valid; it looks like postgres://user:password@host:5432/database")
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 5 * time.Second
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "slipway"
	}
	pool := stdlib.OpenDB(*config)
	pool.SetMaxOpenConns(20) // well below PostgreSQL's default of 100 for everybody
	pool.SetMaxIdleConns(5)
	pool.SetConnMaxIdleTime(5 * time.Minute)
	where := fmt.Sprintf("PostgreSQL database %q at %s:%d", config.Database, config.Host, config.Port)
	return &DB{dialect: postgres, where: where, writer: pool, reader: pool}, nil
}

func openSQLite(address string) (*DB, error) {
	path, synchronous := address, "normal"
	if scheme, _, ok := strings.Cut(address, "://"); ok && scheme != "sqlite" {
		return nil, fmt.Errorf("there is no database of the kind %.20q; give postgres://user:password@host/database, or the path of an SQLite file", scheme)
	}
	if rest, ok := strings.CutPrefix(address, "sqlite://"); ok {
		var query string
		path, query, _ = strings.Cut(rest, "?")
		values, err := url.ParseQuery(query)
		if err != nil {
			return nil, fmt.Errorf("the parameters of the database URL %s are not valid: %w", address, err)
		}
		for key, value := range values {
			if key != "synchronous" || (value[0] != "normal" && value[0] != "full") {
				return nil, fmt.Errorf("database URL %s: the only parameter is synchronous, normal or full", address)
			}
			synchronous = value[0]
		}
	}
	if path == "" {
		return nil, errors.New("the database URL names no file; it looks like sqlite:///var/lib/slipway/slipway.db")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", path, err)
	}
	// SQLite would make the file readable by all.
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", path, explainFile(err))
	}
	if err := file.Close(); err != nil {
		return nil, fmt.Errorf("database %s: %w", path, err)
	}

	dsn := func(pragmas ...string) string {
		query := url.Values{"_txlock": {"immediate"}, "_pragma": append(pragmas, "busy_timeout(5000)")}
		return "file:" + (&url.URL{Path: path}).EscapedPath() + "?" + query.Encode()
	}
	writer, err := sql.Open("sqlite", dsn("journal_mode(WAL)", "synchronous("+synchronous+")", "foreign_keys(1)", "journal_size_limit(67108864)"))
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", path, err)
	}
	writer.SetMaxOpenConns(1)
	reader, err := sql.Open("sqlite", strings.Replace(dsn("query_only(1)"), "immediate", "deferred", 1))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("database %s: %w", path, err), writer.Close())
	}
	reader.SetMaxOpenConns(max(4, runtime.GOMAXPROCS(0)))
	reader.SetMaxIdleConns(4)
	return &DB{dialect: sqlite, where: "database " + path, writer: writer, reader: reader}, nil
}

// explainFile says in a sentence why a file cannot be opened for writing.
func explainFile(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return sentence{"its folder does not exist; make it, or give another path", err}
	case errors.Is(err, fs.ErrPermission):
		return sentence{"it may not be written by this user; change its owner, or give another path", err}
	case errors.Is(err, syscall.EROFS):
		return sentence{"it is on a read-only file system; give another path, or mount that writable", err}
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return sentence{"the disk is full; free some space and try again", err}
	}
	return err
}

// sentence is an error whose text is for people, and whose cause is for programs.
type sentence struct {
	text  string
	cause error
}

func (s sentence) Error() string { return s.text }
func (s sentence) Unwrap() error { return s.cause }
