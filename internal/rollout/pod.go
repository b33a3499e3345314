package rollout

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// diagnose says what stands in the way of a pod, from what the cluster says of it. events are the pod's own.
func diagnose(pod *corev1.Pod, events []corev1.Event, patience Patience) []trouble {
	if pod.DeletionTimestamp != nil {
		return nil
	}
	var troubles []trouble
	images := map[string]string{}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		images[c.Name] = c.Image
	}
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if t, ok := diagnoseContainer(pod, s, images[s.Name], events, patience); ok {
			troubles = append(troubles, t)
		}
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable {
			troubles = append(troubles, trouble{
				key: "unschedulable", grace: patience.Schedule,
				cause: fmt.Sprintf("pod %s fits on no node: %s", pod.Name, schedulingCause(c.Message)),
			})
		}
	}
	if len(troubles) == 0 {
		if t, ok := diagnoseStart(pod, events, patience); ok {
			troubles = append(troubles, t)
		}
	}
	if len(troubles) == 0 && pod.Status.Phase == corev1.PodPending && len(events) > 0 {
		if last := events[len(events)-1]; last.Reason == "Pulling" {
			troubles = append(troubles, trouble{key: "pulling", grace: forever, cause: fmt.Sprintf("pod %s is still %s", pod.Name, lowerFirst(oneLine(last.Message)))})
		}
	}
	if len(troubles) == 0 {
		if t, ok := notReady(pod, events); ok {
			troubles = append(troubles, t)
		}
	}
	return troubles
}

func lowerFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}

// schedulingCause cuts what the scheduler says before what it tells of preemption, which helps nobody.
func schedulingCause(message string) string {
	message = oneLine(message)
	if i := strings.Index(message, ". "); i > 0 {
		message = message[:i]
	}
	return strings.TrimSuffix(message, ".")
}

// diagnoseContainer says what stands in the way of one container.
func diagnoseContainer(pod *corev1.Pod, s corev1.ContainerStatus, image string, events []corev1.Event, patience Patience) (trouble, bool) {
	t := trouble{pod: pod.Name, container: s.Name}
	name := ""
	if len(pod.Spec.Containers)+len(pod.Spec.InitContainers) > 1 {
		name = fmt.Sprintf(" (container %s)", s.Name)
	}
	if w := s.State.Waiting; w != nil {
		switch w.Reason {
		case "InvalidImageName":
			t.key, t.cause = "pull/"+s.Name, fmt.Sprintf("pod %s%s has an image name that is not valid: %q", pod.Name, name, image)
			return t, true
		case "ErrImageNeverPull":
			t.key, t.cause = "pull/"+s.Name, fmt.Sprintf("pod %s%s may not pull image %q, and the node does not have it (imagePullPolicy: Never)", pod.Name, name, image)
			return t, true
		case "ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ImageInspectError", "SignatureValidationFailed":
			reason, certain := pullCause(w.Message, image, events)
			t.key, t.cause = "pull/"+s.Name, fmt.Sprintf("pod %s%s cannot pull image %q: %s", pod.Name, name, image, reason)
			if !certain {
				t.grace = patience.Pull
			}
			return t, true
		case "CreateContainerConfigError", "CreateContainerError", "PreCreateHookError", "PostStartHookError":
			t.key, t.grace = "create/"+s.Name, patience.Config
			t.cause = fmt.Sprintf("pod %s%s cannot be started: %s", pod.Name, name, cmp.Or(oneLine(w.Message), w.Reason))
			return t, true
		}
	}
	ended := s.State.Terminated
	exits := int(s.RestartCount)
	if ended != nil || s.State.Waiting != nil && s.LastTerminationState.Terminated != nil {
		exits++
	}
	if ended == nil {
		ended = s.LastTerminationState.Terminated
	}
	if ended == nil || s.State.Running != nil {
		return t, false
	}
	if ended.Reason == "StartError" || ended.Reason == "ContainerCannotRun" {
		t.key, t.cause = "exit/"+s.Name, fmt.Sprintf("pod %s%s cannot be started: %s", pod.Name, name, startError(ended.Message))
		return t, true
	}
	if pod.Spec.RestartPolicy == corev1.RestartPolicyNever || ended.ExitCode == 0 && s.State.Waiting == nil {
		return t, false
	}
	t.key, t.cause = "exit/"+s.Name, fmt.Sprintf("pod %s%s %s", pod.Name, name, exited(ended, exits))
	t.previous = s.State.Terminated == nil
	if exits < patience.Exits || pod.Spec.RestartPolicy == corev1.RestartPolicyOnFailure {
		t.grace = forever // a Job counts for itself how often it tries
	}
	return t, true
}

