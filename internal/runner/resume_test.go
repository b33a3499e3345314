package runner_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway/internal/ci"
	"slipway/internal/engine"
	"slipway/internal/protocol"
)

// A runner that is stopped leaves the running step to its successor, whatever the step does meanwhile, and the steps
// behind it are neither run nor skipped before their time.
func TestResumeMidStep(t *testing.T) {
	for _, endsAlone := range []bool{false, true} {
		t.Run(fmt.Sprintf("ends while no runner is there %t", endsAlone), func(t *testing.T) {
			b := newBench(t)
			ran, gone, ended := b.outside("ran"), b.outside("gone"), b.outside("ended")
			run := b.Push(pipeline(`
steps:
- name: long
	image: busybox
	commands: ["echo once >> ` + ran + `", "echo before", "` + waits(gone) + `", "echo after", "echo > ` + ended + `"]
- name: next
	image: busybox
	commands: ["echo then >> ` + ran + `"]
`))
			stop := b.start()
			b.until("the first step runs", func() bool { return exists(ran) })
			stop()
			if endsAlone {
				b.touch(gone)
				b.until("the first step ends", func() bool { return exists(ended) })
			}
			b.start()
			b.touch(gone)
			run = b.Await(run.Number, finished)
			b.wantRun(run, ci.Success, "")
			b.wantSteps(run, ci.Success, ci.Success)
			if log := withoutTrace(b.Log(run, 1, 1)); log != "before\nafter\n" {
				t.Errorf("the log is %q", log)
			}
			if text, err := os.ReadFile(ran); err != nil || string(text) != "once\nthen\n" {
				t.Errorf("what ran: %q, %v", text, err)
			}
			b.clean()
		})
	}
}

// A runner that is told to stop just when a step ends must not take the steps behind it for skipped.
func TestStopBetweenSteps(t *testing.T) {
	b := newBench(t)
	stopping := make(chan struct{})
	first := true
	b.engine = func(e engine.Engine) engine.Engine {
		if !first {
			return e
		}
		first = false
		return &wrapped{Engine: e, afterWait: func(context.Context) { <-stopping }}
	}
	run := b.Push(pipeline(`
steps:
- name: one
	image: busybox
	commands: ["echo > ` + b.outside("one") + `"]
- name: two
	image: busybox
	commands: ["echo > ` + b.outside("two") + `"]
`))
	ctx, cancel := context.WithCancel(context.Background())
	ended := b.startWith(ctx)
	b.until("the first step has run", func() bool { return exists(b.outside("one")) })
	cancel()
	close(stopping) // the end of the step is known only now
	<-ended
	if exists(b.outside("two")) {
		t.Fatal("the runner went on after it was told to stop")
	}
	b.start()
	run = b.Await(run.Number, finished)
	b.wantRun(run, ci.Success, "")
	b.wantSteps(run, ci.Success, ci.Success)
	if !exists(b.outside("two")) {
		t.Error("the second step never ran")
	}
}

