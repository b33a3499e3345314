// Package kustomize renders a folder of a workspace with Kustomize, in-process and without trusting the folder.
//
// [Render] first walks everything that the kustomization refers to ([checker]) and refuses what would leave the
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
	"sigs.k8s.io/kustomize/api/resource"

	"slipway/internal/manifest/source"
)

// FileNames returns the names by which a folder is known to have a kustomization.
func FileNames() []string { return konfig.RecognizedKustomizationFileNames() }

// Error is what is wrong with a kustomization.
type Error = source.Error

// running serialises builds: the OpenAPI schema in Kustomize's kyaml is one for the whole process, and its maps are read
// and written without a common lock.
var running sync.Mutex

// Render renders the kustomization in the folder that r names, and fills variables into what it gives. Its error is an
// [*Error], or that of ctx, which is looked at before Kustomize starts; the limits of files and of YAML bound what
// Kustomize does from there.
func Render(ctx context.Context, r source.Request) (source.Result, error) {
	c := checker{files: r.Files}
	if err := c.folder(r.Name, nil); err != nil {
		return source.Result{}, err
	}
	running.Lock()
	defer running.Unlock()
	if err := ctx.Err(); err != nil {
		return source.Result{}, err
	}
	resources, err := run(r.Files, r.Name)
	if err != nil {
		return source.Result{}, &Error{File: r.Name, Message: tidy(err)}
	}
	var result source.Result
	for _, res := range resources.Resources() {
		value, err := valueOf(res, r.Variables)
		if err != nil {
			return source.Result{}, &Error{File: r.Name, Message: fmt.Sprintf("%s: %v", res.CurId(), err)}
		}
		result.Objects = append(result.Objects, source.Object{Value: value, At: source.Position{File: r.Name}})
	}
	return result, nil
}

// valueOf fills variables into a resource. Its nodes still know what was written in quotes.
func valueOf(res *resource.Resource, variables map[string]string) (map[string]any, error) {
	if _, err := source.Fill(res.YNode(), variables); err != nil {
		return nil, err
	}
	data, err := res.MarshalJSON()
	if err != nil {
		return nil, err
	}
	var value map[string]any
	err = json.Unmarshal(data, &value)
	return value, err
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
