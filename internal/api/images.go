package api

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/retention"
	"slipway/internal/store"
)

// ImagePath names a repository of images.
type ImagePath struct {
	Repository string `query:"repository" required:"true" maxLength:"229" doc:"name of the repository, such as octo/app or octo/app/cache"`
}

// Resolve implements [huma.Resolver]: who says Acme/App means the images of that repo.
func (p *ImagePath) Resolve(huma.Context) []error {
	p.Repository = ci.ImageName(p.Repository)
	return nil
}

// ImagesPath names a repository of images, or all.
type ImagesPath struct {
	Repository string `query:"repository" maxLength:"229" doc:"name of the repository, such as octo/app or octo/app/cache; empty for all, which only admins may"`
}

// Resolve implements [huma.Resolver], as that of [ImagePath].
func (p *ImagesPath) Resolve(huma.Context) []error {
	p.Repository = ci.ImageName(p.Repository)
	return nil
}

// ImageTag is a tag of an image.
type ImageTag struct {
	Tag     string    `json:"tag"`
	Digest  string    `json:"digest"`
	Updated time.Time `json:"updated"`
	By      string    `json:"by" doc:"the token or the run that pointed it there"`
}

// TagChange is a line of a tag's history.
type TagChange struct {
	Digest string    `json:"digest,omitempty" doc:"what it pointed at; absent if the tag was deleted"`
	At     time.Time `json:"at"`
	By     string    `json:"by"`
}

// ImagePolicy is a retention policy.
type ImagePolicy struct {
	Repository string    `json:"repository" doc:"whose policy it is: the repository's own, that of one above it, or, if empty, the one for all"`
	Text       string    `json:"text" doc:"YAML; see docs/registry.md"`
	Updated    time.Time `json:"updated,omitzero"`
	By         string    `json:"by,omitempty"`
	Commit     string    `json:"commit,omitempty" doc:"of the repo's default branch, whose file .slipway/registry.yml it is; absent for one that was set"`
}

// NewImagePolicy is the body that sets or tries a policy.
type NewImagePolicy struct {
	Text string `json:"text" maxLength:"65536" doc:"YAML; empty removes the policy, or tries the one that holds"`
}

// ImageQuota is how many bytes a repository of images may have, and has, with all below it.
type ImageQuota struct {
	Repository string `json:"repository"`
	Bytes      int64  `json:"bytes" doc:"how many it may have"`
	Used       int64  `json:"used" doc:"what its images need, and what was pushed and has no image yet"`
	Stored     int64  `json:"stored" doc:"that, and what was deleted and can be restored; it may be twice the quota"`
}

// NewImageQuota is the body that sets a quota.
type NewImageQuota struct {
	Bytes int64 `json:"bytes" minimum:"0" doc:"0 removes the quota"`
}

// Restoration is the body that moves a tag back, or brings a deleted tag or image back.
type Restoration struct {
	Tag    string `json:"tag,omitempty" maxLength:"128" doc:"without it, the image alone is brought back"`
	Digest string `json:"digest,omitempty" maxLength:"200" doc:"the default is what the tag pointed at before"`
}

// Restored is what a tag points at now.
type Restored struct {
	Tag    string `json:"tag,omitempty"`
	Digest string `json:"digest"`
}

func (s *server) registerImages(api huma.API) {
	const base = "/api/registry/"
	add(s, api, "list-image-tags", http.MethodGet, base+"tags", "List the tags of a repository of images by name, at most 1000 at a time", s.listImageTags)
	add(s, api, "get-image-tag-history", http.MethodGet, base+"history", "What a tag pointed at, newest first; it outlives the tag", s.imageTagHistory)
	add(s, api, "delete-image-tag", http.MethodDelete, base+"tags", "Delete a tag, and leave its image and its other tags", func(ctx context.Context, in *struct {
		ImagePath
		Tag   string `query:"tag" required:"true" maxLength:"128"`
		Force bool   `query:"force" doc:"even if the tag is immutable"`
	},
	) (Empty, error) {
		who, err := s.tidies(ctx, in.Repository)
		if err != nil {
			return Empty{}, err
		}
		return Empty{}, s.Images.DeleteTag(ctx, in.Repository, in.Tag, who, in.Force)
	})
	add(s, api, "restore-image", http.MethodPost, base+"restore", "Move a tag back, or bring back what was deleted", func(ctx context.Context, in *struct {
		ImagePath
		Body Restoration
	},
	) (Restored, error) {
		who, err := s.tidies(ctx, in.Repository)
		if err != nil {
			return Restored{}, err
		}
		digest, err := s.Images.Restore(ctx, in.Repository, in.Body.Tag, in.Body.Digest, who)
		return Restored{in.Body.Tag, digest}, err
	})
	add(s, api, "get-image-policy", http.MethodGet, base+"policy", "Get the retention policy that holds for a repository of images", s.imagePolicy)
	add(s, api, "put-image-policy", http.MethodPut, base+"policy", "Set a retention policy; of the empty repository, for all", func(ctx context.Context, in *struct {
		ImagesPath
		Body NewImagePolicy
	},
	) (Empty, error) {
		who, err := s.tidies(ctx, in.Repository)
		if err != nil {
			return Empty{}, err
		}
		return Empty{}, s.Images.Put(ctx, in.Repository, in.Body.Text, who)
	})
	add(s, api, "get-image-quotas", http.MethodGet, base+"quota", "Get the quotas that hold for a repository of images, the widest first, and what is used of them", s.imageQuotas)
	add(s, api, "put-image-quota", http.MethodPut, base+"quota", "Set a quota; of the empty repository, for each repo that has none; admins only", func(ctx context.Context, in *struct {
		ImagesPath
		Body NewImageQuota
	},
	) (Empty, error) {
		if err := s.admin(ctx); err != nil {
			return Empty{}, err
		}
		return Empty{}, s.Store.PutQuota(ctx, in.Repository, in.Body.Bytes)
	})
	add(s, api, "try-image-policy", http.MethodPost, base+"dry-run", "Say what a retention policy would delete now, why, and how many bytes; nothing is deleted", s.tryImagePolicy)
}

