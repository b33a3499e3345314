package runner

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"slipway/internal/ci"
	"slipway/internal/engine"
	"slipway/internal/image"
	"slipway/internal/protocol"
	"slipway/internal/rollout"
	"slipway/internal/secret"
)

// Options say what a runner is made of.
type Options struct {
	// Name tells the runner from others, for people. Labels and OS and Arch decide which jobs it may claim.
	Name     string
	OS, Arch string
	Labels   map[string]string
	// Dir holds the journals of jobs. One runner at a time may have it.
	Dir    string
	Server protocol.Server
	Engine engine.Engine
	// Images builds and pushes images; nil means that this runner cannot.
	Images *image.Builder
	// Registry is the root of the server's registry as this machine reaches it; Docker daemons of jobs get its mirror of
	// Docker Hub. Empty means that they get none.
	Registry string
	// Kubeconfig is the file of the cluster that deploy steps without a kubeconfig use; it need not be there.
	Kubeconfig string
	// Renderer renders the manifests of deploy steps; nil means in this process, which a hostile repo can bring down.
	Renderer rollout.Renderer
	// Capacity is how many jobs run at once; 0 means 2.
	Capacity int
	Log      *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Runner claims jobs and walks them. It is made by [New] and used by one call of Run.
type Runner struct {
	opts Options
	log  *slog.Logger
	now  func() time.Time
	// transport is for what daemons pull through the server.
	transport *http.Transport
}

// New returns a runner.
func New(opts Options) *Runner {
	opts.Capacity = cmp.Or(opts.Capacity, 2)
	r := &Runner{opts: opts, log: opts.Log, now: opts.Now, transport: newTransport()}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.now == nil {
		r.now = time.Now
	}
	return r
}

// quiet is how long after a job memory is given back to the system, which Go by itself does only after minutes.
const quiet = 2 * time.Second

// Run takes up the jobs that an earlier process left in Dir, removes sandboxes that belong to none, and then claims jobs
// until ctx is done. It leaves the jobs that run then as they are, steps included, for the next process, and returns nil.
func (r *Runner) Run(ctx context.Context) error {
	defer r.transport.CloseIdleConnections()
	found, err := r.find()
	if err != nil {
		return err
	}
	// A job whose outcome is known needs its sandbox no more.
	removed, err := r.opts.Engine.Sweep(ctx, func(id string) bool { return found[id] != nil && found[id].outcome == nil })
	if err != nil {
		return fmt.Errorf("clean up after an earlier runner: %w", err)
	}
	if len(found)+len(removed) > 0 {
		r.log.Info("an earlier runner left work", "resumed", len(found), "removed", len(removed))
	}

	lease := r.openClaim(found)
	idle := time.AfterFunc(quiet, debug.FreeOSMemory)
	defer idle.Stop()
	var jobs sync.WaitGroup
	defer jobs.Wait()
	seats := newSeats(r.opts.Capacity, len(found))
	for _, journal := range found {
		seats.taken <- struct{}{}
		jobs.Go(func() {
			defer seats.free()
			defer idle.Reset(quiet)
			r.resume(ctx, journal, seats)
		})
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case seats.taken <- struct{}{}:
		}
		assignment, err := r.claim(ctx, lease)
		lease = ""
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		// Before the next claim, so that the lease is always in one of the two places.
		journal, err := createJournal(filepath.Join(r.opts.Dir, sandboxID(assignment.JobID)), assignment.Lease, r.now)
		jobs.Go(func() {
			defer seats.free()
			defer idle.Reset(quiet)
			if err != nil {
				r.giveUp(ctx, assignment.Lease, err)
				return
			}
			r.carry(ctx, assignment, journal, seats)
		})
	}
}

// claimFile, in Options.Dir, holds the lease that the runner asks for. With it a killed runner's successor asks again for
// the job that the server may have given already.
const claimFile = "claim"

// openClaim returns the lease that an earlier process asked for, unless it is known to have got a job by it.
func (r *Runner) openClaim(found map[string]*journal) (lease string) {
	text, err := os.ReadFile(filepath.Join(r.opts.Dir, claimFile))
	if err != nil {
		return "" // the next claim writes it anew
	}
	for _, journal := range found {
		if held, err := journal.lease(); err == nil && held == string(text) {
			return ""
		}
	}
	return string(text)
}

