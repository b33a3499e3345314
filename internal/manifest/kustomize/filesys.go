package kustomize

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/filesys"

	"slipway/internal/manifest/source"
)

// fileSystem shows a workspace to Kustomize as the root of a read-only file system. What Kustomize does not need for
// building says so.
type fileSystem struct{ files *source.Files }

var _ filesys.FileSystem = fileSystem{}

var errReadOnly = errors.New("the workspace is read-only while it is rendered")

// name returns the name in the workspace of an absolute path.
func name(p string) string {
	clean := strings.TrimPrefix(path.Clean("/"+p), "/")
	if clean == "" {
		return "."
	}
	return clean
}

func (f fileSystem) IsDir(p string) bool {
	isDir, err := f.files.Stat(name(p))
	return err == nil && isDir
}

func (f fileSystem) Exists(p string) bool {
	_, err := f.files.Stat(name(p))
	return err == nil
}

// ReadFile implements [filesys.FileSystem]. A kustomization that the checker did not see does not exist: a step that
// still runs could put a folder where a file was checked.
func (f fileSystem) ReadFile(p string) ([]byte, error) {
	file := name(p)
	if slices.Contains(FileNames(), path.Base(file)) && !f.files.Seen(file) {
		return nil, &fs.PathError{Op: "open", Path: file, Err: fs.ErrNotExist}
	}
	return f.files.ReadFile(file)
}

// CleanedAbs implements [filesys.FileSystem]. Symbolic links are left as they are: Files keeps them inside.
func (f fileSystem) CleanedAbs(p string) (filesys.ConfirmedDir, string, error) {
	abs := path.Clean("/" + p)
	isDir, err := f.files.Stat(name(abs))
	switch {
	case err != nil:
		return "", "", err
	case isDir:
		return filesys.ConfirmedDir(abs), "", nil
	}
	return filesys.ConfirmedDir(path.Dir(abs)), path.Base(abs), nil
}

func (f fileSystem) ReadDir(p string) ([]string, error) {
	return nil, fmt.Errorf("list %s: %w", name(p), errors.ErrUnsupported)
}

func (f fileSystem) Glob(p string) ([]string, error) {
	return nil, fmt.Errorf("glob %s: %w", name(p), errors.ErrUnsupported)
}

func (f fileSystem) Walk(p string, _ filepath.WalkFunc) error {
	return fmt.Errorf("walk %s: %w", name(p), errors.ErrUnsupported)
}

func (f fileSystem) Open(p string) (filesys.File, error) {
	return nil, fmt.Errorf("open %s: %w", name(p), errors.ErrUnsupported)
}

func (f fileSystem) Create(p string) (filesys.File, error) {
	return nil, &fs.PathError{Op: "create", Path: p, Err: errReadOnly}
}

func (f fileSystem) Mkdir(p string) error {
	return &fs.PathError{Op: "mkdir", Path: p, Err: errReadOnly}
}

func (f fileSystem) MkdirAll(p string) error { return f.Mkdir(p) }

func (f fileSystem) RemoveAll(p string) error {
	return &fs.PathError{Op: "remove", Path: p, Err: errReadOnly}
}

func (f fileSystem) WriteFile(p string, _ []byte) error {
	return &fs.PathError{Op: "write", Path: p, Err: errReadOnly}
}
