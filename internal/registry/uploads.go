package registry

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"slipway/internal/store"
)

// uploads are the running hashes of open uploads, and who has which in hand. The bytes are on disk: what is forgotten
// here, by a restart say, is hashed again from there.
type uploads struct {
	mu   sync.Mutex
	open map[string]*session
}

// session is an upload in the hands of this process.
type session struct {
	// turn holds one token; who takes it may use the rest.
	turn chan struct{}
	// users counts requests that have or want the turn, under uploads.mu.
	users int
	// sum is the hash of all bytes so far, in algorithm; nil if it is not known.
	sum       hash.Hash
	algorithm string
}

// maxSessions is how many running hashes are kept. Beyond it they are hashed from disk.
const maxSessions = 4096

// upload is a session taken by one request, with its file.
type upload struct {
	*session
	id, path string
	file     *os.File
	size     int64
	// begun is how many bytes the disk was told to write.
	begun int64
}

// errBusy says that another request has the upload.
var errBusy = errors.New("another request is writing to this upload")

// newUpload makes an upload, and takes it.
func (h *Handler) newUpload(repository, algorithm string) (*upload, error) {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80 // RFC 9562, version 4
	x := hex.EncodeToString(b[:])
	id := x[:8] + "-" + x[8:12] + "-" + x[12:16] + "-" + x[16:20] + "-" + x[20:]
	path := h.disk.uploadPath(repository, id)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	s := h.uploads.session(path)
	<-s.turn
	s.sum, s.algorithm = newHash(algorithm), algorithm
	return &upload{session: s, id: id, path: path, file: f}, nil
}

// takeUpload waits a while for its turn at an upload.
func (h *Handler) takeUpload(ctx context.Context, repository, id string) (*upload, error) {
	unknown := fail(http.StatusNotFound, codeBlobUploadUnknown, "%s has no upload %.40q; it was closed, cancelled or left for too long", repository, id)
	if !validUpload(id) {
		return nil, unknown
	}
	path := h.disk.uploadPath(repository, id)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, unknown
	}
	s := h.uploads.session(path)
	ctx, cancel := context.WithTimeoutCause(ctx, h.stallTime/4, errBusy)
	defer cancel()
	select {
	case <-s.turn:
	case <-ctx.Done():
		h.uploads.release(path, s, false)
		if errors.Is(context.Cause(ctx), errBusy) {
			return nil, fail(http.StatusTooManyRequests, codeTooManyRequests, "%v", errBusy)
		}
		return nil, ctx.Err()
	}
	u := &upload{session: s, id: id, path: path}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
	if err == nil {
		u.file = f
		u.size, err = f.Seek(0, io.SeekEnd)
	}
	if err != nil {
		gone := errors.Is(err, fs.ErrNotExist) // closed while this request waited
		h.dropUpload(u, gone)
		if gone {
			return nil, unknown
		}
		return nil, err
	}
	return u, nil
}

// dropUpload lets the next one have the upload, or, if gone, removes what is left of it. Calling it again does nothing.
func (h *Handler) dropUpload(u *upload, gone bool) {
	if u.session == nil {
		return
	}
	if u.file != nil {
		_ = u.file.Close() // what counts was synced
	}
	if gone {
		_ = os.Remove(u.path) // renamed already, or Sweep will try again
	}
	s := u.session
	u.session = nil
	s.turn <- struct{}{}
	h.uploads.release(u.path, s, gone)
}

// session returns the session of that path for one more user.
func (u *uploads) session(path string) *session {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := u.open[path]
	if s == nil {
		s = &session{turn: make(chan struct{}, 1)}
		s.turn <- struct{}{}
		if u.open == nil {
			u.open = map[string]*session{}
		}
		u.open[path] = s
	}
	s.users++
	return s
}

// release gives a session back. It is forgotten if it is gone, or if there are too many.
func (u *uploads) release(path string, s *session, gone bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	s.users--
	if s.users == 0 && (gone || s.sum == nil || len(u.open) > maxSessions) {
		delete(u.open, path)
	}
}

