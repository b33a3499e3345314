package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/compression"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// baseImages makes sure that the images which pipelines of the demo name can be pulled. Where Docker Hub is in reach they
// come from there; elsewhere they are made of this machine's own Go and busybox, and put into Slipway's registry, which
// the runner asks as the mirror of Docker Hub.
func (d *demo) baseImages(ctx context.Context) error {
	if hubAnswers(ctx) {
		fmt.Fprintln(d.out, "Docker Hub is in reach: golang and busybox come from there")
		return nil
	}
	goroot, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("find this machine's Go: %w", err)
	}
	shell := func(t *tar.Writer) error { return errors.Join(addBusybox(ctx, t), addRest(t)) }
	for _, base := range []struct {
		name string
		add  func(*tar.Writer) error
	}{
		{"library/busybox:latest", shell},
		{"library/golang:1.26", func(t *tar.Writer) error {
			return errors.Join(shell(t), addGo(t, strings.TrimSpace(string(goroot))))
		}},
	} {
		if err := d.baseImage(ctx, base.name, base.add); err != nil {
			return fmt.Errorf("make %s: %w", base.name, err)
		}
	}
	return nil
}

// baseImage makes an image of one layer and pushes it, unless it is there.
func (d *demo) baseImage(ctx context.Context, image string, add func(*tar.Writer) error) error {
	ref, err := name.NewTag(listen+"/mirror/docker.io/"+image, name.Insecure)
	if err != nil {
		return err
	}
	login := remote.WithAuth(&authn.Basic{Username: "demo", Password: d.token})
	if _, err := remote.Head(ref, login, remote.WithContext(ctx)); err == nil {
		fmt.Fprintf(d.out, "%s is there from last time\n", image)
		return nil
	}
	began := time.Now()
	file, err := os.CreateTemp(d.data, "layer-*.tar")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	made, err := makeImage(file, add)
	if err != nil {
		return err
	}
	if err := remote.Write(ref, made, login, remote.WithContext(ctx)); err != nil {
		return fmt.Errorf("push it: %w", err)
	}
	fmt.Fprintf(d.out, "Docker Hub is out of reach: made %s of this machine's own programs in %s\n", image, time.Since(began).Round(100*time.Millisecond))
	return nil
}

func hubAnswers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://registry-1.docker.io/v2/", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusOK
}

// makeImage makes an image whose only layer is what add puts into file.
func makeImage(file *os.File, add func(*tar.Writer) error) (v1.Image, error) {
	t := tar.NewWriter(file)
	if err := errors.Join(add(t), t.Close()); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromFile(file.Name(), tarball.WithCompression(compression.None))
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config = v1.Config{
		Env: []string{"PATH=/go/bin:/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "GOPATH=/go", "GOTOOLCHAIN=local"},
		Cmd: []string{"sh"},
	}
	return mutate.ConfigFile(image, config)
}

// addBusybox adds /bin/busybox and a link for each of its commands.
func addBusybox(ctx context.Context, t *tar.Writer) error {
	program, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	data, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	if err := addFile(t, "bin/busybox", 0o755, data); err != nil {
		return err
	}
	applets, err := exec.CommandContext(ctx, program, "--list").Output()
	if err != nil {
		return err
	}
	for _, applet := range strings.Fields(string(applets)) {
		if applet == "busybox" {
			continue
		}
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox", Mode: 0o777}); err != nil {
			return err
		}
	}
	return nil
}

// addGo adds the toolchain at /usr/local/go, without its tests and documents. Links, which distributions use to put parts
// of it elsewhere, are followed.
func addGo(t *tar.Writer, root string) error {
	return walk(root, func(file, rel string, info fs.FileInfo) error {
		switch top, _, _ := strings.Cut(rel, "/"); {
		case top == "test" || top == "api" || top == "doc" || top == "misc" || strings.Contains(rel, "/testdata/"):
			return nil
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		return addFile(t, path.Join("usr/local/go", rel), int64(info.Mode().Perm()), data)
	})
}

// walk calls visit for every regular file below root, links followed.
func walk(root string, visit func(file, rel string, info fs.FileInfo) error) error {
	var into func(dir, rel string, depth int) error
	into = func(dir, rel string, depth int) error {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, entry := range entries {
			file, name := filepath.Join(dir, entry.Name()), path.Join(rel, entry.Name())
			info, err := os.Stat(file)
			switch {
			case err != nil:
				return err
			case info.IsDir() && depth < 40:
				err = into(file, name, depth+1)
			case info.Mode().IsRegular():
				err = visit(file, name, info)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	return into(root, "", 0)
}

// addRest adds what programs expect of any system.
func addRest(t *tar.Writer) error {
	for _, dir := range []string{"tmp", "root", "go", "go/bin", "etc", "usr/bin", "var/tmp"} {
		mode := int64(0o755)
		if strings.HasSuffix(dir, "tmp") {
			mode = 0o1777
		}
		if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: mode}); err != nil {
			return err
		}
	}
	certificates, err := os.ReadFile("/etc/ssl/certs/ca-certificates.crt")
	if err != nil {
		return err
	}
	return errors.Join(
		addFile(t, "etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")),
		addFile(t, "etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\n")),
		addFile(t, "etc/ssl/certs/ca-certificates.crt", 0o644, certificates),
	)
}

func addFile(t *tar.Writer, name string, mode int64, data []byte) error {
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data))}); err != nil {
		return err
	}
	_, err := t.Write(data)
	return err
}
