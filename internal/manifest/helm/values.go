package helm

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/strvals"
	"sigs.k8s.io/yaml"

	"slipway/internal/manifest/source"
)

// values returns what is given besides the chart's own values: files, then single values.
func values(r source.Request) (map[string]any, error) {
	given := map[string]any{}
	for _, name := range r.Charts.Values {
		file, err := valuesFile(r, name)
		if e, ok := errors.AsType[*source.Error](err); ok {
			return nil, e
		}
		if err != nil {
			return nil, &source.Error{File: name, Message: strings.TrimPrefix(oneLine(err.Error()), name+": ")}
		}
		given = loader.MergeMaps(given, file)
	}
	set := func(values map[string]string, parse func(string, map[string]any) error) error {
		for _, key := range slices.Sorted(maps.Keys(values)) {
			err := fmt.Errorf("a path such as image.tag or hosts[0].name is needed")
			if key != "" && !strings.ContainsAny(key, "=,{}") {
				err = parse(key+"="+escape.Replace(values[key]), given)
			}
			if err != nil {
				return &source.Error{File: r.Name, Message: fmt.Sprintf("the value %q cannot be set: %s", key, oneLine(err.Error()))}
			}
		}
		return nil
	}
	if err := set(r.Charts.Set, strvals.ParseInto); err != nil {
		return nil, err
	}
	return given, set(r.Charts.SetText, strvals.ParseIntoString)
}

// escape keeps the values of helm --set from being more than one value.
var escape = strings.NewReplacer(`\`, `\\`, `,`, `\,`, `{`, `\{`)

func valuesFile(r source.Request, name string) (map[string]any, error) {
	clean, err := source.Clean(name)
	if err != nil {
		return nil, err
	}
	data, err := r.Files.ReadFile(clean)
	if err != nil {
		return nil, err
	}
	docs, err := source.Documents(data)
	if err != nil {
		line, message := source.ParseError(err)
		return nil, &source.Error{File: name, Line: line, Column: 1, Message: message}
	}
	if len(docs) == 0 {
		return nil, nil
	}
	if len(docs) > 1 {
		return nil, fmt.Errorf("a values file is one YAML document, but this has %d", len(docs))
	}
	if err := source.CheckNode(docs[0]); err != nil {
		return nil, err
	}
	switch filled, err := source.Fill(docs[0], r.Variables); {
	case err != nil:
		return nil, err
	case filled:
		if data, err = source.Encode(docs[0]); err != nil {
			return nil, err
		}
	}
	values := map[string]any{}
	if err := yaml.Unmarshal(data, &values); err != nil {
		return nil, fmt.Errorf("a values file is a mapping: %w", err)
	}
	return values, nil
}

// validate holds the values of a chart and of its subcharts to their schemas. Helm's own validation would load what a
// schema refers to from files and the network.
func (r *run) validate(c *chart.Chart, values map[string]any) error {
	if len(c.Schema) > 0 {
		if err := validate(c.Schema, values); err != nil {
			return r.fail(r.file(c.ChartFullPath()+"/values.schema.json"), "the values of the chart %s are wrong: %s", c.Name(), err)
		}
	}
	for _, d := range c.Dependencies() {
		of, ok := values[d.Name()].(map[string]any)
		if !ok {
			continue
		}
		if err := r.validate(d, of); err != nil {
			return err
		}
	}
	return nil
}

func validate(schema []byte, values map[string]any) error {
	const name = "file:///values.schema.json"
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		return fmt.Errorf("the schema is not JSON: %w", err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(noLoader{})
	if err := compiler.AddResource(name, doc); err != nil {
		return fmt.Errorf("the schema cannot be used: %s", oneLine(err.Error()))
	}
	compiled, err := compiler.Compile(name)
	if err != nil {
		return fmt.Errorf("the schema cannot be used: %s", oneLine(err.Error()))
	}
	if err := compiled.Validate(values); err != nil {
		_, message, _ := strings.Cut(err.Error(), "\n") // the first line names the schema
		lines := strings.Split(strings.TrimSpace(message), "\n")
		for i, line := range lines {
			lines[i] = strings.TrimPrefix(oneLine(line), "- ")
		}
		return fmt.Errorf("%s", strings.Join(lines, "; "))
	}
	return nil
}

// noLoader is how a schema reaches other files: not at all.
type noLoader struct{}

func (noLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("it refers to %s, but only the schema itself is read", url)
}
