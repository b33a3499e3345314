package flow_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/flow"
	"slipway/internal/flow/flowtest"
	"slipway/internal/protocol"
	"slipway/internal/store"
)

func TestAccept(t *testing.T) {
	for _, test := range []struct {
		name    string
		file    string
		change  func(*ci.Event)
		status  ci.Status
		message string
	}{
		{name: "good", file: pipeline(twoSteps), status: ci.Pending},
		{name: "wrong", file: "kind: pipeline\ntype: docker\nsteps: [{name: a}]\n", status: ci.Error, message: ".drone.yml:3:"},
		{name: "not triggered", file: "trigger: {event: [pull_request]}\n" + pipeline(twoSteps), status: ci.Skipped, message: "no pipeline runs on this push"},
		{
			name: "no file", file: pipeline(twoSteps), change: func(e *ci.Event) { e.After = strings.Repeat("f", 40) },
			status: ci.Error, message: "commit ffffffffff has no pipeline file; looked for .drone.yml",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := flowtest.New(t)
			event := s.Event(test.file)
			if test.change != nil {
				test.change(&event)
			}
			run, skip, err := s.Accept(t.Context(), flowtest.Repo, event)
			if err != nil || skip != "" || run.Status != test.status || !strings.Contains(run.Message, test.message) {
				t.Fatalf("the run is %s: %q, skip %q, error %v", run.Status, run.Message, skip, err)
			}
			again, _, err := s.Accept(t.Context(), flowtest.Repo, event)
			if err != nil || again.ID != run.ID {
				t.Errorf("the delivery's replay gave %+v, %v", again, err)
			}
			if run.Status.Done() && run.Finished.IsZero() {
				t.Error("the run has no end")
			}
			s.Forge.AwaitStatus(t, event.After, test.status)
		})
	}
}

func TestAcceptSkips(t *testing.T) {
	s := flowtest.New(t)
	event := s.Event(pipeline(twoSteps))
	event.Commit.Message = "Typo\n\n[CI SKIP]"
	if run, skip, err := s.Accept(t.Context(), flowtest.Repo, event); skip != "[ci skip]" || err != nil || run.ID != 0 {
		t.Errorf("run %+v, skip %q, error %v", run, skip, err)
	}
	if _, _, err := s.Accept(t.Context(), "no/body", s.Event("")); fault.Of(err).Code != fault.NotFound {
		t.Errorf("of an unknown repo: %v", err)
	}
}

func TestForgeAway(t *testing.T) {
	s := flowtest.New(t)
	s.Forge.Fail(errors.New("the forge has moved"))
	run := s.Push(pipeline(twoSteps))
	if run.Status != ci.Error || !strings.Contains(run.Message, "the forge has moved") {
		t.Errorf("the run is %s: %s", run.Status, run.Message)
	}
	s.Forge.Fail(nil)
	again, err := s.Flow.Restart(t.Context(), run.Repo, run.Number, "bob")
	if err != nil || again.Status != ci.Pending || again.Parent != run.Number || again.Number != 2 {
		t.Errorf("restarted as %+v, %v", again, err)
	}
	// The status on the commit is that of the newer run, whichever was told last.
	s.Forge.AwaitStatus(t, run.Event.After, ci.Pending)
}

// graph is a .drone.yml of jobs, each given as "name: needs / status".
func graph(jobs ...string) string {
	var docs []string
	for _, job := range jobs {
		name, rest, _ := strings.Cut(job, ":")
		needs, on, _ := strings.Cut(rest, "/")
		doc := "kind: pipeline\ntype: docker\nname: " + name + "\nclone: {disable: true}\nsteps: [{name: a, image: busybox, commands: [make]}]\n"
		if needs = strings.TrimSpace(needs); needs != "" {
			doc += "depends_on: [" + needs + "]\n"
		}
		if on != "" {
			doc += "trigger: {status: [" + on + "]}\n"
		}
		docs = append(docs, doc)
	}
	return strings.Join(docs, "---\n")
}

