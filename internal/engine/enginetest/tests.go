package enginetest

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"slipway/internal/engine"
	"slipway/internal/plan"
)

// until is a shell command that waits for a file in the workspace.
func until(name string) string { return fmt.Sprintf("until test -e %s; do sleep 0.01; done\n", name) }

func testExitCode(t *testing.T, f *fixture) {
	f.run(step("a", "exit 0"), 0)
	f.run(step("b", "exit 3"), 3)
	f.run(step("c", "kill -9 $$"), 137)
}

func testOutputOrder(t *testing.T, f *fixture) {
	var script, want strings.Builder
	for i := range 200 {
		fmt.Fprintf(&script, "echo out %d; echo err %d >&2\n", i, i)
		fmt.Fprintf(&want, "out %d\nerr %d\n", i, i)
	}
	if got := f.run(step("a", script.String()), 0); got != want.String() {
		t.Errorf("output out of order:\n%s", got)
	}
}

func testLiveOutput(t *testing.T, f *fixture) {
	proc, out := f.start(f.env, step("a", "printf half; "+until("go")+"echo ' whole'"))
	out.Await(t, "half")
	f.touch("go")
	f.wait(proc)
	if got := out.String(); got != "half whole\n" {
		t.Errorf("output %q", got)
	}
}

func testScript(t *testing.T, f *fixture) {
	cat := engine.Step{Name: "a", Exec: plan.Exec{Image: Image, Entrypoint: []string{"/bin/cat"}, Script: strings.Repeat("line\n", 100_000)}}
	if got := f.run(cat, 0); got != cat.Exec.Script {
		t.Errorf("a script of %d bytes came out as %d", len(cat.Exec.Script), len(got))
	}
	unread := engine.Step{Name: "b", Exec: plan.Exec{Image: Image, Entrypoint: []string{"/bin/true"}, Script: cat.Exec.Script}}
	f.run(unread, 0)
	none := engine.Step{Name: "c", Exec: plan.Exec{Image: Image, Entrypoint: []string{"/bin/cat"}}}
	if got := f.run(none, 0); got != "" {
		t.Errorf("without a script, standard input was %q", got)
	}
}

func testEnvironment(t *testing.T, f *fixture) {
	value := "two\nlines, \"quotes\" and \xff bytes"
	s := step("a", `printf '%s' "$VALUE"; printf '|%s' "$0" "$@"; test -n "$PATH"`)
	s.Exec.Args = []string{"-s", "one", "two words"}
	s.Env = map[string]string{"VALUE": value, "EMPTY": ""}
	if got, want := f.run(s, 0), value+"|/bin/sh|one|two words"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func testWorkspace(t *testing.T, f *fixture) {
	s := step("a", "echo from a >file; pwd")
	s.Exec.WorkingDir = "/drone/src/new/folder"
	first := f.run(s, 0)
	if !strings.HasSuffix(strings.TrimSpace(first), "/new/folder") {
		t.Errorf("working directory %q", first)
	}
	s = step("b", "cat new/folder/file")
	s.Exec.WorkingDir = "/drone/src"
	if got := f.run(s, 0); got != "from a\n" {
		t.Errorf("step b read %q", got)
	}
	data, err := os.ReadFile(filepath.Join(f.env.Workspace(), "new/folder/file"))
	if err != nil || string(data) != "from a\n" {
		t.Errorf("the runner read %q, %v", data, err)
	}
}

func testMissing(t *testing.T, f *fixture) {
	s := step("a", "")
	s.Exec.Entrypoint = []string{"no-such-program"}
	if got := f.run(s, 127); !strings.Contains(got, "no-such-program") || strings.Count(got, "\n") != 1 {
		t.Errorf("the log should be one line about no-such-program, and is %q", got)
	}
	s = step("b", "")
	s.Exec.Entrypoint = []string{"/etc"}
	if got := f.run(s, 126); !strings.Contains(got, "/etc") || strings.Count(got, "\n") != 1 {
		t.Errorf("the log should be one line about /etc, and is %q", got)
	}
	s = step("c", "")
	s.Env = map[string]string{"HUGE": strings.Repeat("x", 200_000)}
	if got := f.run(s, 126); !strings.Contains(got, "HUGE") || strings.Contains(got, "xxx") {
		t.Errorf("the log should name the variable HUGE, and is %q", got)
	}
}

func testOffset(t *testing.T, f *fixture) {
	f.run(step("a", "printf 0123456789"), 0)
	for offset, want := range map[int64]string{0: "0123456789", 4: "456789", 10: "", 99: ""} {
		s := step("a", "printf 0123456789")
		s.Offset = offset
		if got := f.run(s, 0); got != want {
			t.Errorf("from offset %d: %q, want %q", offset, got, want)
		}
	}
}

func testStartTwice(t *testing.T, f *fixture) {
	s := step("a", "echo once >>count; "+until("go")+"echo done")
	var procs []engine.Proc
	var outs []*Output
	var mu sync.Mutex
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			out := new(Output)
			proc, err := f.env.Start(f.ctx, s, out)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			procs, outs = append(procs, proc), append(outs, out)
		})
	}
	group.Wait()
	f.touch("go")
	for i, proc := range procs {
		if result := f.wait(proc); result.ExitCode != 0 || outs[i].String() != "done\n" {
			t.Errorf("start %d: %+v, output %q", i, result, outs[i])
		}
	}
	f.run(s, 0)
	if data, err := os.ReadFile(filepath.Join(f.env.Workspace(), "count")); err != nil || string(data) != "once\n" {
		t.Errorf("the step ran %q, %v", data, err)
	}
}

