package blob

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// tempFolder holds blobs that are being written. No key can name it: it begins with a dot.
const tempFolder = ".tmp"

// Dir is a [Store] in a folder. The blob of a key is the file of that path below it. A blob is written to a temporary
// file, synced, and renamed: whatever dies, at whatever moment, no half of a blob can be seen.
type Dir struct {
	root *os.Root
	path string
}

var _ Store = (*Dir)(nil)

// OpenDir opens the folder, makes it if it is not there, and removes what a crash left behind. One process at a time may
// have it open.
func OpenDir(folder string) (*Dir, error) {
	if err := os.MkdirAll(filepath.Join(folder, tempFolder), 0o700); err != nil {
		return nil, fmt.Errorf("blob folder %s: %w", folder, err)
	}
	root, err := os.OpenRoot(folder)
	if err != nil {
		return nil, fmt.Errorf("blob folder %s: %w", folder, err)
	}
	d := &Dir{root, folder}
	if err := d.sweep(); err != nil {
		return nil, errors.Join(fmt.Errorf("sweep blob folder %s: %w", folder, err), root.Close())
	}
	return d, nil
}

func (d *Dir) sweep() error {
	left, err := fs.ReadDir(d.root.FS(), tempFolder)
	if err != nil {
		return err
	}
	for _, entry := range left {
		if err := d.root.Remove(path.Join(tempFolder, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Close lets go of the folder. Open blobs stay readable.
func (d *Dir) Close() error { return d.root.Close() }

// Put implements [Store].
func (d *Dir) Put(ctx context.Context, key string, r io.Reader) (err error) {
	if err := CheckKey(key); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = d.explain("write", key, err)
		}
	}()
	temp := path.Join(tempFolder, rand.Text())
	file, err := d.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	renamed := false
	defer func() {
		if !renamed {
			err = errors.Join(err, d.root.Remove(temp))
		}
	}()
	_, err = io.Copy(file, reader{ctx, r})
	if err == nil {
		err = file.Sync()
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	// Delete removes folders that are empty, maybe between the making of one and the renaming into it: try again.
	folder := path.Dir(key)
	for range 100 {
		if err = d.makeFolder(folder); err == nil {
			err = d.root.Rename(temp, key)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err != nil {
		return err
	}
	renamed = true
	return d.syncFolder(folder)
}

// makeFolder makes folder and those above it, and syncs what it changed, so that the way to a blob is as durable as the
// blob.
func (d *Dir) makeFolder(folder string) error {
	if info, err := d.root.Stat(folder); err == nil && info.IsDir() {
		return nil
	}
	if err := d.makeFolder(path.Dir(folder)); err != nil {
		return err
	}
	err := d.root.Mkdir(folder, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	} else if err != nil {
		return err
	}
	return d.syncFolder(path.Dir(folder))
}

func (d *Dir) syncFolder(folder string) error {
	f, err := d.root.Open(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // somebody deleted the blob already, and the folder with it
	} else if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Open implements [Store].
func (d *Dir) Open(_ context.Context, key string) (Blob, error) {
	if err := CheckKey(key); err != nil {
		return nil, err
	}
	f, err := d.root.Open(key)
	if err != nil {
		return nil, d.find("open", key, err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = ErrNotFound
	}
	if err != nil {
		return nil, errors.Join(d.find("open", key, err), f.Close())
	}
	return &file{f, info.Size()}, nil
}

// Stat implements [Store].
func (d *Dir) Stat(_ context.Context, key string) (Info, error) {
	if err := CheckKey(key); err != nil {
		return Info{}, err
	}
	info, err := d.root.Lstat(key)
	if err == nil && !info.Mode().IsRegular() {
		err = ErrNotFound
	}
	if err != nil {
		return Info{}, d.find("look at", key, err)
	}
	return Info{key, info.Size(), info.ModTime().UTC()}, nil
}

// Delete implements [Store].
func (d *Dir) Delete(ctx context.Context, key string) error {
	if _, err := d.Stat(ctx, key); errors.Is(err, ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	if err := d.root.Remove(key); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return d.explain("delete", key, err)
	}
	// Folders that are empty now go too. One that is not, or that somebody fills this moment, refuses.
	for folder := path.Dir(key); folder != "."; folder = path.Dir(folder) {
		if d.root.Remove(folder) != nil {
			break
		}
	}
	return nil
}

// List implements [Store].
func (d *Dir) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		if err := checkPrefix(prefix); err != nil {
			yield(Info{}, err)
			return
		}
		if err := d.list(ctx, strings.TrimSuffix(prefix, "/"), yield); err != nil && !errors.Is(err, errStop) {
			yield(Info{}, fmt.Errorf("list blobs in %s: %w", filepath.Join(d.path, prefix), err))
		}
	}
}

// errStop says that the user of a list has seen enough.
var errStop = errors.New("stop")

func (d *Dir) list(ctx context.Context, folder string, yield func(Info, error) bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	entries, err := fs.ReadDir(d.root.FS(), path.Clean(folder))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	} else if err != nil {
		return err
	}
	// In the order of keys, a folder stands where its name and a slash do: a-b is before a/b.
	name := func(e fs.DirEntry) string {
		if e.IsDir() {
			return e.Name() + "/"
		}
		return e.Name()
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(name(a), name(b)) })
	for _, entry := range entries {
		key := path.Join(folder, entry.Name())
		switch {
		case CheckKey(key) != nil: // the folder of temporary files, and what is not ours
		case entry.IsDir():
			if err := d.list(ctx, key, yield); err != nil {
				return err
			}
		case entry.Type().IsRegular():
			info, err := entry.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				return err
			}
			if !yield(Info{key, info.Size(), info.ModTime().UTC()}, nil) {
				return errStop
			}
		}
	}
	return nil
}

// find is explain for who looks for a blob.
func (d *Dir) find(verb, key string, err error) error {
	if errors.Is(err, ErrNotFound) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return fmt.Errorf("%w: %s", ErrNotFound, key)
	}
	return d.explain(verb, key, err)
}

// explain puts an error into one sentence that names the file.
func (d *Dir) explain(verb, key string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%s %s: the disk is full; free some space and try again: %w", verb, filepath.Join(d.path, key), err)
	}
	return fmt.Errorf("%s %s: %w", verb, filepath.Join(d.path, key), err)
}

// reader ends with its context.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// file is an open blob. It embeds the file, so that [io.Copy] to a connection can use sendfile.
type file struct {
	*os.File
	size int64
}

func (f *file) Size() int64 { return f.size }