// Whatever part of its journal a killed runner got to write, its successor ends the job the same: each step ran
// once, and the log is the same byte for byte.
func TestResumeAtEveryLine(t *testing.T) {
	lines := 1
	for cut := 0; cut < lines; cut++ {
		t.Run(fmt.Sprint(cut), func(t *testing.T) {
			b := newBench(t)
			if err := b.PutSecret(t.Context(), "ada/engine", "password", "correct-horse", false); err != nil {
				t.Fatal(err)
			}
			// The sandbox stays as it is, as it would if the runner had been killed.
			b.engine = func(e engine.Engine) engine.Engine { return &wrapped{Engine: e, keep: true} }
			b.gate.set(deliveries)
			run := b.Push(pipeline(`
steps:
- name: one
	image: busybox
	environment: {PASSWORD: {from_secret: password}, OTHER: {from_secret: missing}}
	commands: ["echo one >> ` + b.outside("ran") + `", "printf correct-; sleep 0.02; echo horse; echo more; echo $PASSWORD"]
- name: two
	image: busybox
	commands: ["echo two >> ` + b.outside("ran") + `", exit 3]
- name: three
	image: busybox
	commands: ["echo three >> ` + b.outside("ran") + `"]
- name: four
	image: busybox
	commands: ["echo four >> ` + b.outside("ran") + `"]
	when: {status: [failure]}
`))
			stop := b.start()
			journal := filepath.Join(b.jobs(), fmt.Sprintf("job-%d", run.Jobs[0].ID), "events")
			var text []byte
			b.until("the journal has the outcome", func() bool {
				text, _ = os.ReadFile(journal)
				return bytes.Contains(text, []byte(`"outcome"`))
			})
			stop()
			whole := bytes.SplitAfter(text, []byte("\n"))
			if lines = len(whole); cut >= lines { // output came in fewer pieces than the last time
				return
			}
			kept := bytes.Join(whole[:cut], nil)
			kept = append(kept, whole[cut][:len(whole[cut])/2]...) // and a line that the crash cut off
			if err := os.WriteFile(journal, kept, 0o600); err != nil {
				t.Fatal(err)
			}

			b.engine = nil
			b.gate.set(nil)
			b.start()
			run = b.Await(run.Number, finished)
			b.wantRun(run, ci.Failure, `step "two" ended with exit code 3`)
			b.wantSteps(run, ci.Success, ci.Failure, ci.Skipped, ci.Success)
			if text, err := os.ReadFile(b.outside("ran")); err != nil || string(text) != "one\ntwo\nfour\n" {
				t.Errorf("what ran: %q, %v", text, err)
			}
			log := withoutTrace(b.Log(run, 1, 1))
			warning := `slipway: this repo has no secret "missing"; OTHER is not set. Add it by: slipway secret set ada/engine missing` + "\n"
			if want := warning + "[masked]\nmore\n[masked]\n"; log != want {
				t.Errorf("the log is %q, want %q", log, want)
			}
			b.clean()
		})
	}
	if lines < 10 {
		t.Errorf("the journal had only %d lines", lines)
	}
}

// A server that is away costs nothing but time.
func TestServerAway(t *testing.T) {
	b := newBench(t)
	away, back := b.outside("away"), b.outside("back")
	run := b.Push(pipeline(`
steps:
- name: one
	image: busybox
	commands: ["` + waits(away) + `", "for i in $(seq 1000); do echo line $i; done"]
- name: two
	image: busybox
	commands: ["echo > ` + back + `"]
`))
	b.start()
	b.Await(run.Number, stepIs(1, ci.Running))
	b.gate.set(all)
	b.touch(away)
	b.until("the second step has run", func() bool { return exists(back) })
	b.gate.set(nil)
	run = b.Await(run.Number, finished)
	b.wantRun(run, ci.Success, "")
	want := &strings.Builder{}
	for i := range 1000 {
		fmt.Fprintf(want, "line %d\n", i+1)
	}
	if log := withoutTrace(b.Log(run, 1, 1)); log != want.String() {
		t.Errorf("the log has %d bytes, want %d", len(log), want.Len())
	}
	b.clean()
}

// Whichever answer of the server is lost, the runner asks again, and nothing happens twice.
func TestLostAnswer(t *testing.T) {
	for _, path := range []string{"/claim", "/append", "/renew", "/finish"} {
		t.Run(path[1:], func(t *testing.T) {
			b := newBench(t)
			b.gate.loseAnswer(path)
			run := b.done(pipeline(`
steps:
- name: one
	image: busybox
	commands: ["echo once >> ` + b.outside("ran") + `"]
`))
			b.wantRun(run, ci.Success, "")
			if text, err := os.ReadFile(b.outside("ran")); err != nil || string(text) != "once\n" {
				t.Errorf("what ran: %q, %v", text, err)
			}
			b.clean()
		})
	}
}

// A runner that is killed while it asks for a job leaves the question to its successor.
func TestKilledWhileClaiming(t *testing.T) {
	b := newBench(t)
	run := b.Push(pipeline(`
steps:
- name: one
	image: busybox
	commands: ["true"]
`))
	b.gate.loseAnswer("/claim")
	b.gate.set(func(path string) bool { return b.Server.Run(run.Number).Status == ci.Running })
	stop := b.start()
	b.Await(run.Number, func(run ci.Run) bool { return run.Status == ci.Running })
	stop()
	b.gate.set(nil)
	b.start()
	b.wantRun(b.Await(run.Number, finished), ci.Success, "")
}

