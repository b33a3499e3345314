package drone

import (
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"slipway/internal/ci"
	"slipway/internal/plan"
	"slipway/internal/yaml"
)

// condition is a set of patterns. The zero condition matches everything.
type condition struct {
	include []string
	exclude []string
}

func (c condition) empty() bool { return len(c.include)+len(c.exclude) == 0 }

// match reports whether v satisfies c; what is excluded wins.
func (c condition) match(v string) bool {
	if matchAny(c.exclude, v) {
		return false
	}
	return len(c.include) == 0 || matchAny(c.include, v)
}

func matchAny(patterns []string, v string) bool {
	for _, p := range patterns {
		if ok, _ := doublestar.Match(p, v); ok {
			return true
		}
	}
	return false
}

// conditions are those of a trigger or a when. All of them must hold.
type conditions struct {
	action, branch, cron, event, instance, ref, repo, target condition
	// status does not decide whether something is planned but when it runs; see [conditions.outcomes].
	status condition
}

// facts are what conditions are compared with.
type facts struct {
	action, branch, cron, event, instance, ref, repo, target string
}

func factsOf(in plan.Input) facts {
	return facts{
		action:   actionName(in.Event),
		branch:   in.Event.Branch(),
		cron:     in.Event.CronName,
		event:    eventName(in.Event.Kind),
		instance: in.System.Host,
		ref:      in.Event.Ref,
		repo:     in.Repo.Name,
		target:   in.Event.DeployTo,
	}
}

// eventName is what Drone calls a kind of event.
func eventName(k ci.EventKind) string {
	if k == ci.Manual {
		return "custom"
	}
	return string(k)
}

// actionName is what Drone calls what happened to a pull request.
func actionName(e ci.Event) string {
	switch e.Action {
	case "opened", "reopened":
		return "open"
	case "synchronized":
		return "sync"
	}
	return e.Action
}

// trigger reports whether c, as a trigger, selects a pipeline. The instance does not matter to a trigger.
func (c conditions) trigger(f facts) bool {
	return c.action.match(f.action) && c.branch.match(f.branch) && c.cron.match(f.cron) && c.event.match(f.event) &&
		c.ref.match(f.ref) && c.repo.match(f.repo) && c.target.match(f.target)
}

// when reports whether c, as a when, lets a step run.
func (c conditions) when(f facts) bool { return c.trigger(f) && c.instance.match(f.instance) }

// outcomes translates the status condition: none means success. ok is false if there is no outcome that it matches.
func (c conditions) outcomes() (on []plan.Outcome, ok bool) {
	if c.status.empty() {
		return nil, true
	}
	for _, o := range []plan.Outcome{plan.Success, plan.Failure} {
		if c.status.match(string(o)) {
			on = append(on, o)
		}
	}
	if len(on) == 1 && on[0] == plan.Success {
		return nil, true
	}
	return on, len(on) > 0
}

// conditionsTo reads a trigger or a when.
func (r *reader) conditionsTo(to *conditions, what string) func(*yaml.Node) {
	const noPaths = "Drone knows the key, but neither it nor Slipway looks at the changed files"
	return func(n *yaml.Node) {
		if n.Kind == yaml.Sequence {
			r.errorf(n.Pos, "%s must be one mapping, all of whose conditions must hold, not a list", what)
			return
		}
		one := func(to *condition, name string, values ...string) field {
			return field{read: func(n *yaml.Node) { *to = r.condition(n, what+": "+name, values) }}
		}
		schema := fields{
			"action":   one(&to.action, "action"),
			"branch":   one(&to.branch, "branch"),
			"cron":     one(&to.cron, "cron"),
			"event":    one(&to.event, "event", "push", "pull_request", "tag", "promote", "rollback", "cron", "custom"),
			"instance": one(&to.instance, "instance"),
			"ref":      one(&to.ref, "ref"),
			"repo":     one(&to.repo, "repo"),
			"target":   one(&to.target, "target"),
			"status":   one(&to.status, "status", "success", "failure"),
			"paths":    {ignored: noPaths},
			"matrix":   {later: "a matrix"},
		}
		if what == "trigger" {
			schema["instance"] = field{ignored: "the server that the file runs on does not matter to a trigger"}
			delete(schema, "matrix")
		}
		r.mapping(n, what, schema)
	}
}

// condition reads a pattern, a list of patterns, or include and exclude of such. If values are given, a pattern that
// matches none of them gets a warning.
func (r *reader) condition(n *yaml.Node, what string, values []string) condition {
	var c condition
	if n.Kind == yaml.Mapping {
		r.mapping(n, what, fields{
			"include": {read: func(n *yaml.Node) { c.include = r.patterns(n, what, values) }},
			"exclude": {read: func(n *yaml.Node) { c.exclude = r.patterns(n, what, values) }},
		})
		return c
	}
	c.include = r.patterns(n, what, values)
	return c
}

func (r *reader) patterns(n *yaml.Node, what string, values []string) []string {
	items := []*yaml.Node{n}
	if n.Kind == yaml.Sequence {
		items = n.Items
	}
	var patterns []string
	for _, item := range items {
		p := r.text(item, what)
		if item.Kind != yaml.Scalar {
			continue
		}
		patterns = append(patterns, p)
		switch {
		case strings.Contains(p, "${"):
			if what == "trigger" || strings.HasPrefix(what, "trigger") {
				r.warnf(item.Pos, "%s: a trigger is compared as it is written; %q is not substituted", what, p)
			}
		case !doublestar.ValidatePattern(p):
			r.errorf(item.Pos, "%s: %q is not a valid pattern", what, p)
		case alternatives(p) > maxAlternatives:
			r.errorf(item.Pos, "%s: the pattern has more than %d alternatives", what, maxAlternatives)
		case len(values) > 0 && !matchesOne(p, values):
			r.warnf(item.Pos, "%s: %q matches none of %s%s", what, p, strings.Join(values, ", "), didYouMean(p, values))
		}
	}
	return patterns
}

// Matching tries all combinations of the alternatives of a pattern, {a,b}{c,d}, one after the other.
const maxAlternatives = 1000

// alternatives returns about how many combinations a pattern has; too many is all that matters.
func alternatives(pattern string) int {
	product, group := 1, 1
	for _, c := range pattern {
		switch c {
		case '{', '}':
			if product *= group; product > maxAlternatives {
				return product
			}
			group = 1
		case ',':
			group++
		}
	}
	return product * group
}

func matchesOne(pattern string, values []string) bool {
	for _, v := range values {
		if matchAny([]string{pattern}, v) {
			return true
		}
	}
	return false
}
