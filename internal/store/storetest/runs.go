package storetest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"slipway/internal/ci"
	"slipway/internal/plan"
	"slipway/internal/store"
)

func testCreateRun(t *testing.T, s store.Store) {
	run := ci.Run{Repo: "a/b", Status: ci.Pending}
	wantErr(t, s.CreateRun(t.Context(), &run), store.ErrNotFound)

	putRepo(t, s, "a/b")
	putRepo(t, s, "a/c")
	event := ci.Event{
		Kind: ci.PullRequest, Action: "opened", Delivery: "d-1", Ref: "refs/pull/7/head", Before: "b0b", After: "c0ffee",
		Source: "feature", Target: "main", Sender: "ann", Link: "https://git.example.com/7",
		Commit: ci.Commit{
			Message: "title\n\nbody \x00 \u2028", Link: "https://git.example.com/c0ffee",
			Author: ci.Signature{Login: "ann", Name: "Ann", Email: "ann@example.com", Time: noon},
		},
		PullRequest: &ci.Change{Number: 7, Title: "t", Draft: true, Fork: true, HeadRepo: "x/b"},
		CronName:    "nightly", DeployTo: "production", Params: map[string]string{"A": "1", "b": ""},
	}
	run = ci.Run{
		Repo: "a/b", Parent: 3, Event: event, Status: ci.Error, Message: "no file", Warnings: []string{"f:1:2: w"},
		Created: noon, Started: noon.Add(time.Second), Finished: noon.Add(time.Minute),
	}
	check(t, s.CreateRun(t.Context(), &run))
	if run.ID == 0 || run.Number != 1 {
		t.Fatalf("the first run has ID %d and number %d", run.ID, run.Number)
	}
	got, err := s.FindRun(t.Context(), "a/b", 1)
	check(t, err)
	same(t, got, run)

	second, other := createRun(t, s, "a/b"), createRun(t, s, "a/c")
	if second.Number != 2 || other.Number != 1 || other.ID <= second.ID || second.ID <= run.ID {
		t.Fatalf("numbers are %d and %d; IDs %d, %d, %d", second.Number, other.Number, run.ID, second.ID, other.ID)
	}

	withJobs := ci.Run{Repo: "a/b", Jobs: []ci.Job{{Name: "x"}}}
	if err := s.CreateRun(t.Context(), &withJobs); err == nil {
		t.Fatal("a run with jobs was created")
	}
}

func testCreateRunReplay(t *testing.T, s store.Store) {
	putRepo(t, s, "a/b")
	putRepo(t, s, "a/c")
	create := func(repo, delivery, ref string) (ci.Run, error) {
		run := ci.Run{Repo: repo, Status: ci.Pending, Created: noon, Event: ci.Event{Kind: ci.Push, Delivery: delivery, Ref: ref}}
		err := s.CreateRun(t.Context(), &run)
		return run, err
	}
	first, err := create("a/b", "d-1", "refs/heads/main")
	check(t, err)
	first = addJobs(t, s, first.ID, "test")

	replay, err := create("a/b", "d-1", "refs/heads/main")
	wantErr(t, err, store.ErrExists)
	same(t, replay, first)

	for i, other := range []struct{ repo, delivery, ref string }{
		{"a/b", "d-1", "refs/heads/other"}, // one push may move several branches
		{"a/b", "d-2", "refs/heads/main"},
		{"a/b", "", "refs/heads/main"},
		{"a/b", "", "refs/heads/main"},
		{"a/c", "d-1", "refs/heads/main"},
	} {
		run, err := create(other.repo, other.delivery, other.ref)
		if err != nil {
			t.Fatalf("%+v: %v", other, err)
		}
		if other.repo == "a/b" && run.Number != int64(i)+2 {
			t.Fatalf("%+v got number %d, want %d: a replay takes no number", other, run.Number, i+2)
		}
	}
}

