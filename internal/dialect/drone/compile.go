// Package drone compiles .drone.yml files to plans.
//
// [Compile] goes the way that Drone goes, in its order, because files depend on it: the documents are read as they are
// written (select.go), pipelines are selected by their triggers, and only then is ${...} substituted, in the text
// (substitute.go), which is read again (read.go, pipeline.go), checked (lint.go) and made a job of (compile.go, env.go,
// builtin.go). What Drone ignores without a word gets a warning with its place.
//
// The reference is Drone's published documentation, https://docs.drone.io. What is not supported yet is listed in
// docs/drone.md.
package drone

import (
	"path"
	"slices"

	"slipway/internal/plan"
)

// Bounds of a file.
const (
	maxBytes     = 1 << 20
	maxSteps     = 2000 // of all pipelines together
	maxDocuments = 2 * plan.MaxJobs
)

// Files returns the names that a repo is searched for, best first.
func Files() []string { return []string{".drone.yml", ".drone.yaml"} }

// Compile makes a plan of src for in. A plan without jobs means that no trigger fits the event. The problems are all
// that were found, in the order of the file; if there are errors among them, these are the error too, as
// [plan.Problems], and the plan is of no use.
func Compile(src plan.Source, in plan.Input) (plan.Plan, plan.Problems, error) {
	var problems plan.Problems
	c := compiler{
		in:      in,
		facts:   factsOf(in),
		build:   buildVariables(in),
		literal: reader{file: src.Name, problems: &problems, literal: true},
		reader:  reader{file: src.Name, problems: &problems},
	}
	result := plan.Plan{Version: plan.Version, Jobs: []plan.Job{}}
	for _, chosen := range c.choose(src) {
		if job, ok := c.job(chosen); ok {
			result.Jobs = append(result.Jobs, job)
		}
	}
	problems = problems.Sort()
	if err := problems.Err(); err != nil {
		return plan.Plan{}, problems, err
	}
	if err := result.Validate(); err != nil {
		problems = append(problems, plan.Problem{File: src.Name, Severity: plan.SeverityError, Message: err.Error()})
		return plan.Plan{}, problems, problems.Err()
	}
	return result, problems, nil
}

type compiler struct {
	in    plan.Input
	facts facts
	build variables
	// literal reads the file as it is written, reader after substitution.
	literal, reader reader
}

// job makes a job of a chosen pipeline.
func (c *compiler) job(chosen chosen) (plan.Job, bool) {
	p, vars := c.substituted(chosen)
	if p == nil {
		return plan.Job{}, false
	}
	c.reader.lint(p, denied(c.in))
	vars.addWorkspace(p.workspace)
	on, _ := p.trigger.outcomes()
	os, arch := c.platform(p)
	job := plan.Job{
		Name:        chosen.pipeline.name,
		Needs:       chosen.needs,
		On:          on,
		OS:          os,
		Arch:        arch,
		Labels:      p.labels,
		Workspace:   p.workspace.root(),
		Checkout:    p.workspace.checkout(),
		Env:         jobEnv(c.in.Event.Params, p, vars),
		PullSecrets: p.pullSecrets,
		Steps:       []plan.Step{},
	}
	for _, v := range p.volumes {
		job.Volumes = append(job.Volumes, v.Volume)
	}
	if !p.clone.disable {
		job.Steps = append(job.Steps, c.clone(p.clone))
	}
	order := sequence{serial: !usesGraph(p), dropped: map[string][]string{}}
	if !p.clone.disable {
		order.add("clone", nil)
		order.first = order.last
	}
	for _, s := range slices.Concat(p.services, p.steps) {
		number := len(job.Steps) + 1
		planned, ok := c.step(p, s, vars, number)
		if !ok {
			order.drop(s.name, references(s.needs))
			continue
		}
		planned.Needs = order.add(s.name, references(s.needs))
		job.Steps = append(job.Steps, planned)
	}
	return job, true
}

// platform returns where a pipeline runs.
func (c *compiler) platform(p *pipeline) (os, arch string) {
	or := func(values ...string) string {
		for _, v := range values {
			if v != "" {
				return v
			}
		}
		return ""
	}
	return or(p.platform.os, c.in.System.OS, "linux"), or(p.platform.arch, c.in.System.Arch, "amd64")
}

