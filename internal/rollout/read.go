package rollout

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"slipway/internal/kube"
	"slipway/internal/manifest"
)

// reader reads from the cluster what the assess functions need. What its account may not read is left out, and said
// once.
type reader struct {
	client   *kube.Client
	patience Patience
	printer  *printer
	denied   map[string]bool
}

// maxEvents is of how many pods of a workload the events are read.
const maxEvents = 5

// instant are kinds that are as they should be as soon as they are applied, so that nothing has to be read of them.
var instant = map[schema.GroupKind]bool{
	{Kind: "ConfigMap"}: true, {Kind: "Secret"}: true, {Kind: "ServiceAccount"}: true, {Kind: "LimitRange"}: true,
	{Kind: "ResourceQuota"}: true, {Kind: "Namespace"}: true,
	{Group: "batch", Kind: "CronJob"}:                                 true,
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
	apps, core := r.client.Core.AppsV1(), r.client.Core.CoreV1()
	get := metav1.GetOptions{}
	switch o.GroupVersionKind().GroupKind() {
	case schema.GroupKind{Group: "apps", Kind: "Deployment"}:
		d, err := apps.Deployments(ns).Get(ctx, name, get)
		if err != nil {
			return Status{}, err
		}
		sets, err := apps.ReplicaSets(ns).List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(d.Spec.Selector)})
		if err := r.optional(err); err != nil {
			return Status{}, err
		}
		newest, _ := splitSets(d, sets.Items)
		var p podsAndEvents
		if newest != nil {
			if p, err = r.pods(ctx, ns, newest.UID, d.Spec.Selector); err != nil {
				return Status{}, err
			}
		}
		s := assessDeployment(o, d, sets.Items, p, r.patience)
		if o.GetLabels()[TrackLabel] != "" {
			s.Old = "" // stands beside it
		}
		return s, nil

	case schema.GroupKind{Group: "apps", Kind: "StatefulSet"}:
		set, err := apps.StatefulSets(ns).Get(ctx, name, get)
		if err != nil {
			return Status{}, err
		}
		p, err := r.pods(ctx, ns, set.UID, set.Spec.Selector)
		return assessStatefulSet(o, set, p, r.patience), err

	case schema.GroupKind{Group: "apps", Kind: "DaemonSet"}:
		set, err := apps.DaemonSets(ns).Get(ctx, name, get)
		if err != nil {
			return Status{}, err
		}
		revisions, err := apps.ControllerRevisions(ns).List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(set.Spec.Selector)})
		if err := r.optional(err); err != nil {
			return Status{}, err
		}
		p, err := r.pods(ctx, ns, set.UID, set.Spec.Selector)
		return assessDaemonSet(o, set, newestRevision(revisions.Items, set.UID), p, r.patience), err

	case schema.GroupKind{Group: "batch", Kind: "Job"}:
		j, err := r.client.Core.BatchV1().Jobs(ns).Get(ctx, name, get)
		if err != nil {
			return Status{}, err
		}
		p, err := r.pods(ctx, ns, j.UID, j.Spec.Selector)
		return assessJob(o, j, p, r.patience), err

	case schema.GroupKind{Kind: "Pod"}:
		pod, err := core.Pods(ns).Get(ctx, name, get)
		if err != nil {
			return Status{}, err
		}
		events, err := r.events(ctx, ns, pod.UID)
		return assessPod(o, pod, podsAndEvents{events: map[types.UID][]corev1.Event{pod.UID: events}}, r.patience), err

	case schema.GroupKind{Kind: "PersistentVolumeClaim"}:
		claim, err := core.PersistentVolumeClaims(ns).Get(ctx, name, get)
		if err != nil {
			return Status{}, err
		}
		events, err := r.events(ctx, ns, claim.UID)
		return assessClaim(o, claim, events, r.patience), err
	}
	return r.other(ctx, o)
}

// other reads how far an object of any other kind is, by the conventions that kstatus knows.
func (r *reader) other(ctx context.Context, o manifest.Object) (Status, error) {
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(o.GroupVersionKind())
	if err := r.client.Objects.Get(ctx, client.ObjectKeyFromObject(o.Unstructured), u); err != nil {
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

// pods reads the pods that selector selects, with the events of those that are not ready and of owner.
func (r *reader) pods(ctx context.Context, namespace string, owner types.UID, selector *metav1.LabelSelector) (podsAndEvents, error) {
	p := podsAndEvents{events: map[types.UID][]corev1.Event{}}
	if selector == nil {
		return p, nil
	}
	list, err := r.client.Core.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(selector)})
	if err := r.optional(err); err != nil {
		return p, err
	}
	p.pods = list.Items
	uids := []types.UID{owner}
	for _, pod := range ownedBy(p.pods, owner) {
		if !ready(&pod) && pod.Status.Phase != corev1.PodSucceeded && pod.DeletionTimestamp == nil && len(uids) <= maxEvents {
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
	list, err := r.client.Core.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("involvedObject.uid", string(uid)).String(),
		Limit:         100,
	})
	if err := r.optional(err); err != nil {
		return nil, err
	}
	slices.SortStableFunc(list.Items, func(a, b corev1.Event) int { return when(a).Compare(when(b)) })
	return list.Items, nil
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
