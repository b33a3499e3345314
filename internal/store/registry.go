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
	Garbage
	Inventory
	Browsing
	Graph
	Policies
	Quotas
	Cache
}

// Manifests are the manifests of images, with what they refer to.
type Manifests interface {
	// PutManifest stores a manifest and its references, and points tags at it, all in one transaction. If a reference that
	// must exist does not, nothing is stored and the error is a *MissingError; if one of manifest.Immutable is in the way,
	// it is ErrExists. Storing a manifest again changes nothing but the tags, which are then of manifest.Created and
	// manifest.By even where they do not move. A tag that moves gets a line of history, by manifest.By at manifest.Created.
	PutManifest(ctx context.Context, manifest Manifest, tags ...string) error
	// FindManifest returns the manifest that reference, a digest or a tag, names in the repository, or ErrNotFound.
	FindManifest(ctx context.Context, repository, reference string) (Manifest, error)
	// DeleteManifest removes the manifest whose digest is change.Reference and the tags that point at it, and returns those
	// tags. Blobs stay linked. If there is no such manifest it says ErrNotFound. The manifest's row stays, out of sight of
	// all but Inventory, until PurgeRegistry; storing the manifest again before brings it back.
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
	// Restore brings the deleted manifest change.Digest back, with the images of an index, and what is about any of them and
	// was deleted with it or later, and points the tag change.Reference at it, unless that is empty. It moves a tag back as
	// well, to a manifest that was not deleted. If the manifest has been purged it says ErrNotFound; if what it needs has
	// gone, a *MissingError.
	Restore(ctx context.Context, change Change) error
	// TagHistory returns what happened to a tag, newest first, at most limit lines. It outlives the tag. Of each tag the
	// newest MaxTagHistory lines are kept.
	TagHistory(ctx context.Context, repository, tag string, limit int) ([]TagChange, error)
	// ListRepositories returns names of repositories in the order of their bytes. page.Repository is not used.
	ListRepositories(ctx context.Context, page Page) ([]string, error)
}

// MaxTagHistory is how many lines of a tag's history are kept: a tag that each run moves must not fill the database.
const MaxTagHistory = 1000

// MaxDeletedTags is of how many deleted tags of a repository the histories are kept, those that were deleted last: a tag that
// each run makes must not fill it either.
const MaxDeletedTags = 1000

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
	// the repository does not have it, ErrNotFound. Deleted manifests do not count.
	UnlinkBlob(ctx context.Context, repository, digest string) error
	// TouchBlob renews the time at which a blob was linked to the repository: somebody relies on finding it there. If the
	// repository does not have it, it says ErrNotFound.
	TouchBlob(ctx context.Context, repository, digest string, at time.Time) error
}

// Garbage is what nobody needs any more. Everything that a push relies on has a time, of the last push or the last
// question, and is left alone while that is not before then, the end of the grace period.
type Garbage interface {
	// PurgeRegistry removes for good the manifests that were deleted before then, and unlinks the blobs that no manifest of
	// their repository refers to, deleted ones included, and that were last linked before then; but not the blobs of the cache, which is
	// bounded by its own rules. Of the tags that were deleted before then, the histories of the last MaxDeletedTags of each
	// repository stay. It works in many transactions, each of which is right by itself.
	PurgeRegistry(ctx context.Context, then time.Time) (Purged, error)
	// ListUnlinked returns blobs that are in no repository and were last linked before then, at most limit.
	ListUnlinked(ctx context.Context, then time.Time, limit int) ([]Blob, error)
	// ForgetBlob removes the record of such a blob. If it is in a repository, or was linked since then, it says ErrInUse.
	ForgetBlob(ctx context.Context, digest string, then time.Time) error
}

// Purged counts what PurgeRegistry removed: Tags are deleted ones whose histories went.
type Purged struct{ Manifests, Links, Tags int64 }

// Inventory is everything that there is, for whoever compares it with the disk.
type Inventory interface {
	// ListBlobs returns the stored blobs after the digest last, in the order of the bytes of their digests.
	ListBlobs(ctx context.Context, last string, limit int) ([]Blob, error)
	// StatBlob returns a stored blob, whatever repositories have it, or ErrNotFound.
	StatBlob(ctx context.Context, digest string) (Blob, error)
	// BlobRepositories returns the names of the repositories that have the blob.
	BlobRepositories(ctx context.Context, digest string) ([]string, error)
	// ListManifests returns manifests of a repository, by digest, with References, Used, Deleted, and Content if content
	// is set. Deleted ones are among them.
	ListManifests(ctx context.Context, page Page, content bool) ([]Manifest, error)
	// RegistryTotals counts what there is.
	RegistryTotals(ctx context.Context) (RegistryTotals, error)
}

