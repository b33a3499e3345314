package rollout

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/fluxcd/pkg/ssa/normalize"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Field is one field of an object that differs.
type Field struct {
	// Path is the field as people write it: spec.template.spec.containers[web].image.
	Path string
	// Old and New are the values as one line of JSON or plain text; empty where the field is not there. Those of Secrets
	// are masked.
	Old, New string
	// Lines are the lines that differ, each beginning with - or +, if the value is a text of several lines. Old and New
	// are empty then.
	Lines []string
	// Reason says why Slipway added the field; it is empty for what the manifest says.
	Reason string
}

// masked stands for a value of a Secret.
const masked = "(secret)"

// lastApplied is where kubectl keeps a copy of the whole object, secrets included.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// The bounds of what is shown of a field.
const (
	maxValue = 120 // bytes
	maxLines = 20
)

// compare returns the fields that differ between two versions of an object as the API server gave them. Either may be
// nil. What the server keeps for itself (status, managedFields, generation) does not count. What mask hides is
// hidden before a value is cut: a part of it would be shown else.
func compare(mask masking, before, after *unstructured.Unstructured) []Field {
	c := comparison{mask: mask}
	a, b := comparable(before), comparable(after)
	for _, u := range []*unstructured.Unstructured{before, after} {
		if u != nil && u.GroupVersionKind().GroupKind().String() == "Secret" {
			c.secret = true
		}
	}
	c.values("", a, b)
	return c.fields
}

// comparable returns a copy of what counts of an object, in the form that the server would give it.
func comparable(u *unstructured.Unstructured) any {
	if u == nil {
		return nil
	}
	u = u.DeepCopy()
	_ = normalize.DryRunUnstructured(u) // of kinds that it does not know, there is nothing to be done
	content := u.Object
	delete(content, "status")
	metadata := map[string]any{}
	for _, key := range []string{"labels", "annotations", "finalizers", "ownerReferences"} {
		if value, ok, _ := unstructured.NestedFieldNoCopy(content, "metadata", key); ok {
			metadata[key] = value
		}
	}
	if annotations, ok := metadata["annotations"].(map[string]any); ok {
		delete(annotations, lastApplied)
		if len(annotations) == 0 {
			delete(metadata, "annotations")
		}
	}
	content["metadata"] = metadata
	return content
}

// comparison collects the differences of two trees of JSON.
type comparison struct {
	secret bool
	mask   masking
	fields []Field
}

func (c *comparison) values(path string, before, after any) {
	if reflect.DeepEqual(before, after) {
		return
	}
	a, aMap := before.(map[string]any)
	b, bMap := after.(map[string]any)
	if aMap && bMap {
		keys := slices.Sorted(maps.Keys(a))
		for key := range b {
			if _, ok := a[key]; !ok {
				keys = append(keys, key)
			}
		}
		slices.Sort(keys)
		for _, key := range keys {
			c.values(join(path, key), a[key], b[key])
		}
		return
	}
	aList, aOK := before.([]any)
	bList, bOK := after.([]any)
	if aOK && bOK {
		c.lists(path, aList, bList)
		return
	}
	c.field(path, before, after)
}

// lists compares lists: of objects with names by these, of others by position.
func (c *comparison) lists(path string, before, after []any) {
	a, aOK := byName(before)
	b, bOK := byName(after)
	if !aOK || !bOK {
		for i := range max(len(before), len(after)) {
			c.values(fmt.Sprintf("%s[%d]", path, i), at(before, i), at(after, i))
		}
		return
	}
	differ := len(c.fields)
	for _, name := range slices.Sorted(maps.Keys(a)) {
		c.values(path+"["+name+"]", a[name], b[name])
	}
	for _, name := range slices.Sorted(maps.Keys(b)) {
		if _, ok := a[name]; !ok {
			c.values(path+"["+name+"]", nil, b[name])
		}
	}
	if len(c.fields) == differ { // containers and init containers mean something by their order
		c.field(path, names(before), names(after))
	}
}

func at(list []any, i int) any {
	if i < len(list) {
		return list[i]
	}
	return nil
}

// byName returns the elements of a list by name, if each has one of its own.
func byName(list []any) (map[string]any, bool) {
	byName := map[string]any{}
	for _, element := range list {
		m, ok := element.(map[string]any)
		if !ok {
			return nil, false
		}
		name, ok := m["name"].(string)
		if _, twice := byName[name]; !ok || twice {
			return nil, false
		}
		byName[name] = element
	}
	return byName, true
}

func names(list []any) any {
	names := make([]any, len(list))
	for i, element := range list {
		names[i] = element.(map[string]any)["name"]
	}
	return names
}

func (c *comparison) field(path string, before, after any) {
	f := Field{Path: path}
	if c.secret && (path == "data" || path == "stringData" || strings.HasPrefix(path, "data.") || strings.HasPrefix(path, "stringData.")) {
		c.hidden(path, before, after)
		return
	}
	a, aText := before.(string)
	b, bText := after.(string)
	if (before == nil || aText) && (after == nil || bText) && (strings.Contains(a, "\n") || strings.Contains(b, "\n")) {
		f.Lines = lines(c.mask.text(a), c.mask.text(b))
	} else {
		f.Old, f.New = c.mask.show(before), c.mask.show(after)
	}
	c.fields = append(c.fields, f)
}

// hidden tells that values of a Secret differ, but not their content or their number.
func (c *comparison) hidden(path string, before, after any) {
	a, aMap := before.(map[string]any)
	b, bMap := after.(map[string]any)
	if aMap || bMap { // all of data came or went
		for _, key := range slices.Sorted(maps.Keys(a)) {
			c.fields = append(c.fields, Field{Path: join(path, key), Old: masked})
		}
		for _, key := range slices.Sorted(maps.Keys(b)) {
			c.fields = append(c.fields, Field{Path: join(path, key), New: masked})
		}
		return
	}
	f := Field{Path: path}
	if before != nil {
		f.Old = masked
	}
	if after != nil {
		f.New = masked
	}
	c.fields = append(c.fields, f)
}

// join adds a key to a path; one with dots is quoted.
func join(path, key string) string {
	if strings.ContainsAny(key, ".[]") {
		return path + "[" + oneLine(key) + "]"
	}
	if path == "" {
		return oneLine(key)
	}
	return path + "." + oneLine(key)
}

// show returns a value as one line.
func (m masking) show(value any) string {
	switch value := value.(type) {
	case nil:
		return ""
	case string:
		if value == "" {
			return `""`
		}
		return shorten(oneLine(m.text(value)))
	}
	data, err := json.Marshal(value)
	if err != nil {
		return "(a value that JSON does not have)"
	}
	return shorten(oneLine(m.text(string(data))))
}

func shorten(s string) string {
	if len(s) > maxValue {
		return strings.ToValidUTF8(s[:maxValue], "") + "…"
	}
	return s
}

// lines returns the lines by which two texts differ, without those that they begin and end with alike.
func lines(before, after string) []string {
	a, b := strings.Split(before, "\n"), strings.Split(after, "\n")
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	var all []string
	for _, line := range a {
		all = append(all, "- "+shorten(clean(line)))
	}
	for _, line := range b {
		all = append(all, "+ "+shorten(clean(line)))
	}
	if more := len(all) - maxLines; more > 0 {
		all = append(all[:maxLines], fmt.Sprintf("… and %d more lines", more))
	}
	return all
}
