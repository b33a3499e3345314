package cluster

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// ImportImage puts the images of a tarball (OCI layout or `docker save`) into the node's store, under the names that
// the tarball gives them, so that pods with imagePullPolicy IfNotPresent or Never start from them without a registry.
// It may be repeated. Remove the pods before the image of the same name is replaced: running ones keep the old.
func ImportImage(ctx context.Context, opts Options, tarball io.Reader) error {
	l, err := newLayout(opts.Data, opts.Bin)
	if err != nil {
		return err
	}
	return l.importImage(ctx, tarball)
}

func (l layout) importImage(ctx context.Context, tarball io.Reader) error {
	cmd := exec.CommandContext(ctx, l.program("ctr"), "--address", l.socket(), "--namespace", "k8s.io", "images", "import", "--local", "-")
	cmd.Stdin = tarball
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("import an image into the cluster: %w: %s", err, firstLine(out))
	}
	return nil
}

// WriteProgramImage writes to w the tarball of an image named ref that holds one static program and runs it. It is
// deterministic.
func WriteProgramImage(w io.Writer, ref string, program []byte) error {
	tag, err := name.NewTag(ref)
	if err != nil {
		return fmt.Errorf("make an image: %w", err)
	}
	var layer bytes.Buffer
	tw := tar.NewWriter(&layer)
	err = tw.WriteHeader(&tar.Header{Name: "program", Mode: 0o755, Size: int64(len(program)), ModTime: time.Unix(0, 0)})
	if err == nil {
		_, err = tw.Write(program)
	}
	if err := errors.Join(err, tw.Close()); err != nil {
		return fmt.Errorf("make the layer of %s: %w", ref, err)
	}
	added, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil })
	if err != nil {
		return fmt.Errorf("make the layer of %s: %w", ref, err)
	}
	image, err := mutate.AppendLayers(empty.Image, added)
	if err != nil {
		return fmt.Errorf("make %s: %w", ref, err)
	}
	file, err := image.ConfigFile()
	if err != nil {
		return fmt.Errorf("make %s: %w", ref, err)
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", runtime.GOARCH
	file.Config = v1.Config{Entrypoint: []string{"/program"}}
	if image, err = mutate.ConfigFile(image, file); err != nil {
		return fmt.Errorf("make %s: %w", ref, err)
	}
	return tarball.Write(tag, image, w)
}

// ensurePause puts the image of pods' sandboxes into the node's store, unless the one that was put there last is the same.
func (l layout) ensurePause(ctx context.Context) error {
	program, err := os.ReadFile(l.program("pause"))
	if err != nil {
		return fmt.Errorf("read the sandbox's program: %w", err)
	}
	sum := sha256.Sum256(program)
	want := hex.EncodeToString(sum[:])
	marker := l.in("containerd", "slipway-pause")
	if have, err := os.ReadFile(marker); err == nil && string(have) == want {
		return nil
	}
	var image bytes.Buffer
	if err := WriteProgramImage(&image, pauseImage, program); err != nil {
		return err
	}
	if err := l.importImage(ctx, &image); err != nil {
		return err
	}
	return writeFile(marker, []byte(want), 0o600)
}
