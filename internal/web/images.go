package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"slipway/internal/auth"
	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/retention"
	"slipway/internal/store"
)

// Bounds of the page of a repo's images.
const (
	shownTags     = 50
	shownRemovals = 50
	shownDeleted  = 20
	shownHistory  = 200
	maxSubs       = 100
	maxPolicyForm = 70 << 10
)

// imagesView is the page of a repo's images.
type imagesView struct {
	Repo ci.Repo
	// Image is the repository that is shown, Images are all of the repo.
	Image  string
	Images []string
	// Host is the registry's, for commands.
	Host string
	retention.Overview
	// Shown are the tags of this page, from the one after Skip on; Older and Newer are the addresses of other pages.
	Shown        []tagView
	Older, Newer string
	Quotas       []store.Quota
	// Mayor is true for who may change what is kept.
	Mayor bool
	// Try is the text of a policy that was tried in place of the one that holds, and Wrong what is wrong with it.
	Try   *string
	Wrong string
	// More says how many removals and deleted images are not shown.
	MoreRemovals, MoreDeleted int
	// Empty is true if there are no images at all.
	Empty bool
}

// tagView is a line of a tag.
type tagView struct {
	retention.Standing
	// Run is what pushed it, or nil.
	Run *ci.Run
	// Serves are the newest good releases that have its image.
	Serves []ci.Release
}

// EditPolicy returns the text that the form for the policy has.
func (v imagesView) EditPolicy() string {
	if v.Try != nil {
		return *v.Try
	}
	return v.Policy.Text
}

// Own reports whether the policy that holds was set for this very repository.
func (v imagesView) Own() bool {
	return v.Policy.Repository == v.Image && v.Policy.Text != "" && v.Policy.Commit == ""
}

// UntaggedBytes is what the images without a tag have, as if each were alone.
func (v imagesView) UntaggedBytes() (sum int64) {
	for _, i := range v.Untagged {
		sum += i.Size
	}
	return sum
}

// imagesOf returns which of a repo's images a request is about, if the viewer may see them.
func (p *pages) imagesOf(r *http.Request) (ci.Repo, string, auth.Principal, error) {
	repo, who, err := p.readable(r)
	if err != nil {
		return repo, "", who, err
	}
	image := r.FormValue("image")
	if image == "" {
		image = repo.Name
	}
	none := fault.New(fault.NotFound, "there are no images %q here, or you may not see them", image)
	if image != repo.Name && !strings.HasPrefix(image, repo.Name+"/") || len(image) > 229 || !who.Pulls(image) {
		return repo, image, who, none
	}
	return repo, image, who, nil
}

// images is the page of a repo's images.
func (p *pages) images(w http.ResponseWriter, r *http.Request) error {
	repo, image, who, err := p.imagesOf(r)
	if err != nil {
		return err
	}
	view, err := p.viewImages(r.Context(), repo, image, who)
	if err != nil {
		return err
	}
	skip, _ := strconv.Atoi(r.URL.Query().Get("after")) // what is no number is the first page
	if err := p.showTags(r.Context(), &view, max(0, skip)); err != nil {
		return err
	}
	return p.render(w, r, http.StatusOK, "images", "Images of "+image, "", view)
}

// viewImages finds out all but which tags are shown.
func (p *pages) viewImages(ctx context.Context, repo ci.Repo, image string, who auth.Principal) (imagesView, error) {
	view := imagesView{Repo: repo, Image: image, Host: p.Flow.Registry, Mayor: who.Tidies(image)}
	var err error
	if view.Images, err = p.subImages(ctx, repo.Name, image); err != nil {
		return view, err
	}
	view.Overview, err = p.Options.Images.Overview(ctx, image)
	switch {
	case errors.Is(err, store.ErrNotFound):
		view.Empty = true
		if view.Policy, _, err = p.Options.Images.Find(ctx, image); err != nil {
			view.Wrong = err.Error()
		}
	case err != nil:
		return view, err
	}
	if view.Quotas, err = p.Store.FindQuotas(ctx, image); err != nil {
		return view, err
	}
	view.cut()
	return view, nil
}

// cut leaves of long lists what is shown.
func (v *imagesView) cut() {
	if n := len(v.Decision.Removals); n > shownRemovals {
		v.Decision.Removals, v.MoreRemovals = v.Decision.Removals[:shownRemovals], n-shownRemovals
	}
	if n := len(v.Deleted); n > shownDeleted {
		v.Deleted, v.MoreDeleted = v.Deleted[:shownDeleted], n-shownDeleted
	}
}