func TestGraph(t *testing.T) {
	for _, test := range []struct {
		name string
		jobs []string
		// ends are the jobs in the order in which they are claimed, and how they end.
		ends []string
		want string // of the jobs that were not claimed
		run  ci.Status
	}{
		{"chain", []string{"a:", "b: a", "c: b"}, []string{"a success", "b success", "c success"}, "", ci.Success},
		{"failure stops", []string{"a:", "b: a", "c: b"}, []string{"a failure"}, "b skipped, c skipped", ci.Failure},
		{"failure wanted", []string{"a:", "b: a /failure"}, []string{"a failure", "b success"}, "", ci.Failure},
		{"failure not there", []string{"a:", "b: a /failure"}, []string{"a success"}, "b skipped", ci.Success},
		{"failure far away", []string{"a:", "b: a", "c: b /failure"}, []string{"a failure", "c success"}, "b skipped", ci.Failure},
		{"after a skipped one", []string{"a:", "b: a /failure", "c: b"}, []string{"a success", "c success"}, "b skipped", ci.Success},
		{"either", []string{"a:", "b: a /success, failure"}, []string{"a error", "b success"}, "", ci.Error},
		{"diamond", []string{"a:", "b: a", "c: a", "d: b, c"}, []string{"a success", "b failure", "c success"}, "d skipped", ci.Failure},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := flowtest.New(t)
			run := s.Push(graph(test.jobs...))
			for _, end := range test.ends {
				name, status, _ := strings.Cut(end, " ")
				r := claim(t, s)
				if r.Job.Name != name {
					t.Fatalf("claimed %s, want %s", r.Job.Name, name)
				}
				if got := s.Run(run.Number).Status; got != ci.Running {
					t.Errorf("while %s runs, the run is %s", name, got)
				}
				r.finish(ci.Status(status))
			}
			idle(t, s)
			run = s.Run(run.Number)
			var rest []string
			for _, job := range run.Jobs {
				if job.Runner == "" {
					rest = append(rest, job.Name+" "+string(job.Status))
				}
				if !job.Status.Done() || job.Finished.IsZero() {
					t.Errorf("job %s is %s", job.Name, job.Status)
				}
			}
			if got := strings.Join(rest, ", "); got != test.want || run.Status != test.run || run.Finished.IsZero() {
				t.Errorf("the run is %s with %s, want %s with %s", run.Status, got, test.run, test.want)
			}
		})
	}
}

func TestLeaseExpires(t *testing.T) {
	s := flowtest.New(t)
	run := s.Push(pipeline(twoSteps))
	r := claim(t, s)
	r.append(r.start(1), r.log(1, 0, "half"))
	s.Clock.Forward(4 * time.Minute)
	if renewal, err := s.Renew(t.Context(), r.lease); err != nil || renewal.Until.Sub(s.Clock.Now()) < 4*time.Minute {
		t.Fatalf("Renew: %+v, %v", renewal, err)
	}
	s.Clock.Forward(4 * time.Minute)
	if err := flow.Expire(t.Context(), s.Flow); err != nil {
		t.Fatal(err)
	}
	if got := s.Run(run.Number); got.Status != ci.Running {
		t.Fatalf("a job was given up before its time: %+v", got)
	}
	s.Clock.Forward(2 * time.Minute)
	if err := flow.Expire(t.Context(), s.Flow); err != nil {
		t.Fatal(err)
	}
	run = s.Run(run.Number)
	if run.Status != ci.Error || !strings.Contains(run.Message, "the runner rosie has not been heard of since") {
		t.Errorf("the run is %s: %s", run.Status, run.Message)
	}
	if steps := run.Jobs[0].Steps; steps[0].Status != ci.Error || steps[1].Status != ci.Skipped {
		t.Errorf("the steps are %+v", steps)
	}
	if _, err := s.Renew(t.Context(), r.lease); !errors.Is(err, protocol.ErrLeaseLost) {
		t.Errorf("Renew: %v", err)
	}
	if log := s.Log(run, 1, 1); log != "half" {
		t.Errorf("the log is %q", log)
	}
}

