package web

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"slipway/internal/auth"
	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/retention"
	"slipway/internal/store"
)

// Bounds of the pages of a repo's images.
const (
	shownTags    = 50
	shownHistory = 200
	shownSubs    = 100
	// named is how many tags the page that deletes an image names; the rest it counts.
	named = 1000
)

// imagesFrame is what the pages of a repo's images have in common.
type imagesFrame struct {
	Repo ci.Repo
	// Image is the repository that is shown, Images are those of the repo, Part is which page of it: tags, untagged, deleted or clean-up.
	Image  string
	Images []string
	Part   string
	// Host is the registry's, for commands.
	Host   string
	Counts store.ImageCounts
	// Mayor is true for who may change what is kept.
	Mayor bool
	// Empty is true if there are no images at all.
	Empty bool
	// Older and Newer are the addresses of other pages.
	Older, Newer string
}

// Link is the address of a part of the same images.
func (f imagesFrame) Link(part string) string {
	path := imagesLink(f.Repo.Name)
	if part != "tags" {
		path += "/" + part
	}
	return path + "?" + url.Values{"image": {f.Image}}.Encode()
}

// Address is the address of a page about the same images, with more in its query.
func (f imagesFrame) Address(page string, more ...string) string {
	query := url.Values{"image": {f.Image}}
	for i := 0; i < len(more); i += 2 {
		query.Set(more[i], more[i+1])
	}
	return imagesLink(f.Repo.Name) + page + "?" + query.Encode()
}

// partLink is what the navigation shows of a part.
type partLink struct {
	Title, Address string
	// Count is how much there is of it; -1 if that is not counted.
	Count int64
	Here  bool
}

// partOf makes the link to a part of a page's images.
func partOf(page interface{ frame() imagesFrame }, part, title string, count int64) partLink {
	f := page.frame()
	if f.Empty {
		count = -1
	}
	return partLink{title, f.Link(part), count, f.Part == part}
}

func (f imagesFrame) frame() imagesFrame { return f }

// turn sets the addresses of the pages beside the one that begins after the first skip of so many.
func (f *imagesFrame) turn(skip, total int64, search string) {
	address := func(skip int64) string {
		page, more := "", []string(nil)
		if f.Part != "tags" {
			page = "/" + f.Part
		}
		if search != "" {
			more = append(more, "q", search)
		}
		if skip > 0 {
			more = append(more, "after", strconv.FormatInt(skip, 10))
		}
		return f.Address(page, more...)
	}
	if skip > 0 {
		f.Newer = address(max(0, skip-shownTags))
	}
	if skip+shownTags < total {
		f.Older = address(skip + shownTags)
	}
}

// skipped is how many lines come before the page of a request; what is no number is the first page.
func skipped(r *http.Request) int64 {
	n, _ := strconv.ParseInt(r.URL.Query().Get("after"), 10, 32)
	return max(0, n)
}

// imagesView is the page of the tags of a repo's images.
type imagesView struct {
	imagesFrame
	retention.Overview
	// Search is a part of the names of the tags that are shown.
	Search string
	// Shown are the tags of this page; the first is number First.
	Shown  []tagView
	First  int64
	Quotas []store.Quota
}

// Last is the number of the last tag on the page.
func (v imagesView) Last() int64 { return v.First + int64(len(v.Shown)) - 1 }

// tagView is a line of a tag.
type tagView struct {
	retention.Standing
	// Run is what pushed it, or nil.
	Run *ci.Run
	// Serves are the newest good releases that have its image.
	Serves []ci.Release
}

// imagesOf returns which of a repo's images a request is about, if the viewer may see them.
func (p *pages) imagesOf(r *http.Request) (ci.Repo, string, auth.Principal, error) {
	repo, who, err := p.readable(r)
	if err != nil {
		return repo, "", who, err
	}
	image := ci.ImageName(r.FormValue("image"))
	if image == "" {
		image = ci.ImageName(repo.Name)
	}
	none := fault.New(fault.NotFound, "there are no images %q here, or you may not see them", image)
	if ci.ImageOwner(image) != ci.ImageName(repo.Name) || len(image) > 229 || !who.Pulls(image) {
		return repo, image, who, none
	}
	return repo, image, who, nil
}

