package runner_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway/internal/ci"
)

func TestSerial(t *testing.T) {
	b := newBench(t)
	run := b.done(pipeline(`
steps:
- name: write
	image: busybox
	commands: [echo made > made]
- name: read
	image: busybox
	commands: [cat made]
`))
	b.wantRun(run, ci.Success, "")
	b.wantSteps(run, ci.Success, ci.Success)
	if log := b.Log(run, 1, 2); !strings.Contains(log, "made\n") {
		t.Errorf("the log is %q", log)
	}
	if job := run.Jobs[0]; job.Runner != "rosie" || job.Started.IsZero() || job.Finished.IsZero() {
		t.Errorf("the job is %+v", job)
	}
	b.clean()
}

// Two steps that need nothing of each other run at the same time: each waits for the other.
func TestGraph(t *testing.T) {
	b := newBench(t)
	run := b.done(pipeline(`
steps:
- name: base
	image: busybox
	commands: ["true"]
- name: one
	image: busybox
	commands: ["echo > one", "` + waits("two") + `"]
	depends_on: [base]
- name: two
	image: busybox
	commands: ["echo > two", "` + waits("one") + `"]
	depends_on: [base]
- name: last
	image: busybox
	commands: [rm one two]
	depends_on: [one, two]
`))
	b.wantRun(run, ci.Success, "")
}

func TestFailure(t *testing.T) {
	b := newBench(t)
	run := b.done(pipeline(`
steps:
- name: ignored
	image: busybox
	failure: ignore
	commands: [exit 4]
- name: fails
	image: busybox
	commands: [echo no; exit 3]
- name: skipped
	image: busybox
	commands: ["true"]
- name: mourns
	image: busybox
	commands: ["echo status=$DRONE_BUILD_STATUS failed=$DRONE_FAILED_STEPS"]
	when: {status: [failure]}
- name: always
	image: busybox
	commands: ["true"]
	when: {status: [success, failure]}
`))
	b.wantRun(run, ci.Failure, `step "fails" ended with exit code 3`)
	b.wantSteps(run, ci.Failure, ci.Failure, ci.Skipped, ci.Success, ci.Success)
	if code := run.Jobs[0].Steps[1].ExitCode; code != 3 {
		t.Errorf("the exit code is %d", code)
	}
	if log := b.Log(run, 1, 4); !strings.Contains(log, "status=failure failed=ignored,fails") {
		t.Errorf("the log is %q", log)
	}
}

func TestSkipRest(t *testing.T) {
	b := newBench(t)
	run := b.done(pipeline(`
steps:
- name: enough
	image: busybox
	commands: [exit 78]
- name: rest
	image: busybox
	commands: ["false"]
`))
	b.wantRun(run, ci.Success, "")
	b.wantSteps(run, ci.Success, ci.Skipped)
}