// exited says how a container ended.
func exited(t *corev1.ContainerStateTerminated, times int) string {
	how := fmt.Sprintf("exits with code %d", t.ExitCode)
	switch {
	case t.Reason == "OOMKilled":
		how = "was killed because it used more memory than its limit (OOMKilled)"
	case t.Signal != 0:
		how = fmt.Sprintf("was ended by signal %d", t.Signal)
	case t.ExitCode == 0:
		how = "ends although it should go on running (exit code 0)"
	}
	if times > 1 {
		how += fmt.Sprintf(", %d times so far", times)
	}
	if message := oneLine(t.Message); message != "" {
		how += ": " + message
	}
	return how
}

// startError cuts what the container runtime says to its last part, which is about the command and not the runtime.
func startError(message string) string {
	message = oneLine(message)
	if i := strings.Index(message, "exec: "); i >= 0 {
		message = message[i:]
	}
	return strings.TrimSuffix(cmp.Or(message, "its command cannot be run"), ": unknown")
}

var (
	// backOff is how the kubelet repeats an error; older ones leave the error itself out.
	backOff = regexp.MustCompile(`^Back-off pulling image "[^"]*"(: ErrImagePull: )?`)
	// failedPull is how the kubelet's event begins.
	failedPull = regexp.MustCompile(`^Failed to pull image "[^"]*": `)
	// wrapping is what containerd and the kubelet put around what the registry said.
	wrapping = regexp.MustCompile(`(rpc error: code = \w+ desc = |failed to (pull and unpack|resolve|copy) ?(image|reference)?( "[^"]*")?: |failed to do request: |unexpected status from \w+ request to |(Head|Get) "[^"]*": )`)
)

// pullCause returns why an image cannot be pulled, and whether that is certain to stay so.
func pullCause(message, image string, events []corev1.Event) (cause string, certain bool) {
	cause = backOff.ReplaceAllString(oneLine(message), "")
	if cause == "" {
		for _, e := range slices.Backward(events) {
			if e.Reason == "Failed" && failedPull.MatchString(e.Message) {
				cause = failedPull.ReplaceAllString(oneLine(e.Message), "")
				break
			}
		}
	}
	cause = strings.TrimPrefix(wrapping.ReplaceAllString(cause, ""), image+": ")
	lower := strings.ToLower(cause)
	for _, sure := range []string{"not found", "manifest unknown", "name unknown", "repository does not exist", "unauthorized", "authorization failed", "access denied", "access to the resource is denied", "403 forbidden", "401", "invalid reference format", "no match for platform"} {
		if strings.Contains(lower, sure) {
			return cause, true
		}
	}
	return cmp.Or(cause, "the node gives no reason yet"), false
}

// diagnoseStart says why a pod that was given a node does not start: volumes, network, sandbox.
func diagnoseStart(pod *corev1.Pod, events []corev1.Event, patience Patience) (trouble, bool) {
	if pod.Status.Phase != corev1.PodPending {
		return trouble{}, false
	}
	for _, e := range slices.Backward(events) {
		switch e.Reason {
		case "FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox", "FailedCreatePodContainer":
			return trouble{
				key: "start/" + e.Reason, grace: patience.Config,
				cause: fmt.Sprintf("pod %s cannot be started: %s", pod.Name, oneLine(e.Message)),
			}, true
		}
	}
	return trouble{}, false
}

// notReady says why a pod that runs is not ready. It can become so at any time, so this is told only at the end.
func notReady(pod *corev1.Pod, events []corev1.Event) (trouble, bool) {
	for _, s := range pod.Status.ContainerStatuses {
		if s.State.Running == nil || s.Ready {
			continue
		}
		t := trouble{
			key: "ready/" + s.Name, grace: forever, pod: pod.Name, container: s.Name,
			cause: fmt.Sprintf("pod %s runs, but is not ready", pod.Name),
		}
		for _, e := range slices.Backward(events) {
			if e.Reason == "Unhealthy" && !strings.HasPrefix(e.Message, "Liveness") {
				t.cause += ": " + oneLine(e.Message)
				break
			}
		}
		return t, true
	}
	return trouble{}, false
}

// ready reports whether a pod serves.
func ready(pod *corev1.Pod) bool {
	if pod.DeletionTimestamp != nil {
		return false
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
