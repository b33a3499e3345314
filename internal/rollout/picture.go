package rollout

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"slipway/internal/ci"
	"slipway/internal/manifest"
)

// The bounds of a picture: it is for people, and is sent and stored often.
const (
	pictureWorkloads = 100
	pictureEvents    = 5
	pictureDetails   = 10  // workloads with events and logs
	pictureText      = 300 // bytes of one text
	picturePause     = 500 * time.Millisecond
)

// painter keeps the picture of a deployment and shows it when it has changed, but not too often. It is used by the one
// goroutine of the deployment.
type painter struct {
	show func(ci.Rollout) // nil if nobody looks
	now  func() time.Time

	picture ci.Rollout
	at      map[string]int // where in the picture an object is, by its key
	changed bool
	shown   time.Time
}

func newPainter(show func(ci.Rollout)) *painter {
	return &painter{show: show, now: time.Now, at: map[string]int{}}
}

// watched reports whether somebody looks at the picture.
func (p *painter) watched() bool { return p != nil && p.show != nil }

// plan begins the picture with the objects that will be followed. If back is true, they are those of the release that is
// put back, and those that failed are kept beside them.
func (p *painter) plan(objects []manifest.Object, back bool) {
	if !p.watched() {
		return
	}
	var failed []ci.Workload
	for _, w := range p.picture.Workloads {
		if back && (w.State == ci.WorkloadFailed || w.State == ci.WorkloadTrouble) {
			failed = append(failed, w)
		}
	}
	p.picture, p.at, p.changed = ci.Rollout{Back: back, Failed: failed}, map[string]int{}, true
	for _, phase := range []string{HookBefore, "", HookAfter} {
		for _, o := range objects {
			if hookOf(o) == phase && (phase == "" || !back) && !instant[o.GroupVersionKind().GroupKind()] {
				p.at[objectKey(o)] = len(p.picture.Workloads)
				p.picture.Workloads = append(p.picture.Workloads, ci.Workload{
					Kind: o.GetKind(), Namespace: o.GetNamespace(), Name: o.GetName(), Hook: phase, State: ci.WorkloadWaits,
				})
			}
		}
	}
	p.flush(true)
}

// paint brings the picture up to date with a status. Log are lines of a container's log that explain its trouble.
func (p *painter) paint(s Status, failed bool, log []string, logOf string) {
	if !p.watched() {
		return
	}
	i, ok := p.at[objectKey(s.Object)]
	if !ok {
		i = len(p.picture.Workloads)
		p.at[objectKey(s.Object)] = i
		p.picture.Workloads = append(p.picture.Workloads, ci.Workload{Hook: hookOf(s.Object)})
		p.changed = true
	}
	w := ci.Workload{
		Kind: s.Object.GetKind(), Namespace: s.Object.GetNamespace(), Name: s.Object.GetName(), Hook: p.picture.Workloads[i].Hook,
		State: ci.WorkloadRolls, Text: cut(s.Text), Events: s.events, Log: log, LogOf: logOf,
		Desired: s.Pods.Desired, Updated: s.Pods.Updated, Ready: s.Pods.Ready, Old: s.Pods.Old, OldReady: s.Pods.OldReady, Restarts: s.Pods.Restarts,
	}
	switch {
	case s.Done:
		w.State = ci.WorkloadDone
	case failed:
		w.State = ci.WorkloadFailed
	case len(s.troubles) > 0 && !strings.HasPrefix(s.troubles[0].key, "ready/") && s.troubles[0].key != "pulling":
		w.State = ci.WorkloadTrouble
	}
	if len(s.troubles) > 0 && !s.Done {
		w.Trouble = cut(s.troubles[0].cause)
	}
	if !reflect.DeepEqual(w, p.picture.Workloads[i]) {
		p.picture.Workloads[i], p.changed = w, true
	}
}

