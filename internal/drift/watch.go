// Package drift finds out by watching how environments come to differ from what was deployed to them, and puts it back
// where their policies say so.
//
// [Watch] follows one environment: a watch of the metadata of the kinds that its release has tells that something happened,
// and [rollout.Drift] then says what. [Keeper] does that for all environments of all clusters that a server knows, keeps what
// was found in the store, and has it healed.
package drift

import (
	"context"
	"encoding/json"
	"hash/fnv"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"slipway/internal/fault"
	"slipway/internal/release"
	"slipway/internal/rollout"
)

// Pace is how fast a watch is. Its zero value is right for all but tests.
type Pace struct {
	// Quiet is how long nothing may happen before the cluster is compared, because changes come in groups: 0 means half a
	// second. Comparing goes on after ten times that at the latest.
	Quiet time.Duration
	// Again is after how long it is compared again if that was not possible; 0 means 5 seconds, and grows to a minute.
	Again time.Duration
	// Resync is after how long it is compared although nothing was heard of; 0 means 10 minutes.
	Resync time.Duration
}

func (p Pace) filled() Pace {
	if p.Quiet == 0 {
		p.Quiet = 500 * time.Millisecond
	}
	if p.Again == 0 {
		p.Again = 5 * time.Second
	}
	if p.Resync == 0 {
		p.Resync = 10 * time.Minute
	}
	return p
}

// maxPause bounds how long anything is waited for that does not work: the way to a cluster that is away, first of all.
const maxPause = time.Minute

// maxStreams bounds the watches of one environment, each of a kind in a namespace. What is beyond is compared with the
// rest, but does not cause it.
const maxStreams = 40

// Watch compares an environment with the release that serves there, at once and whenever something may have changed, and
// calls found with each answer, until ctx is done. What cannot be asked is an answer, too: its Unknown says why, and it is
// tried again. Found is not called concurrently, and may take its time: what happens meanwhile is not lost.
func Watch(ctx context.Context, p release.Place, pace Pace, found func(context.Context, rollout.DriftReport)) {
	w := &watcher{place: p, pace: pace.filled(), found: found, happened: make(chan struct{}, 1)}
	for ctx.Err() == nil {
		w.release(ctx)
	}
}

// watcher is what [Watch] has in its hands.
type watcher struct {
	place release.Place
	pace  Pace
	found func(context.Context, rollout.DriftReport)
	// happened has an element when something may have changed.
	happened chan struct{}
	// pause is how long to wait before the next try; 0 after a good one.
	pause time.Duration
	// spent is how long the last comparison took.
	spent time.Duration
}

func (w *watcher) signal() {
	select {
	case w.happened <- struct{}{}:
	default:
	}
}

// release watches for as long as the same release serves.
func (w *watcher) release(ctx context.Context) {
	number, refs, err := w.inventory(ctx)
	if err != nil {
		w.tell(ctx, rollout.DriftReport{Unknown: sentence(w.place, err)})
		w.wait(ctx, w.tryAgain())
		return
	}
	watching, stop := context.WithCancel(ctx)
	var streams sync.WaitGroup
	defer streams.Wait()
	defer stop()
	f := newFilter(append(refs, w.place.StateRef()))
	groups := f.groups()
	for _, g := range groups[:min(len(groups), maxStreams)] {
		streams.Go(func() { w.follow(watching, g, f) })
	}
	for ctx.Err() == nil {
		start := time.Now()
		report, err := rollout.Drift(ctx, w.place)
		w.spent = time.Since(start)
		if err != nil {
			report.Unknown = sentence(w.place, err)
		}
		if report.Release.Number != 0 && report.Release.Number != number {
			return // another release serves, with other objects perhaps
		}
		w.tell(ctx, report)
		if report.Unknown != "" {
			w.wait(ctx, w.tryAgain())
		} else {
			w.pause = 0
			w.wait(ctx, w.pace.Resync)
		}
	}
}

// inventory returns the number of the release that serves and the names of its objects.
func (w *watcher) inventory(ctx context.Context) (int64, []release.Ref, error) {
	state, err := w.place.Load(ctx)
	if err != nil || state.Current == 0 {
		return 0, nil, err
	}
	record, err := w.place.Find(ctx, state.Current)
	return record.Number, rollout.Inventory(record.Objects), err
}

