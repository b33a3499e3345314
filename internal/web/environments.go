package web

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/ledger"
	"slipway/internal/store"
)

// deployed is one environment, as its releases tell.
type deployed struct {
	Repo, Environment, Namespace string
	// Serves is the newest good release, Latest the newest of all. One of them may be nil, but not both.
	Serves, Latest *ci.Release
	// Drift is how the cluster differs from what serves; nil if it is not watched.
	Drift *ci.Drift
}

// Link returns the address of the environment's page.
func (d deployed) Link() string { return environmentLink(d.Repo, d.Namespace, d.Environment) }

// Status is how the newest release ended.
func (d deployed) Status() ci.Status { return d.Latest.Status }

// Locked reports whether the newest release could neither be rolled out nor taken back.
func (d deployed) Locked() bool { return rollbackFailed(*d.Latest) }

// Failed reports whether what was brought last does not serve.
func (d deployed) Failed() bool { return d.Latest.Status.Failed() }

// Offers reports whether it makes sense to bring the environment back to a release: a good one, and not the one that
// serves, unless another one failed since and was not taken back, or the cluster has come to differ from it.
func (d deployed) Offers(r ci.Release) bool {
	serves := d.Serves != nil && d.Serves.ID == r.ID && (!d.Failed() || d.Latest.Restored > 0) && !d.Drifted()
	return r.Status == ci.Success && !serves
}

// Standing says in one sentence how the environment is.
func (d deployed) Standing() string {
	switch {
	case d.Locked():
		return fmt.Sprintf("Locked: release %d failed, and going back failed as well. Somebody has to look.", d.Latest.Number)
	case d.Serves == nil:
		return fmt.Sprintf("No release was good yet; release %d was the last to fail.", d.Latest.Number)
	case d.Failed() && d.Latest.Restored > 0:
		return fmt.Sprintf("Release %d failed, and release %d was put back.", d.Latest.Number, d.Latest.Restored)
	case d.Failed():
		return fmt.Sprintf("Release %d failed.", d.Latest.Number)
	}
	return fmt.Sprintf("Release %d serves.", d.Serves.Number)
}

// Why returns the reason of the failure, without what became of the old release, which Standing says.
func (d deployed) Why() string {
	if !d.Failed() {
		return ""
	}
	return why(*d.Latest)
}

// why returns the reason why a release failed, in one sentence.
func why(r ci.Release) string {
	reason, _, _ := strings.Cut(r.Message, "; ROLL")
	return reason
}

// rollbackFailed reports whether a release failed, and what was there before could not be put back.
func rollbackFailed(r ci.Release) bool {
	return r.Status.Failed() && strings.Contains(r.Message, "ROLLBACK FAILED")
}

func environmentLink(repo, namespace, environment string) string {
	return fmt.Sprintf("/%s/environments/%s/%s", repo, url.PathEscape(namespace), (&url.URL{Path: environment}).EscapedPath())
}

func releaseLink(r ci.Release) string { return fmt.Sprintf("/%s/releases/%d", r.Repo, r.ID) }

// group makes environments of releases, the newest first, of which each environment has one of each status at least.
func group(releases []ci.Release) []deployed {
	at := map[string]int{}
	var all []deployed
	for _, r := range releases {
		key := strings.Join([]string{r.Repo, r.Namespace, r.Environment}, "\x00")
		i, known := at[key]
		if !known {
			i = len(all)
			at[key] = i
			all = append(all, deployed{Repo: r.Repo, Environment: r.Environment, Namespace: r.Namespace, Latest: &r})
		}
		if r.Status == ci.Success && all[i].Serves == nil {
			all[i].Serves = &r
		}
	}
	return all
}

// repoEnvironments are the environments of one repo.
type repoEnvironments struct {
	Repo         string
	Environments []deployed
}

// environmentsView is the page of what runs where.
type environmentsView struct {
	Repos    []repoEnvironments
	Stranger bool
}

// environments is the page of what runs where: the environments of all repos that the viewer may see.
func (p *pages) environments(w http.ResponseWriter, r *http.Request) error {
	who, err := p.who(r)
	if err != nil {
		return err
	}
	repos, err := p.Store.ListRepos(r.Context())
	if err != nil {
		return err
	}
	newest, err := p.Store.NewestReleases(r.Context(), 1)
	if err != nil {
		return err
	}
	all, err := p.withDrift(r.Context(), "", group(newest))
	if err != nil {
		return err
	}
	of := map[string][]deployed{}
	for _, d := range all {
		of[d.Repo] = append(of[d.Repo], d)
	}
	view := environmentsView{Stranger: who.Name == ""}
	for _, repo := range repos {
		if found := of[repo.Name]; len(found) > 0 && visible(repo, who) {
			view.Repos = append(view.Repos, repoEnvironments{repo.Name, found})
		}
	}
	return p.render(w, r, http.StatusOK, "environments", "Environments", "", view)
}

