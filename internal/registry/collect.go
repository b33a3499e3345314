package registry

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"slipway/internal/store"
)

// locks keep a blob's row and its file together. A push shares the lock of its digest from the moment that the file has
// its name until the row is written; who takes a blob away has it alone. Digests with the same first two digits share a
// lock, which costs nothing: pushes do not exclude each other.
type locks [256]sync.RWMutex

func (l *locks) of(d digest) *sync.RWMutex {
	first, _ := hex.DecodeString(d.hex[:2]) // d was validated
	return &l[first[0]]
}

// collector is what [Handler.Collect] remembers.
type collector struct {
	// mu is held by the collection that runs.
	mu sync.Mutex
	// strays is true while there may be files that no row knows: after a start, since a killed process leaves some, and
	// after a failure.
	strays atomic.Bool
}

// Collected says what a collection freed.
type Collected struct {
	// Manifests were deleted longer ago than the grace period, Links are blobs that repositories no longer need.
	Manifests, Links int64
	// Blobs is the number of files that were removed, Strays how many of them no row knew; Bytes is what all had.
	Blobs, Strays, Bytes int64
}

// Collect frees what nobody has needed for Options.Grace: manifests that were deleted, blobs that no manifest of their
// repository refers to, and the bytes of blobs that no repository has. Pushes, pulls and deletions go on beside it, and
// the process may die at any moment: a row goes before its file, and files without rows are found at the next start. Call
// it every now and then; a second call waits for the first.
//
// An error leaves things to the next call, and does not keep this one from the rest.
func (h *Handler) Collect(ctx context.Context) (Collected, error) {
	h.collector.mu.Lock()
	defer h.collector.mu.Unlock()
	then := h.now().Add(-h.grace)
	var done Collected
	defer func() {
		h.counters.collections.Add(1)
		h.counters.freedBlobs.Add(done.Blobs)
		h.counters.freedBytes.Add(done.Bytes)
	}()
	purged, err := h.store.PurgeRegistry(ctx, then)
	done.Manifests, done.Links = purged.Manifests, purged.Links
	if err != nil {
		return done, fmt.Errorf("registry: collect: %w", err)
	}
	var errs []error
	for {
		blobs, err := h.store.ListUnlinked(ctx, then, 500)
		if err != nil {
			return done, fmt.Errorf("registry: collect: %w", errors.Join(append(errs, err)...))
		}
		freed := 0
		for _, blob := range blobs {
			switch err := h.free(ctx, blob.Digest, then); {
			case err == nil:
				freed++
				done.Blobs++
				done.Bytes += blob.Size
			case !errors.Is(err, store.ErrInUse) && !errors.Is(err, store.ErrNotFound):
				errs = append(errs, err)
			}
		}
		// None: all of them were taken into use, or cannot be freed.
		if freed == 0 || ctx.Err() != nil {
			break
		}
	}
	// What fails from here on is for the next time.
	if h.collector.strays.Swap(false) {
		young, err := h.sweepStrays(ctx, then, &done)
		if err != nil || young > 0 {
			h.collector.strays.Store(true)
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return done, fmt.Errorf("registry: collect: %w", err)
	}
	return done, ctx.Err()
}

// free removes a blob that no repository has and that nobody linked since then: its row and then its file. If it is in
// use, it says store.ErrInUse.
func (h *Handler) free(ctx context.Context, name string, then time.Time) error {
	d, err := parseDigest(name)
	if err != nil {
		return err
	}
	lock := h.locks.of(d)
	lock.Lock()
	defer lock.Unlock()
	if err := h.store.ForgetBlob(ctx, name, then); err != nil {
		if !errors.Is(err, store.ErrInUse) && !errors.Is(err, store.ErrNotFound) {
			h.collector.strays.Store(true) // a database that did not answer may have done it
		}
		return err
	}
	if err := h.blobs.remove(ctx, d); err != nil {
		h.collector.strays.Store(true)
		return err
	}
	return nil
}

// sweepStrays removes files older than then that no row knows, and returns how many younger ones there are.
func (h *Handler) sweepStrays(ctx context.Context, then time.Time, done *Collected) (young int, err error) {
	err = h.blobs.walk(ctx, func(d digest) error {
		if _, err := h.store.StatBlob(ctx, d.String()); !errors.Is(err, store.ErrNotFound) {
			return err
		}
		size, err := h.removeStray(ctx, d, then)
		switch {
		case errors.Is(err, store.ErrInUse):
			young++
			return nil
		case err != nil:
			return err
		}
		done.Blobs++
		done.Strays++
		done.Bytes += size
		return nil
	})
	return young, err
}

// removeStray removes the file of a blob that has no row, and returns its size. If it has one now, or is not older than
// then, it says store.ErrInUse: a database that did not answer may yet carry out what it was asked for.
func (h *Handler) removeStray(ctx context.Context, d digest, then time.Time) (int64, error) {
	lock := h.locks.of(d)
	lock.Lock()
	defer lock.Unlock()
	info, err := stat(ctx, h.blobs, d)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, store.ErrInUse
	}
	if err != nil {
		return 0, err
	}
	if _, err := h.store.StatBlob(ctx, d.String()); err == nil || !info.modified.Before(then) {
		return 0, store.ErrInUse
	} else if !errors.Is(err, store.ErrNotFound) {
		return 0, err
	}
	return info.size, h.blobs.remove(ctx, d)
}
