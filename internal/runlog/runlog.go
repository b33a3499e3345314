// Package runlog keeps the output of steps: appended by runners, followed live by people, archived when the job is done.
//
// A log is a plain file while its job runs, so that whatever was acknowledged survives the death of the server, and a
// compressed blob afterwards. Reading is the same for both. Start with [Logs].
package runlog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"slipway/internal/blob"
)

// DefaultLimit is how long the log of one step may get, in bytes.
const DefaultLimit = 512 << 20

// ErrFinished says that a log was finished and takes no more.
var ErrFinished = errors.New("the log is finished")

// GapError says that an append began beyond the end of the log: something between is missing.
type GapError struct {
	// Size is how long the log is, and where the next append has to begin, at the latest.
	Size int64
}

func (e GapError) Error() string {
	return fmt.Sprintf("the log has %d bytes; an append must not begin beyond them", e.Size)
}

// Options of [Open]. Zero fields mean the defaults.
type Options struct {
	// Limit is how long a log may get, in bytes; 0 means [DefaultLimit]. What comes after is dropped, and a last line
	// says so.
	Limit int64
}

// Logs are the logs of all steps. A log is named by the ID of its job and the number of its step; one that nothing was
// appended to is empty. All methods may be called concurrently.
type Logs struct {
	folder  string
	archive blob.Store
	limit   int64

	mu     sync.Mutex
	logs   map[name]*log
	closed chan struct{}
	// archiving is held by who archives or deletes: one job at a time, so that two never move the same files.
	archiving chan struct{}
}

// name names a log.
type name struct {
	job  int64
	step int
}

// Open opens the logs whose live files are in folder, which it makes if it is not there, and whose others are in
// archive. It removes files that a crash left although they were archived. One process at a time may have them open.
func Open(ctx context.Context, folder string, archive blob.Store, options Options) (*Logs, error) {
	if options.Limit == 0 {
		options.Limit = DefaultLimit
	}
	l := &Logs{
		folder: folder, archive: archive, limit: options.Limit, logs: map[name]*log{}, closed: make(chan struct{}),
		archiving: make(chan struct{}, 1),
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("log folder %s: %w", folder, err)
	}
	if err := l.sweep(ctx); err != nil {
		return nil, fmt.Errorf("sweep log folder %s: %w", folder, err)
	}
	return l, nil
}

// Close lets go of the files, and ends who follows with [os.ErrClosed].
func (l *Logs) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isClosed() {
		return nil
	}
	close(l.closed)
	var err error
	for _, g := range l.logs {
		g.mu.Lock()
		if g.file != nil {
			err = errors.Join(err, g.file.Close())
			g.file = nil
		}
		g.mu.Unlock()
	}
	return err
}

func (l *Logs) isClosed() bool {
	select {
	case <-l.closed:
		return true
	default:
		return false
	}
}

// Append adds data to the log of a step, where offset says where in the log data begins, in bytes. What the log has
// already is skipped, so that an append may be repeated, and may overlap with earlier ones. Where something between would
// be missing it returns a [GapError], and after [Logs.Finish], unless the log has all of data, [ErrFinished]. When
// it returns nil the data survives the death of the process; only a power cut may take the last seconds.
func (l *Logs) Append(ctx context.Context, job int64, step int, offset int64, data []byte) error {
	g, err := l.acquire(ctx, name{job, step})
	if err != nil {
		return err
	}
	defer l.release(g)
	if err := g.append(offset, data); err != nil {
		if _, ok := errors.AsType[GapError](err); ok || errors.Is(err, ErrFinished) {
			return err
		}
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			return fmt.Errorf("log of job %d, step %d: the disk of %s is full; free some space: %w", job, step, l.folder, err)
		}
		return fmt.Errorf("log of job %d, step %d: %w", job, step, err)
	}
	return nil
}

// Finish says that nothing more will be appended: who follows the log comes to its end. It may be repeated.
func (l *Logs) Finish(ctx context.Context, job int64, step int) error {
	g, err := l.acquire(ctx, name{job, step})
	if err != nil {
		return err
	}
	defer l.release(g)
	return g.finish()
}

