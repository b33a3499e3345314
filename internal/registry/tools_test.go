package registry_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	crandom "github.com/google/go-containerregistry/pkg/v1/random"

	"slipway/internal/testneeds"
)

// run runs a program and returns its output.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestSkopeo copies an image in, across and out with skopeo, looks at it and deletes it.
func TestSkopeo(t *testing.T) {
	skopeo := testneeds.Tool(t, "skopeo")
	s := newSite(t)
	index, err := crandom.Index(10_000, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "layout")
	images, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	name := layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "app"})
	if err := images.AppendIndex(index, name); err != nil {
		t.Fatal(err)
	}
	app := "docker://" + s.host() + "/octo/app:"
	run(t, skopeo, "copy", "--all", "--insecure-policy", "--dest-tls-verify=false", "--dest-creds=octo:octo-password", "oci:"+dir+":app", app+"oci")
	run(t, skopeo, "copy", "--all", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false", "--src-creds=octo:octo-password",
		"--dest-creds=octo:octo-password", app+"oci", "docker://"+s.host()+"/octo/app/copy:v1")
	// As Docker's schema 2.
	run(t, skopeo, "copy", "--all", "--insecure-policy", "--format=v2s2", "--src-tls-verify=false", "--dest-tls-verify=false", "--src-creds=octo:octo-password",
		"--dest-creds=octo:octo-password", app+"oci", app+"docker")
	a := s.want(s.do("GET", "/v2/octo/app/manifests/docker", nil), 200)
	if got := a.Header.Get("Content-Type"); !strings.HasPrefix(got, "application/vnd.docker.") {
		t.Errorf("the image that was pushed as Docker's has type %s", got)
	}
	out := filepath.Join(t.TempDir(), "out")
	run(t, skopeo, "copy", "--all", "--insecure-policy", "--src-tls-verify=false", "--src-creds=reader:reader-password", app+"oci", "dir:"+out)
	if got := run(t, skopeo, "list-tags", "--tls-verify=false", "--creds=reader:reader-password", "docker://"+s.host()+"/octo/app"); !strings.Contains(got, `"docker",`) || !strings.Contains(got, `"oci"`) {
		t.Errorf("tags: %s", got)
	}
	run(t, skopeo, "delete", "--tls-verify=false", "--creds=octo:octo-password", app+"oci")
	s.want(s.do("GET", "/v2/octo/app/manifests/oci", nil), 404)
}

// TestBuildah builds an image from nothing, pushes it and pulls it back.
func TestBuildah(t *testing.T) {
	testneeds.Root(t)
	buildah := testneeds.Tool(t, "buildah")
	s := newSite(t)
	dir := t.TempDir()
	storage := func(name string, args ...string) []string {
		return append([]string{"--storage-driver=vfs", "--root=" + filepath.Join(dir, name), "--runroot=" + filepath.Join(dir, name+"-run")}, args...)
	}
	ref := "docker://" + s.host() + "/octo/app:buildah"
	container := run(t, buildah, storage("one", "from", "scratch")...)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, buildah, storage("one", "copy", container, file, "/file")...)
	run(t, buildah, storage("one", "commit", container, "app")...)
	run(t, buildah, storage("one", "push", "--tls-verify=false", "--creds=octo:octo-password", "app", ref)...)
	run(t, buildah, storage("two", "pull", "--tls-verify=false", "--creds=reader:reader-password", ref)...)
}
