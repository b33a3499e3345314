package layout

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"
)

// Dir is a layout in a folder. It never leaves it, whatever links the folder has.
type Dir struct{ root *os.Root }

// CreateDir makes a folder for a layout. One that is there must be empty.
func CreateDir(name string) (*Dir, error) {
	if err := os.MkdirAll(name, 0o777); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(name)
	if err != nil {
		return nil, err
	}
	if len(entries) > 0 {
		return nil, fmt.Errorf("%s is not empty", name)
	}
	return OpenDir(name)
}

// OpenDir opens the layout in a folder.
func OpenDir(name string) (*Dir, error) {
	root, err := os.OpenRoot(name)
	return &Dir{root}, err
}

// Close lets go of the folder.
func (d *Dir) Close() error { return d.root.Close() }

// Put implements [Writer].
func (d *Dir) Put(name string, size int64, from io.Reader) (err error) {
	if err := d.root.MkdirAll(path.Dir(name), 0o777); err != nil {
		return err
	}
	file, err := d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return copyAll(file, size, from)
}

// copyAll copies from, which has size bytes.
func copyAll(to io.Writer, size int64, from io.Reader) error {
	n, err := io.Copy(to, from)
	if err == nil && n != size {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// Open implements [Reader].
func (d *Dir) Open(name string) (io.ReadCloser, int64, error) {
	// Looked at first: opening a pipe would wait for whoever writes to it.
	info, err := d.root.Stat(name)
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s is not a file", name)
	}
	file, err := d.root.Open(name)
	return file, info.Size(), err
}

// Tar writes a layout as a tar. Close it at the end.
type Tar struct{ w *tar.Writer }

// NewTar returns a layout that is written to w.
func NewTar(w io.Writer) *Tar { return &Tar{tar.NewWriter(w)} }

// Put implements [Writer].
func (t *Tar) Put(name string, size int64, from io.Reader) error {
	// The same layout is the same tar.
	err := t.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatPAX})
	if err != nil {
		return err
	}
	return copyAll(t.w, size, from)
}

// Close writes the end of the tar.
func (t *Tar) Close() error { return t.w.Close() }

// TarFile is a layout in a tar, whose files are read where they are.
type TarFile struct {
	from  io.ReaderAt
	files map[string]section
}

type section struct{ offset, size int64 }

// OpenTar finds the files of a layout in a tar of that size, without compression.
func OpenTar(from io.ReaderAt, size int64) (*TarFile, error) {
	t := &TarFile{from, map[string]section{}}
	at := io.NewSectionReader(from, 0, size)
	r := tar.NewReader(at)
	for n := 0; ; n++ {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return nil, fmt.Errorf("this is not a tar without compression: %w", err)
		}
		if n == maxFiles {
			return nil, fmt.Errorf("the tar has more than %d files", maxFiles)
		}
		name := strings.TrimSuffix(strings.TrimPrefix(header.Name, "./"), "/")
		if name == "" && header.Typeflag == tar.TypeDir {
			continue
		}
		if !fs.ValidPath(name) {
			return nil, fmt.Errorf("the tar has a file %.200q, which leads out of it", header.Name)
		}
		switch header.Typeflag {
		case tar.TypeDir:
			continue
		case tar.TypeReg:
		default:
			return nil, fmt.Errorf("the tar has %.200q, which is neither a file nor a folder", header.Name)
		}
		if _, ok := t.files[name]; ok {
			return nil, fmt.Errorf("the tar has %.200q twice", header.Name)
		}
		offset, err := at.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		if header.Size > size-offset {
			return nil, fmt.Errorf("the tar ends in the middle of %.200q", header.Name)
		}
		t.files[name] = section{offset, header.Size}
	}
}

// Open implements [Reader].
func (t *TarFile) Open(name string) (io.ReadCloser, int64, error) {
	file, ok := t.files[name]
	if !ok {
		return nil, 0, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return io.NopCloser(io.NewSectionReader(t.from, file.offset, file.size)), file.size, nil
}
