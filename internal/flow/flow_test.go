package flow_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"slipway/internal/ci"
	"slipway/internal/flow/flowtest"
	"slipway/internal/protocol"
	"slipway/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pipeline is a .drone.yml of one pipeline without a clone, with the given steps.
func pipeline(steps string) string {
	return "kind: pipeline\ntype: docker\nname: test\nclone: {disable: true}\nsteps:\n" + steps
}

const twoSteps = `
- name: one
  image: busybox
  commands: ["true"]
- name: two
  image: busybox
  commands: ["true"]
`

// runner is a runner in the hands of a test.
type runner struct {
	t     *testing.T
	s     *flowtest.Server
	lease string
	seq   int64
	*protocol.Assignment
}

// claim gets a job, which must be there.
func claim(t *testing.T, s *flowtest.Server) *runner {
	t.Helper()
	r := &runner{t: t, s: s, lease: rand.Text()}
	var err error
	if r.Assignment, err = s.Claim(t.Context(), r.wish()); err != nil || r.Assignment == nil {
		t.Fatalf("Claim: %v, %v", r.Assignment, err)
	}
	return r
}

func (r *runner) wish() protocol.Claim {
	return protocol.Claim{Lease: r.lease, Runner: "rosie", OS: "linux", Arch: "amd64"}
}

func (r *runner) event(e protocol.Event) protocol.Event {
	r.seq++
	e.Seq, e.Time = r.seq, r.s.Clock.Now()
	return e
}

func (r *runner) start(step int) protocol.Event {
	return r.event(protocol.Event{Start: &protocol.StepStart{Step: step}})
}

func (r *runner) log(step int, offset int64, text string) protocol.Event {
	return r.event(protocol.Event{Log: &protocol.Log{Step: step, Offset: offset, Data: []byte(text)}})
}

func (r *runner) end(step int, status ci.Status, code int) protocol.Event {
	return r.event(protocol.Event{End: &protocol.StepEnd{Step: step, Status: status, ExitCode: code}})
}

func (r *runner) append(events ...protocol.Event) {
	r.t.Helper()
	if err := r.s.Append(r.t.Context(), r.lease, events); err != nil {
		r.t.Fatal(err)
	}
}

func (r *runner) finish(status ci.Status) {
	r.t.Helper()
	if err := r.s.Finish(r.t.Context(), r.lease, protocol.Outcome{Status: status, Time: r.s.Clock.Now()}); err != nil {
		r.t.Fatal(err)
	}
}

// idle checks that there is no job to claim.
func idle(t *testing.T, s *flowtest.Server) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if a, err := s.Claim(ctx, protocol.Claim{Lease: rand.Text(), OS: "linux", Arch: "amd64"}); a != nil || err != nil {
		t.Errorf("Claim gives job %+v, %v; want none", a, err)
	}
}

// Every call of the protocol may be repeated.
func TestRepeatedCalls(t *testing.T) {
	s := flowtest.New(t)
	run := s.Push(pipeline(twoSteps))
	r := claim(t, s)
	again, err := s.Claim(t.Context(), r.wish())
	if err != nil || again.JobID != r.JobID || again.Lease != r.lease {
		t.Fatalf("the second claim of the same lease: %+v, %v", again, err)
	}
	if resumed, err := s.Resume(t.Context(), r.lease); err != nil || resumed.JobID != r.JobID {
		t.Fatalf("Resume: %+v, %v", resumed, err)
	}
	batch := []protocol.Event{
		r.start(1), r.log(1, 0, "hello "), r.log(1, 6, "world\n"), r.end(1, ci.Failure, 3),
		r.event(protocol.Event{Image: &protocol.Image{Step: 1, Image: ci.Image{Ref: "r/a:1", Digest: "sha256:1"}}}),
		r.event(protocol.Event{Release: &protocol.Release{Step: 1, Release: ci.Release{
			Environment: "production", Namespace: "shop", Number: 4, Status: ci.Success, Started: s.Clock.Now(),
			Repo: "somebody/else", Run: 99, Commit: "not this",
		}}}),
	}
	for n := range len(batch) {
		r.append(batch[:n+1]...)
		r.append(batch[n/2:]...)
	}
	r.append(batch...)
	if logs := batch[1:3]; true {
		r.append(logs...) // after the step's end
	}
	run = s.Run(run.Number)
	if step := run.Jobs[0].Steps[0]; step.Status != ci.Failure || step.ExitCode != 3 || step.Started.IsZero() || step.Finished.IsZero() {
		t.Errorf("the step is %+v", step)
	}
	if log := s.Log(run, 1, 1); log != "hello world\n" {
		t.Errorf("the log is %q", log)
	}
	if len(run.Images) != 1 {
		t.Errorf("the images are %v", run.Images)
	}
	releases, err := s.DB.ListReleases(t.Context(), store.ReleaseFilter{})
	if err != nil || len(releases) != 1 {
		t.Fatalf("the releases are %+v, %v", releases, err)
	}
	if got := releases[0]; got.Repo != flowtest.Repo || got.Run != run.Number || got.Step != "one" || got.Commit != run.Event.After || got.Number != 4 {
		t.Errorf("the release is %+v", got)
	}
	r.finish(ci.Failure)
	outcome := protocol.Outcome{Status: ci.Success, Time: s.Clock.Now()}
	for what, err := range map[string]error{
		"Finish": s.Finish(t.Context(), r.lease, outcome),
		"Append": s.Append(t.Context(), r.lease, batch),
		"Renew":  func() error { _, err := s.Renew(t.Context(), r.lease); return err }(),
		"Resume": func() error { _, err := s.Resume(t.Context(), r.lease); return err }(),
	} {
		if !errors.Is(err, protocol.ErrLeaseLost) {
			t.Errorf("%s after the end: %v, want %v", what, err, protocol.ErrLeaseLost)
		}
	}
	if run := s.Run(run.Number); run.Status != ci.Failure {
		t.Errorf("a late call has changed the run: %+v", run)
	}
	if log := s.Log(run, 1, 1); log != "hello world\n" {
		t.Errorf("the archived log is %q", log)
	}
	idle(t, s)
}

