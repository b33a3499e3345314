package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"syscall"
	"time"

	"slipway/internal/store"
)

// The error codes (spec, "Error Codes"). codeUnknown is not among them: clients take any code that they don't know for
// it, and it goes with 5xx only.
const (
	codeBlobUnknown         = "BLOB_UNKNOWN"
	codeBlobUploadInvalid   = "BLOB_UPLOAD_INVALID"
	codeBlobUploadUnknown   = "BLOB_UPLOAD_UNKNOWN"
	codeDigestInvalid       = "DIGEST_INVALID"
	codeManifestBlobUnknown = "MANIFEST_BLOB_UNKNOWN"
	codeManifestInvalid     = "MANIFEST_INVALID"
	codeManifestUnknown     = "MANIFEST_UNKNOWN"
	codeNameInvalid         = "NAME_INVALID"
	codeNameUnknown         = "NAME_UNKNOWN"
	codeSizeInvalid         = "SIZE_INVALID"
	codeUnauthorized        = "UNAUTHORIZED"
	codeDenied              = "DENIED"
	codeUnsupported         = "UNSUPPORTED"
	codeTooManyRequests     = "TOOMANYREQUESTS"
	codeUnknown             = "UNKNOWN"
)

// statusError is an error that the client is told.
type statusError struct {
	status  int
	code    string
	message string
}

func (e *statusError) Error() string { return e.message }

func fail(status int, code, format string, args ...any) error {
	return &statusError{status, code, fmt.Sprintf(format, args...)}
}

// writeError answers with err. What is not a statusError is logged and its inside not shown.
func (h *Handler) writeError(w http.ResponseWriter, r *http.Request, err error) {
	var e *statusError
	var over *store.QuotaError
	switch {
	case errors.As(err, &e):
	case errors.As(err, &over):
		e = &statusError{http.StatusForbidden, codeDenied, fmt.Sprintf("the quota is used up: %v; nothing was stored. Delete images, or ask an admin for more", over)}
	case r.Context().Err() != nil:
		// The client has gone, and takes no answer.
		return
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		h.log.Error("registry: disk full", "method", r.Method, "path", r.URL.Path, "error", err)
		e = &statusError{http.StatusInsufficientStorage, codeUnknown, "the registry's disk is full; nothing was stored. Make room and push again"}
	default:
		h.log.Error("registry: request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		e = &statusError{http.StatusInternalServerError, codeUnknown, "the registry failed; its log says why"}
	}
	h.writeErrorBody(w, r, e)
}

// writeErrorBody writes the one form of error that the spec knows.
func (h *Handler) writeErrorBody(w http.ResponseWriter, r *http.Request, e *statusError) {
	type item struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	body, err := json.Marshal(map[string][]item{"errors": {{e.code, e.message}}})
	if err != nil {
		panic(err) // strings marshal
	}
	w.Header().Del("ETag")
	h.writeJSON(w, r, e.status, body)
}

// writeJSON answers with body.
func (h *Handler) writeJSON(w http.ResponseWriter, r *http.Request, status int, body []byte) {
	if w.Header().Get("Content-Type") == "" {
		w.Header().Set("Content-Type", "application/json")
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		defer h.bound(w, int64(len(body)))()
		_, _ = w.Write(body) // a client that has gone takes no answer
	}
}

// bound gives a client the time that size bytes take at 64 KiB a second, and a bit, to read an answer: one that stalls lets
// go of its connection and of what is held for it. Call what it returns when the answer is written.
func (h *Handler) bound(w http.ResponseWriter, size int64) (end func()) {
	if size < 4<<10 {
		return func() {} // the server's own buffer takes it
	}
	rc := http.NewResponseController(w)
	if rc.SetWriteDeadline(time.Now().Add(2*h.stallTime+time.Duration(size/(64<<10))*time.Second)) != nil {
		return func() {}
	}
	return func() { _ = rc.SetWriteDeadline(time.Time{}) }
}
