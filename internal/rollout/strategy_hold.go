package rollout

import (
	"context"
	"fmt"
	"sync"
	"time"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/manifest"
	"slipway/internal/release"
)

// hold stays at a step until it is over: its pause, its checks, and, if it is manual, until somebody says so. It fails
// when a check does, or a pod of the new version, or when somebody changes the old one. Finish is true when somebody says
// that no other step is needed.
func (s *steps) hold(ctx context.Context, step ci.StrategyStep) (finish bool, err error) {
	h := newHolding(s, step)
	if h.hashes, err = s.hashes(ctx); err != nil {
		return false, err
	}
	h.announce()
	if s.r.Waits != nil && !h.over() {
		defer s.r.Waits()()
	}
	stop := h.ask(ctx)
	defer stop()
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for !h.over() {
		select {
		case <-ctx.Done():
			return false, &fault.Error{Code: fault.Failed, Message: fmt.Sprintf("the deployment was canceled at step %d of %d of its %s", s.progress.Step+1, len(s.steps), s.strategy.Kind), Err: context.Cause(ctx)}
		case <-tick.C:
			err := h.look(ctx)
			if h.server.again(ctx, err) || ctx.Err() != nil {
				continue
			}
			if err != nil {
				return false, err
			}
		case result := <-h.results:
			if err := h.count(result); err != nil {
				return false, err
			}
		case instruction := <-s.told:
			switch instruction.Verb {
			case release.Finish:
				s.linef("%s says that no other step is needed", orSomebody(instruction.By))
				return true, nil
			case release.Next:
				if instruction.Step == s.progress.Step {
					s.linef("%s says to go on", orSomebody(instruction.By))
					return false, nil
				}
			case release.Hold:
				s.linef("%s says to stay here", orSomebody(instruction.By))
				s.progress.Held = true
				if err := s.save(ctx); err != nil {
					return false, err
				}
			}
		}
	}
	return false, nil
}

// holding is a step that is held.
type holding struct {
	*steps
	step    ci.StrategyStep
	until   time.Time
	tallies []tally
	results chan checked
	watcher *watcher
	looked  bool
	server  outage
	// hashes are those of the old versions, by the keys of their Deployments.
	hashes map[string]string
}

// tally counts the results of a check.
type tally struct {
	held, failed int
	told         time.Time
	wasOK        bool
}

// checked is a result of a check.
type checked struct {
	check int
	ok    bool
	text  string // what was found
}

func newHolding(s *steps, step ci.StrategyStep) *holding {
	h := &holding{
		steps: s, step: step, until: s.progress.Reached.Add(time.Duration(step.Pause) * time.Second),
		tallies: make([]tally, len(step.Checks)), results: make(chan checked), server: outage{client: s.r.Client, printer: s.p},
	}
	h.watcher = &watcher{
		reader:  &reader{client: s.r.Client, patience: s.r.Patience.withDefaults(), printer: s.p, denied: map[string]bool{}},
		printer: s.p, painter: s.r.painter, server: outage{client: s.r.Client, printer: s.p}, since: map[string]time.Time{}, timeout: s.timeout,
	}
	h.watcher.said = make([]said, len(s.canaries))
	for _, c := range s.canaries {
		h.watcher.statuses = append(h.watcher.statuses, Status{Object: manifest.Object{Unstructured: c.temporary}})
	}
	return h
}

// announce says what the step waits for.
func (h *holding) announce() {
	what := fmt.Sprintf("step %d of %d: ", h.progress.Step+1, len(h.steps.steps))
	switch rest := time.Until(h.until); {
	case h.step.Manual || h.progress.Held:
		what += "waiting until somebody says: slipway rollout next " + flags(h.place)
	case rest > 0:
		what += fmt.Sprintf("next step in %s", rest.Round(time.Second))
	case len(h.step.Checks) > 0:
		what += "waiting for its checks"
	default:
		return
	}
	h.linef("%s", what)
}

// over reports whether the step may end.
func (h *holding) over() bool {
	if h.step.Manual || h.progress.Held || time.Now().Before(h.until) {
		return false
	}
	for i, check := range h.step.Checks {
		if h.tallies[i].held < max(1, check.Count) {
			return false
		}
	}
	return true
}

// ask tries the checks again and again until stop is called.
func (h *holding) ask(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for i, check := range h.step.Checks {
		wg.Go(func() {
			for {
				text, ok := h.try(ctx, check)
				select {
				case <-ctx.Done():
					return
				case h.results <- checked{i, ok, text}:
				}
				if sleep(ctx, time.Duration(max(1, orDefault(check.Interval, ci.DefaultCheckInterval)))*time.Second) != nil {
					return
				}
			}
		})
	}
	return func() {
		cancel()
		wg.Wait()
	}
}

func orDefault(n, otherwise int64) int64 {
	if n == 0 {
		return otherwise
	}
	return n
}

// count counts a result, and fails when there are too many bad ones. The log gets each bad one, and of the good ones a few.
func (h *holding) count(r checked) error {
	check, t := h.step.Checks[r.check], &h.tallies[r.check]
	if r.ok {
		t.held++
	} else {
		t.failed++
	}
	if !r.ok || !t.wasOK || t.held == max(1, check.Count) || time.Since(t.told) > 30*time.Second {
		h.linef("check %s: %s", oneLine(check.String()), r.text)
		t.told = time.Now()
	}
	t.wasOK = r.ok
	if t.failed > check.Failures {
		return fault.New(fault.Failed, "the check %s failed at step %d of %d of the %s: %s", oneLine(check.String()), h.progress.Step+1, len(h.steps.steps), h.strategy.Kind, r.text)
	}
	return nil
}

// look looks after the pods of both versions.
func (h *holding) look(ctx context.Context) error {
	hashes, err := h.steps.hashes(ctx)
	if err != nil {
		return err
	}
	for _, c := range h.canaries {
		if before := h.hashes[c.Key()]; hashes[c.Key()] != before {
			return fault.New(fault.Failed, "somebody else changed the pods of %s while its new version was brought in", manifest.Name(c.before))
		}
	}
	for i := range h.canaries {
		c := &h.canaries[i]
		if !c.follows() {
			continue
		}
		stable, err := find(ctx, h.r.Client, c.before)
		if err != nil || stable == nil {
			return err
		}
		n, _ := replicasOf(stable)
		_, wanted := h.sizes(c, n, h.progress.Weight)
		if err := h.resize(ctx, c, wanted); err != nil {
			return err
		}
	}
	for i := range h.watcher.statuses {
		h.watcher.statuses[i].Done = false
	}
	if err := h.watcher.look(ctx); err != nil {
		return err
	}
	if failed := h.watcher.failed(time.Now()); len(failed) > 0 {
		return h.watcher.failure(ctx, failed)
	}
	if h.looked {
		h.watcher.tell(false)
	} else { // it begins with what is known
		for i, s := range h.watcher.statuses {
			h.watcher.said[i].text = s.Text
		}
		h.looked = true
	}
	return nil
}

// hashes returns what tells the pods of the old versions apart.
func (s *steps) hashes(ctx context.Context) (map[string]string, error) {
	all := map[string]string{}
	for _, c := range s.canaries {
		hash, err := s.hash(ctx, c.Ref)
		if err != nil {
			return nil, err
		}
		all[c.Key()] = hash
	}
	return all, nil
}