// A runner that gave up waiting for an answer and asks again gets one job, not two.
func TestClaimTwiceAtOnce(t *testing.T) {
	s := flowtest.New(t)
	lease := rand.Text()
	wish := protocol.Claim{Lease: lease, OS: "linux", Arch: "amd64"}
	var both sync.WaitGroup
	jobs := make([]*protocol.Assignment, 2)
	for i := range jobs {
		both.Go(func() {
			var err error
			if jobs[i], err = s.Claim(t.Context(), wish); err != nil {
				t.Error(err)
			}
		})
	}
	first, second := s.Push(pipeline(twoSteps)), s.Push(pipeline(twoSteps))
	both.Wait()
	if jobs[0] == nil || jobs[1] == nil || jobs[0].JobID != jobs[1].JobID {
		t.Errorf("the claims got %+v and %+v", jobs[0], jobs[1])
	}
	if a, b := s.Run(first.Number), s.Run(second.Number); a.Status != ci.Running || b.Status != ci.Pending {
		t.Errorf("the runs are %s and %s", a.Status, b.Status)
	}
}

// Two runners never get the same job.
func TestClaimByMany(t *testing.T) {
	s := flowtest.New(t)
	for range 8 {
		s.Push(pipeline(twoSteps))
	}
	var mu sync.Mutex
	got := map[int64]int{}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			a, err := s.Claim(t.Context(), protocol.Claim{Lease: rand.Text(), OS: "linux", Arch: "amd64"})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			got[a.JobID]++
		})
	}
	all.Wait()
	if len(got) != 8 {
		t.Errorf("eight claims got %d jobs: %v", len(got), got)
	}
}

func TestWrongCalls(t *testing.T) {
	s := flowtest.New(t)
	s.Push(pipeline(twoSteps))
	if _, err := s.Claim(t.Context(), protocol.Claim{Lease: "short"}); err == nil || !strings.Contains(err.Error(), "lease") {
		t.Errorf("a claim with a short lease: %v", err)
	}
	r := claim(t, s)
	for name, events := range map[string][]protocol.Event{
		"start of no step":  {{Seq: 1, Start: &protocol.StepStart{Step: 3}}},
		"end of no step":    {{Seq: 1, End: &protocol.StepEnd{Step: 0, Status: ci.Success}}},
		"no end":            {{Seq: 1, End: &protocol.StepEnd{Step: 1, Status: ci.Running}}},
		"log of no step":    {{Seq: 1, Log: &protocol.Log{Step: -1, Data: []byte("x")}}},
		"log with a gap":    {{Seq: 1, Log: &protocol.Log{Step: 1, Offset: 5, Data: []byte("x")}}},
		"image of no step":  {{Seq: 1, Image: &protocol.Image{Step: 9}}},
		"release that runs": {{Seq: 1, Release: &protocol.Release{Step: 1, Release: ci.Release{Number: 1, Status: ci.Running, Started: time.Now()}}}},
		"release of nobody": {{Seq: 1, Release: &protocol.Release{Step: 9, Release: ci.Release{Number: 1, Status: ci.Success, Started: time.Now()}}}},
		"event of no kind":  {{Seq: 1}},
		"too many events":   make([]protocol.Event, protocol.MaxEvents+1),
		"too long a log":    {{Seq: 1, Log: &protocol.Log{Step: 1, Data: bytes.Repeat([]byte("x"), protocol.MaxLogData+1)}}},
		"sequence number 0": {{Start: &protocol.StepStart{Step: 1}}},
	} {
		if err := s.Append(t.Context(), r.lease, events); err == nil || errors.Is(err, protocol.ErrLeaseLost) {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
	if err := s.Finish(t.Context(), r.lease, protocol.Outcome{Status: ci.Pending}); err == nil {
		t.Error("a job cannot end pending")
	}
	if err := s.Append(t.Context(), rand.Text(), nil); !errors.Is(err, protocol.ErrLeaseLost) {
		t.Errorf("a stranger's lease: %v", err)
	}
	if job := s.Run(1).Jobs[0]; job.Status != ci.Running || job.Steps[0].Status != ci.Waiting {
		t.Errorf("wrong calls have changed the job: %+v", job)
	}
}

// A job whose assignment cannot be made ends with the reason, and the next one is handed out.
func TestUnassignable(t *testing.T) {
	s := flowtest.New(t)
	if err := s.DB.PutSecret(t.Context(), ci.Secret{Repo: flowtest.Repo, Name: "key", Sealed: []byte("damaged"), Updated: time.Now()}); err != nil {
		t.Fatal(err)
	}
	broken := s.Push(pipeline("- name: a\n  image: busybox\n  environment: {KEY: {from_secret: key}}\n  commands: [make]\n"))
	good := s.Push(pipeline(twoSteps))
	if r := claim(t, s); r.Run != good.Number {
		t.Errorf("got the job of run %d", r.Run)
	}
	if run := s.Run(broken.Number); run.Status != ci.Error || !strings.Contains(run.Message, `cannot open the secret "key"`) {
		t.Errorf("the run is %s: %s", run.Status, run.Message)
	}
}
