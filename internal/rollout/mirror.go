package rollout

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	watching "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"slipway/internal/kube"
)

// mirrors keep up with what the cluster has of the kinds that a rollout is followed by: one list and one watch for each
// kind and namespace. So following a rollout costs hardly any requests, and a change is seen when it happens. What an
// account may not list and watch, and what a broken watch does not tell, is read by ordinary requests instead.
type mirrors struct {
	client *kube.Client
	// wake has an element when something has changed since it was received last.
	wake chan struct{}

	ctx  context.Context // of the watches; done when the mirrors are closed
	stop context.CancelFunc
	wg   sync.WaitGroup
	all  map[mirrorKey]*mirror
}

// mirrorKey says what a mirror has: the objects of a kind and a namespace, or those that the selectors select.
type mirrorKey struct {
	kind           schema.GroupVersionKind
	namespace      string
	labels, fields string
}

// Bounds of what mirrors take of the cluster and of this process.
const (
	maxMirrors  = 64              // beyond that, objects are read by requests
	watchTime   = 5 * time.Minute // then a watch is begun anew, in case it has died without a word
	rewatchTime = 250 * time.Millisecond
)

func newMirrors(ctx context.Context, c *kube.Client) *mirrors {
	m := &mirrors{client: c, wake: make(chan struct{}, 1), all: map[mirrorKey]*mirror{}}
	m.ctx, m.stop = context.WithCancel(ctx)
	return m
}

// close ends the watches, and waits for that.
func (m *mirrors) close() {
	m.stop()
	m.wg.Wait()
}

// find returns the mirror of key once it has been filled or has failed; nil if there are too many, or ctx is done.
func (m *mirrors) find(ctx context.Context, key mirrorKey) *mirror {
	one, ok := m.all[key]
	if !ok {
		if len(m.all) >= maxMirrors {
			return nil
		}
		one = &mirror{key: key, client: m.client, wake: m.wake, tried: make(chan struct{})}
		m.all[key] = one
		m.wg.Go(func() { one.run(m.ctx) })
	}
	select {
	case <-one.tried:
		return one
	case <-ctx.Done():
		return nil
	}
}

// whole reports whether all mirrors are up to date, so that nothing has to be asked for.
func (m *mirrors) whole() bool {
	for _, one := range m.all {
		if one.broken() {
			return false
		}
	}
	return true
}

// mirror is what the cluster has of one kind. Its objects are shared, and never changed.
type mirror struct {
	key    mirrorKey
	client *kube.Client
	wake   chan struct{}
	tried  chan struct{} // closed after the first list, good or bad

	mu      sync.Mutex
	once    bool // tried is closed
	err     error
	objects map[string]client.Object               // by name
	owned   map[types.UID]map[string]client.Object // by controller; of events, by the object that they are about
}

// run keeps the mirror up to date until ctx is done, or until it turns out that the account may not do that.
func (m *mirror) run(ctx context.Context) {
	wait := rewatchTime
	for ctx.Err() == nil {
		begin := time.Now()
		err := m.follow(ctx)
		if ctx.Err() != nil {
			return
		}
		m.settle(err)
		if apierrors.IsForbidden(err) || apierrors.IsMethodNotSupported(err) || apierrors.IsNotFound(err) || meta.IsNoMatchError(err) {
			return
		}
		if time.Since(begin) > 10*time.Second {
			wait = rewatchTime
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		wait = min(2*wait, 5*time.Second)
	}
}

// settle notes whether the mirror is up to date, and wakes who looks at it.
func (m *mirror) settle(err error) {
	m.mu.Lock()
	m.err = err
	if !m.once {
		m.once = true
		close(m.tried)
	}
	m.mu.Unlock()
	m.signal()
}

func (m *mirror) signal() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// follow fills the mirror and keeps it up to date until that fails. It never returns nil.
func (m *mirror) follow(ctx context.Context) error {
	list, err := m.newList()
	if err != nil {
		return err
	}
	// Of events only the version counts: those of the objects that matter are asked for, see events.
	limit := int64(0)
	if m.ofEvents() {
		limit = 1
	}
	if err := m.client.Objects.List(ctx, list, m.options(metav1.ListOptions{Limit: limit})); err != nil {
		return err
	}
	m.mu.Lock()
	m.objects, m.owned = map[string]client.Object{}, map[types.UID]map[string]client.Object{}
	if !m.ofEvents() {
		err = meta.EachListItem(list, func(o runtime.Object) error {
			m.put(o.(client.Object))
			return nil
		})
	}
	m.mu.Unlock()
	if err != nil {
		return err
	}
	version := list.GetResourceVersion()
	for first := true; ; first = false {
		seconds := int64(watchTime / time.Second)
		empty, err := m.newList()
		if err != nil {
			return err
		}
		begin := time.Now()
		w, err := m.client.Objects.Watch(ctx, empty, m.options(metav1.ListOptions{
			ResourceVersion: version, AllowWatchBookmarks: true, TimeoutSeconds: &seconds,
		}))
		if err != nil {
			return err
		}
		if first {
			m.settle(nil)
		}
		version, err = m.take(w, version)
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case time.Since(begin) < rewatchTime:
			return errors.New("the watch ended at once")
		}
	}
}

