package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"path"
	"strings"

	yamlv3 "go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kjson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"

	"slipway/internal/manifest/source"
)

// node is a part of a parsed file, which knows where it is. The zero value of its fields stands for "not known".
type node struct {
	file string
	yaml *yamlv3.Node
	line int // lines of the file before the document
}

// at returns where the value at a path of keys (string) and indexes (int) is, or the last part of the path that exists.
func (n node) at(path ...any) Position {
	if n.yaml == nil {
		return Position{File: n.file, Line: n.line}
	}
	y := n.yaml
	if y.Kind == yamlv3.DocumentNode && len(y.Content) > 0 {
		y = y.Content[0]
	}
	for _, step := range path {
		next := child(y, step)
		if next == nil {
			break
		}
		y = next
	}
	return Position{File: n.file, Line: n.line + y.Line, Column: y.Column}
}

// sub returns the part of n at a path, for the items of a list.
func (n node) sub(path ...any) node {
	if n.yaml == nil {
		return n
	}
	y := n.yaml
	if y.Kind == yamlv3.DocumentNode && len(y.Content) > 0 {
		y = y.Content[0]
	}
	for _, step := range path {
		if next := child(y, step); next != nil {
			y = next
		}
	}
	return node{n.file, y, n.line}
}

func child(y *yamlv3.Node, step any) *yamlv3.Node {
	if y.Kind == yamlv3.AliasNode {
		y = y.Alias
	}
	switch step := step.(type) {
	case string:
		for i := 0; y.Kind == yamlv3.MappingNode && i+1 < len(y.Content); i += 2 {
			if y.Content[i].Value == step {
				return y.Content[i+1]
			}
		}
	case int:
		if y.Kind == yamlv3.SequenceNode && step < len(y.Content) {
			return y.Content[step]
		}
	}
	return nil
}

// plain adds the objects of a file of YAML documents, or of JSON values.
func (r *rendering) plain(name string, data []byte) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if trimmed := bytes.TrimLeft(data, " \t\r\n"); len(trimmed) > 0 && trimmed[0] == '{' && (path.Ext(name) == ".json" || startsJSON(trimmed)) {
		r.json(name, data)
		return
	}
	line := 0
	for _, doc := range source.Split(data) {
		r.document(name, doc, line)
		if r.full {
			return
		}
		line += bytes.Count(doc, []byte("\n"))
	}
}

// startsJSON reports whether data begins with a whole JSON value. A mapping in braces may be YAML as well.
func startsJSON(data []byte) bool {
	var raw json.RawMessage
	return json.NewDecoder(bytes.NewReader(data)).Decode(&raw) == nil
}

// document adds the objects of one YAML document. The value is read by the library that kubectl uses, so that it means
// the same; the tree of nodes is for positions.
func (r *rendering) document(name string, data []byte, line int) {
	docs, err := source.Documents(data)
	if err != nil {
		at, message := source.ParseError(err)
		r.fail(Position{File: name, Line: line + at, Column: 1}, "%s", message)
		return
	}
	if len(docs) == 0 { // only comments or directives
		return
	}
	n := node{name, docs[0], line}
	if len(docs) > 1 {
		r.fail(node{name, docs[1], line}.at(), "a document ends here by ...; start the next one by a line with ---")
		return
	}
	if err := source.CheckNode(docs[0]); err != nil {
		r.fail(n.at(), "%s", err)
		return
	}
	j, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		at, message := source.ParseError(err)
		r.fail(Position{File: name, Line: line + at, Column: 1}, "%s", message)
		return
	}
	if filled, ok := r.fill(docs[0], n); !ok {
		return
	} else if filled != nil {
		j = filled
	}
	r.value(j, n, nil)
}

// fill fills variables into a document and returns its JSON, or nil if it has none of them. It reports whether that went
// well.
func (r *rendering) fill(doc *yamlv3.Node, n node) (j []byte, ok bool) {
	filled, err := source.Fill(doc, r.source.Variables)
	if !filled && err == nil {
		return nil, true
	}
	if err == nil {
		var data []byte
		if data, err = source.Encode(doc); err == nil {
			j, err = yaml.YAMLToJSONStrict(data)
		}
	}
	if err != nil {
		r.fail(n.at(), "%s", err)
		return nil, false
	}
	return j, true
}

