package registry

import (
	"errors"
	"io/fs"
	"net/http"
	"time"

	"slipway/internal/store"
)

// getBlob serves a blob, or a range of it (spec, "Pulling blobs" and "Checking if content exists in the registry").
func (h *Handler) getBlob(w http.ResponseWriter, r *http.Request, req request) error {
	d, err := parseDigest(req.ref)
	if err != nil {
		return fail(http.StatusBadRequest, codeDigestInvalid, "%v", err)
	}
	unknown := fail(http.StatusNotFound, codeBlobUnknown, "%s has no blob %s", req.name, d)
	blob, err := h.store.FindBlob(r.Context(), req.name, d.String())
	if errors.Is(err, store.ErrNotFound) {
		return unknown
	}
	if err != nil {
		return err
	}
	f, err := h.disk.open(d)
	if errors.Is(err, fs.ErrNotExist) {
		// A client that is told "not found" pushes again, which repairs it.
		h.log.Error("registry: the file of a blob is missing", "repository", req.name, "digest", d.String())
		return unknown
	}
	if err != nil {
		return err
	}
	defer f.Close()
	// Who may push and asks for a blob is about to refer to it instead of sending it.
	if now := h.now(); r.Method == http.MethodHead && now.Sub(blob.Linked) > h.grace/2 && req.who.Allows(req.name, Push) {
		if err := h.store.TouchBlob(r.Context(), req.name, d.String(), now); errors.Is(err, store.ErrNotFound) {
			return unknown // collected at this moment
		} else if err != nil {
			return err
		}
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", d.String())
	w.Header().Set("ETag", `"`+d.String()+`"`)
	w.Header().Set("Cache-Control", "private, max-age=31536000, immutable")
	// A reader that stalls lets go of its connection, in time: what 64 KiB a second would take, and a bit.
	rc := http.NewResponseController(w)
	if rc.SetWriteDeadline(time.Now().Add(2*h.stallTime+time.Duration(blob.Size/(64<<10))*time.Second)) == nil {
		defer func() { _ = rc.SetWriteDeadline(time.Time{}) }()
	}
	http.ServeContent(w, r, "", time.Time{}, f)
	return nil
}

// deleteBlob removes a blob from a repository (spec, "Deleting Blobs").
func (h *Handler) deleteBlob(w http.ResponseWriter, r *http.Request, req request) error {
	d, err := parseDigest(req.ref)
	if err != nil {
		return fail(http.StatusBadRequest, codeDigestInvalid, "%v", err)
	}
	err = h.store.UnlinkBlob(r.Context(), req.name, d.String())
	switch {
	case errors.Is(err, store.ErrNotFound):
		return fail(http.StatusNotFound, codeBlobUnknown, "%s has no blob %s", req.name, d)
	case errors.Is(err, store.ErrInUse):
		return fail(http.StatusMethodNotAllowed, codeUnsupported, "a manifest of %s needs the blob %s; delete that first", req.name, d)
	case err != nil:
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}
