package rollout

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fluxcd/pkg/ssa/utils"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/kube"
	"slipway/internal/manifest"
	"slipway/internal/release"
)

// deployment brings an environment from one release to another. It is used by one goroutine.
type deployment struct {
	r        Request
	p        *printer
	place    release.Place
	state    release.State
	lock     *release.Lock
	timeout  time.Duration
	deadline time.Time
	result   *Result
	record   release.Record
	// prune are the objects that are deleted after a good rollout, kept those of the inventory that stay.
	prune, kept Differences
	// additions are what the objects of r have besides what their manifests say; nil until secure has looked.
	additions additions
	// restoring is true for the way back to an earlier release after a failure.
	restoring bool
	// begun is true from when objects of the environment may have been changed.
	begun bool
}

func newDeployment(r Request, p *printer, result *Result) *deployment {
	timeout := cmp.Or(r.Timeout, DefaultTimeout)
	r.painter = newPainter(r.Picture)
	return &deployment{
		r: r, p: p, place: r.place(), timeout: timeout, deadline: time.Now().Add(timeout), result: result,
	}
}

// place returns the environment that r is for.
func (r Request) place() release.Place {
	return release.Place{Client: r.Client, Namespace: cmp.Or(r.Namespace, r.Client.Namespace, "default"), Environment: r.Environment, Repo: r.Release.Repo}
}

// locked runs f while the environment is locked, with its state loaded. f's context ends when the lock is lost.
func (d *deployment) locked(ctx context.Context, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	who := describe(d.r.Release)
	waiting, stop := context.WithDeadline(ctx, d.deadline)
	defer stop()
	err := retry(waiting, d.r.Client, d.p, func() (err error) {
		d.lock, err = d.place.Lock(waiting, d.r.holder(), who, func(sentence string) { d.p.linef("%s", sentence) }, func(err error) { cancel(err) })
		return err
	})
	switch {
	case err != nil && ctx.Err() == nil && waiting.Err() != nil:
		return fault.New(fault.Conflict, "%s was being changed by another deployment for the whole time of %s; nothing was applied", d.place, d.timeout)
	case apierrors.IsNotFound(err):
		return fault.New(fault.NotFound, "%s cannot be used, because the namespace does not exist; create it, or add a Namespace object to the manifests", d.place)
	case err != nil:
		return stopped(ctx, waiting, err, "nothing was applied")
	}
	if d.state, err = d.place.Load(waiting); err != nil {
		d.lock.Unlock(ctx)
		return err
	}
	err = f(ctx)
	if d.abandoned(ctx) {
		d.lock.Abandon()
	} else {
		d.lock.Unlock(ctx)
	}
	return err
}

// abandoned reports whether ctx has ended and another process will go on with this deployment.
func (d *deployment) abandoned(ctx context.Context) bool {
	return ctx.Err() != nil && (errors.Is(context.Cause(ctx), release.ErrLost) || d.r.Resumed != nil && d.r.Resumed())
}

// holder names who deploys. That of a run is the same after its runner was started again.
func (r Request) holder() string {
	if r.Release.Run > 0 {
		return fmt.Sprintf("run %d of %s, step %s", r.Release.Run, r.Release.Repo, r.Release.Step)
	}
	return fmt.Sprintf("%s since %s", cmp.Or(r.Release.By, "a terminal"), r.Release.Started.Format(time.RFC3339Nano))
}

func describe(r ci.Release) string {
	who := "deployed from a terminal"
	if r.Run > 0 {
		who = fmt.Sprintf("deployed by run %d of %s", r.Run, r.Repo)
	}
	if r.By != "" {
		who += " for " + r.By
	}
	return who + " since " + r.Started.UTC().Format("15:04:05 MST")
}

// deploy brings the objects of the request into the environment.
func (d *deployment) deploy(ctx context.Context) error {
	before, cancel := context.WithDeadline(ctx, d.deadline)
	defer cancel()
	if err := Prepare(before, d.r); err != nil {
		return stopped(ctx, before, err, "nothing was applied")
	}
	if err := ensureNamespace(before, d.r, d.place.Namespace); err != nil {
		return err
	}
	return d.locked(ctx, func(ctx context.Context) error {
		if d.state.Locked != "" {
			return fault.New(fault.Conflict, "%s is locked: %s. Look at it; then either go back by: slipway rollback %[3]s, or allow deployments again by: slipway env unlock %[3]s",
				d.place, d.state.Locked, flags(d.place))
		}
		if err := d.owned(); err != nil {
			return err
		}
		return d.change(ctx)
	})
}

