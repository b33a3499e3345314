// Package retention decides which tags and images of a registry's repository are kept and which go, by policies that
// people write.
//
// A [Policy] is read by [Parse]; [Policy.Decide] is the decision, a pure function of what there is. [Cleaner] finds out
// what there is, and deletes what was decided; deleted images can be restored for the registry's grace period.
package retention

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"slipway/internal/yaml"
)

// Policy says what a repository keeps.
type Policy struct {
	// Immutable are patterns of tags that nobody can move or delete by pushing; rules may delete them.
	Immutable []string
	// Rules say which tags go. The first whose pattern fits a tag decides; a tag that none fits stays.
	Rules []Rule
	// Untagged is after how long an image without a tag goes; 0 means never.
	Untagged Age
}

// Rule says which of the tags that it is for go. At least one of its conditions is set; a tag goes if it is not among the
// newest Keep and, of the others, one that is set holds.
type Rule struct {
	// Tags is a pattern as of [path.Match]: * is anything, ? is one character.
	Tags string
	// Keep is how many of the newest tags stay, whatever else is said. Alone it says that all others go.
	Keep int
	// OlderThan is the age from which a tag goes.
	OlderThan Age
	// Branch makes a tag go when its branch has, or was merged: Tags has one *, which stands for the branch's name, with
	// every character that tags cannot have replaced by "-".
	Branch bool
	// Run makes a tag go with the run that pushed it, when that is over.
	Run bool
}

// maxPolicy bounds a policy's text, in bytes, and maxRules its rules.
const (
	maxPolicy = 64 << 10
	maxRules  = 100
)

// Problem is what is wrong at one place of a policy's text.
type Problem struct {
	// Line and Column count from 1, columns in characters.
	Line, Column int
	// Message is one sentence, without a full stop.
	Message string
}

// String returns "line:column: message".
func (p Problem) String() string { return fmt.Sprintf("%d:%d: %s", p.Line, p.Column, p.Message) }

// Problems are what is wrong with a policy, in the order of its text.
type Problems []Problem

// Error says all of it in one line.
func (p Problems) Error() string {
	parts := make([]string, len(p))
	for i, problem := range p {
		parts[i] = problem.String()
	}
	return "the policy cannot be used: " + strings.Join(parts, "; ")
}

// Parse reads a policy. Its error is [Problems].
func Parse(text string) (Policy, error) {
	if len(text) > maxPolicy {
		return Policy{}, Problems{{1, 1, fmt.Sprintf("the policy has %d bytes, and may have %d", len(text), maxPolicy)}}
	}
	root, duplicates, err := yaml.Parse(text, nil)
	if err != nil {
		pos, message := yaml.ErrorAt(err)
		return Policy{}, Problems{{pos.Line, pos.Column, message}}
	}
	var r reader
	for _, d := range duplicates {
		r.wrong(d.Key, "%s stands here a second time; the first is in line %d", d.Key.Text, d.First.Line)
	}
	var p Policy
	r.mapping(root, "the policy", map[string]func(*yaml.Node){
		"immutable": func(n *yaml.Node) {
			for i, item := range r.list(n, "immutable") {
				p.Immutable = append(p.Immutable, r.pattern(item, fmt.Sprintf("immutable[%d]", i)))
			}
		},
		"rules": func(n *yaml.Node) {
			for i, item := range r.list(n, "rules") {
				p.Rules = append(p.Rules, r.rule(item, fmt.Sprintf("rules[%d]", i)))
			}
		},
		"untagged": func(n *yaml.Node) { p.Untagged = r.age(n, "untagged") },
	})
	if len(r.problems) > 0 {
		slices.SortStableFunc(r.problems, func(a, b Problem) int { return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column)) })
		return Policy{}, r.problems
	}
	return p, nil
}

// reader turns nodes into a policy, and notes what is wrong with them.
type reader struct{ problems Problems }

func (r *reader) wrong(n *yaml.Node, format string, args ...any) {
	if len(r.problems) < 20 { // who wrote the rest of it wrong as well reads no more
		r.problems = append(r.problems, Problem{n.Pos.Line, n.Pos.Column, fmt.Sprintf(format, args...)})
	}
}

// mapping calls the function of each key with its value. Nothing is a mapping without keys.
func (r *reader) mapping(n *yaml.Node, what string, keys map[string]func(*yaml.Node)) {
	if n == nil || n.IsNull() {
		return
	}
	if n.Kind != yaml.Mapping {
		r.wrong(n, "%s is a mapping, and this is a %s", what, n.Kind)
		return
	}
	for _, e := range n.Entries {
		read, ok := keys[e.Key.Text]
		if !ok {
			known := slices.Sorted(maps.Keys(keys))
			hint := ""
			if near := yaml.Nearest(e.Key.Text, known); near != "" {
				hint = "; did you mean " + near
			}
			r.wrong(e.Key, "%s has no %.40q, only %s%s", what, e.Key.Text, strings.Join(known, ", "), hint)
			continue
		}
		read(e.Value)
	}
}

