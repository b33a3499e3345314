// Package helm renders a Helm chart of a workspace to objects, as `helm template` does.
//
// [Render] loads the chart ([load]), puts its values together ([values]), runs Helm's own template engine, and reads
// what it gives ([documents]). Hooks become Slipway's ([translate]). Nothing is downloaded, no cluster is asked, and
// nothing outside of the chart and the values files is read. Helm's packages for installing are not used.
package helm

import (
	"context"
	"fmt"
	"maps"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig/v3"
	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	chart "helm.sh/helm/v4/pkg/chart/v2"
	chartutil "helm.sh/helm/v4/pkg/chart/v2/util"
	"helm.sh/helm/v4/pkg/engine"

	"slipway/internal/manifest/source"
)

// ChartFile is the file by which a folder is known to be a chart.
const ChartFile = "Chart.yaml"

// Render renders the chart in the folder that r names. CustomResourceDefinitions come first, then what the templates
// give, by the names of their files.
//
// The error is a [*source.Error], or that of ctx, which is only looked at before rendering. How long templates run, and
// how much memory they take, is up to them: whoever does not trust a chart does this in a process of its own.
func Render(ctx context.Context, r source.Request) (source.Result, error) {
	c, err := load(r.Files, r.Name)
	if err != nil {
		return source.Result{}, err
	}
	if err := ctx.Err(); err != nil {
		return source.Result{}, err
	}
	chartFile := path.Join(r.Name, ChartFile)
	caps, err := capabilities(r.Charts)
	if err != nil {
		return source.Result{}, &source.Error{File: chartFile, Message: err.Error()}
	}
	if err := check(c, caps); err != nil {
		return source.Result{}, &source.Error{File: chartFile, Message: err.Error()}
	}
	given, err := values(r)
	if err != nil {
		return source.Result{}, err
	}
	release := common.ReleaseOptions{Name: r.Charts.Release, Namespace: r.Namespace, Revision: 1, IsInstall: !r.Charts.Upgrade, IsUpgrade: r.Charts.Upgrade}
	if release.Name == "" {
		release.Name = c.Name()
	}
	if err := chartutil.ValidateReleaseName(release.Name); err != nil {
		return source.Result{}, &source.Error{File: chartFile, Message: fmt.Sprintf("%q cannot be the name of a Helm release: lower-case letters, digits and - only, and at most 53 of them", release.Name)}
	}
	if release.Namespace == "" {
		release.Namespace = "default"
	}
	run := run{folder: r.Name, chart: c, upgrade: r.Charts.Upgrade}
	if err := run.render(ctx, given, release, caps); err != nil {
		return source.Result{}, err
	}
	return run.result, nil
}

// capabilities returns what templates know of the cluster.
func capabilities(c source.Charts) (*common.Capabilities, error) {
	caps := common.DefaultCapabilities.Copy()
	if c.KubeVersion != "" {
		version, err := common.ParseKubeVersion(c.KubeVersion)
		if err != nil {
			return nil, fmt.Errorf("%q is not a version of Kubernetes; write it as 1.34 or v1.34.1", c.KubeVersion)
		}
		caps.KubeVersion = *version
	}
	if len(c.APIVersions) > 0 {
		caps.APIVersions = c.APIVersions
	}
	return caps, nil
}

// check returns an error if a chart cannot be rendered, whatever its values are.
func check(c *chart.Chart, caps *common.Capabilities) error {
	if c.Metadata.Type == "library" {
		return fmt.Errorf("the chart %s is a library, which gives no objects; deploy a chart that uses it", c.Name())
	}
	if needs := c.Metadata.KubeVersion; needs != "" && !chartutil.IsCompatibleRange(needs, caps.KubeVersion.String()) {
		return fmt.Errorf("the chart %s needs Kubernetes %s, but the version is %s", c.Name(), needs, caps.KubeVersion.Version)
	}
	for _, needed := range c.Metadata.Dependencies {
		if !slices.ContainsFunc(c.Dependencies(), func(d *chart.Chart) bool { return d.Name() == needed.Name }) {
			return fmt.Errorf("the chart %s needs the chart %s %s, which is not in its folder charts; run `helm dependency build` and put charts into the repository, because rendering downloads nothing", c.Name(), needed.Name, needed.Version)
		}
	}
	for _, d := range c.Dependencies() {
		if d.Metadata.Type == "library" { // it has no objects, whatever it needs
			continue
		}
		if err := check(d, caps); err != nil {
			return err
		}
	}
	return nil
}

