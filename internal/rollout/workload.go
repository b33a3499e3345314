package rollout

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"slipway/internal/manifest"
)

// The functions here say how far a workload is, from what was read of it. They read no clock and no cluster.

// revisionAnnotation is where the Deployment controller counts revisions, on the Deployment and on its ReplicaSets.
const revisionAnnotation = "deployment.kubernetes.io/revision"

// unnoticed is the text of a status that is still that of the version before.
const unnoticed = "waiting for the cluster to notice the change"

// podless is the text of a Job between two pods, which passes too fast to be told.
const podless = "none of its pods runs"

// podsAndEvents is what is known of the pods of a workload.
type podsAndEvents struct {
	pods   []corev1.Pod
	events map[types.UID][]corev1.Event // oldest first; of pods, and of what failed to create them
}

// troubles returns what stands in the way of pods, the most certain first.
func (p podsAndEvents) troubles(pods []corev1.Pod, patience Patience) []trouble {
	var all []trouble
	for i := range pods {
		all = append(all, diagnose(&pods[i], p.events[pods[i].UID], patience)...)
	}
	slices.SortStableFunc(all, func(a, b trouble) int { return cmp.Compare(a.grace, b.grace) })
	return all
}

// notCreated returns the trouble that no pods are made for the object uid, from its events.
func (p podsAndEvents) notCreated(uid types.UID, patience Patience) []trouble {
	for _, e := range slices.Backward(p.events[uid]) {
		switch e.Reason {
		case "FailedCreate":
			return []trouble{{key: "create", grace: patience.Create, cause: "no pod can be created: " + oneLine(e.Message)}}
		case "SuccessfulCreate":
			return nil
		}
	}
	return nil
}

// assessDeployment says how far a Deployment is. Only the pods of its newest ReplicaSet count: the older ones may be
// broken for reasons that this rollout is the cure of.
func assessDeployment(o manifest.Object, d *appsv1.Deployment, sets []appsv1.ReplicaSet, p podsAndEvents, patience Patience) Status {
	s := Status{Object: o}
	want := replicas(d.Spec.Replicas)
	if d.Status.ObservedGeneration < d.Generation {
		s.Text = unnoticed
		return s
	}
	if d.Spec.Paused {
		s.Text, s.Done = "is paused, so it does not roll out until somebody resumes it", true
		return s
	}
	s.Text = fmt.Sprintf("%d of %d updated, %d ready", d.Status.UpdatedReplicas, want, min(d.Status.AvailableReplicas, d.Status.UpdatedReplicas))
	newest, old := splitSets(d, sets)
	if newest != nil {
		s.Text = fmt.Sprintf("%d of %d updated, %d ready", d.Status.UpdatedReplicas, want, newest.Status.AvailableReplicas)
	}
	s.Pods = deploymentPods(want, d, newest, old, p)
	if ending := d.Status.Replicas - d.Status.UpdatedReplicas; ending > 0 {
		s.Text += fmt.Sprintf(", %d old left", ending)
	}
	if d.Status.UpdatedReplicas >= want && d.Status.Replicas <= d.Status.UpdatedReplicas && d.Status.AvailableReplicas >= want {
		s.Done, s.Text = true, fmt.Sprintf("rolled out, %d of %d ready", d.Status.AvailableReplicas, want)
		return s
	}
	s.Old = oldSets(old, newest)
	if newest == nil {
		return s
	}
	s.troubles = p.troubles(ownedBy(p.pods, newest.UID), patience)
	for _, c := range d.Status.Conditions {
		switch {
		case c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue:
			s.troubles = append(s.troubles, trouble{key: "create", grace: patience.Create, cause: "no pod can be created: " + oneLine(c.Message)})
		case c.Type == appsv1.DeploymentProgressing && c.Reason == "ProgressDeadlineExceeded":
			seconds := int32(600)
			if d.Spec.ProgressDeadlineSeconds != nil {
				seconds = *d.Spec.ProgressDeadlineSeconds
			}
			s.troubles = deadline(s.troubles, fmt.Sprintf("no progress for %d seconds (its progressDeadlineSeconds)", seconds))
		}
	}
	return s
}

