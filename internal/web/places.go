package web

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"slipway/internal/ci"
	"slipway/internal/store"
)

// places returns the environments of a repo, or of all repos if repo is empty: those that something was deployed to, and those
// that have rules. The ones with rules come first, in their order, and then those that were deployed to last.
func (p *pages) places(ctx context.Context, repo string) ([]deployed, error) {
	newest, err := p.Store.NewestReleases(ctx, store.NewestFilter{Repo: repo, Each: 1})
	if err != nil {
		return nil, err
	}
	all := group(newest)
	rules, err := p.Store.ListEnvironments(ctx, repo)
	if err != nil {
		return nil, err
	}
	all = addRules(all, rules)
	reviews, err := p.Store.ListReviews(ctx, repo)
	if err != nil {
		return nil, err
	}
	gates, err := p.Store.ListGates(ctx, store.GateFilter{Repo: repo, Waiting: true, Limit: 500})
	if err != nil {
		return nil, err
	}
	for i := range all {
		d := &all[i]
		for _, r := range reviews {
			if r.Repo == d.Repo && r.Name == d.Environment {
				d.Review = &r
			}
		}
		for _, g := range gates {
			if g.Repo == d.Repo && g.Environment == d.Environment {
				d.Waiting = append(d.Waiting, g)
			}
		}
	}
	return p.withDrift(ctx, repo, all)
}

// addRules gives environments their rules, and adds those that nothing was deployed to yet.
func addRules(all []deployed, rules []ci.Environment) []deployed {
	of := map[string][]ci.Environment{}
	for _, e := range rules {
		of[e.Repo] = append(of[e.Repo], e)
	}
	for i := range all {
		if e, branch, ok := ci.FindEnvironment(of[all[i].Repo], all[i].Environment); ok {
			all[i].Pattern = e.Pattern()
			e = e.For(branch)
			all[i].Rules = &e
		}
	}
	for _, e := range rules {
		there := slices.ContainsFunc(all, func(d deployed) bool { return d.Repo == e.Repo && d.Environment == e.Name })
		if !there && !e.Pattern() {
			all = append(all, deployed{Repo: e.Repo, Environment: e.Name, Namespace: e.Namespace, Rules: &e})
		}
	}
	rank := func(d deployed) int {
		if d.Rules == nil || d.Pattern {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(all, func(a, b deployed) int {
		if order := cmp.Compare(rank(a), rank(b)); order != 0 || rank(a) > 0 {
			return order
		}
		return cmp.Compare(a.Rules.Position, b.Rules.Position)
	})
	return all
}

// standing are the environments that are there: of review environments, those that were not torn down.
func standing(all []deployed) []deployed {
	return slices.DeleteFunc(all, deployed.Gone)
}

// Gone reports whether the environment was torn down.
func (d deployed) Gone() bool { return d.Pattern && d.Review == nil }

// Frozen says until when nothing is deployed, and why; empty if something may be.
func (d deployed) Frozen(now time.Time) string {
	if d.Rules == nil {
		return ""
	}
	freeze, until, frozen := ci.FrozenUntil(d.Rules.Freezes, now, nil)
	if !frozen {
		return ""
	}
	return strings.TrimSuffix(fmt.Sprintf("frozen until %s: %s", until.Format("2 January 15:04 MST"), freeze.Reason), ": ")
}
