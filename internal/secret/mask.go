package secret

import (
	"io"
	"slices"
)

// Mask stands in the place of a secret.
const Mask = "[masked]"

// Masker finds secrets in text. It is an Aho-Corasick automaton: one pass over the text, however many secrets there are.
// It is immutable, and may be used concurrently.
//
// What is found is each value of at least [MinMasked] bytes, as it is, in base64, and as it stands in a URL, in JSON, in Go's
// %q and in the trace of a shell. The lines of a value are found one by one, since that is how they come out of most
// programs. Where finds overlap, what they cover together is one mask; finds next to each other are two. A program
// that wants to give a secret away finds other ways: masking is against accidents.
type Masker struct {
	nodes []node // 0 is the root
	// first is the child of the root for each byte, or 0.
	first [256]uint32
	// pairs has a bit for each two bytes that some pattern begins with. Most text is passed over by it alone.
	pairs [1 << 16 / 64]uint64
}

// node is a state of the automaton: the longest end of the text so far that some pattern begins with.
type node struct {
	child, sibling uint32 // the first child, and the next one of the same parent; 0 is none
	fail           uint32 // the node of the longest proper end of this one
	open           uint32 // the length of the longest end of it that some pattern begins with, and is longer than
	match          uint32 // the length of the longest pattern that is an end of it; 0 is none
	char           byte
}

// NewMasker returns a masker of values.
func NewMasker(values []string) *Masker {
	m := &Masker{nodes: make([]node, 1)}
	for _, value := range values {
		for _, form := range forms(value) {
			m.add(form)
		}
	}
	m.link()
	return m
}

// add puts a pattern, of at least two bytes, into the trie.
func (m *Masker) add(pattern string) {
	at := uint32(0)
	for i := range len(pattern) {
		next := m.next(at, pattern[i])
		if next == 0 {
			next = uint32(len(m.nodes))
			m.nodes = append(m.nodes, node{sibling: m.nodes[at].child, open: uint32(i) + 1, char: pattern[i]})
			m.nodes[at].child = next
			if at == 0 {
				m.first[pattern[i]] = next
			}
		}
		at = next
	}
	m.nodes[at].match = uint32(len(pattern))
	pair := int(pattern[0])<<8 | int(pattern[1])
	m.pairs[pair/64] |= 1 << (pair % 64)
}

// next returns the child of a node for a byte, or 0.
func (m *Masker) next(at uint32, char byte) uint32 {
	if at == 0 {
		return m.first[char]
	}
	for at = m.nodes[at].child; at != 0 && m.nodes[at].char != char; at = m.nodes[at].sibling {
	}
	return at
}

// link sets where each node goes on when the text leaves its patterns, the short ones first.
func (m *Masker) link() {
	queue := make([]uint32, 0, len(m.nodes))
	queue = append(queue, 0)
	for i := 0; i < len(queue); i++ {
		at := queue[i]
		for child := m.nodes[at].child; child != 0; child = m.nodes[child].sibling {
			n := &m.nodes[child]
			if at != 0 {
				n.fail = m.step(m.nodes[at].fail, n.char)
			}
			if n.match == 0 {
				n.match = m.nodes[n.fail].match
			}
			if n.child == 0 {
				n.open = m.nodes[n.fail].open
			}
			queue = append(queue, child)
		}
	}
}

// step returns the state after one more byte.
func (m *Masker) step(at uint32, char byte) uint32 {
	for {
		if next := m.next(at, char); next != 0 || at == 0 {
			return next
		}
		at = m.nodes[at].fail
	}
}

// begins reports whether some pattern begins with a and b.
func (m *Masker) begins(a, b byte) bool {
	pair := int(a)<<8 | int(b)
	return m.pairs[pair/64]&(1<<(pair%64)) != 0
}

// Mask returns s with its secrets masked.
func (m *Masker) Mask(s string) string {
	var out appender
	w := m.Writer(&out)
	_, _ = w.Write([]byte(s)) // out takes everything
	_ = w.Flush()
	return string(out)
}