// deadline makes the first trouble certain, because the cluster itself has given up waiting.
func deadline(troubles []trouble, what string) []trouble {
	t := trouble{key: "deadline", cause: what}
	if len(troubles) > 0 {
		t = troubles[0]
		t.key, t.grace, t.cause = "deadline", 0, what+": "+t.cause
	}
	return append([]trouble{t}, troubles...)
}

// splitSets returns the ReplicaSet of the Deployment's present revision, and the others that it owns.
func splitSets(d *appsv1.Deployment, sets []appsv1.ReplicaSet) (newest *appsv1.ReplicaSet, old []appsv1.ReplicaSet) {
	for i, set := range sets {
		if !metav1.IsControlledBy(&sets[i], d) {
			continue
		}
		if set.Annotations[revisionAnnotation] == d.Annotations[revisionAnnotation] {
			newest = &sets[i]
		} else {
			old = append(old, set)
		}
	}
	return newest, old
}

// oldSets says how the version before serves.
func oldSets(old []appsv1.ReplicaSet, newest *appsv1.ReplicaSet) string {
	var want, ready int32
	for _, set := range old {
		want += replicas(set.Spec.Replicas)
		ready += set.Status.ReadyReplicas
	}
	var newReady int32
	if newest != nil {
		newReady = newest.Status.ReadyReplicas
	}
	return serving(len(old) > 0, int(ready), int(want), int(newReady))
}

// serving says who serves while a rollout does not go on.
func serving(hasOld bool, ready, want, newReady int) string {
	switch {
	case !hasOld && newReady == 0:
		return "there is no older version, so nothing serves"
	case !hasOld:
		return fmt.Sprintf("there is no older version, and %d of the new pods are ready", newReady)
	case ready > 0:
		return fmt.Sprintf("the old version still serves: %d of %d of its pods are ready", ready, want)
	case newReady > 0:
		return fmt.Sprintf("the old version does not serve any more, and %d of the new pods are ready", newReady)
	}
	return "nothing serves: neither the old version nor the new one has a pod that is ready"
}

// assessStatefulSet says how far a StatefulSet is.
func assessStatefulSet(o manifest.Object, set *appsv1.StatefulSet, p podsAndEvents, patience Patience) Status {
	s := Status{Object: o}
	want := replicas(set.Spec.Replicas)
	if set.Status.ObservedGeneration < set.Generation {
		s.Text = unnoticed
		return s
	}
	if set.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
		s.Text, s.Done = "updates a pod when somebody deletes it (strategy OnDelete)", true
		return s
	}
	update := want
	if r := set.Spec.UpdateStrategy.RollingUpdate; r != nil && r.Partition != nil {
		update = max(0, want-*r.Partition)
	}
	updated := set.Status.UpdatedReplicas
	if set.Status.UpdateRevision == set.Status.CurrentRevision {
		updated = max(updated, set.Status.CurrentReplicas)
	}
	s.Text = fmt.Sprintf("%d of %d updated, %d ready", updated, update, set.Status.AvailableReplicas)
	newest, old := byRevision(p.pods, set.UID, set.Status.UpdateRevision)
	s.Pods = revisionPods(want, newest, old)
	if updated >= update && set.Status.AvailableReplicas >= want && set.Status.Replicas == want {
		s.Done, s.Text = true, fmt.Sprintf("rolled out, %d of %d ready", set.Status.AvailableReplicas, want)
		return s
	}
	s.Old = serving(set.Status.UpdateRevision != set.Status.CurrentRevision, countReady(old), int(want), countReady(newest))
	s.troubles = append(p.troubles(newest, patience), p.notCreated(set.UID, patience)...)
	return s
}

// assessDaemonSet says how far a DaemonSet is. revision is the hash of its newest one.
func assessDaemonSet(o manifest.Object, set *appsv1.DaemonSet, revision string, p podsAndEvents, patience Patience) Status {
	s := Status{Object: o}
	if set.Status.ObservedGeneration < set.Generation {
		s.Text = unnoticed
		return s
	}
	if set.Spec.UpdateStrategy.Type == appsv1.OnDeleteDaemonSetStrategyType {
		s.Text, s.Done = "updates a pod when somebody deletes it (strategy OnDelete)", true
		return s
	}
	want := set.Status.DesiredNumberScheduled
	s.Text = fmt.Sprintf("%d of %d updated, %d ready", set.Status.UpdatedNumberScheduled, want, set.Status.NumberAvailable)
	newest, old := byRevision(p.pods, set.UID, revision)
	s.Pods = revisionPods(want, newest, old)
	if set.Status.UpdatedNumberScheduled >= want && set.Status.NumberAvailable >= want {
		s.Done, s.Text = true, fmt.Sprintf("rolled out, %d of %d ready", set.Status.NumberAvailable, want)
		return s
	}
	s.Old = serving(set.Generation > 1, countReady(old), int(want), countReady(newest))
	s.troubles = append(p.troubles(newest, patience), p.notCreated(set.UID, patience)...)
	return s
}

