package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"slipway/internal/plan"
)

// execute runs a command in-process and returns what it printed.
func execute(t *testing.T, cmd *cobra.Command, stdin string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.SetArgs(args)
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	cmd.SilenceErrors = true
	err = cmd.Execute()
	return out.String(), errs.String(), err
}

const pipelineFile = `kind: pipeline
name: default
steps:
- name: a
  image: busybox
  comands: [x]
  when: {event: tag}
- name: b
  image: "busybox:${DRONE_BRANCH}"
  when: {event: pull_request}
`

func TestLint(t *testing.T) {
	t.Chdir(t.TempDir())
	if _, _, err := execute(t, newLintCommand(), ""); err == nil || !strings.Contains(err.Error(), "looked for .drone.yml, .drone.yaml") {
		t.Errorf("without a file, the error is %v", err)
	}
	if err := os.WriteFile(".drone.yaml", []byte(pipelineFile), 0o644); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, err := execute(t, newLintCommand(), "")
	if want := ".drone.yaml:6:3: warning: step \"a\": unknown key \"comands\" is ignored; did you mean \"commands\"?\n"; err != nil || stdout != "" || stderr != want {
		t.Errorf("warnings are no errors: %q %q %v", stdout, stderr, err)
	}
	_, stderr, err = execute(t, newLintCommand(), "kind: pipeline\nsteps: [{name: a, image: b, privileged: true}]\n", "-")
	if want := "stdin:2:29: step \"a\" is privileged, which is only for trusted repos\n"; err == nil || err.Error() != "stdin cannot run" || stderr != want {
		t.Errorf("an error: %q %v", stderr, err)
	}
	if _, stderr, err = execute(t, newLintCommand(), "kind: pipeline\nsteps: [{name: a, image: b, privileged: true}]\n", "-", "--trusted"); err != nil || stderr != "" {
		t.Errorf("trusted: %q %v", stderr, err)
	}
	for _, args := range [][]string{{"nowhere.yml"}, {"--event", "puhs"}, {"--event", "tag"}, {"--dialect", "x"}, {"a", "b"}} {
		if _, _, err := execute(t, newLintCommand(), "", args...); err == nil {
			t.Errorf("%v must be an error", args)
		}
	}
}

func TestPlan(t *testing.T) {
	for _, test := range []struct {
		args string
		want string // the steps
	}{
		{"", "clone"},
		{"--tag v1", "clone a"},
		{"--event pull_request --target main --source x --fork", "clone b=busybox:main"},
		{"--pull 7 --branch release", "clone b=busybox:release"},
		{"--event manual --param A=b --dialect drone", "clone"},
		{"--cron nightly", "clone"},
		{"--deploy-to staging", "clone"},
	} {
		stdout, _, err := execute(t, newPlanCommand(), pipelineFile, append([]string{"-"}, strings.Fields(test.args)...)...)
		if err != nil {
			t.Errorf("%s: %v", test.args, err)
			continue
		}
		var p plan.Plan
		if err := json.Unmarshal([]byte(stdout), &p); err != nil {
			t.Fatal(err)
		}
		var steps []string
		for _, s := range p.Jobs[0].Steps {
			if s.Exec != nil && s.Exec.Image != "busybox" {
				s.Name += "=" + s.Exec.Image
			}
			steps = append(steps, s.Name)
		}
		if got := strings.Join(steps, " "); got != test.want {
			t.Errorf("%s: steps are %s, want %s", test.args, got, test.want)
		}
	}
	stdout, stderr, err := execute(t, newPlanCommand(), "a: [", "-")
	if err == nil || stdout != "" || !strings.HasPrefix(stderr, "stdin:1:") {
		t.Errorf("a broken file gives no plan: %q %q %v", stdout, stderr, err)
	}
}
