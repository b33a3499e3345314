package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Registry is what the image registry remembers: everything but the bytes of blobs.
//
// A repository here is a name that images have, such as octo/app or octo/app/cache; it comes into being with its first
// blob or manifest. Digests are strings as the OCI image specification writes them, such as sha256:<hex>; whoever calls
// has validated them, and the names.
type Registry interface {
	Manifests
	Tags
	BlobLinks
	Cache
}

// Manifests are the manifests of images, with what they refer to.
type Manifests interface {
	// PutManifest stores a manifest and its references, and points tags at it, all in one transaction. If a reference that
	// must exist does not, nothing is stored and the error is a *MissingError. Storing a manifest again changes nothing but
	// the tags. A tag that moves gets a line of history, by manifest.By at manifest.Created.
	PutManifest(ctx context.Context, manifest Manifest, tags ...string) error
	// FindManifest returns the manifest that reference, a digest or a tag, names in the repository, or ErrNotFound.
	FindManifest(ctx context.Context, repository, reference string) (Manifest, error)
	// DeleteManifest removes the manifest whose digest is change.Reference and the tags that point at it, and returns those
	// tags. Blobs stay linked. If there is no such manifest it says ErrNotFound.
	DeleteManifest(ctx context.Context, change Change) (tags []string, err error)
	// ListReferrers returns the manifests whose subject is filter.Subject, by digest, without Content and References. It
	// reports whether there are more after them.
	ListReferrers(ctx context.Context, filter ReferrerFilter) (manifests []Manifest, more bool, err error)
}

// Tags are the names of manifests. A tag is a row of its own: it can move and go without touching its manifest or the
// tags beside it, and it leaves a history.
type Tags interface {
	// ListTags returns tags of a repository in the order of their bytes, or ErrNotFound if there is no such repository.
	ListTags(ctx context.Context, page Page) ([]Tag, error)
	// DeleteTag removes the tag change.Reference and leaves its manifest. If there is no such tag it says ErrNotFound.
	DeleteTag(ctx context.Context, change Change) error
	// TagHistory returns what happened to a tag, newest first, at most limit lines. It outlives the tag.
	TagHistory(ctx context.Context, repository, tag string, limit int) ([]TagChange, error)
	// ListRepositories returns names of repositories in the order of their bytes. page.Repository is not used.
	ListRepositories(ctx context.Context, page Page) ([]string, error)
}

// BlobLinks say which blobs may be read through which repository. The bytes of a blob are stored once, however many
// repositories have it.
type BlobLinks interface {
	// LinkBlob records that the blob is stored, and makes it part of the repository. It may be repeated.
	LinkBlob(ctx context.Context, repository string, blob Blob) error
	// MountBlob links a blob that the repository from has to the repository to as well. If from does not have it, it says
	// ErrNotFound.
	MountBlob(ctx context.Context, from, to, digest string, at time.Time) error
	// FindBlob returns a blob of the repository, or ErrNotFound.
	FindBlob(ctx context.Context, repository, digest string) (Blob, error)
	// UnlinkBlob removes a blob from the repository. While a manifest of the repository refers to it, it says ErrInUse; if
	// the repository does not have it, ErrNotFound.
	UnlinkBlob(ctx context.Context, repository, digest string) error
}

// Cache is what the registry fetched from other registries by itself, and may therefore forget. What somebody pushes is
// not the cache's: PutManifest, LinkBlob and MountBlob take from it what they store, so that it is kept.
type Cache interface {
	// PutCached is PutManifest for the cache: what the manifest refers to need not be there. A tag that is not the cache's
	// stays where it is.
	PutCached(ctx context.Context, manifest Manifest, tags ...string) error
	// LinkCached is LinkBlob for the cache.
	LinkCached(ctx context.Context, repository string, blob Blob) error
	// FindCached returns what the cache knows of a tag, or of the digest of a manifest or blob. What is not the cache's, or
	// not there, gets ErrNotFound.
	FindCached(ctx context.Context, repository, reference string) (Cached, error)
	// TouchCached notes that something was used, and, unless it is zero, when the other registry said that a tag is right.
	TouchCached(ctx context.Context, repository, reference string, used, checked time.Time) error
	// EvictCached forgets what was used longest ago, and before then, until the cache has at most limit bytes. It returns how
	// many it forgot and how many remain. It deletes rows of manifests, with their tags, and links of blobs; what a manifest that remains
	// refers to is kept. It does a part of the work at a time: call it again until it
	// frees nothing.
	EvictCached(ctx context.Context, limit int64, then, at time.Time) (freed, size int64, err error)
}

// Mirror is by whom the tags of the cache were put and deleted, in their histories.
const Mirror = "mirror"

// Cached is what the cache knows of a tag, manifest or blob.
type Cached struct {
	// Digest is what a tag points at.
	Digest string
	// Checked is when the other registry last said so of a tag; Used is when anybody last asked, give or take what callers of
	// TouchCached save themselves.
	Checked, Used time.Time
}

// Manifest is a manifest in a repository.
type Manifest struct {
	Repository string
	Digest     string
	MediaType  string
	// ArtifactType is what the referrers API shows and filters by: the manifest's own, or its config's media type.
	ArtifactType string
	// Subject is the digest of the manifest that this one is about, or empty. It need not exist.
	Subject string
	// Annotations is the manifest's annotations as a JSON object, or nil.
	Annotations json.RawMessage
	// Content is the manifest byte for byte, Size its length.
	Content []byte
	Size    int64
	Created time.Time
	// By is who pushed it.
	By string
	// References are what it needs in its repository. FindManifest does not load them.
	References []Reference
}

// Reference is a blob or manifest that a manifest refers to.
type Reference struct {
	Digest string
	// Size is in bytes; the blob or manifest must have it.
	Size int64
	// Manifest is true for a manifest of an index, false for a blob.
	Manifest bool
}

// MissingError says that a manifest refers to what its repository does not have.
type MissingError struct {
	Repository string
	References []Reference
}

// Error names the first missing reference.
func (e *MissingError) Error() string {
	r := e.References[0]
	kind := "blob"
	if r.Manifest {
		kind = "manifest"
	}
	return fmt.Sprintf("%s has no %s %s of %d bytes", e.Repository, kind, r.Digest, r.Size)
}

// Blob is a stored blob.
type Blob struct {
	Digest string
	// Size is in bytes.
	Size int64
	// Linked is when it was last linked to a repository; FindBlob does not load it.
	Linked time.Time
}

// Tag is a name of a manifest.
type Tag struct {
	Name    string
	Digest  string
	Updated time.Time
	// By is who pointed it there.
	By string
}

// TagChange is a line of a tag's history. An empty Digest says that the tag was deleted.
type TagChange struct {
	Digest string
	At     time.Time
	By     string
}

// Change says what is to be deleted, by whom and when.
type Change struct {
	Repository string
	// Reference is a tag or a digest.
	Reference string
	By        string
	At        time.Time
}

// Page chooses a part of an ordered list: at most Limit entries after Last; an empty Last means from the start.
type Page struct {
	Repository string
	Last       string
	Limit      int
}

// ReferrerFilter chooses referrers. A page ends after Limit manifests, or earlier once their annotations pass 4 MiB.
type ReferrerFilter struct {
	Repository string
	Subject    string
	// ArtifactType, unless empty, is what they must have.
	ArtifactType string
	// Last is the digest after which the page starts.
	Last  string
	Limit int
}