// subImages returns the repositories of a repo that there are, and the one that is shown.
func (p *pages) subImages(ctx context.Context, repo, shown string) ([]string, error) {
	images := []string{repo}
	below, err := p.Store.ListRepositories(ctx, store.Page{Last: repo + "/", Limit: maxSubs})
	if err != nil {
		return nil, err
	}
	for _, name := range below {
		if strings.HasPrefix(name, repo+"/") {
			images = append(images, name)
		}
	}
	for _, name := range images {
		if name == shown {
			return images, nil
		}
	}
	return append(images, shown), nil
}

// pushedBy is how a run is called in the histories of tags, see package auth.
var pushedBy = regexp.MustCompile(`^([^ ]+/[^ ]+) run ([0-9]{1,18})$`)

// runOf returns the run of the repo that is called by, or nil. found remembers.
func (p *pages) runOf(ctx context.Context, repo, by string, found map[string]*ci.Run) (*ci.Run, error) {
	if run, ok := found[by]; ok {
		return run, nil
	}
	found[by] = nil
	match := pushedBy.FindStringSubmatch(by)
	if match == nil || match[1] != repo {
		return nil, nil
	}
	number, err := strconv.ParseInt(match[2], 10, 64)
	if err != nil {
		return nil, nil //nolint:nilerr // no run has such a number
	}
	run, err := p.Store.FindRun(ctx, repo, number)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	found[by] = &run
	return &run, nil
}

// showTags sets the tags of the page after the first skip ones, with their runs and what serves them.
func (p *pages) showTags(ctx context.Context, view *imagesView, skip int) error {
	all := view.Tags
	if skip >= len(all) {
		skip = 0
	}
	shown := all[skip:min(len(all), skip+shownTags)]
	page := func(skip int) string {
		q := url.Values{"image": {view.Image}}
		if skip > 0 {
			q.Set("after", strconv.Itoa(skip))
		}
		return imagesLink(view.Repo.Name) + "?" + q.Encode()
	}
	if skip > 0 {
		view.Newer = page(max(0, skip-shownTags))
	}
	if skip+shownTags < len(all) {
		view.Older = page(skip + shownTags)
	}
	releases, err := p.Store.NewestReleases(ctx, 1)
	if err != nil {
		return err
	}
	found := map[string]*ci.Run{}
	for _, t := range shown {
		line := tagView{Standing: t}
		if line.Run, err = p.runOf(ctx, view.Repo.Name, t.By, found); err != nil {
			return err
		}
		for _, release := range releases {
			if release.Status == ci.Success && release.Repo == view.Repo.Name && deploys(release, t.Digest) {
				line.Serves = append(line.Serves, release)
			}
		}
		view.Shown = append(view.Shown, line)
	}
	return nil
}

// deploys reports whether a release has the image of that digest.
func deploys(release ci.Release, digest string) bool {
	for _, image := range release.Images {
		if strings.HasSuffix(image, "@"+digest) {
			return true
		}
	}
	return false
}

func imagesLink(repo string) string { return "/" + repo + "/images" }

// historyView is the page of a tag.
type historyView struct {
	Repo    ci.Repo
	Image   string
	Tag     string
	Now     *store.Tag // nil for a deleted one
	History []historyLine
	Mayor   bool
	Host    string
}

type historyLine struct {
	store.TagChange
	Run *ci.Run
	// Back is true if the tag can be moved there: it is an image, it is here or can be had back, and the tag is not there.
	Back bool
}

// imageHistory is the page of a tag's history.
func (p *pages) imageHistory(w http.ResponseWriter, r *http.Request) error {
	repo, image, who, err := p.imagesOf(r)
	if err != nil {
		return err
	}
	view := historyView{Repo: repo, Image: image, Tag: r.URL.Query().Get("tag"), Mayor: who.Tidies(image), Host: p.Flow.Registry}
	if len(view.Tag) > 128 {
		return fault.New(fault.NotFound, "that is no tag")
	}
	history, err := p.Store.TagHistory(r.Context(), image, view.Tag, shownHistory)
	if err != nil {
		return err
	}
	if len(history) == 0 {
		return fault.New(fault.NotFound, "%s never had a tag %s", image, view.Tag)
	}
	there := map[string]bool{}
	for page := (store.Page{Repository: image, Limit: 500}); ; {
		manifests, err := p.Store.ListManifests(r.Context(), page, false)
		if err != nil {
			return err
		}
		for _, m := range manifests {
			there[m.Digest] = true
		}
		if len(manifests) < page.Limit {
			break
		}
		page.Last = manifests[len(manifests)-1].Digest
	}
	found := map[string]*ci.Run{}
	for _, change := range history {
		line := historyLine{TagChange: change, Back: change.Digest != "" && there[change.Digest] && change.Digest != history[0].Digest}
		if line.Run, err = p.runOf(r.Context(), repo.Name, change.By, found); err != nil {
			return err
		}
		view.History = append(view.History, line)
	}
	if history[0].Digest != "" {
		view.Now = &store.Tag{Name: view.Tag, Digest: history[0].Digest, Updated: history[0].At, By: history[0].By}
	}
	return p.render(w, r, http.StatusOK, "image", image+":"+view.Tag, "", view)
}

