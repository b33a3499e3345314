package runner

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/protocol"
)

// A journal is the record of one job on the runner's disk. Events are appended to it as they happen; send delivers them
// to the server, in order, and starts again where an earlier process stopped. Its folder holds
//
//	lease    the lease's token
//	events   one JSON message a line: a protocol.Event, or a protocol.Outcome at the very end
//	sent     how many bytes of events the server has
//
// Its methods may be called concurrently.
type journal struct {
	dir string
	now func() time.Time

	mu    sync.Mutex
	file  *os.File
	size  int64 // bytes written to file
	seq   int64 // of the last event
	steps map[int]*stepRecord
	// outcome is the end of the job, once it is known.
	outcome *protocol.Outcome
	// wake has room for one signal that there is more to send.
	wake chan struct{}
}

// stepRecord is how far a step is, by its journal.
type stepRecord struct {
	started bool
	end     *protocol.StepEnd
	// logged is the size of the step's masked output, raw that of the unmasked output it stands for.
	logged, raw int64
	// images are what the step pushed.
	images []ci.Image
}

// line is one line of the events file.
type line struct {
	*protocol.Event
	Outcome *protocol.Outcome `json:"outcome,omitempty"`
}

func (l *line) decode(data []byte) error {
	if err := json.Unmarshal(data, l); err != nil {
		return err
	}
	if l.Event == nil && l.Outcome == nil {
		return errors.New("the line is neither an event nor an outcome")
	}
	return nil
}

// createJournal makes the journal of a newly claimed job. The lease is written first: from then on a restarted runner
// knows of the job.
func createJournal(dir, lease string, now func() time.Time) (*journal, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the job's folder: %w", err)
	}
	if err := writeFile(filepath.Join(dir, "lease"), lease); err != nil {
		return nil, fmt.Errorf("keep the job's lease: %w", err)
	}
	return openJournal(dir, now)
}

// openJournal reads the journal in dir. A last line that a crash cut off is dropped: its event was never sent.
func openJournal(dir string, now func() time.Time) (*journal, error) {
	file, err := os.OpenFile(filepath.Join(dir, "events"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the job's journal: %w", err)
	}
	j := &journal{dir: dir, now: now, file: file, steps: map[int]*stepRecord{}, wake: make(chan struct{}, 1)}
	r := bufio.NewReader(file)
	for {
		data, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		var l line
		if err == nil {
			err = l.decode(data)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("read the job's journal %s at byte %d: %w", file.Name(), j.size, err), file.Close())
		}
		j.size += int64(len(data))
		j.note(l)
	}
	if err := file.Truncate(j.size); err != nil {
		return nil, errors.Join(fmt.Errorf("cut the job's journal: %w", err), file.Close())
	}
	if _, err := file.Seek(j.size, io.SeekStart); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return j, nil
}

// note keeps the state that the lines amount to.
func (j *journal) note(l line) {
	if l.Outcome != nil {
		j.outcome = l.Outcome
		return
	}
	e := l.Event
	j.seq = e.Seq
	switch {
	case e.Start != nil:
		j.record(e.Start.Step).started = true
	case e.Log != nil:
		r := j.record(e.Log.Step)
		r.logged = e.Log.Offset + int64(len(e.Log.Data))
		r.raw = e.Log.Raw
	case e.End != nil:
		j.record(e.End.Step).end = e.End
	case e.Image != nil:
		r := j.record(e.Image.Step)
		r.images = append(r.images, e.Image.Image)
	}
}

func (j *journal) record(step int) *stepRecord {
	r := j.steps[step]
	if r == nil {
		r = &stepRecord{}
		j.steps[step] = r
	}
	return r
}

// step returns how far a step is.
func (j *journal) step(number int) stepRecord {
	j.mu.Lock()
	defer j.mu.Unlock()
	return *j.record(number)
}

// lease returns the token that the journal's job was claimed with.
func (j *journal) lease() (string, error) {
	data, err := os.ReadFile(filepath.Join(j.dir, "lease"))
	if err != nil {
		return "", fmt.Errorf("read the job's lease: %w", err)
	}
	return string(data), nil
}

