// Package jsonnet renders a Jsonnet file of a workspace.
//
// [Render] is all of it. A file gives an object, a list of objects, or objects nested in objects and lists to any depth,
// as libraries such as kube-prometheus do. Imports stay in the workspace ([importer]).
package jsonnet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	gojsonnet "github.com/google/go-jsonnet"
	"github.com/google/go-jsonnet/ast"
	"k8s.io/apimachinery/pkg/util/json"

	"slipway/internal/manifest/source"
)

// Ext is how the names of files end that give objects. Files ending in .libsonnet are for importing.
const Ext = ".jsonnet"

// MaxStack is how deep calls may nest.
const MaxStack = 500

// Render evaluates the file that r names. Each variable is an external variable, and also the argument of that name if
// the file is a function. It is text, as is all that comes from outside; std.parseInt and std.parseJson make more of it.
//
// The error is a [*source.Error], or that of ctx, which is only looked at before evaluating. How long that takes, and how
// much memory, is up to the file: whoever does not trust it does this in a process of its own.
func Render(ctx context.Context, r source.Request) (source.Result, error) {
	if err := ctx.Err(); err != nil {
		return source.Result{}, err
	}
	vm := gojsonnet.MakeVM()
	vm.MaxStack = MaxStack
	vm.Importer(&importer{files: r.Files, main: path.Dir(r.Name), contents: map[string]gojsonnet.Contents{}})
	for name, value := range r.Variables {
		vm.ExtVar(name, value)
	}
	node, _, err := vm.ImportAST("", r.Name)
	if err != nil {
		return source.Result{}, explain(r.Name, err)
	}
	for _, parameter := range parameters(node) {
		if value, ok := r.Variables[parameter]; ok {
			vm.TLAVar(parameter, value)
		}
	}
	text, err := vm.Evaluate(node)
	if err != nil {
		return source.Result{}, explain(r.Name, err)
	}
	var value any
	if err := json.Unmarshal([]byte(text), &value); err != nil {
		return source.Result{}, &source.Error{File: r.Name, Message: "what it gives cannot be read: " + err.Error()}
	}
	c := collector{file: r.Name}
	if err := c.collect(value, nil); err != nil {
		return source.Result{}, err
	}
	return source.Result{Objects: c.objects}, nil
}

// parameters returns the names of the parameters if a file is a function, possibly below local definitions.
func parameters(node ast.Node) []string {
	for {
		switch n := node.(type) {
		case *ast.Local:
			node = n.Body
		case *ast.Function:
			names := make([]string, len(n.Parameters))
			for i, p := range n.Parameters {
				names[i] = string(p.Name)
			}
			return names
		default:
			return nil
		}
	}
}

// collector finds the objects in what a file gives.
type collector struct {
	file    string
	objects []source.Object
}

// collect adds the objects in the value at a path. What has an apiVersion or a kind is taken for an object.
func (c *collector) collect(value any, at []string) error {
	if len(at) > source.MaxDepth {
		return c.fail(at[:5], "is nested more than %d levels deep", source.MaxDepth)
	}
	switch value := value.(type) {
	case nil:
		return nil
	case map[string]any:
		if value["apiVersion"] != nil || value["kind"] != nil {
			c.objects = append(c.objects, source.Object{Value: value, At: source.Position{File: c.file}})
			return nil
		}
		for _, key := range slices.Sorted(maps.Keys(value)) {
			if err := c.collect(value[key], append(at, "."+key)); err != nil {
				return err
			}
		}
		return nil
	case []any:
		for i, item := range value {
			if err := c.collect(item, append(at, fmt.Sprintf("[%d]", i))); err != nil {
				return err
			}
		}
		return nil
	case string:
		return c.fail(at, "is a text, not a Kubernetes object")
	case bool:
		return c.fail(at, "is %v, not a Kubernetes object", value)
	}
	return c.fail(at, "is the number %v, not a Kubernetes object", value)
}

func (c *collector) fail(at []string, format string, args ...any) error {
	what := "it"
	if len(at) > 0 {
		what = strings.TrimPrefix(strings.Join(at, ""), ".")
	}
	return &source.Error{File: c.file, Message: what + " " + fmt.Sprintf(format, args...)}
}

// located is an error that knows where it is, as those of go-jsonnet's parser do.
type located interface {
	error
	Loc() ast.LocationRange
}

// explain makes one sentence of an error of go-jsonnet, at the innermost place of the workspace that it knows.
func explain(file string, err error) error {
	e := &source.Error{File: file}
	place := func(loc ast.LocationRange) bool {
		name := loc.FileName
		if !loc.IsSet() || name == "" || strings.HasPrefix(name, "<") { // <std>, <extvar:...>
			return false
		}
		e.File, e.Line, e.Column = name, loc.Begin.Line, loc.Begin.Column
		return true
	}
	var runtime gojsonnet.RuntimeError
	var static located
	switch {
	case errors.As(err, &runtime):
		e.Message = runtime.Msg
		for _, frame := range slices.Backward(runtime.StackTrace) {
			if place(frame.Loc) {
				break
			}
		}
	case errors.As(err, &static):
		loc := static.Loc()
		e.Message = strings.TrimPrefix(static.Error(), loc.String()+" ")
		place(loc)
	default:
		e.Message, _, _ = strings.Cut(err.Error(), "\n")
		e.Message = strings.Replace(e.Message, "(CRASH) ", "Jsonnet cannot cope with it: ", 1)
	}
	e.Message = strings.Join(strings.Fields(e.Message), " ")
	const hint = "give it by the setting variables, or by --var"
	if variable, ok := strings.CutPrefix(e.Message, "Undefined external variable: "); ok {
		e.Message = fmt.Sprintf("there is no variable %s; %s", variable, hint)
	}
	if argument, ok := strings.CutPrefix(e.Message, "Missing argument: "); ok && e.Line == 0 { // of the file itself
		e.Message = fmt.Sprintf("the file is a function that needs the argument %s; %s", argument, hint)
	}
	return e
}
