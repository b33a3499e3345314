// Package source reads the files of a workspace that nobody vouches for.
//
// A workspace is what a commit and the steps of a job left there: symbolic links to anywhere, pipes that never end,
// files of any size, YAML that unfolds to gigabytes. [Files] reads regular files inside one [os.Root] within limits, and
// gives the same bytes each time it is asked for the same file. [CheckYAML] says whether YAML stays within limits when
// its aliases are unfolded. Renderers read through nothing else.
package source

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/bmatcuk/doublestar/v4"
)

// The limits of one rendering. They are far above what manifests need (the API server refuses objects of more than
// 1.5 MiB) and far below what hurts the machine.
const (
	MaxFileBytes  = 8 << 20  // of one file
	MaxTotalBytes = 64 << 20 // of all reads together, repeated ones counted again
	MaxReads      = 20_000   // reads, repeated ones counted again
	MaxEntries    = 50_000   // folder entries looked at
)

// maxWalk is how deep folders may be nested in one that is walked.
const maxWalk = 30

// Files reads the files of a workspace within limits. Names are relative to the workspace and separated by slashes. It
// is not safe for concurrent use.
type Files struct {
	root    *os.Root
	seen    map[string][]byte
	bytes   int64
	reads   int
	entries int
}

// New returns a reader of root with all of its limits ahead. The caller closes root.
func New(root *os.Root) *Files {
	return &Files{root: root, seen: map[string][]byte{}}
}

// Clean returns name in the form that the methods of Files take, or an error if it leads out of the workspace.
func Clean(name string) (string, error) {
	if path.IsAbs(name) {
		return "", fmt.Errorf("%s: the path is absolute, but only paths inside the workspace can be read", name)
	}
	clean := path.Clean(name)
	if clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fmt.Errorf("%s: the path leads out of the workspace", name)
	}
	return clean, nil
}

// ReadFile returns the content of a regular file. The caller must not change it. A file that changes in the workspace
// keeps its first content for this Files, so that what was checked is what is used.
func (f *Files) ReadFile(name string) ([]byte, error) {
	f.reads++
	if f.reads > MaxReads {
		return nil, fmt.Errorf("%s: more than %d files are read; the manifests include each other too often", name, MaxReads)
	}
	data, ok := f.seen[name]
	if !ok {
		var err error
		if data, err = f.read(name); err != nil {
			return nil, err
		}
		f.seen[name] = data
	}
	f.bytes += int64(len(data))
	if f.bytes > MaxTotalBytes {
		return nil, fmt.Errorf("%s: the manifests have more than %d MiB together", name, MaxTotalBytes>>20)
	}
	return data, nil
}

// Seen reports whether the content of a file is remembered from an earlier [Files.ReadFile].
func (f *Files) Seen(name string) bool {
	_, ok := f.seen[name]
	return ok
}

func (f *Files) read(name string) ([]byte, error) {
	// Without O_NONBLOCK, opening a pipe waits for its writer.
	file, err := f.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, explain(name, err)
	}
	defer file.Close()
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, explain(name, err)
	case info.IsDir():
		return nil, fmt.Errorf("%s: is a folder, not a file", name)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s: is not a regular file", name)
	}
	data, err := io.ReadAll(io.LimitReader(file, MaxFileBytes+1))
	if err != nil {
		return nil, explain(name, err)
	}
	if len(data) > MaxFileBytes {
		return nil, fmt.Errorf("%s: the file is larger than %d MiB", name, MaxFileBytes>>20)
	}
	return data, nil
}

// Stat tells whether name is a folder. An error says that there is no such file or folder, or that it lies outside.
func (f *Files) Stat(name string) (isDir bool, err error) {
	info, err := f.root.Stat(name)
	if err != nil {
		return false, explain(name, err)
	}
	return info.IsDir(), nil
}

// List returns the names of the files in a folder, sorted and with the folder in front; folders in it are left out.
func (f *Files) List(dir string) ([]string, error) {
	entries, err := f.readDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() {
			names = append(names, path.Join(dir, e.Name()))
		}
	}
	return names, nil
}

// Glob returns the files that match pattern, sorted. The pattern is that of [doublestar.Match]: ** stands for any number
// of folders. Symbolic links to folders are not followed, and .git is left out.
func (f *Files) Glob(pattern string) ([]string, error) {
	if !doublestar.ValidatePattern(pattern) {
		return nil, fmt.Errorf("%s: the pattern is not well-formed", pattern)
	}
	base, _ := doublestar.SplitPattern(pattern)
	if isDir, err := f.Stat(base); err != nil || !isDir {
		return nil, err
	}
	var names []string
	folders := []string{base}
	for len(folders) > 0 {
		dir := folders[0]
		folders = folders[1:]
		entries, err := f.readDir(dir)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			name := path.Join(dir, e.Name())
			switch {
			case !e.IsDir():
				if doublestar.MatchUnvalidated(pattern, name) {
					names = append(names, name)
				}
			case e.Name() != ".git":
				folders = append(folders, name)
			}
		}
	}
	slices.Sort(names)
	return names, nil
}

// Walk returns the files in a folder and in the folders below it, sorted and with the folder in front. What skip says is
// left out, folders with all that is in them. Links to folders are followed, as far as they stay in the workspace.
func (f *Files) Walk(dir string, skip func(name string, isDir bool) bool) ([]string, error) {
	return f.walk(dir, skip, 0)
}

func (f *Files) walk(dir string, skip func(name string, isDir bool) bool, depth int) ([]string, error) {
	if depth > maxWalk {
		return nil, fmt.Errorf("%s: folders are nested more than %d deep; does a link lead back to where it is?", dir, maxWalk)
	}
	entries, err := f.readDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		name, isDir := path.Join(dir, e.Name()), e.IsDir()
		if e.Type()&fs.ModeSymlink != 0 {
			if isDir, err = f.Stat(name); err != nil {
				return nil, err
			}
		}
		switch {
		case skip(name, isDir):
		case isDir:
			below, err := f.walk(name, skip, depth+1)
			if err != nil {
				return nil, err
			}
			names = append(names, below...)
		default:
			names = append(names, name)
		}
	}
	return names, nil
}

func (f *Files) readDir(dir string) ([]fs.DirEntry, error) {
	file, err := f.root.OpenFile(dir, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, explain(dir, err)
	}
	defer file.Close()
	// One more than allowed is enough to know that there are too many.
	entries, err := file.ReadDir(MaxEntries - f.entries + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, explain(dir, err)
	}
	f.entries += len(entries)
	if f.entries > MaxEntries {
		return nil, fmt.Errorf("%s: more than %d files would have to be looked through; name the folder of the manifests", dir, MaxEntries)
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, nil
}

// explain turns an error of the file system into a sentence that names the file as the user knows it.
func explain(name string, err error) error {
	var pathErr *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &missing{name}
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: may not be read by Slipway's user", name)
	case errors.As(err, &pathErr) && strings.Contains(pathErr.Err.Error(), "escapes"):
		// os.Root has no exported error for this.
		return fmt.Errorf("%s: the path leads out of the workspace", name)
	case pathErr != nil:
		return fmt.Errorf("%s: %w", name, pathErr.Err)
	}
	return fmt.Errorf("%s: %w", name, err)
}

// missing says that there is no file of a name.
type missing struct{ name string }

func (e *missing) Error() string        { return e.name + ": there is no such file or folder" }
func (e *missing) Is(target error) bool { return target == fs.ErrNotExist }