// Size returns how long the log is now, in bytes. That is also the offset at which to go on appending.
func (l *Logs) Size(ctx context.Context, job int64, step int) (int64, error) {
	g, err := l.acquire(ctx, name{job, step})
	if err != nil {
		return 0, err
	}
	defer l.release(g)
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.size, nil
}

// Read returns what is in the log now, from offset on; beyond the end there is nothing. The context must last as long as
// it is read, and the reader must be closed.
func (l *Logs) Read(ctx context.Context, job int64, step int, offset int64) (io.ReadCloser, error) {
	g, err := l.acquire(ctx, name{job, step})
	if err != nil {
		return nil, err
	}
	defer l.release(g)
	if offset < 0 {
		return nil, fmt.Errorf("log of job %d, step %d: offset %d is negative", job, step, offset)
	}
	g.mu.Lock()
	size := g.size
	g.mu.Unlock()
	if offset >= size {
		return io.NopCloser(strings.NewReader("")), nil
	}
	src, err := l.source(ctx, g.name)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(src, offset, size-offset), src}, nil
}

// Follow is like [Logs.Read], but at the end of the log the reader waits for more, until the log is finished (io.EOF), ctx
// ends (its error), or the reader or the logs are closed ([os.ErrClosed]). A step that never runs has a log that never
// ends until its job is archived. Readers that are slow hold up nobody. One goroutine may read while another closes.
func (l *Logs) Follow(ctx context.Context, job int64, step int, offset int64) (io.ReadCloser, error) {
	g, err := l.acquire(ctx, name{job, step})
	if err != nil {
		return nil, err
	}
	if offset < 0 {
		l.release(g)
		return nil, fmt.Errorf("log of job %d, step %d: offset %d is negative", job, step, offset)
	}
	return &follower{ctx: ctx, log: g, offset: offset, closed: make(chan struct{})}, nil
}

// Live returns the jobs that have logs which are not archived.
func (l *Logs) Live() ([]int64, error) {
	entries, err := os.ReadDir(l.folder)
	if err != nil {
		return nil, fmt.Errorf("log folder %s: %w", l.folder, err)
	}
	var jobs []int64
	for _, entry := range entries {
		if job, err := strconv.ParseInt(entry.Name(), 10, 64); err == nil && entry.IsDir() {
			jobs = append(jobs, job)
		}
	}
	slices.Sort(jobs)
	return jobs, nil
}

