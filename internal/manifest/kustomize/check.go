package kustomize

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"sigs.k8s.io/kustomize/api/types"

	"slipway/internal/manifest/source"
)

// MaxFolders is how many kustomizations one build may go through, repeated ones counted again: bases that each name two
// others double with every level.
const MaxFolders = 500

// checker walks what a kustomization refers to, as Kustomize will.
//
// Kustomize looks for URLs before it looks at its file system, so a file system alone cannot keep it from the network.
// The check is exact for resources, patches and generators, and stricter than needed for transformers: no text in their
// configuration may look like a URL, because which of their fields is a path depends on the transformer.
type checker struct {
	files   *source.Files
	folders int
}

// folder checks the kustomization in dir. visiting are the folders on the way to it.
func (c *checker) folder(dir string, visiting []string) error {
	if slices.Contains(visiting, dir) {
		return &Error{File: dir, Message: "the kustomization includes itself, by way of " + strings.Join(visiting, ", ")}
	}
	if c.folders++; c.folders > MaxFolders {
		return &Error{File: dir, Message: fmt.Sprintf("more than %d kustomizations are included", MaxFolders)}
	}
	name, data, err := c.find(dir)
	if err != nil {
		return err
	}
	if err := source.CheckYAML(data); err != nil {
		return &Error{File: name, Message: err.Error()}
	}
	k, err := parse(name, data)
	if err != nil {
		return err
	}
	docs, _ := source.Documents(data)
	f := file{checker: c, name: name, dir: dir, visiting: append(slices.Clone(visiting), dir)}
	if len(docs) > 0 {
		f.doc = docs[0]
	}
	return f.check(k)
}

// find returns the one kustomization file of dir.
func (c *checker) find(dir string) (name string, data []byte, err error) {
	for _, base := range FileNames() {
		content, err := c.files.ReadFile(path.Join(dir, base))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return "", nil, fileError(path.Join(dir, base), err)
		case name != "":
			return "", nil, &Error{File: dir, Message: fmt.Sprintf("the folder has two kustomizations, %s and %s; keep one", path.Base(name), base)}
		}
		name, data = path.Join(dir, base), content
	}
	if name == "" {
		return "", nil, &Error{File: dir, Message: "the folder has no kustomization.yaml"}
	}
	return name, data, nil
}

var (
	unknownField = regexp.MustCompile(`unknown field "([^"]+)"`)
	yamlLine     = regexp.MustCompile(`yaml: line (\d+): (.*)`)
)

// parse reads a kustomization as Kustomize does.
func parse(name string, data []byte) (*types.Kustomization, error) {
	var k types.Kustomization
	err := k.Unmarshal(data)
	if err == nil {
		k.FixKustomization()
		return &k, nil
	}
	e := &Error{File: name, Message: strings.TrimPrefix(strings.Join(strings.Fields(err.Error()), " "), "invalid Kustomization: ")}
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		_, _ = fmt.Sscan(m[1], &e.Line)
		e.Message = m[2]
	} else if m := unknownField.FindStringSubmatch(err.Error()); m != nil {
		e.Message = fmt.Sprintf("Kustomize knows no field %s", m[1])
		if docs, err := source.Documents(data); err == nil && len(docs) > 0 {
			e.Line, e.Column = keyPosition(docs[0], m[1])
		}
	}
	return nil, e
}

// keyPosition returns where key first stands in a document.
func keyPosition(n *yaml.Node, key string) (line, column int) {
	if n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == key {
				return n.Content[i].Line, n.Content[i].Column
			}
		}
	}
	for _, c := range n.Content {
		if line, column := keyPosition(c, key); line > 0 {
			return line, column
		}
	}
	return 0, 0
}

// file is one kustomization file that is being checked.
type file struct {
	*checker
	name, dir string
	doc       *yaml.Node
	visiting  []string
}

// fail returns an error at the first place where value stands in the file.
func (f *file) fail(value, format string, args ...any) error {
	e := &Error{File: f.name, Message: fmt.Sprintf(format, args...)}
	if f.doc != nil {
		e.Line, e.Column = valuePosition(f.doc, value)
	}
	return e
}

func valuePosition(n *yaml.Node, value string) (line, column int) {
	if n.Kind == yaml.ScalarNode && n.Value == value {
		return n.Line, n.Column
	}
	for _, c := range n.Content {
		if line, column := valuePosition(c, value); line > 0 {
			return line, column
		}
	}
	return 0, 0
}

func (f *file) check(k *types.Kustomization) error {
	if len(k.HelmCharts) > 0 || k.HelmGlobals != nil {
		return f.fail("helmCharts", "Helm charts in a kustomization are not supported, because Kustomize would run the program helm")
	}
	if len(k.OpenAPI) > 0 {
		return f.fail("openapi", "openapi is not supported, because Kustomize keeps that schema for the whole process")
	}
	for _, ref := range k.Resources {
		if err := f.fileOrFolder(ref); err != nil {
			return err
		}
	}
	for _, ref := range k.Components {
		if err := f.fileOrFolder(ref); err != nil {
			return err
		}
	}
	for _, list := range [][]string{k.Generators, k.Transformers, k.Validators} {
		for _, ref := range list {
			if err := f.plugin(ref); err != nil {
				return err
			}
		}
	}
	for _, ref := range slices.Concat(k.Configurations, k.Crds) {
		if err := f.file(ref); err != nil {
			return err
		}
	}
	for _, p := range slices.Concat(k.Patches, k.PatchesJson6902) {
		if p.Path != "" {
			if err := f.file(p.Path); err != nil {
				return err
			}
		}
		if err := f.inline(p.Patch); err != nil {
			return err
		}
	}
	for _, p := range k.PatchesStrategicMerge { // a file or an inline patch
		if remote(string(p)) {
			return f.remote(string(p))
		}
		if err := f.inline(string(p)); err != nil {
			return err
		}
	}
	for _, r := range k.Replacements {
		if r.Path != "" {
			if err := f.file(r.Path); err != nil {
				return err
			}
		}
	}
	for _, g := range k.ConfigMapGenerator {
		if err := f.pairs(g.KvPairSources); err != nil {
			return err
		}
	}
	for _, g := range k.SecretGenerator {
		if err := f.pairs(g.KvPairSources); err != nil {
			return err
		}
	}
	return nil
}