// add appends an event; its number and time are set here.
func (j *journal) add(e protocol.Event) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	e.Seq, e.Time = j.seq+1, j.now()
	return j.write(line{Event: &e})
}

// finish appends the outcome. Nothing may be added after it.
func (j *journal) finish(o protocol.Outcome) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.write(line{Outcome: &o})
}

func (j *journal) write(l line) error {
	data, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("encode an event: %w", err)
	}
	data = append(data, '\n')
	if _, err := j.file.WriteAt(data, j.size); err != nil {
		return fmt.Errorf("write the job's journal: %w", err)
	}
	j.size += int64(len(data))
	j.note(l)
	select {
	case j.wake <- struct{}{}:
	default:
	}
	return nil
}

// send delivers the journal to server until the outcome is delivered, and returns nil then. Before that it returns only
// when ctx is done, with what the server has against it, such as [protocol.ErrLeaseLost], or if it cannot be read. A server that does not answer is asked again, ever more slowly.
func (j *journal) send(ctx context.Context, server protocol.Server, lease string) error {
	sentPath := filepath.Join(j.dir, "sent")
	sent := readOffset(sentPath)
	if j.mu.Lock(); sent > j.size { // the machine died and the disk lost the journal's end
		sent = 0
	}
	j.mu.Unlock()
	for {
		events, outcome, next, err := j.batch(sent)
		if err != nil {
			return err
		}
		if len(events) > 0 {
			if err := retry(ctx, func() error { return server.Append(ctx, lease, events) }); err != nil {
				return err
			}
			sent = next
			// Losing this file, on a full disk for example, costs only that a next process sends known events again.
			_ = writeFile(sentPath, strconv.FormatInt(sent, 10))
			continue
		}
		if outcome != nil {
			return retry(ctx, func() error { return server.Finish(ctx, lease, *outcome) })
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-j.wake:
		}
	}
}

// maxBatch is how many bytes of events one message carries at most; base64 and JSON make it no larger than
// protocol.MaxBody.
const maxBatch = 4 << 20

// batch reads events from byte offset on, as many as one message may carry, and says where the next batch starts. The
// outcome is returned only when nothing is left before it.
func (j *journal) batch(offset int64) (events []protocol.Event, outcome *protocol.Outcome, next int64, err error) {
	j.mu.Lock()
	size := j.size
	j.mu.Unlock()
	r := bufio.NewReader(io.NewSectionReader(j.file, offset, size-offset))
	next = offset
	for next-offset < maxBatch && len(events) < protocol.MaxEvents {
		data, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return events, outcome, next, nil
		}
		var l line
		if err == nil {
			err = l.decode(data)
		}
		if err != nil {
			return nil, nil, 0, fmt.Errorf("read the job's journal at byte %d: %w", next, err)
		}
		if l.Outcome != nil {
			return events, l.Outcome, next, nil
		}
		events = append(events, *l.Event)
		next += int64(len(data))
	}
	return events, nil, next, nil
}

// remove deletes the journal: the server has it all, or does not want it.
func (j *journal) remove() error {
	return errors.Join(j.file.Close(), os.RemoveAll(j.dir))
}

// retry calls f until it succeeds, until it fails with something that trying again cannot mend, or until ctx is done.
func retry(ctx context.Context, f func() error) error {
	const first, longest = 100 * time.Millisecond, 10 * time.Second
	for wait := first; ; wait = min(2*wait, longest) {
		err := f()
		if err == nil || !worthRetry(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// worthRetry is false where the server has answered, and would answer the same again.
func worthRetry(err error) bool {
	if errors.Is(err, protocol.ErrLeaseLost) {
		return false
	}
	code := fault.Of(err).Code
	return code == fault.Unavailable || code == fault.Internal
}

func readOffset(path string) int64 {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(string(bytes.TrimSpace(data)), 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// writeFile replaces a small file in one move.
func writeFile(path, content string) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, []byte(content), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}
