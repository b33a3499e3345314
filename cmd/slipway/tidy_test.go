package main

import (
	"context"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/ci"
	"slipway/internal/retention"
	"slipway/internal/rollout"
	"slipway/internal/store"
	"slipway/internal/store/sqlstore"
)

func TestFacts(t *testing.T) {
	ctx := t.Context()
	db, err := sqlstore.Open(ctx, filepath.Join(t.TempDir(), "slipway.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	running := func(_ context.Context, repo string, _ bool) ([]rollout.ImageUse, string, string) {
		return []rollout.ImageUse{
			{Image: "ci.example.com:7070/octo/app@sha256:pod", Reason: "pod a runs it"},
			{Image: "mirror.example.com/octo/app/cache:v7", Reason: "pod b runs it"},
			{Image: "octo/app/cache", Reason: "pod c runs it"},
			{Image: "octo/other:1", Reason: "pod d runs it"},
			{Image: "sha256:abc", Reason: "pod e runs it"},
			{Image: "sha256:" + strings.Repeat("0", 64), Reason: "pod f runs it"},
		}, repo + " is away", repo + " is asked"
	}
	f := facts{db, running, func(_ context.Context, repo string) ([]string, error) { return []string{"of " + repo}, nil }}
	for _, repo := range []ci.Repo{{Name: "octo/app", Forge: "slipway"}, {Name: "octo/far", Forge: "gitea"}} {
		if err := db.PutRepo(ctx, &repo); err != nil {
			t.Fatal(err)
		}
	}
	run := func(status ci.Status, parent int64, refs ...string) {
		t.Helper()
		run := ci.Run{Repo: "octo/app", Status: ci.Running, Created: time.Now(), Parent: parent}
		if err := db.CreateRun(ctx, &run); err != nil {
			t.Fatal(err)
		}
		if _, err := db.UpdateRun(ctx, run.ID, func(d *store.Draft) error {
			d.Status = status
			for _, ref := range refs {
				d.Images = append(d.Images, ci.Image{Ref: "ci.example.com:7070/" + ref, Digest: "sha256:" + ref})
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	run(ci.Success, 0, "octo/app:v1")
	for range rollbackRuns - 1 {
		run(ci.Success, 0)
	}
	run(ci.Failure, 0, "octo/app:bad")
	run(ci.Success, 1) // a promotion of the first, which is too old by itself
	run(ci.Running, 0, "octo/app/cache:tmp", "octo/app:v2")
	if err := db.PutRelease(ctx, ci.Release{
		Repo: "octo/far", Environment: "production", Namespace: "far", Number: 4, Started: time.Now(), Status: ci.Success,
		Images: []string{"ci.example.com:7070/octo/app@sha256:old", "unpinned:1"},
	}, nil); err != nil {
		t.Fatal(err)
	}

	got, err := f.InUse(ctx, "octo/app/cache", true)
	if err != nil || got.Unasked != "octo/app is away" || got.Asking != "octo/app is asked" {
		t.Fatal(got, err)
	}
	want := []retention.Use{
		{Digest: "sha256:pod", Reason: "pod a runs it"},
		{Name: "v7", Reason: "pod b runs it"},
		{Name: "latest", Reason: "pod c runs it"},
		{Digest: "sha256:" + strings.Repeat("0", 64), Reason: "pod f runs it"},
		{Digest: "sha256:old", Reason: "release 4 of production has it"},
		{Digest: "sha256:octo/app/cache:tmp", Reason: "run 13 goes on"},
		{Digest: "sha256:octo/app:v2", Reason: "run 13 goes on"},
		{Digest: "sha256:octo/app:v1", Reason: "run 1 is repeated by one of the newest that succeeded"},
	}
	if diff := cmp.Diff(want, got.Uses); diff != "" {
		t.Error(diff)
	}
	if got, err := f.InUse(ctx, "octo/app", true); err != nil || got.Uses[len(got.Uses)-1].Tag != "v1" {
		t.Errorf("got %+v, %v", got, err)
	}

	over, err := f.Over(ctx, []string{"octo/app run 1", "octo/app run 13", "octo/app run 99", "octo", "run 1", "octo/app run x"})
	if err != nil || !maps.Equal(over, map[string]bool{"octo/app run 1": true, "octo/app run 13": false, "octo/app run 99": true}) {
		t.Errorf("over are %v, %v", over, err)
	}

	if got, err := f.Branches(ctx, "octo/app/cache"); err != nil || len(got) != 1 || got[0] != "of octo/app" {
		t.Errorf("the branches are %v, %v", got, err)
	}
}