// forget drops the sessions that nobody uses and keep does not hold for.
func (u *uploads) forget(keep func(path string) bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for path, s := range u.open {
		if s.users == 0 && !keep(path) {
			delete(u.open, path)
		}
	}
}

// Sweep removes uploads that have rested for longer than Options.UploadAge and returns how many. Call it every hour or
// so; it is safe beside uploads that go on. It keeps the mirror's quota, too.
func (h *Handler) Sweep(ctx context.Context) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	then := h.now().Add(-h.uploadAge)
	n, err := h.disk.sweep(ctx, then)
	if h.blobs != storage(h.disk) {
		more, failed := h.blobs.sweep(ctx, then)
		n, err = n+more, errors.Join(err, failed)
	}
	h.uploads.forget(func(path string) bool {
		_, err := os.Stat(path)
		return err == nil
	})
	if h.cache.Quota > 0 {
		_, full := h.evict(ctx, h.cache.Quota)
		err = errors.Join(err, full)
	}
	return n, err
}

// setReadDeadline bounds a read of the body. Where w has no deadlines, as behind some wrappers, the server's own must do.
func setReadDeadline(rc *http.ResponseController, t time.Time) { _ = rc.SetReadDeadline(t) }

var copyBuffers = sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}

// receive appends the body to the upload and to its hash. What arrived before an error stays, for the client to go on
// from; only when it cannot be written is the upload given up.
//
// have is the digest that the client says the blob has, if it does: no quota keeps out what the repository has already.
func (h *Handler) receive(w http.ResponseWriter, r *http.Request, u *upload, repository string, have digest) error {
	if r.ContentLength > h.maxBlob-u.size {
		return fail(http.StatusRequestEntityTooLarge, codeSizeInvalid, "a blob may have at most %d bytes", h.maxBlob)
	}
	bounded, err := h.bounded(r.Context(), repository, have)
	if err != nil {
		return err
	}
	// It is asked before there are more bytes than that.
	room := u.size
	if bounded && r.ContentLength > 0 {
		room += r.ContentLength
		if err := h.checkQuota(r.Context(), u, repository, room); err != nil {
			h.dropUpload(u, true)
			return err
		}
	}
	rc := http.NewResponseController(w)
	// The deadline must not hit what comes after the body.
	defer setReadDeadline(rc, time.Time{})
	buffer, other := copyBuffers.Get().(*[]byte), copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buffer)
	defer copyBuffers.Put(other)
	// A client that has gone away leaves what arrived.
	ctx := context.WithoutCancel(r.Context())
	// What was read is hashed while it is written and more is read, into the other buffer.
	var hashing sync.WaitGroup
	defer hashing.Wait()
	sum := u.sum
	for {
		n, err := h.fill(rc, r.Body, *buffer)
		if n > 0 {
			if u.size+int64(n) > h.maxBlob {
				h.dropUpload(u, true)
				return fail(http.StatusRequestEntityTooLarge, codeSizeInvalid, "a blob may have at most %d bytes", h.maxBlob)
			}
			if bounded && u.size+int64(n) > room {
				if err := h.checkQuota(ctx, u, repository, u.size+int64(n)); err != nil {
					h.dropUpload(u, true)
					return err
				}
				room = u.size + quotaStep
			}
			chunk := (*buffer)[:n]
			hashing.Wait()
			if sum != nil {
				hashing.Go(func() { sum.Write(chunk) })
			}
			if _, err := u.file.Write(chunk); err != nil {
				h.dropUpload(u, true)
				return fmt.Errorf("write an upload: %w", err)
			}
			u.size += int64(n)
			u.writeBack()
			buffer, other = other, buffer
		}
		if errors.Is(err, io.EOF) {
			if bounded && room > u.size { // what came since the last question has not been asked about
				if err := h.checkQuota(ctx, u, repository, u.size); err != nil {
					h.dropUpload(u, true)
					return err
				}
			}
			return nil
		}
		if err != nil {
			return fail(http.StatusBadRequest, codeSizeInvalid, "the body ended before its time, after %d bytes of the upload: %v", u.size, err)
		}
	}
}

