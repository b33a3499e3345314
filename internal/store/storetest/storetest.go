// Package storetest is the suite that every implementation of [store.Store] passes.
package storetest

import (
	"context"
	"crypto/sha256"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/ci"
	"slipway/internal/plan"
	"slipway/internal/store"
)

// Run tests a kind of store. Open returns a new, empty store, which it closes when t ends.
func Run(t *testing.T, open func(t testing.TB) store.Store) {
	tests := []struct {
		name string
		test func(t *testing.T, s store.Store)
	}{
		{"PutRepo", testPutRepo},
		{"ImageOwner", testImageOwner},
		{"ListRepos", testListRepos},
		{"DeleteRepo", testDeleteRepo},
		{"CreateRun", testCreateRun},
		{"CreateRunReplay", testCreateRunReplay},
		{"CreateRunConcurrent", testCreateRunConcurrent},
		{"CreateRunReplayConcurrent", testCreateRunReplayConcurrent},
		{"FindRun", testFindRun},
		{"FindPlan", testFindPlan},
		{"ListRuns", testListRuns},
		{"ListRunsUnfinished", testListRunsUnfinished},
		{"UpdateRun", testUpdateRun},
		{"UpdateRunRollsBack", testUpdateRunRollsBack},
		{"UpdateRunRefuses", testUpdateRunRefuses},
		{"UpdateRunOddText", testUpdateRunOddText},
		{"UpdateRunConcurrent", testUpdateRunConcurrent},
		{"UpdateRunPanics", testUpdateRunPanics},
		{"ClaimOrder", testClaimOrder},
		{"ClaimFits", testClaimFits},
		{"ClaimPlanLater", testClaimPlanLater},
		{"ClaimConcurrent", testClaimConcurrent},
		{"ClaimOneRunConcurrent", testClaimOneRunConcurrent},
		{"ClaimAndUpdateConcurrent", testClaimAndUpdateConcurrent},
		{"Leases", testLeases},
		{"Secrets", testSecrets},
		{"Tokens", testTokens},
		{"Releases", testReleases},
		{"Rollouts", testRollouts},
		{"Environments", testEnvironments},
		{"Gates", testGates},
		{"Reviews", testReviews},
		{"ReleasesByImage", testReleasesByImage},
		{"ReleasesPaged", testReleasesPaged},
		{"ReleasesTornDown", testReleasesTornDown},
		{"ReleasesOfRepos", testReleasesOfRepos},
		{"Manifests", testManifests},
		{"Previews", testPreviews},
		{"ListRunsByImage", testListRunsByImage},
		{"Drifts", testDrifts},
		{"Times", testTimes},
		{"Canceled", testCanceled},
		{"RegistryBlobs", testRegistryBlobs},
		{"RegistryManifests", testRegistryManifests},
		{"RegistryMissing", testRegistryMissing},
		{"RegistryTags", testRegistryTags},
		{"RegistryReferrers", testRegistryReferrers},
		{"RegistryConcurrent", testRegistryConcurrent},
		{"RegistryDeleted", testRegistryDeleted},
		{"RegistryForgottenTags", testRegistryForgottenTags},
		{"RegistryGarbage", testRegistryGarbage},
		{"RegistryGarbageCache", testRegistryGarbageCache},
		{"RegistryGarbageMany", testRegistryGarbageMany},
		{"RegistryInventory", testRegistryInventory},
		{"BrowseTags", testBrowseTags},
		{"BrowseImages", testBrowseImages},
		{"RegistryGraph", testRegistryGraph},
		{"RegistryImmutable", testRegistryImmutable},
		{"RegistryUnneeded", testRegistryUnneeded},
		{"RegistryRestore", testRegistryRestore},
		{"RegistryRestoreSignatures", testRegistryRestoreSignatures},
		{"RegistryHistoryBounded", testRegistryHistoryBounded},
		{"RegistryPolicies", testRegistryPolicies},
		{"RegistryQuotas", testRegistryQuotas},
		{"RegistryQuotaDeleted", testRegistryQuotaDeleted},
		{"RegistryQuotaRace", testRegistryQuotaRace},
		{"RegistryCache", testRegistryCache},
		{"RegistryEvict", testRegistryEvict},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.test(t, open(t))
		})
	}
}