// pulls checks that who asks may read the images. To everybody else they do not exist.
func (s *server) pulls(ctx context.Context, repository string) error {
	if !principal(ctx).Pulls(repository) {
		return noImages(repository)
	}
	return nil
}

func noImages(repository string) error {
	return fault.New(fault.NotFound, "there are no images %q, or your token does not allow to see them", repository)
}

// tidies checks that who asks may change what the repository keeps, and returns who that is.
func (s *server) tidies(ctx context.Context, repository string) (string, error) {
	switch who := principal(ctx); {
	case who.Tidies(repository):
		return who.Name, nil
	case who.Name == "":
		return "", fault.New(fault.Unauthorized, "this needs a token; give one by SLIPWAY_TOKEN or slipway login")
	case repository == "":
		return "", s.admin(ctx)
	case !who.Pulls(repository):
		return "", noImages(repository)
	default:
		return "", fault.New(fault.Forbidden, "%q may not change what %s keeps; it needs the scope of its repo, or admin", who.Name, repository)
	}
}

func (s *server) listImageTags(ctx context.Context, in *struct {
	ImagePath
	Last string `query:"last" maxLength:"128" doc:"the page starts after this tag"`
},
) ([]ImageTag, error) {
	if err := s.pulls(ctx, in.Repository); err != nil {
		return nil, err
	}
	found, err := s.Store.ListTags(ctx, store.Page{Repository: in.Repository, Last: in.Last, Limit: 1000})
	if errors.Is(err, store.ErrNotFound) {
		return nil, noImages(in.Repository)
	}
	tags := []ImageTag{}
	for _, tag := range found {
		tags = append(tags, ImageTag{tag.Name, tag.Digest, tag.Updated, tag.By})
	}
	return tags, err
}

func (s *server) imageTagHistory(ctx context.Context, in *struct {
	ImagePath
	Tag string `query:"tag" required:"true" maxLength:"128"`
},
) ([]TagChange, error) {
	if err := s.pulls(ctx, in.Repository); err != nil {
		return nil, err
	}
	found, err := s.Store.TagHistory(ctx, in.Repository, in.Tag, 1000)
	history := []TagChange{}
	for _, change := range found {
		history = append(history, TagChange(change))
	}
	if err == nil && len(history) == 0 {
		err = fault.New(fault.NotFound, "%s never had a tag %s", in.Repository, in.Tag)
	}
	return history, err
}

func (s *server) imagePolicy(ctx context.Context, in *struct {
	ImagesPath
},
) (ImagePolicy, error) {
	if in.Repository == "" {
		if err := s.admin(ctx); err != nil {
			return ImagePolicy{}, err
		}
	} else if err := s.pulls(ctx, in.Repository); err != nil {
		return ImagePolicy{}, err
	}
	found, _, err := s.Images.Find(ctx, in.Repository)
	if err == nil && found.Text == "" {
		err = fault.New(fault.NotFound, "no policy holds for %q: everything is kept", in.Repository)
	}
	return ImagePolicy{found.Repository, found.Text, found.Updated, found.By, found.Commit}, err
}

func (s *server) imageQuotas(ctx context.Context, in *struct {
	ImagePath
},
) ([]ImageQuota, error) {
	if err := s.pulls(ctx, in.Repository); err != nil {
		return nil, err
	}
	found, err := s.Store.FindQuotas(ctx, in.Repository)
	quotas := []ImageQuota{}
	for _, q := range found {
		quotas = append(quotas, ImageQuota(q))
	}
	return quotas, err
}

func (s *server) tryImagePolicy(ctx context.Context, in *struct {
	ImagePath
	Body NewImagePolicy
},
) (retention.Decision, error) {
	if _, err := s.tidies(ctx, in.Repository); err != nil {
		return retention.Decision{}, err
	}
	var policy *retention.Policy
	if in.Body.Text != "" {
		parsed, err := retention.Parse(in.Body.Text)
		if err != nil {
			return retention.Decision{}, fault.New(fault.Invalid, "%w", err)
		}
		policy = &parsed
	}
	decision, err := s.Images.DryRun(ctx, in.Repository, policy)
	if errors.Is(err, store.ErrNotFound) {
		err = noImages(in.Repository)
	}
	return decision, err
}
