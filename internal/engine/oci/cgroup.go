package oci

import (
	"bufio"
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

// cgroups are the mount points of all hierarchies: one with version 2, about a dozen with version 1, both in a hybrid.
type cgroups []string

func findCgroups() (cgroups, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var found cgroups
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// The mount point is the fifth field; the type is the first after the dash.
		head, tail, _ := strings.Cut(lines.Text(), " - ")
		fields := strings.Fields(head)
		if kind, _, _ := strings.Cut(tail, " "); (kind == "cgroup" || kind == "cgroup2") && len(fields) > 4 {
			found = append(found, fields[4])
		}
	}
	if len(found) == 0 {
		return nil, errors.New("no cgroups are mounted on this machine; containers need them")
	}
	return found, nil
}

// children lists the cgroups below one, in any hierarchy. One that does not exist has none.
func (c cgroups) children(path string) ([]string, error) {
	var all []string
	for _, root := range c {
		entries, err := os.ReadDir(filepath.Join(root, path))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, entry := range entries {
			if entry.IsDir() {
				all = append(all, entry.Name())
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// sandboxes lists the cgroups at the root whose names have a prefix, without it.
func (c cgroups) sandboxes(prefix string) ([]string, error) {
	all, err := c.children("/")
	var ids []string
	for _, name := range all {
		if id, ok := strings.CutPrefix(name, prefix); ok {
			ids = append(ids, id)
		}
	}
	return ids, err
}

// remove kills the processes of a cgroup and of those below it, and removes them all.
func (c cgroups) remove(ctx context.Context, path string) error {
	deadline := time.Now().Add(removeTime)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		var busy error
		for _, root := range c {
			busy = errors.Join(busy, removeTree(filepath.Join(root, path)))
		}
		switch {
		case busy == nil:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("processes of the cgroup %s do not end: %w", path, busy)
		case ctx.Err() != nil:
			return ctx.Err()
		}
		time.Sleep(pause) // the kernel does not tell when the last process has left
	}
}

// removeTime is how long processes that were killed may take to disappear.
const removeTime = 5 * time.Second

func removeTree(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// It has processes, or containers in the container left cgroups behind.
	if procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs")); err == nil {
		for _, field := range strings.Fields(string(procs)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
	}
	entries, err := os.ReadDir(dir)
	for _, entry := range entries {
		if entry.IsDir() {
			err = errors.Join(err, removeTree(filepath.Join(dir, entry.Name())))
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err = unix.Rmdir(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// oomKills returns how many processes of a cgroup the kernel killed for want of memory.
func (c cgroups) oomKills(path string) int {
	for _, root := range c {
		for _, file := range []string{"memory.events", "memory.oom_control"} { // version 2 and 1
			data, err := os.ReadFile(filepath.Join(root, path, file))
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(data)) {
				if count, ok := strings.CutPrefix(line, "oom_kill "); ok {
					n, _ := strconv.Atoi(strings.TrimSpace(count))
					return n
				}
			}
		}
	}
	return 0
}

// populated reports whether a cgroup has processes of its own.
func (c cgroups) populated(path string) bool {
	for _, root := range c {
		if procs, err := os.ReadFile(filepath.Join(root, path, "cgroup.procs")); err == nil && len(procs) > 0 {
			return true
		}
	}
	return false
}