// flags name a place on the command line.
func flags(p release.Place) string {
	text := p.Environment + " -n " + p.Namespace
	if p.Repo != "" {
		text += " --repo " + p.Repo
	}
	return text
}

// ensureNamespace creates the namespace of the environment if it is among the objects: the lock needs it.
func ensureNamespace(ctx context.Context, r Request, name string) error {
	for _, o := range r.Objects {
		if !utils.IsNamespace(o.Unstructured) || o.GetName() != name {
			continue
		}
		live, err := find(ctx, r.Client, o.Unstructured)
		if err != nil || live != nil {
			return err
		}
		err = put(ctx, r.Client, o.DeepCopy())
		if err != nil {
			return refused(r.Client, err, []manifest.Object{o})
		}
	}
	return nil
}

// owned returns an error if another step of the same run has just deployed to the environment: each would delete what the
// other brought.
func (d *deployment) owned() error {
	now, latest := d.r.Release, d.state.Latest
	if now.Run > 0 && latest.Run == now.Run && latest.Step != now.Step {
		return fault.New(fault.Conflict, "%s was deployed by the step %s of this very run, and one would delete what the other brought; put all manifests into one step, or give this one an environment of its own", d.place, latest.Step)
	}
	return nil
}

// change makes the objects of the request a new release. When that fails, it puts back what was there before.
func (d *deployment) change(ctx context.Context) error {
	applying, cancel := context.WithDeadline(ctx, d.deadline)
	defer cancel()
	if err := d.clear(applying); err != nil {
		return stopped(ctx, applying, err, "nothing was applied")
	}
	var differences Differences
	err := retry(applying, d.r.Client, d.p, func() (err error) {
		differences, d.prune, d.kept, err = d.diff(applying)
		return err
	})
	if err != nil {
		return stopped(ctx, applying, err, "nothing was applied")
	}
	if all := slices.Concat(differences, d.prune, d.kept); !all.Empty() || len(d.kept) > 0 {
		all.write(d.p)
	}
	if err := differences.Err(); err != nil {
		return err
	}
	load, err := d.probe(ctx, differences)
	if err != nil {
		return err
	}
	if err := d.begin(applying); err != nil {
		return stopped(ctx, applying, err, "nothing was applied")
	}
	if d.record.Number == 0 {
		return d.over()
	}
	err = load.during(ctx, func(ctx context.Context) error {
		applying, cancel := context.WithDeadline(ctx, d.deadline)
		defer cancel()
		return d.introduce(ctx, applying, differences)
	})
	if err == nil {
		return d.succeed(ctx)
	}
	if d.abandoned(ctx) {
		return err
	}
	return d.back(ctx, err)
}

// diff returns what happens to the objects of the request, and to those of the inventory that are not among them.
func (d *deployment) diff(ctx context.Context) (differences, prune, kept Differences, err error) {
	if err = d.secure(ctx); err != nil {
		return nil, nil, nil, err
	}
	if differences, err = diff(ctx, d.r); err != nil {
		return nil, nil, nil, err
	}
	d.additions.explain(differences)
	if d.r.manual {
		differences = differences.withoutJobs()
	}
	gone := release.Without(d.state.Objects, refs(d.r.Objects))
	all := make(Differences, len(gone))
	err = each(ctx, len(gone), func(ctx context.Context, i int) (err error) {
		all[i], err = d.leftover(ctx, gone[i])
		return err
	})
	for _, one := range all {
		switch one.Action {
		case Prune:
			prune = append(prune, one)
		case Keep:
			kept = append(kept, one)
		}
	}
	slices.SortStableFunc(prune, func(a, b Difference) int { return applyOrder(b.Object, a.Object) })
	return differences, prune, kept, err
}

func refs(objects []manifest.Object) []release.Ref {
	refs := make([]release.Ref, len(objects))
	for i, o := range objects {
		refs[i] = release.RefOf(o.Unstructured)
	}
	return refs
}

// PruneAnnotation on an object says what happens when it leaves the manifests: "false" keeps it, "true" deletes it also
// if it is of a kind that is kept otherwise.
const PruneAnnotation = "slipway/prune"

