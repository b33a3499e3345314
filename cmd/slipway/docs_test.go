package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"slipway/internal/ci"
	"slipway/internal/dialect"
	"slipway/internal/plan"
)

var updateDocs = flag.Bool("update-docs", false, "write docs/cli.md anew")

// TestReference holds docs/cli.md to the commands that there are.
func TestReference(t *testing.T) {
	const file = "../../docs/cli.md"
	t.Setenv("KUBECONFIG", "") // a default must not be this machine's
	var want strings.Builder
	want.WriteString("# The command line\n\nMade from the commands themselves by `go test ./cmd/slipway -run Reference -update-docs`. `BIN` is the folder of the program itself.\n")
	describe(&want, newRootCommand())
	if *updateDocs {
		if err := os.WriteFile(file, []byte(want.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want.String() {
		t.Errorf("%s is not what the commands say; run this test with -update-docs and look at the difference", file)
	}
}

func describe(out *strings.Builder, cmd *cobra.Command) {
	if cmd.Hidden || !cmd.IsAvailableCommand() && cmd.HasParent() {
		return
	}
	fmt.Fprintf(out, "\n## %s\n", cmd.CommandPath())
	text := cmd.Long
	if text == "" {
		text = cmd.Short
	}
	fmt.Fprintf(out, "%s\n", text)
	if cmd.Runnable() {
		fmt.Fprintf(out, "\n    %s\n", cmd.UseLine())
	}
	if cmd.Example != "" {
		fmt.Fprintf(out, "\n```\n%s\n```\n", cmd.Example)
	}
	hostname, _ := os.Hostname()
	self, _ := os.Executable()
	var flags []string
	cmd.NonInheritedFlags().VisitAll(func(f *pflag.Flag) {
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		kind, usage := pflag.UnquoteUsage(f)
		line := fmt.Sprintf("- `%s`: %s", strings.TrimSpace(name+" "+kind), usage)
		if f.DefValue != "" && f.DefValue != "[]" && f.DefValue != "false" && f.DefValue != "0" && f.DefValue != "0s" && f.DefValue != hostname {
			line += fmt.Sprintf(" (default `%s`)", strings.ReplaceAll(f.DefValue, filepath.Dir(self), "BIN"))
		}
		flags = append(flags, line)
	})
	if len(flags) > 0 {
		fmt.Fprintf(out, "\n%s\n", strings.Join(flags, "\n"))
	}
	for _, sub := range cmd.Commands() {
		describe(out, sub)
	}
}

// TestReadmePipeline compiles the pipeline that the README shows, as it would on the default branch.
func TestReadmePipeline(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(readme), "```yaml\n")
	text, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("README.md shows no pipeline")
	}
	compiled, problems, err := dialect.Compile(plan.Source{Name: ".drone.yml", Text: []byte(text)}, plan.Input{
		Event:  ci.Event{Kind: ci.Push, Ref: "refs/heads/main", Target: "main", Source: "main", After: strings.Repeat("a", 40)},
		Repo:   ci.Repo{Name: "ada/engine", Branch: "main"},
		System: plan.System{Registry: "registry.example.com"},
	})
	if err != nil || len(problems) > 0 {
		t.Fatalf("the README's pipeline has problems: %v %v", err, problems)
	}
	if len(compiled.Jobs) != 1 || len(compiled.Jobs[0].Steps) != 4 {
		t.Errorf("the README's pipeline has %d jobs; want one with clone, test, image and deploy", len(compiled.Jobs))
	}
}