// Archive finishes the logs of a job, moves them to the archive, and removes the live files. Who reads or follows
// meanwhile notices nothing. It may be repeated, also after a crash in the middle.
func (l *Logs) Archive(ctx context.Context, job int64) error {
	unlock, err := l.lockFiles(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	steps, err := l.finishAll(ctx, job)
	if err != nil {
		return fmt.Errorf("archive the logs of job %d: %w", job, err)
	}
	for _, step := range steps {
		if err := l.archiveLog(ctx, name{job, step}); err != nil {
			return fmt.Errorf("archive the log of job %d, step %d: %w", job, step, err)
		}
	}
	return nil
}

// Delete removes the logs of a job, live or archived. It may be repeated.
func (l *Logs) Delete(ctx context.Context, job int64) error {
	unlock, err := l.lockFiles(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := l.finishAll(ctx, job); err != nil {
		return fmt.Errorf("delete the logs of job %d: %w", job, err)
	}
	if err := os.RemoveAll(l.jobFolder(job)); err != nil {
		return fmt.Errorf("delete the logs of job %d: %w", job, err)
	}
	for info, err := range l.archive.List(ctx, archiveFolder(job)) {
		if err == nil {
			err = l.archive.Delete(ctx, info.Key)
		}
		if err != nil {
			return fmt.Errorf("delete the logs of job %d: %w", job, err)
		}
	}
	return nil
}

// lockFiles waits until nobody else archives or deletes.
func (l *Logs) lockFiles(ctx context.Context) (unlock func(), err error) {
	select {
	case l.archiving <- struct{}{}:
		return func() { <-l.archiving }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// finishAll finishes the logs of job, those that are only followed included, and returns the steps that have a file.
func (l *Logs) finishAll(ctx context.Context, job int64) ([]int, error) {
	files, err := l.files(job)
	if err != nil {
		return nil, err
	}
	var steps []int
	for step := range files {
		steps = append(steps, step)
		if err := l.Finish(ctx, job, step); err != nil {
			return nil, err
		}
	}
	l.mu.Lock()
	var followed []*log
	for n, g := range l.logs {
		if n.job == job {
			g.refs++
			followed = append(followed, g)
		}
	}
	l.mu.Unlock()
	for _, g := range followed {
		g.end()
		l.release(g)
	}
	slices.Sort(steps)
	return steps, nil
}

// files returns the steps of job that have a file, and whether that is finished.
func (l *Logs) files(job int64) (map[int]bool, error) {
	entries, err := os.ReadDir(l.jobFolder(job))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	files := map[int]bool{}
	for _, entry := range entries {
		number, extension, _ := strings.Cut(entry.Name(), ".")
		if step, err := strconv.Atoi(number); err == nil && (extension == "log" || extension == "done") {
			files[step] = extension == "done"
		}
	}
	return files, nil
}

// archiveLog moves a finished log to the archive.
func (l *Logs) archiveLog(ctx context.Context, n name) error {
	file, err := os.Open(l.path(n, "done"))
	if err != nil {
		return err
	}
	defer file.Close()
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(compress(w, file))
	}()
	err = l.archive.Put(ctx, archiveKey(n), r)
	r.CloseWithError(errors.Join(err, os.ErrClosed)) // ends the goroutine if Put stopped early
	<-done
	if err != nil {
		return err
	}
	return l.remove(n)
}

// remove removes the live file of a log that is archived, and the job's folder if that was the last.
func (l *Logs) remove(n name) error {
	if err := os.Remove(l.path(n, "done")); err != nil {
		return err
	}
	_ = os.Remove(l.jobFolder(n.job)) // refuses while there is another
	return nil
}

// sweep finishes what a crash interrupted.
func (l *Logs) sweep(ctx context.Context) error {
	jobs, err := l.Live()
	if err != nil {
		return err
	}
	for _, job := range jobs {
		files, err := l.files(job)
		if err != nil {
			return err
		}
		for step, finished := range files {
			n := name{job, step}
			if !finished {
				continue
			}
			_, err := l.archive.Stat(ctx, archiveKey(n))
			if errors.Is(err, blob.ErrNotFound) {
				continue
			}
			if err == nil {
				err = l.remove(n)
			}
			if err != nil {
				return err
			}
		}
		_ = os.Remove(l.jobFolder(job)) // refuses unless it is empty
	}
	return nil
}

func (l *Logs) jobFolder(job int64) string {
	return filepath.Join(l.folder, strconv.FormatInt(job, 10))
}

// path returns the path of a live file; its extension is "log" while it may grow, and "done" afterwards.
func (l *Logs) path(n name, extension string) string {
	return filepath.Join(l.jobFolder(n.job), strconv.Itoa(n.step)+"."+extension)
}

// archiveFolder spreads jobs over folders of a thousand.
func archiveFolder(job int64) string { return fmt.Sprintf("logs/%d/%d/", job/1000, job) }

func archiveKey(n name) string { return archiveFolder(n.job) + strconv.Itoa(n.step) + ".gz" }

// source is a log that is read at any offset.
type source interface {
	io.ReaderAt
	io.Closer
}

// source opens a log that is known not to be empty. A log moves only forward from one place to the next, so looking in
// that order finds it.
func (l *Logs) source(ctx context.Context, n name) (source, error) {
	for _, extension := range []string{"log", "done"} {
		file, err := os.Open(l.path(n, extension))
		if err == nil {
			return file, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return openArchived(ctx, l.archive, archiveKey(n))
}
