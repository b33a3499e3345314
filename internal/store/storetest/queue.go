package storetest

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"slipway/internal/ci"
	"slipway/internal/plan"
	"slipway/internal/store"
)

func testClaimOrder(t *testing.T, s store.Store) {
	_, _, err := s.Claim(t.Context(), claimOf("none"))
	wantErr(t, err, store.ErrNotFound)

	putRepo(t, s, "a/b")
	first := addJobs(t, s, createRun(t, s, "a/b").ID, "one", "two", "three")
	second := addJobs(t, s, createRun(t, s, "a/b").ID, "four")
	// Waiting jobs are not in the queue.
	first, err = s.UpdateRun(t.Context(), first.ID, func(d *store.Draft) error {
		d.Jobs[1].Status = ci.Waiting
		return nil
	})
	check(t, err)

	for i, want := range []ci.Job{first.Jobs[0], first.Jobs[2], second.Jobs[0]} {
		claim := claimOf(fmt.Sprint(i))
		run, jobID, err := s.Claim(t.Context(), claim)
		check(t, err)
		want.Status, want.Runner, want.Started, want.Lease = ci.Running, claim.Runner, noon, claim.Lease
		if jobID != want.ID || run.ID != want.RunID || run.Repo != "a/b" {
			t.Fatalf("claim %d is of job %d, want %d", i, jobID, want.ID)
		}
		job := (&store.Draft{Run: run}).Job(jobID)
		if job == nil {
			t.Fatal("the run is without the job")
		}
		same(t, *job, want)
		stored, err := s.FindRun(t.Context(), "a/b", run.Number)
		check(t, err)
		same(t, stored, run)
	}
	_, _, err = s.Claim(t.Context(), claimOf("none"))
	wantErr(t, err, store.ErrNotFound)

	// A job that becomes pending later is older than the others all the same.
	third := addJobs(t, s, createRun(t, s, "a/b").ID, "five")
	_, err = s.UpdateRun(t.Context(), first.ID, func(d *store.Draft) error {
		d.Jobs[1].Status = ci.Pending
		return nil
	})
	check(t, err)
	_, jobID, err := s.Claim(t.Context(), claimOf("late"))
	check(t, err)
	if jobID != first.Jobs[1].ID {
		t.Fatalf("claimed job %d, want %d and not %d", jobID, first.Jobs[1].ID, third.Jobs[0].ID)
	}
}

