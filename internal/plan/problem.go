package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Severity says what a problem of a pipeline file means for its run.
type Severity string

// The severities.
const (
	// SeverityError keeps the file from running.
	SeverityError Severity = "error"
	// SeverityWarning does not, but something is probably not as its author thinks.
	SeverityWarning Severity = "warning"
)

// Problem is something wrong with a pipeline file, at a place of it.
type Problem struct {
	File string `json:"file"`
	// Line and Column count from 1, columns in characters. They are 0 when the problem has no place.
	Line     int      `json:"line"`
	Column   int      `json:"column"`
	Severity Severity `json:"severity"`
	// Message is one sentence that says what is wrong and what to do, without a full stop.
	Message string `json:"message"`
}

// String returns "file:line:column: message", with "warning: " before the message of a warning.
func (p Problem) String() string {
	message := p.Message
	if p.Severity == SeverityWarning {
		message = "warning: " + message
	}
	if p.Line == 0 {
		return fmt.Sprintf("%s: %s", p.File, message)
	}
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, message)
}

// Problems are what is wrong with a file. As an error, its text has one line for each.
type Problems []Problem

// Error implements error.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Sort orders ps by place and drops what is said twice.
func (ps Problems) Sort() Problems {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(
			cmp.Compare(a.File, b.File),
			cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Severity, b.Severity),
			cmp.Compare(a.Message, b.Message),
		)
	})
	return slices.Compact(ps)
}

// Err returns the errors among ps as a [Problems], or nil if there are only warnings.
func (ps Problems) Err() error {
	var errs Problems
	for _, p := range ps {
		if p.Severity == SeverityError {
			errs = append(errs, p)
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return errs
}