type appender []byte

func (a *appender) Write(p []byte) (int, error) {
	*a = append(*a, p...)
	return len(p), nil
}

// Writer returns a writer that masks what goes to out.
func (m *Masker) Writer(out io.Writer) *Writer { return &Writer{masker: m, out: out} }

// Writer masks a stream, whatever the parts that it comes in. It holds back no more than it must: the end of the text
// while that is the beginning of a secret. No line break is ever part of a find, so a complete line is never
// held back, and there is nothing to flush while the stream lives. It is for one goroutine at a time.
type Writer struct {
	masker *Masker
	out    io.Writer
	err    error // the first error of out, which all that follows returns

	state    uint32
	read     int64 // bytes written to this writer
	consumed int64 // of these, how many are out, as they were or masked
	held     []byte
	heldAt   int64  // where in the stream held begins
	finds    []find // in order, apart from each other, and none of them out
	buffer   []byte // what goes out next, kept for its memory
}

// find is a part of the stream that is masked.
type find struct{ start, end int64 }

// Write implements [io.Writer].
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	w.held = append(w.held, p...)
	w.scan(w.held[len(w.held)-len(p):])
	// A find that is yet to come begins where the state says, or later.
	if err := w.emit(w.read - int64(w.masker.nodes[w.state].open)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Flush writes what is held back, at the end of the stream: it cannot become a secret any more.
func (w *Writer) Flush() error {
	if w.err != nil {
		return w.err
	}
	w.state = 0
	return w.emit(w.read)
}

// Consumed returns how many of the bytes written to w are out, as they were or masked. A new writer that is given the stream
// from there on writes what this one would have: that is where to go on after a crash.
func (w *Writer) Consumed() int64 { return w.consumed }

// scan follows the automaton over p and collects finds.
func (w *Writer) scan(p []byte) {
	m, state := w.masker, w.state
	for i := 0; i < len(p); i++ {
		if state == 0 {
			for i+1 < len(p) && !m.begins(p[i], p[i+1]) {
				i++
			}
		}
		state = m.step(state, p[i])
		if length := m.nodes[state].match; length > 0 {
			end := w.read + int64(i) + 1
			w.found(find{end - int64(length), end})
		}
	}
	w.state = state
	w.read += int64(len(p))
}

// found adds a find, which ends behind all others, and joins it with those that it overlaps.
func (w *Writer) found(f find) {
	for n := len(w.finds); n > 0 && w.finds[n-1].end > f.start; n-- {
		f.start = min(f.start, w.finds[n-1].start)
		w.finds = w.finds[:n-1]
	}
	w.finds = append(w.finds, f)
}

// emit writes the stream up to decided, where no find can begin any more.
func (w *Writer) emit(decided int64) error {
	out := w.buffer[:0]
	consumed := w.consumed
	text := func(end int64) { // up to end, without what is masked
		if end > consumed {
			out = append(out, w.held[consumed-w.heldAt:end-w.heldAt]...)
			consumed = end
		}
	}
	done := 0
	for _, f := range w.finds {
		if f.end > decided { // another one may join it
			decided = min(decided, f.start)
			break
		}
		text(f.start)
		out = append(out, Mask...)
		consumed = f.end
		done++
	}
	text(decided)
	w.finds = slices.Delete(w.finds, 0, done)

	// Of a find that is open, however long it gets, only the ends are remembered.
	keep := consumed
	if len(w.finds) > 0 && w.finds[0].start == consumed {
		keep = w.finds[0].end
	}
	w.held = w.held[:copy(w.held, w.held[keep-w.heldAt:])]
	w.heldAt = keep
	w.buffer = out[:0]
	if len(out) > 0 {
		if _, w.err = w.out.Write(out); w.err != nil {
			return w.err
		}
	}
	w.consumed = consumed
	return nil
}
