package plan

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Bounds of a plan. They are far above what people write, and keep a hostile file from exhausting a runner.
const (
	MaxJobs  = 500
	MaxSteps = 1000 // of one job
)

// Validate reports what is wrong with p, one error for all. A plan that a dialect returns is valid; one that comes over
// the wire is checked again before it runs.
func (p Plan) Validate() error {
	if p.Version != Version {
		return fmt.Errorf("plan version %d is not supported; this slipway reads version %d", p.Version, Version)
	}
	if len(p.Jobs) > MaxJobs {
		return fmt.Errorf("%d jobs; at most %d are allowed", len(p.Jobs), MaxJobs)
	}
	var problems []error
	graph := map[string][]string{}
	for _, job := range p.Jobs {
		if _, twice := graph[job.Name]; twice {
			problems = append(problems, fmt.Errorf("two jobs are called %q", job.Name))
		}
		graph[job.Name] = job.Needs
		if err := job.validate(); err != nil {
			problems = append(problems, fmt.Errorf("job %q: %w", job.Name, err))
		}
	}
	problems = append(problems, validateGraph("job", graph)...)
	return errors.Join(problems...)
}

func (j Job) validate() error {
	if len(j.Steps) > MaxSteps {
		return fmt.Errorf("%d steps; at most %d are allowed", len(j.Steps), MaxSteps)
	}
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if j.Name == "" {
		bad("a job needs a name")
	}
	if !cleanAbs(j.Workspace) || j.Workspace == "/" {
		bad("workspace %q is not a clean absolute path below /", j.Workspace)
	}
	if j.Checkout != "" && (path.Clean(j.Checkout) != j.Checkout || !filepath.IsLocal(j.Checkout)) {
		bad("checkout %q is not a clean relative path inside the workspace", j.Checkout)
	}
	if err := validateEnv(j.Env); err != nil {
		problems = append(problems, err)
	}
	volumes := map[string]bool{}
	for _, v := range j.Volumes {
		if v.Name == "" || volumes[v.Name] {
			bad("volume name %q is empty or used twice", v.Name)
		}
		if v.Host != "" && !cleanAbs(v.Host) {
			bad("volume %q: host path %q is not a clean absolute path", v.Name, v.Host)
		}
		volumes[v.Name] = true
	}
	graph := map[string][]string{}
	for _, s := range j.Steps {
		if _, twice := graph[s.Name]; twice {
			bad("two steps are called %q", s.Name)
		}
		graph[s.Name] = s.Needs
		if err := s.validate(volumes); err != nil {
			bad("step %q: %w", s.Name, err)
		}
	}
	return errors.Join(append(problems, validateGraph("step", graph)...)...)
}

func (s Step) validate(volumes map[string]bool) error {
	if s.Name == "" {
		return errors.New("a step needs a name")
	}
	set := 0
	for _, isSet := range []bool{s.Clone != nil, s.Exec != nil, s.Image != nil, s.Deploy != nil} {
		if isSet {
			set++
		}
	}
	has := map[Kind]bool{KindClone: s.Clone != nil, KindExec: s.Exec != nil, KindImage: s.Image != nil, KindDeploy: s.Deploy != nil}
	if set != 1 || !has[s.Kind] {
		return fmt.Errorf("kind %q needs its own field set, and no other", s.Kind)
	}
	if err := validateEnv(s.Env); err != nil {
		return err
	}
	if s.Deploy != nil && s.Deploy.Policy.Strategy != nil {
		if err := s.Deploy.Policy.Strategy.Validate(); err != nil {
			return fmt.Errorf("the strategy %w", err)
		}
	}
	if s.Exec == nil {
		return nil
	}
	if s.Exec.Image == "" {
		return errors.New("a container needs an image")
	}
	if s.Exec.WorkingDir != "" && !cleanAbs(s.Exec.WorkingDir) {
		return fmt.Errorf("working directory %q is not a clean absolute path", s.Exec.WorkingDir)
	}
	for _, m := range s.Exec.Mounts {
		if !volumes[m.Source] {
			return fmt.Errorf("the job has no volume %q", m.Source)
		}
		if !cleanAbs(m.Path) || m.Path == "/" {
			return fmt.Errorf("mount path %q is not a clean absolute path below /", m.Path)
		}
	}
	return nil
}

