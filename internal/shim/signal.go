package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Signal sends sig to the shim of dir: SignalStop, SignalKill, or SIGKILL, which leaves no result. It returns
// [os.ErrProcessDone] when there is no living shim. The shim must be on this machine, in this process's pid namespace or
// below it.
func Signal(dir string, sig syscall.Signal) error {
	holder, _, err := probeLock(dir)
	if err != nil {
		return err
	}
	if holder <= 0 {
		return os.ErrProcessDone
	}
	fd, err := unix.PidfdOpen(holder, 0)
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", holder, err)
	}
	defer unix.Close(fd)
	// Only a process that has the lock is signalled, even if numbers are reused: it had it before and after the opening.
	if again, _, err := probeLock(dir); err != nil || again != holder {
		return errors.Join(err, os.ErrProcessDone)
	}
	err = unix.PidfdSendSignal(fd, sig, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// Stop asks the step of dir to end, kills it when it has not ended after grace or when ctx is done, and returns when its
// shim is gone. A step that is not running is no error.
func Stop(ctx context.Context, dir string, grace time.Duration) error {
	return stop(ctx, dir, []push{{SignalStop, grace}, {SignalKill, killTime}, {syscall.SIGKILL, killTime}})
}

// Kill ends the step of dir at once and returns when its shim is gone. A step that is not running is no error.
func Kill(ctx context.Context, dir string) error {
	return stop(ctx, dir, []push{{SignalKill, killTime}, {syscall.SIGKILL, killTime}})
}

// killTime is how long a killed step may take to disappear.
const killTime = 5 * time.Second

// push is a signal and how long to wait for what it does.
type push struct {
	signal syscall.Signal
	wait   time.Duration
}

func stop(ctx context.Context, dir string, pushes []push) error {
	for _, p := range pushes {
		err := Signal(dir, p.signal)
		if errors.Is(err, os.ErrProcessDone) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("signal the step: %w", err)
		}
		if p.signal != SignalStop {
			ctx = context.WithoutCancel(ctx)
		}
		if gone(ctx, dir, p.wait) {
			return nil
		}
	}
	return errors.New("the step could not be killed: its processes wait in the kernel, for a disk or a network file system that does not answer")
}

// gone waits until no shim has the lock of dir.
func gone(ctx context.Context, dir string, limit time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	watch := newWatch(dir)
	defer watch.close()
	for {
		holder, _, err := probeLock(dir)
		if err != nil || holder == 0 {
			return err == nil
		}
		if ctx.Err() != nil {
			return false
		}
		watch.waitAtMost(ctx, fastLook)
	}
}
