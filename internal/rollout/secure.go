package rollout

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// The reasons of additions, as the diff says them.
const (
	reasonSurge  = "so that a new pod is ready before an old one ends"
	reasonReady  = "so that everybody knows a new pod before an old one ends"
	reasonDrain  = "so that an old pod serves until no new requests come to it"
	reasonGrace  = "the time to drain and the 30 seconds that programs had before"
	defaultGrace = 30 // seconds, of Kubernetes
)

// secureWorkload adds to a Deployment, StatefulSet or DaemonSet what it needs to lose no request while it rolls. What the
// manifest says stays as it is. A field of the wrong type is left for the cluster to refuse.
func secureWorkload(u *unstructured.Unstructured, around surroundings) *addition {
	w := &workload{u: u, around: around, added: &addition{}}
	spec, ok := u.Object["spec"].(map[string]any)
	if !ok {
		return w.added
	}
	w.spec = spec
	if pod, ok, _ := unstructured.NestedFieldNoCopy(spec, "template", "spec"); ok {
		w.pod, _ = pod.(map[string]any)
	}
	if w.pod == nil || !w.surge() {
		return w.added
	}
	if !around.without[partDrain] {
		w.drain()
	}
	if !around.without[partReady] {
		w.ready()
	}
	if !around.without[partReadiness] {
		w.readiness()
	}
	return w.added
}

// workload is one that is being secured.
type workload struct {
	u         *unstructured.Unstructured
	spec, pod map[string]any
	around    surroundings
	added     *addition
}

// add sets a field that the manifest does not have. Path is below spec.
func (w *workload) add(value any, reason string, path ...string) {
	if unstructured.SetNestedField(w.spec, value, path...) != nil {
		return // something on the way has the wrong type
	}
	full := "spec"
	for _, key := range path {
		full = join(full, key)
	}
	w.added.fields = append(w.added.fields, Field{Path: full, New: masking(nil).show(value), Reason: reason})
}

func (w *workload) problem(format string, args ...any) {
	w.added.problems = append(w.added.problems, fmt.Sprintf(format, args...))
}

func (w *workload) note(format string, args ...any) {
	w.added.notes = append(w.added.notes, fmt.Sprintf(format, args...))
}

// single reports whether there is one pod and no more.
func (w *workload) single() bool {
	replicas, ok := replicasOf(w.u)
	return !w.around.scaled && (!ok || replicas == 1)
}

// surge makes new pods ready before old ones end, where that can be. It returns false if nothing else helps.
func (w *workload) surge() bool {
	left := w.around.without[partSurge]
	switch w.u.GetKind() {
	case "Deployment":
		if kind, _, _ := unstructured.NestedString(w.spec, "strategy", "type"); kind == "Recreate" {
			if !left {
				w.problem("its strategy is Recreate, so all old pods end before the first new one starts")
			}
			return false
		}
		if !left {
			w.surgeDeployment()
		}
	case "StatefulSet":
		if kind, _, _ := unstructured.NestedString(w.spec, "updateStrategy", "type"); kind == "OnDelete" {
			return false // nothing rolls
		}
		if w.single() {
			if !left {
				w.problem("it is a StatefulSet of one pod, which ends before the new one starts; two replicas can take turns")
			}
			return false
		}
	case "DaemonSet":
		if kind, _, _ := unstructured.NestedString(w.spec, "updateStrategy", "type"); kind == "OnDelete" {
			return false
		}
		if !left {
			w.surgeDaemonSet()
		}
	}
	return true
}

