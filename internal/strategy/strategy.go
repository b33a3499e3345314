// Package strategy reads how people write a [ci.Strategy]: as the name of one, or as a mapping of YAML, in the settings of a
// deploy step and in a file of its own. Start with [Read]; docs/strategies.md is the reference of what may be written.
package strategy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"slipway/internal/ci"
	"slipway/internal/yaml"
)

// Problem is something wrong at a place of the text.
type Problem struct {
	Pos     yaml.Pos
	Message string
}

// Parse reads a file that holds one strategy.
func Parse(text string) (ci.Strategy, []Problem) {
	node, duplicates, err := yaml.Parse(text, nil)
	if err != nil {
		at, message := yaml.ErrorAt(err)
		return ci.Strategy{}, []Problem{{at, message}}
	}
	if node == nil {
		return ci.Strategy{}, []Problem{{yaml.Pos{Line: 1, Column: 1}, "there is no strategy in the file"}}
	}
	s, problems := Read(node)
	for _, d := range duplicates {
		problems = append(problems, Problem{d.Key.Pos, fmt.Sprintf("the key %q is there twice", d.Key.Text)})
	}
	return s, problems
}

// Read reads the strategy of a node. If there are problems, the strategy is of no use.
func Read(n *yaml.Node) (ci.Strategy, []Problem) {
	r := &reader{}
	s := r.strategy(n)
	return s, r.problems
}

// maxProblems bounds what is kept of a hostile text.
const maxProblems = 50

type reader struct{ problems []Problem }

func (r *reader) bad(n *yaml.Node, format string, args ...any) {
	if len(r.problems) < maxProblems {
		r.problems = append(r.problems, Problem{n.Pos, fmt.Sprintf(format, args...)})
	}
}

// fields hands the values of a mapping to their readers.
func (r *reader) fields(n *yaml.Node, what string, known map[string]func(*yaml.Node)) {
	if n.Kind != yaml.Mapping {
		r.bad(n, "%s must be a mapping, not %s", what, n.Kind)
		return
	}
	for _, e := range n.Entries {
		read, ok := known[e.Key.Text]
		if !ok {
			names := make([]string, 0, len(known))
			for name := range known {
				names = append(names, name)
			}
			slices.Sort(names)
			hint := ""
			if nearest := yaml.Nearest(e.Key.Text, names); nearest != "" {
				hint = fmt.Sprintf("; did you mean %q?", nearest)
			}
			r.bad(e.Key, "%s has no key %q%s", what, e.Key.Text, hint)
			continue
		}
		if !e.Value.IsNull() {
			read(e.Value)
		}
	}
}

func (r *reader) strategy(n *yaml.Node) ci.Strategy {
	var s ci.Strategy
	if n.Kind == yaml.Scalar {
		s.Kind = r.kind(n)
		return s
	}
	checks := len(r.problems)
	r.fields(n, "the strategy", map[string]func(*yaml.Node){
		"kind":        func(n *yaml.Node) { s.Kind = r.kind(n) },
		"deployments": func(n *yaml.Node) { s.Deployments = r.list(n, "deployments") },
		"steps": func(n *yaml.Node) {
			for _, item := range r.items(n, "steps") {
				s.Steps = append(s.Steps, r.step(item))
			}
			if len(s.Steps) == 0 {
				r.bad(n, "steps must have at least one step")
			}
		},
		"checks": func(n *yaml.Node) { s.Checks = r.checks(n, "checks") },
		"manual": func(n *yaml.Node) { s.Manual = r.yes(n, "manual") },
		"keep":   func(n *yaml.Node) { s.Keep = r.duration(n, "keep") },
		"after":  func(n *yaml.Node) { s.After = r.checks(n, "after") },
	})
	if len(r.problems) > checks {
		return s
	}
	if n.Get("kind") == nil {
		r.bad(n, "the strategy needs a kind: %s", kinds())
	} else if err := s.Validate(); err != nil {
		r.bad(n, "the strategy %s", err)
	}
	return s
}

func (r *reader) kind(n *yaml.Node) ci.StrategyKind {
	kind := ci.StrategyKind(r.text(n, "kind"))
	if n.Kind == yaml.Scalar && !slices.Contains(ci.StrategyKinds(), kind) {
		r.bad(n, "there is no strategy %q; there are %s", kind, kinds())
	}
	return kind
}

func kinds() string {
	var names []string
	for _, kind := range ci.StrategyKinds() {
		names = append(names, string(kind))
	}
	return strings.Join(names, ", ")
}

// step reads a step: its weight, its weight and pause as a text such as 10:2m, or a mapping.
func (r *reader) step(n *yaml.Node) ci.StrategyStep {
	var s ci.StrategyStep
	var err error
	before := len(r.problems)
	if n.Kind == yaml.Scalar {
		s, err = ParseStep(n.Text)
	} else {
		weighed := false
		r.fields(n, "a step", map[string]func(*yaml.Node){
			"weight": func(n *yaml.Node) {
				weighed = true
				var ok bool
				if s.Weight, ok = weight(r.text(n, "weight")); !ok {
					r.bad(n, "weight must be a whole number of percent from 0 to 100")
				}
			},
			"pause":  func(n *yaml.Node) { s.Pause = r.duration(n, "pause") },
			"manual": func(n *yaml.Node) { s.Manual = r.yes(n, "manual") },
			"checks": func(n *yaml.Node) { s.Checks = r.checks(n, "checks") },
		})
		switch {
		case len(r.problems) > before:
			return s
		case !weighed:
			r.bad(n, "a step needs a weight")
			return s
		}
		err = s.Validate()
	}
	if err != nil {
		r.bad(n, "%s", err)
	}
	return s
}

