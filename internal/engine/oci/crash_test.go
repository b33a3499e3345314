package oci_test

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"slipway/internal/engine"
	"slipway/internal/engine/enginetest"
	"slipway/internal/engine/oci"
	"slipway/internal/plan"
)

// crash is what a process of its own does before it is killed: it starts the steps and waits for them.
type crash struct {
	Machine machine
	Dir     string
	Spec    engine.Spec
	Steps   []engine.Step
}

// TestHelperCrash is the process of [startCrash].
func TestHelperCrash(t *testing.T) {
	input := os.Getenv("SLIPWAY_TEST_CRASH")
	if input == "" {
		t.Skip("only runs as a process of other tests")
	}
	var c crash
	if err := json.Unmarshal([]byte(input), &c); err != nil {
		t.Fatal(err)
	}
	eng := newEngine(t, c.Machine.options(t, c.Dir))
	env, err := eng.Setup(t.Context(), c.Spec)
	if err != nil {
		t.Fatal(err)
	}
	var procs []engine.Proc
	for _, step := range c.Steps {
		proc, err := env.Start(t.Context(), step, os.Stdout)
		if err != nil {
			t.Fatal(err)
		}
		procs = append(procs, proc)
	}
	os.Stdout.WriteString("all started\n")
	for _, proc := range procs {
		if _, err := proc.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// startCrash starts a process that runs c, to be killed, and returns its output.
func startCrash(t *testing.T, c crash) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	input, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestHelperCrash$")
	cmd.Env = append(os.Environ(), "SLIPWAY_TEST_CRASH="+string(input))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(cmd) })
	return cmd, bufio.NewReader(out)
}