// assessJob says how far a Job is.
func assessJob(o manifest.Object, j *batchv1.Job, p podsAndEvents, patience Patience) Status {
	s := Status{Object: o}
	want := replicas(j.Spec.Completions)
	s.Text = fmt.Sprintf("%d of %d completed, %d running", j.Status.Succeeded, want, j.Status.Active)
	s.Pods = Pods{Desired: int(want), Updated: int(j.Status.Active + j.Status.Succeeded), Ready: int(j.Status.Succeeded), Restarts: int(j.Status.Failed)}
	if j.Status.Failed > 0 {
		s.Text += fmt.Sprintf(", %d failed", j.Status.Failed)
	}
	if j.Status.Active == 0 && j.Status.Failed == 0 && j.Status.Succeeded < want {
		s.Text = podless
	}
	if j.Spec.Suspend != nil && *j.Spec.Suspend {
		s.Text, s.Done = "is suspended, so it does not run until somebody resumes it", true
		return s
	}
	pods := ownedBy(p.pods, j.UID)
	for _, c := range j.Status.Conditions {
		if c.Status != corev1.ConditionTrue {
			continue
		}
		switch c.Type {
		case batchv1.JobComplete:
			s.Done, s.Text = true, "completed"
			return s
		case batchv1.JobFailed, batchv1.JobFailureTarget:
			s.troubles = []trouble{failedJob(c, pods)}
			return s
		}
	}
	s.troubles = append(p.troubles(pods, patience), p.notCreated(j.UID, patience)...)
	return s
}

// failedJob says why a Job failed, and points to the log of the pod that failed last.
func failedJob(c batchv1.JobCondition, pods []corev1.Pod) trouble {
	t := trouble{key: "job", cause: "failed: " + cmp.Or(oneLine(c.Message), c.Reason)}
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return b.CreationTimestamp.Compare(a.CreationTimestamp.Time) })
	for _, pod := range pods {
		for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
			ended, previous := s.State.Terminated, false
			if ended == nil {
				ended, previous = s.LastTerminationState.Terminated, true
			}
			if ended == nil || ended.ExitCode == 0 {
				continue
			}
			t.cause = fmt.Sprintf("failed: pod %s %s (%s)", pod.Name, exited(ended, 1), cmp.Or(oneLine(c.Message), c.Reason))
			t.pod, t.container, t.previous = pod.Name, s.Name, previous
			return t
		}
	}
	return t
}

// assessPod says how far a pod is that stands for itself.
func assessPod(o manifest.Object, pod *corev1.Pod, p podsAndEvents, patience Patience) Status {
	s := Status{Object: o, Text: string(pod.Status.Phase)}
	switch {
	case pod.Status.Phase == corev1.PodSucceeded:
		s.Done, s.Text = true, "completed"
	case pod.Status.Phase == corev1.PodRunning && ready(pod):
		s.Done, s.Text = true, "ready"
	case pod.Status.Phase == corev1.PodFailed:
		t := trouble{key: "pod", cause: "failed: " + cmp.Or(oneLine(pod.Status.Message), pod.Status.Reason, "a container ended")}
		for _, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
			if c.State.Terminated != nil && c.State.Terminated.ExitCode != 0 {
				t.cause = "failed: " + exited(c.State.Terminated, 1)
				t.pod, t.container = pod.Name, c.Name
			}
		}
		s.troubles = []trouble{t}
	default:
		s.troubles = p.troubles([]corev1.Pod{*pod}, patience)
	}
	return s
}

