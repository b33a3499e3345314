package e2e_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"slipway/internal/testneeds"
)

// seed puts an image with the machine's busybox where `image: busybox` finds it: below mirror/docker.io/ of the server's
// own registry.
func (s *instance) seed() {
	s.Helper()
	if s.engine != "oci" {
		return
	}
	program, err := os.ReadFile(testneeds.Tool(s, "busybox"))
	if err != nil {
		s.Fatal(err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	var problems []error
	for _, dir := range []string{"bin/", "tmp/", "etc/"} {
		problems = append(problems, w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o777}))
	}
	problems = append(problems, w.WriteHeader(&tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(program))}))
	_, err = w.Write(program)
	problems = append(problems, err)
	for _, applet := range []string{"sh", "cat", "echo", "env", "sleep", "seq", "test", "true", "false", "ls", "rm", "grep", "wc", "id", "printf", "wget", "touch"} {
		problems = append(problems, w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox"}))
	}
	image, err := mutate.AppendLayers(empty.Image, static.NewLayer(layer.Bytes(), types.OCIUncompressedLayer))
	problems = append(problems, w.Close(), err)
	image, err = mutate.ConfigFile(image, config(s, image))
	problems = append(problems, err)
	ref, err := name.NewTag(s.host+"/mirror/docker.io/library/busybox:latest", name.Insecure)
	problems = append(problems, err)
	if err := errors.Join(problems...); err != nil {
		s.Fatal(err)
	}
	if err := remote.Write(ref, image, remote.WithAuth(s.login())); err != nil {
		s.Fatal(err)
	}
}

func config(s *instance, image v1.Image) *v1.ConfigFile {
	s.Helper()
	file, err := image.ConfigFile()
	if err != nil {
		s.Fatal(err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", "amd64"
	file.Config.Env, file.Config.Cmd = []string{"PATH=/bin"}, []string{"sh"}
	return file
}

func (s *instance) login() authn.Authenticator {
	return &authn.Basic{Username: "ada", Password: s.api.Token}
}