func testCreateRunConcurrent(t *testing.T, s store.Store) {
	repos := []string{"a/b", "a/c", "a/d"}
	for _, repo := range repos {
		putRepo(t, s, repo)
	}
	const each = 40
	var mu sync.Mutex
	numbers := map[string][]int64{}
	ids := map[int64]bool{}
	var group errgroup.Group
	for i := range each * len(repos) {
		group.Go(func() error {
			run := ci.Run{Repo: repos[i%len(repos)], Status: ci.Pending, Created: noon}
			if err := s.CreateRun(t.Context(), &run); err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			numbers[run.Repo] = append(numbers[run.Repo], run.Number)
			ids[run.ID] = true
			return nil
		})
	}
	check(t, group.Wait())
	if len(ids) != each*len(repos) {
		t.Errorf("%d different IDs for %d runs", len(ids), each*len(repos))
	}
	for _, repo := range repos {
		slices.Sort(numbers[repo])
		for i, n := range numbers[repo] {
			if n != int64(i)+1 {
				t.Fatalf("numbers of %s: %v", repo, numbers[repo])
			}
		}
	}
}

func testCreateRunReplayConcurrent(t *testing.T, s store.Store) {
	putRepo(t, s, "a/b")
	var mu sync.Mutex
	created := 0
	var group errgroup.Group
	for range 30 {
		group.Go(func() error {
			run := ci.Run{Repo: "a/b", Status: ci.Pending, Event: ci.Event{Delivery: "d", Ref: "refs/heads/main"}}
			err := s.CreateRun(t.Context(), &run)
			if err != nil && !errors.Is(err, store.ErrExists) {
				return err
			}
			if run.Number != 1 {
				return fmt.Errorf("run %d", run.Number)
			}
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				created++
			}
			return nil
		})
	}
	check(t, group.Wait())
	if created != 1 {
		t.Fatalf("one delivery made %d runs", created)
	}
}

func testFindRun(t *testing.T, s store.Store) {
	_, err := s.FindRun(t.Context(), "a/b", 1)
	wantErr(t, err, store.ErrNotFound)
	putRepo(t, s, "a/b")
	_, err = s.FindRun(t.Context(), "a/b", 1)
	wantErr(t, err, store.ErrNotFound)
}

func testFindPlan(t *testing.T, s store.Store) {
	putRepo(t, s, "a/b")
	run := createRun(t, s, "a/b")
	_, err := s.FindPlan(t.Context(), run.ID)
	wantErr(t, err, store.ErrNotFound)
	_, err = s.FindPlan(t.Context(), run.ID+1)
	wantErr(t, err, store.ErrNotFound)

	want := plan.Plan{Version: plan.Version, Jobs: []plan.Job{{
		Name: "test", OS: "linux", Labels: map[string]string{"gpu": "yes"}, Workspace: "/drone/src",
		Steps: []plan.Step{{
			Name: "go", Kind: plan.KindExec, Exec: &plan.Exec{Image: "golang:1.26", Script: "go test ./... # ?"},
			Env: map[string]plan.Value{"A": plan.Text("b"), "KEY": plan.FromSecret("key"), "S": plan.FromFact(plan.JobStatus)},
		}},
	}}}
	_, err = s.UpdateRun(t.Context(), run.ID, func(d *store.Draft) error {
		d.Plan = &want
		return nil
	})
	check(t, err)
	got, err := s.FindPlan(t.Context(), run.ID)
	check(t, err)
	same(t, got, want)

	// The plan is not loaded, and an update without one leaves it alone.
	_, err = s.UpdateRun(t.Context(), run.ID, func(d *store.Draft) error {
		if d.Plan != nil {
			return errors.New("the plan was loaded")
		}
		d.Status = ci.Running
		return nil
	})
	check(t, err)
	got, err = s.FindPlan(t.Context(), run.ID)
	check(t, err)
	same(t, got, want)
}

