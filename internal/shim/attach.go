package shim

import (
	"context"
	"errors"
	"io"
)

// Attachment follows a step in the background.
type Attachment struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when exit and err are known
	closed chan struct{} // closed when the goroutine has ended
	exit   Exit
	err    error
}

// Attach starts to [Follow] the step of dir. Close must be called in the end.
func Attach(dir string, offset int64, out io.Writer) *Attachment {
	ctx, cancel := context.WithCancel(context.Background())
	a := &Attachment{cancel: cancel, done: make(chan struct{}), closed: make(chan struct{})}
	go func() {
		defer close(a.closed)
		watch := newWatch(dir)
		a.exit, a.err = follow(ctx, watch, dir, offset, out)
		close(a.done)
		// It takes the kernel ten milliseconds to close an inotify, which nobody needs to wait for.
		watch.close()
	}()
	return a
}

// Wait returns what Follow does. When ctx is done first, it ends the following, not the step, and returns ctx's error.
// In either case nothing is written to out any more when it returns. It may be repeated.
func (a *Attachment) Wait(ctx context.Context) (Exit, error) {
	select {
	case <-a.done:
	case <-ctx.Done():
		a.cancel()
		<-a.done
		if errors.Is(a.err, context.Canceled) {
			return Exit{}, ctx.Err()
		}
	}
	return a.exit, a.err
}

// Close ends the following, not the step, and waits for its last write. It may be repeated.
func (a *Attachment) Close() {
	a.cancel()
	<-a.closed
}
