package rollout

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/manifest"
	"slipway/internal/release"
)

// DriftReport is how an environment differs from the release that serves there.
type DriftReport struct {
	// Release is the one that serves. Its Number is 0 if there is none.
	Release ci.Release
	// Heal is true if its policy says that differences shall be put back.
	Heal bool
	// Unknown says in a sentence why there is no answer now; empty if Differences is the answer.
	Unknown string
	// Differences are what would have to be done to have the release again, without what is as it should be. Empty means
	// that nothing has changed.
	Differences Differences
}

// Drift compares the release that serves in p with the cluster, by a dry run of the server: what the server fills in, what
// others set beside the manifests, and how many replicas an autoscaler wants are no differences. Nor are Jobs, hooks among them,
// which are over some day. While p is being changed there is no answer, see [DriftReport]. Nothing is locked or changed.
func Drift(ctx context.Context, p release.Place) (DriftReport, error) {
	report, err := drift(ctx, p)
	return report, p.Client.Explain(err)
}

func drift(ctx context.Context, p release.Place) (DriftReport, error) {
	var report DriftReport
	before, err := standing(ctx, p, &report)
	if err != nil || report.Unknown != "" {
		return report, err
	}
	record, err := p.Find(ctx, before.Current)
	if err != nil {
		return report, err
	}
	report.Release, report.Heal = record.Release, record.Heal
	r := Request{
		Client: p.Client, Namespace: p.Namespace, Environment: p.Environment, Release: ci.Release{Repo: p.Repo},
		Objects: slices.DeleteFunc(objectsOf(record), passing),
	}
	all, err := diff(ctx, r)
	if err != nil {
		return report, err
	}
	// What was compared may have been between two releases.
	after, err := standing(ctx, p, &report)
	switch {
	case err != nil || report.Unknown != "":
		return report, err
	case after.Last != before.Last || after.Current != before.Current:
		report.Unknown = fmt.Sprintf("release %d came while it was compared", after.Last)
		return report, nil
	}
	for _, one := range all {
		if one.Action != Unchanged {
			one.Authors = authors(one, record.Finished)
			report.Differences = append(report.Differences, one)
		}
	}
	if l := after.Latest; len(report.Differences) > 0 && l.Number != after.Current && l.Restored == 0 {
		report.Unknown = fmt.Sprintf("release %d failed and was left as it is, so the cluster is not as release %d says", l.Number, after.Current)
		report.Differences = nil
	}
	return report, nil
}

// standing loads the state of p, and says in the report why it is not the time to compare.
func standing(ctx context.Context, p release.Place, report *DriftReport) (release.State, error) {
	state, err := p.Load(ctx)
	if err != nil {
		return state, err
	}
	if report.Unknown = state.Standing(); report.Unknown != "" {
		return state, nil
	}
	by, err := p.Changing(ctx)
	if by != "" {
		report.Unknown = "it is being changed: " + by
	}
	return state, err
}

// passing reports whether an object does something once, as hooks do, and is not meant to stay.
func passing(o manifest.Object) bool { return isJob(o.Unstructured) }

// authors says who set what differs, the latest first: those that the cluster has down for these fields, or, of fields that
// are gone, who changed the object last since the release.
func authors(d Difference, released time.Time) []ci.Author {
	if d.live == nil {
		return nil
	}
	var of, since []ci.Author
	for _, entry := range d.live.GetManagedFields() {
		if entry.Manager == FieldManager || entry.Subresource == "status" || entry.FieldsV1 == nil {
			continue
		}
		author := ci.Author{Manager: oneLine(entry.Manager)}
		if entry.Time != nil {
			author.At = entry.Time.UTC()
		}
		if !author.At.Before(released.Truncate(time.Second)) { // the cluster counts seconds
			since = append(since, author)
		}
		paths := managedPaths(entry.FieldsV1.GetRawBytes())
		if slices.ContainsFunc(d.Fields, func(f Field) bool {
			return slices.ContainsFunc(paths, func(path string) bool { return within(f.Path, path) || within(path, f.Path) })
		}) {
			of = append(of, author)
		}
	}
	latest := func(a, b ci.Author) int { return cmp.Or(b.At.Compare(a.At), strings.Compare(a.Manager, b.Manager)) }
	slices.SortFunc(of, latest)
	slices.SortFunc(since, latest)
	if len(of) > 0 {
		return of
	}
	return since[:min(len(since), 1)]
}

