package e2e_test

import (
	"archive/tar"
	"errors"
	"io"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"slipway/internal/ci"
)

// An image step builds a Dockerfile on the mirrored busybox and pushes it to the own registry with the job's token; a
// later step runs in the image, and people with a token pull it, others don't.
func TestImage(t *testing.T) {
	s := start(t, "oci")
	s.seed()
	dir := s.add("ada/engine")
	s.push(dir, map[string]string{
		"Dockerfile": "FROM busybox\nARG GREETING\nCOPY cog /cog\nRUN echo $GREETING >> /cog\n",
		"cog":        "a cog\n",
		".drone.yml": `
kind: pipeline
type: docker
name: test
steps:
- name: build
  image: plugins/docker
  settings:
    registry: ` + s.host + `
    repo: ` + s.host + `/ada/engine
    tags: [latest, "${DRONE_BUILD_NUMBER}"]
    build_args: [GREETING=hello]
- name: use
  image: ` + s.host + `/ada/engine:1
  commands: [cat /cog]
`,
	})
	run := s.done("ada/engine", 1)
	s.wantRun(run, ci.Success, "")
	if log := withoutTrace(s.log(run, 1, 3)); log != "a cog\nhello\n" {
		t.Errorf("the step in the image printed %q", log)
	}
	if len(run.Images) != 2 || run.Images[0].Ref != s.host+"/ada/engine:latest" || run.Images[0].Digest != run.Images[1].Digest {
		t.Fatalf("the run's images are %+v", run.Images)
	}
	ref, err := name.ParseReference(run.Images[1].Ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := remote.Image(ref, remote.WithAuth(authn.Anonymous)); err == nil {
		t.Error("a stranger pulls the image")
	}
	image, err := remote.Image(ref, remote.WithAuth(s.login()))
	if err != nil {
		t.Fatal(err)
	}
	if digest, err := image.Digest(); err != nil || digest.String() != run.Images[1].Digest {
		t.Errorf("digest %s, %v, want %s", digest, err, run.Images[1].Digest)
	}
	files := tar.NewReader(mutate.Extract(image))
	for {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			t.Fatal("the image has no file cog")
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Name == "cog" {
			text, err := io.ReadAll(files)
			if err != nil || string(text) != "a cog\nhello\n" {
				t.Errorf("cog is %q, %v", text, err)
			}
			return
		}
	}
}
