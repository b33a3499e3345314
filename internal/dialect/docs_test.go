package dialect

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/ci"
	"slipway/internal/plan"
)

var update = flag.Bool("update", false, "rewrite the example in docs/plan.md; review the difference")

const planDoc = "../../docs/plan.md"

func readDoc(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// block returns the first fenced block of a language, and what is before and after its content.
func block(t *testing.T, doc, language string) (before, content, after string) {
	t.Helper()
	before, rest, ok := strings.Cut(doc, "```"+language+"\n")
	if !ok {
		t.Fatalf("no block of %s", language)
	}
	content, after, ok = strings.Cut(rest, "```")
	if !ok {
		t.Fatalf("the block of %s has no end", language)
	}
	return before + "```" + language + "\n", content, "```" + after
}

// The example in docs/plan.md is what Slipway makes of it.
func TestPlanExample(t *testing.T) {
	doc := readDoc(t, planDoc)
	_, source, _ := block(t, doc, "yaml")
	p, problems, err := Compile(plan.Source{Name: ".drone.yml", Text: []byte(source)}, plan.Input{Event: ci.Event{
		Kind: ci.Push, Ref: "refs/heads/main", Source: "main", Target: "main", After: "7fd1a60b01f91b314f59955a4e4d4e80d8edf11d",
	}})
	if err != nil || len(problems) > 0 {
		t.Fatal(err, problems)
	}
	everywhere := func(name string) bool {
		return name == "CI" || name == "DRONE" || strings.HasPrefix(name, "CI_") || strings.HasPrefix(name, "DRONE_")
	}
	for i := range p.Jobs {
		job := &p.Jobs[i]
		drop(job.Env, everywhere)
		for _, s := range job.Steps {
			drop(s.Env, everywhere)
			if s.Exec != nil {
				_, s.Exec.Script, _ = strings.Cut(s.Exec.Script, "set -e\n")
			}
		}
	}
	var want bytes.Buffer
	enc := json.NewEncoder(&want)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(p); err != nil {
		t.Fatal(err)
	}
	before, got, after := block(t, doc, "json")
	if *update {
		if err := os.WriteFile(planDoc, []byte(before+want.String()+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want.String(), got); diff != "" {
		t.Errorf("docs/plan.md is not what is (-want +got); run with -update:\n%s", diff)
	}
}

func drop(env map[string]plan.Value, which func(string) bool) {
	for name := range env {
		if which(name) {
			delete(env, name)
		}
	}
}

// docs/plan.md describes every field and every fact.
func TestPlanDocIsComplete(t *testing.T) {
	doc := readDoc(t, planDoc)
	seen := map[reflect.Type]bool{}
	var walk func(reflect.Type)
	walk = func(of reflect.Type) {
		switch of.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			walk(of.Elem())
			return
		case reflect.Struct:
		default:
			return
		}
		if seen[of] || of == reflect.TypeFor[plan.Value]() {
			return
		}
		seen[of] = true
		for i := range of.NumField() {
			name, _, _ := strings.Cut(of.Field(i).Tag.Get("json"), ",")
			if !strings.Contains(doc, "`"+name+"`") {
				t.Errorf("docs/plan.md does not describe %s of %s", name, of.Name())
			}
			walk(of.Field(i).Type)
		}
	}
	walk(reflect.TypeFor[plan.Plan]())
	for _, fact := range plan.Facts() {
		if !strings.Contains(doc, "`"+string(fact)+"`") {
			t.Errorf("docs/plan.md does not describe the fact %s", fact)
		}
	}
}

// What docs/drone.md says of settings is so: those in its tables are known, and those that it calls supported have an
// effect.
func TestDroneSettings(t *testing.T) {
	doc := readDoc(t, "../../docs/drone.md")
	values := map[string]string{
		"heal": "true", "no_cache": "true", "pull_image": "true", "dry_run": "true", "insecure": "true", "auto_tag": "true", "build_args": "[A=b]",
		"custom_labels": "[a=b]", "labels": "[a=b]", "images": "{a: b}", "timeout": "5m", "lossless": "check", "probe": "http://a", "set": "{a: b}",
		"strategy": "recreate",
	}
	checked := 0
	for _, image := range []string{"plugins/docker", "slipway/image", "slipway/deploy"} {
		_, section, ok := strings.Cut(doc, "\n### "+image+"\n")
		if !ok {
			t.Fatalf("docs/drone.md has no section %s", image)
		}
		section, _, _ = strings.Cut(section, "\n### ")
		for line := range strings.Lines(section) {
			cells := strings.Split(line, "|")
			if len(cells) < 3 || !strings.HasPrefix(strings.TrimSpace(cells[1]), "`") {
				continue
			}
			for name := range strings.SplitSeq(cells[1], ",") {
				name = strings.Trim(strings.TrimSpace(name), "`")
				value := values[name]
				if value == "" {
					value = "x"
				}
				rest := "repo: a/b, manifests: k8s, "
				rest = strings.Replace(rest, name+": ", "_: ", 1)
				if image == "slipway/deploy" {
					rest = strings.Replace(rest, "repo: a/b, ", "", 1)
				} else {
					rest = strings.Replace(rest, "manifests: k8s, ", "", 1)
				}
				text := "kind: pipeline\nsteps: [{name: a, image: " + image + ", settings: {" + rest + name + ": " + value + "}}]\n"
				_, problems, _ := Compile(plan.Source{Name: ".drone.yml", Text: []byte(text)}, plan.Input{Event: ci.Event{Ref: "refs/heads/"}})
				for _, p := range problems {
					if !strings.Contains(p.Message, `"_"`) {
						t.Errorf("%s: the setting %s: %v", image, name, p)
					}
				}
				checked++
			}
		}
	}
	if checked < 30 {
		t.Errorf("only %d settings were found in the tables", checked)
	}
}