// A start whose context ends just when the step's process begins must neither kill it nor let it be started again.
func testStartCanceled(t *testing.T, f *fixture) {
	for i := range 10 {
		s := step(fmt.Sprintf("s%d", i), fmt.Sprintf("echo once >>count%d; ", i)+until("go")+"echo done")
		ctx, cancel := context.WithCancel(f.ctx)
		started := make(chan error, 1)
		go func() {
			_, err := f.env.Start(ctx, s, new(Output))
			started <- err
		}()
		f.awaitFile(fmt.Sprintf("count%d", i))
		cancel()
		if err := <-started; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	f.touch("go")
	for i := range 10 {
		proc, out := f.start(f.env, step(fmt.Sprintf("s%d", i), "echo never"))
		if result := f.wait(proc); result.ExitCode != 0 || out.String() != "done\n" {
			t.Errorf("step %d: %+v, output %q", i, result, out)
		}
		if data, err := os.ReadFile(filepath.Join(f.env.Workspace(), fmt.Sprintf("count%d", i))); err != nil || string(data) != "once\n" {
			t.Errorf("step %d ran %q, %v", i, data, err)
		}
	}
}

func testSetupTwice(t *testing.T, f *fixture) {
	f.run(step("a", "echo hello >file"), 0)
	again := f.setup(f.eng)
	if again.Workspace() != f.env.Workspace() {
		t.Errorf("workspaces %s and %s", f.env.Workspace(), again.Workspace())
	}
	proc, out := f.start(again, step("b", "cat file"))
	f.wait(proc)
	if got := out.String(); got != "hello\n" {
		t.Errorf("output %q", got)
	}
}

func testReattach(t *testing.T, f *fixture) {
	s := step("a", "echo first; echo once >>count; "+until("go")+"echo second; exit 5")
	_, out := f.start(f.env, s)
	out.Await(t, "first\n")
	if err := f.eng.Close(); err != nil {
		t.Fatal(err)
	}
	f.eng = f.openEngine()
	f.env = f.setup(f.eng)
	proc, whole := f.start(f.env, s)
	s.Offset = int64(len("first\n"))
	rest, end := f.start(f.env, s)
	f.touch("go")
	for _, p := range []engine.Proc{proc, rest} {
		if result := f.wait(p); result.ExitCode != 5 {
			t.Errorf("result %+v, want exit code 5", result)
		}
	}
	if whole.String() != "first\nsecond\n" || end.String() != "second\n" {
		t.Errorf("whole log %q, rest %q", whole, end)
	}
	if data, err := os.ReadFile(filepath.Join(f.env.Workspace(), "count")); err != nil || string(data) != "once\n" {
		t.Errorf("the step ran %q, %v", data, err)
	}
}

func testReattachEnded(t *testing.T, f *fixture) {
	s := step("a", "echo line; echo once >>count; "+until("go")+"touch ended; exit 6")
	f.start(f.env, s)
	if err := f.eng.Close(); err != nil {
		t.Fatal(err)
	}
	f.touch("go")
	f.awaitFile("ended")
	f.eng = f.openEngine()
	f.env = f.setup(f.eng)
	proc, out := f.start(f.env, s)
	if result := f.wait(proc); result.ExitCode != 6 || out.String() != "line\n" {
		t.Errorf("result %+v, output %q", result, out)
	}
	if data, err := os.ReadFile(filepath.Join(f.env.Workspace(), "count")); err != nil || string(data) != "once\n" {
		t.Errorf("the step ran %q, %v", data, err)
	}
}

func testStopHandled(t *testing.T, f *fixture) {
	proc, out := f.start(f.env, step("a", "trap 'echo asked; exit 9' TERM; echo ready; while :; do sleep 0.01 || :; done"))
	out.Await(t, "ready")
	for range 2 {
		if err := proc.Stop(f.ctx); err != nil {
			t.Fatal(err)
		}
	}
	if result := f.wait(proc); result.ExitCode != 9 || !strings.HasSuffix(out.String(), "asked\n") {
		t.Errorf("result %+v, output %q", result, out)
	}
}

func testStopIgnored(t *testing.T, f *fixture) {
	proc, out := f.start(f.env, step("a", "trap 'echo asked' TERM; echo ready; while :; do sleep 0.01 || :; done"))
	out.Await(t, "ready")
	ctx, cancel := context.WithCancel(f.ctx)
	stopped := make(chan error, 1)
	go func() { stopped <- proc.Stop(ctx) }()
	out.Await(t, "asked")
	cancel()
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	if result := f.wait(proc); result.ExitCode != 137 {
		t.Errorf("result %+v, want exit code 137", result)
	}
}

func testWaitCancelled(t *testing.T, f *fixture) {
	s := step("a", "echo ready; "+until("go")+"echo on")
	proc, out := f.start(f.env, s)
	out.Await(t, "ready")
	ctx, cancel := context.WithCancel(f.ctx)
	cancel()
	if _, err := proc.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("Wait returned %v, want %v", err, context.Canceled)
	}
	f.touch("go")
	if got := f.run(s, 0); got != "ready\non\n" {
		t.Errorf("output %q", got)
	}
	if got := out.String(); got != "ready\n" {
		t.Errorf("output after Wait had returned: %q", got)
	}
}