// writeBackStep is after how many bytes more the disk begins to write them.
const writeBackStep = 8 << 20

// writeBack lets the disk write what came while more comes, so that the sync at the end has little left to wait for. Where
// that is not possible it waits longer.
func (u *upload) writeBack() {
	if n := u.size - u.begun; n >= writeBackStep {
		_ = unix.SyncFileRange(int(u.file.Fd()), u.begun, n, unix.SYNC_FILE_RANGE_WRITE)
		u.begun = u.size
	}
}

// fill reads until the buffer is full or the body ends or pauses for too long. Whole buffers, one after the other, let the
// kernel keep the file in large pieces, which it sends faster.
func (h *Handler) fill(rc *http.ResponseController, body io.Reader, buffer []byte) (n int, err error) {
	for n < len(buffer) && err == nil {
		setReadDeadline(rc, time.Now().Add(h.stallTime))
		var more int
		more, err = body.Read(buffer[n:])
		n += more
	}
	return n, err
}

// quotaStep is how far beyond a quota a body of unknown length may go, in bytes, before it is noticed.
const quotaStep = 32 << 20

// bounded reports whether quotas count for a blob of that digest, which may be empty.
func (h *Handler) bounded(ctx context.Context, repository string, d digest) (bool, error) {
	holds, err := h.store.HasQuota(ctx, repository)
	if !holds || err != nil || d == (digest{}) {
		return holds, err
	}
	_, err = h.store.FindBlob(ctx, repository, d.String())
	if errors.Is(err, store.ErrNotFound) {
		return true, nil
	}
	return false, err
}

// checkQuota says *store.QuotaError if the repository has no room for the upload when it has that size. The other uploads of
// its repo count: nobody fills the disk by beginning many.
func (h *Handler) checkQuota(ctx context.Context, u *upload, repository string, size int64) error {
	staged, err := h.disk.staged(repository, u.path)
	if err != nil {
		return err
	}
	return h.store.CheckQuota(ctx, repository, size, staged)
}

// closeUpload makes the upload a blob of the repository if it has the digest d, and otherwise removes it.
func (h *Handler) closeUpload(ctx context.Context, u *upload, repository string, d digest) error {
	return h.keepUpload(ctx, u, repository, d, h.store.LinkBlob)
}

// keepUpload makes the upload a blob on disk if it has the digest d, and otherwise removes it. Then link makes it one of the
// repository.
func (h *Handler) keepUpload(ctx context.Context, u *upload, repository string, d digest, link func(context.Context, string, store.Blob) error) error {
	sum := u.sum
	if sum == nil || u.algorithm != d.algorithm {
		sum = newHash(d.algorithm)
		if _, err := io.Copy(sum, io.NewSectionReader(u.file, 0, u.size)); err != nil {
			return err
		}
	}
	if got := (digest{d.algorithm, hex.EncodeToString(sum.Sum(nil))}); got != d {
		h.dropUpload(u, true)
		return fail(http.StatusBadRequest, codeDigestInvalid, "the %d bytes that arrived have the digest %s, not %s; nothing was stored", u.size, got, d)
	}
	if err := u.file.Sync(); err != nil {
		h.dropUpload(u, true)
		return fmt.Errorf("keep a blob: %w", err)
	}
	// From when it is kept it must not be collected, which happens to files without rows.
	lock := h.locks.of(d)
	keep := func() (kept bool, err error) {
		if err := h.blobs.stage(ctx, u.path, u.size, d); err != nil {
			return false, err
		}
		lock.RLock()
		defer lock.RUnlock()
		// Whole now: a client that goes away must not leave it unlinked.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if err := h.blobs.keep(ctx, u.path, u.size, d); err != nil {
			return false, err
		}
		return true, link(ctx, repository, store.Blob{Digest: d.String(), Size: u.size, Linked: h.now()})
	}
	kept, err := keep()
	if errors.Is(err, errCollected) {
		kept, err = keep() // collections are an hour apart
	}
	if err == nil {
		return nil
	}
	if !kept {
		h.collector.strays.Store(true) // a part may have come to where it is to be
		h.dropUpload(u, true)
		return fmt.Errorf("keep a blob: %w", err)
	}
	if refused := err; errors.As(err, new(*store.QuotaError)) { // the database has said no, and means it
		if _, err := h.removeStray(context.WithoutCancel(ctx), d, h.now().Add(time.Hour)); err == nil || errors.Is(err, store.ErrInUse) {
			return refused
		}
	}
	h.collector.strays.Store(true)
	return err
}

