package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// downLimit bounds the wait for killed processes to be gone.
	downLimit = 30 * time.Second
	// grace is how long etcd and containerd get to close their files.
	grace = 3 * time.Second
)

// Down ends the cluster in opts.Data with everything on it, and leaves no process, mount, namespace, link, firewall rule
// or cgroup behind, whatever state it was in; a cluster that does not run is no error. Its data stays, and the next [Up]
// brings back what was deployed, unless opts.Delete is set. It goes on after an error and gives all.
func Down(ctx context.Context, opts Options) error {
	l, err := newLayout(opts.Data, opts.Bin)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("stopping a cluster needs root: run `sudo slipway cluster down`")
	}
	say := newProgress(opts.Progress).say
	if _, err := os.Stat(l.data); err == nil {
		unlock, err := l.lock(ctx, func() { say("waiting for another command on this cluster") })
		if err != nil {
			return err
		}
		defer unlock()
	}
	// What has begun is carried through: a half-stopped cluster is of no use.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), downLimit)
	defer cancel()

	killed, err := l.stopAll(ctx)
	errs := []error{err}
	errs = append(errs, l.removeNetwork(ctx), l.removeNamespaces(), l.cgroups().remove(ctx))
	errs = append(errs, lockFolder(ctx, "/run", l.removeTargets))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("stop the cluster in %s: %w", l.data, err)
	}
	say("stopped: %d processes ended, nothing is left running", killed)
	if opts.Delete {
		return l.delete(say)
	}
	return nil
}

// removeTargets removes the folders that were made to mount on, after the last cluster: with the folder, the kernel would
// take away what the others have mounted on it.
func (l layout) removeTargets() error {
	if others, err := filepath.Glob("/run/" + idPattern); err != nil || len(others) > 0 {
		return err
	}
	for dir := range l.mountTargets() {
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 1 || entries[0].Name() != madeBySlipway {
			continue // not there, or somebody's
		}
		if err := errors.Join(os.Remove(filepath.Join(dir, madeBySlipway)), os.Remove(dir)); err != nil {
			return fmt.Errorf("remove a folder that was made to mount on: %w", err)
		}
	}
	return nil
}

// stopAll ends every process of the cluster and gives how many there were.
func (l layout) stopAll(ctx context.Context) (int, error) {
	c := l.cgroups()
	// First those that would start pods again, and the pods.
	first := []string{c.component("kubelet"), c.component("kube-controller-manager"), c.component("kube-scheduler"), c.component("kube-proxy"), c.component("coredns"), c.component("kube-apiserver")}
	for _, dir := range c.folders() {
		first = append(first, dir+"/kubepods")
	}
	killed, err := kill(ctx, first...)
	if err != nil {
		return killed, err
	}
	var closing []process
	for _, name := range []string{"etcd", "containerd"} {
		if p, ok := l.running(name); ok && p.signal(unix.SIGTERM) == nil {
			closing = append(closing, p)
			killed++
		}
	}
	graced, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	for _, p := range closing {
		for p.alive() && pause(graced, 5*time.Millisecond) == nil {
		}
	}
	rest, err := kill(ctx, c.folders()...)
	return killed + rest, err
}

// delete removes the data folder, if it is one.
func (l layout) delete(say func(string, ...any)) error {
	if _, err := os.Stat(l.in("state.json")); errors.Is(err, fs.ErrNotExist) {
		if err := os.Remove(l.in("lock")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the data folder: %w", err)
		}
		if err := os.Remove(l.data); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is not removed, for it holds no cluster: %w", l.data, err)
		}
		return nil
	}
	if err := os.RemoveAll(l.data); err != nil {
		return fmt.Errorf("remove the data folder: %w", err)
	}
	say("removed %s", l.data)
	return nil
}
