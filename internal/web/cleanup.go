package web

import (
	"errors"
	"net/http"
	"strings"

	"slipway/internal/retention"
	"slipway/internal/store"
)

// shownRemovals is how many lines of a clean-up the page has; the rest it counts.
const shownRemovals = 200

// cleanUpView is the page of what a repository of images keeps.
type cleanUpView struct {
	imagesFrame
	Policy   store.Policy
	Decision retention.Decision
	// MoreRemovals says how many removals are not shown.
	MoreRemovals int
	// Try is the text of a policy that was tried in place of the one that holds, and Wrong what is wrong with it, a line each.
	Try   *string
	Wrong []string
}

// Total is how many removals there are.
func (v cleanUpView) Total() int { return len(v.Decision.Removals) + v.MoreRemovals }

// EditPolicy returns the text that the form for the policy has.
func (v cleanUpView) EditPolicy() string {
	if v.Try != nil {
		return *v.Try
	}
	return v.Policy.Text
}

// Own reports whether the policy that holds was set for this very repository.
func (v cleanUpView) Own() bool {
	return v.Policy.Repository == v.Image && v.Policy.Text != "" && v.Policy.Commit == ""
}

// cleanUp is the page of the policy that holds, and of what the next clean-up takes.
func (p *pages) cleanUp(w http.ResponseWriter, r *http.Request) error {
	repo, image, who, err := p.imagesOf(r)
	if err != nil {
		return err
	}
	var view cleanUpView
	if view.imagesFrame, err = p.frameOf(r.Context(), repo, image, "clean-up", who); err != nil {
		return err
	}
	return p.showCleanUp(w, r, view, http.StatusOK, nil)
}

// showCleanUp answers with the page of what a policy removes: the one that holds, or the one that is tried.
func (p *pages) showCleanUp(w http.ResponseWriter, r *http.Request, view cleanUpView, status int, try *retention.Policy) (err error) {
	ctx := r.Context()
	if view.Counts, err = p.Store.CountImages(ctx, view.Image); errors.Is(err, store.ErrNotFound) {
		view.Empty, err = true, nil
	}
	if err != nil {
		return err
	}
	holds, _, err := p.Options.Images.Find(ctx, view.Image)
	view.Policy = holds
	switch {
	case err != nil && view.Wrong == nil && try == nil:
		view.Wrong = sentencesOf(err)
	case !view.Empty && view.Wrong == nil:
		if view.Decision, err = p.Options.Images.Preview(ctx, view.Image, try); err != nil {
			return err
		}
		if n := len(view.Decision.Removals); n > shownRemovals {
			view.Decision.Removals, view.MoreRemovals = view.Decision.Removals[:shownRemovals], n-shownRemovals
		}
	}
	return p.render(w, r, status, "cleanup", "Clean-up of "+view.Image, "", view)
}

// putPolicy sets the policy of the form, or, by its other button, says what it would remove.
func (p *pages) putPolicy(w http.ResponseWriter, r *http.Request) error {
	repo, image, who, err := p.tidier(r)
	if err != nil {
		return err
	}
	text := strings.ReplaceAll(r.FormValue("policy"), "\r\n", "\n") // as forms send lines
	parsed, wrong := retention.Parse(text)
	var view cleanUpView
	if view.imagesFrame, err = p.frameOf(r.Context(), repo, image, "clean-up", who); err != nil {
		return err
	}
	if r.FormValue("do") == "set" && wrong == nil {
		if strings.TrimSpace(text) == "" {
			text = ""
		}
		if err := p.Options.Images.Put(r.Context(), image, text, who.Name); err != nil {
			return err
		}
		http.Redirect(w, r, view.Link("clean-up"), http.StatusSeeOther)
		return nil
	}
	view.Try = &text
	status := http.StatusOK
	if wrong != nil {
		view.Wrong, status = sentencesOf(wrong), http.StatusUnprocessableEntity
	}
	return p.showCleanUp(w, r, view, status, &parsed)
}

// sentencesOf says what is wrong with a policy, a place of it each.
func sentencesOf(wrong error) (all []string) {
	var problems retention.Problems
	if !errors.As(wrong, &problems) {
		return []string{wrong.Error()}
	}
	for _, problem := range problems {
		all = append(all, "policy:"+problem.String())
	}
	return all
}
