package oci_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"slipway/internal/buildkit"
	"slipway/internal/buildkit/buildkittest"
	"slipway/internal/engine"
	"slipway/internal/engine/enginetest"
	"slipway/internal/engine/oci"
	"slipway/internal/plan"
)

// pulled are the images of BuildKit, as the runner's process has them.
type pulled struct{ *buildkit.Daemon }

func (p pulled) Rootfs(ctx context.Context, key string, from oci.Image) (oci.Rootfs, error) {
	image, err := p.Pull(ctx, from.Ref, buildkit.PullOptions{Policy: from.Pull, Auths: from.Auths, Progress: from.Progress})
	if err != nil {
		return oci.Rootfs{}, err
	}
	defer image.Release()
	mounts, err := p.Daemon.Rootfs(ctx, image, key)
	return oci.Rootfs{Mounts: mounts, Config: image.Config.Config}, err
}

// TestBuildKit runs a step on a real image, and replaces engine and BuildKit and empties its cache while the step runs.
func TestBuildKit(t *testing.T) {
	m := newMachine(t)
	registry := buildkittest.NewRegistry(t, "user", "password")
	registry.Push(t, "busybox:1", buildkittest.Busybox(t))
	ref, cache := registry.Host+"/busybox:1", t.TempDir()
	spec := engine.Spec{
		ID:    enginetest.NewID(),
		Auths: []engine.Auth{registry.Auth},
		Job:   plan.Job{Workspace: "/drone/src", Steps: []plan.Step{{Name: "a", Kind: plan.KindExec, Exec: &plan.Exec{Image: ref}}}},
	}
	step := script("a", "echo ready; until test -e /drone/src/go; do sleep 0.01; done; cat /etc/passwd; seq 3")
	step.Exec.Image = ref
	opts := m.options(t, t.TempDir())

	daemon := buildkittest.Open(t, buildkit.Options{Dir: cache})
	opts.Images = pulled{daemon}
	eng := newEngine(t, opts)
	env, err := eng.Setup(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	out := new(enginetest.Output)
	if _, err := env.Start(t.Context(), step, out); err != nil {
		t.Fatal(err)
	}
	out.Await(t, "ready")
	if err := eng.Close(); err != nil {
		t.Error(err)
	}
	if err := daemon.Close(); err != nil {
		t.Error(err)
	}

	daemon = buildkittest.Open(t, buildkit.Options{Dir: cache})
	if _, err := daemon.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	opts.Images = pulled{daemon}
	eng = newEngine(t, opts)
	if env, err = eng.Setup(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	whole := new(enginetest.Output)
	proc, err := env.Start(t.Context(), step, whole)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(env.Workspace(), "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	const want = "ready\nroot:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n1\n2\n3\n"
	if result, err := proc.Wait(t.Context()); err != nil || result.ExitCode != 0 || whole.String() != want {
		t.Errorf("%+v, %v, output %q", result, err, whole)
	}
	if err := env.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := eng.Close(); err != nil {
		t.Error(err)
	}
	noLeftovers(t, opts)
}
