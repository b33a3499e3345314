package jsonnet

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	gojsonnet "github.com/google/go-jsonnet"

	"slipway/internal/manifest/source"
)

// importer finds what a file imports: relative to that file, or else in lib and vendor of the folder of the file that is
// rendered, and of the folders above it, where jsonnet-bundler and Tanka put libraries.
type importer struct {
	files    *source.Files
	main     string // the folder of the file that is rendered
	contents map[string]gojsonnet.Contents
}

// Import implements [gojsonnet.Importer].
func (i *importer) Import(from, name string) (contents gojsonnet.Contents, foundAt string, err error) {
	if path.IsAbs(name) {
		return contents, "", fmt.Errorf("%s is an absolute path; only files of the workspace can be imported", name)
	}
	if strings.Contains(name, "://") {
		return contents, "", fmt.Errorf("%s is not in the workspace; rendering uses no network, so put a copy into the repository", name)
	}
	var failed error
	for _, dir := range i.folders(path.Dir(from)) {
		candidate := path.Join(dir, name)
		if candidate == ".." || strings.HasPrefix(candidate, "../") {
			failed = fmt.Errorf("%s leads out of the workspace", name)
			continue
		}
		contents, err := i.read(candidate)
		switch {
		case err == nil:
			return contents, candidate, nil
		case !errors.Is(err, fs.ErrNotExist):
			return contents, "", err
		}
	}
	if failed == nil {
		failed = fmt.Errorf("there is no file %s beside it, nor in lib or vendor here or above; what jsonnet-bundler installs must be in the repository", name)
	}
	return contents, "", failed
}

// folders returns where to look for what a file in the folder from imports.
func (i *importer) folders(from string) []string {
	folders := []string{from}
	for dir := i.main; ; dir = path.Dir(dir) {
		folders = append(folders, path.Join(dir, "lib"), path.Join(dir, "vendor"))
		if dir == "." || dir == "/" {
			return folders
		}
	}
}

// read returns the same bytes each time, as go-jsonnet wants.
func (i *importer) read(name string) (gojsonnet.Contents, error) {
	if contents, ok := i.contents[name]; ok {
		return contents, nil
	}
	data, err := i.files.ReadFile(name)
	if err != nil {
		return gojsonnet.Contents{}, err
	}
	i.contents[name] = gojsonnet.MakeContentsRaw(data)
	return i.contents[name], nil
}
