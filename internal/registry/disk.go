package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// disk keeps bytes in a folder: blobs/<algorithm>/<first two digits>/<hex>, and uploads that are not closed yet. It is a
// storage.
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

// open implements storage.
func (k *disk) open(_ context.Context, d digest) (io.ReadSeekCloser, stored, error) {
	f, err := os.Open(k.blobPath(d))
	if err != nil {
		return nil, stored{}, err
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close() // it was to be read only
		return nil, stored{}, err
	}
	return f, stored{info.Size(), info.ModTime()}, nil
}

// remove implements storage.
func (k *disk) remove(_ context.Context, d digest) error {
	if err := os.Remove(k.blobPath(d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// setAside implements storage.
func (k *disk) setAside(_ context.Context, d digest) error {
	aside := filepath.Join(k.dir, "damaged")
	if err := os.MkdirAll(aside, 0o700); err != nil {
		return err
	}
	return os.Rename(k.blobPath(d), filepath.Join(aside, d.algorithm+"-"+d.hex))
}

// where implements storage.
func (k *disk) where(d digest) string { return k.blobPath(d) }

// walk implements storage.
func (k *disk) walk(ctx context.Context, f func(d digest) error) error {
	return filepath.WalkDir(filepath.Join(k.dir, "blobs"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // taken away meanwhile
			}
			return err
		}
		if entry.IsDir() {
			return ctx.Err()
		}
		parts := filepath.Dir(filepath.Dir(path))
		d, err := parseDigest(filepath.Base(parts) + ":" + entry.Name())
		if err != nil || k.blobPath(d) != path {
			return nil
		}
		return f(d)
	})
}

// stage implements storage: renaming is all that there is to do.
func (k *disk) stage(context.Context, string, int64, digest) error { return nil }

// uploadPath returns the path of an upload. The file's name binds it to its repository: asking for it through another
// one finds nothing, and that needs no record that a restart could lose. The repo comes first.
func (k *disk) uploadPath(repository, id string) string {
	return filepath.Join(k.dir, "uploads", uploadsOf(repository)+digits(repository)+"-"+id)
}

// uploadsOf is how the names of all uploads of a repo (octo/app with octo/app/cache) begin.
func uploadsOf(repository string) string {
	parts := strings.SplitN(repository, "/", 3)
	return digits(strings.Join(parts[:min(len(parts), 2)], "/")) + "-"
}

// digits stands for a name that may be too long for a file's.
func digits(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:8])
}

// staged returns how many bytes the uploads of a repository's repo have, but for the one at path.
func (k *disk) staged(repository, path string) (sum int64, err error) {
	entries, err := os.ReadDir(filepath.Join(k.dir, "uploads"))
	if err != nil {
		return 0, err
	}
	of := uploadsOf(repository)
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), of) || entry.Name() == filepath.Base(path) {
			continue
		}
		info, err := entry.Info()
		if err == nil {
			sum += info.Size()
		} else if !errors.Is(err, fs.ErrNotExist) { // else it is finished
			return 0, err
		}
	}
	return sum, nil
}

// keep implements storage: it renames the upload.
func (k *disk) keep(_ context.Context, path string, _ int64, d digest) error {
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

// sweep implements storage: it removes the uploads that were last written before then.
func (k *disk) sweep(_ context.Context, then time.Time) (int, error) {
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