// json adds the objects of a file of JSON values.
func (r *rendering) json(name string, data []byte) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	for !r.full {
		var raw json.RawMessage
		err := decoder.Decode(&raw)
		if errors.Is(err, io.EOF) {
			return
		}
		offset := decoder.InputOffset() - int64(len(raw))
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			offset = syntax.Offset - 1
		}
		before := data[:min(max(int(offset), 0), len(data))]
		line := bytes.Count(before, []byte("\n"))
		if err != nil {
			r.fail(Position{File: name, Line: line + 1, Column: len(before) - bytes.LastIndexByte(before, '\n')}, "this is not JSON: %s", strings.TrimPrefix(err.Error(), "json: "))
			return
		}
		// JSON is YAML enough to find positions in it; where it is not (tabs), there are none.
		n := node{file: name, line: line + 1}
		if docs, err := source.Documents(raw); err == nil && len(docs) == 1 {
			n = node{name, docs[0], line}
		}
		r.value(raw, n, r.source.Variables)
	}
}

// value adds the object, or the objects of the list, that data is the JSON of, with variables filled in.
func (r *rendering) value(data []byte, n node, variables map[string]string) {
	var value any
	err := kjson.Unmarshal(data, &value)
	if err == nil {
		value, err = source.FillText(value, variables)
	}
	if err != nil {
		r.fail(n.at(), "%s", strings.TrimPrefix(err.Error(), "json: "))
		return
	}
	switch value := value.(type) {
	case nil:
	case map[string]any:
		if len(value) > 0 {
			r.add(value, n)
		}
	default:
		r.fail(n.at(), "a Kubernetes object is a mapping with apiVersion and kind, but this is not a mapping")
	}
}

// add checks a value and adds it, or the items of it if it is a list.
func (r *rendering) add(value map[string]any, n node) {
	u := &unstructured.Unstructured{Object: value}
	if items, ok := value["items"].([]any); ok && strings.HasSuffix(u.GetKind(), "List") {
		for i, item := range items {
			m, ok := item.(map[string]any)
			if !ok {
				r.fail(n.at("items", i), "an item of a %s is a mapping with apiVersion and kind, but this is not a mapping", u.GetKind())
				continue
			}
			r.add(m, n.sub("items", i))
		}
		return
	}
	if r.full {
		return
	}
	if len(r.objects) == MaxObjects {
		r.full = true
		r.fail(n.at(), "there are more than %d objects; deploy them in parts", MaxObjects)
		return
	}
	o := Object{Unstructured: u, Origin: n.at()}
	if r.check(o, n) {
		r.objects = append(r.objects, o)
	}
}

// check says what is wrong with an object as far as that can be known without a cluster.
func (r *rendering) check(o Object, n node) bool {
	before := len(r.problems)
	for _, field := range []string{"apiVersion", "kind"} {
		switch v := o.Object[field].(type) {
		case string:
			if v == "" {
				r.fail(n.at(field), "%s is empty", field)
			}
		case nil:
			r.fail(n.at(), "%s is missing, so this is not a Kubernetes object", field)
		default:
			r.fail(n.at(field), "%s must be a string; put it in quotes", field)
		}
	}
	if len(r.problems) > before {
		return false
	}
	if strings.HasPrefix(o.GetAPIVersion(), "kustomize.config.k8s.io/") {
		r.fail(n.at(), "this is a file of Kustomize and no object; name it kustomization.yaml and deploy its folder")
		return false
	}
	metadata, ok := o.Object["metadata"].(map[string]any)
	if !ok {
		r.fail(n.at("metadata"), "%s has no metadata with a name", o.GetKind())
		return false
	}
	switch name := metadata["name"].(type) {
	case string:
		if name == "" {
			r.fail(n.at("metadata", "name"), "metadata.name is empty")
		}
	case nil:
		if metadata["generateName"] != nil {
			r.fail(n.at("metadata", "generateName"), "generateName cannot be deployed, because each deployment would make another object; give it a name")
		} else {
			r.fail(n.at("metadata"), "%s has no metadata.name", o.GetKind())
		}
	default:
		r.fail(n.at("metadata", "name"), "metadata.name must be a string; put it in quotes")
	}
	if ns, ok := metadata["namespace"]; ok && ns != nil {
		if _, ok := ns.(string); !ok {
			r.fail(n.at("metadata", "namespace"), "metadata.namespace must be a string; put it in quotes")
		}
	}
	for _, field := range []string{"labels", "annotations"} {
		switch m := metadata[field].(type) {
		case nil:
		case map[string]any:
			for key, v := range m {
				if _, ok := v.(string); !ok {
					r.fail(n.at("metadata", field, key), "the value of metadata.%s.%s must be a string; put it in quotes", field, key)
				}
			}
		default:
			r.fail(n.at("metadata", field), "metadata.%s must be a mapping", field)
		}
	}
	return len(r.problems) == before
}
