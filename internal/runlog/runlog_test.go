package runlog

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"slipway/internal/blob"
	"slipway/internal/testneeds"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// place is where logs are, across restarts.
type place struct {
	folder string
	blobs  *blob.Dir
	limit  int64
}

func newPlace(t testing.TB) *place {
	t.Helper()
	blobs, err := blob.OpenDir(filepath.Join(t.TempDir(), "blobs"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { check(t, blobs.Close()) })
	return &place{folder: filepath.Join(t.TempDir(), "logs"), blobs: blobs}
}

// open opens the logs as a new process would: what was opened before is not closed, as after kill -9.
func (p *place) open(t testing.TB) *Logs {
	t.Helper()
	l, err := Open(t.Context(), p.folder, p.blobs, Options{Limit: p.limit})
	check(t, err)
	t.Cleanup(func() { check(t, l.Close()) })
	return l
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func appendString(t testing.TB, l *Logs, job int64, step int, offset int64, s string) {
	t.Helper()
	check(t, l.Append(t.Context(), job, step, offset, []byte(s)))
}

func read(t testing.TB, l *Logs, job int64, step int, offset int64) string {
	t.Helper()
	r, err := l.Read(t.Context(), job, step, offset)
	check(t, err)
	content, err := io.ReadAll(r)
	check(t, errors.Join(err, r.Close()))
	return string(content)
}

func want(t testing.TB, l *Logs, job int64, step int, content string) {
	t.Helper()
	if got := read(t, l, job, step, 0); got != content {
		t.Fatalf("log is %.100q, want %.100q", got, content)
	}
	size, err := l.Size(t.Context(), job, step)
	check(t, err)
	if size != int64(len(content)) {
		t.Fatalf("size is %d, want %d", size, len(content))
	}
	for _, offset := range []int64{size / 2, size - 1, size, size + 1} {
		if offset < 0 {
			continue
		}
		if got := read(t, l, job, step, offset); got != content[min(offset, size):] {
			t.Fatalf("from %d on the log is %.100q", offset, got)
		}
	}
}

func TestAppend(t *testing.T) {
	l := newPlace(t).open(t)
	want(t, l, 1, 1, "")
	appendString(t, l, 1, 1, 0, "hello ")
	appendString(t, l, 1, 1, 6, "world\n")
	appendString(t, l, 1, 1, 0, "hello ")      // again
	appendString(t, l, 1, 1, 3, "lo world\nX") // overlaps
	appendString(t, l, 1, 1, 13, "")
	want(t, l, 1, 1, "hello world\nX")
	want(t, l, 1, 2, "")
	want(t, l, 11, 1, "")

	err := l.Append(t.Context(), 1, 1, 14, []byte("gap"))
	if gap, ok := errors.AsType[GapError](err); !ok || gap.Size != 13 {
		t.Fatalf("error is %v, want a gap at 13", err)
	}
	for _, bad := range []error{
		l.Append(t.Context(), 1, 1, -1, []byte("x")), l.Append(t.Context(), -1, 1, 0, nil), l.Append(t.Context(), 1, -1, 0, nil),
	} {
		if bad == nil {
			t.Error("a negative number was accepted")
		}
	}
	if _, err := l.Read(t.Context(), 1, 1, -1); err == nil {
		t.Error("a negative offset was read")
	}
	if _, err := l.Follow(t.Context(), 1, 1, -1); err == nil {
		t.Error("a negative offset was followed")
	}
	want(t, l, 1, 1, "hello world\nX")
}

func TestFinish(t *testing.T) {
	p := newPlace(t)
	l := p.open(t)
	appendString(t, l, 1, 1, 0, "all")
	for range 2 {
		check(t, l.Finish(t.Context(), 1, 1))
		check(t, l.Finish(t.Context(), 1, 2)) // which said nothing
	}
	for _, l := range []*Logs{l, p.open(t)} {
		appendString(t, l, 1, 1, 1, "ll") // a replay
		if err := l.Append(t.Context(), 1, 1, 3, []byte("more")); !errors.Is(err, ErrFinished) {
			t.Fatalf("error is %v", err)
		}
		if err := l.Append(t.Context(), 1, 2, 0, []byte("more")); !errors.Is(err, ErrFinished) {
			t.Fatalf("error is %v", err)
		}
		want(t, l, 1, 1, "all")
	}
}

func TestRestart(t *testing.T) {
	p := newPlace(t)
	appendString(t, p.open(t), 7, 3, 0, "one\n")
	l := p.open(t)
	want(t, l, 7, 3, "one\n")
	appendString(t, l, 7, 3, 0, "one\ntwo\n")
	want(t, p.open(t), 7, 3, "one\ntwo\n")
	jobs, err := l.Live()
	check(t, err)
	if len(jobs) != 1 || jobs[0] != 7 {
		t.Fatalf("live jobs are %v", jobs)
	}
}

func TestLimit(t *testing.T) {
	p := newPlace(t)
	p.limit = 10
	const line = "\n[slipway] the output of this step is longer than 10 bytes; the rest is not kept\n"
	l := p.open(t)
	appendString(t, l, 1, 1, 0, "0123456789")
	want(t, l, 1, 1, "0123456789")
	appendString(t, l, 1, 1, 8, "89")
	want(t, l, 1, 1, "0123456789")
	appendString(t, l, 1, 2, 0, "0123456789abc")
	for _, l := range []*Logs{l, p.open(t)} {
		want(t, l, 1, 2, "0123456789"+line)
		appendString(t, l, 1, 2, 13, "more")
		appendString(t, l, 1, 2, 1<<30, "more")
		want(t, l, 1, 2, "0123456789"+line)
	}
	// A crash in the middle of that line.
	for _, size := range []int64{11, int64(9 + len(line))} {
		check(t, os.Truncate(filepath.Join(p.folder, "1", "2.log"), size))
		want(t, p.open(t), 1, 2, "0123456789"+line)
	}
	if got := truncated(DefaultLimit); !strings.Contains(got, "longer than 512 MiB;") {
		t.Error(got)
	}
}

// text returns n bytes of lines that compress neither too well nor not at all.
func text(n int) string {
	random := rand.New(rand.NewPCG(1, 2))
	var b strings.Builder
	for b.Len() < n {
		fmt.Fprintf(&b, "line %d %x\n", b.Len(), random.Uint64())
	}
	return b.String()[:n]
}

func TestArchive(t *testing.T) {
	p := newPlace(t)
	l := p.open(t)
	contents := map[int]string{1: "short\n", 2: "", 3: text(chunkSize + 17), 4: text(chunkSize), 5: text(5000)}
	for step, content := range contents {
		appendString(t, l, 1234, step, 0, content)
	}
	check(t, l.Finish(t.Context(), 1234, 2))
	appendString(t, l, 5, 1, 0, "another job")
	check(t, l.Archive(t.Context(), 1234))
	check(t, l.Archive(t.Context(), 1234))
	check(t, l.Archive(t.Context(), 999)) // which has no logs
	jobs, err := l.Live()
	check(t, err)
	if len(jobs) != 1 || jobs[0] != 5 {
		t.Fatalf("live jobs are %v", jobs)
	}
	for _, l := range []*Logs{l, p.open(t)} {
		for step, content := range contents {
			want(t, l, 1234, step, content)
			appendString(t, l, 1234, step, 0, content)
			if err := l.Append(t.Context(), 1234, step, int64(len(content)), []byte("x")); !errors.Is(err, ErrFinished) {
				t.Fatalf("append to an archived log: %v", err)
			}
		}
	}
	// Any gzip reads it.
	b, err := p.blobs.Open(t.Context(), "logs/1/1234/3.gz")
	check(t, err)
	defer b.Close()
	zip, err := gzip.NewReader(b)
	check(t, err)
	plain, err := io.ReadAll(zip)
	check(t, err)
	if string(plain) != contents[3] || b.Size() > int64(len(plain))*3/4 {
		t.Fatalf("%d bytes unpack to %d", b.Size(), len(plain))
	}
	check(t, l.Delete(t.Context(), 1234))
	check(t, l.Delete(t.Context(), 5))
	check(t, l.Delete(t.Context(), 5))
	for _, job := range []int64{1234, 5} {
		want(t, l, job, 1, "")
	}
	for info := range p.blobs.List(t.Context(), "") {
		t.Errorf("%s is left", info.Key)
	}
}

func TestArchiveCrash(t *testing.T) {
	p := newPlace(t)
	l := p.open(t)
	appendString(t, l, 1, 1, 0, "one")
	appendString(t, l, 1, 2, 0, "two")
	check(t, l.Finish(t.Context(), 1, 1))
	check(t, l.Finish(t.Context(), 1, 2))
	// It died after the first blob was put, before the file was removed.
	file := filepath.Join(p.folder, "1", "1.done")
	content, err := os.ReadFile(file)
	check(t, err)
	check(t, l.archiveLog(t.Context(), name{1, 1}))
	check(t, os.WriteFile(file, content, 0o600))

	l = p.open(t)
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file of an archived log is still there: %v", err)
	}
	want(t, l, 1, 1, "one")
	want(t, l, 1, 2, "two")
	check(t, l.Archive(t.Context(), 1))
	want(t, l, 1, 1, "one")
	want(t, l, 1, 2, "two")
}

// failing is an archive that is broken, or too slow.
type failing struct {
	blob.Store
	err error
}

func (f failing) Put(ctx context.Context, key string, r io.Reader) error {
	_, _ = io.CopyN(io.Discard, r, 10)
	return f.err
}

func TestArchiveFails(t *testing.T) {
	p := newPlace(t)
	broken := errors.New("broken")
	l, err := Open(t.Context(), p.folder, failing{p.blobs, broken}, Options{})
	check(t, err)
	content := text(chunkSize + 1)
	appendString(t, l, 1, 1, 0, content)
	if err := l.Archive(t.Context(), 1); !errors.Is(err, broken) {
		t.Fatalf("error is %v", err)
	}
	want(t, l, 1, 1, content)
	check(t, l.Close())
	l = p.open(t)
	check(t, l.Archive(t.Context(), 1))
	want(t, l, 1, 1, content)
}

func TestDamagedArchive(t *testing.T) {
	p := newPlace(t)
	l := p.open(t)
	appendString(t, l, 1, 1, 0, text(chunkSize+5))
	check(t, l.Archive(t.Context(), 1))
	var packed bytes.Buffer
	check(t, compress(&packed, strings.NewReader(text(chunkSize+5))))
	for name, damage := range map[string]func([]byte) []byte{
		"empty":       func(b []byte) []byte { return nil },
		"cut":         func(b []byte) []byte { return b[:len(b)-3] },
		"no index":    func(b []byte) []byte { return b[:len(b)-60] },
		"cut before":  func(b []byte) []byte { return b[100:] },
		"a bit":       func(b []byte) []byte { b[1000] ^= 1; return b },
		"not a log":   func(b []byte) []byte { return bytes.Repeat([]byte("x"), 1000) },
		"many chunks": func(b []byte) []byte { copy(b[len(b)-14:], "\xff\xff\xff\xff"); return b },
	} {
		check(t, p.blobs.Put(t.Context(), "logs/0/1/1.gz", bytes.NewReader(damage(bytes.Clone(packed.Bytes())))))
		r, err := l.Read(t.Context(), 1, 1, 0)
		if err == nil {
			_, err = io.ReadAll(r)
			check(t, r.Close())
		}
		if !errors.Is(err, errNotArchive) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}

func TestFollow(t *testing.T) {
	p := newPlace(t)
	l := p.open(t)
	appendString(t, l, 1, 1, 0, "one\n")
	all, err := l.Follow(t.Context(), 1, 1, 0)
	check(t, err)
	defer all.Close()
	later, err := l.Follow(t.Context(), 1, 1, 4) // from what is not there yet
	check(t, err)
	defer later.Close()
	next := func(r io.Reader, want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
			t.Fatalf("read %q, %v; want %q", got, err, want)
		}
	}
	next(all, "one\n")
	appendString(t, l, 1, 1, 4, "two\n")
	next(all, "two\n")
	next(later, "two\n")
	appendString(t, l, 1, 1, 8, "three\n")
	check(t, l.Archive(t.Context(), 1)) // follows on into the archive
	for _, r := range []io.Reader{all, later} {
		rest, err := io.ReadAll(r)
		if err != nil || string(rest) != "three\n" {
			t.Fatalf("read %q, %v", rest, err)
		}
	}
	fresh, err := l.Follow(t.Context(), 1, 1, 2)
	check(t, err)
	defer fresh.Close()
	if rest, err := io.ReadAll(fresh); err != nil || string(rest) != "e\ntwo\nthree\n" {
		t.Fatalf("read %q, %v", rest, err)
	}
	if len(l.logs) != 1 || all.Close() != nil || later.Close() != nil || fresh.Close() != nil || len(l.logs) != 0 {
		t.Fatalf("%d logs stay in memory", len(l.logs))
	}
}

// What ends a reader that waits.
func TestFollowEnds(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(t *testing.T, l *Logs, r io.Closer, cancel func()) error
		want error
	}{
		"finish":  {func(t *testing.T, l *Logs, _ io.Closer, _ func()) error { return l.Finish(t.Context(), 1, 1) }, nil},
		"archive": {func(t *testing.T, l *Logs, _ io.Closer, _ func()) error { return l.Archive(t.Context(), 1) }, nil},
		"delete":  {func(t *testing.T, l *Logs, _ io.Closer, _ func()) error { return l.Delete(t.Context(), 1) }, nil},
		"context": {func(_ *testing.T, _ *Logs, _ io.Closer, cancel func()) error { cancel(); return nil }, context.Canceled},
		"close":   {func(_ *testing.T, _ *Logs, r io.Closer, _ func()) error { return r.Close() }, os.ErrClosed},
		"logs":    {func(_ *testing.T, l *Logs, _ io.Closer, _ func()) error { return l.Close() }, os.ErrClosed},
	} {
		for _, appended := range []string{"", "something"} {
			t.Run(name+" "+appended, func(t *testing.T) {
				l := newPlace(t).open(t)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if appended != "" {
					appendString(t, l, 1, 1, 0, appended)
				}
				r, err := l.Follow(ctx, 1, 1, 0)
				check(t, err)
				defer r.Close()
				if _, err := io.CopyN(io.Discard, r, int64(len(appended))); err != nil {
					t.Fatal(err)
				}
				result := make(chan error)
				go func() {
					n, err := r.Read(make([]byte, 1))
					if errors.Is(err, io.EOF) && n == 0 {
						err = nil
					} else if err == nil {
						err = fmt.Errorf("read %d bytes", n)
					}
					result <- err
				}()
				check(t, tt.end(t, l, r, cancel))
				if err := <-result; !errors.Is(err, tt.want) {
					t.Fatalf("the reader ended with %v, want %v", err, tt.want)
				}
			})
		}
	}
}

