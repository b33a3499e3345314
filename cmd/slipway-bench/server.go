package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"slipway/internal/api"
	"slipway/internal/ci"
	"slipway/internal/client"
)

// How often a condition is looked at: often where the moment is measured, seldom where looking would disturb what is.
const (
	often  = 2 * time.Millisecond
	seldom = 200 * time.Millisecond
)

// server is a real Slipway server with its own runner and the oci engine.
type server struct {
	*client.Client
	data  string
	cmd   *exec.Cmd
	ended chan error
}

// startServer starts a server on the given data folder, with a free port.
func (b *bench) startServer(data string) (*server, error) {
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		return nil, err
	}
	logFile, err := os.OpenFile(data+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer logFile.Close()
	s := &server{Client: &client.Client{URL: "http://" + address}, data: data, ended: make(chan error, 1)}
	s.cmd = exec.CommandContext(context.Background(), b.slipway, "server", "--data", data, "--listen", address, "--runc", b.runc)
	s.cmd.Stdout, s.cmd.Stderr = logFile, logFile
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the bench, which stops things in order
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { s.ended <- s.cmd.Wait() }()
	return s, nil
}

// await looks every poll until condition holds, the server ends or ctx is done.
func (s *server) await(ctx context.Context, what string, poll time.Duration, condition func() bool) error {
	for !condition() {
		select {
		case err := <-s.ended:
			s.ended <- err
			return fmt.Errorf("the server ended before %s: %w; see %s.log", what, err, s.data)
		case <-ctx.Done():
			return fmt.Errorf("%w before %s", ctx.Err(), what)
		case <-time.After(poll):
		}
	}
	return nil
}

// answers waits until the server answers, and takes the admin's token then.
func (s *server) answers(ctx context.Context) error {
	if err := s.await(ctx, "it answered", often, func() bool {
		resp, err := http.Get(s.URL + "/healthz") //nolint:noctx // await is what bounds it
		if err != nil {
			return false
		}
		_ = resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	}); err != nil {
		return err
	}
	token, err := os.ReadFile(filepath.Join(s.data, "admin-token"))
	s.Token = strings.TrimSpace(string(token))
	return err
}

// runner returns the process of the server's own runner.
func (s *server) runner() (pid int, err error) {
	text, err := os.ReadFile(filepath.Join(s.data, "runner", "lock"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// stop stops the server and its runner.
func (s *server) stop() error {
	if s == nil {
		return nil
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case err := <-s.ended:
		return err
	case <-time.After(20 * time.Second):
		return errors.Join(errors.New("the server does not stop"), s.cmd.Process.Kill())
	}
}

// server returns the server that measurements share, with the image busybox:1 in its registry, where the runner finds it
// as a mirror of Docker Hub.
func (b *bench) server(ctx context.Context) (*server, error) {
	if b.shared != nil {
		return b.shared, nil
	}
	s, err := b.startServer(filepath.Join(b.dir, "server"))
	if err != nil {
		return nil, err
	}
	b.shared = s
	if err := s.answers(ctx); err != nil {
		return nil, err
	}
	ref, err := name.NewTag(strings.TrimPrefix(s.URL, "http://")+"/mirror/docker.io/library/busybox:1", name.Insecure)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return busybox() })
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
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return nil, err
	}
	return s, remote.Write(ref, image, remote.WithAuth(&authn.Basic{Username: "bench", Password: s.Token}), remote.WithContext(ctx))
}

// busybox is the layer of the smallest image that has a shell and true, from this machine's own static busybox.
func busybox() (io.ReadCloser, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return nil, err
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var layer bytes.Buffer
	t := tar.NewWriter(&layer)
	for _, header := range []*tar.Header{
		{Typeflag: tar.TypeDir, Name: "bin/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755, Size: int64(len(program))},
		{Typeflag: tar.TypeSymlink, Name: "bin/sh", Linkname: "busybox"},
		{Typeflag: tar.TypeSymlink, Name: "bin/true", Linkname: "busybox"},
		{Typeflag: tar.TypeSymlink, Name: "bin/echo", Linkname: "busybox"},
	} {
		if err := t.WriteHeader(header); err != nil {
			return nil, err
		}
		if header.Size > 0 {
			if _, err := t.Write(program); err != nil {
				return nil, err
			}
		}
	}
	return io.NopCloser(&layer), t.Close()
}

// repo is a repo of the server, with a clone of it to push from.
type repo struct {
	*server
	name, dir string
	runs      int64 // how many there are
}

// makeRepo makes a repo with a pipeline file, not yet pushed.
func (s *server) makeRepo(ctx context.Context, repoName, pipeline string) (*repo, error) {
	added, err := s.AddRepo(ctx, api.NewRepo{Name: repoName})
	if err != nil {
		return nil, err
	}
	r := &repo{server: s, name: repoName, dir: s.data + "-clones/" + repoName}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(r.dir, ".drone.yml"), []byte(pipeline), 0o644); err != nil {
		return nil, err
	}
	for _, args := range [][]string{
		{"init", "--quiet", "--initial-branch=main"},
		{"remote", "add", "origin", added.CloneURL},
		{"add", "--all"},
	} {
		if err := r.git(ctx, args...); err != nil {
			return nil, err
		}
	}
	return r, r.commit(ctx)
}

func (r *repo) commit(ctx context.Context) error {
	return r.git(ctx, "commit", "--quiet", "--allow-empty", "--message", "another commit")
}

// push pushes, and returns the number of the run that this makes.
func (r *repo) push(ctx context.Context) (run int64, err error) {
	r.runs++
	return r.runs, r.git(ctx, "push", "--quiet", "origin", "main")
}

func (r *repo) git(ctx context.Context, args ...string) error {
	login := base64.StdEncoding.EncodeToString([]byte("bench:" + r.Token))
	cmd := exec.CommandContext(ctx, "git", append([]string{
		"-c", "http." + r.URL + "/.extraHeader=Authorization: Basic " + login,
		"-c", "user.name=Bench", "-c", "user.email=bench@localhost",
	}, args...)...)
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("git %s: %w\n%s", args[0], err, out)
	}
	return nil
}

// finish waits for a run's end, which must be a good one.
func (r *repo) finish(ctx context.Context, number int64) (run ci.Run, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var failed error
	err = r.await(ctx, fmt.Sprintf("run %d ended", number), seldom, func() bool {
		run, failed = r.Run(ctx, r.name, number)
		return failed != nil || run.Status.Done()
	})
	if err == nil {
		err = failed
	}
	if err == nil && run.Status != ci.Success {
		err = fmt.Errorf("run %d: %s: %s", number, run.Status, run.Message)
	}
	return run, err
}