// assessClaim says how far a PersistentVolumeClaim is. One that waits for its first pod is done: the pods that use it
// are watched themselves.
func assessClaim(o manifest.Object, claim *corev1.PersistentVolumeClaim, events []corev1.Event, patience Patience) Status {
	s := Status{Object: o, Text: "waiting for a volume"}
	switch claim.Status.Phase {
	case corev1.ClaimBound:
		s.Done, s.Text = true, "bound"
		return s
	case corev1.ClaimLost:
		s.troubles = []trouble{{key: "claim", cause: "its volume is gone"}}
		return s
	}
	for _, e := range slices.Backward(events) {
		switch e.Reason {
		case "WaitForFirstConsumer":
			s.Done, s.Text = true, "gets its volume with its first pod"
			return s
		case "FailedBinding", "ProvisioningFailed":
			s.troubles = []trouble{{key: "claim", grace: patience.Schedule, cause: "gets no volume: " + oneLine(e.Message)}}
			return s
		}
	}
	return s
}

// assessIngress says where an Ingress is reached. Nobody promises that a controller tells that, so it is not waited for.
func assessIngress(o manifest.Object, ingress *networkingv1.Ingress) Status {
	s := Status{Object: o, Done: true, Text: "has no address yet, which is not waited for", quiet: true}
	var at []string
	for _, one := range ingress.Status.LoadBalancer.Ingress {
		at = append(at, oneLine(cmp.Or(one.Hostname, one.IP)))
	}
	if len(at) > 0 {
		s.Text, s.quiet = "has the address "+strings.Join(at, ", "), false
	}
	return s
}

// deploymentPods counts the pods of a Deployment.
func deploymentPods(want int32, d *appsv1.Deployment, newest *appsv1.ReplicaSet, old []appsv1.ReplicaSet, p podsAndEvents) Pods {
	pods := Pods{
		Desired: int(want), Updated: int(d.Status.UpdatedReplicas), Ready: int(min(d.Status.ReadyReplicas, d.Status.UpdatedReplicas)),
		Old: int(max(0, d.Status.Replicas-d.Status.UpdatedReplicas)),
	}
	if newest != nil {
		pods.Updated, pods.Ready = int(newest.Status.Replicas), int(newest.Status.ReadyReplicas)
		pods.Restarts = restarts(p.pods)
	}
	for _, set := range old {
		pods.OldReady += int(set.Status.ReadyReplicas)
	}
	pods.Old = max(pods.Old, pods.OldReady)
	return pods
}

// revisionPods counts the pods of a StatefulSet or DaemonSet.
func revisionPods(want int32, newest, old []corev1.Pod) Pods {
	return Pods{
		Desired: int(want), Updated: len(newest), Ready: countReady(newest), Old: len(old), OldReady: countReady(old),
		Restarts: restarts(newest),
	}
}

// restarts counts how often containers of pods were started again.
func restarts(pods []corev1.Pod) int {
	n := 0
	for _, pod := range pods {
		for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
			n += int(s.RestartCount)
		}
	}
	return n
}

func replicas(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

// ownedBy returns the pods whose controller is uid.
func ownedBy(pods []corev1.Pod, uid types.UID) []corev1.Pod {
	var owned []corev1.Pod
	for i := range pods {
		if c := metav1.GetControllerOf(&pods[i]); c != nil && c.UID == uid {
			owned = append(owned, pods[i])
		}
	}
	return owned
}

// byRevision splits the pods of a StatefulSet or DaemonSet in those of a revision and the others. The label has the
// name of the revision for the one, and only its hash for the other.
func byRevision(pods []corev1.Pod, uid types.UID, revision string) (newest, old []corev1.Pod) {
	for _, pod := range ownedBy(pods, uid) {
		if pod.Labels[appsv1.ControllerRevisionHashLabelKey] == revision {
			newest = append(newest, pod)
		} else {
			old = append(old, pod)
		}
	}
	return newest, old
}

func countReady(pods []corev1.Pod) int {
	n := 0
	for i := range pods {
		if ready(&pods[i]) {
			n++
		}
	}
	return n
}

// newestRevision returns the hash of the newest revision that uid owns.
func newestRevision(revisions []appsv1.ControllerRevision, uid types.UID) string {
	hash, newest := "", int64(-1)
	for i, r := range revisions {
		if c := metav1.GetControllerOf(&revisions[i]); c != nil && c.UID == uid && r.Revision > newest {
			hash, newest = r.Labels[appsv1.ControllerRevisionHashLabelKey], r.Revision
		}
	}
	return cmp.Or(hash, strconv.FormatInt(newest, 10))
}