func testListRuns(t *testing.T, s store.Store) {
	putRepo(t, s, "a/b")
	putRepo(t, s, "a/c")
	var all []ci.Run // newest first
	for i := range 120 {
		all = slices.Insert(all, 0, createRun(t, s, []string{"a/b", "a/b", "a/c"}[i%3]))
	}
	addJobs(t, s, all[0].ID, "jobs are left out")
	of := func(repo string) (runs []ci.Run) {
		for _, run := range all {
			if run.Repo == repo {
				runs = append(runs, run)
			}
		}
		return runs
	}
	for _, tt := range []struct {
		name   string
		filter store.RunFilter
		want   []ci.Run
	}{
		{"zero", store.RunFilter{}, all[:50]},
		{"limit", store.RunFilter{Limit: 3}, all[:3]},
		{"all", store.RunFilter{Limit: 500}, all},
		{"too many", store.RunFilter{Limit: 1 << 40}, all},
		{"repo", store.RunFilter{Repo: "a/c"}, of("a/c")},
		{"repos", store.RunFilter{Repos: []string{"a/c", "no/no"}, Limit: 5}, of("a/c")[:5]},
		{"no repos", store.RunFilter{Repos: []string{}}, nil},
		{"numbers", store.RunFilter{Repo: "a/c", Numbers: []int64{3, 1, 400}}, []ci.Run{of("a/c")[37], of("a/c")[39]}},
		{"unknown repo", store.RunFilter{Repo: "no/no"}, nil},
		{"page", store.RunFilter{Before: all[50].ID, Limit: 10}, all[51:61]},
		{"page of repo", store.RunFilter{Repo: "a/b", Before: of("a/b")[9].ID, Limit: 10}, of("a/b")[10:20]},
		{"past the end", store.RunFilter{Before: all[119].ID}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := s.ListRuns(t.Context(), tt.filter)
			check(t, err)
			same(t, got, tt.want)
		})
	}
}

func testListRunsUnfinished(t *testing.T, s store.Store) {
	putRepo(t, s, "a/b")
	putRepo(t, s, "a/c")
	var want []ci.Run
	statuses := []ci.Status{ci.Waiting, ci.Pending, ci.Running, ci.Success, ci.Failure, ci.Error, ci.Canceled, ci.Skipped}
	for i := range 160 {
		run := createRun(t, s, []string{"a/b", "a/c"}[i%2])
		run, err := s.UpdateRun(t.Context(), run.ID, func(d *store.Draft) error {
			d.Status = statuses[i%len(statuses)]
			return nil
		})
		check(t, err)
		if !run.Status.Done() {
			want = slices.Insert(want, 0, run)
		}
	}
	got, err := s.ListRuns(t.Context(), store.RunFilter{Unfinished: true})
	check(t, err)
	same(t, got, want)
	got, err = s.ListRuns(t.Context(), store.RunFilter{Unfinished: true, Repo: "a/c"})
	check(t, err)
	same(t, got, slices.DeleteFunc(slices.Clone(want), func(r ci.Run) bool { return r.Repo != "a/c" }))
}

