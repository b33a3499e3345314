package drone

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"slipway/internal/plan"
	"slipway/internal/yaml"
)

// document is a part of the file, as it is written.
type document struct {
	yaml.Document
	root     *yaml.Node
	pipeline *pipeline
}

// chosen is a pipeline whose trigger fits.
type chosen struct {
	document
	// number counts from 1.
	number int
	// needs are the chosen pipelines that it waits for.
	needs []string
}

var format08 = regexp.MustCompile(`(?m)^pipeline:\s*$`)

// choose reads the file as it is written and returns the pipelines whose triggers fit. Triggers see ${...} as text.
func (c *compiler) choose(src plan.Source) []chosen {
	r := &c.literal
	text := string(src.Text)
	if len(text) > maxBytes {
		r.errorf(yaml.Pos{Line: 1, Column: 1}, "the file has %d bytes; at most %d are read", len(text), maxBytes)
		return nil
	}
	if at := format08.FindStringIndex(text); at != nil {
		r.errorf(yaml.Pos{Line: strings.Count(text[:at[0]], "\n") + 1, Column: 1},
			"the format of Drone 0.8, which begins with pipeline:, is not supported yet; write documents of kind: pipeline")
		return nil
	}
	var docs []document
	var pipelines []*pipeline
	split := yaml.Split(text)
	if len(split) > maxDocuments {
		r.errorf(yaml.Pos{Line: split[maxDocuments].Line, Column: 1}, "the file has more than %d documents", maxDocuments)
		return nil
	}
	for _, d := range split {
		doc := document{Document: d}
		if c.outline(&doc) {
			docs = append(docs, doc)
			pipelines = append(pipelines, doc.pipeline)
		}
	}
	if len(split) == 0 {
		r.errorf(yaml.Pos{Line: 1, Column: 1}, "the file has no pipeline")
	}
	if len(pipelines) > plan.MaxJobs {
		r.errorf(pipelines[plan.MaxJobs].at, "the file has %d pipelines; at most %d are allowed", len(pipelines), plan.MaxJobs)
		return nil
	}
	steps := 0
	for _, p := range pipelines {
		if steps += len(p.services) + len(p.steps); steps > maxSteps {
			r.errorf(p.at, "the file has more than %d steps", maxSteps)
			return nil
		}
	}
	r.lintAll(pipelines)
	if r.problems.Err() != nil {
		return nil
	}
	return c.match(docs)
}

// match returns the documents whose triggers fit. One that does not is replaced, where it is needed, by what it needs.
func (c *compiler) match(docs []document) []chosen {
	var all []chosen
	skipped := map[string][]string{}
	for _, doc := range docs {
		p := doc.pipeline
		var needs []string
		for _, need := range p.needs {
			replaced, ok := skipped[need.name]
			if !ok {
				replaced = []string{need.name}
			}
			for _, name := range replaced {
				if !slices.Contains(needs, name) {
					needs = append(needs, name)
				}
			}
		}
		if _, ok := p.trigger.outcomes(); !ok || !p.trigger.trigger(c.facts) {
			skipped[p.name] = needs
			continue
		}
		all = append(all, chosen{document: doc, number: len(all) + 1, needs: needs})
	}
	return all
}

// outline reads a document as it is written, and reports whether it is a pipeline.
func (c *compiler) outline(doc *document) bool {
	doc.root = c.parse(doc.Text, doc.At)
	if doc.root == nil || !c.literal.header(doc.root) {
		return false
	}
	p := c.literal.pipeline(doc.root)
	doc.pipeline = p
	c.literal.lint(p, denied(c.in))
	for _, s := range p.steps {
		if kind := builtinKind(s); kind != "" {
			b := builtin{reader: &c.literal, in: c.in, pipeline: p, step: s, env: c.build}
			b.compile(kind, &plan.Step{})
		}
	}
	// The text must be fit for substitution even if the pipeline does not run now.
	c.substitute(doc.Document, stageVariables(c.build, p, 0, nil, "", ""))
	return true
}

