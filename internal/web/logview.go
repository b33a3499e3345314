package web

import (
	"errors"
	"html"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Bounds of what a page shows of a log. What is left out stands in the raw text, to which the page links.
const (
	// windowLines is how many lines a page has at most; a browser lays them out without a pause.
	windowLines = 2000
	// windowBytes bounds the cost of all those lines together.
	windowBytes = 1 << 20
	// lineBytes bounds one line.
	lineBytes = 8 << 10
	// escapeBytes bounds an escape sequence; a longer one is none.
	escapeBytes = 4 << 10
)

// errWindowFull ends the reading of a log of which the rest is not shown.
var errWindowFull = errors.New("the window is full")

// logView is an [io.Writer] that turns the output of a step into lines of HTML, of which it keeps a window: the last
// ones, or those from a given line on. Output is what strangers' programs print, so everything in it is escaped, colours
// become classes, and other escape sequences vanish. A carriage return without a newline begins the line anew, as
// progress bars want it.
//
// It is for one goroutine.
type logView struct {
	// from is the first line of the window; 0 means that the window is at the end of the log and moves with it.
	from int

	lines []logLine // the window, oldest first, without the line that is not ended
	bytes int       // what they cost
	ended int       // lines that have ended, those before the window included

	line   logLine // the line that is being written
	style  style
	back   bool // a carriage return came: the next character begins the line anew
	state  escapeState
	escape []byte // the parameters of the escape sequence that is being read
}

// logLine is one line: its text, cut into pieces of one style each.
type logLine struct {
	number  int
	text    []byte
	pieces  []piece
	dropped int // bytes over lineBytes
}

// cost is about how many bytes of a page the line takes: a style takes more than the text that it is for.
func (l logLine) cost() int { return len(l.text) + 32*len(l.pieces) }

// piece says which style holds from an offset of the line's text on.
type piece struct {
	start int
	style style
}

// style is how text looks. Colours count from 1, in the order of SGR codes; 9 to 16 are the bright ones, 0 is none.
type style struct {
	color, ground                           uint8
	bold, faint, italic, underline, inverse bool
}

type escapeState uint8

const (
	inText      escapeState = iota
	inEscape                // after ESC
	inCharset               // after ESC ( and the like: one more byte
	inCSI                   // control sequence, ECMA-48 section 5.4
	inString                // operating system command and the like, up to BEL or ESC \
	inStringEnd             // after ESC in such a string
)

// Write implements [io.Writer]. Its only error is errWindowFull.
func (v *logView) Write(p []byte) (int, error) {
	for i := 0; i < len(p); {
		if v.state != inText {
			v.escaped(p[i])
			i++
			continue
		}
		end := i
		for end < len(p) && p[end] >= ' ' && p[end] != 0x7f || end < len(p) && p[end] == '\t' {
			end++
		}
		if end > i {
			v.put(p[i:end])
			i = end
			continue
		}
		switch p[i] {
		case '\n':
			v.newline()
			if v.from > 0 && v.full() {
				return i, errWindowFull
			}
		case '\r':
			v.back = true
		case 0x1b:
			v.state, v.escape = inEscape, v.escape[:0]
		}
		i++
	}
	return len(p), nil
}

func (v *logView) put(text []byte) {
	if v.back {
		v.back = false
		v.clear()
	}
	if n := len(v.line.pieces); n == 0 && v.style != (style{}) || n > 0 && v.line.pieces[n-1].style != v.style {
		v.line.pieces = append(v.line.pieces, piece{len(v.line.text), v.style})
	}
	room := min(len(text), lineBytes-len(v.line.text))
	v.line.text = append(v.line.text, text[:room]...)
	v.line.dropped += len(text) - room
}

func (v *logView) clear() {
	v.line.text, v.line.pieces, v.line.dropped = v.line.text[:0], v.line.pieces[:0], 0
}

func (v *logView) newline() {
	v.back = false
	v.ended++
	done := v.line
	done.number = v.ended
	if v.ended < v.from {
		v.clear()
		return
	}
	v.line = logLine{}
	v.lines = append(v.lines, done)
	v.bytes += done.cost()
	for v.from == 0 && v.full() && len(v.lines) > 1 {
		oldest := v.lines[0]
		v.bytes -= oldest.cost()
		v.lines[0] = logLine{}
		v.lines = v.lines[1:]
		v.line = logLine{text: oldest.text[:0], pieces: oldest.pieces[:0]} // its memory serves again
	}
}

func (v *logView) full() bool { return len(v.lines) > windowLines || v.bytes > windowBytes }

// escaped takes one byte of an escape sequence. A newline ends every sequence: a program that prints half of one must
// not make the rest of its log vanish.
func (v *logView) escaped(b byte) {
	if b == '\n' {
		v.state = inText
		v.newline()
		return
	}
	if v.escape = append(v.escape, b); len(v.escape) > escapeBytes {
		v.state = inText
		return
	}
	switch v.state {
	case inEscape:
		switch b {
		case '[':
			v.state, v.escape = inCSI, v.escape[:0]
		case ']', 'P', 'X', '^', '_':
			v.state = inString
		case '(', ')', '*', '+', '#', '%', ' ':
			v.state = inCharset
		default:
			v.state = inText
		}
	case inCharset:
		v.state = inText
	case inCSI:
		if b < 0x40 || b > 0x7e {
			return
		}
		v.state = inText
		parameters := string(v.escape[:len(v.escape)-1])
		switch {
		case b == 'm':
			v.style = v.style.apply(parameters)
		case b == 'K' && (parameters == "2" || v.back):
			v.clear()
		case b == 'G' && (parameters == "" || parameters == "1"): // to the first column
			v.back = true
		}
	case inString:
		switch b {
		case 0x07:
			v.state = inText
		case 0x1b:
			v.state = inStringEnd
		}
	case inStringEnd:
		v.state = inText
	}
}

// apply returns s changed by the parameters of an SGR sequence (ECMA-48, section 8.3.117).
func (s style) apply(parameters string) style {
	codes := strings.FieldsFunc(parameters, func(r rune) bool { return r == ';' || r == ':' })
	if len(codes) == 0 {
		return style{}
	}
	for len(codes) > 0 {
		code, err := strconv.Atoi(codes[0])
		codes = codes[1:]
		switch {
		case err != nil:
			return s
		case code == 0:
			s = style{}
		case code == 1:
			s.bold = true
		case code == 2:
			s.faint = true
		case code == 3:
			s.italic = true
		case code == 4:
			s.underline = true
		case code == 7:
			s.inverse = true
		case code == 22:
			s.bold, s.faint = false, false
		case code == 23:
			s.italic = false
		case code == 24:
			s.underline = false
		case code == 27:
			s.inverse = false
		case code >= 30 && code <= 37:
			s.color = uint8(code - 29)
		case code == 38:
			s.color, codes = palette(codes)
		case code == 39:
			s.color = 0
		case code >= 40 && code <= 47:
			s.ground = uint8(code - 39)
		case code == 48:
			s.ground, codes = palette(codes)
		case code == 49:
			s.ground = 0
		case code >= 90 && code <= 97:
			s.color = uint8(code - 81)
		case code >= 100 && code <= 107:
			s.ground = uint8(code - 91)
		}
	}
	return s
}

// palette reads a colour of 256 (5;N) or of all (2;R;G;B), and returns the nearest of the sixteen that the pages have:
// those are legible in light and in dark, and a content security policy allows no other.
func palette(codes []string) (color uint8, rest []string) {
	number := func(i int) int {
		if i >= len(codes) {
			return 0
		}
		n, _ := strconv.Atoi(codes[i]) // what is no number is black
		return n
	}
	switch {
	case number(0) == 2:
		return nearest(number(1), number(2), number(3)), codes[min(4, len(codes)):]
	case number(0) != 5 || len(codes) < 2:
		return 0, nil
	}
	rest = codes[2:]
	switch n := number(1); {
	case n < 0 || n > 255:
		return 0, rest
	case n < 16:
		return uint8(n + 1), rest
	case n < 232:
		cube := [6]int{0, 95, 135, 175, 215, 255}
		n -= 16
		return nearest(cube[n/36], cube[n/6%6], cube[n%6]), rest
	default:
		gray := 8 + 10*(n-232)
		return nearest(gray, gray, gray), rest
	}
}

// nearest returns which of the sixteen colours comes close to one of red, green and blue.
func nearest(r, g, b int) uint8 {
	high := max(r, g, b)
	if high-min(r, g, b) < 40 { // gray
		switch {
		case high < 64:
			return 1
		case high < 144:
			return 9
		case high < 224:
			return 8
		}
		return 16
	}
	color := 0
	for bit, part := range []int{r, g, b} {
		if 2*part > high {
			color |= 1 << bit
		}
	}
	if high > 215 {
		color += 8
	}
	return uint8(color + 1)
}

// class returns the CSS classes of s.
func (s style) class() string {
	var b strings.Builder
	add := func(on bool, name string) {
		if on {
			if b.Len() > 0 {
				b.WriteByte(' ')
			}
			b.WriteString(name)
		}
	}
	add(s.color > 0, "f"+strconv.Itoa(int(s.color)-1))
	add(s.ground > 0, "b"+strconv.Itoa(int(s.ground)-1))
	add(s.bold, "bo")
	add(s.faint, "fa")
	add(s.italic, "it")
	add(s.underline, "un")
	add(s.inverse, "in")
	return b.String()
}

// window returns the lines of the window as HTML, one per line of text, from line number after+1 on. The line that is
// not ended is the last of them, if it has text.
func (v *logView) window(after int) string {
	var b strings.Builder
	for _, line := range v.lines {
		if line.number > after {
			line.write(&b)
		}
	}
	if open := v.open(); open.number > after && len(open.text) > 0 {
		open.write(&b)
	}
	return b.String()
}

// open returns the line that is not ended, if it belongs to the window; else its number is 0.
func (v *logView) open() logLine {
	line := v.line
	line.number = v.ended + 1
	if line.number < v.from || v.from > 0 && v.full() {
		return logLine{}
	}
	return line
}

// bounds returns the numbers of the window's first line and of its last one; 0 and 0 if it is empty.
func (v *logView) bounds() (first, last int) {
	if open := v.open(); len(open.text) > 0 {
		first, last = open.number, open.number
	}
	if n := len(v.lines); n > 0 {
		first = v.lines[0].number
		last = max(last, v.lines[n-1].number)
	}
	return first, last
}

// write appends the line as one line of HTML.
func (l logLine) write(b *strings.Builder) {
	number := strconv.Itoa(l.number)
	b.WriteString(`<div id="L` + number + `"><a href="#L` + number + `">` + number + `</a><code>`)
	text := l.text
	if l.dropped > 0 { // it may have been cut in the middle of a character
		for n := 0; n < utf8.UTFMax && len(text) > 0; n++ {
			if r, size := utf8.DecodeLastRune(text); r != utf8.RuneError || size != 1 {
				break
			}
			text = text[:len(text)-1]
		}
	}
	start, class := 0, ""
	for _, p := range append(l.pieces, piece{start: len(text)}) {
		writePiece(b, text[start:max(start, min(p.start, len(text)))], class)
		start, class = min(p.start, len(text)), p.style.class()
	}
	if l.dropped > 0 {
		b.WriteString(`<i>… ` + strconv.Itoa(l.dropped) + ` more bytes in the raw log</i>`)
	}
	b.WriteString("</code></div>\n")
}

func writePiece(b *strings.Builder, text []byte, class string) {
	if len(text) == 0 {
		return
	}
	clean := html.EscapeString(printable(text))
	if class == "" {
		b.WriteString(clean)
		return
	}
	b.WriteString(`<span class="` + class + `">` + clean + `</span>`)
}

// printable replaces what a browser would not show as it is: bytes that are not UTF-8, and characters that control the
// direction of text or break lines, with which a log could pretend to say something else.
func printable(text []byte) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 0x80 && r < 0xa0,
			r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069, r == 0x200e, r == 0x200f, r == 0x61c, // direction
			r == 0x2028, r == 0x2029:
			return utf8.RuneError
		}
		return r
	}, strings.ToValidUTF8(string(text), string(utf8.RuneError)))
}
