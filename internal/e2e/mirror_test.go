package e2e_test

import (
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"slipway/internal/ci"
)

// What the server mirrors besides Docker Hub, its runner pulls through it too, for steps and for builds, though nobody
// told the runner.
func TestUpstreams(t *testing.T) {
	upstream := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer upstream.Close()
	host := strings.TrimPrefix(upstream.URL, "http://")
	for _, image := range []string{"tools/busybox", "tools/base"} {
		ref, err := name.NewTag(host+"/"+image, name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(ref, busyboxImage(t)); err != nil {
			t.Fatal(err)
		}
	}
	s := start(t, "oci", "--mirror-upstream", "", "--mirror-upstream", host, "--insecure-registry", host)
	dir := s.add("ada/engine")
	s.push(dir, map[string]string{
		"Dockerfile": "FROM " + host + "/tools/base\nCOPY Dockerfile /\n",
		".drone.yml": `
kind: pipeline
type: docker
name: test
steps:
- name: use
  image: ` + host + `/tools/busybox
  commands: [echo hello]
- name: build
  image: plugins/docker
  settings: {registry: ` + s.host + `, repo: ` + s.host + `/ada/engine}
`,
	})
	s.wantRun(s.done("ada/engine", 1), ci.Success, "")
	upstream.Close()
	for _, image := range []string{"tools/busybox", "tools/base"} {
		ref, err := name.NewTag(s.host+"/mirror/"+strings.ReplaceAll(host, ":", "_")+"/"+image, name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := remote.Image(ref, remote.WithAuth(s.login())); err != nil {
			t.Errorf("it was not pulled through the mirror: %v", err)
		}
	}
}