// noon is when most tests take place; it has nanoseconds, which must not get lost.
var noon = time.Date(2026, 2, 3, 12, 0, 0, 123456789, time.UTC)

func putRepo(t testing.TB, s store.Store, name string) ci.Repo {
	t.Helper()
	repo := ci.Repo{Name: name, Forge: "slipway", CloneURL: "https://ci.example.com/" + name, Branch: "main", Created: noon}
	if err := s.PutRepo(t.Context(), &repo); err != nil {
		t.Fatal(err)
	}
	return repo
}

func createRun(t testing.TB, s store.Store, repo string) ci.Run {
	t.Helper()
	run := ci.Run{
		Repo: repo, Status: ci.Pending, Created: noon,
		Event: ci.Event{Kind: ci.Push, Ref: "refs/heads/main", After: "c0ffee", Target: "main"},
	}
	if err := s.CreateRun(t.Context(), &run); err != nil {
		t.Fatal(err)
	}
	return run
}

// addJobs gives a run pending jobs of these names, and a plan in which they ask for nothing.
func addJobs(t testing.TB, s store.Store, runID int64, names ...string) ci.Run {
	t.Helper()
	run, err := s.UpdateRun(t.Context(), runID, func(d *store.Draft) error {
		p := plan.Plan{Version: plan.Version}
		for _, name := range names {
			p.Jobs = append(p.Jobs, plan.Job{Name: name})
			d.Jobs = append(d.Jobs, ci.Job{Name: name, Status: ci.Pending})
		}
		d.Plan = &p
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return run
}

func claimOf(token string) store.Claim {
	return store.Claim{
		Runner: "runner-1", OS: "linux", Arch: "amd64", Now: noon,
		Lease: ci.Lease{Hash: hash(token), Until: noon.Add(time.Minute)},
	}
}

func hash(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// same compares what was stored with what came back, to the nanosecond and the time zone.
func same(t testing.TB, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("differs (-want +got):\n%s", diff)
	}
}

func testTimes(t *testing.T, s store.Store) {
	berlin := time.FixedZone("CET", 3600)
	for _, when := range []time.Time{
		{},
		time.Unix(0, 0), noon, noon.In(berlin), time.Now(), time.Date(1700, 1, 1, 0, 0, 0, 1, time.UTC),
		time.Date(2261, 12, 31, 23, 59, 59, 999999999, time.UTC),
	} {
		token := ci.Token{Name: "t", Hash: hash(when.String()), Expires: when}
		check(t, s.PutToken(t.Context(), &token))
		got, err := s.FindToken(t.Context(), token.Hash)
		check(t, err)
		if !got.Expires.Equal(when) || got.Expires.Location() != time.UTC {
			t.Errorf("%v came back as %v", when, got.Expires)
		}
	}
	// What cannot be stored exactly is not stored.
	token := ci.Token{Name: "t", Hash: hash("far"), Expires: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)}
	if err := s.PutToken(t.Context(), &token); err == nil {
		t.Error("a time in the year 9999 was accepted")
	}
}

func testCanceled(t *testing.T, s store.Store) {
	putRepo(t, s, "a/b")
	run := createRun(t, s, "a/b")
	ctx, cancel := context.WithCancel(t.Context())
	_, err := s.UpdateRun(ctx, run.ID, func(d *store.Draft) error {
		d.Message = "never"
		cancel()
		return nil
	})
	wantErr(t, err, context.Canceled)
	got, err := s.FindRun(t.Context(), "a/b", 1)
	check(t, err)
	same(t, got, run)
}