// fileOrFolder checks a resource: a file of objects, or a folder with a kustomization of its own.
func (f *file) fileOrFolder(ref string) error {
	if remote(ref) {
		return f.remote(ref)
	}
	name, err := local(f.dir, ref)
	if err != nil {
		return f.fail(ref, "%s", err)
	}
	isDir, err := f.files.Stat(name)
	switch {
	case err != nil:
		return f.fail(ref, "%s", err)
	case isDir:
		return f.folder(name, f.visiting)
	}
	return f.file(ref)
}

// file checks a file that Kustomize reads.
func (f *file) file(ref string) error {
	if remote(ref) {
		return f.remote(ref)
	}
	name, err := local(f.dir, ref)
	if err != nil {
		return f.fail(ref, "%s", err)
	}
	data, err := f.files.ReadFile(name)
	if err != nil {
		return f.fail(ref, "%s", err)
	}
	if err := source.CheckYAML(data); err != nil {
		return fileError(name, err)
	}
	return nil
}

// pairs checks where a ConfigMap or Secret gets its values from.
func (f *file) pairs(k types.KvPairSources) error {
	for _, ref := range slices.Concat(k.FileSources, k.EnvSources) {
		// A source may be key=path, and a path may have an equals sign.
		for rest, found := ref, true; found; _, rest, found = strings.Cut(rest, "=") {
			if remote(rest) {
				return f.remote(ref)
			}
		}
		_, name, found := strings.Cut(ref, "=")
		if !found {
			name = ref
		}
		if _, err := local(f.dir, name); err != nil {
			return f.fail(ref, "%s", err)
		}
	}
	return nil
}

// plugin checks a generator, transformer or validator: an inline text, or else a file, that configures one of
// Kustomize's own. What Kustomize takes for inline depends on its parser, so both are looked at.
func (f *file) plugin(ref string) error {
	if err := f.pluginConfig(f.name, []byte(ref)); err != nil {
		return err
	}
	name, err := local(f.dir, ref)
	if err != nil {
		return f.fail(ref, "%s", err)
	}
	isDir, err := f.files.Stat(name)
	switch {
	case err != nil && strings.Contains(ref, ":"): // inline, as far as the file system can tell
		return nil
	case err != nil:
		return f.fail(ref, "%s", err)
	case isDir:
		return f.fail(ref, "%s is a folder; name the files of generators, transformers and validators one by one", ref)
	}
	data, err := f.files.ReadFile(name)
	if err != nil {
		return f.fail(ref, "%s", err)
	}
	return f.pluginConfig(name, data)
}

func (f *file) pluginConfig(name string, data []byte) error {
	if err := source.CheckYAML(data); err != nil {
		return fileError(name, err)
	}
	docs, err := source.Documents(data)
	if err != nil {
		return fileError(name, err)
	}
	for _, doc := range docs {
		if text, ok := findRemote(doc); ok {
			return &Error{File: name, Message: fmt.Sprintf("%s looks like a URL; generators, transformers and validators cannot have any, because rendering uses no network", text)}
		}
	}
	return nil
}

// inline checks a text in the kustomization that Kustomize parses as YAML of its own.
func (f *file) inline(text string) error {
	if err := source.CheckYAML([]byte(text)); err != nil {
		return f.fail(text, "%s", err)
	}
	return nil
}

func (f *file) remote(ref string) error {
	return f.fail(ref, "%s is not in the workspace; rendering uses no network, so put a copy into the repository", ref)
}

func fileError(name string, err error) error {
	return &Error{File: name, Message: strings.TrimPrefix(err.Error(), name+": ")}
}

// findRemote returns a text of n that Kustomize could take for something to fetch.
func findRemote(n *yaml.Node) (string, bool) {
	if n.Kind == yaml.ScalarNode {
		for rest, found := n.Value, true; found; _, rest, found = strings.Cut(rest, "=") {
			if remote(rest) {
				return n.Value, true
			}
		}
	}
	for _, c := range n.Content {
		if text, ok := findRemote(c); ok {
			return text, true
		}
	}
	return "", false
}

// gitLike are the beginnings of what Kustomize gives to git; see git.NewRepoSpecFromURL in its sources.
var gitLike = regexp.MustCompile(`(?i)^(git::)?((ssh|https?|file)://|[a-z][a-z0-9-]*@|github\.com[/:])`)

// remote reports whether Kustomize could take ref for something to fetch.
func remote(ref string) bool {
	if u, err := url.Parse(ref); err == nil && (u.Scheme == "http" || u.Scheme == "https") {
		return true
	}
	return gitLike.MatchString(ref)
}
