package image

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
)

// progress prints what BuildKit reports as lines for a log: each begins with the number of its step, because steps run
// at the same time.
//
//	#3 [build 2/4] RUN go build
//	#3 | ./main.go:4:2: imported and not used
//	#3 done in 1.2s
type progress struct {
	out   io.Writer
	hide  hider
	steps map[digest.Digest]*step
	count int
}

type step struct {
	number  int
	partial []byte
	ended   bool
}

// maxPartial is how much of a line without end is kept back, in bytes.
const maxPartial = 16 << 10

func newProgress(out io.Writer, hide hider) *progress {
	return &progress{out: out, hide: hide, steps: map[digest.Digest]*step{}}
}

func (p *progress) printf(format string, args ...any) {
	_, _ = io.WriteString(p.out, p.hide.hide(fmt.Sprintf(format, args...)))
}

func (p *progress) update(s *client.SolveStatus) {
	for _, v := range s.Vertexes {
		p.begin(v)
	}
	for _, l := range s.Logs {
		p.log(l)
	}
	for _, v := range s.Vertexes {
		p.finish(v)
	}
	for _, w := range s.Warnings {
		if w.Level <= 1 {
			p.printf("warning: %s\n", w.Short)
		}
	}
}

// shown is false for BuildKit's housekeeping, which nobody asked for.
func shown(v *client.Vertex) bool {
	return !strings.HasPrefix(v.Name, "[internal]")
}

func (p *progress) begin(v *client.Vertex) {
	if v.Started == nil || p.steps[v.Digest] != nil || !shown(v) {
		return
	}
	p.count++
	p.steps[v.Digest] = &step{number: p.count}
	suffix := ""
	if v.Cached && v.Completed != nil {
		suffix = " CACHED"
		p.steps[v.Digest].ended = true
	}
	p.printf("#%d %s%s\n", p.count, strings.Join(strings.Fields(v.Name), " "), suffix)
}

func (p *progress) finish(v *client.Vertex) {
	s := p.steps[v.Digest]
	if v.Completed == nil || s == nil || s.ended {
		return
	}
	s.ended = true
	p.flush(s)
	switch {
	case strings.HasSuffix(v.Error, "context canceled"):
		p.printf("#%d canceled\n", s.number)
	case v.Error != "":
		p.printf("#%d failed\n", s.number) // the error of the build says why
	case v.Cached:
		p.printf("#%d CACHED\n", s.number)
	default:
		p.printf("#%d done in %s\n", s.number, duration(v.Completed.Sub(*v.Started)))
	}
}

// log prints the lines of output that are whole, so that a secret is never split between two writes.
func (p *progress) log(l *client.VertexLog) {
	s := p.steps[l.Vertex]
	if s == nil {
		return
	}
	s.partial = append(s.partial, l.Data...)
	for {
		line, rest, found := bytes.Cut(s.partial, []byte("\n"))
		if !found {
			break
		}
		p.printf("#%d | %s\n", s.number, bytes.TrimSuffix(line, []byte("\r")))
		s.partial = rest
	}
	if len(s.partial) > maxPartial {
		p.flush(s)
	}
}

func (p *progress) flush(s *step) {
	if len(s.partial) > 0 {
		p.printf("#%d | %s\n", s.number, s.partial)
		s.partial = nil
	}
}

// end prints what is left of steps whose end was never reported.
func (p *progress) end() {
	for _, s := range p.steps {
		p.flush(s)
	}
}

func duration(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(100 * time.Millisecond)
}