// frameOf makes what the pages of a repo's images have in common, but for the counts.
func (p *pages) frameOf(ctx context.Context, repo ci.Repo, image, part string, who auth.Principal) (imagesFrame, error) {
	f := imagesFrame{Repo: repo, Image: image, Part: part, Host: p.Flow.Registry, Mayor: who.Tidies(image)}
	var err error
	f.Images, err = p.subImages(ctx, ci.ImageName(repo.Name), image)
	return f, err
}

// images is the page of the tags of a repo's images.
func (p *pages) images(w http.ResponseWriter, r *http.Request) error {
	repo, image, who, err := p.imagesOf(r)
	if err != nil {
		return err
	}
	ctx := r.Context()
	view := imagesView{Search: r.URL.Query().Get("q")}
	if view.imagesFrame, err = p.frameOf(ctx, repo, image, "tags", who); err != nil {
		return err
	}
	if len(view.Search) > 200 {
		return fault.New(fault.Invalid, "no tag has a name, and no image a digest, of more than 200 characters")
	}
	skip := skipped(r)
	filter := store.TagFilter{Repository: image, Match: view.Search, Skip: int(skip), Limit: shownTags}
	view.Overview, err = p.Options.Images.Overview(ctx, filter)
	if err == nil && skip > 0 && len(view.Tags) == 0 { // what was there has gone
		skip, filter.Skip = 0, 0
		view.Overview, err = p.Options.Images.Overview(ctx, filter)
	}
	if errors.Is(err, store.ErrNotFound) {
		view.Empty, err = true, nil
	}
	if err != nil {
		return err
	}
	view.Counts, view.First = view.ImageCounts, skip+1
	view.turn(skip, view.Found, view.Search)
	if view.Quotas, err = p.Store.FindQuotas(ctx, image); err != nil {
		return err
	}
	if err := p.showTags(ctx, &view); err != nil {
		return err
	}
	return p.render(w, r, http.StatusOK, "images", "Images of "+image, "", view)
}

// looseView is the page of images without a tag, or of deleted ones.
type looseView struct {
	imagesFrame
	Loose []retention.Image
	Usage retention.Usage
}

// loose is the page of images that no tag leads to, or that were deleted.
func (p *pages) loose(part string) func(w http.ResponseWriter, r *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		repo, image, who, err := p.imagesOf(r)
		if err != nil {
			return err
		}
		var view looseView
		if view.imagesFrame, err = p.frameOf(r.Context(), repo, image, part, who); err != nil {
			return err
		}
		if view.Counts, err = p.Store.CountImages(r.Context(), image); err == nil {
			filter := store.ImageFilter{Repository: image, Deleted: part == "deleted", Skip: int(skipped(r)), Limit: shownTags}
			view.Loose, view.Usage, err = p.Options.Images.Untagged(r.Context(), filter)
		}
		if errors.Is(err, store.ErrNotFound) {
			view.Empty, err = true, nil
		}
		if err != nil {
			return err
		}
		total := view.Counts.Untagged
		if part == "deleted" {
			total = view.Counts.Deleted
		}
		view.turn(skipped(r), total, "")
		return p.render(w, r, http.StatusOK, "loose", strings.ToUpper(part[:1])+part[1:]+" images of "+image, "", view)
	}
}

