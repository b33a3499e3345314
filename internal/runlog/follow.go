package runlog

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
)

// follower reads a log to its end, and waits for it.
type follower struct {
	ctx context.Context // of the request that reads, as that of an http.Request

	log    *log
	offset int64
	closed chan struct{}
	once   sync.Once

	mu  sync.Mutex // held while reading
	src source     // opened when there is something to read
}

// Read implements [io.Reader].
func (f *follower) Read(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(p) == 0 {
		return 0, nil
	}
	for {
		select {
		case <-f.closed:
			return 0, os.ErrClosed
		default:
		}
		if err := f.ctx.Err(); err != nil {
			return 0, err
		}
		size, finished, changed := f.log.state()
		if f.offset < size {
			if f.src == nil {
				src, err := f.log.logs.source(f.ctx, f.log.name)
				if err != nil {
					return 0, err
				}
				f.src = src
			}
			n, err := f.src.ReadAt(p[:min(int64(len(p)), size-f.offset)], f.offset)
			f.offset += int64(n)
			if n > 0 {
				return n, nil
			}
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF // somebody cut the file
			}
			return 0, err
		}
		if finished {
			return 0, io.EOF
		}
		if f.log.logs.isClosed() {
			return 0, os.ErrClosed
		}
		select {
		case <-changed:
		case <-f.ctx.Done():
		case <-f.closed:
		case <-f.log.logs.closed:
		}
	}
}

// Close implements [io.Closer]. It ends a Read that waits.
func (f *follower) Close() (err error) {
	f.once.Do(func() {
		close(f.closed)
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.src != nil {
			err = f.src.Close()
		}
		f.log.logs.release(f.log)
	})
	return err
}

// state returns how long the log is, whether it is finished, and a channel that is closed when either changes.
func (g *log) state() (size int64, finished bool, changed <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.changed == nil && !g.finished {
		g.changed = make(chan struct{})
	}
	return g.size, g.finished, g.changed
}
