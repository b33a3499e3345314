package sqlstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"slipway/internal/ci"
	"slipway/internal/store"
	"slipway/internal/store/sqlstore/pgtest"
	"slipway/internal/testneeds"
)

// wantSentence checks that err ends in what people are to read, in one line.
func wantSentence(t testing.TB, err error, sentence string) {
	t.Helper()
	if err == nil || !strings.HasSuffix(err.Error(), sentence) || strings.Contains(err.Error(), "\n") {
		t.Errorf("error is %v\nwant … %s", err, sentence)
	}
}

func TestOpenAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "with space and ?#%.db")
	first := openTest(t, path)
	repo := ci.Repo{Name: "a/b", Created: time.Unix(1, 0)}
	if err := first.PutRepo(t.Context(), &repo); err != nil {
		t.Fatal(err)
	}
	if _, err := openTest(t, path).FindRepo(t.Context(), "a/b"); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode is %v, %v", info.Mode(), err)
	}
	for address, want := range map[string]int{path: 1, "sqlite://" + path[:len(path)-len("?#%.db")] + "?synchronous=full": 2} {
		var synchronous int
		if err := openTest(t, address).writer.QueryRow(`PRAGMA synchronous`).Scan(&synchronous); err != nil || synchronous != want {
			t.Errorf("%s: synchronous is %d, %v; want %d", address, synchronous, err, want)
		}
	}
}