// take applies the events of a watch until it ends, and returns the version up to which the mirror has come.
func (m *mirror) take(w watching.Interface, version string) (string, error) {
	defer w.Stop()
	for event := range w.ResultChan() {
		if event.Type == watching.Error {
			return version, apierrors.FromObject(event.Object)
		}
		o, ok := event.Object.(client.Object)
		if !ok {
			return version, errors.New("the watch brought something that is no object")
		}
		version = o.GetResourceVersion()
		m.mu.Lock()
		switch {
		case event.Type == watching.Bookmark:
		case event.Type == watching.Deleted:
			m.remove(o)
		case !m.ofEvents() || m.owned[controller(o)] != nil:
			m.put(o)
		}
		m.mu.Unlock()
		if event.Type != watching.Bookmark {
			m.signal()
		}
	}
	return version, nil
}

func (m *mirror) put(o client.Object) {
	m.remove(o)
	o.SetManagedFields(nil) // a third of a pod, and nobody asks
	m.objects[o.GetName()] = o
	uid := controller(o)
	if m.owned[uid] == nil {
		m.owned[uid] = map[string]client.Object{}
	}
	m.owned[uid][o.GetName()] = o
}

func (m *mirror) remove(o client.Object) {
	if old, ok := m.objects[o.GetName()]; ok {
		delete(m.objects, o.GetName())
		delete(m.owned[controller(old)], o.GetName())
	}
}

// controller returns what an object belongs to: its controller, or what an event is about.
func controller(o client.Object) types.UID {
	if e, ok := o.(*corev1.Event); ok {
		return e.InvolvedObject.UID
	}
	if c := metav1.GetControllerOfNoCopy(o); c != nil {
		return c.UID
	}
	return ""
}

func (m *mirror) ofEvents() bool { return m.key.kind.Kind == "Event" && m.key.kind.Group == "" }

func (m *mirror) broken() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err != nil
}

// get returns an object by name, or nil. Known is false if the mirror cannot say.
func (m *mirror) get(name string) (o client.Object, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.objects[name], m.err == nil
}

// ownedBy returns the objects that belong to uid. Known is false if the mirror cannot say; of events also if uid
// is not expected.
func (m *mirror) ownedBy(uid types.UID) (objects []client.Object, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil || m.ofEvents() && m.owned[uid] == nil {
		return nil, false
	}
	return slices.Collect(maps.Values(m.owned[uid])), true
}

// expect has the events of uid kept from now on, and reports whether that is new: then those that there are have to be
// listed, and given to learn.
func (m *mirror) expect(uid types.UID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil || m.owned == nil || m.owned[uid] != nil {
		return false
	}
	m.owned[uid] = map[string]client.Object{}
	return true
}

// learn takes the events of uid that there were. What the watch has brought meanwhile is newer. If they could not be
// listed, err says so, and they are expected again.
func (m *mirror) learn(uid types.UID, events []corev1.Event, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		delete(m.owned, uid)
		return
	}
	for i := range events {
		if m.objects[events[i].Name] == nil {
			m.put(events[i].DeepCopy()) // who listed them sorts them meanwhile
		}
	}
}

func (m *mirror) newList() (client.ObjectList, error) {
	gvk := m.key.kind.GroupVersion().WithKind(m.key.kind.Kind + "List")
	if !scheme.Scheme.Recognizes(gvk) {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(gvk)
		return list, nil
	}
	o, err := scheme.Scheme.New(gvk)
	if err != nil {
		return nil, err
	}
	list, ok := o.(client.ObjectList)
	if !ok {
		return nil, errors.New(gvk.Kind + " is no list")
	}
	return list, nil
}

func (m *mirror) options(raw metav1.ListOptions) *client.ListOptions {
	raw.LabelSelector, raw.FieldSelector = m.key.labels, m.key.fields
	return &client.ListOptions{Namespace: m.key.namespace, Limit: raw.Limit, Raw: &raw}
}

func named(name string) string { return fields.OneTermEqualSelector("metadata.name", name).String() }
