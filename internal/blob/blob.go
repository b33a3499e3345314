// Package blob keeps bytes by key: archived logs, artifacts, what is too big for a database.
//
// [Store] is the interface and [Dir] keeps blobs as files of a folder. The suite in blobtest says what every
// implementation must hold to.
package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"
)

// ErrNotFound says that there is no blob of that key.
var ErrNotFound = errors.New("blob not found")

// Store keeps blobs. A blob appears whole or not at all, and is never changed, only replaced. All methods may be called
// concurrently. Keys are as [CheckKey] says; any other is an error.
type Store interface {
	// Put stores what r gives until io.EOF and replaces the blob that was there; who has that open goes on reading the
	// old one. When it returns nil the blob survives a power cut. An error of r is returned wrapped, and nothing is
	// stored; the same goes for the end of ctx.
	Put(ctx context.Context, key string, r io.Reader) error
	// Open opens a blob for reading from its beginning, or says ErrNotFound. The context must last as long as the blob is read.
	Open(ctx context.Context, key string) (Blob, error)
	// Stat describes a blob, or says ErrNotFound.
	Stat(ctx context.Context, key string) (Info, error)
	// Delete removes a blob. Of one that is not there it says nothing: deleting may be repeated.
	Delete(ctx context.Context, key string) error
	// List yields the blobs whose keys begin with prefix, in the order of their keys. Prefix is empty or ends with a
	// slash. Blobs that come or go meanwhile may be missed. After an error it ends.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]
}

// Blob is an open blob. It is for one goroutine, except ReadAt, and must be closed.
type Blob interface {
	io.ReadSeekCloser
	io.ReaderAt
	// Size is in bytes.
	Size() int64
}

// Info describes a blob.
type Info struct {
	Key string
	// Size is in bytes.
	Size     int64
	Modified time.Time
}

// Bounds of keys, which every file system and S3 can hold.
const (
	maxKey  = 512
	maxPart = 200
)

// CheckKey reports what is wrong with a key. A key is at most 512 bytes long and made of parts between slashes. Each part
// has 1 to 200 bytes, ASCII letters, digits and any of "._-+=@", and does not begin with a dot. A key cannot be the folder of another: where there is a/b, putting a fails.
func CheckKey(key string) error {
	if len(key) > maxKey {
		return fmt.Errorf("blob key of %d bytes is longer than %d", len(key), maxKey)
	}
	for part := range strings.SplitSeq(key, "/") {
		if part == "" || part[0] == '.' || len(part) > maxPart || strings.ContainsFunc(part, bad) {
			return fmt.Errorf("blob key %q is not valid", key)
		}
	}
	return nil
}

func bad(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._-+=@", r)
}

// checkPrefix reports what is wrong with the prefix of a list.
func checkPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	folder, ok := strings.CutSuffix(prefix, "/")
	if !ok {
		return fmt.Errorf("blob prefix %q does not end with a slash", prefix)
	}
	return CheckKey(folder)
}