// leftover says what happens to an object of the inventory that is not among the objects any more.
func (d *deployment) leftover(ctx context.Context, ref release.Ref) (Difference, error) {
	one := Difference{Object: manifest.Object{Unstructured: ref.Object()}, Action: Unchanged}
	live, err := find(ctx, d.r.Client, one.Object.Unstructured)
	if err != nil || live == nil || live.GetAnnotations()[OwnerAnnotation] != d.place.ID() {
		return one, err // gone, or somebody else's by now
	}
	one.live, one.Action = live, Prune
	switch wish := live.GetAnnotations()[PruneAnnotation]; {
	case wish == "false":
		one.Action = Keep
		one.Notes = []string{"stays in the cluster, as its annotation " + PruneAnnotation + " says"}
	case wish != "true" && precious(live):
		one.Action = Keep
		one.Notes = []string{fmt.Sprintf("stays in the cluster, because deleting it deletes data; set its annotation %s to \"true\" before it leaves the manifests, or delete it by hand", PruneAnnotation)}
	case live.GetKind() == "StatefulSet":
		one.Notes = []string{"its pods end; the claims with their data stay"}
	}
	return one, nil
}

// precious reports whether data goes with an object.
func precious(u *unstructured.Unstructured) bool {
	switch u.GroupVersionKind().GroupKind().String() {
	case "Namespace", "PersistentVolumeClaim", "PersistentVolume", "CustomResourceDefinition.apiextensions.k8s.io":
		return true
	}
	return false
}

// over returns how the release ended that this very step deployed, in a process that was killed before it could say so.
func (d *deployment) over() error {
	latest := d.state.Latest
	d.result.Release = &latest
	d.p.linef("release %d was deployed by this step already, before it was begun again: %s", latest.Number, latest.Status)
	if latest.Status != ci.Success {
		return fault.New(fault.Failed, "%s", latest.Message)
	}
	return nil
}

// begin records that the environment is about to change. From then on the inventory has the new objects as well. If this
// very step has deployed these objects already, and its release has ended, begin does nothing, and the record has no number.
func (d *deployment) begin(ctx context.Context) error {
	objects := make([]*unstructured.Unstructured, len(d.r.Objects))
	for i, o := range d.r.Objects {
		objects[i] = o.Unstructured
	}
	digest, err := release.Fits(objects)
	if err != nil {
		return err
	}
	if l := d.state.Latest; !d.state.Pending && l.Run > 0 && l.Run == d.r.Release.Run && l.Step == d.r.Release.Step && l.Digest == digest {
		return nil
	}
	started := d.r.Release
	started.Environment, started.Namespace = d.place.Environment, d.place.Namespace
	started.Number = d.state.Last + 1
	if l := d.state.Latest; d.resumes() {
		started.Number, started.Started = l.Number, l.Started
		d.p.linef("going on with release %d, which was not finished", started.Number)
	} else if d.state.Pending {
		d.p.linef("release %d (%s) was not finished; this deployment replaces it", l.Number, describe(l))
	}
	started.Digest = digest
	if d.r.Policy.Strategy != nil {
		started.Strategy = d.r.Policy.Strategy.Kind
	}
	started.Images = manifest.ImagesOf(d.r.Objects)
	heal := d.r.Policy.Heal
	d.record = release.Record{Release: started, Objects: objects, Heal: heal != nil && *heal}
	d.begun = d.state.Pending // by the one before, whose objects may be there
	d.state.Last, d.state.Latest, d.state.Pending = started.Number, started, true
	d.state.Objects = release.Union(d.state.Objects, refs(d.r.Objects))
	if err := d.place.Save(ctx, &d.state); err != nil {
		return fmt.Errorf("record the release: %w", err)
	}
	return nil
}