// claim waits for a job and asks for it by lease, or by a new one if that is empty. It returns an error only when ctx is
// done, the server refuses this runner, or the disk is full.
func (r *Runner) claim(ctx context.Context, lease string) (*protocol.Assignment, error) {
	if lease == "" {
		lease = rand.Text()
		if err := os.MkdirAll(r.opts.Dir, 0o700); err != nil {
			return nil, fmt.Errorf("keep a claim: %w", err)
		}
		if err := writeFile(filepath.Join(r.opts.Dir, claimFile), lease); err != nil {
			return nil, fmt.Errorf("keep a claim: %w", err)
		}
	}
	claim := protocol.Claim{Lease: lease, Runner: r.opts.Name, OS: r.opts.OS, Arch: r.opts.Arch, Labels: r.opts.Labels}
	said := "" // a server that is away for an hour is one line, not a thousand
	for ctx.Err() == nil {
		var assignment *protocol.Assignment
		err := retry(ctx, func() (err error) {
			assignment, err = r.opts.Server.Claim(ctx, claim)
			switch {
			case ctx.Err() != nil:
			case err == nil && said != "":
				r.log.Info("the server answers again")
				said = ""
			case err != nil && worthRetry(err) && err.Error() != said:
				said = err.Error()
				r.log.Warn("cannot claim a job; trying again", "error", said)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		if assignment != nil {
			return assignment, nil
		}
	}
	return nil, ctx.Err()
}

// sandboxID names the sandbox, and the journal's folder, of a job.
func sandboxID(jobID int64) string { return "job-" + strconv.FormatInt(jobID, 10) }

// find opens the journals in Dir, by sandbox.
func (r *Runner) find() (map[string]*journal, error) {
	found := map[string]*journal{}
	entries, err := os.ReadDir(r.opts.Dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("look for jobs of an earlier runner: %w", err)
	}
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		dir := filepath.Join(r.opts.Dir, entry.Name())
		journal, err := openJournal(dir, r.now)
		if err != nil {
			return nil, fmt.Errorf("%w; remove %s to give the job up", err, dir)
		}
		if _, err := journal.lease(); err != nil {
			// The crash came before the lease was written: the server gives the job up when the lease runs out.
			if err := journal.remove(); err != nil {
				return nil, err
			}
			continue
		}
		found[entry.Name()] = journal
	}
	return found, nil
}

// resume takes up a job of an earlier process.
func (r *Runner) resume(ctx context.Context, journal *journal, seats *seats) {
	lease, err := journal.lease()
	if err != nil {
		r.log.Error("take up a job", "journal", journal.dir, "error", err)
		return
	}
	if journal.outcome != nil { // all that is left is to tell the server
		r.settle(ctx, journal, journal.send(ctx, r.opts.Server, lease))
		return
	}
	var a *protocol.Assignment
	err = retry(ctx, func() (err error) {
		a, err = r.opts.Server.Resume(ctx, lease)
		return err
	})
	switch {
	case err == nil:
		// A release may have been held for days, which did not count: it needs time to come to where it was, or to go back.
		if least := time.Now().Add(rollout.DefaultTimeout); a.Deadline.Before(least) {
			a.Deadline = least
		}
		r.carry(ctx, a, journal, seats)
	case errors.Is(err, protocol.ErrLeaseLost):
		r.log.Warn("a job of an earlier runner is no longer ours; removing it", "journal", journal.dir)
		r.discard(ctx, filepath.Base(journal.dir))
		r.remove(journal)
	case ctx.Err() == nil:
		r.log.Error("take up a job; the next start of the runner tries again", "journal", journal.dir, "error", err)
	}
}

// discard removes the sandbox of a job of which nothing but its ID is known.
func (r *Runner) discard(ctx context.Context, id string) {
	// Trusted, because an engine may have made it for trusted jobs only; nothing is run in it.
	env, err := r.opts.Engine.Setup(ctx, engine.Spec{ID: id, Trusted: true})
	if err != nil {
		r.log.Error("remove a sandbox; the next start of the runner tries again", "sandbox", id, "error", err)
		return
	}
	r.close(ctx, env, id)
}

// carry walks the job while its journal is delivered and its lease renewed, and removes what is left of it. When ctx is
// done it leaves everything for the next process.
func (r *Runner) carry(ctx context.Context, a *protocol.Assignment, journal *journal, seats *seats) {
	job, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	limit := newLimit(a.Deadline, func() { stop(errTimeout) })
	defer limit.stop()

	beside, endBeside := context.WithCancel(ctx)
	var renewing, sending sync.WaitGroup
	var sent error
	renewing.Go(func() { r.renew(beside, a.Lease, stop) })
	sending.Go(func() {
		if sent = journal.send(beside, r.opts.Server, a.Lease); sent != nil {
			stop(sent)
		}
	})
	defer renewing.Wait()
	defer endBeside()

	w := &walk{runner: r, a: a, journal: journal, life: ctx, job: job, stop: stop, limit: limit, seats: seats}
	outcome, err := r.walk(w)
	if errors.Is(err, errDetached) {
		endBeside()
		sending.Wait()
		return
	}
	if err != nil { // this machine cannot go on with the job; its disk is full, for example
		outcome = protocol.Outcome{Status: ci.Error, Message: r.cannot("go on", err), Time: r.now()}
	}
	if err := journal.finish(outcome); err != nil {
		r.giveUp(ctx, a.Lease, err)
		endBeside()
		sending.Wait()
		r.remove(journal)
		return
	}
	sending.Wait()
	if sent != nil && !errors.Is(sent, protocol.ErrLeaseLost) && ctx.Err() == nil {
		if !worthRetry(sent) {
			sent = fmt.Errorf("the server refuses it: %w", sent)
		}
		r.giveUp(ctx, a.Lease, sent)
	}
	r.settle(ctx, journal, sent)
}

// cannot says why this machine cannot carry a job on.
func (r *Runner) cannot(do string, err error) string {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Sprintf("the disk of the runner %s is full; free some space there and restart the run", r.opts.Name)
	}
	return fmt.Sprintf("the runner %s cannot %s: %s", r.opts.Name, do, oneLine(err.Error()))
}

func (r *Runner) remove(journal *journal) {
	if err := journal.remove(); err != nil {
		r.log.Error("remove a journal", "journal", journal.dir, "error", err)
	}
}

// settle removes the journal when the server has all of it, or wants no more.
func (r *Runner) settle(ctx context.Context, journal *journal, sent error) {
	if sent != nil && ctx.Err() != nil {
		return
	}
	if sent != nil {
		r.log.Warn("the server does not take the rest of a job", "journal", journal.dir, "error", sent)
	}
	r.remove(journal)
}

// walk sets the sandbox up, runs the job's steps in it, and removes it when the job is over.
func (r *Runner) walk(w *walk) (protocol.Outcome, error) {
	a := w.a
	if what := a.Job.NeedsTrust(); what != "" && !a.Trusted {
		message := fmt.Sprintf("%s; only trusted repos may do that. An admin can trust this one by: slipway repo trust %s", what, a.Repo)
		if a.Fork {
			message = what + "; a pull request from a fork may not do that"
		}
		return protocol.Outcome{Status: ci.Error, Time: r.now(), Message: message}, nil
	}
	w.masker = secret.NewMasker(a.SecretValues())
	w.hub = r.newHub(a)
	spec := engine.Spec{ID: sandboxID(a.JobID), Job: a.Job, Trusted: a.Trusted, Auths: pullAuths(a)}
	var err error
	w.env, err = r.opts.Engine.Setup(w.job, spec)
	if err != nil {
		if w.life.Err() != nil {
			return protocol.Outcome{}, errDetached
		}
		return protocol.Outcome{Status: ci.Error, Time: r.now(), Message: w.masker.Mask(r.cannot("set up the sandbox", err))}, nil
	}
	outcome, err := w.run()
	if w.life.Err() != nil && err != nil {
		return protocol.Outcome{}, errDetached
	}
	r.close(w.life, w.env, spec.ID)
	return outcome, err
}

func (r *Runner) close(ctx context.Context, env engine.Env, id string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := env.Close(ctx); err != nil {
		r.log.Error("remove a sandbox; the next start of the runner tries again", "sandbox", id, "error", err)
	}
}

const renewInterval = time.Second

// renew keeps the lease alive until ctx is done, and stops the job when the server says so.
func (r *Runner) renew(ctx context.Context, lease string, stop context.CancelCauseFunc) {
	for {
		var renewal protocol.Renewal
		err := retry(ctx, func() (err error) {
			renewal, err = r.opts.Server.Renew(ctx, lease)
			return err
		})
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			stop(err)
			return
		}
		if renewal.Cancel {
			stop(errCanceled)
		}
		// Often enough for a cancellation to be felt at once. How much of the lease is left does not count: the server's
		// clock may be another, and leases are much longer.
		select {
		case <-ctx.Done():
			return
		case <-time.After(renewInterval):
		}
	}
}

// giveUp tells the server of a job that cannot be recorded here.
func (r *Runner) giveUp(ctx context.Context, lease string, cause error) {
	r.log.Error("give a job up", "error", cause)
	outcome := protocol.Outcome{Status: ci.Error, Message: r.cannot("keep a record of the job", cause), Time: r.now()}
	if err := retry(ctx, func() error { return r.opts.Server.Finish(ctx, lease, outcome) }); err != nil {
		r.log.Error("tell the server that a job is given up", "error", err)
	}
}

// pullAuths are the logins that a job pulls images with: those of the assignment, and those of its pull secrets.
func pullAuths(a *protocol.Assignment) []engine.Auth {
	auths := slices.Clone(a.Auths) // steps ask at the same time
	for _, name := range a.Job.PullSecrets {
		more, err := engine.ParseDockerConfig([]byte(a.Secrets[name]))
		if err == nil {
			auths = append(auths, more...)
		}
	}
	return auths
}

func hostOf(link string) string {
	u, err := url.Parse(link)
	if err != nil {
		return ""
	}
	return u.Hostname()
}
