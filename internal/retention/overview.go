package retention

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"slipway/internal/fault"
	"slipway/internal/store"
)

// Overview is a part of the tags of a repository of images, for people to look at.
type Overview struct {
	store.ImageCounts
	// Tags are those that were asked for, the newest first, and Found is how many the question fits.
	Tags  []Standing
	Found int64
	// Policy is the one that holds.
	Policy store.Policy
	// Usage is what the tags' Uses are known from.
	Usage Usage
}

// Standing is a tag with what is known of it.
type Standing struct {
	store.Tag
	Contents
	// Goes says why the policy removes it, Spared why it would and does not.
	Goes, Spared string
}

// Siblings are the other tags of the same image, as far as they are named.
func (s Standing) Siblings() []string {
	others := slices.DeleteFunc(slices.Clone(s.Contents.Tags), func(name string) bool { return name == s.Name })
	return others[:min(len(others), shownSiblings)]
}

// MoreSiblings is how many other tags of the same image there are beside the Siblings.
func (s Standing) MoreSiblings() int { return max(0, s.Tagged-1-len(s.Siblings())) }

// Contents are what an image leads to.
type Contents struct {
	// Size is that of the manifests and blobs that it leads to, each once. Own is the size of those that nothing else in the
	// repository leads to: what would be free without the image.
	Size, Own int64
	// Images is how many images an index has; 0 for an image by itself.
	Images int
	// Uses say who needs it.
	Uses []string
	// Users are the tags that point at it, and the indexes that it is in.
	store.Users

	needs []Use
}

// shownSiblings is how many tags of the same image are named.
const shownSiblings = 10

// Overview returns tags of a repository, and what its policy makes of them. It takes as long as many tags are asked for, and
// not as there are. Of a repository that is not there it says store.ErrNotFound.
func (c *Cleaner) Overview(ctx context.Context, filter store.TagFilter) (o Overview, err error) {
	if o.ImageCounts, err = c.Store.CountImages(ctx, filter.Repository); err != nil {
		return o, err
	}
	state := State{Now: c.Now()}
	if state.Tags, o.Found, err = c.Store.BrowseTags(ctx, filter); err != nil {
		return o, err
	}
	var policy Policy
	if o.Policy, policy, err = c.holding(ctx, filter.Repository); err != nil {
		policy = Policy{} // it is shown, and decides nothing
	}
	if err := c.ask(ctx, filter.Repository, policy, &state, false); err != nil {
		return o, err
	}
	o.Usage = state.Usage
	var digests []string
	for _, tag := range state.Tags {
		digests = append(digests, tag.Digest)
	}
	contents, err := c.contents(ctx, filter.Repository, digests, state.Uses)
	if err != nil {
		return o, err
	}
	reasons, err := c.reasons(ctx, filter.Repository, policy, state)
	if err != nil {
		return o, err
	}
	for _, tag := range state.Tags {
		s := Standing{Tag: tag, Contents: contents[tag.Digest], Goes: reasons[tag.Name]}
		if s.Goes != "" {
			user := state.Unasked
			if i := slices.IndexFunc(s.needs, func(u Use) bool { return u.Tag == "" || !policy.transient(u.Tag) }); i >= 0 {
				user = s.needs[i].Reason
			}
			if user != "" {
				s.Goes, s.Spared = "", s.Goes+"; it stays: "+user
			}
		}
		o.Tags = append(o.Tags, s)
	}
	return o, nil
}

// holding is Find, but for repositories whose policies delete nothing.
func (c *Cleaner) holding(ctx context.Context, repository string) (store.Policy, Policy, error) {
	if mirrored(repository) {
		return store.Policy{}, Policy{}, nil
	}
	return c.Find(ctx, repository)
}