// Processes that start at the same time migrate once.
func TestOpenConcurrent(t *testing.T) {
	t.Parallel()
	for name, address := range map[string]func() string{
		"SQLite":     func() string { return filepath.Join(t.TempDir(), "db") },
		"PostgreSQL": func() string { return newDatabase(t, pgtest.Start(t)) },
	} {
		t.Run(name, func(t *testing.T) {
			address := address()
			var group errgroup.Group
			for range 8 {
				group.Go(func() error {
					db, err := Open(t.Context(), address)
					if err != nil {
						return err
					}
					return errors.Join(db.PutRepo(t.Context(), &ci.Repo{Name: "a/b"}), db.Close())
				})
			}
			if err := group.Wait(); err != nil {
				t.Fatal(err)
			}
			db := openTest(t, address)
			var versions, newest int
			if err := db.reader.QueryRow(`SELECT count(*), max(version) FROM schema_version`).Scan(&versions, &newest); err != nil ||
				versions != newest || versions == 0 {
				t.Fatalf("%d rows of versions, the newest is %d, %v", versions, newest, err)
			}
			// Of a newer database this binary keeps its hands off.
			if _, err := db.writer.Exec(`INSERT INTO schema_version (version) VALUES (9999)`); err != nil {
				t.Fatal(err)
			}
			_, err := Open(t.Context(), address)
			wantSentence(t, err, fmt.Sprintf("was written by a newer slipway (its version is 9999, this binary knows %d); "+
				"start the newer one, or restore a backup from before the upgrade", newest))
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	folder := t.TempDir()
	text := filepath.Join(folder, "text")
	if err := os.WriteFile(text, []byte(strings.Repeat("this is not a database\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{
		"":                               "the database URL names no file; it looks like sqlite:///var/lib/slipway/slipway.db",
		"sqlite:///x?mode=memory":        "the only parameter is synchronous, normal or full",
		"sqlite:///x?synchronous=off":    "the only parameter is synchronous, normal or full",
		"sqlite://" + folder + "/no/db":  "its folder does not exist; make it, or give another path",
		text:                             "the file is not a SQLite database; give another path, or restore it from a backup",
		folder:                           "is a directory",
		"postgres://u:hunter2@[::1/x":    "the database URL is not valid; it looks like postgres://user:password@host:5432/database",
		"postgres://u:hunter2@h:port/db": "the database URL is not valid; it looks like postgres://user:password@host:5432/database",
	} {
		_, err := Open(t.Context(), address)
		wantSentence(t, err, want)
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error tells the password: %v", err)
		}
	}
}

func TestSQLiteDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	db := openTest(t, path)
	for i := range 500 {
		if err := db.PutRepo(t.Context(), &ci.Repo{Name: fmt.Sprintf("a/%d", i), Link: strings.Repeat("x", 100)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	for at := int64(4096); at < info.Size(); at += 4096 {
		if _, err := file.WriteAt([]byte(strings.Repeat("garbage!", 512)), at); err != nil {
			t.Fatal(err)
		}
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	db, err = Open(t.Context(), path)
	if err == nil {
		defer db.Close()
		_, err = db.ListRepos(t.Context())
	}
	wantSentence(t, err, path+": the file is damaged; restore it from a backup (docs/state.md)")
}

func TestSQLiteFullDisk(t *testing.T) {
	testneeds.Root(t)
	folder := t.TempDir()
	if err := syscall.Mount("tmpfs", folder, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatalf("mount a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(folder, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(folder, "db")
	db := openTest(t, path)
	ballast := filepath.Join(folder, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 300<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	stored := 0
	var err error
	for ; err == nil; stored++ {
		err = db.PutRepo(t.Context(), &ci.Repo{Name: fmt.Sprintf("a/%d", stored), Link: strings.Repeat("x", 5000)})
	}
	stored--
	wantSentence(t, err, path+": the disk is full; free some space and try again")
	// It reads on, and once there is room it writes on.
	if repos, err := db.ListRepos(t.Context()); err != nil || len(repos) != stored {
		t.Fatalf("%d repos of %d, %v", len(repos), stored, err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := db.PutRepo(t.Context(), &ci.Repo{Name: "a/more"}); err != nil {
		t.Fatal(err)
	}
}

func TestSQLiteReadOnly(t *testing.T) {
	testneeds.Root(t)
	folder := t.TempDir()
	path := filepath.Join(folder, "db")
	db := openTest(t, path)
	if err := db.PutRepo(t.Context(), &ci.Repo{Name: "a/b"}); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount(folder, folder, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(folder, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := syscall.Mount("", folder, "", syscall.MS_REMOUNT|syscall.MS_BIND|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), path)
	wantSentence(t, err, path+": it is on a read-only file system; give another path, or mount that writable")
}

// A lock that another process holds for long is waited for, and then told.
func TestSQLiteLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	db, other := openTest(t, path), openTest(t, path)
	lock, err := other.writer.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.writer.Exec(`PRAGMA busy_timeout = 1`); err != nil {
		t.Fatal(err)
	}
	if err := db.PutRepo(t.Context(), &ci.Repo{Name: "a/b"}); err == nil {
		t.Error("wrote in spite of a lock")
	} else {
		wantSentence(t, err, path+": another process keeps it locked; stop that process and try again")
	}
	if err := lock.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := db.PutRepo(t.Context(), &ci.Repo{Name: "a/b"}); err != nil {
		t.Error(err)
	}
}

func TestPostgresUnreachable(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil { // nobody listens there any more
		t.Fatal(err)
	}
	_, err = Open(t.Context(), "postgres://u:hunter2@"+address+"/slipway?sslmode=disable")
	host, port, _ := strings.Cut(address, ":")
	wantSentence(t, err, fmt.Sprintf(`PostgreSQL database "slipway" at %s:%s: the server cannot be reached; `+
		`check that it runs and that the URL is right (connection refused)`, host, port))
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the error tells the password: %v", err)
	}
}

func TestPostgresRefuses(t *testing.T) {
	t.Parallel()
	address := pgtest.Start(t)
	_, err := Open(t.Context(), strings.Replace(address, "/postgres?", "/nothing?", 1))
	wantSentence(t, err, "there is no such database; create it (CREATE DATABASE) or correct the URL")
	_, err = Open(t.Context(), strings.Replace(address, "slipway@", "nobody@", 1))
	wantSentence(t, err, "the server refuses the user or password; check the database URL")
}

// What the database asks to repeat is repeated, and seen as if it had run once.
func TestRetry(t *testing.T) {
	t.Parallel()
	db := openTest(t, newDatabase(t, pgtest.Start(t)))
	for _, name := range []string{"a/b", "a/c"} {
		if err := db.PutRepo(t.Context(), &ci.Repo{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	// Two transactions that lock two rows in opposite order: PostgreSQL ends one of them.
	var meet [2]chan struct{}
	for i := range meet {
		meet[i] = make(chan struct{})
	}
	var group errgroup.Group
	attempts := make([]int, 2)
	for i, names := range [][]string{{"a/b", "a/c"}, {"a/c", "a/b"}} {
		group.Go(func() error {
			return db.tx(t.Context(), func(tx *tx) error {
				attempts[i]++
				const add = `UPDATE repos SET last_run = last_run + 1 WHERE name = ?`
				if err := tx.must(t.Context(), add, names[0]); err != nil {
					return err
				}
				if attempts[i] == 1 {
					close(meet[i])
					<-meet[1-i]
				}
				return tx.must(t.Context(), add, names[1])
			})
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if attempts[0]+attempts[1] < 3 {
		t.Fatalf("there was no deadlock: %v attempts", attempts)
	}
	run := ci.Run{Repo: "a/b"}
	if err := db.CreateRun(t.Context(), &run); err != nil || run.Number != 3 {
		t.Fatalf("the next number is %d, %v; want 3", run.Number, err)
	}
}

// With many jobs and runs, no statement of the busy methods reads a table from end to end.
func TestQueryPlans(t *testing.T) {
	db := openTest(t, filepath.Join(t.TempDir(), "db"))
	ctx := context.Background()
	fill(t, db, 200, 50)
	if _, err := db.writer.Exec(`ANALYZE`); err != nil {
		t.Fatal(err)
	}
	for _, query := range []string{
		`SELECT wants, id FROM jobs WHERE status = 'pending' AND wants > 'x' ORDER BY wants, id LIMIT 1`,
		`SELECT wants, id FROM jobs WHERE run_id = 1 AND status = 'pending' ORDER BY id`,
		`SELECT run_id, id FROM jobs WHERE status = 'running' AND lease_hash = x'00'`,
		selectJob + `WHERE jobs.status = 'running' AND lease_until < 1 ORDER BY id`,
		selectStep + `WHERE run_id = 1 ORDER BY job_id, steps.number`,
		selectRun + `WHERE runs.id < 100 ORDER BY runs.id DESC LIMIT 50`,
		selectRun + `WHERE repo_id = (SELECT id FROM repos WHERE name = 'a/0') AND runs.id < 100 ORDER BY runs.id DESC LIMIT 50`,
		selectRun + `WHERE done = FALSE ORDER BY runs.id DESC`,
		`SELECT id FROM runs WHERE repo_id = 1 AND delivery = 'x' AND ref = 'y' AND delivery <> ''`,
		selectToken + `WHERE hash = x'00'`,
	} {
		details, err := db.explainQuery(ctx, query)
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		for _, detail := range details {
			// A scan of runs in the order of their IDs ends at the limit.
			if strings.HasPrefix(detail, "SCAN") && !strings.Contains(detail, "USING") {
				t.Errorf("%s\n%s", query, strings.Join(details, "\n"))
			}
		}
	}
}

func (db *DB) explainQuery(ctx context.Context, query string) (details []string, err error) {
	err = db.read(ctx, func(t *tx) error {
		details, err = list(ctx, t, func(row scanner) (detail string, err error) {
			var id, parent, unused int
			return detail, row.Scan(&id, &parent, &unused, &detail)
		}, `EXPLAIN QUERY PLAN `+query)
		return err
	})
	return details, err
}

// fill makes past runs and queued jobs, one of three labels each, in one transaction and without the methods of [store.Store]:
// there are many.
func fill(t testing.TB, db *DB, runs, queued int) {
	t.Helper()
	if err := db.PutRepo(t.Context(), &ci.Repo{Name: "a/0"}); err != nil {
		t.Fatal(err)
	}
	series := fmt.Sprintf(`WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < %d) `, runs+queued)
	for _, statement := range []string{
		`INSERT INTO runs (repo_id, number, parent, ref, delivery, event, status, done, message, warnings, created)
			` + series + fmt.Sprintf(`SELECT 1, i, 0, 'refs/heads/main', '', '{}', 'success', i <= %d, '', 'null', i FROM n`, runs),
		`UPDATE repos SET last_run = (SELECT max(number) FROM runs)`,
		`INSERT INTO jobs (run_id, number, name, needs, status, message, runner, cancel, lease_seq, wants)
			SELECT id, 1, 'test', 'null', CASE WHEN done THEN 'success' ELSE 'pending' END, '', '', FALSE, 0,
				'{"labels":{"x":"' || (number % 3) || '"}}' FROM runs`,
		`INSERT INTO steps (job_id, number, name, kind, image, needs, detach, status, exit_code, message)
			SELECT id, 1, 'go', 'exec', '', 'null', FALSE, 'success', 0, '' FROM jobs`,
		`UPDATE runs SET status = 'pending' WHERE done = FALSE`,
		`ANALYZE`,
	} {
		if _, err := db.writer.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
}

// Ten thousand queued jobs, of which a third fit, behind a hundred thousand past runs.
func BenchmarkBusy(b *testing.B) {
	for name, address := range map[string]func() string{
		"SQLite":     func() string { return filepath.Join(b.TempDir(), "db") },
		"PostgreSQL": func() string { return newDatabase(b, pgtest.Start(b)) },
	} {
		db := openTest(b, address())
		fill(b, db, 100_000, 10_000)
		number := 0
		claim := store.Claim{Runner: "r", OS: "linux", Arch: "amd64", Labels: map[string]string{"x": "1"}, Now: time.Now()}
		var last ci.Run
		b.Run(name+"/Claim", func(b *testing.B) {
			for b.Loop() {
				number++
				claim.Lease = ci.Lease{Hash: fmt.Append(nil, number), Until: time.Now().Add(time.Hour)}
				var err error
				if last, _, err = db.Claim(b.Context(), claim); err != nil {
					b.Fatal(err)
				}
				b.StopTimer() // put it back
				if _, err := db.UpdateRun(b.Context(), last.ID, func(d *store.Draft) error {
					d.Jobs[0].Status = ci.Pending
					return nil
				}); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
		b.Run(name+"/ClaimNothing", func(b *testing.B) {
			nothing := claim
			nothing.Labels = nil
			for b.Loop() {
				if _, _, err := db.Claim(b.Context(), nothing); !errors.Is(err, store.ErrNotFound) {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/UpdateRun", func(b *testing.B) {
			for b.Loop() {
				if _, err := db.UpdateRun(b.Context(), last.ID, func(d *store.Draft) error {
					d.Jobs[0].Lease.Seq++
					return nil
				}); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/CreateRun", func(b *testing.B) {
			for b.Loop() {
				if err := db.CreateRun(b.Context(), &ci.Run{Repo: "a/0", Status: ci.Success}); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/FindRun", func(b *testing.B) {
			for b.Loop() {
				if _, err := db.FindRun(b.Context(), "a/0", 50_000); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/ListRuns", func(b *testing.B) {
			for b.Loop() {
				if _, err := db.ListRuns(b.Context(), store.RunFilter{Repo: "a/0", Before: 90_000}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// What was set for names of images with capitals comes to hold, and repos whose names differ only by case are named.
func TestMigrateCapitals(t *testing.T) {
	t.Parallel()
	for name, address := range map[string]func() string{
		"SQLite":     func() string { return filepath.Join(t.TempDir(), "db") },
		"PostgreSQL": func() string { return newDatabase(t, pgtest.Start(t)) },
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			db := openTest(t, address())
			files, err := fs.Glob(migrations, "migrations/*_capitals.sql")
			if err != nil || len(files) != 1 {
				t.Fatal(files, err)
			}
			script, err := migrations.ReadFile(files[0])
			if err != nil {
				t.Fatal(err)
			}
			do := func(statement string) error {
				return db.tx(ctx, func(tx *tx) error {
					_, err := tx.exec(ctx, statement)
					return err
				})
			}
			check := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			check(do(`DROP INDEX repos_differ_by_more_than_case`))
			now := time.Unix(1, 0).UTC()
			for _, name := range []string{"ACME/Both", "Acme/Both", "Acme/One", "acme/both", "acme/none"} {
				check(db.PutPolicy(ctx, store.Policy{Repository: name, Text: name, Updated: now}))
				check(db.PutPolicy(ctx, store.Policy{Repository: name, Text: name, Updated: now, Commit: "abc", Run: 1}))
				check(db.PutQuota(ctx, name, int64(len(name))))
			}
			check(do(string(script)))
			policies, err := db.ListPolicies(ctx)
			check(err)
			var got []string
			for _, p := range policies {
				got = append(got, p.Repository+" "+p.Text)
			}
			want := []string{"acme/both acme/both", "acme/both acme/both", "acme/none acme/none", "acme/none acme/none", "acme/one Acme/One", "acme/one Acme/One"}
			if !slices.Equal(got, want) {
				t.Errorf("the policies are %q", got)
			}
			if quotas, err := db.FindQuotas(ctx, "acme/one/cache"); err != nil || len(quotas) != 1 || quotas[0].Repository != "acme/one" {
				t.Errorf("the quotas are %+v, %v", quotas, err)
			}

			check(do(`DROP INDEX repos_differ_by_more_than_case`))
			for _, name := range []string{"Acme/App", "acme/app"} {
				check(db.PutRepo(ctx, &ci.Repo{Name: name}))
			}
			if err := do(string(script)); err == nil || !strings.Contains(err.Error(), "repos_differ_by_more_than_case") {
				t.Errorf("two repos with the same images: %v", err)
			}
		})
	}
}

// TestDigestOrder holds that all columns of digests have one order in PostgreSQL: comparing two of different ones uses no index.
func TestDigestOrder(t *testing.T) {
	t.Parallel()
	db := openTest(t, pgtest.Start(t))
	rows, err := db.reader.QueryContext(t.Context(), `
		SELECT table_name, column_name, coalesce(collation_name, 'that of the database') FROM information_schema.columns
		WHERE table_name LIKE 'registry~_%' ESCAPE '~' AND column_name IN ('digest', 'subject', 'reference')`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	found := 0
	for rows.Next() {
		var table, column, order string
		if err := rows.Scan(&table, &column, &order); err != nil {
			t.Fatal(err)
		}
		if order != "C" {
			t.Errorf("%s.%s has the order %s, not that of bytes", table, column, order)
		}
		found++
	}
	if err := rows.Err(); err != nil || found < 8 {
		t.Errorf("there are %d columns of digests, %v", found, err)
	}
}
