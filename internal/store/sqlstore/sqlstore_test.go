package sqlstore

import (
	"context"
	"crypto/rand"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"slipway/internal/store"
	"slipway/internal/store/sqlstore/pgtest"
	"slipway/internal/store/storetest"
)

func openTest(t testing.TB, address string) *DB {
	t.Helper()
	db, err := Open(context.Background(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return db
}

// newDatabase returns the URL of a new, empty database on the server at address.
func newDatabase(t testing.TB, address string) string {
	t.Helper()
	db, err := openPostgres(address)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	name := "t" + strings.ToLower(rand.Text())
	if _, err := db.writer.Exec(fmt.Sprintf(`CREATE DATABASE %s`, name)); err != nil {
		t.Fatal(err)
	}
	return strings.Replace(address, "/postgres?", "/"+name+"?", 1)
}

func TestSQLite(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t testing.TB) store.Store {
		return openTest(t, "sqlite://"+filepath.Join(t.TempDir(), "slipway.db"))
	})
}

func TestPostgres(t *testing.T) {
	t.Parallel()
	address := pgtest.Start(t)
	storetest.Run(t, func(t testing.TB) store.Store { return openTest(t, newDatabase(t, address)) })
}
