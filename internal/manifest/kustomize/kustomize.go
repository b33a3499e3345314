// Package kustomize renders a folder of a workspace with Kustomize, in-process and without trusting the folder.
//
// [Build] first walks everything that the kustomization refers to ([checker]) and refuses what would leave the
// workspace, use the network or run a program; then it lets Kustomize read the very same bytes through a read-only file
// system. Kustomize alone would fetch URLs and run git.
package kustomize

import (
	"context"
	"fmt"
	"path"
	"regexp"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/kustomize/api/konfig"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/resmap"

	"slipway/internal/manifest/source"
)

// FileNames returns the names by which a folder is known to have a kustomization.
func FileNames() []string { return konfig.RecognizedKustomizationFileNames() }

// Error is what is wrong with a kustomization. Line and Column are 0 where they are not known.
type Error struct {
	File         string
	Line, Column int
	Message      string
}

// Error implements error.
func (e *Error) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.Message
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, max(e.Column, 1), e.Message)
}

// running serialises builds: the OpenAPI schema in Kustomize's kyaml is one for the whole process, and its maps are read
// and written without a common lock.
var running sync.Mutex

// Build renders the kustomization in the folder dir of files. Its error is an [*Error], or that of ctx, which is looked
// at before Kustomize starts; the limits of files and of YAML bound what Kustomize does from there.
func Build(ctx context.Context, files *source.Files, dir string) ([]map[string]any, error) {
	c := checker{files: files}
	if err := c.folder(dir, nil); err != nil {
		return nil, err
	}
	running.Lock()
	defer running.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	resources, err := run(files, dir)
	if err != nil {
		return nil, &Error{File: dir, Message: tidy(err)}
	}
	var values []map[string]any
	for _, r := range resources.Resources() {
		data, err := r.MarshalJSON()
		if err != nil {
			return nil, &Error{File: dir, Message: fmt.Sprintf("%s: %v", r.CurId(), err)}
		}
		var value map[string]any
		if err := json.Unmarshal(data, &value); err != nil {
			return nil, &Error{File: dir, Message: fmt.Sprintf("%s: %v", r.CurId(), err)}
		}
		values = append(values, value)
	}
	return values, nil
}

// run runs Kustomize. Input that it does not expect makes parts of it panic.
func run(files *source.Files, dir string) (resources resmap.ResMap, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("Kustomize cannot cope with it: %v", p)
		}
	}()
	options := krusty.MakeDefaultOptions() // plugins disabled, files only below their kustomization
	return krusty.MakeKustomizer(options).Run(fileSystem{files}, "/"+dir)
}

// noise is what Kustomize says of where it was when it found a fault, and of what else it tried: each resource is read
// as a file first and as a folder next.
var noise = regexp.MustCompile(`accumulat\w+ \w+( from)? '[^']*': |accumulating resources: |accumulation err='|': (must build at directory|new root).*`)

// tidy makes one line of an error of Kustomize, with paths as the user knows them.
func tidy(err error) string {
	message := strings.Join(strings.Fields(err.Error()), " ")
	if m := accumulating.FindAllStringSubmatch(message, -1); m != nil {
		message = m[len(m)-1][1] + ": " + noise.ReplaceAllString(message, "")
	}
	return strings.ReplaceAll(message, "'/", "'")
}

var accumulating = regexp.MustCompile(`accumulating resources from '([^']*)'`)

// local returns the name in the workspace of the path ref in the folder dir.
func local(dir, ref string) (string, error) {
	if path.IsAbs(ref) {
		return "", fmt.Errorf("%s is an absolute path; only paths inside the workspace can be used", ref)
	}
	name := path.Join(dir, ref)
	if name == ".." || strings.HasPrefix(name, "../") {
		return "", fmt.Errorf("%s leads out of the workspace", ref)
	}
	return name, nil
}