// startUpload begins an upload, or does all of it, or mounts a blob instead (spec, "Pushing blobs" and "Mounting a blob
// from another repository").
func (h *Handler) startUpload(w http.ResponseWriter, r *http.Request, req request) error {
	q := r.URL.Query()
	if q.Has("mount") {
		if done, err := h.mount(w, r, req, q.Get("mount"), q.Get("from")); done || err != nil {
			return err
		}
		q.Del("digest") // not mounted: the client is to upload it in the usual way
	}

	algorithm := q.Get("digest-algorithm")
	if algorithm == "" {
		algorithm = "sha256"
	}
	if newHash(algorithm) == nil {
		return fail(http.StatusBadRequest, codeDigestInvalid, "the digest algorithm %.50q is not sha256 or sha512", algorithm)
	}
	if !q.Has("digest") {
		u, err := h.newUpload(req.name, algorithm)
		if err != nil {
			return err
		}
		defer h.dropUpload(u, false)
		writeProgress(w, http.StatusAccepted, req.name, u)
		return nil
	}
	d, err := parseDigest(q.Get("digest"))
	if err != nil {
		return fail(http.StatusBadRequest, codeDigestInvalid, "%v", err)
	}
	u, err := h.newUpload(req.name, d.algorithm)
	if err != nil {
		return err
	}
	defer h.dropUpload(u, true)
	if err := h.receive(w, r, u, req.name, d); err != nil {
		return err
	}
	if err := h.closeUpload(r.Context(), u, req.name, d); err != nil {
		return err
	}
	writeStored(w, req.name, d)
	return nil
}

// maxSources is of how many repositories a mount is tried that names none.
const maxSources = 100

// mount links a blob of another repository, if that has it and the client may read there; if from is empty, of any where
// both is so, the most alike in name first. Otherwise it reports false without saying which, and the client uploads.
func (h *Handler) mount(w http.ResponseWriter, r *http.Request, req request, name, from string) (bool, error) {
	d, err := parseDigest(name)
	if err != nil {
		return false, nil // there is no such blob, and the upload will say why
	}
	// One whose file is lost is to be sent again, which a client that is told that it has it does not do.
	if _, err := stat(r.Context(), h.blobs, d); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	sources := []string{from}
	if from == "" {
		if sources, err = h.store.BlobRepositories(r.Context(), d.String()); err != nil {
			return false, err
		}
		slices.SortStableFunc(sources, func(a, b string) int { return commonPrefix(b, req.name) - commonPrefix(a, req.name) })
	}
	for _, source := range sources[:min(len(sources), maxSources)] {
		if !validName(source) || !req.who.Allows(source, Pull) {
			continue
		}
		err := h.store.MountBlob(r.Context(), source, req.name, d.String(), h.now())
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return false, err
		}
		writeStored(w, req.name, d)
		return true, nil
	}
	return false, nil
}

// commonPrefix returns how many bytes a and b have in common at their beginning.
func commonPrefix(a, b string) int {
	n := 0
	for n < min(len(a), len(b)) && a[n] == b[n] {
		n++
	}
	return n
}

// getUpload says how far an upload is (spec, "Pushing a blob in chunks").
func (h *Handler) getUpload(w http.ResponseWriter, r *http.Request, req request) error {
	u, err := h.takeUpload(r.Context(), req.name, req.ref)
	if err != nil {
		return err
	}
	defer h.dropUpload(u, false)
	writeProgress(w, http.StatusNoContent, req.name, u)
	return nil
}

