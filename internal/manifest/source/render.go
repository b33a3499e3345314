package source

import "fmt"

// Request says what a renderer renders: one file, or one folder, of a workspace.
type Request struct {
	Files *Files
	// Name is the file or the folder.
	Name string
	// Namespace is where objects go that name none; empty if that is not known.
	Namespace string
	// Variables are what whoever deploys fills in, by name.
	Variables map[string]string
	// Charts is for Helm charts alone.
	Charts Charts
}

// Charts says what Helm charts are rendered with. It is the same for all charts of a rendering.
type Charts struct {
	// Release is the name of the release in the sense of Helm; empty means that of the chart.
	Release string `json:",omitempty"`
	// Values are files of the workspace, the last of which wins over those before it and over the chart's own values.
	Values []string `json:",omitempty"`
	// Set has values by their path, such as image.tag or hosts[0].name, which win over those of files. Numbers, true,
	// false and null are what they look like, as for helm --set.
	Set map[string]string `json:",omitempty"`
	// SetText is as Set, but each value is text, as for helm --set-string.
	SetText map[string]string `json:",omitempty"`
	// KubeVersion is the version of the cluster, such as v1.34.1; empty means that of Slipway's client.
	KubeVersion string `json:",omitempty"`
	// APIVersions are what the cluster serves, such as apps/v1 and apps/v1/Deployment; empty means Kubernetes' own.
	APIVersions []string `json:",omitempty"`
	// Upgrade says that the environment has a release already.
	Upgrade bool `json:",omitempty"`
}

// Result is what a renderer made.
type Result struct {
	Objects []Object
	// Notes are sentences for whoever deploys.
	Notes []string
}

// Object is what should be a Kubernetes object, with its place.
type Object struct {
	Value map[string]any
	At    Position
}

// Position is a place in a file of the workspace. Line and Column count from 1 and are 0 where they are not known, as in
// what a template or Kustomize put together.
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

// Error is what is wrong with what a renderer was given. Line and Column are 0 where they are not known.
type Error struct {
	File         string
	Line, Column int
	Message      string
}

// Position returns where it is wrong.
func (e *Error) Position() Position { return Position{e.File, e.Line, e.Column} }

// Error implements error.
func (e *Error) Error() string { return e.Position().String() + ": " + e.Message }
