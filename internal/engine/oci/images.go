package oci

import (
	"context"
	"io"

	"github.com/containerd/containerd/v2/core/mount"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/internal/engine"
	"slipway/internal/plan"
)

// Images makes root filesystems from images. Its methods may be called concurrently.
type Images interface {
	// Rootfs brings an image to this machine and prepares a writable root filesystem from it, which lasts until
	// RemoveRootfs whatever becomes of this process and of the image. Called again with the key of one that exists, it
	// returns that one if the image is the same. A key is of the form ID.KEY with [a-z0-9-] on both sides.
	Rootfs(ctx context.Context, key string, from Image) (Rootfs, error)
	// RemoveRootfs removes a root filesystem that is not mounted any more. One that does not exist is no error.
	RemoveRootfs(ctx context.Context, key string) error
	// RootfsKeys returns the keys of all root filesystems that there are. They are all the engine's: [Engine.Sweep]
	// removes those that belong to no sandbox which is kept.
	RootfsKeys(ctx context.Context) ([]string, error)
}

// Image says which image is wanted.
type Image struct {
	// Ref is the reference as people write it.
	Ref   string
	Pull  plan.Pull
	Auths []engine.Auth
	// Progress, if not nil, gets lines about the pulling.
	Progress io.Writer
}

// Rootfs is a root filesystem made from an image.
type Rootfs struct {
	// Mounts give the filesystem when they are mounted on one folder, one after the other.
	Mounts []mount.Mount
	// Config is the image's.
	Config ocispec.ImageConfig
}