func (w *workload) surgeDeployment() {
	unavailable, fewer := rolling(w.spec, "strategy", "maxUnavailable")
	surge, more := rolling(w.spec, "strategy", "maxSurge")
	obstacle := w.obstacle()
	switch {
	case fewer:
		if replicas, ok := replicasOf(w.u); !w.around.scaled {
			if !ok {
				replicas = 1
			}
			if replicas > 0 && scaledDown(unavailable, replicas) >= replicas {
				w.problem("its maxUnavailable of %s lets all old pods end before a new one is ready", masking(nil).show(unavailable))
			}
		}
	case more && isZero(surge):
		if w.single() {
			w.problem("its maxSurge of 0 lets the only pod end before the new one starts")
		}
	case obstacle != "":
		w.note("%s, so it may not have a new pod before an old one ends", obstacle)
	default:
		if !more { // 0 from an earlier version or another hand would be refused beside the other 0
			w.add("25%", reasonSurge, "strategy", "rollingUpdate", "maxSurge")
		}
		w.add(int64(0), reasonSurge, "strategy", "rollingUpdate", "maxUnavailable")
	}
}

func (w *workload) surgeDaemonSet() {
	_, fewer := rolling(w.spec, "updateStrategy", "maxUnavailable")
	_, more := rolling(w.spec, "updateStrategy", "maxSurge")
	obstacle := w.obstacle()
	switch {
	case fewer || more:
	case obstacle != "":
		w.note("%s, so on each node the old pod ends before the new one starts; the Service must have pods on other nodes meanwhile", obstacle)
	default:
		w.add(int64(1), reasonSurge, "updateStrategy", "rollingUpdate", "maxSurge")
		w.add(int64(0), reasonSurge, "updateStrategy", "rollingUpdate", "maxUnavailable")
	}
}

func rolling(spec map[string]any, strategy, field string) (any, bool) {
	value, ok, _ := unstructured.NestedFieldNoCopy(spec, strategy, "rollingUpdate", field)
	return value, ok && value != nil
}