func testUpdateRun(t *testing.T, s store.Store) {
	putRepo(t, s, "a/b")
	run := createRun(t, s, "a/b")
	bystander := addJobs(t, s, createRun(t, s, "a/b").ID, "test")

	_, err := s.UpdateRun(t.Context(), 1<<40, func(*store.Draft) error { return nil })
	wantErr(t, err, store.ErrNotFound)

	var got ci.Run
	update := func(change func(d *store.Draft)) {
		t.Helper()
		before := got
		got, err = s.UpdateRun(t.Context(), run.ID, func(d *store.Draft) error {
			if before.ID != 0 {
				same(t, d.Run, before)
			}
			change(d)
			return nil
		})
		check(t, err)
		found, err := s.FindRun(t.Context(), "a/b", run.Number)
		check(t, err)
		same(t, found, got)
	}
	berlin := time.FixedZone("CET", 3600)
	update(func(d *store.Draft) {
		d.Status, d.Message, d.Warnings = ci.Running, "on its way", []string{"f:1:1: a", "f:2:1: b"}
		d.Started = noon.In(berlin)
		d.Jobs = []ci.Job{
			{Name: "build", Status: ci.Pending, Steps: []ci.Step{
				{Name: "clone", Kind: "clone", Status: ci.Pending},
				{
					Name: "go", Kind: "exec", Image: "golang", Needs: []string{"clone"}, Detach: true, Status: ci.Waiting,
					ExitCode: 3, Message: "m", Started: noon, Finished: noon.Add(1),
				},
			}},
			{Number: 2, Name: "deploy", Needs: []string{"build"}, Status: ci.Waiting},
		}
	})
	if !got.Started.Equal(noon) || got.Jobs[0].ID == 0 || got.Jobs[0].ID >= got.Jobs[1].ID || got.Jobs[0].Number != 1 ||
		got.Jobs[1].Number != 2 || got.Jobs[0].RunID != run.ID || got.Jobs[0].Steps[1].Number != 2 {
		t.Fatalf("stored %+v", got)
	}
	update(func(d *store.Draft) {
		job := d.Job(got.Jobs[0].ID)
		job.Status, job.Runner, job.Cancel, job.Message, job.Started = ci.Running, "r", true, "m", noon
		job.Lease = ci.Lease{Hash: hash("x"), Until: noon.Add(time.Minute), Seq: 7}
		job.Steps[0].Status, job.Steps[0].ExitCode = ci.Failure, 128
		job.Steps = append(job.Steps, ci.Step{Number: 3, Name: "late", Kind: "exec", Status: ci.Waiting})
		d.Images = append(d.Images, ci.Image{Ref: "r/a:1", Digest: "sha256:1"})
	})
	// What is changed in place, inside of slices, counts too.
	update(func(d *store.Draft) {
		d.Jobs[0].Lease.Hash[0] ^= 1
		d.Jobs[0].Needs = append(d.Jobs[0].Needs, "other")
		d.Warnings[0] = "changed"
		d.Jobs[0].Steps[1].Needs[0] = "changed"
	})
	update(func(d *store.Draft) {
		d.Jobs[0].Lease, d.Jobs[0].Cancel = ci.Lease{}, false
		d.Jobs = append(d.Jobs, ci.Job{Name: "third", Status: ci.Pending})
		d.Images = append(d.Images, ci.Image{Ref: "r/a:2", Digest: "sha256:2"}, ci.Image{Ref: "r/a:2", Digest: "sha256:2"})
	})
	update(func(d *store.Draft) { d.Status, d.Finished, d.Started = ci.Success, noon.Add(time.Hour), time.Time{} })
	update(func(d *store.Draft) {})
	if len(got.Jobs) != 3 || len(got.Images) != 3 || got.Jobs[0].Steps[0].ExitCode != 128 {
		t.Fatalf("at the end: %+v", got)
	}

	other, err := s.FindRun(t.Context(), "a/b", bystander.Number)
	check(t, err)
	same(t, other, bystander)
}

func testUpdateRunRollsBack(t *testing.T, s store.Store) {
	putRepo(t, s, "a/b")
	run := addJobs(t, s, createRun(t, s, "a/b").ID, "test")
	mine := errors.New("mine")
	_, err := s.UpdateRun(t.Context(), run.ID, func(d *store.Draft) error {
		d.Status = ci.Failure
		d.Jobs[0].Status = ci.Failure
		return mine
	})
	if !errors.Is(err, mine) || err.Error() != mine.Error() {
		t.Fatalf("the error is %v, want it as it was", err)
	}
	got, err := s.FindRun(t.Context(), "a/b", run.Number)
	check(t, err)
	same(t, got, run)
}

