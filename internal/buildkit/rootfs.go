package buildkit

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
)

// A root filesystem is a writable snapshot on the snapshot of the image's last layer, and a lease of the same name that
// holds it. The metadata database's garbage collection keeps what a lease holds and everything below it, so the lease is
// all that a running container needs; BuildKit's own records of the layers may be pruned above its head.
const (
	rootfsPrefix     = "slipway-rootfs-"
	rootfsLabel      = "slipway/rootfs"
	rootfsImageLabel = "slipway/rootfs.image"
)

var rootfsKey = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$`)

// Rootfs prepares a writable root filesystem on the layers of img and returns its mounts, all for [mount.All] on one
// folder. It survives the death of this process and clean-ups of the cache; [Daemon.RemoveRootfs] drops it. Called
// again with the same key it returns the same filesystem, with what was written to it; with another image that is an
// error. A key matches [A-Za-z0-9][A-Za-z0-9_.-]{0,127}.
func (d *Daemon) Rootfs(ctx context.Context, img *Image, key string) ([]mount.Mount, error) {
	if !rootfsKey.MatchString(key) {
		return nil, fmt.Errorf("root filesystem: %q is not a valid key", key)
	}
	mounts, err := d.rootfs(ctx, img, rootfsPrefix+key, key)
	if err != nil {
		return nil, fmt.Errorf("prepare the root filesystem of %s: %w", img.Ref, err)
	}
	return mounts, nil
}

func (d *Daemon) rootfs(ctx context.Context, img *Image, id, key string) ([]mount.Mount, error) {
	parent, err := d.topSnapshot(ctx, img)
	if err != nil {
		return nil, err
	}
	lm, sn := d.worker.LeaseManager(), d.worker.Snapshotter
	_, err = lm.Create(ctx, leases.WithID(id), leases.WithLabels(map[string]string{
		rootfsLabel: key, rootfsImageLabel: img.Digest,
	}))
	switch {
	case errdefs.IsAlreadyExists(err):
		found, err := lm.List(ctx, "id=="+id)
		if err != nil {
			return nil, err
		}
		if len(found) == 1 && found[0].Labels[rootfsImageLabel] != img.Digest {
			return nil, fmt.Errorf("the key %q is taken by an image of digest %s", key, found[0].Labels[rootfsImageLabel])
		}
	case err != nil:
		return nil, err
	}
	// The lease may be there without its snapshot, from a process that died in between: then this makes it.
	err = sn.Prepare(leases.WithLease(ctx, id), id, parent)
	if err != nil && !errdefs.IsAlreadyExists(err) {
		_ = lm.Delete(context.WithoutCancel(ctx), leases.Lease{ID: id})
		return nil, err
	}
	mountable, err := sn.Mounts(ctx, id)
	if err != nil {
		return nil, err
	}
	// For a plain snapshot there is nothing to release.
	mounts, _, err := mountable.Mount()
	return mounts, err
}

// topSnapshot returns the name of the snapshot of img's last layer, or "" if img has no layers. BuildKit does not tell
// it, but the lease that it holds each layer with does.
func (d *Daemon) topSnapshot(ctx context.Context, img *Image) (string, error) {
	if img.released.Load() {
		return "", errors.New("the image was released")
	}
	ref := img.held.top
	if ref == nil {
		return "", nil
	}
	resources, err := d.worker.LeaseManager().ListResources(ctx, leases.Lease{ID: ref.ID()})
	if err != nil {
		return "", err
	}
	for _, r := range resources {
		if r.Type == "snapshots/"+d.worker.Snapshotter.Name() {
			return r.ID, nil
		}
	}
	return "", fmt.Errorf("layer %s has no snapshot", ref.ID())
}

// RemoveRootfs drops the root filesystem of that key; nothing may be mounted from it any more. One that does not exist
// is no error. Its space is freed in the background.
func (d *Daemon) RemoveRootfs(ctx context.Context, key string) error {
	err := d.worker.LeaseManager().Delete(ctx, leases.Lease{ID: rootfsPrefix + key})
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove the root filesystem %q: %w", key, err)
	}
	select {
	case d.collect <- struct{}{}:
	default: // one is due already, and will see this one too
	}
	return nil
}

// RootfsKeys returns the keys of all root filesystems that exist, those of earlier processes included.
func (d *Daemon) RootfsKeys(ctx context.Context) ([]string, error) {
	found, err := d.worker.LeaseManager().List(ctx, `labels."`+rootfsLabel+`"`)
	if err != nil {
		return nil, fmt.Errorf("list root filesystems: %w", err)
	}
	var keys []string
	for _, lease := range found {
		keys = append(keys, strings.TrimPrefix(lease.ID, rootfsPrefix))
	}
	return keys, nil
}