func (r *reader) list(n *yaml.Node, what string) []*yaml.Node {
	switch {
	case n.IsNull():
		return nil
	case n.Kind != yaml.Sequence:
		r.wrong(n, "%s is a list, and this is a %s", what, n.Kind)
	case len(n.Items) > maxRules:
		r.wrong(n, "%s has %d entries, which is more than %d", what, len(n.Items), maxRules)
	default:
		return n.Items
	}
	return nil
}

func (r *reader) rule(n *yaml.Node, what string) (rule Rule) {
	before := len(r.problems)
	r.mapping(n, what, map[string]func(*yaml.Node){
		"tags": func(n *yaml.Node) { rule.Tags = r.pattern(n, what) },
		"keep": func(n *yaml.Node) {
			keep, ok := n.Value().(int64)
			if !ok || keep < 0 || keep > math.MaxInt32 {
				r.wrong(n, "%s: keep is a number of tags, not %.40q", what, n.Text)
			}
			rule.Keep = int(keep)
		},
		"older_than": func(n *yaml.Node) { rule.OlderThan = r.age(n, what+": older_than") },
		"branch":     func(n *yaml.Node) { rule.Branch = r.flag(n, what+": branch") },
		"run":        func(n *yaml.Node) { rule.Run = r.flag(n, what+": run") },
	})
	switch {
	case len(r.problems) > before:
	case rule.Tags == "":
		r.wrong(n, "%s: say for which tags it is, such as tags: v*", what)
	case rule.Keep == 0 && rule.OlderThan == 0 && !rule.Branch && !rule.Run:
		r.wrong(n, "%s: say when the tags %s go: keep, older_than, branch or run", what, rule.Tags)
	case rule.Branch && (strings.Count(rule.Tags, "*") != 1 || strings.ContainsAny(rule.Tags, `?[\`)):
		r.wrong(n, "%s: with branch, the pattern has one * for the branch's name, such as branch-*; %q has not", what, rule.Tags)
	}
	return rule
}

func (r *reader) pattern(n *yaml.Node, what string) string {
	if _, err := path.Match(n.Text, ""); err != nil || n.Text == "" || n.Kind != yaml.Scalar {
		r.wrong(n, "%s: %.200q is not a pattern of tags, such as v*", what, n.Text)
	}
	return n.Text
}

func (r *reader) age(n *yaml.Node, what string) Age {
	d, err := parseAge(n.Text)
	if err != nil {
		r.wrong(n, "%s: %v", what, err)
	}
	return Age(d)
}

func (r *reader) flag(n *yaml.Node, what string) bool {
	v, ok := n.Value().(bool)
	if !ok {
		r.wrong(n, "%s is true or false, not %.40q", what, n.Text)
	}
	return v
}

// Fixed reports whether the tag is immutable.
func (p Policy) Fixed(tag string) bool {
	for _, pattern := range p.Immutable {
		if matches(pattern, tag) {
			return true
		}
	}
	return false
}

// ruleOf returns the index of the rule that decides about a tag, or -1.
func (p Policy) ruleOf(tag string) int {
	return slices.IndexFunc(p.Rules, func(r Rule) bool { return matches(r.Tags, tag) })
}

func matches(pattern, tag string) bool {
	ok, err := path.Match(pattern, tag)
	return ok && err == nil // Parse has tried it
}

// maxAge is the longest age in days. A time.Duration has room for 292 years, and goes on below zero after them.
const maxAge = 100_000

// Age is a time span, written as 90m, 36h, 7d or 2w.
type Age time.Duration

func parseAge(s string) (time.Duration, error) {
	wrong := fmt.Errorf("%.40q is not an age, such as 36h, 7d or 2w", s)
	day := map[byte]int64{'d': 1, 'w': 7}
	if s == "" {
		return 0, wrong
	}
	if days := day[s[len(s)-1]]; days > 0 {
		n, err := strconv.ParseUint(s[:len(s)-1], 10, 16)
		if err != nil || n == 0 {
			return 0, wrong
		}
		if int64(n)*days > maxAge {
			return 0, fmt.Errorf("%.40q is not an age: it is more than %d days", s, maxAge)
		}
		return time.Duration(int64(n)*days) * 24 * time.Hour, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, wrong
	}
	return d, nil
}

// String writes an age as people do.
func (a Age) String() string {
	d := time.Duration(a)
	if day := 24 * time.Hour; d >= day && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	text := d.String()
	if d%time.Minute == 0 {
		text = strings.TrimSuffix(text, "0s")
	}
	if d%time.Hour == 0 {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}
