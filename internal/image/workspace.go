package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
)

// maxDockerfile bounds a Dockerfile and a .dockerignore in bytes.
const maxDockerfile = 1 << 20

// sources are what a build reads of the workspace.
type sources struct {
	root, folder *os.Root
	context      fsutil.FS
	dockerfile   fsutil.FS
	name         string // of the Dockerfile in its file system
	path         string // of the Dockerfile in the workspace
}

func (s *sources) close() {
	if s.folder != nil {
		_ = s.folder.Close()
	}
	if s.root != nil {
		_ = s.root.Close()
	}
}

// open checks and opens what req names. Errors are for people.
func open(req *Request) (_ *sources, err error) {
	s := &sources{}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	folder := path.Clean(orDefault(req.Context, "."))
	if s.path = req.Dockerfile; s.path == "" {
		s.path = path.Join(folder, "Dockerfile")
	}
	s.path = path.Clean(s.path)
	s.name = path.Base(s.path)
	workspace, err := os.OpenRoot(req.Workspace)
	if err != nil {
		return nil, fmt.Errorf("open the workspace: %w", err)
	}
	defer workspace.Close()
	if s.root, err = workspace.OpenRoot(orDefault(req.Checkout, ".")); err != nil {
		return nil, fmt.Errorf("the checkout %q %s", req.Checkout, reason(err, "folder"))
	}
	if s.folder, err = s.root.OpenRoot(folder); err != nil {
		return nil, fmt.Errorf("context %q %s", folder, reason(err, "folder"))
	}
	files := memoryFS{}
	if files[s.name], err = readFile(s.root, s.path); err != nil {
		return nil, fmt.Errorf("Dockerfile %q %s", s.path, reason(err, "file")) //nolint:staticcheck // a name
	}
	if ignore, err := readFile(s.root, s.path+".dockerignore"); err == nil {
		files[s.name+".dockerignore"] = ignore
	}
	if err := checkSyntax(files[s.name], s.path); err != nil {
		return nil, err
	}
	s.dockerfile = files
	s.context = contextFS{fsutil.NewRootFS(nonblocking{fsutil.NewRoot(s.folder)})}
	return s, nil
}

// reason says in words why a path of the workspace cannot be had.
func reason(err error, noun string) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "does not exist in the workspace"
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, errNotRegular), errors.Is(err, syscall.EISDIR):
		return "is not a " + noun
	case errors.Is(err, errTooLarge):
		return fmt.Sprintf("is larger than %d kB", maxDockerfile>>10)
	case strings.Contains(err.Error(), "escapes from parent"):
		return "leads out of the workspace"
	}
	// The path was said already, and where the workspace is on this machine is nobody's business.
	var at *fs.PathError
	if errors.As(err, &at) {
		err = at.Err
	}
	if err.Error() == "not a directory" { // os.Root has no type for it
		return "is not a " + noun
	}
	return "cannot be read: " + err.Error()
}

var (
	errNotRegular = errors.New("not a regular file")
	errTooLarge   = errors.New("too large")
)

func readFile(root *os.Root, name string) ([]byte, error) {
	// Without O_NONBLOCK a named pipe would hold the build forever.
	file, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, errNotRegular
	}
	data, err := io.ReadAll(io.LimitReader(file, maxDockerfile+1))
	if err == nil && len(data) > maxDockerfile {
		err = errTooLarge
	}
	return data, err
}

// checkSyntax refuses a Dockerfile in another language. The directive that most files carry asks for Docker's own
// front end from Docker Hub: that one is built in.
func checkSyntax(dockerfile []byte, name string) error {
	syntax, _, at, ok := parser.DetectSyntax(dockerfile)
	if !ok {
		return nil
	}
	plain := strings.TrimPrefix(syntax, "docker.io/")
	if plain == "docker/dockerfile" || strings.HasPrefix(plain, "docker/dockerfile:") ||
		strings.HasPrefix(plain, "docker/dockerfile-upstream:") || strings.HasPrefix(plain, "docker/dockerfile@") {
		return nil
	}
	line := 1
	if len(at) > 0 {
		line = at[0].Start.Line
	}
	return fmt.Errorf("%s:%d: syntax %q is not supported; remove the line, or use docker/dockerfile", name, line, syntax)
}

// contextFS reads regular files only. BuildKit looks at what a file is first and opens it later, and a step that still
// runs may have put something else there in between.
type contextFS struct{ fsutil.FS }

// Open implements [fsutil.FS].
func (c contextFS) Open(name string) (io.ReadCloser, error) {
	r, err := c.FS.Open(name)
	if err != nil {
		return nil, err
	}
	if file, ok := r.(*os.File); ok {
		if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
			_ = file.Close()
			return nil, errors.Join(err, errNotRegular)
		}
	}
	return r, nil
}

// nonblocking never waits for the other end of a named pipe.
type nonblocking struct{ fsutil.Root }

// OpenFile implements [fsutil.Root].
func (r nonblocking) OpenFile(name string, flag int, perm os.FileMode) (*os.File, error) {
	return r.Root.OpenFile(name, flag|syscall.O_NONBLOCK, perm)
}

// memoryFS is a flat folder of small files.
type memoryFS map[string][]byte

// Walk implements [fsutil.FS].
func (m memoryFS) Walk(ctx context.Context, target string, fn fs.WalkDirFunc) error {
	target = strings.Trim(target, "/")
	for _, name := range slices.Sorted(maps.Keys(m)) {
		if target != "" && target != "." && target != name {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		stat := &types.Stat{Path: name, Mode: 0o644, Size: int64(len(m[name]))}
		if err := fn(name, &fsutil.DirEntryInfo{Stat: stat}, nil); err != nil {
			return err
		}
	}
	return nil
}

// Open implements [fsutil.FS].
func (m memoryFS) Open(name string) (io.ReadCloser, error) {
	data, ok := m[strings.TrimPrefix(name, "/")]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}