// ParseSteps reads steps that are separated by commas, such as 10:2m,50:manual,100.
func ParseSteps(text string) ([]ci.StrategyStep, error) {
	var steps []ci.StrategyStep
	for part := range strings.SplitSeq(text, ",") {
		step, err := ParseStep(part)
		if err != nil {
			return nil, err
		}
		steps = append(steps, step)
	}
	return steps, nil
}

// ParseStep reads a step such as 10, 10:2m or 50:manual.
func ParseStep(text string) (ci.StrategyStep, error) {
	first, rest, paused := strings.Cut(strings.TrimSpace(text), ":")
	var s ci.StrategyStep
	var ok bool
	if s.Weight, ok = weight(first); !ok {
		return s, fmt.Errorf("the step %q must begin with a whole number of percent from 0 to 100, such as in 10, 10:2m or 50:manual", text)
	}
	switch rest = strings.TrimSpace(rest); {
	case !paused:
	case rest == "manual":
		s.Manual = true
	default:
		if s.Pause, ok = seconds(rest); !ok {
			return s, fmt.Errorf("the step %q must end with a time such as 90s or 2m, or with manual", text)
		}
	}
	return s, s.Validate()
}

func weight(text string) (int64, bool) {
	n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(text), "%")), 10, 64)
	return n, err == nil && n >= 0 && n <= 100
}

// seconds reads a duration, or a number of seconds.
func seconds(text string) (int64, bool) {
	d, err := time.ParseDuration(text)
	if err != nil {
		n, err := strconv.ParseInt(text, 10, 32)
		return n, err == nil && n >= 0
	}
	return int64((d + time.Second - 1) / time.Second), d >= 0
}

func (r *reader) checks(n *yaml.Node, what string) []ci.Check {
	var checks []ci.Check
	for _, item := range r.items(n, what) {
		checks = append(checks, r.check(item))
	}
	return checks
}

// check reads a check: its URL, or a mapping.
func (r *reader) check(n *yaml.Node) ci.Check {
	var c ci.Check
	before := len(r.problems)
	if n.Kind == yaml.Scalar {
		c.URL = n.Text
	} else {
		r.fields(n, "a check", map[string]func(*yaml.Node){
			"name":      func(n *yaml.Node) { c.Name = r.text(n, "name") },
			"url":       func(n *yaml.Node) { c.URL = r.text(n, "url") },
			"token":     func(n *yaml.Node) { c.Token = r.fromSecret(n, "token") },
			"username":  func(n *yaml.Node) { c.Username = r.text(n, "username") },
			"password":  func(n *yaml.Node) { c.Password = r.fromSecret(n, "password") },
			"ca":        func(n *yaml.Node) { c.CA = r.fromSecret(n, "ca") },
			"status":    func(n *yaml.Node) { c.Status = r.number(n, "status") },
			"query":     func(n *yaml.Node) { c.Query = r.text(n, "query") },
			"condition": func(n *yaml.Node) { c.Condition = r.text(n, "condition") },
			"interval":  func(n *yaml.Node) { c.Interval = r.duration(n, "interval") },
			"count":     func(n *yaml.Node) { c.Count = r.number(n, "count") },
			"failures":  func(n *yaml.Node) { c.Failures = r.number(n, "failures") },
		})
	}
	if len(r.problems) == before {
		if err := c.Validate(); err != nil {
			r.bad(n, "the check cannot be used: %s", err)
		}
	}
	return c
}

// fromSecret reads {from_secret: NAME}.
func (r *reader) fromSecret(n *yaml.Node, what string) *ci.FromSecret {
	from := n.Get("from_secret")
	if n.Kind != yaml.Mapping || len(n.Entries) != 1 || from == nil || from.Kind != yaml.Scalar {
		r.bad(n, "%s must be {from_secret: NAME}; what is secret is not written here", what)
		return nil
	}
	return &ci.FromSecret{Secret: from.Text}
}

func (r *reader) text(n *yaml.Node, what string) string {
	if n.Kind != yaml.Scalar {
		r.bad(n, "%s must be a text, not %s", what, n.Kind)
		return ""
	}
	return n.Text
}

func (r *reader) number(n *yaml.Node, what string) int {
	number, err := strconv.ParseInt(r.text(n, what), 10, 32)
	if err != nil && n.Kind == yaml.Scalar {
		r.bad(n, "%s must be a whole number", what)
	}
	return int(number)
}

func (r *reader) yes(n *yaml.Node, what string) bool {
	yes, ok := n.Value().(bool)
	if !ok {
		r.bad(n, "%s must be true or false", what)
	}
	return yes
}

func (r *reader) duration(n *yaml.Node, what string) int64 {
	s, ok := seconds(r.text(n, what))
	if !ok && n.Kind == yaml.Scalar {
		r.bad(n, "%s must be a time such as 90s or 2m", what)
	}
	return s
}

func (r *reader) items(n *yaml.Node, what string) []*yaml.Node {
	if n.Kind != yaml.Sequence {
		r.bad(n, "%s must be a list, not %s", what, n.Kind)
		return nil
	}
	return n.Items
}

func (r *reader) list(n *yaml.Node, what string) []string {
	var texts []string
	for _, item := range r.items(n, what) {
		texts = append(texts, r.text(item, "each of "+what))
	}
	return texts
}
