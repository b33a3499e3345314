package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"sync"
	"time"

	"slipway/internal/remote"
	"slipway/internal/store"
)

// download is a blob on its way from another registry. All who want it read along in its file.
type download struct {
	// begun is closed when size and path are known or it has failed, ended when it is a blob or has failed.
	begun, ended chan struct{}
	size         int64 // -1: the registry did not say
	path         string

	mu      sync.Mutex
	written int64
	grown   chan struct{} // closed when written or err changes
	err     error
}

// advance says that more has been written, or that it is over.
func (d *download) advance(n int64, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.written += n
	d.err = err
	close(d.grown)
	d.grown = make(chan struct{})
}

// pullBlob serves a blob that is not here yet.
func (h *Handler) pullBlob(w http.ResponseWriter, r *http.Request, req request, from remote.Repository, d digest) error {
	ctx := r.Context()
	dl := h.download(req.name, from, d)
	select {
	case <-dl.begun:
	case <-ctx.Done():
		return ctx.Err()
	}
	// Who only asks whether it exists must be able to rely on the answer: a push leaves out what is here.
	whole := r.Method == http.MethodHead || dl.size < 0
	var f *os.File
	if !whole {
		var err error
		f, err = os.Open(dl.path)
		if errors.Is(err, fs.ErrNotExist) {
			whole = true // it has just ended
		} else if err != nil {
			return err
		}
	}
	if whole {
		select {
		case <-dl.ended:
		case <-ctx.Done():
			return ctx.Err()
		}
		if dl.err != nil {
			return h.upstreamError(dl.err, req.name, codeBlobUnknown, "blob "+d.String())
		}
		return h.serveBlob(w, r, req, d)
	}
	defer f.Close()
	h.sendBlob(w, r, d, dl.size, &follower{ctx: ctx, download: dl, file: f})
	return nil
}

// follower reads a download as it grows. The last byte is kept back until the digest is known to be right: nobody gets a
// whole blob that is wrong.
type follower struct {
	ctx context.Context // of the one request that reads
	*download
	file   *os.File
	offset int64
}

// Read implements io.Reader.
func (f *follower) Read(p []byte) (int, error) {
	for {
		if f.offset >= f.size {
			return 0, io.EOF
		}
		ended := false
		select {
		case <-f.ended:
			ended = true
		default:
		}
		f.mu.Lock()
		written, grown, err := f.written, f.grown, f.err
		f.mu.Unlock()
		if err != nil {
			return 0, err
		}
		if !ended {
			written = min(written, f.size-1)
		}
		if f.offset < written {
			n, err := f.file.ReadAt(p[:min(int64(len(p)), written-f.offset)], f.offset)
			f.offset += int64(n)
			return n, err
		}
		select {
		case <-grown:
		case <-f.ended:
		case <-f.ctx.Done():
			return 0, f.ctx.Err()
		}
	}
}

// Seek implements io.Seeker.
func (f *follower) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += f.offset
	case io.SeekEnd:
		offset += f.size
	}
	if offset < 0 {
		return 0, errors.New("seek before the start")
	}
	f.offset = offset
	return offset, nil
}

// download returns the download of a blob, which it starts if there is none.
func (h *Handler) download(name string, from remote.Repository, d digest) *download {
	c := h.cache
	key := name + "@" + d.String()
	c.mu.Lock()
	defer c.mu.Unlock()
	if dl := c.downloads[key]; dl != nil {
		return dl
	}
	dl := &download{begun: make(chan struct{}), ended: make(chan struct{}), grown: make(chan struct{}), size: -1}
	c.downloads[key] = dl
	c.work.Go(func() {
		err := h.fetchBlob(dl, name, from, d)
		c.mu.Lock()
		delete(c.downloads, key)
		c.mu.Unlock()
		dl.advance(0, err)
		close(dl.ended)
		dl.begin()
	})
	return dl
}

// begin lets the readers start. Only the download's own goroutine calls it.
func (d *download) begin() {
	select {
	case <-d.begun:
	default:
		close(d.begun)
	}
}

// fetchBlob gets a blob and stores it, unless it has come meanwhile.
func (h *Handler) fetchBlob(dl *download, name string, from remote.Repository, d digest) error {
	ctx, cancel := context.WithCancelCause(h.cache.life)
	defer cancel(nil)
	if _, err := h.store.FindBlob(ctx, name, d.String()); err == nil {
		if _, err := stat(ctx, h.blobs, d); err == nil {
			return nil
		}
	} else if !errors.Is(err, store.ErrNotFound) {
		return errors.Join(errLocal, err)
	}
	if err := h.cache.paused(from.Host, h.now()); err != nil {
		return err
	}
	body, size, err := h.cache.Client.Blob(ctx, from, d.String())
	h.note(from.Host, err)
	if err != nil {
		return err
	}
	defer body.Close()
	if size > h.maxBlob {
		return fail(http.StatusBadGateway, codeSizeInvalid, "the blob %s has %d bytes, and may have %d", d, size, h.maxBlob)
	}
	limit := h.maxBlob
	if h.cache.Quota > 0 {
		limit = min(limit, h.cache.Quota)
	}
	defer h.cache.release(max(0, size))
	if err := h.reserve(ctx, max(0, size)); err != nil {
		return err
	}
	u, err := h.newUpload(name, d.algorithm)
	if err != nil {
		return errors.Join(errLocal, err)
	}
	defer h.dropUpload(u, true)
	if size > 0 { // an empty blob is not worth following
		dl.size, dl.path = size, u.path
		dl.begin()
	}

	stalled := time.AfterFunc(h.stallTime, func() { cancel(fmt.Errorf("%s sent nothing for %s", from.Host, h.stallTime)) })
	defer stalled.Stop()
	buffer := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buffer)
	for {
		n, err := body.Read(*buffer)
		stalled.Reset(h.stallTime)
		if n > 0 {
			if u.size += int64(n); u.size > limit {
				return fail(http.StatusBadGateway, codeSizeInvalid, "the blob %s has more than %d bytes", d, limit)
			}
			if _, err := u.file.Write((*buffer)[:n]); err != nil {
				return errors.Join(errLocal, fmt.Errorf("write a blob: %w", err))
			}
			u.sum.Write((*buffer)[:n])
			dl.advance(int64(n), nil)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("read the blob %s of %s: %w", d, from, errors.Join(err, context.Cause(ctx)))
		}
	}
	err = h.keepUpload(ctx, u, name, d, h.store.LinkCached)
	var wrong *statusError
	if errors.As(err, &wrong) {
		return errors.Join(remote.ErrCorrupt, errors.New(wrong.message))
	}
	if err != nil {
		return errors.Join(errLocal, err)
	}
	return nil
}