// parse reads one text of a document.
func (c *compiler) parse(text string, at func(yaml.Pos) yaml.Pos) *yaml.Node {
	root, duplicates, err := yaml.Parse(text, at)
	if err != nil {
		pos, message := yaml.ErrorAt(err)
		c.literal.errorf(pos, "%s", message)
		return nil
	}
	for _, d := range duplicates {
		c.literal.warnf(d.Key.Pos, "the key %q was given in line %d already; only this one holds", d.Key.Text, d.First.Line)
	}
	if root == nil {
		return nil
	}
	if root.Kind != yaml.Mapping {
		c.literal.errorf(root.Pos, "a document must be a mapping, not %s", root.Kind)
		return nil
	}
	return root
}

// Kinds of documents and types of pipelines that Drone knows and Slipway does not yet.
var (
	laterKinds = []string{"approval", "cron", "deployment", "registry", "secret", "signature", "template"}
	laterTypes = []string{"aws", "digitalocean", "exec", "kubernetes", "macstadium", "nomad", "ssh", "vm"}
)

// header reports whether a document is a pipeline that is supported.
func (r *reader) header(root *yaml.Node) bool {
	get := func(key string) (string, yaml.Pos) {
		n := root.Get(key)
		if n == nil {
			return "", root.Pos
		}
		return r.text(n, key), n.Pos
	}
	kind, at := get("kind")
	switch {
	case kind == "pipeline":
	case kind == "":
		r.errorf(at, "the document has no kind; write kind: pipeline")
		return false
	case slices.Contains(laterKinds, kind):
		r.errorf(at, "documents of kind %s are not supported yet", kind)
		return false
	default:
		r.warnf(at, "documents of kind %q are ignored%s", kind, didYouMean(kind, append([]string{"pipeline"}, laterKinds...)))
		return false
	}
	typ, at := get("type")
	switch {
	case typ == "" || typ == "docker":
		return true
	case slices.Contains(laterTypes, typ):
		r.errorf(at, "pipelines of type %s are not supported yet; only docker is", typ)
	default:
		r.errorf(at, "pipelines of type %q are not known; only docker is supported%s", typ, didYouMean(typ, []string{"docker"}))
	}
	return false
}

// substitute replaces ${...} in a document and returns the result with a map of its places to those of the file.
func (c *compiler) substitute(doc yaml.Document, vars variables) (text string, at func(yaml.Pos) yaml.Pos, ok bool) {
	places := cursor{text: doc.Text, pos: yaml.Pos{Line: 1, Column: 1}}
	sub, err := substitute(doc.Text, vars.lookup(c.in.Event.Params))
	if err != nil {
		offset := 0
		if e, ok := errors.AsType[*substituteError](err); ok {
			offset = e.offset
		}
		c.literal.errorf(doc.At(places.place(offset)), "%s", err)
		return "", nil, false
	}
	for _, u := range sub.unknown {
		c.warnUnknown(doc, u, vars, doc.At(places.place(u.offset)))
	}
	within := sub.at(doc.Text)
	return sub.text, func(p yaml.Pos) yaml.Pos { return doc.At(within(p)) }, true
}

// warnUnknown warns of the trap that ${NAME} is meant for the shell but is replaced, by nothing, before it runs.
func (c *compiler) warnUnknown(doc yaml.Document, u unknown, vars variables, at yaml.Pos) {
	line := doc.Text[strings.LastIndexByte(doc.Text[:u.offset], '\n')+1:]
	if strings.HasPrefix(strings.TrimSpace(line), "#") {
		return
	}
	why := "is not known here"
	if _, ok := vars[u.name]; ok {
		why = "is known only when a step starts"
	}
	c.literal.warnf(at, "${%s} is replaced by nothing, because %s %s; write $%s or $${%s} to leave it to the shell", u.name, u.name, why, u.name, u.name)
}

// substituted reads a chosen pipeline as it runs.
func (c *compiler) substituted(chosen chosen) (*pipeline, variables) {
	os, arch := c.platform(chosen.pipeline)
	vars := stageVariables(c.build, chosen.pipeline, chosen.number, chosen.needs, os, arch)
	text, at, ok := c.substitute(chosen.Document, vars)
	if !ok {
		return nil, nil
	}
	root := chosen.root
	if text != chosen.Text {
		root = c.parse(text, at)
	}
	if root == nil {
		return nil, nil
	}
	return c.reader.pipeline(root), vars
}
