package registry

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"slipway/internal/store"
)

// getBlob serves a blob, or a range of it (spec, "Pulling blobs" and "Checking if content exists in the registry").
func (h *Handler) getBlob(w http.ResponseWriter, r *http.Request, req request) error {
	d, err := parseDigest(req.ref)
	if err != nil {
		return notABlob(req, err)
	}
	err = h.serveBlob(w, r, req, d)
	if from, ok := h.cache.upstream(req.name); ok {
		hit := !errors.Is(err, errNoBlob)
		if !hit {
			err = h.pullBlob(w, r, req, from, d)
		}
		h.counters.mirrored(aBlob, hit, err)
	}
	if errors.Is(err, errNoBlob) {
		return fail(http.StatusNotFound, codeBlobUnknown, "%s has no blob %s", req.name, d)
	}
	return err
}

// notABlob says that there is no blob of that name, as it is not a digest. The endpoints of blobs know only 404 for what is
// not there (spec, "Endpoints").
func notABlob(req request, err error) error {
	return fail(http.StatusNotFound, codeBlobUnknown, "%s has no such blob: %v", req.name, err)
}

// errNoBlob says that a blob is not here.
var errNoBlob = errors.New("no such blob")

// serveBlob serves a blob that is here, and otherwise says errNoBlob.
func (h *Handler) serveBlob(w http.ResponseWriter, r *http.Request, req request, d digest) error {
	blob, err := h.store.FindBlob(r.Context(), req.name, d.String())
	if errors.Is(err, store.ErrNotFound) {
		return errNoBlob
	}
	if err != nil {
		return err
	}
	f, _, err := h.blobs.open(r.Context(), d)
	if errors.Is(err, fs.ErrNotExist) {
		// A client that is told "not found" pushes again, which repairs it.
		h.log.Error("registry: the file of a blob is missing", "repository", req.name, "digest", d.String())
		return errNoBlob
	}
	if err != nil {
		return err
	}
	defer f.Close()
	// Who may push and asks for a blob is about to refer to it instead of sending it.
	if now := h.now(); r.Method == http.MethodHead && now.Sub(blob.Linked) > h.grace/2 && req.who.Allows(req.name, Push) {
		if err := h.store.TouchBlob(r.Context(), req.name, d.String(), now); errors.Is(err, store.ErrNotFound) {
			return errNoBlob // collected at this moment
		} else if err != nil {
			return err
		}
	}
	if direct, ok := h.blobs.(linker); ok && r.Method == http.MethodGet {
		address, err := direct.link(r.Context(), d)
		if err != nil {
			return err
		}
		if address != "" {
			w.Header().Set("Docker-Content-Digest", d.String())
			w.Header().Set("Cache-Control", "no-store") // the address is good for minutes only
			w.Header().Set("Location", address)
			w.WriteHeader(http.StatusTemporaryRedirect)
			return nil
		}
	}
	h.sendBlob(w, r, d, blob.Size, f)
	return nil
}

// sendBlob sends the blob d of that size.
func (h *Handler) sendBlob(w http.ResponseWriter, r *http.Request, d digest, size int64, content io.ReadSeeker) {
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", d.String())
	w.Header().Set("ETag", `"`+d.String()+`"`)
	w.Header().Set("Cache-Control", "private, max-age=31536000, immutable")
	// Many ranges at once, each of which costs more than it has, are nothing that clients need: all of it is an answer, too.
	if strings.Contains(r.Header.Get("Range"), ",") {
		r.Header.Del("Range")
	}
	defer h.bound(w, size)()
	if r.Header.Get("Range") != "" {
		w = &rangeWriter{ResponseWriter: w, h: h, r: r, size: size}
	}
	http.ServeContent(w, r, "", time.Time{}, content)
}

// rangeWriter gives the answer to a range that is not in the blob the form of the other errors.
type rangeWriter struct {
	http.ResponseWriter
	h      *Handler
	r      *http.Request
	size   int64
	failed bool
}

// WriteHeader implements [http.ResponseWriter].
func (w *rangeWriter) WriteHeader(status int) {
	if status != http.StatusRequestedRangeNotSatisfiable {
		w.ResponseWriter.WriteHeader(status)
		return
	}
	w.failed = true
	w.Header().Del("Content-Type")
	w.h.writeErrorBody(w.ResponseWriter, w.r, &statusError{
		status, codeSizeInvalid, fmt.Sprintf("the range %.100q has nothing of the blob's %d bytes", w.r.Header.Get("Range"), w.size),
	})
}

// Write implements [http.ResponseWriter].
func (w *rangeWriter) Write(b []byte) (int, error) {
	if w.failed {
		return len(b), nil // the text of http.ServeContent
	}
	return w.ResponseWriter.Write(b)
}

// ReadFrom implements [io.ReaderFrom], for sendfile.
func (w *rangeWriter) ReadFrom(from io.Reader) (int64, error) { return io.Copy(w.ResponseWriter, from) }

// deleteBlob removes a blob from a repository (spec, "Deleting Blobs"). What was pushed stays pullable, so the deletion of
// a blob is disabled while a manifest needs it, for which the spec has 400 and 405.
func (h *Handler) deleteBlob(w http.ResponseWriter, r *http.Request, req request) error {
	d, err := parseDigest(req.ref)
	if err != nil {
		return notABlob(req, err)
	}
	err = h.store.UnlinkBlob(r.Context(), req.name, d.String())
	switch {
	case errors.Is(err, store.ErrNotFound):
		return fail(http.StatusNotFound, codeBlobUnknown, "%s has no blob %s", req.name, d)
	case errors.Is(err, store.ErrInUse):
		w.Header().Set("Allow", "GET, HEAD")
		return fail(http.StatusMethodNotAllowed, codeUnsupported, "a manifest of %s needs the blob %s; delete that first", req.name, d)
	case err != nil:
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}
