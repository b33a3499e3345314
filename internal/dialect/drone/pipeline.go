package drone

import (
	"fmt"
	"path"
	"strings"

	"slipway/internal/plan"
	"slipway/internal/yaml"
)

// pipeline is a document of kind pipeline and type docker.
type pipeline struct {
	at     yaml.Pos
	name   string
	nameAt yaml.Pos
	needs  []reference

	clone       cloneOptions
	environment map[string]plan.Value
	labels      map[string]string
	platform    platform
	pullSecrets []string
	services    []*step
	steps       []*step
	trigger     conditions
	volumes     []volume
	workspace   workspace
}

// reference is a name of something else, and where it stands.
type reference struct {
	name string
	at   yaml.Pos
}

type cloneOptions struct {
	disable    bool
	depth      int
	retries    int
	skipVerify bool
}

type platform struct{ os, arch, variant, version string }

type volume struct {
	plan.Volume
	at yaml.Pos
}

type workspace struct{ base, path string }

// root is the folder that steps share, full the one below it that the commit is checked out to.
func (w workspace) root() string {
	switch {
	case w.base != "":
		return path.Clean(w.base)
	case path.IsAbs(w.path):
		return path.Clean(w.path)
	}
	return "/drone/src"
}

func (w workspace) full() string {
	if w.base == "" && path.IsAbs(w.path) {
		return w.root()
	}
	return path.Join(w.root(), w.path)
}

// checkout is full relative to root.
func (w workspace) checkout() string {
	return strings.TrimPrefix(strings.TrimPrefix(w.full(), w.root()), "/")
}

// step is a step or a service.
type step struct {
	at      yaml.Pos
	name    string
	nameAt  yaml.Pos
	service bool
	image   string
	imageAt yaml.Pos

	commands    []string
	command     []string
	entrypoint  []string
	detach      bool
	needs       []reference
	environment map[string]plan.Value
	settings    []setting
	failure     string
	pull        plan.Pull
	user        string
	workingDir  string
	when        conditions
	mounts      []mount
	devices     []mount
	privileged  bool
	dns         []string
	dnsSearch   []string
	extraHosts  []string
	networkMode string
	limits      plan.Limits

	// set are the keys that the file has, and where.
	set map[string]yaml.Pos
}

type mount struct {
	plan.Mount
	at yaml.Pos
}

// Why keys of other types of pipelines have no effect.
const otherType = "it is for pipelines of another type"

// pipeline reads a document of type docker.
func (r *reader) pipeline(n *yaml.Node) *pipeline {
	p := &pipeline{at: n.Pos, nameAt: n.Pos}
	header := func(*yaml.Node) {} // read before the type is known
	r.mapping(n, "pipeline", fields{
		"kind": {read: header}, "type": {read: header}, "version": {read: header},
		"name": {read: func(n *yaml.Node) {
			p.name, p.nameAt = r.text(n, "name"), n.Pos
		}},
		"clone": {read: func(n *yaml.Node) {
			r.mapping(n, "clone", fields{
				"disable":     {read: r.boolTo(&p.clone.disable, "clone: disable")},
				"depth":       {read: r.countTo(&p.clone.depth, "clone: depth")},
				"retries":     {read: r.countTo(&p.clone.retries, "clone: retries")},
				"skip_verify": {read: r.boolTo(&p.clone.skipVerify, "clone: skip_verify")},
				"trace":       {ignored: "the log of the clone always shows what is done"},
			})
		}},
		"concurrency":        {later: "a limit of concurrency"},
		"depends_on":         {read: func(n *yaml.Node) { p.needs = r.references(n, "depends_on") }},
		"environment":        {read: func(n *yaml.Node) { p.environment = r.environment(n, "environment") }},
		"image_pull_secrets": {read: r.listTo(&p.pullSecrets, "image_pull_secrets")},
		"node":               {read: func(n *yaml.Node) { p.labels = r.labels(n) }},
		"platform": {read: func(n *yaml.Node) {
			r.mapping(n, "platform", fields{
				"os":      {read: r.oneOf(&p.platform.os, "platform: os", "linux", "windows")},
				"arch":    {read: r.oneOf(&p.platform.arch, "platform: arch", "386", "amd64", "arm", "arm64", "ppc64le")},
				"variant": {read: r.textTo(&p.platform.variant, "platform: variant")},
				"version": {read: r.textTo(&p.platform.version, "platform: version")},
			})
		}},
		"services": {read: func(n *yaml.Node) { p.services = r.steps(n, "service") }},
		"steps":    {read: func(n *yaml.Node) { p.steps = r.steps(n, "step") }},
		"trigger":  {read: r.conditionsTo(&p.trigger, "trigger")},
		"volumes":  {read: func(n *yaml.Node) { p.volumes = r.volumes(n) }},
		"workspace": {read: func(n *yaml.Node) {
			r.mapping(n, "workspace", fields{
				"base": {read: r.absTo(&p.workspace.base, "workspace: base")},
				"path": {read: r.textTo(&p.workspace.path, "workspace: path")},
			})
			r.checkWorkspace(p.workspace, n)
		}},

		"dns_config": {ignored: otherType}, "host_aliases": {ignored: otherType}, "metadata": {ignored: otherType},
		"node_name": {ignored: otherType}, "node_selector": {ignored: otherType}, "pool": {ignored: otherType},
		"resources": {ignored: otherType}, "server": {ignored: otherType}, "tolerations": {ignored: otherType},
		"service_account_name": {ignored: otherType},

		"matrix":   {later: "a matrix"},
		"pipeline": {later: "the format of Drone 0.8"},
	})
	if p.name == "" {
		p.name = "default"
	}
	if n := len(p.steps) + len(p.services); n >= plan.MaxSteps {
		r.errorf(p.at, "pipeline %q has %d steps; fewer than %d are allowed", p.name, n, plan.MaxSteps)
	} else if n == 0 {
		r.errorf(p.at, "pipeline %q has no steps", p.name)
	}
	return p
}