// tidier is imagesOf for who changes something.
func (p *pages) tidier(r *http.Request) (ci.Repo, string, auth.Principal, error) {
	r.Body = http.MaxBytesReader(nil, r.Body, maxPolicyForm)
	repo, image, who, err := p.imagesOf(r)
	if err == nil && !who.Tidies(image) {
		err = fault.New(fault.Forbidden, "you may not change what %s keeps; it needs a token with the scope repo:%s or admin", image, repo.Name)
	}
	return repo, image, who, err
}

// backToImages shows the page of the images again, after a change.
func backToImages(w http.ResponseWriter, r *http.Request, repo, image string) error {
	http.Redirect(w, r, imagesLink(repo)+"?"+url.Values{"image": {image}}.Encode(), http.StatusSeeOther)
	return nil
}

// deleteTag deletes a tag, and leaves its image.
func (p *pages) deleteTag(w http.ResponseWriter, r *http.Request) error {
	repo, image, who, err := p.tidier(r)
	if err == nil {
		err = p.Options.Images.DeleteTag(r.Context(), image, r.FormValue("tag"), who.Name, false)
	}
	if err != nil {
		return err
	}
	return backToImages(w, r, repo.Name, image)
}

// deleteImage deletes an image with its tags, which the form has named.
func (p *pages) deleteImage(w http.ResponseWriter, r *http.Request) error {
	repo, image, who, err := p.tidier(r)
	if err == nil {
		_, err = p.Options.Images.DeleteImage(r.Context(), image, r.FormValue("digest"), who.Name, false)
	}
	if err != nil {
		return err
	}
	return backToImages(w, r, repo.Name, image)
}

// restoreImage moves a tag back, or brings an image back.
func (p *pages) restoreImage(w http.ResponseWriter, r *http.Request) error {
	repo, image, who, err := p.tidier(r)
	if err == nil {
		_, err = p.Options.Images.Restore(r.Context(), image, r.FormValue("tag"), r.FormValue("digest"), who.Name)
	}
	if err != nil {
		return err
	}
	return backToImages(w, r, repo.Name, image)
}

// putPolicy sets the policy of the form, or, by its other button, says what it would remove.
func (p *pages) putPolicy(w http.ResponseWriter, r *http.Request) error {
	repo, image, who, err := p.tidier(r)
	if err != nil {
		return err
	}
	text := strings.ReplaceAll(r.FormValue("policy"), "\r\n", "\n") // as forms send lines
	parsed, wrong := retention.Parse(text)
	if r.FormValue("do") == "set" && wrong == nil {
		if strings.TrimSpace(text) == "" {
			text = ""
		}
		if err := p.Options.Images.Put(r.Context(), image, text, who.Name); err != nil {
			return err
		}
		return backToImages(w, r, repo.Name, image)
	}
	view, err := p.viewImages(r.Context(), repo, image, who)
	if err != nil {
		return err
	}
	view.Try = &text
	status := http.StatusOK
	switch {
	case wrong != nil:
		view.Wrong, status = wrong.Error(), http.StatusUnprocessableEntity
	case !view.Empty:
		decision, err := p.Options.Images.DryRun(r.Context(), image, &parsed)
		if err != nil {
			return err
		}
		view.Decision = decision
		view.MoreRemovals = 0
		view.cut()
	}
	if err := p.showTags(r.Context(), &view, 0); err != nil {
		return err
	}
	return p.render(w, r, status, "images", "Images of "+image, "", view)
}

// bytesText writes a number of bytes as people do.
func bytesText(n int64) string {
	units := []string{"bytes", "kB", "MB", "GB", "TB"}
	value, unit := float64(n), 0
	for value >= 1000 && unit < len(units)-1 {
		value, unit = value/1000, unit+1
	}
	if unit == 0 || value >= 100 {
		return fmt.Sprintf("%.0f %s", value, units[unit])
	}
	return fmt.Sprintf("%.1f %s", value, units[unit])
}