// RegistryTotals count everything in the registry. Deleted manifests that may be restored are among the Manifests. Bytes are
// those of the Blobs.
type RegistryTotals struct{ Repositories, Tags, Manifests, Blobs, Bytes int64 }

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
	// Used is when it was last pushed, or last lost a tag; Deleted is when it was deleted. Only ListManifests loads them,
	// and PutManifest takes Created for Used.
	Used, Deleted time.Time
	// Immutable are those tags, of the ones that PutManifest points at it, that must not be moved from another manifest.
	Immutable []string
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
	// Linked is when it was last linked to a repository; for FindBlob, to that repository.
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

// Change says what is to be deleted or restored, by whom and when.
type Change struct {
	Repository string
	// Reference is a tag or a digest.
	Reference string
	// Digest, for DeleteTag, is what the tag must point at, unless it is empty, and have been put there at At or before; else
	// there is no such tag.
	Digest string
	// Immutable, unless nil, says which tags must stay: for one of them the error is ErrExists.
	Immutable func(tag string) bool
	// Unneeded, for DeleteManifest, says that no tag may point at the manifest, no other one refer to it, and nobody may have
	// used it since At, and that it is about none that stays; else the error is ErrInUse. What is about it goes with it, if the
	// same holds for that.
	Unneeded bool
	By       string
	At       time.Time
}

// Policies are the texts of retention policies.
type Policies interface {
	// PutPolicy stores the policy of policy.Repository; an empty Text removes it. One from a file, which has a Commit, is
	// kept beside one that somebody set, and changes nothing after one of a later Run: then it says ErrExists.
	PutPolicy(ctx context.Context, policy Policy) error
	// ListPolicies returns all policies by repository, those that somebody set before those from files.
	ListPolicies(ctx context.Context) ([]Policy, error)
}

// Policy is the text of a repository's policy; that of the empty repository is for all that have none.
type Policy struct {
	Repository string
	Text       string
	Updated    time.Time
	By         string
	// Commit is where the file is from that has the policy; empty for one that somebody set.
	Commit string
	// Run is the ID of the run that brought the file.
	Run int64
}

// Quotas bound how many bytes repositories have together with all below them (octo/app with octo/app/cache). A blob that
// several of them have counts once. LinkBlob, MountBlob, PutManifest and Restore hold to them: they say *QuotaError, and
// change nothing, if a repository would have more than its quota then, or, counting what was deleted and may be
// restored, more than twice as much. What is below mirror/ has no quota here.
type Quotas interface {
	// PutQuota sets the quota of a repository, in bytes; 0 removes it. That of the empty name is for each repo
	// (octo/app) that has none of its own.
	PutQuota(ctx context.Context, repository string, bytes int64) error
	// HasQuota reports whether a quota holds for a repository.
	HasQuota(ctx context.Context, repository string) (bool, error)
	// CheckQuota says *QuotaError if the repository has no room for that many bytes more. Staged is how many bytes its repo
	// (octo/app of octo/app/cache) has in uploads that go on: they count for its quota and wider ones as what was deleted does.
	CheckQuota(ctx context.Context, repository string, bytes, staged int64) error
	// FindQuotas returns the quotas that hold for a repository, the widest first, with what is used of them.
	FindQuotas(ctx context.Context, repository string) ([]Quota, error)
}

// Quota is how many bytes a repository may have, and has, with all below it.
type Quota struct {
	Repository string
	Bytes      int64
	// Used is what its images need, and what was pushed and has no image yet; Stored is that and what was deleted and may be
	// restored, and for CheckQuota what is being uploaded.
	Used, Stored int64
}

// QuotaError says that a repository has no room.
type QuotaError struct{ Quota }

// Error is a clause for people.
func (e *QuotaError) Error() string {
	have := fmt.Sprintf("its images have %d", e.Used)
	if e.Stored > e.Used {
		have += fmt.Sprintf(", with deleted ones and open uploads %d", e.Stored)
	}
	return fmt.Sprintf("%s may have %d bytes together with all below it, and %s", e.Repository, e.Bytes, have)
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
