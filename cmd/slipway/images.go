package main

import (
	"context"

	"slipway/internal/buildkit"
	"slipway/internal/engine/oci"
)

// pulledImages gives the engine the root filesystems that BuildKit makes.
type pulledImages struct{ *buildkit.Daemon }

var _ oci.Images = pulledImages{}

// Rootfs implements [oci.Images].
func (p pulledImages) Rootfs(ctx context.Context, key string, from oci.Image) (oci.Rootfs, error) {
	image, err := p.Pull(ctx, from.Ref, buildkit.PullOptions{Policy: from.Pull, Auths: from.Auths, Progress: from.Progress})
	if err != nil {
		return oci.Rootfs{}, err
	}
	defer image.Release()
	mounts, err := p.Daemon.Rootfs(ctx, image, key)
	return oci.Rootfs{Mounts: mounts, Config: image.Config.Config}, err
}
