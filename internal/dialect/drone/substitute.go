package drone

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"slipway/internal/yaml"
)

// Bounds of substitution, which can make a long text of a short one.
const (
	maxSubstituted = 2 << 20 // bytes of a document, and of any value on the way
	maxNesting     = 20      // of ${a:-${b:-...}}
)

// substitution is a text with its ${...} replaced, and the way back.
type substitution struct {
	text     string
	segments []segment
	unknown  []unknown
}

// unknown is a use of a variable that has no value here, and no default.
type unknown struct {
	name   string
	offset int
}

// segment says that text from offset to on came from offset from on: byte by byte, or, if fixed, all of it.
type segment struct {
	to, from int
	fixed    bool
}

// substituteError is a ${...} that cannot be evaluated.
type substituteError struct {
	offset  int
	message string
}

func (e *substituteError) Error() string { return e.message }

// substitute replaces every ${...} of text, wherever it stands, and undoes the escapes $$, \\ and \/. It gives what
// github.com/drone/envsubst v1.0.3 gives, except that it refuses what makes that one crash or run away. A name
// that value does not know is empty. The error is a [*substituteError].
func substitute(text string, value func(name string) (string, bool)) (substitution, error) {
	e := expander{text: text, value: value}
	var out strings.Builder
	var segments []segment
	start := 0
	flush := func(next int) {
		if start < e.pos {
			segments = append(segments, segment{to: out.Len(), from: start})
			out.WriteString(text[start:e.pos])
		}
		e.pos, start = next, next
	}
	for e.pos < len(text) {
		switch {
		case e.escaped():
			flush(e.pos + 1)
			e.pos++ // what was escaped is plain, also a dollar before a brace
		case strings.HasPrefix(text[e.pos:], "${"):
			begin := e.pos
			flush(begin)
			result, err := e.expression(0)
			if err == nil && out.Len()+len(result) > maxSubstituted {
				err = errTooLong
			}
			if err != nil {
				return substitution{}, &substituteError{begin, e.describe(begin, err)}
			}
			segments = append(segments, segment{to: out.Len(), from: begin, fixed: true})
			out.WriteString(result)
			start = e.pos
		default:
			e.pos++
		}
	}
	flush(e.pos)
	return substitution{out.String(), segments, e.unknown}, nil
}