// roll runs the hooks before, applies what differs, watches it, and runs the hooks after. Going back runs no Jobs.
// Applying is ctx with the deadline.
func (d *deployment) roll(ctx, applying context.Context, differences Differences) error {
	objects := slices.DeleteFunc(slices.Clone(d.r.Objects), func(o manifest.Object) bool { return d.r.manual && isJob(o.Unstructured) })
	d.r.painter.plan(objects, d.restoring)
	order := phases{rest: differences}
	if !d.r.manual {
		order = split(differences)
	}
	if err := d.apply(ctx, applying, order.early); err != nil {
		return err
	}
	if err := d.runHooks(ctx, order.before); err != nil {
		return err
	}
	if err := d.apply(ctx, applying, order.rest); err != nil {
		return err
	}
	if d.restoring || d.r.manual {
		if err := d.unstick(applying); err != nil {
			return err
		}
	}
	watched := d.r
	watched.Objects = slices.DeleteFunc(objects, func(o manifest.Object) bool { return hookOf(o) != "" })
	statuses, err := watch(ctx, watched, d.deadline, d.timeout, d.p)
	d.result.Statuses = append(d.result.Statuses, statuses...)
	if err != nil {
		return err
	}
	return d.runHooks(ctx, order.after)
}

// apply applies differences, and notes what came of it.
func (d *deployment) apply(ctx, applying context.Context, differences Differences) error {
	changes, err := apply(applying, d.r, differences, d.p)
	d.result.Changes = append(d.result.Changes, changes...)
	// A request that failed may have arrived.
	d.begun = d.begun || err != nil && kube.Unreachable(err) || slices.ContainsFunc(changes, func(c Change) bool { return c.Action != "unchanged" })
	if err != nil {
		return stopped(ctx, applying, err, applied(d.result.Changes, len(d.r.Objects)))
	}
	return nil
}

// succeed deletes what left the manifests and records the release as the one that serves.
func (d *deployment) succeed(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	pruning := d.deletePruned(ctx, d.prune)
	d.state.Objects = refs(d.r.Objects)
	for _, one := range d.kept {
		d.state.Objects = append(d.state.Objects, release.RefOf(one.Object.Unstructured))
	}
	if pruning != nil { // the next deployment tries again
		for _, one := range d.prune {
			d.state.Objects = append(d.state.Objects, release.RefOf(one.Object.Unstructured))
		}
	}
	d.state.Current, d.state.Locked = d.record.Number, ""
	message := ""
	if pruning != nil {
		message = pruning.Error()
	}
	if err := d.end(ctx, ci.Success, message); err != nil {
		return err
	}
	d.tidyHooks(ctx)
	if err := d.place.Trim(ctx, d.state.Current); err != nil {
		d.p.linef("old releases could not be deleted: %s", d.r.Client.Explain(err))
	}
	d.p.linef("release %d of %s is rolled out", d.record.Number, d.place)
	return pruning
}

// deletePruned deletes objects. It goes on when one cannot be deleted, and returns the first error.
func (d *deployment) deletePruned(ctx context.Context, prune Differences) error {
	var first error
	for _, one := range prune {
		err := retry(ctx, d.r.Client, d.p, func() error {
			uid := one.live.GetUID()
			err := d.r.Client.Objects.Delete(ctx, one.live.DeepCopy(), client.PropagationPolicy(metav1.DeletePropagationBackground), client.Preconditions{UID: &uid})
			if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
				return nil
			}
			return err
		})
		if err == nil {
			d.p.linef("%s: deleted", one.Object)
			continue
		}
		sentence := fault.New(fault.Failed, "%s left the manifests, but could not be deleted: %s", one.Object, d.r.Client.Explain(err))
		d.p.linef("%s", sentence)
		if first == nil {
			first = sentence
		}
	}
	return first
}

// end records how the release ended.
func (d *deployment) end(ctx context.Context, status ci.Status, message string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	r := &d.record.Release
	r.Probe = d.result.Probe
	r.Finished, r.Status, r.Message = time.Now().UTC(), status, message
	d.result.Release = r
	d.result.Manifests = d.encode()
	d.state.Latest, d.state.Pending = *r, false
	err := retry(ctx, d.r.Client, d.p, func() error {
		if err := d.place.Put(ctx, d.record); err != nil {
			return err
		}
		return d.place.Save(ctx, &d.state)
	})
	if err != nil {
		return fault.New(fault.Unavailable, "release %d could not be recorded in %s: %w", r.Number, d.place, d.r.Client.Explain(err))
	}
	return nil
}

// encode returns the objects of the release for who keeps them outside of the cluster; nothing if that cannot be done,
// which is no reason to fail: the cluster has them.
func (d *deployment) encode() []byte {
	data, err := release.Encode(d.record.Objects)
	if err != nil {
		d.p.linef("the manifests are kept in the cluster only: %s", err)
	}
	return data
}
