package rollout

import (
	"fmt"
	"io"
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

// clean removes what is not printable, except for tabs, from a line.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\n':
			return ' '
		case r == unicode.ReplacementChar || !unicode.IsPrint(r):
			return -1
		}
		return r
	}, s)
}

// quote writes a line of somebody else's text, set off from Slipway's own.
func (p *printer) quote(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintln(p.out, "  | "+line)
}