// patchUpload appends a chunk (spec, "Pushing a blob in chunks"). Without Content-Range it appends the body, however
// long: that is how Docker streams.
func (h *Handler) patchUpload(w http.ResponseWriter, r *http.Request, req request) error {
	u, err := h.takeUpload(r.Context(), req.name, req.ref)
	if err != nil {
		return err
	}
	defer h.dropUpload(u, false)
	if err := h.receiveChunk(w, r, u, req.name, digest{}); err != nil {
		return err
	}
	writeProgress(w, http.StatusAccepted, req.name, u)
	return nil
}

// putUpload appends what the body has and closes the upload.
func (h *Handler) putUpload(w http.ResponseWriter, r *http.Request, req request) error {
	d, err := parseDigest(r.URL.Query().Get("digest"))
	if err != nil {
		return fail(http.StatusBadRequest, codeDigestInvalid, "%v", err)
	}
	u, err := h.takeUpload(r.Context(), req.name, req.ref)
	if err != nil {
		return err
	}
	defer h.dropUpload(u, false)
	if u.size == 0 && u.algorithm != d.algorithm {
		u.sum, u.algorithm = newHash(d.algorithm), d.algorithm
	}
	if err := h.receiveChunk(w, r, u, req.name, d); err != nil {
		return err
	}
	if err := h.closeUpload(r.Context(), u, req.name, d); err != nil {
		return err
	}
	h.dropUpload(u, true)
	writeStored(w, req.name, d)
	return nil
}

// deleteUpload cancels an upload (spec, "Cancel a blob upload").
func (h *Handler) deleteUpload(w http.ResponseWriter, r *http.Request, req request) error {
	u, err := h.takeUpload(r.Context(), req.name, req.ref)
	if err != nil {
		return err
	}
	h.dropUpload(u, true)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// receiveChunk is receive for a body that may have a Content-Range, which must go on where the upload ends, and be as long
// as the body.
func (h *Handler) receiveChunk(w http.ResponseWriter, r *http.Request, u *upload, repository string, have digest) error {
	value := r.Header.Get("Content-Range")
	if value == "" {
		return h.receive(w, r, u, repository, have)
	}
	start := u.size
	first, last, err := parseContentRange(value)
	if err != nil || first != start {
		setProgress(w, repository, u)
		if err == nil {
			err = fmt.Errorf("the next byte of this upload is %d, and the chunk starts at %d", start, first)
		}
		return fail(http.StatusRequestedRangeNotSatisfiable, codeBlobUploadInvalid, "%v", err)
	}
	length := last - first + 1
	if length == 1 && r.ContentLength == 0 {
		length = 0 // no range is of no bytes: clients write that of one
	}
	wrong := func(got int64) error {
		return fail(http.StatusBadRequest, codeSizeInvalid, "the Content-Range is of %d bytes, and the body has %d", length, got)
	}
	if r.ContentLength >= 0 && r.ContentLength != length {
		return wrong(r.ContentLength)
	}
	if err := h.receive(w, r, u, repository, have); err != nil {
		return err
	}
	if got := u.size - start; got != length { // the body did not say how long it is
		if err := u.file.Truncate(start); err != nil {
			return err
		}
		u.size, u.sum = start, nil
		return wrong(got)
	}
	return nil
}

func setProgress(w http.ResponseWriter, name string, u *upload) {
	w.Header().Set("Location", "/v2/"+name+"/blobs/uploads/"+url.PathEscape(u.id))
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(0, u.size-1)))
	w.Header().Set("Docker-Upload-UUID", u.id)
}

func writeProgress(w http.ResponseWriter, status int, name string, u *upload) {
	setProgress(w, name, u)
	if status != http.StatusNoContent {
		w.Header().Set("Content-Length", "0")
	}
	w.WriteHeader(status)
}

func writeStored(w http.ResponseWriter, name string, d digest) {
	w.Header().Set("Location", "/v2/"+name+"/blobs/"+d.String())
	w.Header().Set("Docker-Content-Digest", d.String())
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusCreated)
}