// Everything at once: many write (each append twice, as a runner that is not sure), many follow, all is archived in the
// middle of it.
func TestConcurrent(t *testing.T) {
	p := newPlace(t)
	l := p.open(t)
	const jobs, steps, followers = 3, 4, 5
	content := text(100_000)
	var group errgroup.Group
	for job := range int64(jobs) {
		var written sync.WaitGroup
		for step := range steps {
			written.Add(1)
			group.Go(func() error {
				defer written.Done()
				random := rand.New(rand.NewPCG(uint64(job), uint64(step)))
				for offset := 0; offset < len(content); {
					end := min(offset+1+random.IntN(5000), len(content))
					var both errgroup.Group
					for range 2 {
						both.Go(func() error {
							return l.Append(t.Context(), job, step, int64(offset), []byte(content[offset:end]))
						})
					}
					if err := both.Wait(); err != nil {
						return err
					}
					offset = end
				}
				return l.Finish(t.Context(), job, step)
			})
			for i := range followers {
				group.Go(func() error {
					from := i * 1000
					r, err := l.Follow(t.Context(), job, step, int64(from))
					if err != nil {
						return err
					}
					got, err := io.ReadAll(r)
					if err == nil && string(got) != content[from:] {
						err = fmt.Errorf("a follower of job %d, step %d read %d bytes that differ", job, step, len(got))
					}
					return errors.Join(err, r.Close())
				})
			}
		}
		for range 2 {
			group.Go(func() error {
				written.Wait()
				return l.Archive(t.Context(), job)
			})
		}
	}
	check(t, group.Wait())
	for job := range int64(jobs) {
		for step := range steps {
			want(t, l, job, step, content)
		}
	}
	if live, err := l.Live(); err != nil || len(live) != 0 || len(l.logs) != 0 {
		t.Fatalf("live are %v, %v; in memory are %d", live, err, len(l.logs))
	}
}