func (c *compiler) clone(options cloneOptions) plan.Step {
	clone := &plan.Clone{
		Ref: c.in.Event.Ref, Commit: c.in.Event.After,
		Depth: options.depth, Retries: options.retries, SkipVerify: options.skipVerify,
	}
	if c.in.Event.PullRequest != nil && c.in.Event.Target != "" {
		clone.Merge = "refs/heads/" + c.in.Event.Target
	}
	return plan.Step{Name: "clone", Kind: plan.KindClone, Clone: clone}
}

func references(refs []reference) []string {
	var names []string
	for _, ref := range refs {
		names = append(names, ref.name)
	}
	return names
}

// usesGraph reports whether a step or service of p says what it depends on. Then all of them are a graph, in which one
// that says nothing starts after the clone; else they run one after the other.
func usesGraph(p *pipeline) bool {
	return slices.ContainsFunc(slices.Concat(p.services, p.steps), func(s *step) bool { return len(s.needs) > 0 })
}

// sequence finds out what each step waits for. A step that is not planned is replaced by what it would have waited for.
type sequence struct {
	serial  bool
	last    []string // the step before
	first   []string // the clone, if there is one
	dropped map[string][]string
}

func (q *sequence) needs(dependsOn []string) []string {
	if q.serial {
		return q.last
	}
	if len(dependsOn) == 0 {
		return q.first
	}
	var needs []string
	for _, name := range dependsOn {
		replaced, dropped := q.dropped[name]
		if !dropped {
			replaced = []string{name}
		}
		for _, need := range replaced {
			if !slices.Contains(needs, need) {
				needs = append(needs, need)
			}
		}
	}
	return needs
}

func (q *sequence) add(name string, dependsOn []string) []string {
	needs := q.needs(dependsOn)
	q.last = []string{name}
	return needs
}

func (q *sequence) drop(name string, dependsOn []string) { q.dropped[name] = q.needs(dependsOn) }

// step makes a plan's step of s, or reports that its conditions do not hold.
func (c *compiler) step(p *pipeline, s *step, vars variables, number int) (plan.Step, bool) {
	on, ok := s.when.outcomes()
	if !s.when.when(c.facts) {
		return plan.Step{}, false
	}
	if !ok {
		on = nil // Drone runs it on success
	}
	planned := plan.Step{
		Name: s.name,
		On:   on,
		// A service's end says nothing about the job.
		Detach:        s.service || s.detach,
		IgnoreFailure: s.failure == "ignore",
		FailFast:      slices.Contains([]string{"fast", "fast-fail", "fail-fast"}, s.failure),
	}
	if kind := builtinKind(s); kind != "" {
		b := builtin{reader: &c.reader, in: c.in, pipeline: p, step: s, env: vars}
		return planned, b.compile(kind, &planned)
	}
	planned.Kind = plan.KindExec
	planned.Env = stepEnv(vars, s, number)
	planned.Exec = c.exec(p, s)
	return planned, true
}

// skipRest is the exit code by which a step ends its pipeline early, and well.
const skipRest = 78

func (c *compiler) exec(p *pipeline, s *step) *plan.Exec {
	e := &plan.Exec{
		Image:       s.image,
		Pull:        s.pull,
		Entrypoint:  s.entrypoint,
		Args:        s.command,
		User:        s.user,
		WorkingDir:  s.workingDir,
		Privileged:  s.privileged || dockerPlugins[imageName(s.image)] && s.isPlugin(),
		DNS:         s.dns,
		DNSSearch:   s.dnsSearch,
		ExtraHosts:  s.extraHosts,
		HostNetwork: s.networkMode == "host",
		Limits:      s.limits,
	}
	if !s.service && !s.detach {
		e.SkipRestCode = skipRest
	}
	if len(s.commands) > 0 {
		e.Entrypoint, e.Args, e.Script = []string{"/bin/sh"}, nil, script(s.commands)
	}
	switch {
	case e.WorkingDir != "":
		if !path.IsAbs(e.WorkingDir) {
			e.WorkingDir = path.Join(p.workspace.full(), e.WorkingDir)
		}
		e.WorkingDir = path.Clean(e.WorkingDir)
	case s.service && len(s.commands) == 0:
		// It keeps the image's.
	default:
		e.WorkingDir = p.workspace.full()
	}
	for _, m := range s.mounts {
		e.Mounts = append(e.Mounts, m.Mount)
	}
	for _, d := range s.devices {
		e.Devices = append(e.Devices, d.Mount)
	}
	return e
}
