package store

import (
	"context"
	"time"
)

// Browsing is for people who look at a repository of images. Each question is about a part of what there is, and takes as
// long as that part is large. Of a repository that is not there all of them say ErrNotFound.
type Browsing interface {
	// CountImages counts what a repository has.
	CountImages(ctx context.Context, repository string) (ImageCounts, error)
	// BrowseTags returns tags, the newest first and those of the same time by name, and how many there are that the filter fits.
	BrowseTags(ctx context.Context, filter TagFilter) (tags []Tag, total int64, err error)
	// NewerTags returns the names of all tags that were updated then or later, in the order of BrowseTags.
	NewerTags(ctx context.Context, repository string, then time.Time) ([]string, error)
	// BrowseImages returns manifests that no tag leads to, as ListManifests does without Content: those that were last used,
	// or deleted, last come first.
	BrowseImages(ctx context.Context, filter ImageFilter) ([]Manifest, error)
}

// Graph is what needs what in a repository of images. Of a repository that is not there it says ErrNotFound.
type Graph interface {
	// PickManifests returns those manifests that have one of the digests, as ListManifests does without Content: deleted
	// ones are among them, what is not there is missing.
	PickManifests(ctx context.Context, repository string, digests []string) ([]Manifest, error)
	// FindUsers returns who needs the manifests or blobs with the digests, and leaves out those that nobody needs. Of many
	// users it names or counts no more than limit.
	FindUsers(ctx context.Context, repository string, digests []string, limit int) (map[string]Users, error)
}

// ImageCounts count what a repository has.
type ImageCounts struct {
	Tags int64
	// Untagged are manifests that no tag and no index leads to, Deleted those that can be restored.
	Untagged, Deleted int64
	// Bytes is what all of it has, deleted ones and blobs that no image has yet included, each blob once.
	Bytes int64
}

// TagFilter chooses tags of a repository.
type TagFilter struct {
	Repository string
	// Match, if it is not empty, is a part of the tags' names, whatever the case, or, if it has a colon, what the digest begins with.
	Match string
	// Skip is how many are left out at the start, Limit how many there are at most.
	Skip, Limit int
}

// ImageFilter chooses manifests of a repository that no tag leads to.
type ImageFilter struct {
	Repository string
	// Deleted chooses those that were deleted and can be restored, in place of those that lost their tags or never had one.
	Deleted bool
	// Skip is how many are left out at the start, Limit how many there are at most.
	Skip, Limit int
}

// Users are who needs a manifest or blob.
type Users struct {
	// Tags are tags that point at it, by name; Tagged is how many there are.
	Tags   []string
	Tagged int
	// Manifests is how many manifests refer to it, deleted ones not counted.
	Manifests int
}
