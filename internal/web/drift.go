package web

import (
	"context"
	"fmt"
	"strings"

	"slipway/internal/ci"
)

// withDrift adds what is known of how environments differ from what was deployed to them. Of two clusters that have one of
// the same name, the one that differs is shown.
func (p *pages) withDrift(ctx context.Context, repo string, environments []deployed) ([]deployed, error) {
	all, err := p.Store.ListDrifts(ctx, repo)
	if err != nil {
		return nil, err
	}
	for i := range environments {
		e := &environments[i]
		for _, d := range all {
			if d.Repo == e.Repo && d.Environment == e.Environment && d.Namespace == e.Namespace && (e.Drift == nil || d.Drifted()) {
				e.Drift = &d
			}
		}
	}
	return environments, nil
}

// Drifted reports whether the cluster is known to differ from what serves.
func (d deployed) Drifted() bool { return d.Drift != nil && d.Drift.Drifted() }

// DriftSummary says how much differs.
func (d deployed) DriftSummary() string {
	if n := len(d.Drift.Objects) + d.Drift.More; n > 1 {
		return fmt.Sprintf("%d objects in the cluster are not as release %d left them", n, d.Drift.Release)
	}
	return fmt.Sprintf("1 object in the cluster is not as release %d left it", d.Drift.Release)
}

// DriftDifferences returns what would put the release back.
func (v environmentView) DriftDifferences() []ci.Difference {
	d := *v.Drift
	if !v.Manages {
		d = d.Outline()
	}
	all := make([]ci.Difference, len(d.Objects))
	for i, o := range d.Objects {
		all[i] = ci.Difference{Object: o.Title(), Action: "change", Fields: o.Fields, Error: o.Problem}
		if o.Namespace != d.Namespace {
			all[i].Namespace = o.Namespace
		}
		switch {
		case o.Missing:
			all[i].Action, all[i].Notes = "create", []string{"it is not in the cluster any more"}
		case len(o.By) > 0:
			all[i].Notes = []string{"changed by " + byline(o.By)}
		}
	}
	return all
}

// byline names who changed an object.
func byline(authors []ci.Author) string {
	var names []string
	for _, a := range authors {
		name := a.Manager
		if !a.At.IsZero() {
			name += " on " + a.At.UTC().Format("2 January 2006, 15:04:05 UTC")
		}
		names = append(names, name)
	}
	return strings.Join(names, ", ")
}
