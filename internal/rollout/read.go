package rollout

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"slipway/internal/kube"
	"slipway/internal/manifest"
)

// reader reads from the cluster what the assess functions need: from mirrors where there are some, else by requests. What
// its account may not read is left out, and said once.
type reader struct {
	client   *kube.Client
	patience Patience
	printer  *printer
	denied   map[string]bool
	// mirrors is nil if everything is read by requests, crowds how many objects of each kind and namespace are followed.
	mirrors *mirrors
	crowds  map[crowd]int
	// fresh has the objects themselves read by requests, whatever the mirrors say.
	fresh bool
}

// crowd is a kind in a namespace; all workloads of a namespace together have no kind.
type crowd struct {
	kind      schema.GroupKind
	namespace string
}

// follow has the reader keep mirrors of what it reads of objects.
func (r *reader) follow(m *mirrors, objects []manifest.Object) {
	r.mirrors, r.crowds = m, map[crowd]int{}
	for _, o := range objects {
		r.crowds[crowd{o.GroupVersionKind().GroupKind(), o.GetNamespace()}]++
		r.crowds[crowd{namespace: o.GetNamespace()}]++
	}
}

// mirror returns the mirror of a kind in the namespace, or nil. It is narrowed to what selector selects, or to the object
// of that name, if that is the only one that is followed: namespaces may be large.
func (r *reader) mirror(ctx context.Context, kind schema.GroupVersionKind, namespace, selector, name string) *mirror {
	if r.mirrors == nil {
		return nil
	}
	key := mirrorKey{kind: kind, namespace: namespace}
	if selector != "" && r.crowds[crowd{namespace: namespace}] == 1 {
		key.labels = selector
	}
	if name != "" && r.crowds[crowd{kind.GroupKind(), namespace}] == 1 {
		key.fields = named(name)
	}
	return r.mirrors.find(ctx, key)
}

// get reads an object, which it does not change, into a value that is as empty; the result is shared and must not be
// changed.
func (r *reader) get(ctx context.Context, kind schema.GroupVersionKind, namespace, name string, empty client.Object) (client.Object, error) {
	if m := r.mirror(ctx, kind, namespace, "", name); m != nil && !r.fresh {
		if o, known := m.get(name); known && o != nil {
			return o, nil
		}
	}
	return empty, r.client.Objects.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, empty)
}

