package sqlstore

import (
	"context"
	"errors"
	"testing"
	"time"

	"slipway/internal/store"
	"slipway/internal/store/sqlstore/pgtest"
)

var raceTime = time.Date(2026, 2, 3, 12, 0, 0, 0, time.UTC)

// overtaken runs second while first has done its work and not committed yet, as only PostgreSQL lets it: until second has to
// wait for first, or is done. It returns what second does after first's commit.
func overtaken(t *testing.T, db *DB, first func(*tx) error, second func() error) error {
	t.Helper()
	done := make(chan error, 1)
	err := db.tx(t.Context(), func(held *tx) error {
		if err := first(held); err != nil {
			return err
		}
		go func() { done <- second() }()
		for {
			select {
			case err := <-done:
				done <- err
				return nil
			default:
			}
			var waiting int
			err := db.writer.QueryRow(`SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&waiting)
			if err != nil || waiting > 0 {
				return err
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return <-done
}

func raceManifest(repository, digest string, references ...store.Reference) store.Manifest {
	return store.Manifest{
		Repository: repository, Digest: digest, MediaType: "image", Content: []byte("{}"), Size: 2, Created: raceTime, References: references,
	}
}

// TestRegistryRaces lets two transactions meet that look at the same rows.
func TestRegistryRaces(t *testing.T) {
	t.Parallel()
	db := openTest(t, newDatabase(t, pgtest.Start(t)))
	ctx, later := t.Context(), raceTime.Add(time.Hour)

	t.Run("what is purged cannot be restored", func(t *testing.T) {
		for _, tag := range []string{"", "v1"} {
			if err := db.PutManifest(ctx, raceManifest("octo/app", "sha256:1")); err != nil {
				t.Fatal(err)
			}
			if _, err := db.DeleteManifest(ctx, store.Change{Repository: "octo/app", Reference: "sha256:1", At: raceTime}); err != nil {
				t.Fatal(err)
			}
			err := overtaken(t, db, func(t *tx) error {
				_, err := t.exec(ctx, `DELETE FROM registry_manifests WHERE deleted < ?`, instant(later))
				return err
			}, func() error {
				return db.Restore(ctx, store.Change{Repository: "octo/app", Reference: tag, Digest: "sha256:1", At: later})
			})
			if !errors.Is(err, store.ErrNotFound) {
				t.Errorf("restoring with the tag %q says %v", tag, err)
			}
		}
	})

	t.Run("what a push has come to need is not evicted", func(t *testing.T) {
		const repository = "mirror/docker.io/octo/app"
		if err := db.LinkCached(ctx, repository, store.Blob{Digest: "sha256:2", Size: 7, Linked: raceTime}); err != nil {
			t.Fatal(err)
		}
		m := raceManifest(repository, "sha256:3", store.Reference{Digest: "sha256:2", Size: 7})
		err := overtaken(t, db, func(t *tx) error {
			id, err := openRepository(ctx, t, repository)
			if err == nil {
				err = checkReferences(ctx, t, id, m)
			}
			if err == nil {
				_, err = insertManifest(ctx, t, id, m)
			}
			return err
		}, func() error {
			_, _, err := db.EvictCached(context.WithoutCancel(ctx), 0, later, later)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := db.FindBlob(ctx, repository, "sha256:2"); err != nil {
			t.Errorf("the blob of a manifest that was pushed: %v", err)
		}
	})
}
