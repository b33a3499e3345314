package retention

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"slipway/internal/fault"
	"slipway/internal/store"
)

// Overview is what there is in a repository of images, for people to look at.
type Overview struct {
	// Tags are all tags, the newest first.
	Tags []Standing
	// Untagged are the images that no tag leads to, Deleted those that can be brought back; the latest first.
	Untagged, Deleted []Image
	// Bytes is what all of it has, deleted ones included, each blob once.
	Bytes int64
	// Policy is the one that holds, and Decision what it would remove now.
	Policy   store.Policy
	Decision Decision
}

// Standing is a tag with what is known of it.
type Standing struct {
	store.Tag
	// Size is what the tag leads to has: manifests and blobs, each once. Own is what only this tag leads to: what
	// would be free without it and those that point at the same image.
	Size, Own int64
	// Images is how many images an index has; 0 for an image by itself.
	Images int
	// Uses say who needs it.
	Uses []string
	// Siblings are the other tags of the same digest.
	Siblings []string
	// Goes says why the policy removes it, Spared why it would and does not.
	Goes, Spared string
}

// Image is an image without a tag.
type Image struct {
	Digest string
	Size   int64
	// At is when it was last used or, of a deleted one, deleted.
	At time.Time
	// About is true for a signature or the like, which is about another one.
	About bool
}

// Overview returns what there is in a repository, and what its policy makes of it. Of one that is not there it says
// store.ErrNotFound.
func (c *Cleaner) Overview(ctx context.Context, repository string) (Overview, error) {
	holds, policy, err := c.Find(ctx, repository)
	if err != nil {
		policy = Policy{} // it is shown, and decides nothing
	}
	if mirrored(repository) {
		holds, policy = store.Policy{}, Policy{}
	}
	state, err := c.state(ctx, repository, policy)
	if err != nil {
		return Overview{}, err
	}
	o := Overview{Policy: holds, Decision: policy.Decide(state)}
	o.measure(state)
	goes, spared := map[string]string{}, map[string]string{}
	for _, r := range o.Decision.Removals {
		goes[r.Tag] = r.Reason
	}
	for _, s := range o.Decision.Spared {
		spared[s.Tag] = s.Reason
	}
	for i := range o.Tags {
		t := &o.Tags[i]
		t.Goes, t.Spared = goes[t.Name], spared[t.Name]
	}
	return o, nil
}

// measure sets all but what a policy says.
func (o *Overview) measure(s State) {
	by := map[string]store.Manifest{}
	sizes := map[string]int64{} // of everything, by digest
	for _, m := range s.Manifests {
		by[m.Digest] = m
		sizes[m.Digest] = m.Size
		for _, r := range m.References {
			if !r.Manifest {
				sizes[r.Digest] = r.Size
			}
		}
	}
	for _, size := range sizes {
		o.Bytes += size
	}
	// reach returns what a manifest leads to, itself included.
	reach := func(digest string) map[string]bool {
		found := map[string]bool{}
		var add func(digest string)
		add = func(digest string) {
			if found[digest] {
				return
			}
			found[digest] = true
			for _, r := range by[digest].References {
				if r.Manifest {
					if _, ok := by[r.Digest]; ok {
						add(r.Digest)
					}
				} else {
					found[r.Digest] = true
				}
			}
		}
		add(digest)
		return found
	}
	leads := map[string]map[string]bool{} // by the digest of a tag
	names := map[string][]string{}
	users := map[string]int{} // how many digests of tags lead to something
	for _, t := range s.Tags {
		names[t.Digest] = append(names[t.Digest], t.Name)
		if leads[t.Digest] == nil {
			leads[t.Digest] = reach(t.Digest)
			for digest := range leads[t.Digest] {
				users[digest]++
			}
		}
	}
	for _, t := range s.Tags {
		standing := Standing{Tag: t}
		for digest := range leads[t.Digest] {
			standing.Size += sizes[digest]
			if users[digest] == 1 {
				standing.Own += sizes[digest]
			}
		}
		for _, r := range by[t.Digest].References {
			if r.Manifest {
				standing.Images++
			}
		}
		for _, use := range s.InUse {
			if (use.Name == t.Name && use.Digest == "" || use.Digest != "" && leads[t.Digest][use.Digest]) && !slices.Contains(standing.Uses, use.Reason) {
				standing.Uses = append(standing.Uses, use.Reason)
			}
		}
		for _, name := range names[t.Digest] {
			if name != t.Name {
				standing.Siblings = append(standing.Siblings, name)
			}
		}
		o.Tags = append(o.Tags, standing)
	}
	slices.SortFunc(o.Tags, func(a, b Standing) int {
		return cmp.Or(b.Updated.Compare(a.Updated), strings.Compare(a.Name, b.Name))
	})
	for _, m := range s.Manifests {
		image := Image{Digest: m.Digest, At: m.Used, About: m.Subject != ""}
		for digest := range reach(m.Digest) {
			image.Size += sizes[digest]
		}
		switch {
		case !m.Deleted.IsZero():
			image.At = m.Deleted
			o.Deleted = append(o.Deleted, image)
		case users[m.Digest] == 0:
			o.Untagged = append(o.Untagged, image)
		}
	}
	for _, images := range [][]Image{o.Untagged, o.Deleted} {
		slices.SortFunc(images, func(a, b Image) int { return cmp.Or(b.At.Compare(a.At), strings.Compare(a.Digest, b.Digest)) })
	}
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
