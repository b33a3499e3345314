package registry

import (
	"context"
	"errors"
	"io"
	"time"
)

// storage is where the bytes of blobs are, by digest. What is being uploaded is on this machine's disk in any case: an
// upload grows with its requests, and is hashed on its way.
//
// Its methods may be called concurrently. What is not there gets fs.ErrNotExist.
type storage interface {
	blobStore
	inventory
}

// blobStore is what pushes and pulls need.
type blobStore interface {
	// stage brings the upload at path, which is synced and has the digest d and that size, as far on its way to a blob as it
	// comes without the lock of the digest: what takes long. It may be repeated.
	stage(ctx context.Context, path string, size int64, d digest) error
	// keep makes a staged upload the blob d. The caller shares the lock of the digest. When it returns, the blob outlives a
	// loss of power. errCollected says that what was staged has been taken away: stage it again. A blob that is there
	// already is the same, or damaged and replaced.
	keep(ctx context.Context, path string, size int64, d digest) error
	// open opens a blob. Of a folder it is the *os.File, which goes out by sendfile.
	open(ctx context.Context, d digest) (io.ReadSeekCloser, stored, error)
	// remove removes a blob. The caller has the lock of the digest alone. One that is not there is no error.
	remove(ctx context.Context, d digest) error
}

// inventory is what looking after it needs.
type inventory interface {
	// walk calls f for each blob. What has another name than a blob's is left alone.
	walk(ctx context.Context, f func(d digest) error) error
	// setAside puts a damaged blob where it is no blob any more.
	setAside(ctx context.Context, d digest) error
	// sweep removes what uploads left unfinished before then, and returns how many.
	sweep(ctx context.Context, then time.Time) (int, error)
	// where names a blob's place for people.
	where(d digest) string
}

// linker is a storage from which clients may read for themselves.
type linker interface {
	// link returns an address from which anybody may read the blob for some minutes; empty if that is switched off.
	link(ctx context.Context, d digest) (string, error)
}

// stored is what a storage knows of a blob.
type stored struct {
	size     int64
	modified time.Time
}

// errCollected says that what was staged is not there any more.
var errCollected = errors.New("collected before it was kept")

// stat returns what the storage knows of a blob.
func stat(ctx context.Context, s storage, d digest) (stored, error) {
	f, info, err := s.open(ctx, d)
	if err != nil {
		return info, err
	}
	return info, f.Close()
}