func testUpdateRunRefuses(t *testing.T, s store.Store) {
	putRepo(t, s, "a/b")
	putRepo(t, s, "a/c")
	run := addJobs(t, s, createRun(t, s, "a/b").ID, "one", "two")
	other := addJobs(t, s, createRun(t, s, "a/b").ID, "x")
	run, err := s.UpdateRun(t.Context(), run.ID, func(d *store.Draft) error {
		d.Jobs[0].Steps = []ci.Step{{Name: "s"}}
		d.Images = []ci.Image{{Ref: "r"}}
		return nil
	})
	check(t, err)
	for name, change := range map[string]func(d *store.Draft){
		"a job removed":              func(d *store.Draft) { d.Jobs = d.Jobs[:1] },
		"a step removed":             func(d *store.Draft) { d.Jobs[0].Steps = nil },
		"an image removed":           func(d *store.Draft) { d.Images = nil },
		"a job of another run":       func(d *store.Draft) { d.Jobs = append(d.Jobs, other.Jobs...) },
		"a job twice":                func(d *store.Draft) { d.Jobs = append(d.Jobs, d.Jobs[0]) },
		"a job's number twice":       func(d *store.Draft) { d.Jobs = append(d.Jobs, ci.Job{Name: "x", Number: 1}) },
		"another ID":                 func(d *store.Draft) { d.ID++ },
		"another repo":               func(d *store.Draft) { d.Repo = "a/c" },
		"another number":             func(d *store.Draft) { d.Number++ },
		"another event":              func(d *store.Draft) { d.Event.After = "bad" },
		"a time that cannot be kept": func(d *store.Draft) { d.Finished = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC) },
	} {
		_, err := s.UpdateRun(t.Context(), run.ID, func(d *store.Draft) error {
			d.Message = "changed"
			change(d)
			return nil
		})
		if err == nil {
			t.Errorf("%s was accepted", name)
		}
		got, err := s.FindRun(t.Context(), "a/b", run.Number)
		check(t, err)
		same(t, got, run)
	}
}

func testUpdateRunOddText(t *testing.T, s store.Store) {
	putRepo(t, s, "a/b")
	run := addJobs(t, s, createRun(t, s, "a/b").ID, "one")
	const odd, want = "exit \xff\x00 ünï?$1", "exit \uFFFD\uFFFD ünï?$1"
	run, err := s.UpdateRun(t.Context(), run.ID, func(d *store.Draft) error {
		d.Message, d.Jobs[0].Message = odd, odd
		d.Jobs[0].Steps = []ci.Step{{Name: "s", Message: odd}}
		return nil
	})
	check(t, err)
	if run.Message != want || run.Jobs[0].Message != want || run.Jobs[0].Steps[0].Message != want {
		t.Fatalf("stored %+v", run)
	}
	got, err := s.FindRun(t.Context(), "a/b", run.Number)
	check(t, err)
	same(t, got, run)
}

func testUpdateRunConcurrent(t *testing.T, s store.Store) {
	putRepo(t, s, "a/b")
	runs := []ci.Run{
		addJobs(t, s, createRun(t, s, "a/b").ID, "one", "two"),
		addJobs(t, s, createRun(t, s, "a/b").ID, "one", "two"),
	}
	const each = 50
	var group errgroup.Group
	for i := range each * len(runs) {
		group.Go(func() error {
			_, err := s.UpdateRun(t.Context(), runs[i%2].ID, func(d *store.Draft) error {
				d.Jobs[i/2%2].Lease.Seq++
				d.Images = append(d.Images, ci.Image{Ref: fmt.Sprint(i)})
				return nil
			})
			return err
		})
	}
	check(t, group.Wait())
	for _, run := range runs {
		got, err := s.FindRun(t.Context(), "a/b", run.Number)
		check(t, err)
		if got.Jobs[0].Lease.Seq+got.Jobs[1].Lease.Seq != each || len(got.Images) != each {
			t.Fatalf("%d updates left %d, %d and %d images", each, got.Jobs[0].Lease.Seq, got.Jobs[1].Lease.Seq, len(got.Images))
		}
	}
}

func testUpdateRunPanics(t *testing.T, s store.Store) {
	putRepo(t, s, "a/b")
	run := createRun(t, s, "a/b")
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		_, _ = s.UpdateRun(t.Context(), run.ID, func(d *store.Draft) error { panic("bug") })
	}()
	// It holds no lock.
	_, err := s.UpdateRun(t.Context(), run.ID, func(d *store.Draft) error {
		d.Status = ci.Success
		return nil
	})
	check(t, err)
}
