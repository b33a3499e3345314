package runlog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"slipway/internal/blob"
)

// log is one log that somebody has to do with. It stays in memory while it has users, or while it is being written.
type log struct {
	logs *Logs
	name name
	refs int // guarded by Logs.mu

	mu sync.Mutex
	// known is true when the fields below say what is on disk.
	known    bool
	size     int64
	finished bool
	file     *os.File      // for writing; nil before the first append of this process and after the end
	changed  chan struct{} // closed when size or finished change; nil while nobody waits
}

// acquire returns the log of that name, loaded; release must follow.
func (l *Logs) acquire(ctx context.Context, n name) (*log, error) {
	if n.job < 0 || n.step < 0 {
		return nil, fmt.Errorf("job %d, step %d has no log", n.job, n.step)
	}
	l.mu.Lock()
	if l.isClosed() {
		l.mu.Unlock()
		return nil, os.ErrClosed
	}
	g, ok := l.logs[n]
	if !ok {
		g = &log{logs: l, name: n}
		l.logs[n] = g
	}
	g.refs++
	l.mu.Unlock()

	g.mu.Lock()
	err := g.load(ctx)
	g.mu.Unlock()
	if err != nil {
		l.release(g)
		return nil, fmt.Errorf("log of job %d, step %d: %w", n.job, n.step, err)
	}
	return g, nil
}

// release lets go of a log. The last user of one that is not being written takes it out of memory.
func (l *Logs) release(g *log) {
	l.mu.Lock()
	defer l.mu.Unlock()
	g.refs--
	if g.refs == 0 && g.file == nil { // nobody has g.mu now, and nobody can get it
		delete(l.logs, g.name)
	}
}

// load finds the log on disk or in the archive.
func (g *log) load(ctx context.Context) error {
	if g.known {
		return nil
	}
	info, err := os.Stat(g.path("log"))
	if err == nil {
		g.size = info.Size()
		if err := g.mend(); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	} else if info, err := os.Stat(g.path("done")); err == nil {
		g.size, g.finished = info.Size(), true
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	} else if a, err := openArchived(ctx, g.logs.archive, archiveKey(g.name)); err == nil {
		g.size, g.finished = a.size, true
		if err := a.Close(); err != nil {
			return err
		}
	} else if !errors.Is(err, blob.ErrNotFound) {
		return err
	}
	g.known = true
	return nil
}

// mend completes the last line of a log that reached its limit when the process died.
func (g *log) mend() error {
	limit := g.logs.limit
	line := truncated(limit)
	if g.size <= limit || g.size >= limit+int64(len(line)) {
		return nil
	}
	file, err := g.create()
	if err != nil {
		return err
	}
	_, err = file.WriteAt([]byte(line[g.size-limit:]), g.size)
	g.size = limit + int64(len(line))
	return errors.Join(err, file.Close())
}

func (g *log) path(extension string) string { return g.logs.path(g.name, extension) }

// append implements [Logs.Append].
func (g *log) append(offset int64, data []byte) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.logs.isClosed() {
		return os.ErrClosed
	}
	limit := g.logs.limit
	if g.size > limit {
		return nil // the last line says that the rest is not kept
	}
	data, err := missing(g.size, offset, data)
	if err != nil || len(data) == 0 {
		return err
	}
	if g.finished {
		return ErrFinished
	}
	if g.file == nil {
		if g.file, err = g.create(); err != nil {
			return err
		}
	}
	if room := limit - g.size; int64(len(data)) > room {
		data = append(data[:room:room], truncated(limit)...)
	}
	// Not with O_APPEND: what a write that failed left behind the end is written over.
	if _, err := g.file.WriteAt(data, g.size); err != nil {
		return err
	}
	g.size += int64(len(data))
	g.notify()
	return nil
}

// missing returns the part of data, which begins at offset, that a log of the given size does not have yet.
func missing(size, offset int64, data []byte) ([]byte, error) {
	if offset < 0 {
		return nil, fmt.Errorf("offset %d is negative", offset)
	}
	if offset > size {
		return nil, GapError{size}
	}
	return data[min(size-offset, int64(len(data))):], nil
}

// truncated is the last line of a log that has reached its limit.
func truncated(limit int64) string {
	size := fmt.Sprintf("%d bytes", limit)
	if limit%(1<<20) == 0 {
		size = fmt.Sprintf("%d MiB", limit>>20)
	}
	return fmt.Sprintf("\n[slipway] the output of this step is longer than %s; the rest is not kept\n", size)
}

// create opens the file for writing.
func (g *log) create() (*os.File, error) {
	for attempt := 1; ; attempt++ {
		if err := os.MkdirAll(g.logs.jobFolder(g.name.job), 0o700); err != nil {
			return nil, err
		}
		file, err := os.OpenFile(g.path("log"), os.O_WRONLY|os.O_CREATE, 0o600)
		if errors.Is(err, fs.ErrNotExist) && attempt < 10 {
			continue // archiving another log of the job removed the folder
		}
		return file, err
	}
}

// finish implements [Logs.Finish].
func (g *log) finish() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.finished {
		return nil
	}
	if g.logs.isClosed() {
		return os.ErrClosed
	}
	file := g.file
	if file == nil {
		// Also a log without a file gets one: that it is finished must outlive this process.
		var err error
		if file, err = g.create(); err != nil {
			return err
		}
	}
	g.file = nil
	if err := errors.Join(file.Close(), os.Rename(g.path("log"), g.path("done"))); err != nil {
		return fmt.Errorf("finish the log of job %d, step %d: %w", g.name.job, g.name.step, err)
	}
	g.finished = true
	g.notify()
	return nil
}

// end ends a log that has no file, for those who follow it; of a log with a file it does nothing.
func (g *log) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.file == nil && g.size == 0 {
		g.finished = true
		g.notify()
	}
}

// notify wakes those who follow.
func (g *log) notify() {
	if g.changed != nil {
		close(g.changed)
		g.changed = nil
	}
}