// reasons says of the tags of the state, which are some of a repository's, why they go. Of who stays, it says nothing.
func (c *Cleaner) reasons(ctx context.Context, repository string, policy Policy, s State) (map[string]string, error) {
	var names []string
	for _, tag := range s.Tags {
		names = append(names, tag.Name)
	}
	if len(s.Tags) > 0 && slices.ContainsFunc(policy.Rules, func(r Rule) bool { return r.Keep > 0 }) {
		var err error // those before it say which place a tag has
		if names, err = c.Store.NewerTags(ctx, repository, s.Tags[len(s.Tags)-1].Updated); err != nil {
			return nil, err
		}
	}
	j := newJudge(policy, s)
	verdicts, reasons := map[string]verdict{}, map[string]string{}
	for _, name := range names {
		verdicts[name] = j.count(name)
	}
	for _, tag := range s.Tags {
		if v, ok := verdicts[tag.Name]; ok { // else it was deleted meanwhile
			reasons[tag.Name] = j.reason(tag, v)
		}
	}
	return reasons, nil
}

// Contents returns what an image leads to, and who needs it. Of one that is not there it says store.ErrNotFound; limit bounds how
// many of its tags are named. The Usage is what it knows that from.
func (c *Cleaner) Contents(ctx context.Context, repository, digest string, limit int) (Contents, Usage, error) {
	usage, err := c.glance(ctx, repository)
	if err != nil {
		return Contents{}, usage, err
	}
	all, err := c.contents(ctx, repository, []string{digest}, usage.Uses)
	if err != nil {
		return Contents{}, usage, err
	}
	found, ok := all[digest]
	if !ok {
		return Contents{}, usage, store.ErrNotFound
	}
	users, err := c.Store.FindUsers(ctx, repository, []string{digest}, limit)
	found.Users = users[digest]
	return found, usage, err
}

// glance returns what is known of the images in use without waiting for anybody.
func (c *Cleaner) glance(ctx context.Context, repository string) (Usage, error) {
	usage, err := c.Facts.InUse(ctx, repository, false)
	if err != nil {
		err = fmt.Errorf("find out which images of %s are in use: %w", repository, err)
	}
	return usage, err
}

// contents returns what images lead to, by digest; one that is not there is missing.
func (c *Cleaner) contents(ctx context.Context, repository string, digests []string, uses []Use) (map[string]Contents, error) {
	by := map[string]store.Manifest{}
	limit := shownSiblings + 1
	sizes := map[string]int64{} // of everything, by digest
	for wanted := digests; len(wanted) > 0; {
		found, err := c.Store.PickManifests(ctx, repository, wanted)
		if err != nil {
			return nil, err
		}
		wanted = nil
		for _, m := range found {
			by[m.Digest], sizes[m.Digest] = m, m.Size
			for _, r := range m.References {
				if _, ok := sizes[r.Digest]; r.Manifest && !ok {
					wanted = append(wanted, r.Digest)
				}
				if !r.Manifest {
					sizes[r.Digest] = r.Size
				}
			}
		}
	}
	var all []string
	for digest := range sizes {
		all = append(all, digest)
	}
	reaches := map[string]reach{}
	for _, digest := range digests {
		if _, ok := by[digest]; ok && reaches[digest] == nil {
			reaches[digest] = reach{}
			reaches[digest].add(by, digest)
			limit = max(limit, len(reaches[digest])+1)
		}
	}
	users, err := c.Store.FindUsers(ctx, repository, all, limit)
	if err != nil {
		return nil, err
	}
	if uses, err = c.resolve(ctx, repository, uses); err != nil {
		return nil, err
	}
	contents := map[string]Contents{}
	for root, reach := range reaches {
		one := Contents{Users: users[root]}
		shared := reach.shared(root, by, users)
		for digest := range reach {
			one.Size += sizes[digest]
			if !shared[digest] {
				one.Own += sizes[digest]
			}
		}
		for _, r := range by[root].References {
			if r.Manifest {
				one.Images++
			}
		}
		for _, use := range uses {
			if _, ok := reach[use.Digest]; ok && !slices.Contains(one.Uses, use.Reason) {
				one.Uses, one.needs = append(one.Uses, use.Reason), append(one.needs, use)
			}
		}
		contents[root] = one
	}
	return contents, nil
}

