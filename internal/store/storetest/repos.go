package storetest

import (
	"testing"
	"time"

	"slipway/internal/ci"
	"slipway/internal/store"
)

func testPutRepo(t *testing.T, s store.Store) {
	_, err := s.FindRepo(t.Context(), "acme/api")
	wantErr(t, err, store.ErrNotFound)

	repo := ci.Repo{
		Name: "acme/api", Forge: "gitea", ForgeURL: "https://git.example.com", CloneURL: "https://git.example.com/acme/api.git",
		Link: "https://git.example.com/acme/api", Branch: "main", Private: true, PublicImages: true, Trusted: true, Config: ".ci/a.yml",
		Timeout: 90*time.Minute + time.Nanosecond, Created: noon, ForgeToken: []byte{0, 1, 255}, WebhookSecret: []byte("sealed"),
	}
	check(t, s.PutRepo(t.Context(), &repo))
	if repo.ID == 0 {
		t.Fatal("the repo has no ID")
	}
	got, err := s.FindRepo(t.Context(), "acme/api")
	check(t, err)
	same(t, got, repo)

	changed := ci.Repo{Name: "acme/api", Forge: "slipway", Branch: "trunk", Created: noon.Add(time.Hour)}
	check(t, s.PutRepo(t.Context(), &changed))
	if changed.ID != repo.ID || !changed.Created.Equal(noon) {
		t.Fatalf("an update made the repo %+v", changed)
	}
	got, err = s.FindRepo(t.Context(), "acme/api")
	check(t, err)
	same(t, got, changed)

	_, err = s.FindRepo(t.Context(), "Acme/api")
	wantErr(t, err, store.ErrNotFound)
}

// Images have no capitals, so a repo owns those that are called as it is in lower case, and no other repo is called so.
func testImageOwner(t *testing.T, s store.Store) {
	app, api := putRepo(t, s, "Acme/App_2"), putRepo(t, s, "acme/app")
	for images, want := range map[string]ci.Repo{
		"acme/app_2": app, "acme/app_2/cache": app, "acme/app_2/a/b": app, "Acme/App_2": app, "acme/app": api, "acme/app/x": api,
	} {
		got, err := s.FindImageOwner(t.Context(), images)
		check(t, err)
		same(t, got, want)
	}
	for _, images := range []string{"", "acme", "acme/", "acme/app-2", "acme/ap", "app/acme", "mirror/docker.io/acme/app"} {
		_, err := s.FindImageOwner(t.Context(), images)
		wantErr(t, err, store.ErrNotFound)
	}

	other := app
	other.Name = "acme/APP_2"
	wantErr(t, s.PutRepo(t.Context(), &other), store.ErrExists)
	app.Trusted = true
	check(t, s.PutRepo(t.Context(), &app)) // which is no other
	got, err := s.FindImageOwner(t.Context(), "acme/app_2")
	check(t, err)
	same(t, got, app)

	check(t, s.PutPolicy(t.Context(), store.Policy{Repository: "acme/app_2", Text: "untagged: 2d\n", Updated: noon, By: "Acme/App_2 run 1", Commit: "abc", Run: 1}))
	check(t, s.DeleteRepo(t.Context(), app.Name))
	policies, err := s.ListPolicies(t.Context())
	check(t, err)
	if len(policies) > 0 {
		t.Errorf("%+v outlive the repo", policies)
	}
	check(t, s.PutRepo(t.Context(), &other))
}

func testListRepos(t *testing.T, s store.Store) {
	got, err := s.ListRepos(t.Context())
	check(t, err)
	if len(got) != 0 {
		t.Fatalf("a new store has %d repos", len(got))
	}
	var want []ci.Repo
	for _, name := range []string{"B/z", "a-b/c", "a/b", "a/c", "ä/b"} { // in the order of their bytes
		want = append(want, putRepo(t, s, name))
	}
	got, err = s.ListRepos(t.Context())
	check(t, err)
	same(t, got, want)
}

func testDeleteRepo(t *testing.T, s store.Store) {
	wantErr(t, s.DeleteRepo(t.Context(), "a/b"), store.ErrNotFound)
	putRepo(t, s, "a/b")
	putRepo(t, s, "a/other")
	gone, kept := createRun(t, s, "a/b"), createRun(t, s, "a/other")
	gone = addJobs(t, s, gone.ID, "test")
	kept = addJobs(t, s, kept.ID, "test")
	check(t, s.PutSecret(t.Context(), ci.Secret{Repo: "a/b", Name: "x", Sealed: []byte("x")}))

	check(t, s.DeleteRepo(t.Context(), "a/b"))
	_, err := s.FindRun(t.Context(), "a/b", gone.Number)
	wantErr(t, err, store.ErrNotFound)
	_, err = s.UpdateRun(t.Context(), gone.ID, func(*store.Draft) error { return nil })
	wantErr(t, err, store.ErrNotFound)
	secrets, err := s.ListSecrets(t.Context(), "a/b")
	check(t, err)
	if len(secrets) != 0 {
		t.Fatal("the secrets of a deleted repo are still there")
	}
	got, jobID, err := s.Claim(t.Context(), claimOf("token"))
	check(t, err)
	if got.ID != kept.ID || jobID != kept.Jobs[0].ID {
		t.Fatalf("claimed job %d of run %d, want that of the other repo", jobID, got.ID)
	}

	// A repo of the same name is a new one, and no ID is used twice: logs are found by it.
	putRepo(t, s, "a/b")
	again := addJobs(t, s, createRun(t, s, "a/b").ID, "test")
	if again.Number != 1 || again.ID <= kept.ID || again.Jobs[0].ID <= kept.Jobs[0].ID {
		t.Fatalf("the first run of the new repo is number %d, ID %d, job %d", again.Number, again.ID, again.Jobs[0].ID)
	}
}
