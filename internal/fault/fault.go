// Package fault is the one kind of error that reaches people: a code and a sentence.
//
// A sentence says what went wrong, where, and what to do about it. [Of] finds the fault in an error chain; an error
// without one is internal, and strangers get no more of it than that. The codes' table is at [Code.HTTPStatus] and
// [Code.ExitCode].
package fault

import (
	"errors"
	"fmt"
	"net/http"
	"syscall"
)

// Code says what kind of fault it is.
type Code string

// The codes.
const (
	Invalid      Code = "invalid"      // the input is wrong
	Unauthorized Code = "unauthorized" // no token, or one that is not known
	Forbidden    Code = "forbidden"    // the token does not allow it
	NotFound     Code = "not_found"    // what was asked for does not exist
	Conflict     Code = "conflict"     // it does not fit the present state
	TooLarge     Code = "too_large"    // over a limit of size
	Unavailable  Code = "unavailable"  // something that is needed does not answer
	Failed       Code = "failed"       // it was carried out, and ended in failure: a run, a rollout
	Internal     Code = "internal"     // a defect of Slipway or its machine
)

var table = map[Code]struct{ http, exit int }{
	Invalid:      {http.StatusBadRequest, 1},
	Unauthorized: {http.StatusUnauthorized, 3},
	Forbidden:    {http.StatusForbidden, 3},
	NotFound:     {http.StatusNotFound, 4},
	Conflict:     {http.StatusConflict, 5},
	TooLarge:     {http.StatusRequestEntityTooLarge, 1},
	Unavailable:  {http.StatusServiceUnavailable, 6},
	Failed:       {http.StatusUnprocessableEntity, 2},
	Internal:     {http.StatusInternalServerError, 70},
}

// HTTPStatus returns the status that the API answers with.
func (c Code) HTTPStatus() int {
	if row, ok := table[c]; ok {
		return row.http
	}
	return http.StatusInternalServerError
}

// ExitCode returns the exit code of the command line.
func (c Code) ExitCode() int {
	if row, ok := table[c]; ok {
		return row.exit
	}
	return 70
}

// FromHTTPStatus returns the code that an HTTP status stands for.
func FromHTTPStatus(status int) Code {
	for code, row := range table {
		if row.http == status {
			return code
		}
	}
	if status >= 400 && status < 500 {
		return Invalid
	}
	return Internal
}

// Error is a fault: Message is one sentence for people, Err the cause for the log of the process, if any.
type Error struct {
	Code    Code
	Message string
	Err     error
}

// Error implements error.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// New returns a fault with a formatted sentence. If an argument is an error formatted by %w, it is the cause.
func New(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), Err: errors.Unwrap(err)}
}

// Cause returns the innermost cause of err in its own words: "connection refused" of a chain that also tells the
// request, the network and the address. The sentence around it says those in the user's words.
func Cause(err error) string {
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		return "no answer in time"
	}
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner
	}
	return err.Error()
}

// Of returns the fault in err's chain. An error without one becomes an Internal fault with a sentence that says nothing
// of its inside, but for a full disk, which no user can guess; a nil error gives nil.
func Of(err error) *Error {
	if err == nil {
		return nil
	}
	var fault *Error
	if errors.As(err, &fault) {
		return fault
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return &Error{Code: Unavailable, Message: "the disk of the server is full; free some space there and try again", Err: err}
	}
	return &Error{Code: Internal, Message: "an internal error happened; the server's log has the details", Err: err}
}
