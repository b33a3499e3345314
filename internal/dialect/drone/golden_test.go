package drone

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"slipway/internal/ci"
	"slipway/internal/plan"
)

var update = flag.Bool("update", false, "rewrite the expectations in testdata; review the difference")

// TestGolden compiles the file of each archive in testdata for the event that input.txt describes: a line for each word
// that differs from a push to main, see goldenInput. It expects problems.txt, and the plan: plan.json, or brief.json,
// which leaves out what is the same in all plans.
func TestGolden(t *testing.T) {
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("no archives: %v", err)
	}
	for _, name := range archives {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			src := plan.Source{Name: ".drone.yml", Text: file(archive, ".drone.yml")}
			in, err := goldenInput(string(file(archive, "input.txt")))
			if err != nil {
				t.Fatal(err)
			}
			p, problems, err := Compile(src, in)
			if (err != nil) != (problems.Err() != nil) {
				t.Errorf("error is %v, but the problems are %v", err, problems)
			}
			format := "brief.json"
			if slices.ContainsFunc(archive.Files, func(f txtar.File) bool { return f.Name == "plan.json" }) {
				format = "plan.json"
			}
			got := map[string]string{"problems.txt": "", format: ""}
			if len(problems) > 0 {
				got["problems.txt"] = problems.Error() + "\n"
			}
			if err == nil {
				if format == "brief.json" {
					p = brief(p)
				}
				got[format] = indent(t, p)
			}
			if *update {
				rewrite(t, name, archive, got)
				return
			}
			for of, text := range got {
				if diff := cmp.Diff(string(file(archive, of)), text); diff != "" {
					t.Errorf("%s (-want +got):\n%s", of, diff)
				}
			}
		})
	}
}

func file(a *txtar.Archive, name string) []byte {
	for _, f := range a.Files {
		if f.Name == name {
			return f.Data
		}
	}
	return nil
}

func rewrite(t *testing.T, name string, a *txtar.Archive, got map[string]string) {
	a.Files = slices.DeleteFunc(a.Files, func(f txtar.File) bool { _, ours := got[f.Name]; return ours })
	for _, of := range []string{"problems.txt", "plan.json", "brief.json"} {
		if got[of] != "" {
			a.Files = append(a.Files, txtar.File{Name: of, Data: []byte(got[of])})
		}
	}
	if err := os.WriteFile(name, txtar.Format(a), 0o644); err != nil {
		t.Fatal(err)
	}
}

func indent(t testing.TB, v any) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// brief drops from a plan the variables that Slipway sets, the heads of scripts, and the exit code that skips.
func brief(p plan.Plan) plan.Plan {
	ours := func(name string) bool {
		return name == "CI" || name == "DRONE" || strings.HasPrefix(name, "DRONE_") || name == "SLIPWAY_REGISTRY" || strings.HasPrefix(name, "CI_")
	}
	for i := range p.Jobs {
		job := &p.Jobs[i]
		for name := range job.Env {
			if ours(name) {
				delete(job.Env, name)
			}
		}
		for i := range job.Steps {
			s := &job.Steps[i]
			for _, name := range []string{"DRONE_STEP_NAME", "DRONE_STEP_NUMBER", "DRONE_NETRC_MACHINE", "DRONE_NETRC_USERNAME", "DRONE_NETRC_PASSWORD"} {
				delete(s.Env, name)
			}
			if s.Exec != nil {
				s.Exec.Script = strings.TrimPrefix(s.Exec.Script, scriptHead)
				s.Exec.SkipRestCode = 0
			}
		}
	}
	return p
}

// goldenInput reads lines of a word and its argument.
func goldenInput(text string) (plan.Input, error) {
	in := plan.Input{
		Event: ci.Event{
			Kind: ci.Push, Ref: "refs/heads/main", Source: "main", Target: "main",
			Before: "a3c1b2d4e5f60718293a4b5c6d7e8f9001122334",
			After:  "7fd1a60b01f91b314f59955a4e4d4e80d8edf11d",
			Commit: ci.Commit{
				Message: "Fix the printer\n\nIt was out of paper.\n",
				Link:    "https://git.example.com/octocat/hello/commit/7fd1a60b",
				Author:  ci.Signature{Login: "octocat", Name: "Octo Cat", Email: "octocat@example.com", Avatar: "https://git.example.com/octocat.png"},
			},
			Link: "https://git.example.com/octocat/hello/compare/a3c1b2d4...7fd1a60b", Sender: "hubot",
		},
		Repo: ci.Repo{
			Name: "octocat/hello", Branch: "main", Private: true,
			CloneURL: "https://git.example.com/octocat/hello.git", Link: "https://git.example.com/octocat/hello",
		},
		Run:    plan.RunInfo{Number: 42, Link: "https://slipway.example.com/octocat/hello/42", Created: time.Unix(1789000000, 0)},
		System: plan.System{Proto: "https", Host: "slipway.example.com:8443", Version: "1.0.0", Registry: "registry.example.com:5000"},
	}
	for line := range strings.Lines(text) {
		word, arg, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch e := &in.Event; word {
		case "branch":
			e.Ref, e.Source, e.Target = "refs/heads/"+arg, arg, arg
		case "new-branch":
			e.Ref, e.Source, e.Target, e.Before = "refs/heads/"+arg, arg, arg, ""
		case "tag":
			e.Kind, e.Ref, e.Source, e.Target, e.Before = ci.Tag, "refs/tags/"+arg, "", "", ""
		case "pull_request":
			e.Kind, e.Action, e.Ref, e.Source = ci.PullRequest, "synchronized", "refs/pull/7/head", arg
			e.PullRequest = &ci.Change{Number: 7, Title: "Add paper"}
		case "fork":
			e.PullRequest.Fork = true
		case "cron":
			e.Kind, e.CronName = ci.Cron, arg
		case "promote":
			e.Kind, e.DeployTo = ci.Promote, arg
		case "manual":
			e.Kind = ci.Manual
		case "param":
			name, value, _ := strings.Cut(arg, "=")
			if e.Params == nil {
				e.Params = map[string]string{}
			}
			e.Params[name] = value
		case "message":
			e.Commit.Message = strings.ReplaceAll(arg, `\n`, "\n")
		case "trusted":
			in.Repo.Trusted = true
		case "arch":
			in.System.Arch = arg
		default:
			return plan.Input{}, fmt.Errorf("input.txt: unknown word %q", word)
		}
	}
	return in, nil
}
