// Package sandbox renders manifests in a process of its own, with limits on its time and memory.
//
// Files, names and network are guarded by package manifest itself. What is left is that templates and programs (Helm,
// Jsonnet, Kustomize) cannot be stopped from outside and take as much memory as they like, so [Sandbox.Render] starts
// this very program again, and that calls [Serve]. The process gets no environment; its input is the request, its third
// file the workspace, its output the answer.
package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"slipway/internal/fault"
	"slipway/internal/manifest"
	"slipway/internal/manifest/source"
)

// The limits of a rendering for which no others are given.
const (
	DefaultMemory = 1 << 30 // bytes
	DefaultTime   = time.Minute
)

// maxAnswer bounds the answer, so that what a rendering gives cannot fill the memory of who asks.
const maxAnswer = source.MaxTotalBytes

// Sandbox renders in a process of its own. It may be used concurrently.
type Sandbox struct {
	// Program and Args are the command that calls [Serve]. An empty Program means this program.
	Program string
	Args    []string
	// Memory bounds the memory that the process may have, in bytes; 0 means [DefaultMemory].
	Memory uint64
	// Time bounds how long it may take, by the clock and by the processor; 0 means [DefaultTime].
	Time time.Duration
}

// request is what the process reads, and answer what it writes; both as JSON.
type request struct {
	Source manifest.Source
	Memory uint64
	Time   time.Duration
}

type answer struct {
	Objects  []object
	Pins     []manifest.Pin
	Notes    []string
	Problems manifest.Problems
	// Err and Code are an error without problems.
	Err  string
	Code fault.Code
}

// Render does what [manifest.Render] does, and returns the same. What takes too long or too much memory is an error as
// well; the end of ctx kills the process.
func (s Sandbox) Render(ctx context.Context, src manifest.Source) (manifest.Rendered, error) {
	if s.Memory == 0 {
		s.Memory = DefaultMemory
	}
	if s.Time == 0 {
		s.Time = DefaultTime
	}
	input, err := json.Marshal(request{Source: src, Memory: s.Memory, Time: s.Time})
	if err != nil {
		return manifest.Rendered{}, fmt.Errorf("encode what to render: %w", err)
	}
	workspace, err := src.Root.Open(".")
	if err != nil {
		return manifest.Rendered{}, fmt.Errorf("open the workspace: %w", err)
	}
	defer workspace.Close()
	limited, cancel := context.WithTimeout(ctx, s.Time)
	defer cancel()
	program := s.Program
	if program == "" {
		program = "/proc/self/exe" // also when the file was replaced by a newer one
	}
	stdout, stderr := capped{max: maxAnswer}, capped{max: 64 << 10}
	cmd := exec.CommandContext(limited, program)
	cmd.Args = append([]string{"slipway"}, s.Args...)
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &stdout, &stderr
	cmd.ExtraFiles = []*os.File{workspace}
	cmd.WaitDelay = 5 * time.Second
	err = cmd.Run()
	switch {
	case ctx.Err() != nil:
		return manifest.Rendered{}, context.Cause(ctx)
	case err != nil:
		return manifest.Rendered{}, s.explain(src, limited.Err() != nil, err, stdout.full, string(stderr.data))
	}
	return decode(stdout.data)
}

// explain says why the process did not answer. out tells that the time was over, full that it wrote too much.
func (s Sandbox) explain(src manifest.Source, out bool, err error, full bool, stderr string) error {
	what := strings.Join(src.Paths, ", ")
	var exit *exec.ExitError
	signal := syscall.Signal(0)
	if errors.As(err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			signal = status.Signal()
		}
	}
	switch {
	case full:
		return fault.New(fault.Invalid, "%s: the objects have more than %d MiB together", what, maxAnswer>>20)
	case out || signal == syscall.SIGXCPU || strings.Contains(stderr, "SIGXCPU"):
		return fault.New(fault.Invalid, "%s: rendering takes longer than %s; does something in it repeat without an end?", what, s.Time)
	case strings.Contains(stderr, "out of memory") || strings.Contains(stderr, "cannot allocate memory"):
		return fault.New(fault.Invalid, "%s: rendering needs more than %d MiB of memory; does something in it grow without an end?", what, s.Memory>>20)
	case strings.Contains(stderr, "stack overflow") || strings.Contains(stderr, "stack exceeds"):
		return fault.New(fault.Invalid, "%s: rendering calls itself without an end", what)
	case signal == syscall.SIGKILL:
		return fault.New(fault.Unavailable, "%s: the process that renders was killed; is there enough memory on this machine?", what)
	}
	line, _, _ := strings.Cut(strings.TrimSpace(stderr), "\n")
	return fmt.Errorf("render %s in a process of its own: %w: %s", what, err, line)
}

func decode(data []byte) (manifest.Rendered, error) {
	var a answer
	if err := json.Unmarshal(data, &a); err != nil {
		return manifest.Rendered{}, fmt.Errorf("read the answer of the process that renders: %w", err)
	}
	switch {
	case len(a.Problems) > 0:
		return manifest.Rendered{}, &fault.Error{Code: fault.Invalid, Message: a.Problems.Error(), Err: a.Problems}
	case a.Err != "":
		return manifest.Rendered{}, &fault.Error{Code: a.Code, Message: a.Err}
	}
	rendered := manifest.Rendered{Pins: a.Pins, Notes: a.Notes, Objects: make([]manifest.Object, len(a.Objects))}
	for i, o := range a.Objects {
		rendered.Objects[i] = manifest.Object{Unstructured: o.Object, Origin: o.Origin}
	}
	return rendered, nil
}

// capped keeps as much as it may, and fails the writer after that.
type capped struct {
	data []byte
	max  int
	full bool
}

// Write implements [io.Writer].
func (c *capped) Write(p []byte) (int, error) {
	if len(c.data)+len(p) > c.max {
		c.full = true
		return 0, io.ErrShortWrite
	}
	c.data = append(c.data, p...)
	return len(p), nil
}