// A job that the server has given up is removed with its processes, by the runner that has it and by its successor.
func TestLeaseLost(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		t.Run(fmt.Sprintf("restarted %t", restarted), func(t *testing.T) {
			b := newBench(t)
			run := b.Push(pipeline(`
steps:
- name: endless
	image: busybox
	commands: ["echo > ` + b.outside("ran") + `", "while true; do sleep 0.01; done"]
- name: next
	image: busybox
	commands: ["echo > ` + b.outside("next") + `"]
	when: {status: [success, failure]}
`))
			stop := b.start()
			b.until("the step runs", func() bool { return exists(b.outside("ran")) })
			if restarted {
				stop()
			}
			b.gate.set(all)
			lease, err := os.ReadFile(filepath.Join(b.jobs(), fmt.Sprintf("job-%d", run.Jobs[0].ID), "lease"))
			if err != nil {
				t.Fatal(err)
			}
			if err := b.Finish(t.Context(), string(lease), protocol.Outcome{Status: ci.Error, Message: "given up"}); err != nil {
				t.Fatal(err)
			}
			b.gate.set(nil)
			if restarted {
				b.start()
			}
			b.clean()
			b.wantRun(b.Server.Run(run.Number), ci.Error, "given up")
			if exists(b.outside("next")) {
				t.Error("the runner went on with a job that it had lost")
			}
		})
	}
}

// Jobs that run already go on at once even where the runner's capacity has become smaller.
func TestSmallerCapacity(t *testing.T) {
	b := newBench(t)
	file := pipeline(`
steps:
- name: one
	image: busybox
	commands: ["echo >> ` + b.outside("ran") + `", "` + waits(b.outside("go")) + `"]
`)
	b.capacity = 3
	first, second, third := b.Push(file), b.Push(file), b.Push(file)
	stop := b.start()
	for _, run := range []ci.Run{first, second, third} {
		b.Await(run.Number, stepIs(1, ci.Running))
	}
	stop()
	b.capacity = 1
	last := b.Push(file)
	b.start()
	b.touch(b.outside("go"))
	for _, run := range []ci.Run{first, second, third, last} {
		b.wantRun(b.Await(run.Number, finished), ci.Success, "")
	}
	b.clean()
}

// wrapped is an engine whose sandboxes behave in special ways.
type wrapped struct {
	engine.Engine
	keep      bool                  // Close of a sandbox does nothing
	afterWait func(context.Context) // before the end of a step is known
}

func (w *wrapped) Setup(ctx context.Context, spec engine.Spec) (engine.Env, error) {
	env, err := w.Engine.Setup(ctx, spec)
	return &wrappedEnv{env, w}, err
}

type wrappedEnv struct {
	engine.Env
	w *wrapped
}

func (e *wrappedEnv) Close(ctx context.Context) error {
	if e.w.keep {
		return nil
	}
	return e.Env.Close(ctx)
}

func (e *wrappedEnv) Start(ctx context.Context, step engine.Step, out io.Writer) (engine.Proc, error) {
	proc, err := e.Env.Start(ctx, step, out)
	if err != nil {
		return nil, err
	}
	return &wrappedProc{proc, e.w}, nil
}

type wrappedProc struct {
	engine.Proc
	w *wrapped
}

func (p *wrappedProc) Wait(ctx context.Context) (engine.Result, error) {
	if p.w.afterWait == nil {
		return p.Proc.Wait(ctx)
	}
	result, err := p.Proc.Wait(context.WithoutCancel(ctx))
	p.w.afterWait(ctx)
	return result, err
}

// withoutTrace removes the lines that say which command runs.
func withoutTrace(log string) string {
	var kept strings.Builder
	for line := range strings.Lines(log) {
		if !strings.HasPrefix(line, "+ ") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}
