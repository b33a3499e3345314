// Package dialect makes plans of pipeline files, whatever language they are in.
//
// [Compile] is the only way to a plan: the server, the command line and the tests all call it. It picks the dialect by
// the file's name; each dialect is a package below this one.
package dialect

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"slipway/internal/dialect/drone"
	"slipway/internal/plan"
)

// compilers are the dialects, in the order in which a repo is searched for their files.
var compilers = []struct {
	name    string
	files   func() []string
	compile func(plan.Source, plan.Input) (plan.Plan, plan.Problems, error)
}{
	{"drone", drone.Files, drone.Compile},
}

// Files returns the names that a repo is searched for when it names no file itself, best first. They are relative to
// the root of the repo.
func Files() []string {
	var all []string
	for _, c := range compilers {
		all = append(all, c.files()...)
	}
	return all
}

// Names returns the names of the dialects, for [CompileAs].
func Names() []string {
	var names []string
	for _, c := range compilers {
		names = append(names, c.name)
	}
	return names
}

// Compile makes a plan of src for in. The dialect is the one that a file of src's name usually is in; a name that says
// nothing reads as Drone's. Compile is a pure function, and safe to call concurrently.
//
// A plan without jobs means that nothing is to be done for the event. The problems are all that were found, errors and
// warnings, in the order of the file. When there are errors among them, they are the error too, as [plan.Problems], and
// the plan is of no use.
func Compile(src plan.Source, in plan.Input) (plan.Plan, plan.Problems, error) {
	for _, c := range compilers {
		if slices.Contains(c.files(), path.Base(src.Name)) {
			return c.compile(src, in)
		}
	}
	return compilers[0].compile(src, in)
}

// CompileAs is [Compile] with the dialect of the given name.
func CompileAs(name string, src plan.Source, in plan.Input) (plan.Plan, plan.Problems, error) {
	for _, c := range compilers {
		if c.name == name {
			return c.compile(src, in)
		}
	}
	return plan.Plan{}, nil, fmt.Errorf("there is no dialect %q; the dialects are: %s", name, strings.Join(Names(), ", "))
}