// within reports whether the field at path is that at parent, or below it.
func within(path, parent string) bool {
	rest, ok := strings.CutPrefix(path, parent)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// Objects returns the differences as plain data.
func (r DriftReport) Objects() []ci.DriftedObject {
	var objects []ci.DriftedObject
	for _, one := range r.Differences {
		o := ci.DriftedObject{
			Kind: one.Object.GetKind(), Namespace: one.Object.GetNamespace(), Name: one.Object.GetName(),
			Missing: one.Action == Create, By: one.Authors,
		}
		for _, f := range one.Fields {
			o.Fields = append(o.Fields, ci.Field{Path: f.Path, Old: f.Old, New: f.New, Lines: f.Lines})
		}
		if one.Err != nil {
			o.Problem = fault.Of(one.Err).Message
		}
		objects = append(objects, o)
	}
	return objects
}

// WriteDrift prints what differs, a line for each object and field.
func WriteDrift(w io.Writer, d ci.Drift) {
	p := newPrinter(w)
	if d.Unknown != "" {
		p.linef("cannot be compared now: %s", d.Unknown)
		return
	}
	p.linef("%s", DriftSummary(d))
	for _, o := range d.Objects {
		what := "changed"
		switch {
		case o.Missing:
			what = "missing"
		case o.Problem != "":
			what = "not ours any more"
		}
		name := o.Title()
		if o.Namespace != "" && o.Namespace != d.Namespace {
			name += " in " + o.Namespace
		}
		p.linef("%s: %s%s", name, what, by(o.By))
		for _, f := range o.Fields {
			Field{Path: f.Path, Old: f.Old, New: f.New, Lines: f.Lines}.writeDrift(p)
		}
		if o.Problem != "" {
			p.indentf("%s", o.Problem)
		}
	}
	if d.More > 0 {
		p.linef("and %d more", d.More)
	}
	if d.Fight != "" {
		p.linef("%s", d.Fight)
	}
}

func (f Field) writeDrift(p *printer) {
	switch {
	case len(f.Lines) > 0:
		f.write(p)
	case f.Old == masked && f.New == masked:
		p.indentf("%s: another %s than that of the release", f.Path, masked)
	default:
		p.indentf("%s: %s, not %s", f.Path, cmp.Or(f.Old, "(none)"), cmp.Or(f.New, "(none)"))
	}
}

// by names authors in the words that follow what they did.
func by(authors []ci.Author) string {
	var all []string
	for _, a := range authors {
		text := a.Manager
		if !a.At.IsZero() {
			text += " at " + a.At.UTC().Format("2006-01-02 15:04:05 MST")
		}
		all = append(all, text)
	}
	if len(all) == 0 {
		return ""
	}
	return " by " + strings.Join(all, ", ")
}

// DriftSummary says in a few words how much differs.
func DriftSummary(d ci.Drift) string {
	missing := 0
	for _, o := range d.Objects {
		if o.Missing {
			missing++
		}
	}
	var parts []string
	if n := len(d.Objects) + d.More - missing; n > 0 {
		parts = append(parts, fmt.Sprintf("%d changed", n))
	}
	if missing > 0 {
		parts = append(parts, fmt.Sprintf("%d missing", missing))
	}
	if len(parts) == 0 {
		return fmt.Sprintf("all is as release %d left it", d.Release)
	}
	return fmt.Sprintf("not as release %d left it: %s", d.Release, strings.Join(parts, ", "))
}

// Inventory returns the names of the objects that [Drift] compares.
func Inventory(objects []*unstructured.Unstructured) []release.Ref {
	var refs []release.Ref
	for _, u := range objects {
		if !passing(manifest.Object{Unstructured: u}) {
			refs = append(refs, release.RefOf(u))
		}
	}
	return refs
}