// subImages returns the first of a repo's repositories of images and those below it that there are, and the one that is shown.
func (p *pages) subImages(ctx context.Context, first, shown string) ([]string, error) {
	images := []string{first}
	below, err := p.Store.ListRepositories(ctx, store.Page{Last: first + "/", Limit: shownSubs})
	if err != nil {
		return nil, err
	}
	for _, name := range below {
		if strings.HasPrefix(name, first+"/") {
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

// runsBy returns the runs of the repo that are called so. It is for no more than shownHistory names.
func (p *pages) runsBy(ctx context.Context, repo string, names []string) (map[string]*ci.Run, error) {
	called := map[int64][]string{}
	for _, name := range names {
		match := pushedBy.FindStringSubmatch(name)
		if match == nil || match[1] != repo {
			continue
		}
		if number, err := strconv.ParseInt(match[2], 10, 64); err == nil { // no run has a number that is none
			called[number] = append(called[number], name)
		}
	}
	found := map[string]*ci.Run{}
	if len(called) == 0 {
		return found, nil
	}
	runs, err := p.Store.ListRuns(ctx, store.RunFilter{Repo: repo, Numbers: slices.Collect(maps.Keys(called)), Limit: shownHistory})
	for _, run := range runs {
		for _, name := range called[run.Number] {
			found[name] = &run
		}
	}
	return found, err
}

// showTags sets the lines of the tags, with their runs and what serves them.
func (p *pages) showTags(ctx context.Context, view *imagesView) error {
	releases, err := p.Store.NewestReleases(ctx, store.NewestFilter{Repo: view.Repo.Name, Each: 1})
	if err != nil {
		return err
	}
	var names []string
	for _, t := range view.Tags {
		names = append(names, t.By)
	}
	runs, err := p.runsBy(ctx, view.Repo.Name, names)
	if err != nil {
		return err
	}
	for _, t := range view.Tags {
		line := tagView{Standing: t, Run: runs[t.By]}
		for _, release := range releases {
			if release.Status == ci.Success && deploys(release, t.Digest) {
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
	var digests, names []string
	for _, change := range history {
		names = append(names, change.By)
		if change.Digest != "" {
			digests = append(digests, change.Digest)
		}
	}
	slices.Sort(digests)
	manifests, err := p.Store.PickManifests(r.Context(), image, slices.Compact(digests))
	if err != nil {
		return err
	}
	there := map[string]bool{}
	for _, m := range manifests {
		there[m.Digest] = true
	}
	runs, err := p.runsBy(r.Context(), repo.Name, names)
	if err != nil {
		return err
	}
	for _, change := range history {
		line := historyLine{TagChange: change, Run: runs[change.By], Back: change.Digest != "" && there[change.Digest] && change.Digest != history[0].Digest}
		view.History = append(view.History, line)
	}
	if history[0].Digest != "" {
		view.Now = &store.Tag{Name: view.Tag, Digest: history[0].Digest, Updated: history[0].At, By: history[0].By}
	}
	return p.render(w, r, http.StatusOK, "image", image+":"+view.Tag, "", view)
}

// maxImageForm bounds the forms of these pages, in bytes: the largest has a policy.
const maxImageForm = 70 << 10

// tidier is imagesOf for who changes something.
func (p *pages) tidier(r *http.Request) (ci.Repo, string, auth.Principal, error) {
	r.Body = http.MaxBytesReader(nil, r.Body, maxImageForm)
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

// doomedView is the page that asks once more before an image goes.
type doomedView struct {
	imagesFrame
	retention.Contents
	Usage  retention.Usage
	Digest string
}

// MoreTags is how many tags are not named.
func (v doomedView) MoreTags() int { return v.Tagged - len(v.Tags) }

// doomed is the page that names the tags that an image takes along, before it is deleted.
func (p *pages) doomed(w http.ResponseWriter, r *http.Request) error {
	repo, image, who, err := p.tidier(r)
	if err != nil {
		return err
	}
	view := doomedView{Digest: r.FormValue("digest")}
	if view.imagesFrame, err = p.frameOf(r.Context(), repo, image, "", who); err != nil {
		return err
	}
	view.Contents, view.Usage, err = p.Options.Images.Contents(r.Context(), image, view.Digest, named)
	if errors.Is(err, store.ErrNotFound) {
		return fault.New(fault.NotFound, "%s has no image %.200s", image, view.Digest)
	}
	if err != nil {
		return err
	}
	return p.render(w, r, http.StatusOK, "doomed", "Delete an image of "+image, "", view)
}

// deleteImage deletes an image with its tags, which the page before has named.
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

// numberText writes a number with a comma for each thousand.
func numberText(n any) (string, error) {
	text := fmt.Sprint(n)
	if _, err := strconv.ParseInt(text, 10, 64); err != nil {
		return "", err
	}
	for i := len(text) - 3; i > 0 && text[i-1] != '-'; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text, nil
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
