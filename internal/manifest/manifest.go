// Package manifest turns the manifests of a workspace into Kubernetes objects.
//
// Start with [Render]. It reads plain YAML and JSON, and what the renderers know (see [renderers]: Kustomize, Helm charts,
// Jsonnet; each is a package below this one); fills in variables; checks what can be known without a cluster; and pins
// images to digests (see [Images]). A workspace is not trusted: nothing outside of it is read, no program runs, no
// network is used, and sizes are limited (package source). What templates and programs take of time and memory is
// limited by package sandbox, which does the same in a process of its own.
package manifest

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"slipway/internal/fault"
	"slipway/internal/manifest/source"
)

// MaxObjects is how many objects one rendering may give.
const MaxObjects = 5000

// Source says what to render.
type Source struct {
	// Root is the workspace. Render does not close it.
	Root *os.Root `json:"-"`
	// Paths are files, folders and patterns (** for any number of folders), relative to Root. A folder that a renderer
	// knows is rendered by it; of any other folder the .yaml, .yml, .json and .jsonnet files directly in it are taken.
	Paths []string
	// Namespace is given to objects that name none and are known to belong in one; empty leaves them as they are.
	Namespace string `json:",omitempty"`
	// Variables are filled in: for ${NAME} in the texts of plain YAML and JSON, of what Kustomize gives and of the values
	// files of charts (see [source.Fill]), and as external variables and arguments in Jsonnet.
	Variables map[string]string `json:",omitempty"`
	// Charts says what Helm charts are rendered with.
	Charts Charts
	// Confidential are values, of variables and for charts, that may only end up in objects of the kind Secret.
	Confidential []string `json:",omitempty"`
	// Images says which images are pinned to what.
	Images Images
}

// Charts says what Helm charts are rendered with.
type Charts = source.Charts

// Rendered is what [Render] made.
type Rendered struct {
	// Objects are in the order of their sources.
	Objects []Object
	// Pins lists the images that were replaced, sorted and without repetition.
	Pins []Pin
	// Notes are sentences about what was rendered, for whoever deploys it.
	Notes []string
}

// Object is a Kubernetes object, and where it came from.
type Object struct {
	*unstructured.Unstructured
	Origin Position
}

// String names the object as people do: deployment/web, or deployment/web in shop.
func (o Object) String() string { return Name(o.Unstructured) }

// Name names an object as people do: deployment/web.
func Name(o *unstructured.Unstructured) string {
	return strings.ToLower(o.GetKind()) + "/" + o.GetName()
}

// Position is a place in a file of the workspace.
type Position = source.Position

// Problem is something wrong at a position.
type Problem struct {
	Position
	Message string
}

// Error implements error.
func (p Problem) Error() string { return p.Position.String() + ": " + p.Message }

// Problems is all that is wrong with manifests, in their order. It is in the chain of [Render]'s error.
type Problems []Problem

// Error returns one line for each problem.
func (p Problems) Error() string {
	lines := make([]string, len(p))
	for i, problem := range p {
		lines[i] = problem.Error()
	}
	return strings.Join(lines, "\n")
}

func (p Problems) fault() error {
	return &fault.Error{Code: fault.Invalid, Message: p.Error(), Err: p}
}

// maxProblems bounds how many problems are collected: whoever has more will not read them.
const maxProblems = 50

// Render reads the manifests that s names and returns their objects. Its error is a [fault.Error] that wraps [Problems],
// or that of ctx, which is looked at between files. It may be called concurrently.
func Render(ctx context.Context, s Source) (Rendered, error) {
	r := rendering{ctx: ctx, source: s, files: source.New(s.Root), seen: map[string]bool{}, rendered: map[string]bool{}}
	if len(s.Paths) == 0 {
		r.fail(Position{File: "manifests"}, "no files or folders are named")
	}
	if err := source.CheckVariables(s.Variables); err != nil {
		return Rendered{}, &fault.Error{Code: fault.Invalid, Message: err.Error(), Err: err}
	}
	for _, p := range s.Paths {
		if err := ctx.Err(); err != nil {
			return Rendered{}, err
		}
		r.path(p)
	}
	if err := ctx.Err(); err != nil {
		return Rendered{}, err
	}
	r.charts()
	r.unique()
	r.confidential()
	if len(r.problems) > 0 {
		return Rendered{}, r.problems.fault()
	}
	if len(r.objects) == 0 {
		r.fail(Position{File: strings.Join(s.Paths, ", ")}, "there is no Kubernetes object in it")
		return Rendered{}, r.problems.fault()
	}
	pins, problems := pin(r.objects, s.Images)
	if len(problems) > 0 {
		return Rendered{}, problems.fault()
	}
	SetNamespace(r.objects, s.Namespace, BuiltinScope(r.objects))
	return Rendered{Objects: r.objects, Pins: pins, Notes: r.notes}, nil
}

