// Package manifest turns the manifests of a workspace into Kubernetes objects.
//
// Start with [Render]. It reads plain YAML and JSON, and folders with a kustomization (package kustomize); checks what
// can be known without a cluster; and pins images to digests (see [Images]). A workspace is not trusted: nothing
// outside of it is read, no program runs, no network is used, and sizes are limited (package source).
package manifest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"slipway/internal/fault"
	"slipway/internal/manifest/kustomize"
	"slipway/internal/manifest/source"
)

// MaxObjects is how many objects one rendering may give.
const MaxObjects = 5000

// Source says what to render.
type Source struct {
	// Root is the workspace. Render does not close it.
	Root *os.Root
	// Paths are files, folders and patterns (** for any number of folders), relative to Root. A folder with a
	// kustomization is rendered by Kustomize; of any other folder the .yaml, .yml and .json files directly in it are
	// taken.
	Paths []string
	// Namespace is given to objects that name none and are known to belong in one; empty leaves them as they are.
	Namespace string
	// Images says which images are pinned to what.
	Images Images
}

// Rendered is what [Render] made.
type Rendered struct {
	// Objects are in the order of their sources.
	Objects []Object
	// Pins lists the images that were replaced, sorted and without repetition.
	Pins []Pin
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

// Position is a place in a file of the workspace. Line and Column count from 1 and are 0 where they are not known, as in
// what Kustomize put together.
type Position struct {
	File         string
	Line, Column int
}

// String returns file:line:column, or just the file.
func (p Position) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, max(p.Column, 1))
}

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
	r := renderer{ctx: ctx, files: source.New(s.Root), seen: map[string]bool{}}
	if len(s.Paths) == 0 {
		r.fail(Position{File: "manifests"}, "no files or folders are named")
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
	r.unique()
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
	return Rendered{Objects: r.objects, Pins: pins}, nil
}

// renderer collects the objects and problems of one rendering.
type renderer struct {
	ctx      context.Context
	files    *source.Files
	seen     map[string]bool // files and folders that were rendered
	objects  []Object
	problems Problems
	full     bool // one of the bounds was hit
}

func (r *renderer) fail(at Position, format string, args ...any) {
	if len(r.problems) < maxProblems {
		r.problems = append(r.problems, Problem{at, fmt.Sprintf(format, args...)})
	}
}

// failErr records an error of package source, which names its file itself.
func (r *renderer) failErr(name string, err error) {
	r.fail(Position{File: name}, "%s", strings.TrimPrefix(err.Error(), name+": "))
}

// path renders one of the paths of a Source.
func (r *renderer) path(name string) {
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
	case slices.Contains(kustomize.FileNames(), path.Base(clean)):
		r.folder(path.Dir(clean))
	default:
		r.file(clean)
	}
}

// glob renders the files that match a pattern. Kustomizations among them stand for their folders.
func (r *renderer) glob(pattern string) {
	names, err := r.files.Glob(pattern)
	if err != nil {
		r.failErr(pattern, err)
		return
	}
	if len(names) == 0 {
		r.fail(Position{File: pattern}, "no file matches")
	}
	for _, name := range names {
		if slices.Contains(kustomize.FileNames(), path.Base(name)) {
			r.fail(Position{File: name}, "a pattern cannot pick a kustomization, because its resources would be taken twice; name the folder %s instead", path.Dir(name))
			continue
		}
		r.file(name)
	}
}

// folder renders a folder: by Kustomize if it has a kustomization, else the manifests directly in it.
func (r *renderer) folder(dir string) {
	names, err := r.files.List(dir)
	if err != nil {
		r.failErr(dir, err)
		return
	}
	var manifests []string
	for _, name := range names {
		if slices.Contains(kustomize.FileNames(), path.Base(name)) {
			r.kustomization(dir)
			return
		}
		if slices.Contains([]string{".yaml", ".yml", ".json"}, path.Ext(name)) {
			manifests = append(manifests, name)
		}
	}
	if len(manifests) == 0 {
		r.fail(Position{File: dir}, "the folder has no .yaml, .yml or .json file (folders in it are not searched; %s would)", path.Join(dir, "**/*.yaml"))
	}
	for _, name := range manifests {
		r.file(name)
	}
}

// kustomization renders a folder by Kustomize.
func (r *renderer) kustomization(dir string) {
	if r.again(dir + "/") {
		return
	}
	values, err := kustomize.Build(r.ctx, r.files, dir)
	if err != nil {
		at := Position{File: dir}
		if k, ok := errors.AsType[*kustomize.Error](err); ok {
			at = Position{k.File, k.Line, k.Column}
		}
		r.fail(at, "%s", strings.TrimPrefix(err.Error(), at.String()+": "))
		return
	}
	for _, value := range values {
		r.add(value, node{file: dir})
	}
}

// file renders one file of plain YAML or JSON.
func (r *renderer) file(name string) {
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
func (r *renderer) again(name string) bool {
	again := r.seen[name]
	r.seen[name] = true
	return again
}

// unique finds objects that are there twice: one would silently overwrite the other.
func (r *renderer) unique() {
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