func testClaimFits(t *testing.T, s store.Store) {
	putRepo(t, s, "a/b")
	run := createRun(t, s, "a/b")
	jobs := []plan.Job{
		{Name: "windows", OS: "windows"},
		{Name: "arm", OS: "linux", Arch: "arm64"},
		{Name: "gpu", Labels: map[string]string{"gpu": "yes", "disk": "fast"}},
		{Name: "odd", Labels: map[string]string{`q"?`: `ö'\`}},
		{Name: "empty", Labels: map[string]string{"x": ""}},
		{Name: "any"},
	}
	_, err := s.UpdateRun(t.Context(), run.ID, func(d *store.Draft) error {
		d.Plan = &plan.Plan{Version: plan.Version, Jobs: jobs}
		for range 3 {
			for _, job := range jobs {
				d.Jobs = append(d.Jobs, ci.Job{Name: job.Name, Status: ci.Pending})
			}
		}
		return nil
	})
	check(t, err)
	for _, tt := range []struct {
		os, arch string
		labels   map[string]string
		want     string
	}{
		{"linux", "amd64", nil, "any"},
		{"linux", "amd64", map[string]string{"gpu": "yes"}, "any"},
		{"linux", "amd64", map[string]string{"gpu": "no", "disk": "fast"}, "any"},
		{"linux", "amd64", map[string]string{"gpu": "yes", "disk": "fast", "more": "1"}, "gpu"},
		{"linux", "amd64", map[string]string{`q"?`: `ö'\`}, "odd"},
		{"linux", "amd64", map[string]string{"x": ""}, "empty"},
		{"linux", "arm64", nil, "arm"},
		{"windows", "arm64", nil, "windows"},
		{"plan9", "386", nil, ""},
	} {
		claim := claimOf(tt.want)
		claim.OS, claim.Arch, claim.Labels = tt.os, tt.arch, tt.labels
		run, jobID, err := s.Claim(t.Context(), claim)
		if tt.want == "" {
			wantErr(t, err, store.ErrNotFound)
			continue
		}
		check(t, err)
		if job := (&store.Draft{Run: run}).Job(jobID); job.Name != tt.want {
			t.Errorf("%+v claimed %q", tt, job.Name)
		}
	}
}

func testClaimPlanLater(t *testing.T, s store.Store) {
	putRepo(t, s, "a/b")
	run := createRun(t, s, "a/b")
	arm := func(names ...string) *plan.Plan {
		p := &plan.Plan{Version: plan.Version}
		for _, name := range names {
			p.Jobs = append(p.Jobs, plan.Job{Name: name, Arch: "arm64"})
		}
		return p
	}
	// The plan comes after its first job, and before its second.
	for _, change := range []func(d *store.Draft){
		func(d *store.Draft) { d.Jobs = append(d.Jobs, ci.Job{Name: "one", Status: ci.Waiting}) },
		func(d *store.Draft) { d.Plan = arm("one", "two") },
		func(d *store.Draft) { d.Jobs = append(d.Jobs, ci.Job{Name: "two", Status: ci.Waiting}) },
		func(d *store.Draft) { d.Jobs[0].Status, d.Jobs[1].Status = ci.Pending, ci.Pending },
	} {
		_, err := s.UpdateRun(t.Context(), run.ID, func(d *store.Draft) error {
			change(d)
			return nil
		})
		check(t, err)
	}
	_, _, err := s.Claim(t.Context(), claimOf("amd64"))
	wantErr(t, err, store.ErrNotFound)
	for range 2 {
		claim := claimOf("arm64")
		claim.Arch = "arm64"
		_, _, err = s.Claim(t.Context(), claim)
		check(t, err)
	}
}

// claimAll claims with many claimers at once, each until there is nothing left, and checks that each of jobs is handed
// out once.
func claimAll(t *testing.T, s store.Store, claimers int, jobs map[int64]bool) {
	t.Helper()
	var mu sync.Mutex
	claimed := map[int64]int{}
	var group errgroup.Group
	for i := range claimers {
		group.Go(func() error {
			for n := 0; ; n++ {
				_, jobID, err := s.Claim(t.Context(), claimOf(fmt.Sprint(i, n)))
				if errors.Is(err, store.ErrNotFound) {
					return nil
				} else if err != nil {
					return err
				}
				mu.Lock()
				claimed[jobID]++
				mu.Unlock()
			}
		})
	}
	check(t, group.Wait())
	for id := range jobs {
		if claimed[id] != 1 {
			t.Errorf("job %d was claimed %d times", id, claimed[id])
		}
	}
	if len(claimed) != len(jobs) {
		t.Errorf("%d jobs were claimed, want %d", len(claimed), len(jobs))
	}
}

func testClaimConcurrent(t *testing.T, s store.Store) {
	putRepo(t, s, "a/b")
	jobs := map[int64]bool{}
	for range 50 {
		for _, job := range addJobs(t, s, createRun(t, s, "a/b").ID, "one", "two", "three").Jobs {
			jobs[job.ID] = true
		}
	}
	claimAll(t, s, 100, jobs)
}

func testClaimOneRunConcurrent(t *testing.T, s store.Store) {
	putRepo(t, s, "a/b")
	var names []string
	for i := range 100 {
		names = append(names, fmt.Sprintf("job %d", i))
	}
	run := addJobs(t, s, createRun(t, s, "a/b").ID, names...)
	// Nobody may leave empty-handed because others hold the run: there is one job for each.
	var mu sync.Mutex
	claimed := map[int64]bool{}
	var group errgroup.Group
	for i := range len(run.Jobs) {
		group.Go(func() error {
			_, jobID, err := s.Claim(t.Context(), claimOf(fmt.Sprint(i)))
			mu.Lock()
			defer mu.Unlock()
			claimed[jobID] = true
			return err
		})
	}
	check(t, group.Wait())
	if len(claimed) != len(run.Jobs) {
		t.Fatalf("%d claims got %d jobs", len(run.Jobs), len(claimed))
	}
}

func testClaimAndUpdateConcurrent(t *testing.T, s store.Store) {
	putRepo(t, s, "a/b")
	run := addJobs(t, s, createRun(t, s, "a/b").ID, "one", "two", "three", "four", "five")
	// Each update cancels what is pending, or counts what is not: nothing is both canceled and claimed.
	var group errgroup.Group
	var mu sync.Mutex
	claimed, canceled := map[int64]bool{}, map[int64]bool{}
	for i := range 5 {
		group.Go(func() error {
			_, jobID, err := s.Claim(t.Context(), claimOf(fmt.Sprint(i)))
			if errors.Is(err, store.ErrNotFound) {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			claimed[jobID] = true
			return err
		})
		group.Go(func() error {
			var mine int64
			_, err := s.UpdateRun(t.Context(), run.ID, func(d *store.Draft) error {
				mine = 0
				if job := &d.Jobs[i]; job.Status == ci.Pending {
					job.Status, mine = ci.Canceled, job.ID
				}
				return nil
			})
			mu.Lock()
			defer mu.Unlock()
			if mine != 0 {
				canceled[mine] = true
			}
			return err
		})
	}
	check(t, group.Wait())
	got, err := s.FindRun(t.Context(), "a/b", run.Number)
	check(t, err)
	for _, job := range got.Jobs {
		if claimed[job.ID] == canceled[job.ID] || (job.Status == ci.Running) != claimed[job.ID] {
			t.Errorf("job %d is %s; claimed %v, canceled %v", job.ID, job.Status, claimed[job.ID], canceled[job.ID])
		}
	}
}

func testLeases(t *testing.T, s store.Store) {
	putRepo(t, s, "a/b")
	addJobs(t, s, createRun(t, s, "a/b").ID, "one", "two", "unclaimed")
	for _, nobody := range [][]byte{nil, {}, hash("one")} {
		_, _, err := s.FindLease(t.Context(), nobody)
		wantErr(t, err, store.ErrNotFound)
	}
	first, firstID, err := s.Claim(t.Context(), claimOf("one"))
	check(t, err)
	claim := claimOf("two")
	claim.Lease.Until = noon.Add(2 * time.Minute)
	second, secondID, err := s.Claim(t.Context(), claim)
	check(t, err)

	run, jobID, err := s.FindLease(t.Context(), hash("two"))
	check(t, err)
	same(t, run, second)
	if jobID != secondID {
		t.Fatalf("found job %d, want %d", jobID, secondID)
	}
	run, err = s.FindRunning(t.Context(), secondID)
	check(t, err)
	same(t, run, second)
	_, err = s.UpdateRun(t.Context(), first.ID, func(d *store.Draft) error {
		d.Job(firstID).Steps = []ci.Step{{Name: "a"}, {Name: "b"}}
		return nil
	})
	check(t, err)

	expired := func(now time.Time, want ...int64) {
		t.Helper()
		jobs, err := s.ExpiredLeases(t.Context(), now)
		check(t, err)
		var got []int64
		for _, job := range jobs {
			got = append(got, job.ID)
			stored, err := s.FindRun(t.Context(), "a/b", first.Number)
			check(t, err)
			same(t, job, *(&store.Draft{Run: stored}).Job(job.ID))
		}
		same(t, got, want)
	}
	expired(noon.Add(time.Minute))
	expired(noon.Add(time.Minute+1), firstID)
	expired(noon.Add(time.Hour), firstID, secondID)

	// A job that is done, or back in the queue, has no lease to find.
	_, err = s.UpdateRun(t.Context(), first.ID, func(d *store.Draft) error {
		d.Job(firstID).Status = ci.Success
		d.Job(secondID).Status, d.Job(secondID).Lease = ci.Pending, ci.Lease{}
		return nil
	})
	check(t, err)
	for _, token := range []string{"one", "two"} {
		_, _, err = s.FindLease(t.Context(), hash(token))
		wantErr(t, err, store.ErrNotFound)
	}
	for _, id := range []int64{firstID, secondID, 1 << 40} {
		_, err = s.FindRunning(t.Context(), id)
		wantErr(t, err, store.ErrNotFound)
	}
	expired(noon.Add(time.Hour))
	_, again, err := s.Claim(t.Context(), claimOf("again"))
	check(t, err)
	if again != secondID {
		t.Fatalf("claimed job %d, want the one that came back, %d", again, secondID)
	}
}