// rendering collects the objects and problems of one call of [Render].
type rendering struct {
	ctx      context.Context
	source   Source
	files    *source.Files
	seen     map[string]bool // files and folders that were rendered
	rendered map[string]bool // by the names of renderers
	objects  []Object
	notes    []string
	problems Problems
	full     bool // one of the bounds was hit
}

func (r *rendering) fail(at Position, format string, args ...any) {
	if len(r.problems) < maxProblems {
		r.problems = append(r.problems, Problem{at, fmt.Sprintf(format, args...)})
	}
}

// failErr records an error of package source, which names its file itself.
func (r *rendering) failErr(name string, err error) {
	r.fail(Position{File: name}, "%s", strings.TrimPrefix(err.Error(), name+": "))
}

// path renders one of the paths of a Source.
func (r *rendering) path(name string) {
	clean, err := source.Clean(name)
	if err != nil {
		r.failErr(name, err)
		return
	}
	isDir, err := r.files.Stat(clean)
	switch {
	case err != nil && strings.ContainsAny(name, "*?[{"):
		r.glob(clean)
	case err != nil:
		r.failErr(clean, err)
	case isDir:
		r.folder(clean)
	case folderRenderer(clean) != nil:
		r.folder(path.Dir(clean))
	default:
		r.file(clean)
	}
}

// glob renders the files that match a pattern.
func (r *rendering) glob(pattern string) {
	names, err := r.files.Glob(pattern)
	if err != nil {
		r.failErr(pattern, err)
		return
	}
	if len(names) == 0 {
		r.fail(Position{File: pattern}, "no file matches")
	}
	for _, name := range names {
		if by := folderRenderer(name); by != nil {
			r.fail(Position{File: name}, "a pattern cannot pick %s, because its files would be taken twice; name the folder %s instead", by.what, path.Dir(name))
			continue
		}
		r.file(name)
	}
}

// folder renders a folder: by the renderer that knows it, else the manifests directly in it.
func (r *rendering) folder(dir string) {
	names, err := r.files.List(dir)
	if err != nil {
		r.failErr(dir, err)
		return
	}
	var manifests []string
	for _, name := range names {
		if by := folderRenderer(name); by != nil {
			r.render(by, dir)
			return
		}
		if isManifest(name) {
			manifests = append(manifests, name)
		}
	}
	if len(manifests) == 0 {
		r.fail(Position{File: dir}, "the folder has no .yaml, .yml, .json or .jsonnet file (folders in it are not searched; %s would)", path.Join(dir, "**/*.yaml"))
	}
	for _, name := range manifests {
		r.file(name)
	}
}

// file renders one file: by the renderer for such files, or as plain YAML or JSON.
func (r *rendering) file(name string) {
	if by := fileRenderer(name); by != nil {
		r.render(by, name)
		return
	}
	if r.again(name) || r.full {
		return
	}
	data, err := r.files.ReadFile(name)
	if err != nil {
		r.failErr(name, err)
		return
	}
	r.plain(name, data)
}

// again reports whether name was rendered before: paths may overlap.
func (r *rendering) again(name string) bool {
	again := r.seen[name]
	r.seen[name] = true
	return again
}

// unique finds objects that are there twice: one would silently overwrite the other.
func (r *rendering) unique() {
	first := map[string]Position{}
	for _, o := range r.objects {
		gk := o.GroupVersionKind().GroupKind()
		key := strings.Join([]string{gk.Group, gk.Kind, o.GetNamespace(), o.GetName()}, "/")
		if at, ok := first[key]; ok {
			r.fail(o.Origin, "%s is there twice; the first is at %s", o, at)
			continue
		}
		first[key] = o.Origin
	}
	slices.SortStableFunc(r.problems, func(a, b Problem) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}
