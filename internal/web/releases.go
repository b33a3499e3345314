package web

import (
	"net/http"
	"net/url"
	"strconv"

	"slipway/internal/auth"
	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/release"
)

// releaseView is the page of a release.
type releaseView struct {
	Release ci.Release
	// Run is true if the run that deployed is known, so that its page can be linked to.
	Run bool
	// Serves is true if no good release came after it.
	Serves bool
	// Before is the good release that it took the place of, and Differences say what changed; Omitted counts what is too
	// much. Compared is false if that cannot be said.
	Before      *ci.Release
	Compared    bool
	Differences []ci.Difference
	Omitted     int
	Manifests   []release.Document
	// Unknown says why there are no manifests.
	Unknown string
	// Manages is true if the viewer may see the manifests, Back if the environment may be brought back to the release;
	// Stranger, if a login might help.
	Manages, Back, Stranger bool
}

// Environment returns the address of the environment's page.
func (v releaseView) Environment() string {
	return environmentLink(v.Release.Repo, v.Release.Namespace, v.Release.Environment)
}

// Link returns the address of the page.
func (v releaseView) Link() string { return releaseLink(v.Release) }

// Why returns the reason of a failure.
func (v releaseView) Why() string { return v.Release.Message }

// findRelease returns the release of a request, its repo, and who asks.
func (p *pages) findRelease(r *http.Request) (ci.Release, ci.Repo, auth.Principal, error) {
	repo, who, err := p.readable(r)
	if err != nil {
		return ci.Release{}, repo, who, err
	}
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil {
		return ci.Release{}, repo, who, fault.New(fault.NotFound, "%s has no release with the ID %.20q", repo.Name, r.PathValue("id"))
	}
	found, err := p.Flow.FindRelease(r.Context(), repo.Name, id)
	return found, repo, who, err
}

// release is the page of a release: all that was recorded of it.
func (p *pages) release(w http.ResponseWriter, r *http.Request) error {
	found, repo, who, err := p.findRelease(r)
	if err != nil {
		return err
	}
	view := releaseView{Release: found, Manages: who.Manages(repo.Name), Stranger: who.Name == ""}
	if found.Run > 0 {
		_, err := p.Flow.FindRun(r.Context(), repo.Name, found.Run)
		if err != nil && fault.Of(err).Code != fault.NotFound { // a database that was lost knows no old runs
			return err
		}
		view.Run = err == nil
	}
	here, err := p.environmentsOf(r.Context(), repo.Name)
	if err != nil {
		return err
	}
	for _, d := range here {
		if d.Environment == found.Environment && d.Namespace == found.Namespace {
			view.Serves = d.Serves != nil && d.Serves.ID == found.ID
			view.Back = view.Manages && d.Offers(found)
		}
	}
	if view.Manages {
		if err := p.fillManifests(r, &view); err != nil {
			return err
		}
	}
	title := "Release " + strconv.FormatInt(found.Number, 10) + " of " + repo.Name + " in " + found.Environment
	return p.render(w, r, http.StatusOK, "release", title, "", view)
}

// fillManifests adds what the release brought, and what changed with it.
func (p *pages) fillManifests(r *http.Request, view *releaseView) (err error) {
	expected := func(err error) bool {
		return err != nil && fault.Of(err).Code != fault.Internal && r.Context().Err() == nil
	}
	view.Manifests, err = p.ledger().Documents(r.Context(), view.Release)
	if expected(err) {
		view.Unknown = fault.Of(err).Message
		return nil
	}
	if err != nil {
		return err
	}
	if view.Before, err = p.ledger().Before(r.Context(), view.Release); err != nil || view.Before == nil {
		return err
	}
	view.Differences, view.Omitted, err = p.ledger().Diff(r.Context(), view.Before, view.Release)
	view.Compared = err == nil
	if expected(err) {
		return nil
	}
	return err
}

// rollback brings an environment back to a release, by a run.
func (p *pages) rollback(w http.ResponseWriter, r *http.Request) error {
	found, repo, who, err := p.findRelease(r)
	switch {
	case err != nil:
		return err
	case who.Name == "":
		http.Redirect(w, r, "/login?"+url.Values{"next": {releaseLink(found)}}.Encode(), http.StatusSeeOther)
		return nil
	case !who.Manages(repo.Name):
		return fault.New(fault.Forbidden, "the token %q does not allow to change %s; it needs the scope repo:%[2]s or admin", who.Name, repo.Name)
	case found.Status != ci.Success:
		return fault.New(fault.Conflict, "release %d was not good, so %s cannot go back to it", found.Number, found.Environment)
	}
	run, err := p.Flow.Rollback(r.Context(), repo.Name, found.Environment, found.Namespace, found.Number, who.Name)
	if err != nil {
		return err
	}
	http.Redirect(w, r, runLink(run), http.StatusSeeOther)
	return nil
}

// previewView is the page of what deployments of a run would change.
type previewView struct {
	Run      ci.Run
	Previews []ci.Preview
}

// preview is the page of what a run's diff steps found out.
func (p *pages) preview(w http.ResponseWriter, r *http.Request) error {
	run, _, _, err := p.find(r)
	if err != nil {
		return err
	}
	previews, err := p.Store.ListPreviews(r.Context(), run.Repo, run.Number)
	if err != nil {
		return err
	}
	if len(previews) == 0 {
		return fault.New(fault.NotFound, "run %d of %s has no step that says what a deployment would change, or none that got so far", run.Number, run.Repo)
	}
	return p.render(w, r, http.StatusOK, "preview", "What run "+strconv.FormatInt(run.Number, 10)+" of "+run.Repo+" would change", "", previewView{run, previews})
}
