package shim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrDied says that a shim was killed before it could write how its step ended.
var ErrDied = errors.New("the step was killed together with its shim, or the machine restarted: there is no result")

// Start puts c into dir for the shim to run. The shim may be started before or after. Start does not check whether dir
// has had a command: see [Look].
func Start(dir string, c Command) error {
	if err := c.validate(); err != nil {
		return err
	}
	data, err := c.encode()
	if err != nil {
		return err
	}
	if len(data) > maxStart {
		return fmt.Errorf("script and environment have %d bytes together; at most %d are allowed", len(data), maxStart)
	}
	// Never synced: it is usually gone before the kernel would write it to the disk.
	temp := filepath.Join(dir, startFile+".tmp")
	if err := os.WriteFile(temp, data, 0o600); err != nil {
		_ = os.Remove(temp)
		return err
	}
	return os.Rename(temp, filepath.Join(dir, startFile))
}

// State is how a step stands.
type State int

// The states, in the order in which a step goes through them.
const (
	// Unstarted means that no shim took the command. If one came and went, the folder serves no other: make a new one.
	Unstarted State = iota
	// Starting means that there is a shim that waits for a command or is about to take it.
	Starting
	// Running means that the command was taken and that its shim lives. The command's process may not run yet.
	Running
	// Ended means that there is a result.
	Ended
	// Dead means that the command was taken, and that neither shim nor result is there.
	Dead
)

// Look returns how the step of the folder stands. A folder that does not exist is Unstarted.
func Look(dir string) (State, error) {
	if exists(dir, exitFile) {
		return Ended, nil
	}
	holder, found, err := probeLock(dir)
	if err != nil || !found {
		return Unstarted, err
	}
	locked := holder != 0
	// The shim makes log before it removes start.
	taken := !exists(dir, startFile) && exists(dir, logFile)
	switch {
	case locked && taken:
		return Running, nil
	case locked:
		return Starting, nil
	case exists(dir, exitFile): // written since the first look
		return Ended, nil
	case taken:
		return Dead, nil
	}
	return Unstarted, nil
}

func exists(dir, name string) bool {
	_, err := os.Lstat(filepath.Join(dir, name))
	return err == nil
}

// probeLock reports whether the lock file exists, and the process that has locked it, or 0. It asks without locking.
func probeLock(dir string) (holder int, found bool, err error) {
	f, err := openRegular(filepath.Join(dir, lockFile))
	if errors.Is(err, os.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &lock); err != nil {
		return 0, true, fmt.Errorf("look at the lock of %s: %w", dir, err)
	}
	if lock.Type == unix.F_UNLCK {
		return 0, true, nil
	}
	return int(lock.Pid), true, nil
}