// kill kills a process as kill -9 does.
func kill(cmd *exec.Cmd) {
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

func crashSpec() engine.Spec {
	return engine.Spec{ID: enginetest.NewID(), Job: plan.Job{Workspace: "/drone/src", Steps: []plan.Step{
		{Name: "a", Kind: plan.KindExec, Exec: &plan.Exec{Image: enginetest.Image}},
		{Name: "b", Kind: plan.KindExec, Exec: &plan.Exec{Image: enginetest.Image}},
	}}}
}

// TestRunnerKilled kills the process that started a step. The step goes on, and another process gets the whole log.
func TestRunnerKilled(t *testing.T) {
	m := newMachine(t)
	m.Volumes = []string{"/home"}
	spec, dir := crashSpec(), t.TempDir()
	step := script("a", "echo kept >/home/printer/file; cd /drone/src; echo once >>count; i=0; until test -e go; do echo $i; i=$((i+1)); sleep 0.01; done; cat /home/printer/file; echo last $i; exit 4")
	cmd, out := startCrash(t, crash{m, dir, spec, []engine.Step{step}})
	for {
		line, err := out.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == "5\n" {
			break
		}
	}
	kill(cmd)
	opts := m.options(t, dir)
	eng := newEngine(t, opts)
	defer eng.Close()
	if removed, err := eng.Sweep(t.Context(), func(id string) bool { return id == spec.ID }); err != nil || len(removed) > 0 {
		t.Errorf("Sweep removed %q, %v", removed, err)
	}
	env, err := eng.Setup(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	output := new(enginetest.Output)
	proc, err := env.Start(t.Context(), step, output)
	if err != nil {
		t.Fatal(err)
	}
	output.Await(t, "\n6\n")
	if err := os.WriteFile(filepath.Join(env.Workspace(), "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if result, err := proc.Wait(t.Context()); err != nil || result.ExitCode != 4 {
		t.Errorf("the step ended with %+v, %v", result, err)
	}
	lines := strings.Split(strings.TrimSpace(output.String()), "\n")
	if lines[0] != "0" || len(lines) < 3 || lines[len(lines)-2] != "kept" || !strings.HasPrefix(lines[len(lines)-1], "last ") {
		t.Errorf("the log is not whole: it begins with %q and ends with %q", lines[0], lines[len(lines)-1])
	}
	if count, err := os.ReadFile(filepath.Join(env.Workspace(), "count")); err != nil || string(count) != "once\n" {
		t.Errorf("the step ran %q, %v", count, err)
	}
	if err := env.Close(t.Context()); err != nil {
		t.Error(err)
	}
	noLeftovers(t, opts)
}

// TestSweepAfterCrash kills processes at many moments, from before the first bridge to after the last step, and sweeps.
func TestSweepAfterCrash(t *testing.T) {
	m := newMachine(t)
	m.Volumes = []string{"/home"}
	dir := t.TempDir()
	opts := m.options(t, dir)
	left := 0
	for i := range 12 {
		spec := crashSpec()
		cmd, out := startCrash(t, crash{m, dir, spec, []engine.Step{script("a", "sleep 1000"), script("b", "sleep 1000")}})
		// The sandbox's folder is the first thing that is made. From there on every round waits for a bit more.
		sandbox := filepath.Join(opts.Dir, "sandboxes", spec.ID)
		switch {
		case i == 11:
			for line := ""; line != "all started\n"; {
				var err error
				if line, err = out.ReadString('\n'); err != nil {
					t.Fatal(err)
				}
			}
		default:
			milestones := []string{"", "workspace", "lock", "state.json", "steps/*", "steps/*/netns", "steps/*/volumes/*", "steps/*/config.json", "steps/*/shim/start", "steps/*/runc.log", "steps/*/shim/lock"}
			awaitGlob(t, cmd, filepath.Join(sandbox, milestones[i]))
		}
		kill(cmd)
		_, _ = io.Copy(io.Discard, out)
		if found, err := oci.Leftovers(opts); err != nil || len(found) > 0 {
			left++
		}
		eng := newEngine(t, opts)
		if _, err := eng.Sweep(t.Context(), func(string) bool { return false }); err != nil {
			t.Errorf("round %d: %v", i, err)
		}
		if err := eng.Close(); err != nil {
			t.Error(err)
		}
		noLeftovers(t, opts)
	}
	if left < 10 {
		t.Errorf("only %d of 12 crashes left anything to sweep", left)
	}
}

// awaitGlob waits until there is a file that matches pattern.
func awaitGlob(t *testing.T, cmd *exec.Cmd, pattern string) {
	t.Helper()
	for cmd.ProcessState == nil {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return
		}
		if t.Context().Err() != nil {
			t.Fatal("waited in vain for", pattern)
		}
	}
}

// TestStartAfterCrash kills a process while it makes a container, and starts the step again.
func TestStartAfterCrash(t *testing.T) {
	m := newMachine(t)
	m.Volumes = []string{"/home"}
	for _, milestone := range []string{"steps/*/netns", "steps/*/volumes/0", "steps/*/config.json", "steps/*/shim/start", "steps/*/runc.log"} {
		dir, spec := t.TempDir(), crashSpec()
		opts := m.options(t, dir)
		step := script("a", "echo once >>/drone/src/count; echo hello")
		cmd, _ := startCrash(t, crash{m, dir, spec, []engine.Step{step}})
		awaitGlob(t, cmd, filepath.Join(opts.Dir, "sandboxes", spec.ID, milestone))
		kill(cmd)
		eng := newEngine(t, opts)
		env, err := eng.Setup(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		out := new(enginetest.Output)
		proc, err := env.Start(t.Context(), step, out)
		if err != nil {
			t.Fatalf("%s: %v", milestone, err)
		}
		if result, err := proc.Wait(t.Context()); err != nil || result.ExitCode != 0 || out.String() != "hello\n" {
			t.Errorf("%s: %+v, %v, output %q", milestone, result, err, out)
		}
		if count, err := os.ReadFile(filepath.Join(env.Workspace(), "count")); err != nil || string(count) != "once\n" {
			t.Errorf("%s: the step ran %q, %v", milestone, count, err)
		}
		if err := env.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if err := eng.Close(); err != nil {
			t.Error(err)
		}
		noLeftovers(t, opts)
	}
}