func (w *watcher) tell(ctx context.Context, report rollout.DriftReport) {
	if ctx.Err() == nil {
		w.found(ctx, report)
	}
}

// tryAgain returns how long to wait before something is tried again that did not work.
func (w *watcher) tryAgain() time.Duration {
	w.pause = min(max(w.pace.Again, 2*w.pause), maxPause)
	return w.pause
}

// wait returns when something has happened and is over, and after the given time at the latest.
func (w *watcher) wait(ctx context.Context, most time.Duration) {
	latest := time.NewTimer(most)
	defer latest.Stop()
	select {
	case <-ctx.Done():
		return
	case <-latest.C:
		return
	case <-w.happened:
		w.pause = 0
	}
	// A cluster that is changed all the time is not compared more than a tenth of the time.
	quiet := max(w.pace.Quiet, 10*w.spent)
	latest.Reset(10 * quiet)
	for {
		calm := time.NewTimer(quiet)
		select {
		case <-ctx.Done():
		case <-latest.C:
		case <-calm.C:
		case <-w.happened:
			calm.Stop()
			continue
		}
		calm.Stop()
		return
	}
}

// follow signals what happens to the objects of a group, until ctx is done.
func (w *watcher) follow(ctx context.Context, g group, f *filter) {
	for pause := w.pace.Again; ctx.Err() == nil; pause = min(2*pause, maxPause) {
		stood := false
		err := w.place.Client.Follow(ctx, g.kind, g.namespace,
			func() {
				stood, pause = true, w.pace.Again
				w.signal() // what happened before is not known
			},
			func(m *metav1.PartialObjectMetadata, gone bool) {
				if f.news(g.kind, m, gone) {
					w.signal()
				}
			})
		switch {
		case ctx.Err() != nil:
			return
		case apierrors.IsForbidden(err), apierrors.IsMethodNotSupported(err), meta.IsNoMatchError(err):
			pause = max(pause, w.pace.Resync) // what may not be watched is compared now and then
		case stood:
			w.signal() // the cluster may be away, which is news
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// sentence says why a place could not be asked.
func sentence(p release.Place, err error) string {
	return fault.Of(p.Client.Explain(err)).Message
}

// group is what one watch is for.
type group struct {
	kind      schema.GroupVersionKind
	namespace string
}

// filter knows which objects matter, and what they were like when they were last heard of. It may be used concurrently.
type filter struct {
	mu   sync.Mutex
	all  map[string]release.Ref
	seen map[string]uint64
}

func newFilter(refs []release.Ref) *filter {
	f := &filter{all: map[string]release.Ref{}, seen: map[string]uint64{}}
	for _, ref := range refs {
		f.all[ref.Key()] = ref
	}
	return f
}

// groups returns the watches that the objects need, those of Kubernetes' own first kinds first.
func (f *filter) groups() []group {
	all := map[group]bool{}
	for _, r := range f.all {
		all[group{schema.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.Kind}, r.Namespace}] = true
	}
	return slices.SortedFunc(maps.Keys(all), func(a, b group) int {
		return strings.Compare(a.kind.String()+" "+a.namespace, b.kind.String()+" "+b.namespace)
	})
}

// news reports whether an object matters and is not like it was, as far as its metadata says: a change of its status only
// is no news.
func (f *filter) news(kind schema.GroupVersionKind, m *metav1.PartialObjectMetadata, gone bool) bool {
	key := release.Ref{Group: kind.Group, Kind: kind.Kind, Namespace: m.Namespace, Name: m.Name}.Key()
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.all[key]; !ok {
		return false
	}
	if gone {
		delete(f.seen, key)
		return true
	}
	print := fingerprint(m)
	news := f.seen[key] != print
	f.seen[key] = print
	return news
}

// fingerprint is another one for an object that changed. The specification of a kind that counts generations has changed
// when the generation has; of others, any change counts.
func fingerprint(m *metav1.PartialObjectMetadata) uint64 {
	version := m.ResourceVersion
	if m.Generation > 0 {
		version = ""
	}
	hash := fnv.New64a()
	_ = json.NewEncoder(hash).Encode([]any{ // it came as JSON
		m.UID, m.Generation, version, m.Labels, m.Annotations, m.Finalizers, m.OwnerReferences, m.DeletionTimestamp,
	})
	return hash.Sum64()
}