// scaledDown returns a number or a part of replicas, rounded down as Kubernetes does; 0 if it is neither.
func scaledDown(value any, replicas int64) int64 {
	var parsed intstr.IntOrString
	switch v := value.(type) {
	case string:
		parsed = intstr.FromString(v)
	default:
		n, err := strconv.ParseInt(fmt.Sprint(v), 10, 32)
		if err != nil {
			return 0
		}
		parsed = intstr.FromInt32(int32(n))
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(&parsed, int(replicas), false)
	if err != nil {
		return 0
	}
	return int64(n)
}

func isZero(value any) bool { return slices.Contains([]string{"0", "0%"}, fmt.Sprint(value)) }

// obstacle says why two versions of a pod may not fit side by side: waiting for a new one to be ready, with no old one
// allowed to end, could then be forever.
func (w *workload) obstacle() string {
	if host, _, _ := unstructured.NestedBool(w.pod, "hostNetwork"); host {
		return "its pods use the network of their nodes"
	}
	for _, c := range containers(w.pod) {
		ports, _, _ := unstructured.NestedSlice(c, "ports")
		for _, p := range ports {
			port, _ := p.(map[string]any)
			if number := port["hostPort"]; number != nil && !isZero(number) {
				return fmt.Sprintf("its pods use port %v of their nodes", number)
			}
		}
	}
	if w.u.GetKind() == "DaemonSet" {
		volumes, _, _ := unstructured.NestedSlice(w.pod, "volumes")
		for _, v := range volumes {
			if volume, _ := v.(map[string]any); volume["hostPath"] != nil {
				return fmt.Sprintf("its pods share the folder of the volume %v", volume["name"])
			}
		}
		return ""
	}
	if rules, ok, _ := unstructured.NestedSlice(w.pod, "affinity", "podAntiAffinity", "requiredDuringSchedulingIgnoredDuringExecution"); ok && len(rules) > 0 {
		return "its pods must not share a node (podAntiAffinity), and there may be no spare one"
	}
	if w.around.claim != "" {
		return fmt.Sprintf("its pods share the claim %s, which one node at a time can use", w.around.claim)
	}
	return ""
}

// containers returns the containers of a pod, to be changed in place.
func containers(pod map[string]any) []map[string]any {
	list, _ := pod["containers"].([]any)
	var all []map[string]any
	for _, c := range list {
		if container, ok := c.(map[string]any); ok {
			all = append(all, container)
		}
	}
	return all
}

// drain lets each container go on for a while after its pod was told to end, and gives the pod the time for it.
func (w *workload) drain() {
	seconds := int64(w.around.policy.Drain)
	grace, limited, err := unstructured.NestedFieldNoCopy(w.pod, "terminationGracePeriodSeconds")
	limited = limited && err == nil && grace != nil
	if limited {
		if own, ok := number(grace); ok && own <= seconds {
			w.problem("its terminationGracePeriodSeconds of %d ends a pod before it has drained, which takes %d s; make it more, or leave it out", own, seconds)
			return
		}
	}
	added := false
	for _, c := range containers(w.pod) {
		name := fmt.Sprint(c["name"])
		lifecycle, ok := c["lifecycle"].(map[string]any)
		if !ok {
			if c["lifecycle"] != nil {
				continue
			}
			lifecycle = map[string]any{}
		}
		if own := lifecycle["preStop"]; own != nil {
			hook, _ := own.(map[string]any)
			sleep, _ := hook["sleep"].(map[string]any)
			if has, ok := number(sleep["seconds"]); ok && has < seconds {
				w.problem("its container %s drains for %d s, not %d s (lifecycle.preStop)", name, has, seconds)
			}
			continue
		}
		sleep := map[string]any{"sleep": map[string]any{"seconds": seconds}}
		if !w.around.native {
			sleep = map[string]any{"exec": map[string]any{"command": []any{"sleep", strconv.FormatInt(seconds, 10)}}}
		}
		lifecycle["preStop"] = sleep
		c["lifecycle"] = lifecycle
		w.added.fields = append(w.added.fields, Field{
			Path: fmt.Sprintf("spec.template.spec.containers[%s].lifecycle.preStop", oneLine(name)), New: masking(nil).show(sleep), Reason: reasonDrain,
		})
		added = true
	}
	if !added {
		return
	}
	if !w.around.native {
		w.note("Kubernetes before 1.30 cannot wait by itself before it ends a container, so each needs a program named sleep; one without it does not drain")
	}
	if limited {
		own, _ := number(grace)
		w.note("when its pods have drained, %d of the %d s of their terminationGracePeriodSeconds are left", own-seconds, own)
		return
	}
	w.add(defaultGrace+seconds, reasonGrace, "template", "spec", "terminationGracePeriodSeconds")
}

// ready makes new pods wait before old ones end.
func (w *workload) ready() {
	seconds := int64(w.around.policy.Ready)
	if own, ok := number(w.spec["minReadySeconds"]); ok {
		if own < seconds {
			w.problem("its minReadySeconds is %d, not %d", own, seconds)
		}
		return
	}
	if w.spec["minReadySeconds"] != nil {
		return
	}
	if deadline, ok := number(w.spec["progressDeadlineSeconds"]); ok && deadline <= seconds {
		w.problem("its progressDeadlineSeconds of %d leaves no time for a new pod to be ready for %d s", deadline, seconds)
		return
	}
	w.add(seconds, reasonReady, "minReadySeconds")
}

// readiness looks for a readiness probe. Nobody but the program's author knows what to ask it.
func (w *workload) readiness() {
	if !slices.ContainsFunc(containers(w.pod), func(c map[string]any) bool { return c["readinessProbe"] != nil }) {
		w.problem("it has no readinessProbe, so a new pod gets requests before its program listens")
	}
}

// number returns a value of JSON or YAML that is a whole number.
func number(value any) (int64, bool) {
	switch n := value.(type) {
	case int64:
		return n, true
	case int:
		return int64(n), true
	case float64:
		return int64(n), n == float64(int64(n))
	case json.Number:
		i, err := n.Int64()
		return i, err == nil
	}
	return 0, false
}