// A service is stopped when the steps are done, and how it ends does not count.
func TestService(t *testing.T) {
	b := newBench(t)
	failed := filepath.Join(t.TempDir(), "failed")
	run := b.Push(pipeline(`
steps:
- name: serves
	image: busybox
	detach: true
	commands: ["trap 'echo bye; exit 9' TERM", "echo > up", "while true; do sleep 0.01; done"]
- name: fails
	image: busybox
	detach: true
	commands: [exit 1]
- name: asks
	image: busybox
	commands: ["` + waits("up") + `", "` + waits(failed) + `"]
`))
	b.start()
	b.Await(run.Number, stepIs(2, ci.Failure))
	if err := os.WriteFile(failed, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	run = b.Await(run.Number, finished)
	b.wantRun(run, ci.Success, "")
	b.wantSteps(run, ci.Success, ci.Failure, ci.Success)
	if log := b.Log(run, 1, 1); !strings.Contains(log, "bye") {
		t.Errorf("the service was not asked to end; its log is %q", log)
	}
	b.clean()
}

// A service that cannot start fails the job, with the reason.
func TestServiceCannotStart(t *testing.T) {
	b := newBench(t)
	run := b.done(pipeline(`
services:
- name: db
	image: postgres
steps:
- name: asks
	image: busybox
	commands: ["true"]
`))
	b.wantRun(run, ci.Error, `step "db": it runs what its image says`)
}

func TestCancel(t *testing.T) {
	b := newBench(t)
	run := b.Push(pipeline(`
steps:
- name: long
	image: busybox
	commands: [echo begun, "while true; do sleep 0.01; done"]
- name: next
	image: busybox
	commands: ["true"]
	when: {status: [success, failure]}
`))
	b.start()
	b.Await(run.Number, stepIs(1, ci.Running))
	if _, err := b.Cancel(t.Context(), run.Repo, run.Number, "ada"); err != nil {
		t.Fatal(err)
	}
	run = b.Await(run.Number, finished)
	b.wantRun(run, ci.Canceled, "canceled by ada")
	b.wantSteps(run, ci.Canceled, ci.Skipped)
	if log := b.Log(run, 1, 1); !strings.Contains(log, "slipway: somebody canceled the run\n") {
		t.Errorf("the log does not say why the step ended: %q", log)
	}
	b.clean()
}

func TestJobTimeout(t *testing.T) {
	b := newBench(t)
	if _, err := b.ChangeRepo(t.Context(), "ada/engine", func(r *ci.Repo) { r.Timeout = 1e9 }); err != nil {
		t.Fatal(err)
	}
	run := b.done(pipeline(`
steps:
- name: long
	image: busybox
	commands: ["while true; do sleep 0.01; done"]
`))
	b.wantRun(run, ci.Failure, "the job ran over its time limit of 1s")
	b.wantSteps(run, ci.Canceled)
}

func TestSecrets(t *testing.T) {
	b := newBench(t)
	for name, value := range map[string]string{"password": "correct-horse", "unused": "never-shown"} {
		if err := b.PutSecret(t.Context(), "ada/engine", name, value, false); err != nil {
			t.Fatal(err)
		}
	}
	run := b.done(pipeline(`
steps:
- name: uses
	image: busybox
	environment:
		PASSWORD: {from_secret: password}
		MISSING: {from_secret: nobody-set-it}
	commands:
	- echo "whole $PASSWORD"
	- printf 'halves correct-'; sleep 0.05; echo horse
	- test -z "$${MISSING+set}" && echo not set
	- env | grep -c never-shown || echo not here
`))
	b.wantRun(run, ci.Success, "")
	log := b.Log(run, 1, 1)
	for _, want := range []string{
		"whole [masked]\n", "halves [masked]\n", "not set\n", "not here\n",
		`slipway: this repo has no secret "nobody-set-it"; MISSING is not set. Add it by: slipway secret set ada/engine nobody-set-it`,
	} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %q:\n%s", want, log)
		}
	}
	if strings.Contains(log, "correct-horse") {
		t.Errorf("the log shows the secret:\n%s", log)
	}
}

// What only trusted repos may have is refused before anything runs.
func TestNeedsTrust(t *testing.T) {
	b := newBench(t)
	event := b.Event(pipeline(`
steps:
- name: all-powerful
	image: busybox
	privileged: true
	commands: ["true"]
`))
	run, _, err := b.Accept(t.Context(), "ada/engine", event)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.ChangeRepo(t.Context(), "ada/engine", func(r *ci.Repo) { r.Trusted = false }); err != nil {
		t.Fatal(err)
	}
	b.start()
	run = b.Await(run.Number, finished)
	b.wantRun(run, ci.Error, "slipway repo trust ada/engine")
	b.clean()
}

func (b *bench) outside(name string) string { return filepath.Join(b.dir, name) }

// A step that puts a link where the checkout was does not make built-in steps read this machine's files.
func TestCheckoutLink(t *testing.T) {
	b := newBench(t)
	run := b.done(pipeline(`
workspace: {base: /drone, path: src}
steps:
- name: link
	image: busybox
	commands: ["cd ..", "rm -r src", "ln -s ` + b.dir + ` src"]
- name: deploy
	image: slipway/deploy
	settings: {manifests: host}
`))
	b.wantRun(run, ci.Failure, `step "deploy": the checkout "src" is no folder of the workspace any more`)
}