// ownedObjects reads the objects of a kind that selector selects and that belong to uid. If the account may not read them,
// there are none.
func ownedObjects[T any, P interface {
	*T
	client.Object
}](ctx context.Context, r *reader, kind schema.GroupVersionKind, namespace string, selector *metav1.LabelSelector, uid types.UID,
) ([]T, error) {
	if selector == nil {
		return nil, nil
	}
	labels := metav1.FormatLabelSelector(selector)
	m := r.mirror(ctx, kind, namespace, labels, "")
	found, known := []client.Object(nil), false
	if m != nil {
		found, known = m.ownedBy(uid)
	}
	if !known {
		direct := &mirror{key: mirrorKey{kind: kind, namespace: namespace, labels: labels}, client: r.client}
		list, err := direct.newList()
		if err != nil {
			return nil, err
		}
		if err := r.client.Objects.List(ctx, list, direct.options(metav1.ListOptions{})); err != nil {
			return nil, r.optional(err)
		}
		err = meta.EachListItem(list, func(o runtime.Object) error {
			if o := o.(client.Object); controller(o) == uid {
				found = append(found, o)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	objects := make([]T, len(found))
	slices.SortFunc(found, func(a, b client.Object) int { return strings.Compare(a.GetName(), b.GetName()) })
	for i, o := range found {
		objects[i] = *o.(P)
	}
	return objects, nil
}

// The kinds that are understood in detail, and those that they own.
var (
	deploymentKind  = appsv1.SchemeGroupVersion.WithKind("Deployment")
	replicaSetKind  = appsv1.SchemeGroupVersion.WithKind("ReplicaSet")
	statefulSetKind = appsv1.SchemeGroupVersion.WithKind("StatefulSet")
	daemonSetKind   = appsv1.SchemeGroupVersion.WithKind("DaemonSet")
	revisionKind    = appsv1.SchemeGroupVersion.WithKind("ControllerRevision")
	jobKind         = batchv1.SchemeGroupVersion.WithKind("Job")
	podKind         = corev1.SchemeGroupVersion.WithKind("Pod")
	eventKind       = corev1.SchemeGroupVersion.WithKind("Event")
	claimKind       = corev1.SchemeGroupVersion.WithKind("PersistentVolumeClaim")
	ingressKind     = networkingv1.SchemeGroupVersion.WithKind("Ingress")
)

// maxEvents is of how many pods of a workload the events are read.
const maxEvents = 5

// instant are kinds that are as they should be as soon as they are applied, so that nothing has to be read of them.
var instant = map[schema.GroupKind]bool{
	{Kind: "ConfigMap"}: true, {Kind: "Secret"}: true, {Kind: "ServiceAccount"}: true, {Kind: "LimitRange"}: true,
	{Kind: "ResourceQuota"}: true, {Kind: "Namespace"}: true,
	{Group: "batch", Kind: "CronJob"}:                                 true,
	{Group: "policy", Kind: "PodDisruptionBudget"}:                    true,
	{Group: "networking.k8s.io", Kind: "NetworkPolicy"}:               true,
	{Group: "rbac.authorization.k8s.io", Kind: "Role"}:                true,
	{Group: "rbac.authorization.k8s.io", Kind: "RoleBinding"}:         true,
	{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole"}:         true,
	{Group: "rbac.authorization.k8s.io", Kind: "ClusterRoleBinding"}:  true,
	{Group: "scheduling.k8s.io", Kind: "PriorityClass"}:               true,
	{Group: "storage.k8s.io", Kind: "StorageClass"}:                   true,
	{Group: "autoscaling", Kind: "HorizontalPodAutoscaler"}:           true,
	{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}: true,
}

// status reads how far an object is.
func (r *reader) status(ctx context.Context, o manifest.Object) (Status, error) {
	ns, name := o.GetNamespace(), o.GetName()
	switch o.GroupVersionKind().GroupKind() {
	case deploymentKind.GroupKind():
		live, err := r.get(ctx, deploymentKind, ns, name, &appsv1.Deployment{})
		if err != nil {
			return Status{}, err
		}
		d := live.(*appsv1.Deployment)
		sets, err := ownedObjects[appsv1.ReplicaSet](ctx, r, replicaSetKind, ns, d.Spec.Selector, d.UID)
		if err != nil {
			return Status{}, err
		}
		newest, _ := splitSets(d, sets)
		var p podsAndEvents
		if newest != nil {
			if p, err = r.pods(ctx, ns, newest.UID, d.Spec.Selector); err != nil {
				return Status{}, err
			}
		}
		s := assessDeployment(o, d, sets, p, r.patience).with(p)
		if o.GetLabels()[TrackLabel] != "" {
			s.Old = "" // stands beside it
		}
		return s, nil

	case statefulSetKind.GroupKind():
		live, err := r.get(ctx, statefulSetKind, ns, name, &appsv1.StatefulSet{})
		if err != nil {
			return Status{}, err
		}
		set := live.(*appsv1.StatefulSet)
		p, err := r.pods(ctx, ns, set.UID, set.Spec.Selector)
		return assessStatefulSet(o, set, p, r.patience).with(p), err

	case daemonSetKind.GroupKind():
		live, err := r.get(ctx, daemonSetKind, ns, name, &appsv1.DaemonSet{})
		if err != nil {
			return Status{}, err
		}
		set := live.(*appsv1.DaemonSet)
		revisions, err := ownedObjects[appsv1.ControllerRevision](ctx, r, revisionKind, ns, set.Spec.Selector, set.UID)
		if err != nil {
			return Status{}, err
		}
		p, err := r.pods(ctx, ns, set.UID, set.Spec.Selector)
		return assessDaemonSet(o, set, newestRevision(revisions, set.UID), p, r.patience).with(p), err

	case jobKind.GroupKind():
		live, err := r.get(ctx, jobKind, ns, name, &batchv1.Job{})
		if err != nil {
			return Status{}, err
		}
		j := live.(*batchv1.Job)
		p, err := r.pods(ctx, ns, j.UID, j.Spec.Selector)
		return assessJob(o, j, p, r.patience).with(p), err

	case podKind.GroupKind():
		live, err := r.get(ctx, podKind, ns, name, &corev1.Pod{})
		if err != nil {
			return Status{}, err
		}
		pod := live.(*corev1.Pod)
		events, err := r.events(ctx, ns, pod.UID)
		p := podsAndEvents{events: map[types.UID][]corev1.Event{pod.UID: events}}
		return assessPod(o, pod, p, r.patience).with(p), err

	case claimKind.GroupKind():
		live, err := r.get(ctx, claimKind, ns, name, &corev1.PersistentVolumeClaim{})
		if err != nil {
			return Status{}, err
		}
		claim := live.(*corev1.PersistentVolumeClaim)
		events, err := r.events(ctx, ns, claim.UID)
		p := podsAndEvents{events: map[types.UID][]corev1.Event{claim.UID: events}}
		return assessClaim(o, claim, events, r.patience).with(p), err

	case ingressKind.GroupKind():
		live, err := r.get(ctx, ingressKind, ns, name, &networkingv1.Ingress{})
		if err != nil {
			return Status{}, err
		}
		return assessIngress(o, live.(*networkingv1.Ingress)), nil
	}
	return r.other(ctx, o)
}

// other reads how far an object of any other kind is, by the conventions that kstatus knows.
func (r *reader) other(ctx context.Context, o manifest.Object) (Status, error) {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(o.GroupVersionKind())
	live, err := r.get(ctx, o.GroupVersionKind(), o.GetNamespace(), o.GetName(), u)
	if err != nil {
		return Status{}, err
	}
	if u, err = unstructuredOf(live); err != nil {
		return Status{}, err
	}
	result, err := status.Compute(u)
	if err != nil {
		return Status{}, fmt.Errorf("read the status of %s: %w", o, err)
	}
	s := Status{Object: o, Text: oneLine(result.Message)}
	switch result.Status {
	case status.CurrentStatus:
		s.Done, s.Text, s.quiet = true, "ready", true
	case status.FailedStatus:
		s.troubles = []trouble{{key: "failed", cause: "failed: " + oneLine(result.Message)}}
	case status.TerminatingStatus:
		s.Text = "is being deleted"
	}
	return s, nil
}

// unstructuredOf returns an object of a mirror, which is typed if its kind is one of Kubernetes' own.
func unstructuredOf(o client.Object) (*unstructured.Unstructured, error) {
	if u, ok := o.(*unstructured.Unstructured); ok {
		return u, nil
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return nil, fmt.Errorf("read an object: %w", err)
	}
	u := &unstructured.Unstructured{Object: content}
	kinds, _, err := scheme.Scheme.ObjectKinds(o)
	if err != nil {
		return nil, fmt.Errorf("read an object: %w", err)
	}
	u.SetGroupVersionKind(kinds[0])
	return u, nil
}

// pods reads the pods of owner, which selector selects, with the events of those that are not ready and of owner.
func (r *reader) pods(ctx context.Context, namespace string, owner types.UID, selector *metav1.LabelSelector) (podsAndEvents, error) {
	p := podsAndEvents{events: map[types.UID][]corev1.Event{}}
	if selector == nil {
		return p, nil
	}
	var err error
	if p.pods, err = ownedObjects[corev1.Pod](ctx, r, podKind, namespace, selector, owner); err != nil {
		return p, err
	}
	uids := []types.UID{owner}
	for i := range p.pods {
		pod := &p.pods[i]
		if !ready(pod) && pod.Status.Phase != corev1.PodSucceeded && pod.DeletionTimestamp == nil && len(uids) <= maxEvents {
			uids = append(uids, pod.UID)
		}
	}
	for _, uid := range uids {
		if p.events[uid], err = r.events(ctx, namespace, uid); err != nil {
			return p, err
		}
	}
	return p, nil
}

// events reads the events of an object, oldest first.
func (r *reader) events(ctx context.Context, namespace string, uid types.UID) ([]corev1.Event, error) {
	m := r.mirror(ctx, eventKind, namespace, "", "")
	var events []corev1.Event
	expected := m != nil && m.expect(uid)
	if m != nil && !expected {
		if found, known := m.ownedBy(uid); known {
			for _, o := range found {
				events = append(events, *o.(*corev1.Event))
			}
			slices.SortStableFunc(events, byTime)
			return events, nil
		}
	}
	list, err := r.client.Core.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("involvedObject.uid", string(uid)).String(),
		Limit:         100,
	})
	if expected {
		m.learn(uid, list.Items, err)
	}
	if err := r.optional(err); err != nil {
		return nil, err
	}
	slices.SortStableFunc(list.Items, byTime)
	return list.Items, nil
}

// byTime puts events in the order in which they happened, as far as it is known.
func byTime(a, b corev1.Event) int {
	return cmp.Or(when(a).Compare(when(b)), strings.Compare(a.Name, b.Name))
}

func when(e corev1.Event) time.Time {
	if !e.LastTimestamp.IsZero() {
		return e.LastTimestamp.Time
	}
	return e.EventTime.Time
}

// optional returns nil in place of the error that the account may not read something that only helps to explain.
func (r *reader) optional(err error) error {
	if !apierrors.IsForbidden(err) {
		return err
	}
	sentence := r.client.Explain(err).Error()
	if !r.denied[sentence] {
		r.denied[sentence] = true
		r.printer.linef("causes may be missing: %s", sentence)
	}
	return nil
}

// The bounds of what is shown of a container's log.
const (
	logLines     = 20
	logLineBytes = 500
)

// log returns the last lines of a container's log, cleaned. If there is none, it returns nothing.
func (r *reader) log(ctx context.Context, namespace string, t trouble) []string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, previous := range []bool{t.previous, !t.previous} {
		tail, limit := int64(logLines), int64(64<<10)
		stream, err := r.client.Core.CoreV1().Pods(namespace).GetLogs(t.pod, &corev1.PodLogOptions{
			Container: t.container, Previous: previous, TailLines: &tail, LimitBytes: &limit,
		}).Stream(ctx)
		if err != nil {
			continue
		}
		data, _ := io.ReadAll(io.LimitReader(stream, limit))
		_ = stream.Close()
		data = bytes.TrimRight(data, "\n")
		if len(data) == 0 {
			continue
		}
		lines := strings.Split(strings.ToValidUTF8(string(data), "\ufffd"), "\n")
		lines = lines[max(0, len(lines)-logLines):]
		for i, line := range lines {
			line = clean(line)
			if len(line) > logLineBytes {
				line = strings.ToValidUTF8(line[:logLineBytes], "") + " …"
			}
			lines[i] = line
		}
		return lines
	}
	return nil
}
