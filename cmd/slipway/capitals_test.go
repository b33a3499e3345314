package main

import (
	"context"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"slipway/internal/ci"
	"slipway/internal/flow"
	"slipway/internal/flow/flowtest"
	"slipway/internal/protocol"
	"slipway/internal/registry"
	"slipway/internal/retention"
	"slipway/internal/rollout"
	"slipway/internal/store"
)

// The images of the repo Acme/App are called acme/app: its jobs push them, its policy file says what stays of them, and what
// its runs, releases, clusters and branches use is known.
func TestCapitals(t *testing.T) {
	ctx := t.Context()
	s := flowtest.New(t)
	var host string
	running := func(_ context.Context, repo string, _ bool) (uses []rollout.ImageUse, unasked, asking string) {
		if repo == "Acme/App" {
			uses = []rollout.ImageUse{{Image: host + "/acme/app:runs", Reason: "a pod runs it"}}
		}
		return uses, "", ""
	}
	branches := func(_ context.Context, repo string) ([]string, error) {
		if repo == "Acme/App" {
			return []string{"open"}, nil
		}
		return []string{}, nil
	}
	cleaner := &retention.Cleaner{Store: s.DB, Facts: facts{s.DB, running, branches}, Now: s.Clock.Now}
	s.Retention = cleaner
	images, err := registry.New(registry.Options{
		Dir: t.TempDir(), Store: s.DB, Authority: access{authority: s.Auth, repos: s.DB}, Key: make([]byte, 32), Immutable: cleaner.Fixed, Now: s.Clock.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer images.Close()
	server := httptest.NewServer(images)
	defer server.Close()
	host = strings.TrimPrefix(server.URL, "http://")

	if _, err := s.AddRepo(ctx, flow.NewRepo{Name: "Acme/App", Forge: flowtest.Kind, ForgeURL: "https://git.example.com", Token: "t"}); err != nil {
		t.Fatal(err)
	}
	event := s.Event("")
	event.After = s.Forge.Commit(map[string]string{
		".drone.yml": "kind: pipeline\ntype: docker\nname: test\nsteps: [{name: a, image: busybox, commands: [make]}]\n",
		retention.PolicyFile: `
immutable: ["fixed"]
rules:
- {tags: "fixed", keep: 1}
- {tags: "tmp-*", run: true}
- {tags: "branch-*", branch: true}
- {tags: "*", older_than: 1h}
`,
	})
	run, _, err := s.Accept(ctx, "Acme/App", event)
	if err != nil || len(run.Warnings) > 0 {
		t.Fatal(run.Warnings, err)
	}
	lease := strings.Repeat("l", protocol.MinLease)
	job, err := s.Claim(ctx, protocol.Claim{Lease: lease, OS: "linux", Arch: "amd64"})
	if err != nil || job == nil {
		t.Fatal(job, err)
	}
	token := s.Auth.JobToken(job.JobID)

	// push pushes an image with a job's token or another, and returns its digest.
	push := func(ref, token string) (string, error) {
		t.Helper()
		image, err := random.Image(100, 1)
		if err != nil {
			t.Fatal(err)
		}
		digest, err := image.Digest()
		if err != nil {
			t.Fatal(err)
		}
		to, err := name.ParseReference(host+"/"+ref, name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		return digest.String(), remote.Write(to, image, remote.WithContext(ctx), remote.WithAuth(&authn.Basic{Username: "job", Password: token}))
	}
	digests := map[string]string{}
	for _, tag := range []string{"fixed", "tmp-1", "branch-open", "branch-gone", "runs", "released", "built", "old"} {
		if digests[tag], err = push("acme/app:"+tag, token); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := push("acme/app/cache:built", token); err != nil {
		t.Error(err)
	}
	if _, err := push("ada/engine:x", token); err == nil {
		t.Error("a job pushes images of another repo")
	}
	if _, err := push("acme/app:fixed", token); err == nil {
		t.Error("what the policy file says is immutable was moved")
	}
	if _, err := s.DB.UpdateRun(ctx, run.ID, func(d *store.Draft) error {
		d.Images = []ci.Image{{Ref: host + "/acme/app:built", Digest: digests["built"]}}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.DB.PutRelease(ctx, ci.Release{
		Repo: "Acme/App", Environment: "production", Namespace: "app", Number: 1, Started: s.Clock.Now(), Status: ci.Success,
		Images: []string{host + "/acme/app@" + digests["released"]},
	}, nil); err != nil {
		t.Fatal(err)
	}

	// stay cleans up, and checks which tags are left.
	stay := func(want ...string) {
		t.Helper()
		if _, err := cleaner.Clean(ctx); err != nil {
			t.Fatal(err)
		}
		tags, err := s.DB.ListTags(ctx, store.Page{Repository: "acme/app", Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, tag := range tags {
			got = append(got, tag.Name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q stay, want %q", got, want)
		}
	}
	s.Clock.Forward(2 * time.Hour)
	stay("branch-open", "built", "fixed", "released", "runs", "tmp-1")
	if err := s.Finish(ctx, lease, protocol.Outcome{Status: "success"}); err != nil {
		t.Fatal(err)
	}
	stay("branch-open", "built", "fixed", "released", "runs")

	// Everybody pulls, and tokens are for the repo, by whichever of its names.
	ref, err := name.ParseReference(host+"/acme/app:built", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := remote.Image(ref, remote.WithContext(ctx)); err == nil {
		t.Error("a stranger pulls the image")
	}
	if _, err := s.ChangeRepo(ctx, "Acme/App", func(r *ci.Repo) { r.PublicImages = true }); err != nil {
		t.Fatal(err)
	}
	if _, err := remote.Image(ref, remote.WithContext(ctx)); err != nil {
		t.Error(err)
	}
	for scope, pushes := range map[string]bool{"repo:Acme/App": true, "repo:acme/app": true, "pull:Acme/App": false, "repo:Acme/Other": false} {
		text, _, err := s.Auth.Create(ctx, scope, []string{scope}, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := push("acme/app:by-hand", text); (err == nil) != pushes {
			t.Errorf("%s pushes %t: %v", scope, !pushes, err)
		}
	}
}