// reach is what an image leads to, itself included, with how many manifests of it refer to each.
type reach map[string]int

func (r reach) add(by map[string]store.Manifest, digest string) {
	r[digest] += 0
	for _, next := range by[digest].References {
		_, known := r[next.Digest]
		if _, there := by[next.Digest]; next.Manifest && !there {
			continue // an index may lack images
		}
		r[next.Digest]++
		if next.Manifest && !known {
			r.add(by, next.Digest)
		}
	}
}

// shared returns what something else leads to as well: other tags, other manifests, or what these lead to.
func (r reach) shared(root string, by map[string]store.Manifest, users map[string]store.Users) map[string]bool {
	shared := map[string]bool{}
	var spread func(digest string)
	spread = func(digest string) {
		if shared[digest] {
			return
		}
		shared[digest] = true
		for _, next := range by[digest].References {
			if _, ok := r[next.Digest]; ok {
				spread(next.Digest)
			}
		}
	}
	for digest, inside := range r {
		if u := users[digest]; u.Manifests > inside || u.Tagged > 0 && digest != root {
			spread(digest)
		}
	}
	return shared
}

// resolve gives uses by tag the digests that the tags point at, and leaves out those whose tags do not exist.
func (c *Cleaner) resolve(ctx context.Context, repository string, uses []Use) (resolved []Use, err error) {
	known := map[string]string{}
	for _, use := range uses {
		if use.Digest == "" {
			digest, ok := known[use.Name]
			if !ok {
				m, err := c.Store.FindManifest(ctx, repository, use.Name)
				if err != nil && !errors.Is(err, store.ErrNotFound) {
					return nil, err
				}
				digest = m.Digest
				known[use.Name] = digest
			}
			use.Digest = digest
		}
		if use.Digest != "" {
			resolved = append(resolved, use)
		}
	}
	return resolved, nil
}

// Image is an image without a tag.
type Image struct {
	Digest string
	// Size is that of what it leads to.
	Size int64
	// At is when it was last used or, of a deleted one, deleted.
	At time.Time
	// About is true for a signature or the like, which is about another one.
	About bool
	// Uses say who needs it.
	Uses []string
}

// Untagged returns images of a repository that no tag leads to. The Usage is what it knows their uses from.
func (c *Cleaner) Untagged(ctx context.Context, filter store.ImageFilter) (images []Image, usage Usage, err error) {
	manifests, err := c.Store.BrowseImages(ctx, filter)
	if err != nil {
		return nil, usage, err
	}
	var digests []string
	for _, m := range manifests {
		digests = append(digests, m.Digest)
	}
	if !filter.Deleted {
		if usage, err = c.glance(ctx, filter.Repository); err != nil {
			return nil, usage, err
		}
	}
	contents, err := c.contents(ctx, filter.Repository, digests, usage.Uses)
	if err != nil {
		return nil, usage, err
	}
	for _, m := range manifests {
		image := Image{Digest: m.Digest, Size: contents[m.Digest].Size, At: m.Used, About: m.Subject != "", Uses: contents[m.Digest].Uses}
		if filter.Deleted {
			image.At = m.Deleted
		}
		images = append(images, image)
	}
	return images, usage, nil
}

// DeleteImage deletes an image with all tags that point at it, and returns those; an image with an immutable tag only by
// force.
func (c *Cleaner) DeleteImage(ctx context.Context, repository, digest, who string, force bool) (tags []string, err error) {
	change := store.Change{Repository: repository, Reference: digest, By: who, At: c.Now()}
	if !force {
		if change.Immutable, err = c.Fixed(ctx, repository); err != nil {
			return nil, err
		}
	}
	tags, err = c.Store.DeleteManifest(ctx, change)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, fault.New(fault.NotFound, "%s has no image %s", repository, digest)
	case errors.Is(err, store.ErrExists):
		return nil, fault.New(fault.Conflict, "the image %s of %s has a tag that is immutable; delete that by force first if it has to be", digest, repository)
	}
	return tags, err
}