// run is the rendering of one chart.
type run struct {
	folder  string
	chart   *chart.Chart
	upgrade bool
	result  source.Result
}

func (r *run) fail(file, format string, args ...any) error {
	return &source.Error{File: file, Message: fmt.Sprintf(format, args...)}
}

// file returns the name in the workspace of what Helm calls name: it puts the chart's name in front.
func (r *run) file(name string) string {
	_, inside, _ := strings.Cut(name, "/")
	return path.Join(r.folder, inside)
}

func (r *run) render(ctx context.Context, given map[string]any, release common.ReleaseOptions, caps *common.Capabilities) (err error) {
	defer func() { // of Helm's packages, only the engine catches its own
		if p := recover(); p != nil {
			err = r.fail(r.folder, "Helm cannot cope with it: %v", p)
		}
	}()
	if err := chartutil.ProcessDependencies(r.chart, given); err != nil {
		return r.fail(path.Join(r.folder, ChartFile), "%s", oneLine(err.Error()))
	}
	top, err := util.ToRenderValuesWithSchemaValidation(r.chart, given, release, caps, true)
	if err != nil {
		return r.fail(path.Join(r.folder, "values.yaml"), "%s", oneLine(err.Error()))
	}
	merged, err := top.Table("Values")
	if err != nil {
		return r.fail(path.Join(r.folder, "values.yaml"), "%s", oneLine(err.Error()))
	}
	if err := r.validate(r.chart, merged); err != nil {
		return err
	}
	for _, crd := range r.chart.CRDObjects() {
		if err := r.documents(r.file(crd.Filename), string(crd.File.Data), nil); err != nil {
			return err
		}
	}
	watched := watchedFuncs{used: map[string]bool{}}
	output, err := engine.Engine{CustomTemplateFuncs: watched.funcs()}.RenderWithContext(ctx, r.chart, top)
	if err != nil {
		return r.explain(err)
	}
	total := 0
	kinds := templateLines(r.chart)
	for _, name := range slices.Sorted(maps.Keys(output)) {
		if total += len(output[name]); total > source.MaxTotalBytes {
			return r.fail(r.file(name), "the templates give more than %d MiB", source.MaxTotalBytes>>20)
		}
		if path.Base(name) == "NOTES.txt" {
			continue
		}
		if err := r.documents(r.file(name), output[name], kinds[name]); err != nil {
			return err
		}
	}
	r.result.Notes = append(r.result.Notes, watched.notes(r.folder)...)
	return nil
}

// kindLine finds where a template writes the kind of an object.
var kindLine = regexp.MustCompile(`(?m)^kind:[ \t]*["']?([A-Za-z0-9]+)["']?[ \t]*$`)

// templateLines returns, for each template by its name at Helm, the lines on which it writes each kind.
func templateLines(c *chart.Chart) map[string]map[string][]int {
	lines := map[string]map[string][]int{}
	for _, t := range c.Templates {
		kinds := map[string][]int{}
		text := strings.ReplaceAll(string(t.Data), "\r", "")
		for _, m := range kindLine.FindAllStringSubmatchIndex(text, -1) {
			kind := text[m[2]:m[3]]
			kinds[kind] = append(kinds[kind], 1+strings.Count(text[:m[0]], "\n"))
		}
		lines[path.Join(c.ChartFullPath(), t.Name)] = kinds
	}
	for _, d := range c.Dependencies() {
		maps.Copy(lines, templateLines(d))
	}
	return lines
}

