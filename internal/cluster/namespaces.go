package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The cluster's processes have a network namespace and a mount namespace of their own, both pinned to a file, so that
// they outlive every single process. So kube-proxy's rules, pods' links, kubelet's mounts and containers' root file
// systems are never seen by the rest of the machine, and all of them end with the two pins.

// onThread runs f on a thread of its own, which ends afterwards: whatever f does to the thread's namespaces is gone.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the runtime ends the thread with the goroutine
		if unix.Gettid() == unix.Getpid() {
			// But it can't end the main thread, whose namespaces are those that /proc/self shows to everybody. As long as
			// this goroutine holds it, f runs on another one.
			done <- onThread(f)
			runtime.UnlockOSThread()
			return
		}
		done <- f()
	}()
	return <-done
}

// enter moves the calling thread into the cluster's network and mount namespaces.
func (l layout) enter() error {
	if err := setns(l.netns(), unix.CLONE_NEWNET); err != nil {
		return err
	}
	mnt, err := os.Open(l.mountns())
	if err != nil {
		return fmt.Errorf("enter the cluster's mounts: %w", err)
	}
	defer func() { _ = mnt.Close() }()
	// The kernel moves only a thread that shares its working folder with no other.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("enter the cluster's mounts: %w", err)
	}
	if err := unix.Setns(int(mnt.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("enter the cluster's mounts: %w", err)
	}
	return nil
}

func setns(path string, kind int) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("enter a namespace: %w", err)
	}
	defer func() { _ = f.Close() }()
	if err := unix.Setns(int(f.Fd()), kind); err != nil {
		return fmt.Errorf("enter the namespace %s: %w", path, err)
	}
	return nil
}

// inNetwork runs f on a thread in the cluster's network namespace.
func (l layout) inNetwork(f func() error) error {
	return onThread(func() error {
		if err := setns(l.netns(), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

// pinned reports whether path is a file that holds a namespace.
func pinned(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == unix.NSFS_MAGIC
}

// namespaceID identifies the namespace that path, a pin or a link in /proc, stands for.
func namespaceID(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, err
	}
	return st.Ino, nil
}

// makeNamespaces makes those namespaces that are missing. A new mount namespace shows the folders of dirs, which are
// the cluster's, at the paths where upstream's programs want theirs.
func (l layout) makeNamespaces(dirs map[string]string) error {
	if !pinned(l.netns()) {
		if err := pin(l.netns(), unix.CLONE_NEWNET, "net", nil); err != nil {
			return fmt.Errorf("make the cluster's network namespace: %w", err)
		}
	}
	if !pinned(l.mountns()) {
		// A mount namespace can be pinned only where mounts are private; elsewhere it would be shown inside itself.
		if !mounted(l.run()) {
			if err := unix.Mount(l.run(), l.run(), "", unix.MS_BIND, ""); err != nil {
				return fmt.Errorf("mount %s: %w", l.run(), err)
			}
		}
		if err := unix.Mount("", l.run(), "", unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make the mount %s private: %w", l.run(), err)
		}
		if err := pin(l.mountns(), unix.CLONE_NEWNS, "mnt", func() error { return populate(dirs) }); err != nil {
			return fmt.Errorf("make the cluster's mount namespace: %w", err)
		}
	}
	return nil
}

// populate runs in the new mount namespace. What is mounted on the machine later shows up in it; not the reverse.
func populate(dirs map[string]string) error {
	for _, flags := range []uintptr{unix.MS_REC | unix.MS_SLAVE, unix.MS_REC | unix.MS_SHARED} {
		if err := unix.Mount("", "/", "", flags, ""); err != nil {
			return fmt.Errorf("change the propagation of mounts: %w", err)
		}
	}
	for target, source := range dirs {
		if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s on %s: %w", source, target, err)
		}
	}
	return nil
}

// pin makes a namespace of the given kind, runs setup in it and holds it by mounting it on path.
//
// The kernel lets a mount namespace be pinned in older ones only, and tells the older by its number. Linux 6.18 numbers
// those made on one CPU in order, but not those of different CPUs. So where the first try is refused, one on the CPU
// where this process's own namespace was made will not be.
func pin(path string, flag int, name string, setup func() error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444)
	if err != nil {
		return err
	}
	_ = f.Close()
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return fmt.Errorf("list the CPUs: %w", err)
	}
	err = pinOn(all, path, flag, name, setup)
	for cpu := 0; errors.Is(err, unix.EINVAL) && cpu < 8*len(all)*int(unsafe.Sizeof(all[0])); cpu++ {
		if all.IsSet(cpu) {
			var one unix.CPUSet
			one.Set(cpu)
			err = pinOn(one, path, flag, name, setup)
		}
	}
	if err != nil {
		_ = os.Remove(path)
	}
	return err
}

// pinOn makes and holds a namespace from a thread that runs on these CPUs only.
func pinOn(cpus unix.CPUSet, path string, flag int, name string, setup func() error) error {
	made, held := make(chan string), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- onThread(func() error {
			defer close(made)
			if err := unix.SchedSetaffinity(0, &cpus); err != nil {
				return err
			}
			if err := unix.Unshare(flag); err != nil {
				return err
			}
			if setup != nil {
				if err := setup(); err != nil {
					return err
				}
			}
			made <- fmt.Sprintf("/proc/self/task/%d/ns/%s", unix.Gettid(), name)
			<-held
			return nil
		})
	}()
	var err error
	if source, ok := <-made; ok {
		err = unix.Mount(source, path, "", unix.MS_BIND, "")
		close(held)
	}
	return errors.Join(err, <-done)
}

// mounted reports whether something is mounted on exactly path.
func mounted(path string) bool { return slices.Contains(mountsUnder(path), path) }

// intact reports whether both namespaces are there, with all that was mounted: the kernel takes a mount away, also from
// here, when somebody removes the folder that it is on.
func (l layout) intact() bool {
	if !pinned(l.netns()) || !pinned(l.mountns()) {
		return false
	}
	err := onThread(func() error {
		if err := l.enter(); err != nil {
			return err
		}
		for target := range l.mountTargets() {
			if !mounted(target) {
				return fmt.Errorf("%s is not mounted", target)
			}
		}
		return nil
	})
	return err == nil
}

// mountsUnder lists the mount points at and below path, as the calling thread sees them, the latest first.
func mountsUnder(path string) []string {
	b, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return nil
	}
	var found []string
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		point := unescapeMount.Replace(fields[4])
		if point == path || strings.HasPrefix(point, strings.TrimSuffix(path, "/")+"/") {
			found = append([]string{point}, found...)
		}
	}
	return found
}

// unescapeMount undoes what the kernel does to paths in mountinfo.
var unescapeMount = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// removeNamespaces lets go of both namespaces. They end with the last process in them.
func (l layout) removeNamespaces() error {
	var errs []error
	for _, m := range append(mountsUnder(l.run()), mountsUnder(l.netns())...) {
		if err := unix.Unmount(m, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", m, err))
		}
	}
	if err := os.Remove(l.netns()); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	if err := os.RemoveAll(l.run()); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
