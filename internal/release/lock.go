package release

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"slipway/internal/fault"
)

// The times of a lock.
const (
	lockDuration = 30 * time.Second // without a renewal, after which it may be taken over
	lockRenewal  = 5 * time.Second
	lockPoll     = time.Second // between two looks of who waits
)

// Annotations of the Lease.
const (
	reasonAnnotation = "slipway/reason" // what the holder does, for people
	nextAnnotation   = "slipway/next"   // who came last of those that wait
)

// ErrLost says that somebody else has taken a lock over.
var ErrLost = errors.New("another deployment has taken the lock of the environment over")

// Lock is the right to change an environment. One holder at a time has it.
type Lock struct {
	place  Place
	holder string
	stop   context.CancelFunc
	done   sync.WaitGroup
}

// Lock waits until nobody else changes p, and then holds the lock until Unlock: it is renewed in the background, and
// lost is called with [ErrLost] when somebody took it over. Holder says who wants it; a process that comes with the name
// of the holder has it at once, because it goes on where that one was ended. Reason is told to those that wait, by
// their wait function, once for each holder. Of those that wait the newest stays: the others get a fault of Conflict.
func (p Place) Lock(ctx context.Context, holder, reason string, wait func(sentence string), lost func(error)) (*Lock, error) {
	w := waiter{place: p, holder: holder, reason: reason}
	told := ""
	for {
		by, err := w.try(ctx)
		switch {
		case err != nil && ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			return nil, err
		case by == nil:
			return p.hold(ctx, holder, lost), nil
		}
		if sentence := fmt.Sprintf("%s is being changed: %s; waiting for that", p, by.Annotations[reasonAnnotation]); sentence != told {
			wait(sentence)
			told = sentence
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(lockPoll):
		}
	}
}

func (p Place) hold(ctx context.Context, holder string, lost func(error)) *Lock {
	// Who holds the lock decides when to let go of it, also after ctx.
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	l := &Lock{place: p, holder: holder, stop: stop}
	l.done.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(lockRenewal):
			}
			lease, err := p.lease(ctx)
			switch {
			case err != nil || lease == nil: // tried again; if it is for too long, another may take over
			case holderOf(lease) != holder:
				lost(ErrLost)
				return
			default:
				now := metav1.NowMicro()
				lease.Spec.RenewTime = &now
				_, _ = p.Client.Core.CoordinationV1().Leases(p.Namespace).Update(ctx, lease, metav1.UpdateOptions{FieldManager: "slipway"})
			}
		}
	})
	return l
}

// Unlock lets go of the lock. If the API server does not answer, the lock ends by itself after a while.
func (l *Lock) Unlock(ctx context.Context) {
	l.Abandon()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	leases := l.place.Client.Core.CoordinationV1().Leases(l.place.Namespace)
	for range 3 { // who waits writes to it as well
		lease, err := l.place.lease(ctx)
		if err != nil || lease == nil || holderOf(lease) != l.holder {
			return
		}
		none := ""
		lease.Spec.HolderIdentity = &none
		delete(lease.Annotations, reasonAnnotation)
		delete(lease.Annotations, instructionAnnotation) // it was for the release that has ended
		if _, err := leases.Update(ctx, lease, metav1.UpdateOptions{FieldManager: "slipway"}); !apierrors.IsConflict(err) {
			return
		}
	}
}

// Abandon stops to renew the lock, but leaves it to a successor with the same name of a holder.
func (l *Lock) Abandon() {
	l.stop()
	l.done.Wait()
}

func (p Place) lease(ctx context.Context) (*coordinationv1.Lease, error) {
	lease, err := p.Client.Core.CoordinationV1().Leases(p.Namespace).Get(ctx, p.stateName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return lease, err
}

func holderOf(lease *coordinationv1.Lease) string {
	if lease.Spec.HolderIdentity == nil {
		return ""
	}
	return *lease.Spec.HolderIdentity
}

// waiter wants a lock.
type waiter struct {
	place          Place
	holder, reason string
	announced      bool
	// seen is the renewal that was seen last, and since by our own clock: those of machines may differ.
	seen  time.Time
	since time.Time
}

// try takes the lock if it is free, or says whose it is.
func (w *waiter) try(ctx context.Context) (by *coordinationv1.Lease, err error) {
	leases := w.place.Client.Core.CoordinationV1().Leases(w.place.Namespace)
	lease, err := w.place.lease(ctx)
	if err != nil {
		return nil, err
	}
	now := metav1.NowMicro()
	seconds := int32(lockDuration / time.Second)
	if lease == nil {
		lease = &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{
				Name: w.place.stateName(), Labels: w.place.labels("lock"),
				Annotations: map[string]string{nameAnnotation: w.place.Environment, reasonAnnotation: w.reason},
			},
			Spec: coordinationv1.LeaseSpec{HolderIdentity: &w.holder, LeaseDurationSeconds: &seconds, AcquireTime: &now, RenewTime: &now},
		}
		_, err := leases.Create(ctx, lease, metav1.CreateOptions{FieldManager: "slipway"})
		if apierrors.IsAlreadyExists(err) {
			return w.try(ctx)
		}
		return nil, err
	}
	if lease.Annotations == nil {
		lease.Annotations = map[string]string{}
	}
	next := lease.Annotations[nextAnnotation]
	if w.announced && next != w.holder && next != "" {
		return nil, fault.New(fault.Conflict, "a newer deployment (%s) waits for %s, so this one is not needed any more", next, w.place)
	}
	if holder := holderOf(lease); holder != "" && holder != w.holder && !w.expired(lease) {
		if !w.announced {
			lease.Annotations[nextAnnotation] = w.holder
			if _, err := leases.Update(ctx, lease, metav1.UpdateOptions{FieldManager: "slipway"}); err != nil && !apierrors.IsConflict(err) {
				return nil, err
			} else if err == nil {
				w.announced = true
			}
		}
		return lease, nil
	}
	if next == w.holder {
		delete(lease.Annotations, nextAnnotation)
	}
	lease.Annotations[reasonAnnotation] = w.reason
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds, lease.Spec.AcquireTime, lease.Spec.RenewTime = &w.holder, &seconds, &now, &now
	_, err = leases.Update(ctx, lease, metav1.UpdateOptions{FieldManager: "slipway"})
	if apierrors.IsConflict(err) { // somebody was faster
		return w.try(ctx)
	}
	return nil, err
}

// expired reports whether the holder of a lease has not renewed it for long enough, as far as was seen.
func (w *waiter) expired(lease *coordinationv1.Lease) bool {
	var renewed time.Time
	if lease.Spec.RenewTime != nil {
		renewed = lease.Spec.RenewTime.Time
	}
	if w.since.IsZero() || !renewed.Equal(w.seen) {
		w.seen, w.since = renewed, time.Now()
	}
	return time.Since(w.since) > lockDuration
}
