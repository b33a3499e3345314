package helm

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"helm.sh/helm/v4/pkg/chart/loader/archive"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/ignore"

	"slipway/internal/manifest/source"
)

// The limits of one chart with all of its subcharts.
const (
	MaxFiles   = 5000 // files
	MaxCharts  = 100  // charts packed as .tgz
	MaxPacking = 5    // of packed charts in packed charts
)

// bundle collects the files of a chart, those of packed subcharts included.
type bundle struct {
	files  []*archive.BufferedFile
	bytes  int
	charts int
}

// load reads the chart in the folder dir. Packed subcharts are unpacked here, and not by Helm, so that all of them share
// one limit.
func load(files *source.Files, dir string) (*chart.Chart, error) {
	fail := func(name string, err error) error {
		return &source.Error{File: name, Message: strings.TrimPrefix(oneLine(err.Error()), name+": ")}
	}
	rules := ignore.Empty()
	name := path.Join(dir, ignore.HelmIgnore)
	switch data, err := files.ReadFile(name); {
	case err == nil:
		if rules, err = ignore.Parse(bytes.NewReader(data)); err != nil {
			return nil, fail(name, err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fail(name, err)
	}
	rules.AddDefaults()
	names, err := files.Walk(dir, func(name string, isDir bool) bool {
		return rules.Ignore(inside(dir, name), fileInfo{path.Base(name), isDir})
	})
	if err != nil {
		return nil, fail(dir, err)
	}
	var b bundle
	for _, name := range names {
		data, err := files.ReadFile(name)
		if err != nil {
			return nil, fail(name, err)
		}
		if err := b.add(inside(dir, name), data, 0); err != nil {
			return nil, fail(name, err)
		}
	}
	c, err := loader.LoadFiles(b.files)
	if err != nil {
		return nil, fail(path.Join(dir, ChartFile), err)
	}
	return c, nil
}

func inside(dir, name string) string {
	if dir == "." {
		return name
	}
	return strings.TrimPrefix(name, dir+"/")
}

// parsed are the files that Helm parses as YAML while it loads a chart.
var parsed = []string{ChartFile, "Chart.lock", "requirements.yaml", "requirements.lock", "values.yaml"}

// add takes a file of the chart in. A chart that is packed inside depth others becomes a folder.
func (b *bundle) add(name string, data []byte, depth int) error {
	dir, base := path.Split(name)
	if path.Ext(base) == ".tgz" && path.Base(dir) == "charts" && !strings.HasPrefix(base, "_") && !strings.HasPrefix(base, ".") {
		return b.unpack(name, data, depth+1)
	}
	b.bytes += len(data)
	if len(b.files) == MaxFiles {
		return fmt.Errorf("the chart has more than %d files", MaxFiles)
	}
	if b.bytes > source.MaxTotalBytes {
		return fmt.Errorf("the chart has more than %d MiB", source.MaxTotalBytes>>20)
	}
	if slices.Contains(parsed, base) {
		if err := source.CheckYAML(data); err != nil {
			return err
		}
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	b.files = append(b.files, &archive.BufferedFile{Name: name, ModTime: time.Time{}, Data: data})
	return nil
}

// unpack adds the files of a packed chart, as those of the folder name without its .tgz.
func (b *bundle) unpack(name string, data []byte, depth int) error {
	if b.charts++; b.charts > MaxCharts || depth > MaxPacking {
		return fmt.Errorf("more than %d packed charts, or more than %d in each other", MaxCharts, MaxPacking)
	}
	unzipped, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("%s is no packed chart: %w", name, err)
	}
	// One byte more than allowed is enough to know; what is not kept counts as well, so that skipping it ends.
	limited := &io.LimitedReader{R: unzipped, N: 2*source.MaxTotalBytes + 1}
	for files := tar.NewReader(limited); ; {
		header, err := files.Next()
		switch {
		case limited.N <= 0:
			return fmt.Errorf("%s unpacks to more than %d MiB", name, source.MaxTotalBytes>>20)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("%s is no packed chart: %w", name, err)
		case header.Typeflag != tar.TypeReg: // Helm keeps nothing of folders, and a link would be an empty file
			continue
		}
		_, file, ok := strings.Cut(strings.ReplaceAll(header.Name, `\`, "/"), "/")
		if !ok || !fs.ValidPath(file) {
			return fmt.Errorf("%s has the file %q, which is not in the folder of its chart", name, header.Name)
		}
		content, err := io.ReadAll(io.LimitReader(files, int64(source.MaxTotalBytes-b.bytes)+1))
		if err != nil {
			return fmt.Errorf("%s is no packed chart: %w", name, err)
		}
		if err := b.add(path.Join(strings.TrimSuffix(name, ".tgz"), file), content, depth); err != nil {
			return err
		}
	}
}

// fileInfo is as much of a file as the rules of .helmignore look at.
type fileInfo struct {
	name  string
	isDir bool
}

func (f fileInfo) Name() string       { return f.name }
func (f fileInfo) IsDir() bool        { return f.isDir }
func (f fileInfo) Size() int64        { return 0 }
func (f fileInfo) ModTime() time.Time { return time.Time{} }
func (f fileInfo) Sys() any           { return nil }
func (f fileInfo) Mode() fs.FileMode {
	if f.isDir {
		return fs.ModeDir
	}
	return 0
}