func TestCancel(t *testing.T) {
	s := flowtest.New(t)
	run := s.Push(graph("a:", "b: a /success, failure"))
	log, err := s.Logs.Follow(t.Context(), run.Jobs[1].ID, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	r := claim(t, s)
	if run, err := s.Cancel(t.Context(), run.Repo, run.Number, "ada"); err != nil || run.Status != ci.Running || run.Jobs[1].Status != ci.Canceled {
		t.Fatalf("Cancel: %+v, %v", run, err)
	}
	if renewal, err := s.Renew(t.Context(), r.lease); err != nil || !renewal.Cancel {
		t.Errorf("Renew: %+v, %v", renewal, err)
	}
	r.finish(ci.Canceled)
	run = s.Run(run.Number)
	if run.Status != ci.Canceled || run.Jobs[0].Message != "canceled by ada" {
		t.Errorf("the run is %+v", run)
	}
	if _, err := s.Cancel(t.Context(), run.Repo, run.Number, "ada"); fault.Of(err).Code != fault.Conflict {
		t.Errorf("the second Cancel: %v", err)
	}
	// Who follows the log of a job that never ran comes to its end.
	if n, err := log.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("the log of a job that never ran gave %d bytes, %v", n, err)
	}
	idle(t, s)
}

// Whatever a server was about when it was killed, its successor goes on there.
func TestRecover(t *testing.T) {
	t.Run("before the plan", func(t *testing.T) {
		s := flowtest.New(t)
		run := ci.Run{Repo: flowtest.Repo, Event: s.Event(pipeline(twoSteps)), Status: ci.Pending, Created: s.Clock.Now()}
		if err := s.DB.CreateRun(t.Context(), &run); err != nil {
			t.Fatal(err)
		}
		s.Restart()
		if r := claim(t, s); r.Run != run.Number || len(r.Job.Steps) != 2 {
			t.Errorf("claimed %+v", r.Assignment)
		}
	})
	t.Run("between claim and answer", func(t *testing.T) {
		s := flowtest.New(t)
		s.Push(pipeline(twoSteps))
		r := claim(t, s)
		s.Clock.Forward(time.Hour) // the server was away for long; runners could not renew
		s.Restart()
		if err := flow.Expire(t.Context(), s.Flow); err != nil {
			t.Fatal(err)
		}
		if again, err := s.Claim(t.Context(), r.wish()); err != nil || again.JobID != r.JobID {
			t.Errorf("the same claim after the restart: %+v, %v", again, err)
		}
		r.finish(ci.Success)
	})
	t.Run("between the end of a job and its archive", func(t *testing.T) {
		s := flowtest.New(t)
		run := s.Push(pipeline(twoSteps))
		r := claim(t, s)
		r.append(r.start(1), r.log(1, 0, "hello"), r.end(1, ci.Success, 0))
		if _, err := s.DB.UpdateRun(t.Context(), run.ID, func(d *store.Draft) error {
			d.Jobs[0].Status, d.Status, d.Finished = ci.Success, ci.Success, s.Clock.Now()
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		s.Restart()
		if live, err := s.Logs.Live(); err != nil || len(live) > 0 {
			t.Errorf("logs of jobs %v are not archived, %v", live, err)
		}
		if log := s.Log(s.Run(run.Number), 1, 1); log != "hello" {
			t.Errorf("the log is %q", log)
		}
		s.Forge.AwaitStatus(t, run.Event.After, ci.Success)
	})
	t.Run("older runs of a commit are not told again", func(t *testing.T) {
		s := flowtest.New(t)
		run := s.Push(pipeline(twoSteps))
		claim(t, s).finish(ci.Failure)
		if _, err := s.Flow.Restart(t.Context(), run.Repo, run.Number, "bob"); err != nil {
			t.Fatal(err)
		}
		claim(t, s).finish(ci.Success)
		s.Forge.AwaitStatus(t, run.Event.After, ci.Success)
		s.Restart()
		s.Flow.Close(context.Background())
		all := s.Forge.Statuses(run.Event.After)
		if last := all[len(all)-1]; last.State != ci.Success {
			t.Errorf("the last status is %+v", last)
		}
	})
}

func TestSecretsScope(t *testing.T) {
	s := flowtest.New(t)
	for name, pullRequests := range map[string]bool{"deploy-key": false, "test-key": true} {
		if err := s.PutSecret(t.Context(), flowtest.Repo, name, "value of "+name, pullRequests); err != nil {
			t.Fatal(err)
		}
	}
	file := pipeline("- name: a\n  image: busybox\n  commands: [make]\n  environment:\n    A: {from_secret: Deploy-Key}\n    B: {from_secret: test-key}\n    C: {from_secret: none}\n")
	unknown := s.PullRequest(file, false)
	unknown.PullRequest = nil
	for _, test := range []struct {
		name    string
		event   ci.Event
		given   int
		denied  int
		fork    bool
		mayPush bool
	}{
		{"push", s.Event(file), 2, 0, false, true},
		{"pull request", s.PullRequest(file, false), 1, 1, false, true},
		{"fork", s.PullRequest(file, true), 0, 2, true, false},
		{"unknown origin", unknown, 0, 2, true, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, _, err := s.Accept(t.Context(), flowtest.Repo, test.event); err != nil {
				t.Fatal(err)
			}
			r := claim(t, s)
			defer r.finish(ci.Success)
			if len(r.Secrets) != test.given || len(r.Denied) != test.denied || r.Fork != test.fork || r.Trusted == test.fork || r.Clone.Steps == test.fork {
				t.Errorf("the assignment is %+v", r.Assignment)
			}
			who, err := s.Auth.Find(t.Context(), r.Auths[0].Password)
			if err != nil || who.Job != r.JobID || who.Pushes("ada/engine/app") != test.mayPush || !who.Pulls("ada/engine/app") || who.Manages(flowtest.Repo) {
				t.Errorf("the job's token is that of %+v, %v", who, err)
			}
		})
	}
}

func TestRepos(t *testing.T) {
	s := flowtest.New(t)
	for _, name := range []string{
		"", "engine", "a/b/c", "../etc", "ada/..", "ada/.git", "mirror/docker.io", "API/x", "ada/en gine",
		"ada/.github", "ada/engine_", "ada/en._gine", "-ada/engine", "ada/en___gine", "ada/\u212aey", "ada/" + strings.Repeat("x", 200),
	} {
		if _, err := s.AddRepo(t.Context(), flow.NewRepo{Name: name, Forge: flowtest.Kind, ForgeURL: "https://x", Token: "t"}); fault.Of(err) == nil || fault.Of(err).Code != fault.Invalid {
			t.Errorf("%q as a name: %v", name, err)
		}
	}
	if _, err := s.ChangeRepo(t.Context(), flowtest.Repo, func(r *ci.Repo) { r.Config = "../../etc/passwd" }); err == nil {
		t.Error("a path outside of the repo is taken for its pipeline file")
	}
	if _, err := s.ChangeRepo(t.Context(), flowtest.Repo, func(r *ci.Repo) { r.Timeout, r.Config = time.Minute, "ci/drone.yml" }); err != nil {
		t.Fatal(err)
	}
	repo, err := s.AddRepo(t.Context(), flow.NewRepo{Name: flowtest.Repo, Forge: flowtest.Kind, ForgeURL: "https://git.example.com", Token: "another"})
	if err != nil || !repo.Trusted || !repo.Private || repo.Timeout != time.Minute || repo.Config != "ci/drone.yml" {
		t.Errorf("adding it again made it %+v, %v", repo, err)
	}
	// What images can be called is a repo's name, in any case; but of two whose images would have the same name, one.
	for name, taken := range map[string]bool{"Acme/my--App": false, "acme/my__app": false, "acme/my---app": false, "Ada/engine": true, "ada/ENGINE": true} {
		_, err := s.AddRepo(t.Context(), flow.NewRepo{Name: name, Forge: flowtest.Kind, ForgeURL: "https://git.example.com", Token: "another"})
		if f := fault.Of(err); taken != (f != nil && f.Code == fault.Conflict && strings.Contains(f.Message, "beside ada/engine: their names differ only by case")) || !taken && err != nil {
			t.Errorf("adding %s: %v", name, err)
		}
	}
}

func TestHook(t *testing.T) {
	s := flowtest.New(t)
	s.Forge.Commit(map[string]string{".drone.yml": pipeline(twoSteps)})
	for _, repo := range []string{flowtest.Repo, "no/body"} {
		_, _, err := s.Hook(t.Context(), repo, flow.Delivery{Body: []byte("forged")})
		if f := fault.Of(err); f == nil || f.Code != fault.Unauthorized || !strings.HasPrefix(f.Message, "the webhook's signature is wrong") {
			t.Errorf("a forged webhook of %s: %v", repo, err)
		}
	}
	repo, err := s.DB.FindRepo(t.Context(), flowtest.Repo)
	if err != nil {
		t.Fatal(err)
	}
	key, err := s.Keys.Open(repo.WebhookSecret, repo.Name, "webhook secret")
	if err != nil {
		t.Fatal(err)
	}
	if _, reason, err := s.Hook(t.Context(), flowtest.Repo, flow.Delivery{Header: map[string][]string{"Ping": {"1"}}, Body: key}); reason != "it is a ping" || err != nil {
		t.Errorf("a ping: %q, %v", reason, err)
	}
	run, _, err := s.Hook(t.Context(), flowtest.Repo, flow.Delivery{Body: key})
	if err != nil || run.Status != ci.Pending {
		t.Fatalf("a webhook: %+v, %v", run, err)
	}
	if again, _, err := s.Hook(t.Context(), flowtest.Repo, flow.Delivery{Body: key}); err != nil || again.ID != run.ID {
		t.Errorf("its replay: %+v, %v", again, err)
	}
}

func TestDeleteRepo(t *testing.T) {
	s := flowtest.New(t)
	run := s.Push(pipeline(twoSteps))
	waiting := s.Push(pipeline(twoSteps))
	r := claim(t, s)
	r.append(r.start(1), r.log(1, 0, "hello"))
	if err := s.DeleteRepo(t.Context(), flowtest.Repo); err != nil {
		t.Fatal(err)
	}
	if err := s.Append(t.Context(), r.lease, []protocol.Event{r.log(1, 5, " again")}); !errors.Is(err, protocol.ErrLeaseLost) {
		t.Errorf("Append of a removed job: %v", err)
	}
	if _, err := s.FindRun(t.Context(), flowtest.Repo, run.Number); fault.Of(err).Code != fault.NotFound {
		t.Errorf("the run is still there: %v", err)
	}
	for _, job := range []int64{run.Jobs[0].ID, waiting.Jobs[0].ID} {
		if size, err := s.Logs.Size(t.Context(), job, 1); err != nil || size != 0 {
			t.Errorf("the log of job %d has %d bytes, %v", job, size, err)
		}
	}
	if live, err := s.Logs.Live(); err != nil || len(live) > 0 {
		t.Errorf("logs of jobs %v are left, %v", live, err)
	}
	idle(t, s)
}

func TestSecretNames(t *testing.T) {
	s := flowtest.New(t)
	for name, value := range map[string]string{"": "x", "1a": "x", "a b": "x", "a": "", "big": strings.Repeat("x", 64<<10+1)} {
		if err := s.PutSecret(t.Context(), flowtest.Repo, name, value, false); err == nil {
			t.Errorf("the secret %.20q with %d bytes is taken", name, len(value))
		}
	}
	if err := s.DeleteSecret(t.Context(), flowtest.Repo, "none"); fault.Of(err).Code != fault.NotFound {
		t.Error(err)
	}
}