// testBackground leaves a process behind that holds standard output open, and one that has left its session.
func testBackground(t *testing.T, f *fixture) {
	got := f.run(step("a", `
		(echo child; touch child; while :; do sleep 1; done) &
		setsid sh -c 'touch stranger; while :; do sleep 0.01; date >>alive; done' &
		until test -e child -a -e stranger; do sleep 0.01; done
		echo parent`), 0)
	if got != "child\nparent\n" {
		t.Errorf("output %q", got)
	}
	alive := filepath.Join(f.env.Workspace(), "alive")
	if err := os.RemoveAll(alive); err != nil {
		t.Fatal(err)
	}
	f.run(step("b", "sleep 0.1; test ! -e alive"), 0)
}

func testClose(t *testing.T, f *fixture) {
	proc, out := f.start(f.env, step("a", "trap '' TERM; echo ready; mkdir -p d; chmod 0 d; while :; do sleep 1; done"))
	out.Await(t, "ready")
	f.run(step("b", "true"), 0)
	for range 2 {
		if err := f.env.Close(f.ctx); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(f.env.Workspace()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the workspace is still there: %v", err)
	}
	if result, err := proc.Wait(f.ctx); err != nil || result.ExitCode != 137 {
		t.Errorf("the step ended with %+v, %v, want exit code 137", result, err)
	}
	removed, err := f.openEngine().Sweep(f.ctx, func(string) bool { return false })
	if err != nil || len(removed) != 0 {
		t.Errorf("Sweep found %q, %v after Close", removed, err)
	}
}

func testSweep(t *testing.T, f *fixture) {
	kept, _ := f.start(f.env, step("a", until("go")))
	spec := f.spec
	spec.ID = NewID()
	other, err := f.eng.Setup(f.ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	_, out := f.start(other, step("a", "echo ready; while :; do sleep 1; done"))
	out.Await(t, "ready")
	if err := f.eng.Close(); err != nil {
		t.Fatal(err)
	}
	removed, err := f.openEngine().Sweep(f.ctx, func(id string) bool { return id == f.spec.ID })
	if err != nil || !slices.Equal(removed, []string{spec.ID}) {
		t.Errorf("Sweep returned %q, %v, want %q", removed, err, spec.ID)
	}
	if _, err := os.Stat(other.Workspace()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the workspace is still there: %v", err)
	}
	f.touch("go")
	_ = kept
	f.run(step("a", until("go")), 0)
}

func testParallel(t *testing.T, f *fixture) {
	var group sync.WaitGroup
	for i := range 20 {
		group.Go(func() {
			out := new(Output)
			name := fmt.Sprintf("s%d", i)
			proc, err := f.env.Start(f.ctx, step(name, fmt.Sprintf("echo %d; exit %d", i, i)), out)
			if err != nil {
				t.Error(err)
				return
			}
			if result, err := proc.Wait(f.ctx); err != nil || result.ExitCode != i || out.String() != fmt.Sprintf("%d\n", i) {
				t.Errorf("step %d: %+v, %v, output %q", i, result, err, out)
			}
		})
	}
	group.Wait()
}

func testLargeOutput(t *testing.T, f *fixture) {
	const size = 50 << 20
	got := f.run(step("a", fmt.Sprintf("yes 0123456789abcde | head -c %d", size)), 0)
	if len(got) != size || got != strings.Repeat("0123456789abcde\n", size/16) {
		t.Errorf("%d bytes came, or the wrong ones; want %d", len(got), size)
	}
}

func testSecrets(t *testing.T, f *fixture) {
	const secret = "correct-horse-battery-staple"
	s := step("a", "echo ready; "+until("go")+"test $PASSWORD = "+secret)
	s.Env = map[string]string{"PASSWORD": secret}
	proc, out := f.start(f.env, s)
	out.Await(t, "ready")
	// In base64, two of three bytes or so depend on what comes before.
	forms := [][]byte{[]byte(secret)}
	for skip := range 3 {
		forms = append(forms, []byte(base64.RawStdEncoding.EncodeToString([]byte(secret[skip:skip+24]))))
	}
	err := filepath.WalkDir(f.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return nil // removed meanwhile, or not a place for bytes
		}
		data, err := os.ReadFile(path)
		for _, form := range forms {
			if err == nil && bytes.Contains(data, form) {
				t.Errorf("%s contains the secret", path)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	f.touch("go")
	if result := f.wait(proc); result.ExitCode != 0 {
		t.Errorf("result %+v", result)
	}
}

func testBadID(t *testing.T, f *fixture) {
	for _, id := range []string{"", "../up", "Upper", strings.Repeat("x", 49), "-dash", "a/b", "a\n"} {
		spec := f.spec
		spec.ID = id
		if _, err := f.eng.Setup(f.ctx, spec); err == nil {
			t.Errorf("Setup accepted the id %q", id)
		}
	}
}