func (r *reader) checkWorkspace(w workspace, n *yaml.Node) {
	if r.literal && strings.Contains(w.base+w.path, "${") {
		return
	}
	if w.root() == "/" {
		r.errorf(n.Pos, "workspace: the base must be a folder below /")
	} else if _, ok := below(w.root(), w.full()); !ok {
		r.errorf(n.Pos, "workspace: %s is outside of %s", w.full(), w.root())
	}
}

func (r *reader) labels(n *yaml.Node) map[string]string {
	if n.Kind != yaml.Mapping {
		r.errorf(n.Pos, "node must be a mapping of labels, not %s", n.Kind)
		return nil
	}
	labels := make(map[string]string, len(n.Entries))
	for _, e := range n.Entries {
		labels[e.Key.Text] = r.text(e.Value, "node: "+e.Key.Text)
	}
	return labels
}

func (r *reader) oneOf(to *string, what string, values ...string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		v := r.text(n, what)
		for _, known := range values {
			if v == known {
				*to = v
				return
			}
		}
		if !r.open(n) {
			r.errorf(n.Pos, "%s: %q is none of %s%s", what, v, strings.Join(values, ", "), didYouMean(v, values))
		}
	}
}

func (r *reader) references(n *yaml.Node, what string) []reference {
	if n.Kind != yaml.Sequence {
		r.errorf(n.Pos, "%s must be a list, not %s", what, n.Kind)
		return nil
	}
	var refs []reference
	for _, item := range n.Items {
		refs = append(refs, reference{r.text(item, what+": each"), item.Pos})
	}
	return refs
}

func (r *reader) volumes(n *yaml.Node) []volume {
	if n.Kind != yaml.Sequence {
		r.errorf(n.Pos, "volumes must be a list, not %s", n.Kind)
		return nil
	}
	var all []volume
	seen := map[string]bool{}
	for _, item := range n.Items {
		v, kind := volume{at: item.Pos}, ""
		r.mapping(item, "volume", fields{
			"name": {read: r.textTo(&v.Name, "volume: name")},
			"temp": {read: func(n *yaml.Node) {
				kind = "temp"
				r.mapping(n, "volume: temp", fields{
					"medium": {read: func(n *yaml.Node) {
						medium := ""
						if r.oneOf(&medium, "volume: temp: medium", "memory")(n); medium == "memory" {
							v.Memory = true
						}
					}},
					"size_limit": {read: r.bytesTo(&v.Size, "volume: temp: size_limit")},
				})
			}},
			"host": {read: func(n *yaml.Node) {
				kind = "host"
				r.mapping(n, "volume: host", fields{"path": {read: r.absTo(&v.Host, "volume: host: path")}})
				if v.Host == "" && !r.literal {
					r.errorf(n.Pos, "volume %q needs the path of a folder of the host", v.Name)
				}
			}},
			"claim":      {ignored: otherType},
			"config_map": {ignored: otherType},
			"secret":     {ignored: otherType},
		})
		if item.Kind != yaml.Mapping {
			continue
		}
		if temp := item.Get("temp"); temp != nil && kind == "" {
			kind = "temp" // `temp:` without a value is as good as `temp: {}`
		}
		switch {
		case v.Name == "":
			r.errorf(item.Pos, "a volume needs a name")
		case kind == "":
			r.errorf(item.Pos, "volume %q must be temp or host", v.Name)
		case seen[v.Name]:
			r.errorf(item.Pos, "two volumes are called %q", v.Name)
		default:
			seen[v.Name] = true
			all = append(all, v)
		}
	}
	return all
}

// steps reads the steps or services of a pipeline.
func (r *reader) steps(n *yaml.Node, noun string) []*step {
	if n.Kind != yaml.Sequence {
		hint := ""
		if n.Kind == yaml.Mapping {
			hint = "; write \"- name: NAME\" for each"
		}
		r.errorf(n.Pos, "%ss must be a list, not %s%s", noun, n.Kind, hint)
		return nil
	}
	var all []*step
	for _, item := range n.Items {
		if item.IsNull() {
			r.warnf(item.Pos, "an empty %s is ignored", noun)
			continue
		}
		if s := r.step(item, noun); s != nil {
			all = append(all, s)
		}
	}
	return all
}

