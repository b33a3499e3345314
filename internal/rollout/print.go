package rollout

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"unicode"
)

// printer writes whole lines. It is safe for concurrent use. Errors of the writer are left to its owner: a deployment
// goes on when nobody reads its log.
type printer struct {
	mu  sync.Mutex
	out io.Writer
}

func newPrinter(out io.Writer) *printer { return &printer{out: out} }

func (p *printer) linef(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintln(p.out, oneLine(fmt.Sprintf(format, args...)))
}

// oneLine makes one line of a text, without control characters: what containers, registries and admission say is not
// trusted with a terminal.
func oneLine(s string) string {
	return strings.Join(strings.Fields(clean(s)), " ")
}

// escape is a sequence that controls a terminal (ECMA-48, section 5.4).
var escape = regexp.MustCompile(`\x1b\[[0-?]*[ -/]*[@-~]`)

// clean removes colours and what else is not printable from a text; tabs and newlines become spaces.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\n':
			return ' '
		case r == unicode.ReplacementChar || !unicode.IsPrint(r):
			return -1
		}
		return r
	}, escape.ReplaceAllString(s, ""))
}

// quote writes a line of somebody else's text, set off from Slipway's own.
func (p *printer) quote(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintln(p.out, "  | "+line)
}

// indentf writes a line that belongs to the one before. Its parts must be clean.
func (p *printer) indentf(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, "    "+format+"\n", args...)
}

// prefixed writes a line of somebody else's log after its name.
func (p *printer) prefixed(name, line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintln(p.out, name+" | "+line)
}