// from returns the offset of the original text that the given offset of s.text came from.
func (s substitution) from(offset int) int {
	low, high := 0, len(s.segments)
	for low < high {
		if mid := (low + high) / 2; s.segments[mid].to <= offset {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low == 0 {
		return offset
	}
	seg := s.segments[low-1]
	if seg.fixed {
		return seg.from
	}
	return seg.from + offset - seg.to
}

// at returns the function that maps places of s.text to places of original.
func (s substitution) at(original string) func(yaml.Pos) yaml.Pos {
	here, there := cursor{text: s.text, pos: yaml.Pos{Line: 1, Column: 1}}, cursor{text: original, pos: yaml.Pos{Line: 1, Column: 1}}
	return func(p yaml.Pos) yaml.Pos { return there.place(s.from(here.offsetOf(p))) }
}

// cursor walks a text and counts lines and columns. Looking up places in the order of the text takes one walk.
type cursor struct {
	text   string
	offset int
	pos    yaml.Pos
}

func (c *cursor) rewind() { c.offset, c.pos = 0, yaml.Pos{Line: 1, Column: 1} }

func (c *cursor) step() {
	r, n := utf8.DecodeRuneInString(c.text[c.offset:])
	c.offset += n
	c.pos.Column++
	if r == '\n' {
		c.pos = yaml.Pos{Line: c.pos.Line + 1, Column: 1}
	}
}

func (c *cursor) offsetOf(p yaml.Pos) int {
	if p.Line < c.pos.Line || p.Line == c.pos.Line && p.Column < c.pos.Column {
		c.rewind()
	}
	for c.offset < len(c.text) && (c.pos.Line < p.Line || c.pos.Line == p.Line && c.pos.Column < p.Column) {
		c.step()
	}
	return c.offset
}

func (c *cursor) place(offset int) yaml.Pos {
	if offset < c.offset {
		c.rewind()
	}
	for c.offset < min(offset, len(c.text)) {
		c.step()
	}
	return c.pos
}

// The ways in which an expression can be wrong.
var (
	errNoName   = errors.New("a variable's name must follow ${")
	errNoBrace  = errors.New("the closing brace is missing, or this form is not supported")
	errNoArg    = errors.New("an argument is missing")
	errBadForm  = errors.New("this form is not supported")
	errTooDeep  = errors.New("this is nested too deep")
	errTooLong  = errors.New("the result is too long")
	errNegative = errors.New("a length cannot be negative")
)

// expander evaluates expressions of text at pos.
type expander struct {
	text    string
	pos     int
	value   func(name string) (string, bool)
	unknown []unknown
}

// describe says what is wrong with the expression at begin.
func (e *expander) describe(begin int, err error) string {
	shown, _, _ := strings.Cut(e.text[begin:], "\n")
	if end := strings.IndexByte(shown, '}'); end >= 0 {
		shown = shown[:end+1]
	}
	if runes := []rune(shown); len(runes) > 40 {
		shown = string(runes[:40]) + "..."
	}
	return fmt.Sprintf("cannot substitute %s: %v; write $${ to keep it for the shell", shown, err)
}

func (e *expander) peek() byte {
	if e.pos < len(e.text) {
		return e.text[e.pos]
	}
	return 0
}

func (e *expander) accept(b byte) bool {
	if e.peek() == b && e.pos < len(e.text) {
		e.pos++
		return true
	}
	return false
}

// escaped reports whether the character at pos makes the next one plain.
func (e *expander) escaped() bool {
	if e.pos+1 >= len(e.text) {
		return false
	}
	switch e.text[e.pos : e.pos+2] {
	case "$$", `\\`, `\/`:
		return true
	}
	return false
}

func (e *expander) name() string {
	start := e.pos
	for e.pos < len(e.text) {
		r, n := utf8.DecodeRuneInString(e.text[e.pos:])
		if r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			break
		}
		e.pos += n
	}
	return e.text[start:e.pos]
}

// operator takes the first of ops, longest first, that stands at pos.
func (e *expander) operator(ops ...string) string {
	for _, op := range ops {
		if strings.HasPrefix(e.text[e.pos:], op) {
			e.pos += len(op)
			return op
		}
	}
	return ""
}

// expression evaluates the ${...} at pos and goes behind it.
func (e *expander) expression(depth int) (string, error) {
	if depth > maxNesting {
		return "", errTooDeep
	}
	begin := e.pos
	e.pos += len("${")
	length := e.accept('#')
	name := e.name()
	if name == "" {
		return "", errNoName
	}
	v, known := e.value(name)
	if length {
		return e.close(strconv.Itoa(len(v)), nil)
	}
	if op := e.operator(":=", ":-", ":?", ":+", "="); op != "" {
		return e.orDefault(v, depth)
	}
	if !known && len(e.unknown) < maxProblems {
		e.unknown = append(e.unknown, unknown{name, begin})
	}
	switch e.peek() {
	case ':':
		return e.substring(v, depth)
	case ',', '^':
		return e.close(convertCase(e.operator(",,", "^^", ",^", "^,", ",", "^"), v), nil)
	case '/':
		return e.replace(v, depth)
	case '#', '%':
		op := e.operator("##", "%%", "#", "%")
		arg, err := e.argument("}", false, depth)
		if err != nil {
			return "", err
		}
		trimmed, err := trim(v, arg, op)
		return e.close(trimmed, err)
	}
	if !e.accept('}') {
		return "", errNoBrace
	}
	return v, nil
}

// close takes the closing brace after an expression whose result is known.
func (e *expander) close(result string, err error) (string, error) {
	if err != nil {
		return "", err
	}
	if !e.accept('}') {
		return "", errBadForm
	}
	if len(result) > maxSubstituted {
		return "", errTooLong
	}
	// Positions count bytes, so that half a character may be left over at an end.
	return strings.ToValidUTF8(result, ""), nil
}

// argument takes a nested expression, or text up to one of the bytes of until or to a nested expression.
func (e *expander) argument(until string, escapes bool, depth int) (string, error) {
	if strings.HasPrefix(e.text[e.pos:], "${") {
		return e.expression(depth + 1)
	}
	var arg strings.Builder
	start := e.pos
	for e.pos < len(e.text) {
		if strings.HasPrefix(e.text[e.pos:], "${") {
			break
		}
		if escapes && e.escaped() {
			e.pos++
		} else if strings.IndexByte(until, e.peek()) >= 0 {
			break
		}
		arg.WriteByte(e.peek())
		e.pos++
	}
	if e.pos == start {
		return "", errNoArg
	}
	return arg.String(), nil
}

// orDefault evaluates what follows := and its like, which all mean the same here: the rest if v is empty.
func (e *expander) orDefault(v string, depth int) (string, error) {
	var rest strings.Builder
	for e.peek() != '}' {
		arg, err := e.argument("}", false, depth)
		if err != nil {
			return "", err
		}
		rest.WriteString(arg)
		if rest.Len() > maxSubstituted {
			return "", errTooLong
		}
	}
	if v == "" {
		v = rest.String()
	}
	return e.close(v, nil)
}

// substring evaluates :position and :position:length. What is no number leaves v as it is.
func (e *expander) substring(v string, depth int) (string, error) {
	e.pos++
	if e.pos < len(e.text) && e.peek() >= utf8.RuneSelf {
		return "", errBadForm
	}
	from, err := e.argument(":}", false, depth)
	if err != nil {
		return "", err
	}
	position, err := strconv.Atoi(from)
	whole := err != nil
	if position < 0 {
		position = max(0, len(v)+position)
	}
	position = min(position, len(v))
	end := len(v)
	if e.peek() == ':' {
		for e.accept(':') {
		}
		count, err := e.argument("}", false, depth)
		if err != nil {
			return "", err
		}
		length, err := strconv.Atoi(count)
		whole = whole || err != nil
		if !whole && length < 0 {
			return "", errNegative
		}
		end = position + min(max(length, 0), len(v)-position)
	}
	if whole {
		return e.close(v, nil)
	}
	return e.close(v[position:end], nil)
}

func convertCase(op, v string) string {
	r, n := utf8.DecodeRuneInString(v)
	switch op {
	case ",,":
		return strings.ToLower(v)
	case "^^":
		return strings.ToUpper(v)
	case ",":
		if n > 0 {
			return string(unicode.ToLower(r)) + v[n:]
		}
	case "^":
		if n > 0 {
			return string(unicode.ToUpper(r)) + v[n:]
		}
	}
	return v
}

// replace evaluates /old/new and its forms. Without new, the ends are left as they are.
func (e *expander) replace(v string, depth int) (string, error) {
	op := e.operator("//", "/#", "/%", "/")
	old, err := e.argument("/", true, depth)
	if err != nil {
		return "", err
	}
	if strings.Contains(old, "\n") { // it ran over the expression's end in search of a slash
		return "", errBadForm
	}
	if e.peek() != '/' {
		return "", errBadForm
	}
	for e.accept('/') {
	}
	with, has := "", false
	if e.peek() != '}' {
		if with, err = e.argument("}", true, depth); err != nil {
			return "", err
		}
		has = true
	}
	switch op {
	case "/":
		return e.close(strings.Replace(v, old, with, 1), nil)
	case "//":
		if len(with) > 0 && (strings.Count(v, old)+1)*len(with) > maxSubstituted {
			return "", errTooLong
		}
		return e.close(strings.ReplaceAll(v, old, with), nil)
	case "/#":
		if has && strings.HasPrefix(v, old) {
			v = with + v[len(old):]
		}
	case "/%":
		if has && strings.HasSuffix(v, old) {
			v = v[:len(v)-len(old)] + with
		}
	}
	return e.close(v, nil)
}
