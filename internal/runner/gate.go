package runner

import (
	"sync"
	"time"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/protocol"
)

// errSuperseded ends a job whose deployment waited until a newer one took its place.
type errSuperseded struct{ reason string }

func (e errSuperseded) Error() string { return e.reason }

// permit waits until the step may change its environment. Waiting does not count against the job's time limit, and other jobs
// may have its seat meanwhile.
func (s *stepRun) permit() (protocol.Permit, error) {
	known := ""
	waiting := func() {}
	defer func() { waiting() }()
	for {
		var permit protocol.Permit
		err := retry(s.w.job, func() (err error) {
			permit, err = s.w.runner.opts.Server.Permit(s.w.job, s.w.a.Lease, s.index+1, known)
			return err
		})
		switch {
		case err != nil:
			return permit, err
		case permit.State == ci.GatePassed:
			return permit, nil
		case permit.State == ci.GateSuperseded:
			err := errSuperseded{permit.Reason}
			s.w.stop(err)
			return permit, err
		case permit.State != ci.GateWaiting:
			return permit, fault.New(fault.Forbidden, "%s", permit.Reason)
		}
		if permit.Reason != known {
			s.log.say(permit.Reason)
			if known == "" {
				waiting = s.w.wait()
			}
			known = permit.Reason
		}
	}
}

// wait begins a time that does not count against the job's time limit, and in which other jobs may have its seat.
func (w *walk) wait() (over func()) {
	resume, sit := w.limit.pause(), w.seats.lend()
	return func() { resume(); sit() }
}

// placeVariables are what manifests may say of where they are deployed to, if the environment has rules that know.
func placeVariables(permit protocol.Permit) map[string]string {
	variables := map[string]string{}
	for name, value := range map[string]string{
		"SLIPWAY_NAMESPACE": permit.Namespace, "SLIPWAY_URL": permit.URL, "SLIPWAY_HOST": hostOf(permit.URL),
	} {
		if value != "" {
			variables[name] = value
		}
	}
	return variables
}

// limit is the time limit of a job, which stands still while a step of the job waits for people.
type limit struct {
	mu       sync.Mutex
	timer    *time.Timer
	deadline time.Time
	paused   int
	since    time.Time
}

// newLimit calls over at the deadline, unless the limit is stopped.
func newLimit(deadline time.Time, over func()) *limit {
	return &limit{deadline: deadline, timer: time.AfterFunc(time.Until(deadline), over)}
}

// pause stops the time until resume is called.
func (l *limit) pause() (resume func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.paused++; l.paused == 1 {
		l.timer.Stop()
		l.since = time.Now()
	}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.paused--; l.paused == 0 {
			l.deadline = l.deadline.Add(time.Since(l.since))
			l.timer.Reset(time.Until(l.deadline))
		}
	}
}

func (l *limit) stop() { l.timer.Stop() }

// seats are how many jobs run at once.
type seats struct {
	taken chan struct{}

	mu sync.Mutex
	// surplus is how many jobs run beyond the capacity; as many that end make no room for others.
	surplus int
}

// newSeats returns that many seats. Jobs that run already go on at once, even if the capacity has become smaller: their leases
// must be renewed.
func newSeats(capacity, running int) *seats {
	return &seats{taken: make(chan struct{}, max(capacity, running)), surplus: max(0, running-capacity)}
}

// free gives a seat up.
func (s *seats) free() {
	s.mu.Lock()
	surplus := s.surplus > 0
	if surplus {
		s.surplus--
	}
	s.mu.Unlock()
	if !surplus {
		<-s.taken
	}
}

// lend gives a seat up while its job waits for people. Back takes it again, at once, even if others took it.
func (s *seats) lend() (back func()) {
	s.free()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.surplus++
	}
}
