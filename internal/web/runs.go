package web

import (
	"net/http"
	"net/url"
	"strconv"

	"slipway/internal/auth"
	"slipway/internal/ci"
	"slipway/internal/store"
)

// listed is how many runs a list has at most.
const listed = 50

// runsView is a list of runs. Of one repo, Repo is set.
type runsView struct {
	Repo *ci.Repo
	Runs []ci.Run
	// Environments are those of the repo, on its first page.
	Environments []deployed
	// Older is the address of the next page, or empty. Newer is the address of the first one, on all others.
	Older, Newer string
	// Repos are those that the viewer may see, to choose from; only on the list of all.
	Repos []ci.Repo
	// Server is the root of this server, for the commands of an empty list.
	Server string
	// Stranger is true if the viewer is not logged in.
	Stranger bool
}

// allRuns is the first page: the runs of all repos that the viewer may see.
func (p *pages) allRuns(w http.ResponseWriter, r *http.Request) error {
	if repo := r.URL.Query().Get("repo"); repo != "" {
		http.Redirect(w, r, local("/"+repo), http.StatusSeeOther)
		return nil
	}
	who, err := p.who(r)
	if err != nil {
		return err
	}
	view, err := p.listAll(r, who)
	if err != nil {
		return err
	}
	return p.render(w, r, http.StatusOK, "runs", "Runs", liveOf(r, "/live"), view)
}

// repo is the page of a repo.
func (p *pages) repo(w http.ResponseWriter, r *http.Request) error {
	repo, _, err := p.readable(r)
	if err != nil {
		return err
	}
	view, err := p.listRepo(r, repo)
	if err != nil {
		return err
	}
	if before(r) == 0 {
		all, err := p.places(r.Context(), repo.Name)
		if err != nil {
			return err
		}
		view.Environments = standing(all)
	}
	return p.render(w, r, http.StatusOK, "repo", repo.Name, liveOf(r, "/"+repo.Name+"/live"), view)
}

// liveOf returns where to hear of changes of a list. Only its first page changes.
func liveOf(r *http.Request, address string) string {
	if before(r) > 0 {
		return ""
	}
	return address
}

func before(r *http.Request) int64 {
	id, _ := strconv.ParseInt(r.URL.Query().Get("before"), 10, 64) // what is no number is the first page
	return max(0, id)
}

func (p *pages) listAll(r *http.Request, who auth.Principal) (runsView, error) {
	view := runsView{Server: p.Flow.URL, Stranger: who.Name == ""}
	repos, err := p.Store.ListRepos(r.Context())
	if err != nil {
		return view, err
	}
	names := []string{}
	for _, repo := range repos {
		if visible(repo, who) {
			names = append(names, repo.Name)
			view.Repos = append(view.Repos, repo)
		}
	}
	view.Runs, err = p.Store.ListRuns(r.Context(), store.RunFilter{Repos: names, Before: before(r), Limit: listed + 1})
	view.cut("/", before(r))
	return view, err
}

func (p *pages) listRepo(r *http.Request, repo ci.Repo) (runsView, error) {
	view := runsView{Repo: &repo, Server: p.Flow.URL}
	found, err := p.Store.ListRuns(r.Context(), store.RunFilter{Repo: repo.Name, Before: before(r), Limit: listed + 1})
	if err != nil {
		return view, err
	}
	view.Runs = found
	view.cut("/"+repo.Name, before(r))
	return view, nil
}

// cut leaves one page of the runs, and sets the links to the others.
func (v *runsView) cut(path string, before int64) {
	if len(v.Runs) > listed {
		v.Runs = v.Runs[:listed]
		v.Older = path + "?" + url.Values{"before": {strconv.FormatInt(v.Runs[listed-1].ID, 10)}}.Encode()
	}
	if before > 0 {
		v.Newer = path
	}
}
