package rollout

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"time"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/manifest"
	"slipway/internal/release"
)

// back puts back the release that served before, because cause ended this one. It returns cause with what became of that.
func (d *deployment) back(ctx context.Context, cause error) error {
	status := ci.Failure
	if ctx.Err() != nil {
		status = ci.Canceled
	}
	found := fault.Of(d.r.Client.Explain(cause))
	// The deployment may have been canceled, or its time may be over: going back has its own.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.timeout)
	defer cancel()
	failed := func(sentence string) error {
		err := &fault.Error{Code: found.Code, Message: found.Message + "; " + sentence, Err: cause}
		if recording := d.end(ctx, status, err.Message); recording != nil {
			d.p.linef("%s", recording)
		}
		return err
	}
	switch {
	case !d.begun && d.state.Current > 0:
		return failed(fmt.Sprintf("nothing was changed, and release %d serves", d.state.Current))
	case !d.begun:
		return failed("nothing was changed")
	case d.state.Current == 0:
		return failed("there is no earlier release to go back to, so the objects stay as they are")
	case d.r.KeepFailed:
		return failed("it is not rolled back, as was asked")
	}
	number := d.state.Current
	d.p.linef("release %d failed: %s", d.record.Number, found.Message)
	d.p.linef("ROLLING BACK to release %d", number)
	if err := d.restore(ctx, number); err != nil {
		reason := fmt.Sprintf("release %d failed, and going back to release %d failed as well: %s", d.record.Number, number, fault.Of(d.r.Client.Explain(err)).Message)
		d.p.linef("ROLLBACK FAILED: %s", reason)
		d.state.Locked = oneLine(reason)
		return failed(fmt.Sprintf("ROLLBACK FAILED: going back to release %d failed as well: %s; %s is locked until somebody has looked at it", number, fault.Of(d.r.Client.Explain(err)).Message, d.place))
	}
	d.record.Restored = number
	return failed(fmt.Sprintf("ROLLED BACK: release %d serves again", number))
}

// restore brings the objects of an earlier release back exactly, and removes those that came after it.
func (d *deployment) restore(ctx context.Context, number int64) error {
	var record release.Record
	err := retry(ctx, d.r.Client, d.p, func() (err error) {
		if err = d.withdraw(ctx); err == nil {
			record, err = d.place.Find(ctx, number)
		}
		return err
	})
	if err != nil {
		return err
	}
	target := *d
	target.r.Objects = objectsOf(record)
	target.r.manual, target.restoring, target.additions = true, true, nil
	target.result = &Result{}
	target.deadline = time.Now().Add(d.timeout)
	var differences Differences
	err = retry(ctx, d.r.Client, d.p, func() (err error) {
		differences, target.prune, target.kept, err = target.diff(ctx)
		return err
	})
	if err != nil {
		return err
	}
	err = target.introduce(ctx, ctx, differences)
	d.state = target.state
	if err != nil {
		return err
	}
	if err := d.deletePruned(ctx, target.prune); err != nil {
		return err
	}
	d.state.Objects = refs(target.r.Objects)
	for _, one := range target.kept {
		d.state.Objects = append(d.state.Objects, release.RefOf(one.Object.Unstructured))
	}
	return nil
}

// objectsOf returns the objects of a record.
func objectsOf(record release.Record) []manifest.Object {
	objects := make([]manifest.Object, len(record.Objects))
	for i, u := range record.Objects {
		objects[i] = manifest.Object{Unstructured: u, Origin: manifest.Position{File: fmt.Sprintf("release %d", record.Number)}}
	}
	return objects
}

// Rollback makes the objects of an earlier release a new release, without rendering anything: number says which, and 0
// means the last good one before the one that serves. Of r it takes all but the objects. Jobs are not run again. It
// works on a locked environment, too, and unlocks it if it succeeds. Its errors are those of [Deploy].
func Rollback(ctx context.Context, r Request, number int64, out io.Writer) (Result, error) {
	var result Result
	if r.Environment == "" {
		return result, fault.New(fault.Invalid, "say which environment to roll back")
	}
	r.manual = true
	r.Release.Started = cmp.Or(r.Release.Started, time.Now().UTC())
	p := newPrinter(out)
	r.Client.OnWarning(func(text string) { p.linef("warning of the cluster: %s", text) })
	defer r.Client.OnWarning(nil)
	d := newDeployment(r, p, &result)
	err := d.locked(ctx, func(ctx context.Context) error {
		if d.state.Current == 0 && d.state.Last == 0 {
			return fault.New(fault.NotFound, "%s has no release; slipway env list shows what there is", d.place)
		}
		if number == 0 {
			history, err := d.place.History(ctx)
			if err != nil {
				return err
			}
			if number = earlier(history, d.state); number == 0 {
				return fault.New(fault.NotFound, "%s has no good release before release %d", d.place, d.state.Current)
			}
		}
		record, err := d.place.Find(ctx, number)
		if err != nil {
			return err
		}
		d.r.Objects = objectsOf(record)
		d.r.Policy.Heal = cmp.Or(d.r.Policy.Heal, &record.Heal)
		d.r.Release.Of, d.r.Release.Commit = number, record.Commit
		d.r.Release.Author, d.r.Release.Title = record.Author, record.Title
		if d.r.Policy.Strategy == nil && d.state.Latest.Strategy == ci.Recreate {
			d.r.Policy.Strategy = &ci.Strategy{Kind: ci.Recreate} // the two versions may not run at once on the way back either
		}
		d.p.linef("going back to release %d of %s", number, d.place)
		return d.change(ctx)
	})
	result.Duration = time.Since(r.Release.Started)
	return result, r.Client.Explain(err)
}

// earlier returns the number of the newest good release whose manifests differ from those of the one that serves. When
// the environment is locked, or what a deployment left there is not the release that should serve, it is that one.
func earlier(history []ci.Release, state release.State) int64 {
	if state.Locked != "" || state.Pending || state.Latest.Status.Failed() && state.Latest.Restored == 0 {
		return state.Current
	}
	digest := ""
	for _, r := range history {
		if r.Number == state.Current {
			digest = r.Digest
		}
	}
	// After a rollback, going back once more goes further back, not forth.
	for _, r := range history {
		if r.Number == state.Current && r.Of > 0 {
			state.Current = r.Of
		}
	}
	for _, r := range history {
		if r.Number < state.Current && r.Status == ci.Success && r.Digest != digest {
			return r.Number
		}
	}
	return 0
}
