package buildkit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/platforms"
	cachemeta "github.com/moby/buildkit/cache/metadata"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/executor/oci"
	"github.com/moby/buildkit/executor/resources"
	"github.com/moby/buildkit/executor/runcexecutor"
	"github.com/moby/buildkit/snapshot/containerd"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/moby/buildkit/worker/base"
	"github.com/moby/buildkit/worker/label"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

// namespace is what containerd's metadata keeps our things under.
const namespace = "buildkit"

// imageWorker is BuildKit's worker put together by hand, because its own constructor keeps the metadata database and
// the snapshotter to itself, and with them the file lock on the folder.
type imageWorker struct {
	*base.Worker
	db          *bolt.DB
	snapshotter snapshots.Snapshotter
}

func newWorker(ctx context.Context, opts Options, hosts docker.RegistryHosts) (_ *imageWorker, err error) {
	name := "overlayfs"
	if overlayutils.Supported(opts.Dir) != nil {
		name = "native"
	}
	root := filepath.Join(opts.Dir, name)
	if err := os.MkdirAll(root, 0o711); err != nil {
		return nil, err
	}
	runc, err := exec.LookPath(opts.Runc)
	if err != nil {
		return nil, fmt.Errorf("find runc, which runs containers (Debian package runc): %w", err)
	}
	executorDir := filepath.Join(root, "executor")
	if err := sweepBuilds(ctx, executorDir, runc); err != nil {
		return nil, err
	}

	w := &imageWorker{}
	var closers []func() error
	defer func() {
		if err != nil {
			for _, c := range closers {
				err = errors.Join(err, c())
			}
		}
	}()
	if w.snapshotter, err = newSnapshotter(name, filepath.Join(root, "snapshots")); err != nil {
		return nil, fmt.Errorf("open the %s snapshotter: %w", name, err)
	}
	closers = append(closers, w.snapshotter.Close)
	blobs, err := local.NewStore(filepath.Join(root, "content"))
	if err != nil {
		return nil, err
	}
	w.db, err = bolt.Open(filepath.Join(root, "containerdmeta.db"), 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType})
	if err != nil {
		return nil, err
	}
	closers = append(closers, w.db.Close)
	meta := metadata.NewDB(w.db, blobs, map[string]snapshots.Snapshotter{name: w.snapshotter})
	if err := meta.Init(ctx); err != nil {
		return nil, err
	}
	refs, err := cachemeta.NewStore(filepath.Join(root, "metadata_v2.db"))
	if err != nil {
		return nil, err
	}
	closers = append(closers, refs.Close)
	networks, err := newNetworks(opts)
	if err != nil {
		return nil, err
	}
	for _, n := range networks {
		closers = append(closers, n.Close)
	}
	monitor, err := resources.NewMonitor()
	if err != nil {
		return nil, err
	}
	closers = append(closers, monitor.Close)
	var dns *oci.DNSConfig
	if len(opts.DNS) > 0 {
		dns = &oci.DNSConfig{Nameservers: opts.DNS}
	}
	executor, err := runcexecutor.New(runcexecutor.Opt{
		Root:              executorDir,
		CommandCandidates: []string{runc},
		ProcessMode:       oci.ProcessSandbox,
		DNS:               dns,
		ResourceMonitor:   monitor,
	}, networks)
	if err != nil {
		return nil, err
	}
	id, err := base.ID(root)
	if err != nil {
		return nil, err
	}
	content := containerd.NewContentStore(meta.ContentStore(), namespace)
	w.Worker, err = base.NewWorker(ctx, base.WorkerOpt{
		ID:               id,
		Root:             root,
		Labels:           map[string]string{label.Executor: "oci", label.Snapshotter: name},
		Platforms:        []ocispec.Platform{platforms.Normalize(platforms.DefaultSpec())},
		GCPolicy:         gcPolicy(opts.KeepBytes),
		NetworkProviders: networks,
		Executor:         executor,
		Snapshotter:      containerd.NewSnapshotter(name, meta.Snapshotter(name), namespace, nil),
		ContentStore:     content,
		Applier:          apply.NewFileSystemApplier(content),
		Differ:           walking.NewWalkingDiff(content),
		RegistryHosts:    hosts,
		LeaseManager:     leaseutil.WithNamespace(metadata.NewLeaseManager(meta), namespace),
		GarbageCollect:   meta.GarbageCollect,
		MetadataStore:    refs,
		MountPoolRoot:    filepath.Join(root, "cachemounts"),
		ResourceMonitor:  monitor,
	})
	if err != nil {
		return nil, err
	}
	return w, nil
}

// shutdown closes what [base.Worker.Close] leaves open, and with all set also what that closes: normally the
// controller has closed the worker already.
func (w *imageWorker) shutdown(all bool) error {
	var problems []error
	if all {
		problems = append(problems, w.Close())
	}
	return errors.Join(append(problems, w.db.Close(), w.snapshotter.Close())...)
}

func newSnapshotter(name, root string) (snapshots.Snapshotter, error) {
	if name == "native" {
		return native.NewSnapshotter(root)
	}
	return overlay.NewSnapshotter(root, overlay.AsynchronousRemove)
}

// minFree is how much of the disk the cache leaves free, in bytes, however much it may keep.
const minFree = 2e9

// gcPolicy keeps the cache near keep bytes: first goes what can be made again for nothing (contexts of builds, git
// checkouts) when it was not used for two days, then the least recently used of everything.
func gcPolicy(keep int64) []client.PruneInfo {
	return []client.PruneInfo{
		{
			Filter:       []string{"type==source.local,type==exec.cachemount,type==source.git.checkout"},
			KeepDuration: 48 * time.Hour,
			MaxUsedSpace: keep / 10,
		},
		{MaxUsedSpace: keep, MinFreeSpace: minFree},
		{All: true, MaxUsedSpace: keep, MinFreeSpace: minFree},
	}
}

// sweepBuilds removes the containers of RUN steps that a killed process left in dir, with their mounts. Each has a
// folder there that is named like the container.
func sweepBuilds(ctx context.Context, dir, runc string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	}
	for _, e := range entries {
		bundle := filepath.Join(dir, e.Name())
		if _, err := os.Lstat(filepath.Join(bundle, "rootfs")); !e.IsDir() || err != nil {
			continue
		}
		// A container that never came to be is not an error with --force.
		if out, err := exec.CommandContext(ctx, runc, "delete", "--force", e.Name()).CombinedOutput(); err != nil {
			return fmt.Errorf("remove the container %s of a killed build: %w: %s", e.Name(), err, out)
		}
		if err := mount.UnmountRecursive(filepath.Join(bundle, "rootfs"), 0); err != nil {
			return fmt.Errorf("unmount a killed build: %w", err)
		}
		if err := os.RemoveAll(bundle); err != nil {
			return fmt.Errorf("remove a killed build: %w", err)
		}
	}
	return nil
}
