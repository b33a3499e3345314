package helm

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"

	"slipway/internal/manifest/source"
)

// documents adds the objects in the YAML that a template gave. lines are those on which the template writes each kind;
// nil means that text is the file itself.
func (r *run) documents(file, text string, lines map[string][]int) error {
	var objects []source.Object
	start := 0
	for _, doc := range source.Split([]byte(text)) {
		at := source.Position{File: file}
		value, err := document(doc)
		if err != nil {
			return r.fail(file, "%s", err)
		}
		if lines == nil {
			at.Line = start + 1 + leading(doc)
		}
		start += strings.Count(string(doc), "\n")
		if value != nil {
			objects = append(objects, source.Object{Value: value, At: at})
		}
	}
	counts := map[string]int{}
	for _, o := range objects {
		kind, _ := o.Value["kind"].(string)
		counts[kind]++
	}
	seen := map[string]int{}
	for _, o := range objects {
		kind, _ := o.Value["kind"].(string)
		switch at := lines[kind]; {
		case len(at) == 1:
			o.At.Line = at[0]
		case len(at) > 0 && len(at) == counts[kind]:
			o.At.Line = at[seen[kind]]
		}
		seen[kind]++
		notes, keep := translate(o, r.upgrade)
		r.result.Notes = append(r.result.Notes, notes...)
		if keep {
			r.result.Objects = append(r.result.Objects, o)
		}
	}
	return nil
}

// leading counts the lines of a document before its first value.
func leading(doc []byte) int {
	n := 0
	for line := range strings.Lines(string(doc)) {
		line = strings.TrimSpace(line)
		if line != "" && line != "---" && !strings.HasPrefix(line, "#") {
			return n
		}
		n++
	}
	return 0
}

// document parses one document as Helm does: a key that is there twice is no error. It returns nil if there is nothing
// in it.
func document(data []byte) (map[string]any, error) {
	docs, err := source.Documents(data)
	if err != nil {
		return nil, explainYAML(data, err)
	}
	if len(docs) == 0 {
		return nil, nil
	}
	if len(docs) > 1 {
		return nil, fmt.Errorf("a document in what the template gives ends by ...; start the next one by a line with ---")
	}
	if err := source.CheckNode(docs[0]); err != nil {
		return nil, err
	}
	j, err := yaml.YAMLToJSON(data)
	if err != nil {
		return nil, explainYAML(data, err)
	}
	var value any
	if err := json.Unmarshal(j, &value); err != nil {
		return nil, fmt.Errorf("what the template gives cannot be read: %w", err)
	}
	switch value := value.(type) {
	case nil:
		return nil, nil
	case map[string]any:
		if len(value) == 0 {
			return nil, nil
		}
		return value, nil
	}
	return nil, fmt.Errorf("a Kubernetes object is a mapping with apiVersion and kind, but the template gives something else")
}

// explainYAML quotes the line of what a template gave that an error of the YAML library is about: its number means
// nothing to people who see the template.
func explainYAML(data []byte, err error) error {
	line, message := source.ParseError(err)
	lines := strings.Split(string(data), "\n")
	if line > len(lines) {
		return fmt.Errorf("what the template gives is not YAML: %s", message)
	}
	const most = 100
	text := strings.TrimSpace(lines[line-1])
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return fmt.Errorf("what the template gives is not YAML: %s, at or before the line %q", message, text)
}

// The annotations of Helm that mean something here, and those that they become.
const (
	helmHook       = "helm.sh/hook"
	helmHookWeight = "helm.sh/hook-weight"
	helmHookDelete = "helm.sh/hook-delete-policy"
	helmPolicy     = "helm.sh/resource-policy"
	hook           = "slipway/hook"
	hookWeight     = "slipway/hook-weight"
	hookDelete     = "slipway/hook-delete"
	prune          = "slipway/prune"
)

// translate puts Slipway's annotations in the place of Helm's. It reports whether the object is deployed at all: hooks
// that run at another time, and tests, are not.
func translate(o source.Object, upgrade bool) (notes []string, keep bool) {
	u := unstructured.Unstructured{Object: o.Value}
	annotations, found, err := unstructured.NestedStringMap(o.Value, "metadata", "annotations")
	if err != nil || !found { // what is wrong with them is said by who checks objects
		return nil, true
	}
	note := func(format string, args ...any) {
		name := strings.ToLower(u.GetKind()) + "/" + u.GetName()
		notes = append(notes, fmt.Sprintf("%s: %s ", o.At, name)+fmt.Sprintf(format, args...))
	}
	if annotations[helmPolicy] == "keep" {
		annotations[prune] = "false"
	}
	if events, ok := annotations[helmHook]; ok {
		before, after := "pre-install", "post-install"
		if upgrade {
			before, after = "pre-upgrade", "post-upgrade"
		}
		var at, other []string
		for event := range strings.SplitSeq(events, ",") {
			switch event = strings.ToLower(strings.TrimSpace(event)); event {
			case before:
				at = append(at, "before")
			case after:
				at = append(at, "after")
			case "test", "test-success", "test-failure", "pre-install", "pre-upgrade", "post-install", "post-upgrade":
			default:
				other = append(other, event)
			}
		}
		if len(at) == 0 {
			if len(other) > 0 {
				note("is a hook for %s, which Slipway does not run; it is left out", strings.Join(other, ", "))
			}
			return notes, false
		}
		slices.Sort(at) // after, before
		annotations[hook] = at[len(at)-1]
		if at[0] != at[len(at)-1] {
			note("is a hook for before and after the rollout; it runs before")
		}
		if weight, err := strconv.Atoi(annotations[helmHookWeight]); err == nil { // any other is 0 to Helm
			annotations[hookWeight] = strconv.Itoa(weight)
		}
		if strings.Contains(annotations[helmHookDelete], "hook-succeeded") {
			annotations[hookDelete] = "succeeded"
		}
	}
	for key := range annotations {
		if key == helmPolicy || strings.HasPrefix(key, helmHook) {
			delete(annotations, key)
		}
	}
	u.SetAnnotations(annotations)
	return notes, true
}
