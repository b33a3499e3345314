package registry_test

import (
	"testing"

	"github.com/google/go-containerregistry/pkg/crane"

	"slipway/internal/buildkit"
	"slipway/internal/buildkit/buildkittest"
	"slipway/internal/engine"
)

// TestBuildKit pulls with the real client of the engine: a repo's own image, and Docker Hub's by either form of a
// mirror's address.
func TestBuildKit(t *testing.T) {
	s := newSite(t)
	image := buildkittest.Image(t, buildkittest.Layer(t, map[string]string{"hello": "world"}))
	want, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"/octo/app:v1", "/mirror/docker.io/library/busybox:1", "/mirror/docker.io/octo/app:v1"} {
		if err := crane.Push(image, s.host()+ref, as("admin")); err != nil {
			t.Fatal(err)
		}
	}
	for name, url := range map[string]string{"ns": s.URL, "path": s.URL + "/mirror/docker.io"} {
		t.Run(name, func(t *testing.T) {
			daemon := buildkittest.Open(t, buildkit.Options{Mirrors: map[string][]buildkit.Mirror{
				"docker.io": {{URL: url, Username: "reader", Password: "reader-password"}},
			}})
			for _, ref := range []string{"busybox:1", "docker.io/octo/app:v1", s.host() + "/octo/app:v1"} {
				options := buildkit.PullOptions{Auths: []engine.Auth{{Host: s.host(), Username: "octo", Password: "octo-password"}}}
				if ref != s.host()+"/octo/app:v1" {
					options.Auths = nil // the mirror's own
				}
				pulled, err := daemon.Pull(t.Context(), ref, options)
				if err != nil {
					t.Errorf("pull %s: %v", ref, err)
					continue
				}
				if pulled.Digest != want.String() {
					t.Errorf("%s is %s, want %s", ref, pulled.Digest, want)
				}
				pulled.Release()
			}
		})
	}
}
