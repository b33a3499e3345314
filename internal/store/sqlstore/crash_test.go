package sqlstore

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"slipway/internal/ci"
	"slipway/internal/store"
)

// crashVariable names the database of the child process of TestCrash.
const crashVariable = "SLIPWAY_TEST_CRASH"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashVariable); path != "" {
		if err := writeForever(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// writeForever writes from several goroutines, and tells on standard output what was acknowledged: the number of a run, and
// how many times it was updated.
func writeForever(path string) error {
	ctx := context.Background()
	db, err := Open(ctx, path)
	if err != nil {
		return err
	}
	if err := db.PutRepo(ctx, &ci.Repo{Name: "a/b"}); err != nil {
		return err
	}
	failed := make(chan error)
	for range 4 {
		go func() {
			for {
				run := ci.Run{Repo: "a/b", Status: ci.Running, Created: time.Now()}
				if err := db.CreateRun(ctx, &run); err != nil {
					failed <- err
				}
				fmt.Printf("%d 0\n", run.Number)
				for seq := 1; seq <= 5; seq++ {
					_, err := db.UpdateRun(ctx, run.ID, func(d *store.Draft) error {
						if len(d.Jobs) == 0 {
							d.Jobs = []ci.Job{{Name: "job", Status: ci.Running}}
						}
						d.Jobs[0].Lease.Seq++
						d.Images = append(d.Images, ci.Image{Ref: fmt.Sprint(seq)})
						d.Message = fmt.Sprint(seq)
						return nil
					})
					if err != nil {
						failed <- err
					}
					fmt.Printf("%d %d\n", run.Number, seq)
				}
			}
		}()
	}
	return <-failed
}

// A process that writes is killed at random moments: the database opens, each acknowledged write is there, and each
// transaction is there whole or not at all.
func TestCrash(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	acknowledged := map[int64]int64{}
	for round := range 15 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashVariable+"="+path)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		after := 1 + rand.IntN(150)
		for n := 1; lines.Scan(); n++ {
			var number, seq int64
			if _, err := fmt.Sscan(lines.Text(), &number, &seq); err != nil {
				continue // the last line may be cut
			}
			acknowledged[number] = max(acknowledged[number], seq)
			if n == after {
				if err := cmd.Process.Kill(); err != nil { // SIGKILL; what was printed before it is still read
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // it was killed
		if state := cmd.ProcessState.String(); state != "signal: killed" {
			t.Fatalf("the child ended by itself: %s", state)
		}

		db, err := Open(t.Context(), path)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		var check string
		if err := db.reader.QueryRow(`PRAGMA integrity_check`).Scan(&check); err != nil || check != "ok" {
			t.Fatalf("round %d: integrity check says %q, %v", round, check, err)
		}
		for number, seq := range acknowledged {
			run, err := db.FindRun(t.Context(), "a/b", number)
			if err != nil {
				t.Fatalf("round %d: acknowledged run %d: %v", round, number, err)
			}
			stored := int64(len(run.Images))
			if stored < seq {
				t.Fatalf("round %d: run %d has %d updates, acknowledged were %d", round, number, stored, seq)
			}
			if stored > 0 && (run.Jobs[0].Lease.Seq != stored || run.Message != fmt.Sprint(stored)) {
				t.Fatalf("round %d: run %d has half of a transaction: %+v", round, number, run)
			}
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if len(acknowledged) < 50 {
		t.Fatalf("only %d runs were acknowledged; the test shows nothing", len(acknowledged))
	}
}

// The backup that docs/state.md recommends, taken while the database is written to.
func TestBackup(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	path, copied := filepath.Join(folder, "db"), filepath.Join(folder, "copy")
	db, other := openTest(t, path), openTest(t, path) // the other one stands for the program sqlite3
	if err := db.PutRepo(t.Context(), &ci.Repo{Name: "a/b"}); err != nil {
		t.Fatal(err)
	}
	var group errgroup.Group
	created := make(chan int64, 100)
	group.Go(func() error {
		defer close(created)
		for range cap(created) {
			run := ci.Run{Repo: "a/b", Status: ci.Success}
			if err := db.CreateRun(t.Context(), &run); err != nil {
				return err
			}
			created <- run.Number
		}
		return nil
	})
	before := <-created
	if _, err := other.writer.Exec(`VACUUM INTO ?`, copied); err != nil {
		t.Fatal(err)
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	restored := openTest(t, copied)
	runs, err := restored.ListRuns(t.Context(), store.RunFilter{Limit: 500})
	if err != nil || int64(len(runs)) < before {
		t.Fatalf("the backup has %d runs, %v", len(runs), err)
	}
	next := ci.Run{Repo: "a/b"}
	if err := restored.CreateRun(t.Context(), &next); err != nil || next.Number != int64(len(runs))+1 {
		t.Fatalf("the next run after %d is %d, %v", len(runs), next.Number, err)
	}
}
