package drone

import (
	"fmt"
	"math"
	"path"
	"strconv"
	"strings"

	"slipway/internal/plan"
	"slipway/internal/yaml"
)

// reader turns nodes into Go values and collects what is wrong with them.
type reader struct {
	file     string
	problems *plan.Problems
	// literal is set while the text is read without its substitutions. A value that contains one is then not judged.
	literal bool
}

// maxProblems bounds the warnings, and the errors, that are kept of a file.
const maxProblems = 200

// full reports whether no more problems of a severity are kept.
func (r *reader) full(severity plan.Severity) bool {
	n := 0
	for _, p := range *r.problems {
		if p.Severity == severity {
			n++
		}
	}
	return n >= maxProblems
}

func (r *reader) report(severity plan.Severity, at yaml.Pos, format string, args ...any) {
	if r.full(severity) {
		return
	}
	*r.problems = append(*r.problems, plan.Problem{
		File: r.file, Line: at.Line, Column: at.Column, Severity: severity, Message: fmt.Sprintf(format, args...),
	})
}

func (r *reader) errorf(at yaml.Pos, format string, args ...any) {
	r.report(plan.SeverityError, at, format, args...)
}

func (r *reader) warnf(at yaml.Pos, format string, args ...any) {
	r.report(plan.SeverityWarning, at, format, args...)
}

// open reports whether n cannot be judged yet.
func (r *reader) open(n *yaml.Node) bool {
	return r.literal && n.Kind == yaml.Scalar && strings.Contains(n.Text, "${")
}

// field says what becomes of a key.
type field struct {
	// read takes the value. It is nil for a key that is known but has no reader.
	read func(value *yaml.Node)
	// later is set for a key that Drone knows and Slipway does not yet: what it is for.
	later string
	// ignored is set for a key that has no effect: why.
	ignored string
}

// fields is a schema: what becomes of each key of a mapping.
type fields map[string]field

// mapping reads n by a schema. what names the mapping in messages.
func (r *reader) mapping(n *yaml.Node, what string, schema fields) {
	if n.IsNull() {
		return
	}
	if n.Kind != yaml.Mapping {
		r.errorf(n.Pos, "%s must be a mapping, not %s", what, n.Kind)
		return
	}
	for _, e := range n.Entries {
		f, known := schema[e.Key.Text]
		switch {
		case !known:
			r.unknown(e.Key, what, schema)
		case f.later != "":
			r.errorf(e.Key.Pos, "%s: %s is not supported yet", what, f.later)
		case f.ignored != "":
			r.warnf(e.Key.Pos, "%s: %s has no effect: %s", what, e.Key.Text, f.ignored)
		case e.Value.IsNull():
			// An empty value is as good as none.
		default:
			f.read(e.Value)
		}
	}
}

// unknown warns of a key that Drone does not know either: it ignores such a key without a word.
func (r *reader) unknown(key *yaml.Node, what string, schema fields) {
	if strings.HasPrefix(key.Text, "x-") || strings.HasPrefix(key.Text, ".") || strings.HasPrefix(key.Text, "_") {
		return // where people keep what they refer to by aliases
	}
	if r.full(plan.SeverityWarning) {
		return
	}
	known := make([]string, 0, len(schema))
	for k := range schema {
		known = append(known, k)
	}
	r.warnf(key.Pos, "%s: unknown key %q is ignored%s", what, key.Text, didYouMean(key.Text, known))
}

func didYouMean(word string, known []string) string {
	if nearest := yaml.Nearest(word, known); nearest != "" {
		return fmt.Sprintf("; did you mean %q?", nearest)
	}
	return ""
}

// text returns a scalar as it was written.
func (r *reader) text(n *yaml.Node, what string) string {
	if n.Kind != yaml.Scalar {
		r.errorf(n.Pos, "%s must be a text, not %s%s", what, n.Kind, colonHint(n))
		return ""
	}
	if n.IsNull() {
		return ""
	}
	return n.Text
}

// colonHint explains the usual reason for a mapping where a text belongs.
func colonHint(n *yaml.Node) string {
	if n.Kind == yaml.Mapping && len(n.Entries) == 1 {
		return "; put it in quotes if the colon belongs to it"
	}
	return ""
}

func (r *reader) textTo(to *string, what string) func(*yaml.Node) {
	return func(n *yaml.Node) { *to = r.text(n, what) }
}

