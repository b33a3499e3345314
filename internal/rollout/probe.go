package rollout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/probe"
)

// The times of a probe after the rollout.
const (
	// firstAnswer is how long what was never served before may take to be found by the first request.
	firstAnswer = 15 * time.Second
	// lastRequests is how long the probe goes on after the last old pod is gone: until everybody knows that.
	lastRequests = time.Second
)

// load sends the requests of a policy's probe. A nil load sends none.
type load struct {
	d           *deployment
	policy      ci.Probe
	options     probe.Options
	differences Differences
	// late is true if no requests are sent before the old pods are gone, because these give no good answers.
	late bool
}

// probe returns what sends the requests of the policy while differences are rolled out; nil if there is nothing to send,
// or nothing to roll out. It tries the URL first: if pods are ready, and nobody is there, the URL is wrong, and nothing
// should change for that. Somebody who answers badly may be what the rollout is to cure.
func (d *deployment) probe(ctx context.Context, differences Differences) (*load, error) {
	if d.r.Policy.Probe == nil || differences.Empty() {
		return nil, nil
	}
	p := *d.r.Policy.Probe
	if err := p.Check(); err != nil {
		return nil, fault.New(fault.Invalid, "the probe cannot be used: %w", err)
	}
	if err := probe.Validate(p.URL); err != nil {
		return nil, fault.New(fault.Invalid, "the probe's URL %q %w", p.URL, err)
	}
	login, err := d.r.login(p.Login, "the probe")
	if err != nil {
		return nil, err
	}
	l := &load{d: d, policy: p, differences: differences, options: probe.Options{
		URL: p.URL, Login: login, Rate: cmp.Or(p.Rate, ci.DefaultProbeRate), Status: p.Status, Allowed: p.Losses, Local: d.r.ProbeLocal,
		Timeout: time.Duration(cmp.Or(p.Timeout, ci.DefaultProbeTimeout)) * time.Second,
	}}
	err = probe.Check(ctx, l.options)
	var failure *probe.Failure
	switch {
	case err == nil:
		return l, nil
	case !errors.As(err, &failure):
		return nil, stopped(ctx, ctx, err, "nothing was applied")
	case failure.Unreachable && servesAlready(differences) && !d.r.manual && !d.state.Pending:
		return nil, fault.New(fault.Failed, "the probe gets no answer from %s before the rollout, although pods are ready: %s; put its URL right, or deploy without it; nothing was applied", p.URL, failure)
	}
	l.options.FromFirst = true
	if l.late = servesAlready(differences); l.late {
		d.p.linef("probe: the old pods give no good answer at %s (%s), so requests are sent when they are gone", p.URL, failure)
	} else {
		d.p.linef("probe: nothing gives a good answer at %s yet (%s), so requests count from the first one", p.URL, failure)
	}
	return l, nil
}

// servesAlready reports whether a workload has pods that are ready before the rollout.
func servesAlready(d Differences) bool {
	for _, one := range d {
		if one.live == nil || !rolls(one.live) {
			continue
		}
		for _, field := range []string{"readyReplicas", "numberReady"} {
			if n, ok, _ := unstructured.NestedInt64(one.live.Object, "status", field); ok && n > 0 {
				return true
			}
		}
	}
	return false
}

// during calls roll, and sends requests until the old pods are gone. It ends roll's context as soon as more requests are
// lost than are allowed, and returns the losses as its error then; else it returns roll's error.
func (l *load) during(ctx context.Context, roll func(ctx context.Context) error) error {
	if l == nil {
		return roll(ctx)
	}
	if l.late {
		if err := roll(ctx); err != nil {
			return err
		}
		if err := l.drained(ctx); err != nil {
			return err
		}
		roll = func(context.Context) error { return nil }
	}
	limited, stop := context.WithCancel(ctx)
	defer stop()
	requests := probe.Start(limited, l.options)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-requests.Exceeded():
			stop()
		case <-limited.Done():
		}
	}()
	err := roll(limited)
	if err == nil {
		err = l.finish(limited, requests)
	}
	stop()
	<-watched
	result := requests.Stop()
	l.d.result.Probe = &ci.Probed{URL: l.policy.URL, Sent: result.Sent, Lost: result.Lost, Causes: result.Reasons()}
	l.d.p.linef("probe: %s", l.d.result.Probe)
	switch {
	case ctx.Err() != nil:
		return err
	case result.Lost > l.options.Allowed:
		allowed := "none may be"
		if l.options.Allowed > 0 {
			allowed = fmt.Sprintf("%d may be", l.options.Allowed)
		}
		return &fault.Error{Code: fault.Failed, Message: fmt.Sprintf("the probe failed: %s; %s", l.d.result.Probe, allowed), Err: err}
	}
	return err
}

// finish waits until the requests have seen all of a rollout that went well.
func (l *load) finish(ctx context.Context, requests *probe.Probe) error {
	if l.options.FromFirst {
		select {
		case <-requests.Answered():
		case <-ctx.Done():
			return stopped(ctx, ctx, ctx.Err(), "all objects are applied")
		case <-time.After(firstAnswer):
			return fault.New(fault.Failed, "the probe got no good answer from %s, although all is rolled out: %s; is the URL right?", l.policy.URL, requests.Result().Last)
		}
	}
	if err := l.drained(ctx); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return stopped(ctx, ctx, ctx.Err(), "all objects are applied")
	case <-time.After(lastRequests):
		return nil
	}
}

// drained waits until the old pods of what was changed are gone, and those that a strategy made for a while: as long as they
// drain, requests may be lost. A pod that is still there when its time is over is not waited for.
func (l *load) drained(ctx context.Context) error {
	began := time.Now()
	told := false
	for {
		ending, grace, err := l.ending(ctx)
		if err != nil {
			return err
		}
		if len(ending) == 0 || time.Since(began) > grace+5*time.Second {
			return nil
		}
		if !told {
			told = true
			l.d.p.linef("probe: waiting for %d pods to end (%s)", len(ending), oneLine(strings.Join(ending, ", ")))
		}
		select {
		case <-ctx.Done():
			return stopped(ctx, ctx, ctx.Err(), "all objects are applied")
		case <-time.After(interval):
		}
	}
}

// ending returns the pods of what was changed that end, and the longest time that one of them has for it.
func (l *load) ending(ctx context.Context) (names []string, grace time.Duration, err error) {
	for _, one := range l.differences {
		if one.Action == Unchanged || !rolls(one.Object.Unstructured) {
			continue
		}
		selector := &metav1.LabelSelector{}
		given, _, _ := unstructured.NestedMap(one.Object.Object, "spec", "selector")
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(given, selector); err != nil {
			return nil, 0, fmt.Errorf("read the selector of %s: %w", one.Object, err)
		}
		err := retry(ctx, l.d.r.Client, l.d.p, func() error {
			list, err := l.d.r.Client.Core.CoreV1().Pods(one.Object.GetNamespace()).List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(selector)})
			if err := optional(err); err != nil || list == nil {
				return err
			}
			for _, pod := range list.Items {
				own := pod.DeletionGracePeriodSeconds
				switch {
				case pod.DeletionTimestamp != nil:
				case pod.Labels[TrackLabel] != "": // its Deployment is deleted, and the cluster deletes it shortly
					own = pod.Spec.TerminationGracePeriodSeconds
				default:
					continue
				}
				names = append(names, pod.Name)
				if own != nil {
					grace = max(grace, time.Duration(*own)*time.Second)
				}
			}
			return nil
		})
		if err != nil {
			return nil, 0, err
		}
	}
	return names, grace, nil
}
