package shim

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// watch waits for changes of a folder. It uses inotify, and where there is none left (the kernel's default is 128 for a
// user) it looks every few milliseconds.
type watch struct {
	events *os.File // nil without inotify
	buf    [4096]byte
}

func newWatch(dir string) *watch {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return &watch{}
	}
	// CLOSE_WRITE comes also when a process that had the lock open dies.
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_MOVED_TO|unix.IN_DELETE|unix.IN_CLOSE_WRITE); err != nil {
		_ = unix.Close(fd)
		return &watch{}
	}
	return &watch{events: os.NewFile(uintptr(fd), "inotify")}
}

// wait returns when something has changed since the watch was made or wait returned, when ctx is done, and now and then.
func (w *watch) wait(ctx context.Context) {
	if w.events == nil {
		w.waitAtMost(ctx, fastLook)
	} else {
		w.waitAtMost(ctx, slowLook)
	}
}

// waitAtMost is wait with a bound of its own.
func (w *watch) waitAtMost(ctx context.Context, limit time.Duration) {
	if w.events == nil {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		return
	}
	_ = w.events.SetReadDeadline(time.Now().Add(limit))
	stop := context.AfterFunc(ctx, func() { _ = w.events.SetReadDeadline(time.Now()) })
	defer stop()
	_, _ = w.events.Read(w.buf[:])
}

func (w *watch) close() {
	if w.events != nil {
		_ = w.events.Close()
	}
}
