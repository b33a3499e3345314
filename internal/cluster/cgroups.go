package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// Every process of a cluster, and of the pods on it, is born in the cgroup that bears the cluster's id:
//
//	/<id>/components/<name>   one for each component
//	/<id>/kubepods/...        the kubelet's
//
// So whatever has to be stopped is found there, even when every other trace of it is lost. The group is made at the root
// of the hierarchy and managed by the kubelet and runc themselves (the driver "cgroupfs"), with and without systemd:
// systemd leaves groups alone that it did not make.
type cgroups struct {
	id string
	v2 bool
}

func (l layout) cgroups() cgroups { return cgroups{l.id, cgroupV2()} }

// cgroupV2 reports whether the machine has the one hierarchy of cgroup v2. A hybrid of both counts as v1.
func cgroupV2() bool {
	var st unix.Statfs_t
	return unix.Statfs(cgroupRoot, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// tracking is the folder of the hierarchy by which processes are found.
func (c cgroups) tracking() string {
	if c.v2 {
		return filepath.Join(cgroupRoot, c.id)
	}
	return filepath.Join(cgroupRoot, "memory", c.id)
}

func (c cgroups) component(name string) string {
	return filepath.Join(c.tracking(), "components", name)
}

// make makes the group of a component and gives its folder. It also makes the cluster's own group as the kubelet wants to
// find it: with version 1 in every hierarchy, with version 2 with every controller that it uses.
func (c cgroups) make(name string) (string, error) {
	if c.v2 {
		if err := enableControllers(cgroupRoot); err != nil {
			return "", err
		}
	} else {
		entries, err := os.ReadDir(cgroupRoot)
		if err != nil {
			return "", fmt.Errorf("list the cgroup hierarchies: %w", err)
		}
		for _, e := range entries {
			dir := filepath.Join(cgroupRoot, e.Name(), c.id)
			if err := os.Mkdir(dir, 0o755); e.IsDir() && err != nil && !errors.Is(err, fs.ErrExist) {
				return "", fmt.Errorf("make the cgroup %s: %w", dir, err)
			}
		}
	}
	dir := c.component(name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make the cgroup of %s: %w", name, err)
	}
	return dir, nil
}

// enableControllers lets the groups below dir, a folder of cgroup v2, have the controllers that the kubelet uses, as far
// as the machine has them.
func enableControllers(dir string) error {
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("read the cgroup controllers: %w", err)
	}
	path := filepath.Join(dir, "cgroup.subtree_control")
	enabled, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the enabled cgroup controllers: %w", err)
	}
	for _, name := range []string{"cpu", "cpuset", "memory", "pids", "hugetlb"} {
		if !slices.Contains(strings.Fields(string(have)), name) || slices.Contains(strings.Fields(string(enabled)), name) {
			continue
		}
		if err := os.WriteFile(path, []byte("+"+name), 0); err != nil {
			return fmt.Errorf("enable the cgroup controller %s for the cluster: %w", name, err)
		}
	}
	return nil
}

// folders lists the cluster's folder in every hierarchy in which there is one.
func (c cgroups) folders() []string {
	if c.v2 {
		if _, err := os.Stat(c.tracking()); err != nil {
			return nil
		}
		return []string{c.tracking()}
	}
	dirs, _ := filepath.Glob(filepath.Join(cgroupRoot, "*", c.id))
	return dirs
}

// processes lists the processes in dir and the groups below it.
func processes(dir string) []int {
	var pids []int
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil // a group may go away under our feet
		}
		b, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			return nil
		}
		for _, field := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids
}

// kill kills every process in dir and the groups below it, and waits until none is left. It gives how many there were.
func kill(ctx context.Context, dirs ...string) (int, error) {
	seen := map[int]bool{}
	for {
		left := 0
		for _, dir := range dirs {
			for _, pid := range processes(dir) {
				if _, ok := inspect(pid); !ok {
					continue // waits for its parent only
				}
				left++
				seen[pid] = true
				if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
					return len(seen), fmt.Errorf("kill process %d of the cluster: %w", pid, err)
				}
			}
		}
		if left == 0 {
			return len(seen), nil
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return len(seen), fmt.Errorf("%d processes of the cluster don't end: %w", left, err)
		}
	}
}

// remove removes the cluster's groups from every hierarchy. They must be empty of processes; a killed one counts until
// its parent has taken note, which is why it tries again for as long as ctx allows.
func (c cgroups) remove(ctx context.Context) error {
	for {
		var last error
		for _, root := range c.folders() {
			var dirs []string
			_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return nil
			})
			for i := len(dirs) - 1; i >= 0; i-- {
				if err := unix.Rmdir(dirs[i]); err != nil && !errors.Is(err, unix.ENOENT) {
					last = fmt.Errorf("remove the cgroup %s: %w", dirs[i], err)
				}
			}
		}
		if last == nil {
			return nil
		}
		if pause(ctx, 10*time.Millisecond) != nil {
			return last
		}
	}
}
