package image_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"slipway/internal/buildkit"
	"slipway/internal/buildkit/buildkittest"
	"slipway/internal/engine"
	"slipway/internal/image"
	"slipway/internal/registry"
	"slipway/internal/store/sqlstore"
	"slipway/internal/testneeds"
)

// authority is who may do what: a password, and the repositories that it is for.
type authority map[string]grants

type grants struct {
	password string
	pull     string
	push     string
}

func (a authority) Access(_ context.Context, username, password string) (registry.Grants, error) {
	g, ok := a[username]
	if !ok || g.password != password {
		return nil, registry.ErrCredentials
	}
	return g, nil
}

func (g grants) Subject() string { return "test" }

func (g grants) Allows(repository string, action registry.Action) bool {
	may := func(prefix string) bool { return prefix != "" && strings.HasPrefix(repository, prefix) }
	return may(g.push) || action == registry.Pull && may(g.pull)
}

// Slipway's own registry: a base image by its name on Docker Hub comes through the mirror with the runner's login, and
// the push goes with the job's; both by the tokens that the registry gives for them.
func TestSlipwayRegistry(t *testing.T) {
	testneeds.Root(t)
	dir := t.TempDir()
	db, err := sqlstore.Open(t.Context(), filepath.Join(dir, "slipway.db"))
	must(t, err)
	t.Cleanup(func() { db.Close() })
	handler, err := registry.New(registry.Options{
		Dir: filepath.Join(dir, "registry"), Store: db, Key: []byte("a key for tests, of 32 bytes or more"),
		Authority: authority{
			"admin":  {password: "admin-password", push: "mirror/"},
			"runner": {password: "runner-password", pull: "mirror/"},
			"job":    {password: "job-password", push: "octo/app", pull: "mirror/"},
		},
	})
	must(t, err)
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")

	ref, err := name.ParseReference(host+"/mirror/docker.io/library/busybox:1.36", name.Insecure)
	must(t, err)
	must(t, remote.Write(ref, buildkittest.Busybox(t), remote.WithAuth(&authn.Basic{Username: "admin", Password: "admin-password"})))

	d := buildkittest.Open(t, buildkit.Options{Mirrors: map[string][]buildkit.Mirror{
		"docker.io": {{URL: server.URL, Username: "runner", Password: "runner-password"}},
	}})
	img, err := d.Pull(t.Context(), "busybox:1.36", buildkit.PullOptions{})
	must(t, err)
	img.Release()

	b := image.NewBuilder(d)
	req := image.Request{
		Workspace: workspace(t, "-- Dockerfile --\nFROM busybox:1.36\nRUN echo hello > /hello\n"),
		Repo:      host + "/octo/app", Tags: []string{"1", "latest"},
		Auths: []engine.Auth{{Host: host, Username: "job", Password: "job-password"}},
	}
	result, log := build(t, b, req)
	if strings.Contains(log, "password") {
		t.Errorf("log:\n%s", log)
	}
	pushed, err := d.Pull(t.Context(), host+"/octo/app@"+result.Digest, buildkit.PullOptions{Auths: req.Auths})
	must(t, err)
	pushed.Release()

	req.Repo = host + "/octo/other"
	if wrong, _ := mustFail(t, b, req); !strings.Contains(wrong.Error(), "refuses the push of "+host+"/octo/other:1 to the login") {
		t.Errorf("pushing to the repository of somebody else: %v", wrong)
	}
	var wrong *buildkit.PullError
	if _, err := d.Pull(t.Context(), host+"/octo/app:1", buildkit.PullOptions{}); !errors.As(err, &wrong) || wrong.Kind != buildkit.Unauthorized {
		t.Errorf("pulling without a login: %v", err)
	}
}