// list returns the scalars of a sequence as they were written.
func (r *reader) list(n *yaml.Node, what string) []string {
	if n.IsNull() {
		return nil
	}
	if n.Kind != yaml.Sequence {
		r.errorf(n.Pos, "%s must be a list, not %s", what, n.Kind)
		return nil
	}
	items := make([]string, 0, len(n.Items))
	for _, item := range n.Items {
		items = append(items, r.text(item, what+": each"))
	}
	return items
}

func (r *reader) listTo(to *[]string, what string) func(*yaml.Node) {
	return func(n *yaml.Node) { *to = r.list(n, what) }
}

func (r *reader) boolTo(to *bool, what string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		v, ok := n.Value().(bool)
		if !ok && !r.open(n) {
			r.errorf(n.Pos, "%s must be true or false, without quotes", what)
		}
		*to = v
	}
}

// countTo reads a number that is not negative.
func (r *reader) countTo(to *int, what string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		v, ok := n.Value().(int64)
		if (!ok || v < 0 || v > math.MaxInt32) && !r.open(n) {
			r.errorf(n.Pos, "%s must be a number, 0 or more", what)
			v = 0
		}
		*to = int(v)
	}
}

// bytesTo reads a size: a number of bytes or one with a unit, all of which count in steps of 1024.
func (r *reader) bytesTo(to *int64, what string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		if r.open(n) {
			return
		}
		size, ok := parseBytes(r.text(n, what))
		if !ok {
			r.errorf(n.Pos, "%s must be a size, such as 512MiB", what)
		}
		*to = size
	}
}

func parseBytes(s string) (int64, bool) {
	s = strings.TrimSpace(s)
	digits := strings.TrimRight(s, "bBiIkKmMgGtTpP ")
	number, err := strconv.ParseFloat(digits, 64)
	if err != nil || !(number >= 0) {
		return 0, false
	}
	unit := strings.TrimSuffix(strings.ToLower(strings.TrimSpace(s[len(digits):])), "b")
	if len(unit) == 2 && unit[1] == 'i' {
		unit = unit[:1]
	}
	power := strings.Index(" kmgtp", unit)
	if unit == "" {
		power = 0
	}
	if power < 0 || len(unit) > 1 || unit == " " {
		return 0, false
	}
	size := number * math.Pow(1024, float64(power))
	if size > math.MaxInt64/2 {
		return 0, false
	}
	return int64(size), true
}

// absTo reads a path of a container, which must be absolute, and cleans it.
func (r *reader) absTo(to *string, what string) func(*yaml.Node) {
	return func(n *yaml.Node) {
		p := r.text(n, what)
		if r.open(n) {
			return
		}
		if !path.IsAbs(p) {
			r.errorf(n.Pos, "%s must be an absolute path, not %q", what, p)
			return
		}
		*to = path.Clean(p)
	}
}

// value reads a text or {from_secret: name}.
func (r *reader) value(n *yaml.Node, what string) plan.Value {
	if n.Kind == yaml.Scalar {
		return plan.Text(n.Text)
	}
	if name, ok := r.fromSecret(n, what); ok {
		return plan.FromSecret(name)
	}
	r.errorf(n.Pos, "%s must be a text or {from_secret: NAME}, not %s", what, n.Kind)
	return plan.Value{}
}

// fromSecret returns the name in {from_secret: name}. ok is false if n is something else.
func (r *reader) fromSecret(n *yaml.Node, what string) (name string, ok bool) {
	from := n.Get("from_secret")
	if from == nil {
		return "", false
	}
	if name = r.text(from, what+": from_secret"); name == "" {
		r.errorf(from.Pos, "%s: from_secret needs the name of a secret", what)
	}
	for _, e := range n.Entries {
		if e.Key.Text != "from_secret" {
			r.warnf(e.Key.Pos, "%s: %q beside from_secret is ignored", what, e.Key.Text)
		}
	}
	return name, true
}

// environment reads a mapping of variables.
func (r *reader) environment(n *yaml.Node, what string) map[string]plan.Value {
	if n.IsNull() {
		return nil
	}
	if n.Kind != yaml.Mapping {
		r.errorf(n.Pos, "%s must be a mapping such as {NAME: value}, not %s", what, n.Kind)
		return nil
	}
	env := make(map[string]plan.Value, len(n.Entries))
	for _, e := range n.Entries {
		name := e.Key.Text
		if name == "" || strings.ContainsAny(name, "=\x00") {
			r.errorf(e.Key.Pos, "%s: %q cannot be the name of a variable", what, name)
			continue
		}
		if !e.Value.IsNull() { // without a value there is no variable, which an empty one would be
			env[name] = r.value(e.Value, what+": "+name)
		}
	}
	return env
}
