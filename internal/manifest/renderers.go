package manifest

import (
	"context"
	"errors"
	"path"
	"slices"
	"strings"

	"slipway/internal/manifest/helm"
	"slipway/internal/manifest/jsonnet"
	"slipway/internal/manifest/kustomize"
	"slipway/internal/manifest/source"
)

// renderer makes objects of a kind of file, or of a kind of folder.
type renderer struct {
	// what is what people call such a file or folder.
	what string
	// marks are the names of files by which a folder is known to be for this renderer.
	marks []string
	// ext is how the names of its files end.
	ext string
	// render reads nothing but the files of the request. Its error is a [*source.Error], or that of the context.
	render func(context.Context, source.Request) (source.Result, error)
}

// renderers are the ways to objects besides plain YAML and JSON. A new one is a package and a line.
var renderers = []renderer{
	{what: "a kustomization", marks: kustomize.FileNames(), render: kustomize.Render},
	{what: chart, marks: []string{helm.ChartFile}, render: helm.Render},
	{what: "a Jsonnet file", ext: jsonnet.Ext, render: jsonnet.Render},
}

const chart = "a Helm chart"

// folderRenderer returns the renderer whose folders have a file of that name, or nil.
func folderRenderer(name string) *renderer {
	i := slices.IndexFunc(renderers, func(r renderer) bool { return slices.Contains(r.marks, path.Base(name)) })
	if i < 0 {
		return nil
	}
	return &renderers[i]
}

// fileRenderer returns the renderer for a file, or nil.
func fileRenderer(name string) *renderer {
	i := slices.IndexFunc(renderers, func(r renderer) bool { return r.ext != "" && r.ext == path.Ext(name) })
	if i < 0 {
		return nil
	}
	return &renderers[i]
}

// isManifest reports whether a file is taken when its folder is named.
func isManifest(name string) bool {
	if slices.Contains([]string{"jsonnetfile.json", "jsonnetfile.lock.json"}, path.Base(name)) { // of jsonnet-bundler
		return false
	}
	return slices.Contains([]string{".yaml", ".yml", ".json"}, path.Ext(name)) || fileRenderer(name) != nil
}

// HasChart reports whether any of the paths of s is the folder of a Helm chart. What it needs to know of a cluster is in
// Charts, so whoever deploys asks before rendering.
func HasChart(s Source) bool {
	return slices.ContainsFunc(s.Paths, func(name string) bool {
		if path.Base(name) != helm.ChartFile {
			name = path.Join(name, helm.ChartFile)
		}
		info, err := s.Root.Stat(name)
		return err == nil && !info.IsDir()
	})
}

// render renders a file or folder by a renderer.
func (r *rendering) render(by *renderer, name string) {
	r.rendered[by.what] = true
	if r.again(name+"/") || r.full {
		return
	}
	result, err := by.render(r.ctx, source.Request{
		Files: r.files, Name: name, Namespace: r.source.Namespace, Variables: r.source.Variables, Charts: r.source.Charts,
	})
	if err != nil {
		at := Position{File: name}
		if e, ok := errors.AsType[*source.Error](err); ok {
			at = e.Position()
		}
		r.fail(at, "%s", strings.TrimPrefix(err.Error(), at.String()+": "))
		return
	}
	r.notes = append(r.notes, result.Notes...)
	for _, o := range result.Objects {
		r.add(o.Value, node{file: o.At.File, line: o.At.Line})
	}
}

// charts finds what was given for a chart though there is none.
func (r *rendering) charts() {
	c := r.source.Charts
	if !r.rendered[chart] && len(r.problems) == 0 && (len(c.Values) > 0 || len(c.Set) > 0 || len(c.SetText) > 0 || c.Release != "") {
		r.fail(Position{File: strings.Join(r.source.Paths, ", ")}, "values are given, but none of this is a Helm chart; name the folder with its Chart.yaml")
	}
}
