package rollout

import (
	"fmt"
	"time"

	"slipway/internal/ci"
	"slipway/internal/manifest"
)

// Status is how far the rollout of an object is.
type Status struct {
	Object manifest.Object
	// Text says it in few words: 1 of 2 updated, 1 ready.
	Text string
	// Done is true when there is nothing more to wait for.
	Done bool
	// Old says how the version before stands, if there is one: 2 of 2 pods ready.
	Old string
	// Pods counts the pods of what has some.
	Pods Pods
	// quiet is set when there is nothing to tell, if nothing was told before.
	quiet bool
	// troubles are what stands, or may stand, in the way. The first is the most telling.
	troubles []trouble
	// events are the newest about the object and its pods, newest first.
	events []ci.WorkloadEvent
}

// Pods counts pods. The fields are those of [ci.Workload].
type Pods struct {
	Desired, Updated, Ready, Old, OldReady, Restarts int
}

// String is the line that is shown when the status changes.
func (s Status) String() string { return fmt.Sprintf("%s: %s", s.Object, s.Text) }

// trouble is something that fails a rollout if it stays. The time that it has stayed is measured by the watcher's own
// clock, because those of the cluster's nodes may differ.
type trouble struct {
	// key is the same as long as it is the same trouble, also of another pod of the workload.
	key string
	// cause is a part of a sentence: pod web-1 cannot pull image "a": not found.
	cause string
	// grace is how long it may stay; 0 fails at once, forever never.
	grace time.Duration
	// pod and container, if set, are whose log may tell more.
	pod, container string
	// previous asks for the log of the container's last run, not the present one.
	previous bool
}

// forever is the grace of a trouble that is only told when the time is over.
const forever = time.Duration(1<<63 - 1)

// Patience says how long troubles may stay that can pass by themselves. Zero fields have the default that is named.
type Patience struct {
	// Pull is for images that cannot be pulled for a reason that may pass, such as a timeout: 30 seconds. That an image
	// does not exist or may not be pulled fails at once.
	Pull time.Duration
	// Config is for a ConfigMap, Secret or volume that is missing: 10 seconds. Some are made by other programs.
	Config time.Duration
	// Create is for pods that are refused, by a quota or an admission webhook: 10 seconds.
	Create time.Duration
	// Schedule is for pods that fit on no node: 60 seconds. A cluster may get more nodes.
	Schedule time.Duration
	// Exits is how often a container of the new version may end before the rollout fails: 3 times.
	Exits int
}

func (p Patience) withDefaults() Patience {
	set := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	set(&p.Pull, 30*time.Second)
	set(&p.Config, 10*time.Second)
	set(&p.Create, 10*time.Second)
	set(&p.Schedule, time.Minute)
	if p.Exits == 0 {
		p.Exits = 3
	}
	return p
}