// place is how the messages of the engine name a place of a template.
var place = regexp.MustCompile(`([^\s():]+):(\d+)(?::(\d+))?`)

// explain makes one sentence of an error of the engine. The first place in it is where the template stands that is
// rendered; places after it lead to what it includes.
func (r *run) explain(err error) error {
	message := err.Error()
	e := &source.Error{File: r.folder}
	known := map[string]bool{}
	addTemplates(r.chart, known)
	for _, m := range place.FindAllStringSubmatch(message, -1) {
		if !known[m[1]] {
			continue
		}
		e.File = r.file(m[1])
		e.Line, _ = strconv.Atoi(m[2])
		if column, err := strconv.Atoi(m[3]); err == nil {
			e.Column = column + 1 // templates count from 0
		}
	}
	lines := strings.Split(strings.TrimSpace(message), "\n")
	last := strings.TrimSpace(lines[len(lines)-1])
	for _, intro := range []string{"execution error at (", "parse error at ("} {
		if rest, ok := strings.CutPrefix(message, intro); ok {
			_, rest, _ = strings.Cut(rest, "): ")
			last = oneLine(rest)
		}
	}
	last = oneLine(last)
	for {
		intro := executing.FindString(last)
		if intro == "" {
			break
		}
		last = last[len(intro):]
		if _, rest, ok := strings.Cut(last, ": template: "); ok && strings.HasPrefix(last, "error calling ") {
			last = "template: " + rest
		}
	}
	if len(last) > maxMessage {
		last = strings.ToValidUTF8(last[:maxMessage], "") + "…"
	}
	e.Message = last
	return e
}

// executing is what comes before the cause in an error of a template, once for each template on the way to it.
var executing = regexp.MustCompile(`^template: \S+: executing "[^"]*" at <.*?>: `)

// maxMessage bounds a message that templates made.
const maxMessage = 1000

func addTemplates(c *chart.Chart, names map[string]bool) {
	for _, t := range c.Templates {
		names[path.Join(c.ChartFullPath(), t.Name)] = true
	}
	for _, d := range c.Dependencies() {
		addTemplates(d, names)
	}
}

// watchedFuncs are the functions of templates that give something else each time, or would need the cluster. They work
// as ever; that they were called is said.
type watchedFuncs struct{ used map[string]bool }

func (w watchedFuncs) funcs() template.FuncMap {
	all := sprig.TxtFuncMap()
	watched := template.FuncMap{
		"lookup": func(string, string, string, string) (map[string]any, error) {
			w.used["lookup"] = true
			return map[string]any{}, nil
		},
	}
	for _, name := range []string{
		"randAlphaNum", "randAlpha", "randAscii", "randNumeric", "randBytes", "randInt", "uuidv4", "shuffle", "htpasswd", "bcrypt", "encryptAES",
		"genPrivateKey", "genCA", "genCAWithKey", "genSelfSignedCert", "genSelfSignedCertWithKey", "genSignedCert", "genSignedCertWithKey", "now",
	} {
		f := reflect.ValueOf(all[name])
		if !f.IsValid() {
			continue
		}
		watched[name] = reflect.MakeFunc(f.Type(), func(args []reflect.Value) []reflect.Value {
			w.used[name] = true
			if f.Type().IsVariadic() {
				return f.CallSlice(args)
			}
			return f.Call(args)
		}).Interface()
	}
	return watched
}

func (w watchedFuncs) notes(folder string) []string {
	var notes []string
	if w.used["lookup"] {
		notes = append(notes, folder+": the templates look for objects in the cluster by lookup, which finds nothing here; what they would take from there, give by values")
		delete(w.used, "lookup")
	}
	if len(w.used) > 0 {
		notes = append(notes, fmt.Sprintf("%s: the templates call %s, so each deployment gets something else; give what should stay by values", folder, strings.Join(slices.Sorted(maps.Keys(w.used)), ", ")))
	}
	return notes
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