// flush shows the picture if it has changed and the last one has had its time; with all set, it does not wait.
func (p *painter) flush(all bool) {
	if !p.watched() || !p.changed || !all && p.now().Sub(p.shown) < picturePause {
		return
	}
	p.changed, p.shown = false, p.now()
	picture := p.picture
	picture.Updated = p.now().UTC()
	picture.Workloads = slices.Clone(picture.Workloads)
	if more := len(picture.Workloads) - pictureWorkloads; more > 0 {
		slices.SortStableFunc(picture.Workloads, func(a, b ci.Workload) int { return cmp.Compare(urgency[b.State], urgency[a.State]) })
		picture.Workloads, picture.Omitted = picture.Workloads[:pictureWorkloads], more
	}
	picture.Failed = slices.Clone(picture.Failed[:min(len(picture.Failed), pictureWorkloads)])
	details := 0
	for _, workloads := range [][]ci.Workload{picture.Failed, picture.Workloads} {
		for i := range workloads {
			if workloads[i].State != ci.WorkloadDone {
				details++
			}
			if workloads[i].State == ci.WorkloadDone || details > pictureDetails {
				workloads[i].Events, workloads[i].Log, workloads[i].LogOf = nil, nil, ""
			}
		}
	}
	p.show(picture)
}

// urgency says which workloads are shown if there are too many.
var urgency = map[ci.WorkloadState]int{ci.WorkloadFailed: 4, ci.WorkloadTrouble: 3, ci.WorkloadRolls: 2, ci.WorkloadWaits: 1, ci.WorkloadDone: 0}

func cut(s string) string {
	if len(s) <= pictureText {
		return s
	}
	return strings.ToValidUTF8(s[:pictureText], "") + " …"
}

// with returns s with the newest events of p.
func (s Status) with(p podsAndEvents) Status {
	var all []corev1.Event
	for _, events := range p.events {
		all = append(all, events...)
	}
	slices.SortStableFunc(all, func(a, b corev1.Event) int { return byTime(b, a) })
	seen := map[string]bool{}
	for _, e := range all {
		if len(s.events) == pictureEvents {
			break
		}
		one := ci.WorkloadEvent{
			Time: when(e).UTC(), Object: strings.ToLower(e.InvolvedObject.Kind) + " " + e.InvolvedObject.Name,
			Reason: cut(oneLine(e.Reason)), Message: cut(oneLine(e.Message)), Count: max(1, int(e.Count)), Warning: e.Type == corev1.EventTypeWarning,
		}
		if key := fmt.Sprint(one.Reason, one.Message); !seen[key] { // one of several pods is enough
			seen[key] = true
			s.events = append(s.events, one)
		}
	}
	return s
}

// logs remembers the last lines of containers, so that they are read once for each time that a container ended.
type logs struct {
	lines map[string][]string
}

// of returns the last lines of the container that is to blame for a status, and its name, read by read if it has ended
// again since the last time.
func (l *logs) of(s Status, read func(trouble) []string) (lines []string, name string) {
	for _, t := range s.troubles {
		if !strings.HasPrefix(t.key, "exit/") && t.key != "job" || t.container == "" {
			continue
		}
		key := fmt.Sprint(t.pod, "/", t.container, "/", t.cause, "/", s.Pods.Restarts)
		found, ok := l.lines[key]
		if !ok {
			if l.lines == nil || len(l.lines) > 1000 {
				l.lines = map[string][]string{}
			}
			found = read(t)
			found = slices.Clone(found[max(0, len(found)-10):])
			for i := range found {
				found[i] = cut(found[i])
			}
			maps.DeleteFunc(l.lines, func(k string, _ []string) bool { return strings.HasPrefix(k, fmt.Sprint(t.pod, "/", t.container, "/")) })
			l.lines[key] = found
		}
		if len(found) > 0 {
			return found, t.pod + " (" + t.container + ")"
		}
	}
	return nil, ""
}
