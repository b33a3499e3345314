package rollout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"slipway/internal/fault"
	"slipway/internal/manifest"
)

// The times of watching.
const (
	// interval is the time between two looks at what no watch tells of, and between two lines about an object.
	interval = 500 * time.Millisecond
	// gather is how long changes are gathered that come together; outside of watches, requests have to be spared.
	gather, spare = 10 * time.Millisecond, 250 * time.Millisecond
	// resync is how often the objects themselves are read whatever the watches say, for each twenty of them.
	resync = 10 * time.Second
)

// watch follows the objects of r, which were applied, until all are rolled out, one fails for certain, or the deadline is
// over; timeout is what people are told of it. It writes a line to p when a status changes, and, on failure, the last log
// lines of the container that is to blame. While the API server does not answer, it tries again. When ctx is canceled it
// returns at once; a deadline of ctx is taken for its own. The statuses are those that it saw last, in the order of the objects.
func watch(ctx context.Context, r Request, deadline time.Time, timeout time.Duration, p *printer) ([]Status, error) {
	w := &watcher{
		reader:  &reader{client: r.Client, patience: r.Patience.withDefaults(), printer: p, denied: map[string]bool{}},
		printer: p,
		painter: r.painter,
		drain:   r.drain,
		server:  outage{client: r.Client, printer: p},
		since:   map[string]time.Time{},
		timeout: timeout,
	}
	var followed []manifest.Object
	for _, o := range r.Objects {
		if !instant[o.GroupVersionKind().GroupKind()] {
			followed = append(followed, o)
			w.statuses = append(w.statuses, Status{Object: o})
		}
	}
	w.said = make([]said, len(followed))
	limited, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	w.reader.follow(newMirrors(limited, r.Client), followed)
	defer w.reader.mirrors.close()
	synced := time.Now()
	for {
		err := w.look(limited)
		switch {
		case ctx.Err() != nil && !errors.Is(context.Cause(ctx), context.DeadlineExceeded):
			w.tell(true)
			return w.statuses, w.canceled(context.Cause(ctx))
		case limited.Err() != nil:
			// The causes are worth a little more time.
			late, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			return w.statuses, w.overdue(late)
		case w.server.again(limited, err):
			continue
		case err != nil && limited.Err() == nil:
			return w.statuses, err
		}
		if failed := w.failed(time.Now()); len(failed) > 0 {
			return w.statuses, w.failure(limited, failed)
		}
		if w.done() {
			w.tell(true)
			return w.statuses, nil
		}
		w.tell(false)
		w.pause(limited)
		w.reader.fresh = time.Since(synced) > resync*time.Duration(1+len(w.statuses)/20)
		if w.reader.fresh {
			synced = time.Now()
		}
	}
}

// pause waits until there may be something new.
func (w *watcher) pause(ctx context.Context) {
	together := gather
	if !w.reader.mirrors.whole() {
		together = spare
	}
	select {
	case <-ctx.Done():
		return
	case <-time.After(interval):
		return
	case <-w.reader.mirrors.wake:
	}
	select {
	case <-ctx.Done():
	case <-time.After(together):
	}
}

// watcher follows objects. It is used by one goroutine.
type watcher struct {
	reader   *reader
	printer  *printer
	painter  *painter // may be nil
	logs     logs
	drain    func() // if not nil, called before the last lines: then the log of what is followed is shown
	server   outage
	statuses []Status
	said     []said               // of each status
	since    map[string]time.Time // when a trouble was first seen; see trouble.grace
	timeout  time.Duration
}

// said is what was printed of a status last, and when.
type said struct {
	text string
	at   time.Time
}

// look reads the status of all objects that are not done.
func (w *watcher) look(ctx context.Context) error {
	for i := range w.statuses {
		before := w.statuses[i]
		if before.Done {
			continue
		}
		s, err := w.reader.status(ctx, before.Object)
		switch {
		case apierrors.IsNotFound(err):
			s = Status{Object: before.Object, Text: "is gone", troubles: []trouble{{key: "gone", cause: "was deleted while it was rolled out"}}}
		case err != nil:
			return err
		}
		w.server.over()
		w.statuses[i] = s
		w.paint(ctx, s, false)
	}
	return nil
}

func (w *watcher) paint(ctx context.Context, s Status, failed bool) {
	if !w.painter.watched() {
		return
	}
	lines, of := w.logs.of(s, func(t trouble) []string { return w.reader.log(ctx, s.Object.GetNamespace(), t) })
	w.painter.paint(s, failed, lines, of)
}