func validateEnv(env map[string]Value) error {
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			return fmt.Errorf("%q cannot be the name of a variable", name)
		}
	}
	return nil
}

// validateGraph reports edges that lead nowhere, and one cycle if there is any.
func validateGraph(noun string, graph map[string][]string) []error {
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(graph)) {
		for _, need := range graph[name] {
			if _, ok := graph[need]; !ok {
				problems = append(problems, fmt.Errorf("%s %q needs %q, which does not exist", noun, name, need))
			}
		}
	}
	if cycle := findCycle(graph); cycle != nil {
		problems = append(problems, fmt.Errorf("the %ss %s need each other", noun, strings.Join(cycle, " -> ")))
	}
	return problems
}

func findCycle(graph map[string][]string) []string {
	const open, closed = 1, 2
	state := map[string]int{}
	var trail []string
	var visit func(name string) []string
	visit = func(name string) []string {
		switch state[name] {
		case closed:
			return nil
		case open:
			return append(slices.Clone(trail[slices.Index(trail, name):]), name)
		}
		state[name] = open
		trail = append(trail, name)
		for _, need := range graph[name] {
			if cycle := visit(need); cycle != nil {
				return cycle
			}
		}
		trail = trail[:len(trail)-1]
		state[name] = closed
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(graph)) {
		if cycle := visit(name); cycle != nil {
			return cycle
		}
	}
	return nil
}

func cleanAbs(p string) bool { return path.IsAbs(p) && path.Clean(p) == p }

// NeedsTrust says in a few words what of j only a trusted repo may have, or returns "".
func (j Job) NeedsTrust() string {
	for _, v := range j.Volumes {
		if v.Host != "" {
			return fmt.Sprintf("volume %q mounts a folder of the host", v.Name)
		}
		if v.Memory {
			return fmt.Sprintf("volume %q is in memory", v.Name)
		}
	}
	for _, s := range j.Steps {
		if s.Exec == nil {
			continue
		}
		for _, of := range []struct {
			needs bool
			what  string
		}{
			{s.Exec.Privileged, "is privileged"},
			{len(s.Exec.Devices) > 0, "uses devices of the host"},
			{s.Exec.HostNetwork, "uses the network of the host"},
			{len(s.Exec.DNS)+len(s.Exec.DNSSearch) > 0, "sets DNS servers"},
			{len(s.Exec.ExtraHosts) > 0, "adds hosts"},
			{s.Exec.Limits.SharedMemory > 0, "sets the size of /dev/shm"},
		} {
			if of.needs {
				return fmt.Sprintf("step %q %s", s.Name, of.what)
			}
		}
	}
	return ""
}

// EnvOf returns the whole environment of s, a step of j.
func (j Job) EnvOf(s Step) map[string]Value {
	env := make(map[string]Value, len(j.Env)+len(s.Env))
	maps.Copy(env, j.Env)
	maps.Copy(env, s.Env)
	return env
}

// Secrets returns the names of the secrets that j mentions, sorted, each once.
func (j Job) Secrets() []string {
	names := map[string]bool{}
	add := func(values ...Value) {
		for _, v := range values {
			if v.Secret != "" {
				names[v.Secret] = true
			}
		}
	}
	for _, name := range j.PullSecrets {
		names[name] = true
	}
	add(slices.Collect(maps.Values(j.Env))...)
	for _, s := range j.Steps {
		add(slices.Collect(maps.Values(s.Env))...)
		if b := s.Image; b != nil {
			add(b.Repo, b.Registry, b.Username, b.Password)
			add(b.Tags...)
			add(slices.Collect(maps.Values(b.Args))...)
			add(slices.Collect(maps.Values(b.Labels))...)
		}
		if d := s.Deploy; d != nil {
			add(d.Namespace, d.Kubeconfig)
			for _, name := range d.Policy.Secrets() {
				names[name] = true
			}
			for _, values := range []map[string]Value{d.Images, d.Variables, d.Set, d.SetString} {
				add(slices.Collect(maps.Values(values))...)
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}
