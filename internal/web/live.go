package web

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"slipway/internal/auth"
	"slipway/internal/ci"
)

// What changes reaches an open page as server-sent events, on one connection, because a browser has only six for all
// pages of a server. The events are
//
//	page   HTML of the parts of the page that may have changed, each with an id
//	reset  the number of the job and the step, "1.2", whose log follows
//	log    HTML of lines of the log, each with an id; one that the page has already is replaced
//	end    nothing will change any more
//
// They say how things are, not what happened, so one that is lost or comes twice does no harm.
const (
	// logPause and listPause are how long events are gathered before they are sent.
	logPause  = 100 * time.Millisecond
	listPause = time.Second
	// heartbeat is how often a quiet connection is used, so that proxies keep it and dead ones are found.
	heartbeat = 15 * time.Second
	// stalled is how long a browser may take to receive an event.
	stalled = 30 * time.Second
)

// stream sends events.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	sent    map[string]string // the last data of events that say how things are
}

func newStream(w http.ResponseWriter) *stream {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would gather events
	return &stream{w, http.NewResponseController(w), map[string]string{}}
}

// send sends one event.
func (s *stream) send(event, data string) error {
	_ = s.control.SetWriteDeadline(time.Now().Add(stalled)) // not every connection has deadlines
	var b strings.Builder
	b.WriteString("event: " + event + "\n")
	for line := range strings.SplitSeq(strings.TrimSuffix(data, "\n"), "\n") {
		b.WriteString("data: " + strings.ReplaceAll(line, "\r", " ") + "\n")
	}
	b.WriteString("\n")
	if _, err := s.w.Write([]byte(b.String())); err != nil {
		return err
	}
	return s.control.Flush()
}

// change sends an event unless its data are what was sent last.
func (s *stream) change(event, data string) error {
	if s.sent[event] == data {
		return nil
	}
	s.sent[event] = data
	return s.send(event, data)
}

func (s *stream) beat() error {
	_ = s.control.SetWriteDeadline(time.Now().Add(stalled))
	if _, err := s.w.Write([]byte(":\n\n")); err != nil {
		return err
	}
	return s.control.Flush()
}

// liveRuns keeps a list of runs up to date: that of a repo, or that of all.
func (p *pages) liveRuns(w http.ResponseWriter, r *http.Request) {
	changes, stop := p.Flow.Changes()
	defer stop()
	look := func() (string, error) {
		if r.PathValue("name") != "" {
			repo, _, err := p.readable(r)
			if err != nil {
				return "", err
			}
			view, err := p.listRepo(r, repo)
			if err != nil {
				return "", err
			}
			return p.fragment("repo", view)
		}
		who, err := p.who(r)
		if err != nil {
			return "", err
		}
		view, err := p.listAll(r, who)
		if err != nil {
			return "", err
		}
		return p.fragment("runs", view)
	}
	page, err := look()
	if err != nil {
		p.fail(w, r, err)
		return
	}
	s := newStream(w)
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		if err := s.change("page", page); err != nil {
			return // the browser went away, as they do
		}
		if !pause(r.Context(), listPause) {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-changes:
			for len(changes) > 0 {
				<-changes
			}
		case <-beat.C:
			if err := s.beat(); err != nil {
				return
			}
		}
		if page, err = look(); err != nil {
			return // the browser asks again, and is told
		}
	}
}

