package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway/internal/cluster/clustertest"
	"slipway/internal/fault"
)

// TestEnvironmentCommands deploys twice, goes back, and asks what runs where, by the commands that people type.
func TestEnvironmentCommands(t *testing.T) {
	c := clustertest.Start(t)
	dir := t.TempDir()
	run := func(code fault.Code, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		cmd := newRootCommand()
		cmd.SetArgs(append(args, "--kubeconfig", c.Kubeconfig, "-n", c.Namespace))
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		err := cmd.ExecuteContext(t.Context())
		if (err == nil) != (code == "") || err != nil && fault.Of(err).Code != code {
			t.Fatalf("%s: %v, want code %q\n%s", strings.Join(args, " "), err, code, out.String())
		}
		t.Logf("%s: %v\n%s", strings.Join(args, " "), err, out.String())
		return out.String()
	}
	manifests := func(text string) []string {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "app.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return []string{filepath.Join(dir, "app.yaml"), "--root", dir, "--environment", "review/x"}
	}
	has := func(out string, parts ...string) {
		t.Helper()
		for _, part := range parts {
			if !strings.Contains(out, part) {
				t.Errorf("the output does not have %q:\n%s", part, out)
			}
		}
	}
	const config = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: NAME}\ndata: {a: b}\n"
	one := strings.Replace(config, "NAME", "one", 1)
	two := strings.Replace(config, "NAME", "two", 1)

	run(fault.NotFound, "env", "show", "review/x")
	has(run(fault.Failed, append([]string{"diff"}, manifests(one)...)...), "differences: 1 to create\n", "+ configmap/one: create\n")
	has(run("", append([]string{"deploy"}, manifests(one)...)...), "release 1 of the environment review/x", "is rolled out")
	has(run("", append([]string{"diff"}, manifests(one)...)...), "differences: 1 to leave\n")
	run("", append([]string{"deploy"}, manifests(two)...)...)
	has(c.Kubectl("get", "configmaps", "-o", "name"), "configmap/two")
	has(run("", "env", "list"), "review/x", "serves")
	has(run("", "rollback", "review/x"), "going back to release 1", "configmap/two: deleted")
	if got := c.Kubectl("get", "configmaps", "-o", "name"); !strings.Contains(got, "configmap/one") || strings.Contains(got, "configmap/two") {
		t.Errorf("after going back there are %q", got)
	}
	has(run("", "env", "show", "review/x"), "release 3: success", "repeats   1", "configmap/one")
	history := run("", "env", "history", "review/x")
	has(history, "rolled back to release 1")
	if lines := strings.Count(history, "\n"); lines != 4 {
		t.Errorf("%d lines of history", lines)
	}
	has(run("", "env", "history", "review/x", "--json"), `"number": 3`)
	run(fault.NotFound, "rollback", "review/x", "77")
	run(fault.Invalid, "rollback", "review/x", "x")
	run(fault.Conflict, "env", "unlock", "review/x")
	// A second repo has its own part of the environment.
	run("", append([]string{"deploy", "--repo", "team/app"}, manifests(two)...)...)
	run(fault.Invalid, "rollback", "review/x")
	has(run("", "env", "show", "review/x", "--repo", "team/app"), "team/app in the environment review/x", "release 1: success")
}