func TestFullDisk(t *testing.T) {
	testneeds.Root(t)
	p := newPlace(t)
	check(t, os.MkdirAll(p.folder, 0o700))
	if err := syscall.Mount("tmpfs", p.folder, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatalf("mount a small file system: %v", err)
	}
	t.Cleanup(func() { check(t, syscall.Unmount(p.folder, syscall.MNT_DETACH)) })
	l := p.open(t)
	appendString(t, l, 1, 1, 0, "first\n")
	check(t, os.WriteFile(filepath.Join(p.folder, "ballast"), make([]byte, 40<<10), 0o600))
	content := text(50_000)
	err := l.Append(t.Context(), 1, 1, 6, []byte(content))
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "log of job 1, step 1: the disk of") {
		t.Fatalf("error is %v", err)
	}
	want(t, l, 1, 1, "first\n")
	check(t, os.Remove(filepath.Join(p.folder, "ballast")))
	appendString(t, l, 1, 1, 6, content)
	want(t, l, 1, 1, "first\n"+content)
}

// FuzzAppend appends parts of one text at any offsets, with restarts, and holds the log to a model.
func FuzzAppend(f *testing.F) {
	f.Add([]byte{0, 5, 5, 5, 3, 9, 200, 1, 255, 0, 0, 50}, int64(0))
	f.Add([]byte{0, 200, 100, 200, 255, 255}, int64(100))
	content := text(600)
	f.Fuzz(func(t *testing.T, ops []byte, limit int64) {
		if limit < 0 || limit > 1000 || len(ops) > 60 {
			t.Skip()
		}
		blobs, err := blob.OpenDir(t.TempDir())
		check(t, err)
		defer blobs.Close()
		p := &place{folder: t.TempDir(), blobs: blobs, limit: limit}
		l := p.open(t)
		model := ""
		for len(ops) >= 2 {
			offset, length := int(ops[0]), int(ops[1])
			ops = ops[2:]
			if offset == 255 {
				check(t, l.Close())
				l = p.open(t)
				continue
			}
			err := l.Append(t.Context(), 1, 1, int64(offset), []byte(content[offset:offset+length]))
			switch {
			case limit > 0 && int64(len(model)) > limit: // full: anything goes
				check(t, err)
			case offset > len(model):
				if gap, ok := errors.AsType[GapError](err); !ok || gap.Size != int64(len(model)) {
					t.Fatalf("append at %d to %d bytes: %v", offset, len(model), err)
				}
			default:
				check(t, err)
				if offset+length > len(model) {
					model = content[:offset+length]
					if limit > 0 && int64(len(model)) > limit {
						model = content[:limit] + truncated(limit)
					}
				}
			}
			want(t, l, 1, 1, model)
		}
		check(t, l.Archive(t.Context(), 1))
		want(t, l, 1, 1, model)
	})
}

func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{100, 32 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			l := newPlace(b).open(b)
			data := []byte(text(size))
			b.SetBytes(int64(size))
			var job, offset int64
			for b.Loop() {
				if offset > DefaultLimit-int64(size) {
					job, offset = job+1, 0
				}
				check(b, l.Append(b.Context(), job, 1, offset, data))
				offset += int64(size)
			}
		})
	}
}

func BenchmarkArchive(b *testing.B) {
	l := newPlace(b).open(b)
	data := text(16 << 20)
	b.SetBytes(int64(len(data)))
	for job := int64(0); b.Loop(); job++ {
		b.StopTimer()
		appendString(b, l, job, 1, 0, data)
		b.StartTimer()
		check(b, l.Archive(b.Context(), job))
	}
}
