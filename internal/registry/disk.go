package registry

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// disk keeps bytes in a folder: blobs/<algorithm>/<first two digits>/<hex>, and uploads that are not closed yet.
//
// It is not behind package blob: a resumable upload appends to a file over several requests, a layer goes out by
// sendfile, and both need the file itself.
type disk struct{ dir string }

func openDisk(dir string) (*disk, error) {
	for _, sub := range []string{"uploads", "blobs/sha256", "blobs/sha512"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	return &disk{dir}, nil
}

// blobPath returns the path of a blob. d's digits were validated, so it stays in the folder.
func (k *disk) blobPath(d digest) string {
	return filepath.Join(k.dir, "blobs", d.algorithm, d.hex[:2], d.hex)
}

// open opens a blob for reading.
func (k *disk) open(d digest) (*os.File, error) { return os.Open(k.blobPath(d)) }

// uploadPath returns the path of an upload. The file's name binds it to its repository: asking for it through another
// one finds nothing, and that needs no record that a restart could lose.
func (k *disk) uploadPath(repository, id string) string {
	sum := sha256.Sum256([]byte(repository))
	return filepath.Join(k.dir, "uploads", hex.EncodeToString(sum[:8])+"-"+id)
}

// commit makes the upload at path, which is synced, the blob d, whose digest the caller has checked. When it returns, the
// blob outlives a loss of power. A blob that is there already is replaced: the bytes are the same, or the old ones were
// damaged.
func (k *disk) commit(path string, d digest) error {
	to := k.blobPath(d)
	dir := filepath.Dir(to)
	err := os.Rename(path, to)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := syncDir(filepath.Dir(dir)); err != nil {
			return err
		}
		err = os.Rename(path, to)
	}
	if err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// sweep removes the uploads that were last written before then, and reports how many.
func (k *disk) sweep(then time.Time) (int, error) {
	dir := filepath.Join(k.dir, "uploads")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	n := 0
	var errs []error
	for _, entry := range entries {
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // finished meanwhile
		}
		if err == nil && info.ModTime().Before(then) {
			if err = os.Remove(filepath.Join(dir, entry.Name())); err == nil {
				n++
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return n, fmt.Errorf("registry: sweep uploads: %w", err)
	}
	return n, nil
}

// validUpload reports whether id looks like newUpload's ids.
func validUpload(id string) bool {
	return len(id) == 36 && strings.Trim(id, "0123456789abcdef-") == ""
}
