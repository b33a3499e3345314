package web

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"slipway/internal/ci"
)

// rolloutView is the picture of a deployment on the page of its run.
type rolloutView struct {
	ci.Rollout
	// Name is that of the step, Link the address of its log.
	Name, Link string
	// Live is true while the step runs.
	Live  bool
	Now   []workloadView
	Fault []workloadView
}

// workloadView is one workload of the picture.
type workloadView struct {
	ci.Workload
	// ID tells it from others on the page.
	ID string
	// Icon is the status whose sign it has.
	Icon ci.Status
	// Pods are its pods one by one; if they are too many, Bar has how much of them is in which state.
	Pods []podView
	Bar  []segment
	// Counts says the same in words.
	Counts string
	// Loud is true if its events and log are shown without being asked for.
	Loud bool
}

// podView is one pod: Class is its state, new or old.
type podView struct{ Class, Title string }

// segment is a part of a bar, in hundredths of its width.
type segment struct {
	Class    string
	X, Width float64
}

// deployKind is the kind of the steps that have a picture; see package plan.
const deployKind = "deploy"

// maxPods is how many pods are shown one by one.
const maxPods = 24

// rollouts returns the pictures of a run's deployments.
func (p *pages) rollouts(ctx context.Context, run ci.Run) ([]rolloutView, error) {
	deploys := slices.ContainsFunc(run.Jobs, func(j ci.Job) bool {
		return slices.ContainsFunc(j.Steps, func(s ci.Step) bool { return s.Kind == deployKind })
	})
	if !deploys {
		return nil, nil
	}
	found, err := p.Store.ListRollouts(ctx, run.ID)
	if err != nil {
		return nil, err
	}
	var views []rolloutView
	for _, r := range found {
		at, err := stepAt(run, r.JobNumber, r.StepNumber)
		if err != nil {
			continue // it is newer than run
		}
		v := rolloutView{Rollout: r, Name: at.Step.Name, Link: stepLink(run, r.JobNumber, r.StepNumber), Live: !at.Step.Status.Done()}
		if len(run.Jobs) > 1 {
			v.Name = at.Job.Name + " / " + v.Name
		}
		for i, w := range r.Workloads {
			v.Now = append(v.Now, viewWorkload(w, v.Live, fmt.Sprintf("w-%s-%d", at, i)))
		}
		for i, w := range r.Failed {
			v.Fault = append(v.Fault, viewWorkload(w, v.Live, fmt.Sprintf("f-%s-%d", at, i)))
		}
		views = append(views, v)
	}
	return views, nil
}

func viewWorkload(w ci.Workload, live bool, id string) workloadView {
	v := workloadView{Workload: w, ID: id, Counts: counts(w)}
	switch w.State {
	case ci.WorkloadDone:
		v.Icon = ci.Success
	case ci.WorkloadFailed:
		v.Icon, v.Loud = ci.Failure, true
	case ci.WorkloadTrouble:
		v.Icon, v.Loud = ci.Error, true
	case ci.WorkloadRolls:
		v.Icon = ci.Running
	default:
		v.Icon = ci.Waiting
	}
	if !live && (v.Icon == ci.Running || v.Icon == ci.Waiting) {
		v.Icon = ci.Canceled // nobody follows it any more
	}
	v.Pods, v.Bar = pods(w)
	return v
}

// pods returns the pods of a workload, new ones first: one by one, or as a bar if they are many.
func pods(w ci.Workload) ([]podView, []segment) {
	starting := "starting"
	if w.State == ci.WorkloadTrouble || w.State == ci.WorkloadFailed {
		starting = "broken"
	}
	groups := []struct {
		class, title string
		n            int
	}{
		{"ready", "new, ready", min(w.Ready, w.Updated)},
		{starting, "new, not ready", w.Updated - min(w.Ready, w.Updated)},
		{"missing", "not there yet", w.Desired - w.Updated},
		{"old", "old, ready", min(w.OldReady, w.Old)},
		{"ending", "old, not ready", w.Old - min(w.OldReady, w.Old)},
	}
	if w.Kind == "Job" {
		groups[0].title, groups[1].title = "completed", "running"
	}
	total := 0
	for _, g := range groups {
		total += max(0, g.n)
	}
	var all []podView
	var bar []segment
	x := 0.0
	for _, g := range groups {
		if g.n <= 0 {
			continue
		}
		if total <= maxPods {
			all = append(all, slices.Repeat([]podView{{g.class, g.title}}, g.n)...)
			continue
		}
		width := 100 * float64(g.n) / float64(total)
		bar = append(bar, segment{g.class, x, width})
		x += width
	}
	return all, bar
}

// counts says in words how many pods there are.
func counts(w ci.Workload) string {
	if w.Desired+w.Updated+w.Old == 0 {
		return ""
	}
	var parts []string
	if w.Kind == "Job" {
		parts = append(parts, fmt.Sprintf("%d of %d completed", w.Ready, w.Desired))
	} else if w.Old == 0 {
		parts = append(parts, fmt.Sprintf("%d of %d ready", w.Ready, w.Desired))
	} else {
		parts = append(parts, fmt.Sprintf("%d of %d new ready", w.Ready, w.Desired))
	}
	if w.Old > 0 {
		parts = append(parts, fmt.Sprintf("%d old left", w.Old))
	}
	if w.Restarts > 0 {
		unit := "restarts"
		if w.Restarts == 1 {
			unit = "restart"
		}
		if w.Kind == "Job" {
			unit = "failed"
		}
		parts = append(parts, fmt.Sprintf("%d %s", w.Restarts, unit))
	}
	return strings.Join(parts, " · ")
}