// pause waits, and reports whether to go on.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// liveRun keeps the page of a run up to date. The query says what the page shows: "at" is the step whose log it has, and
// "after" the line up to which it has it, without which the log stays as it is; with "auto" the page goes on to the step
// that matters most.
func (p *pages) liveRun(w http.ResponseWriter, r *http.Request) {
	changes, stop := p.Flow.Changes() // before the first look, so that nothing is missed between them
	defer stop()
	run, repo, who, err := p.find(r)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	query := r.URL.Query()
	job, step, _ := strings.Cut(query.Get("at"), ".")
	at, _ := stepAt(run, number(job), number(step)) // a page without a step has none
	l := openRun{pages: p, stream: newStream(w), at: at, auto: query.Get("auto") != "", ready: make(chan struct{}, 1)}
	defer l.unfollow()
	if query.Has("after") {
		l.follow(r.Context(), number(query.Get("after")))
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for again := true; ; {
		if over, err := l.show(r.Context(), run, repo, who, again); over || err != nil {
			return // an error means that the browser went away; it asks again if it did not mean to
		}
		if !pause(r.Context(), logPause) {
			return
		}
		again = false
		select {
		case <-r.Context().Done():
			return
		case <-l.ready:
		case id := <-changes:
			again = id == run.ID
		case <-beat.C:
			if l.beat() != nil {
				return
			}
			again = true           // in case a change was missed
			if run.Status.Done() { // its log has not ended, and won't
				_ = l.send("end", titleOf(run)) // who went away needs it no more
				return
			}
		}
		again = again || len(changes) == cap(changes) // then some were dropped
		for len(changes) > 0 {
			again = <-changes == run.ID || again
		}
		if again {
			if run, repo, who, err = p.find(r); err != nil {
				return
			}
		}
	}
}

// openRun is what one open page of a run is told.
type openRun struct {
	*pages
	*stream
	at   place
	auto bool
	feed *feed
	// ready has an element when feed has something new.
	ready chan struct{}
}

// show sends what is new: lines of the log, and if the run has changed the parts of the page. It reports whether nothing
// will be new any more.
func (l *openRun) show(ctx context.Context, run ci.Run, repo ci.Repo, who auth.Principal, changed bool) (over bool, err error) {
	logEnded := l.feed == nil || l.feed.ended()
	if l.at.Job != nil { // as it is now
		if l.at, err = stepAt(run, l.at.Job.Number, l.at.Step.Number); err != nil {
			return false, err
		}
		logEnded = logEnded || l.at.Step.Started.IsZero()
	}
	if l.auto {
		// The rest of a log comes before the page goes on to another.
		if next := choose(run, l.at); next.String() != l.at.String() && logEnded {
			if err := l.sendLog(); err != nil {
				return false, err
			}
			l.at, changed = next, true
			if err := l.send("reset", next.String()); err != nil {
				return false, err
			}
			l.follow(ctx, 0)
			logEnded = next.Job == nil || next.Step.Started.IsZero()
		}
	}
	if changed {
		view := l.runView(run, repo, who, l.at)
		if err := l.addRecords(ctx, &view); err != nil {
			return false, err
		}
		page, err := l.fragment("run", view)
		if err != nil {
			l.Log.Error("live page", "error", err)
			return false, err
		}
		if err := l.change("page", page); err != nil {
			return false, err
		}
	}
	if err := l.sendLog(); err != nil {
		return false, err
	}
	if !run.Status.Done() || !logEnded {
		return false, nil
	}
	return true, l.send("end", titleOf(run))
}

// follow begins to read the log at l.at. The page has its lines up to after.
func (l *openRun) follow(ctx context.Context, after int) {
	l.unfollow()
	if l.at.Job == nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	f := &feed{sent: after, cancel: cancel, done: make(chan struct{}), ready: l.ready}
	job, step := l.at.Job.ID, l.at.Step.Number
	go func() {
		defer close(f.done)
		defer f.signal()
		if err := l.Flow.CopyLog(ctx, f, job, step, 0, true); err != nil && ctx.Err() == nil {
			l.Log.Error("follow a log", "job", job, "step", step, "error", err)
		}
	}()
	l.feed = f
}

func (l *openRun) unfollow() {
	if l.feed != nil {
		l.feed.cancel()
		<-l.feed.done
		l.feed = nil
	}
}

func (l *openRun) sendLog() error {
	if l.feed == nil {
		return nil
	}
	if lines := l.feed.take(); lines != "" {
		return l.send("log", lines)
	}
	return nil
}

// feed is an [io.Writer] of a log that is being followed. It takes a log as fast as it comes, and keeps no more of it
// than a page shows.
type feed struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when the log has ended
	ready  chan struct{}

	mu   sync.Mutex
	view logView
	sent int // up to this line the page has them
	news bool
}

// Write implements [io.Writer].
func (f *feed) Write(p []byte) (int, error) {
	f.mu.Lock()
	f.news = true
	n, err := f.view.Write(p)
	f.mu.Unlock()
	f.signal()
	return n, err
}

func (f *feed) signal() {
	select {
	case f.ready <- struct{}{}:
	default:
	}
}

// ended reports whether all of the log has been written.
func (f *feed) ended() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// take returns the lines that the page does not have yet.
func (f *feed) take() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.news {
		return ""
	}
	f.news = false
	lines := f.view.window(f.sent)
	f.sent = max(f.sent, f.view.ended)
	return lines
}