// tell prints and shows what is new. What changes all the time is told from time to time, unless last is set.
func (w *watcher) tell(last bool) {
	if last && w.drain != nil {
		w.drain()
	}
	w.say(time.Now(), last)
	w.painter.flush(last)
}

// say prints the statuses that have changed since they were printed last.
func (w *watcher) say(now time.Time, last bool) {
	for i, s := range w.statuses {
		before := w.said[i]
		if s.Text == before.text || s.Text == "" || s.Text == unnoticed || s.Text == podless || s.quiet && before.text == "" {
			continue
		}
		if last || s.Done || now.Sub(before.at) >= interval {
			w.said[i] = said{s.Text, now}
			w.printer.linef("%s", s)
		}
	}
}

func (w *watcher) done() bool {
	for _, s := range w.statuses {
		if !s.Done {
			return false
		}
	}
	return true
}

// failure is a status with the trouble that ends its rollout.
type failure struct {
	Status
	trouble trouble
}

// String returns the sentence that says what failed, why, and what serves now.
func (f failure) String() string {
	sentence := fmt.Sprintf("%s: %s", f.Object, f.trouble.cause)
	if f.Old != "" {
		sentence += "; " + f.Old
	}
	return sentence
}

// failed returns the objects with a trouble that has stayed for longer than its grace.
func (w *watcher) failed(now time.Time) []failure {
	var failed []failure
	seen := map[string]time.Time{}
	for _, s := range w.statuses {
		certain := false
		for _, t := range s.troubles {
			key := objectKey(s.Object) + " " + t.key
			first, ok := w.since[key]
			if !ok {
				first = now
			}
			seen[key] = first
			if !certain && now.Sub(first) >= t.grace {
				failed = append(failed, failure{s, t})
				certain = true
			}
		}
	}
	w.since = seen
	return failed
}

func objectKey(o manifest.Object) string {
	return o.GroupVersionKind().GroupKind().String() + "/" + o.GetNamespace() + "/" + o.GetName()
}

// failure prints what is known of the failed objects and returns the sentence.
func (w *watcher) failure(ctx context.Context, failed []failure) error {
	for _, f := range failed {
		w.paint(ctx, f.Status, true)
	}
	w.tell(true)
	for _, f := range failed {
		w.printer.linef("%s", f)
		w.log(ctx, f)
	}
	message := failed[0].String()
	if more := len(failed) - 1; more > 0 {
		message += fmt.Sprintf(" (and %d more of the objects fail)", more)
	}
	return &fault.Error{Code: fault.Failed, Message: oneLine(message)}
}

// log prints the last log lines of the container that is to blame, if one is.
func (w *watcher) log(ctx context.Context, f failure) {
	if w.drain != nil || f.trouble.container == "" || strings.HasPrefix(f.trouble.key, "pull/") || strings.HasPrefix(f.trouble.key, "create/") {
		return
	}
	lines := w.reader.log(ctx, f.Object.GetNamespace(), f.trouble)
	if len(lines) == 0 {
		w.printer.linef("pod %s (container %s) wrote nothing to its log", f.trouble.pod, f.trouble.container)
		return
	}
	w.printer.linef("the last lines of the log of pod %s (container %s):", f.trouble.pod, f.trouble.container)
	for _, line := range lines {
		w.printer.quote(line)
	}
}

// overdue says what is not rolled out when the time is over, and why as far as it is known.
func (w *watcher) overdue(ctx context.Context) error {
	var failed []failure
	for _, s := range w.statuses {
		if s.Done {
			continue
		}
		t := trouble{cause: cmp.Or(s.Text, "nothing could be read of it")}
		if len(s.troubles) > 0 {
			t = s.troubles[0]
		}
		t.cause = fmt.Sprintf("not rolled out within %s: %s", w.timeout, t.cause)
		failed = append(failed, failure{s, t})
	}
	return w.failure(ctx, failed)
}

// canceled says in what state the cluster is left.
func (w *watcher) canceled(cause error) error {
	var pending []string
	for _, s := range w.statuses {
		if !s.Done && s.Text != "" {
			pending = append(pending, s.String())
		}
	}
	message := "the deployment was canceled while it was watched; the objects are applied, and the cluster goes on with them"
	if len(pending) > 0 {
		message += " (" + strings.Join(pending[:min(len(pending), 3)], "; ") + ")"
	}
	return &fault.Error{Code: fault.Failed, Message: message, Err: cause}
}