func (r *reader) step(n *yaml.Node, noun string) *step {
	s := &step{at: n.Pos, nameAt: n.Pos, imageAt: n.Pos, service: noun == "service", set: map[string]yaml.Pos{}}
	if n.Kind != yaml.Mapping {
		r.errorf(n.Pos, "a %s must be a mapping, not %s", noun, n.Kind)
		return nil
	}
	for _, e := range n.Entries {
		s.set[e.Key.Text] = e.Key.Pos
	}
	if name := n.Get("name"); name != nil && name.Kind == yaml.Scalar {
		noun = fmt.Sprintf("%s %q", noun, name.Text)
	}
	what := func(key string) string { return noun + ": " + key }
	r.mapping(n, noun, fields{
		"name":        {read: func(n *yaml.Node) { s.name, s.nameAt = r.text(n, what("name")), n.Pos }},
		"image":       {read: func(n *yaml.Node) { s.image, s.imageAt = r.text(n, what("image")), n.Pos }},
		"commands":    {read: r.listTo(&s.commands, what("commands"))},
		"command":     {read: r.listTo(&s.command, what("command"))},
		"entrypoint":  {read: r.listTo(&s.entrypoint, what("entrypoint"))},
		"detach":      {read: r.boolTo(&s.detach, what("detach"))},
		"depends_on":  {read: func(n *yaml.Node) { s.needs = r.references(n, what("depends_on")) }},
		"environment": {read: func(n *yaml.Node) { s.environment = r.environment(n, what("environment")) }},
		"settings":    {read: func(n *yaml.Node) { s.settings = r.settings(n, what("settings")) }},
		"failure":     {read: r.oneOf(&s.failure, what("failure"), "ignore", "fast", "fast-fail", "fail-fast", "always")},
		"pull":        {read: func(n *yaml.Node) { s.pull = r.pull(n, what("pull")) }},
		"user":        {read: r.textTo(&s.user, what("user"))},
		"working_dir": {read: r.textTo(&s.workingDir, what("working_dir"))},
		"when":        {read: r.conditionsTo(&s.when, what("when"))},
		"volumes":     {read: func(n *yaml.Node) { s.mounts = r.mounts(n, what("volumes")) }},
		"devices":     {read: func(n *yaml.Node) { s.devices = r.mounts(n, what("devices")) }},
		"privileged":  {read: r.boolTo(&s.privileged, what("privileged"))},
		"dns":         {read: r.listTo(&s.dns, what("dns"))},
		"dns_search":  {read: r.listTo(&s.dnsSearch, what("dns_search"))},
		"extra_hosts": {read: r.listTo(&s.extraHosts, what("extra_hosts"))},
		"network_mode": {read: func(n *yaml.Node) {
			if s.networkMode = r.text(n, what("network_mode")); s.networkMode != "host" && !r.open(n) {
				r.errorf(n.Pos, "%s is not supported yet, except host", what("network_mode"))
			}
		}},
		"mem_limit":     {read: r.bytesTo(&s.limits.Memory, what("mem_limit"))},
		"memswap_limit": {read: r.bytesTo(&s.limits.Swap, what("memswap_limit"))},
		"shm_size":      {read: r.bytesTo(&s.limits.SharedMemory, what("shm_size"))},

		"shell":     {later: "shell"},
		"build":     {later: "build"},
		"push":      {later: "push"},
		"ports":     {ignored: "steps reach each other at every port"},
		"resources": {ignored: otherType},
		"group":     {ignored: otherType},
	})
	return s
}

func (r *reader) pull(n *yaml.Node, what string) plan.Pull {
	switch p := r.text(n, what); p {
	case "always":
		return plan.PullAlways
	case "if-not-exists":
		return plan.PullMissing
	case "never":
		return plan.PullNever
	case "default":
	default:
		if !r.open(n) {
			r.warnf(n.Pos, "%s: %q is none of always, if-not-exists, never and default, and is ignored", what, p)
		}
	}
	return plan.PullDefault
}

// mounts reads what a step mounts, volumes or devices.
func (r *reader) mounts(n *yaml.Node, what string) []mount {
	if n.Kind != yaml.Sequence {
		r.errorf(n.Pos, "%s must be a list, not %s", what, n.Kind)
		return nil
	}
	var all []mount
	for _, item := range n.Items {
		m := mount{at: item.Pos}
		if item.Kind == yaml.Scalar {
			r.errorf(item.Pos, "%s: each must be a mapping of name and path, not %q", what, item.Text)
			continue
		}
		r.mapping(item, what, fields{
			"name":     {read: r.textTo(&m.Source, what+": name")},
			"path":     {read: r.absTo(&m.Path, what+": path")},
			"sub_path": {ignored: otherType},
		})
		if m.Source == "" || m.Path == "" && !r.literal {
			r.errorf(item.Pos, "%s: each needs a name and a path", what)
			continue
		}
		all = append(all, m)
	}
	return all
}
