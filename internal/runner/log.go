package runner

import (
	"strings"
	"sync"

	"slipway/internal/protocol"
	"slipway/internal/secret"
)

// pieceSize is how much output one event carries.
const pieceSize = 16 << 10

// stepLog is where a step's output goes: through the masker, in pieces, to the journal. Its methods may be called
// concurrently.
type stepLog struct {
	journal *journal
	masker  *secret.Masker
	step    int

	mu   sync.Mutex
	mask *secret.Writer
	out  []byte // masked, not yet in the journal
	// offset is the size of the masked output in the journal. base is how many bytes of the step's raw output were in it
	// when this process began, raw how many are now.
	offset, base, raw int64
	err               error
}

func newStepLog(j *journal, m *secret.Masker, step int, done stepRecord) *stepLog {
	l := &stepLog{journal: j, masker: m, step: step, offset: done.logged, base: done.raw, raw: done.raw}
	l.mask = m.Writer(sink{l})
	return l
}

// sink takes what the masker lets go.
type sink struct{ l *stepLog }

func (s sink) Write(p []byte) (int, error) {
	s.l.out = append(s.l.out, p...)
	return len(p), nil
}

// Write takes output of the step's process. It fails when the journal cannot be written.
func (l *stepLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rest := p; len(rest) > 0 && l.err == nil; {
		n := min(len(rest), pieceSize)
		if _, err := l.mask.Write(rest[:n]); err != nil {
			l.err = err
			break
		}
		l.emit()
		rest = rest[n:]
	}
	if l.err != nil {
		return 0, l.err
	}
	return len(p), nil
}

// emit hands what is masked to the journal, with how much raw output it stands for.
func (l *stepLog) emit() {
	raw := l.raw
	for len(l.out) > 0 && l.err == nil {
		n := min(len(l.out), protocol.MaxLogData) // masks and Slipway's own lines may make it larger than a piece
		if n == len(l.out) {
			raw = l.base + l.mask.Consumed() // after a crash before this, output comes twice rather than not at all
		}
		l.err = l.journal.add(protocol.Event{Log: &protocol.Log{
			Step: l.step, Offset: l.offset, Data: l.out[:n], Raw: raw,
		}})
		l.offset += int64(n)
		l.out = l.out[n:]
	}
	l.out, l.raw = nil, raw
}

// say adds lines of Slipway's own, all of them or none in the journal. An error is kept for flush.
func (l *stepLog) say(sentences ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, sentence := range sentences {
		l.out = append(l.out, "slipway: "+l.masker.Mask(strings.TrimSuffix(sentence, "\n"))+"\n"...)
	}
	l.emit()
}

// progress is where an engine says what it does before the step's process runs, line by line.
type progress struct{ log *stepLog }

// Write implements [io.Writer].
func (p progress) Write(b []byte) (int, error) {
	for line := range strings.Lines(string(b)) {
		p.log.say(line)
	}
	return len(b), nil
}

// flush lets go of what the masker holds back: no more output comes.
func (l *stepLog) flush() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.mask.Flush(); err != nil && l.err == nil {
		l.err = err
	}
	l.emit()
	return l.err
}

// oneLine makes an error a single sentence: further lines are for logs.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(strings.TrimSpace(s), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}