// environmentsOf returns the environments of a repo, the one that was deployed to last first.
func (p *pages) environmentsOf(ctx context.Context, repo string) ([]deployed, error) {
	newest, err := p.Store.NewestReleases(ctx, 1)
	if err != nil {
		return nil, err
	}
	return p.withDrift(ctx, repo, group(slices.DeleteFunc(newest, func(r ci.Release) bool { return r.Repo != repo })))
}

// environmentView is the page of an environment.
type environmentView struct {
	deployed
	// Objects are the names of what the release that serves brought; nil if they are not known.
	Objects []string
	History []ci.Release
	Picture *timeline
	// Manages is true if the viewer may roll back; Stranger, if a login might help.
	Manages, Stranger bool
	// Older is the address of the next page, Newer that of the first one on all others; or empty.
	Older, Newer string
}

// Back reports whether there is a button to bring the environment back to a release.
func (v environmentView) Back(r ci.Release) bool { return v.Manages && v.Offers(r) }

// environment is the page of one environment: what serves, and how it came to that.
func (p *pages) environment(w http.ResponseWriter, r *http.Request) error {
	repo, who, err := p.readable(r)
	if err != nil {
		return err
	}
	filter := store.ReleaseFilter{
		Repo: repo.Name, Environment: r.PathValue("environment"), Namespace: r.PathValue("namespace"), Before: before(r), Limit: listed + 1,
	}
	history, err := p.Store.ListReleases(r.Context(), filter)
	if err != nil {
		return err
	}
	here, err := p.environmentsOf(r.Context(), repo.Name)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(here, func(d deployed) bool {
		return d.Environment == filter.Environment && d.Namespace == filter.Namespace
	})
	if i < 0 {
		return fault.New(fault.NotFound, "nothing of %s was deployed to an environment %q of a namespace %q yet", repo.Name, filter.Environment, filter.Namespace)
	}
	view := environmentView{deployed: here[i], History: history, Manages: who.Manages(repo.Name), Stranger: who.Name == ""}
	if len(history) > listed {
		view.History = history[:listed]
		view.Older = fmt.Sprintf("%s?before=%d", view.Link(), view.History[listed-1].ID)
	}
	if filter.Before > 0 {
		view.Newer = view.Link()
	} else {
		view.Picture = timelineOf(view.History, view.Serves)
	}
	if view.Serves != nil {
		documents, err := p.ledger().Documents(r.Context(), *view.Serves)
		if err != nil && fault.Of(err).Code == fault.Internal {
			return err
		}
		for _, d := range documents {
			view.Objects = append(view.Objects, d.Name)
		}
	}
	return p.render(w, r, http.StatusOK, "environment", view.Environment+" of "+repo.Name, "", view)
}

func (p *pages) ledger() ledger.Ledger { return ledger.Ledger{Flow: p.Flow, Store: p.Store} }

// timeline is a picture of an environment's releases, the newest at the right: a bar for each, the longer the deployment took
// the higher.
type timeline struct {
	Width, Height int
	Bars          []bar
	// From and To are the first and the last release.
	From, To ci.Release
}

// bar stands for a release.
type bar struct {
	X, Y, Height int
	Release      ci.Release
	Link         string
	Serves       bool
}

// The picture's measures, in pixels.
const (
	bars      = 40 // at most
	barStep   = 18
	barLow    = 8
	barHigh   = 56
	barBottom = 64 // below it is a mark under the release that serves
)

// timelineOf draws releases, the newest first; of less than two there is nothing to be seen.
func timelineOf(history []ci.Release, serves *ci.Release) *timeline {
	history = slices.Clone(history[:min(len(history), bars)])
	if len(history) < 2 {
		return nil
	}
	slices.Reverse(history)
	t := &timeline{Width: len(history) * barStep, Height: barBottom + 8, From: history[0], To: history[len(history)-1]}
	seconds := func(r ci.Release) float64 { return max(0, r.Finished.Sub(r.Started).Seconds()) }
	longest := 1.0
	for _, r := range history {
		longest = max(longest, seconds(r))
	}
	for i, r := range history {
		// By the logarithm: one that waited for minutes must not flatten all others.
		height := barLow + int(float64(barHigh-barLow)*math.Log1p(seconds(r))/math.Log1p(longest))
		t.Bars = append(t.Bars, bar{
			X: i * barStep, Y: barBottom - height, Height: height, Release: r, Link: releaseLink(r),
			Serves: serves != nil && r.ID == serves.ID,
		})
	}
	return t
}
