package yaml

import (
	"math"
	"strconv"
	"strings"
)

// Pos is a place in a file. Both count from 1; columns count characters.
type Pos struct {
	Line   int
	Column int
}

// Kind is the shape of a node.
type Kind int

// The shapes.
const (
	Scalar Kind = iota
	Sequence
	Mapping
)

// String returns the shape as people call it.
func (k Kind) String() string {
	switch k {
	case Sequence:
		return "a list"
	case Mapping:
		return "a mapping"
	}
	return "a single value"
}

// Node is a value of a document. A node that is referred to by an alias stands at several places of the tree; nodes must
// not be changed.
type Node struct {
	Pos  Pos
	Kind Kind
	// Tag is the explicit tag, such as !!str or !reference, or "".
	Tag string
	// Text is a scalar as it was written, without its quotes and escapes.
	Text string
	// Quoted is true for a scalar in quotes and for a block scalar: it is always a string.
	Quoted bool
	// Items are the items of a sequence.
	Items []*Node
	// Entries are the entries of a mapping in the order of the file, merge keys resolved. Each key is there once.
	Entries []Entry

	size int // nodes from here down, aliases unfolded
}

// Entry is a key of a mapping and its value. The key is a scalar.
type Entry struct {
	Key   *Node
	Value *Node
}

// Get returns the value of the key that is written as the given text, or nil.
func (n *Node) Get(key string) *Node {
	for _, e := range n.Entries {
		if e.Key.Text == key {
			return e.Value
		}
	}
	return nil
}

// IsNull reports whether n is a scalar that says nothing: empty, ~ or null.
func (n *Node) IsNull() bool { return n.Kind == Scalar && n.scalar() == nil }

// Value returns n as Go data, typed as YAML 1.1 does: nil, bool, int64, uint64, float64, string, []any or
// map[string]any. Timestamps are strings. The keys of nested mappings are typed too before they become text: the key y
// is "true".
func (n *Node) Value() any {
	switch n.Kind {
	case Sequence:
		items := make([]any, len(n.Items))
		for i, item := range n.Items {
			items[i] = item.Value()
		}
		return items
	case Mapping:
		m := make(map[string]any, len(n.Entries))
		for _, e := range n.Entries {
			m[keyText(e.Key.scalar())] = e.Value.Value()
		}
		return m
	}
	return n.scalar()
}

func keyText(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case uint64:
		return strconv.FormatUint(v, 10)
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	}
	return "null"
}

// scalar types the text of n: https://yaml.org/type/ for YAML 1.1, with the exceptions that common readers make (no
// sexagesimal numbers, and octals in both spellings).
func (n *Node) scalar() any {
	switch n.Tag {
	case "!!null", "!!bool", "!!int", "!!float":
	case "":
		if n.Quoted {
			return n.Text
		}
	default:
		return n.Text
	}
	switch n.Text {
	case "", "~", "null", "Null", "NULL":
		return nil
	case "y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON":
		return true
	case "n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF":
		return false
	case ".nan", ".NaN", ".NAN":
		return math.NaN()
	case ".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF":
		return math.Inf(1)
	case "-.inf", "-.Inf", "-.INF":
		return math.Inf(-1)
	}
	if !strings.ContainsAny(n.Text[:1], "+-.0123456789") {
		return n.Text
	}
	digits := strings.ReplaceAll(n.Text, "_", "")
	if i, err := strconv.ParseInt(digits, 0, 64); err == nil {
		return i
	}
	if u, err := strconv.ParseUint(digits, 0, 64); err == nil {
		return u
	}
	if isDecimal(digits) {
		if f, err := strconv.ParseFloat(digits, 64); err == nil {
			return f
		}
	}
	return n.Text
}

// isDecimal keeps from being numbers what only Go calls one, such as hexadecimal floats.
func isDecimal(s string) bool {
	return strings.ContainsAny(s, "0123456789") && strings.Trim(s, "+-.0123456789eE") == ""
}
