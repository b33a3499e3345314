package drone

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"strings"

	"slipway/internal/plan"
	"slipway/internal/yaml"
)

// setting is one of a step's settings.
type setting struct {
	name string
	key  *yaml.Node
	node *yaml.Node
	// value is the node as plugins get it: see encode.
	value plan.Value
}

// settings reads a step's settings in the order of the file. Those without a value are left out.
func (r *reader) settings(n *yaml.Node, what string) []setting {
	if n.Kind != yaml.Mapping {
		r.errorf(n.Pos, "%s must be a mapping, not %s", what, n.Kind)
		return nil
	}
	var all []setting
	for _, e := range n.Entries {
		s := setting{name: e.Key.Text, key: e.Key, node: e.Value}
		if strings.ContainsAny(s.name, "=\x00") || s.name == "" {
			r.errorf(e.Key.Pos, "%s: %q cannot be the name of a setting", what, s.name)
			continue
		}
		if e.Value.IsNull() {
			continue
		}
		if secret, ok := r.fromSecret(e.Value, what+": "+s.name); ok {
			s.value = plan.FromSecret(secret)
		} else {
			s.value = plan.Text(encode(e.Value.Value()))
		}
		all = append(all, s)
	}
	return all
}

// warnOfNumbers warns where a plugin gets other digits than the file has.
func (r *reader) warnOfNumbers(n *yaml.Node, what string) {
	switch n.Kind {
	case yaml.Sequence:
		for _, item := range n.Items {
			r.warnOfNumbers(item, what)
		}
	case yaml.Scalar:
		switch v := n.Value().(type) {
		case int64, uint64, float64:
			if encoded := encode(v); encoded != n.Text {
				r.warnf(n.Pos, "%s: the number %s becomes %s; put it in quotes to keep it as it is", what, n.Text, encoded)
			}
		}
	}
}

// asWritten is what a built-in step gets: numbers keep their digits, so that a tag such as 1.10 or 00012345 is what it
// looks like.
func asWritten(n *yaml.Node) string {
	switch n.Kind {
	case yaml.Scalar:
		return n.Text
	case yaml.Sequence:
		items := make([]string, len(n.Items))
		for i, item := range n.Items {
			if item.Kind != yaml.Scalar {
				return encode(n.Value())
			}
			items[i] = item.Text
		}
		return strings.Join(items, ",")
	}
	return encode(n.Value())
}

// pluginName is the variable by which a plugin gets a setting.
func pluginName(setting string) string { return "PLUGIN_" + strings.ToUpper(setting) }

// encode gives a setting the text that plugins expect: scalars by their YAML 1.1 type, a list of scalars joined by
// commas, everything else as JSON.
func encode(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
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
	case []any:
		items := make([]string, len(v))
		for i, item := range v {
			switch item.(type) {
			case []any, map[string]any:
				return encodeJSON(v)
			}
			items[i] = encode(item)
		}
		return strings.Join(items, ",")
	}
	return encodeJSON(v)
}

func encodeJSON(v any) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(finite(v)); err != nil {
		return ""
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// finite replaces what JSON has no numbers for by its name.
func finite(v any) any {
	switch v := v.(type) {
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return encode(v)
		}
	case []any:
		for i := range v {
			v[i] = finite(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = finite(v[k])
		}
	}
	return v
}
