package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// Follow copies the log of dir to w, from byte offset on and as it grows, until the step has ended and all is copied, and
// returns how it ended. A step that was killed together with its shim gives ErrDied, after the last byte of its log.
// When ctx is done first, the step goes on and Follow returns ctx's error. Any number of Follows may read one folder.
//
// The step need not have started. The folder must exist, and stay until Follow returns.
func Follow(ctx context.Context, dir string, offset int64, w io.Writer) (Exit, error) {
	watch := newWatch(dir)
	defer watch.close()
	return follow(ctx, watch, dir, offset, w)
}

func follow(ctx context.Context, watch *watch, dir string, offset int64, w io.Writer) (Exit, error) {
	log := &reader{path: filepath.Join(dir, logFile), offset: offset}
	defer log.close()
	for {
		// What the log has when the step's end is known is all that it will have.
		state, err := Look(dir)
		if err != nil {
			return Exit{}, err
		}
		n, err := log.copyTo(w)
		switch {
		case err != nil:
			return Exit{}, err
		case state == Dead:
			return Exit{}, ErrDied
		case state == Ended:
			return readExit(dir)
		case ctx.Err() != nil:
			return Exit{}, ctx.Err()
		case n > 0:
			continue
		}
		watch.wait(ctx)
	}
}

// Wait is Follow without the log.
func Wait(ctx context.Context, dir string) (Exit, error) {
	return Follow(ctx, dir, MaxLogLimit, io.Discard)
}

// Started waits until a shim has taken the command of dir, and returns how the step stands then; or when ctx is done, how
// it stands with ctx's error. It cannot know of a shim that died before, or that was never started.
func Started(ctx context.Context, dir string) (State, error) {
	// A container takes 30 milliseconds, and a look a few microseconds, while to close an inotify takes the kernel ten
	// milliseconds. Who waits for longer looks less often.
	began := time.Now()
	for {
		pause := max(300*time.Microsecond, min(time.Since(began)/50, fastLook))
		state, err := Look(dir)
		if err != nil || state > Starting {
			return state, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return state, ctx.Err()
		}
	}
}

func readExit(dir string) (Exit, error) {
	data, err := readRegular(filepath.Join(dir, exitFile), maxExit)
	if err != nil {
		return Exit{}, fmt.Errorf("read how the step ended: %w", err)
	}
	exit, err := decodeExit(data)
	if err != nil {
		return Exit{}, fmt.Errorf("read how the step ended: %w", err)
	}
	return exit, nil
}

// reader reads a log as far as it is there.
type reader struct {
	path   string
	offset int64
	file   *os.File
	buf    []byte
}

// copyTo copies what is new, and returns how much it was.
func (r *reader) copyTo(w io.Writer) (int64, error) {
	if r.file == nil {
		f, err := openRegular(r.path)
		if errors.Is(err, os.ErrNotExist) {
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
		r.file, r.buf = f, make([]byte, 64<<10)
	}
	var total int64
	// The limit has room for the line that says so.
	for r.offset < MaxLogLimit+4096 {
		n, err := r.file.ReadAt(r.buf, r.offset)
		if n > 0 {
			r.offset += int64(n)
			total += int64(n)
			if _, err := w.Write(r.buf[:n]); err != nil {
				return total, err
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return total, err
		}
	}
	return total, nil
}

func (r *reader) close() {
	if r.file != nil {
		_ = r.file.Close()
	}
}

// How long a watch waits for a sign before its caller looks anyway.
const (
	slowLook = time.Second           // a shim that dies leaves a sign, but one that died before the watch began may not
	fastLook = 20 * time.Millisecond // without inotify
)
