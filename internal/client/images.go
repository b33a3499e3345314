package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"slipway/internal/api"
	"slipway/internal/retention"
)

func imagePath(verb, repository string, more ...string) string {
	query := url.Values{"repository": {repository}}
	for i := 0; i < len(more); i += 2 {
		query.Set(more[i], more[i+1])
	}
	return "/api/registry/" + verb + "?" + query.Encode()
}

// ImageTags lists all tags of a repository of images by name.
func (c *Client) ImageTags(ctx context.Context, repository string) ([]api.ImageTag, error) {
	all := []api.ImageTag{}
	for last := ""; ; {
		var page []api.ImageTag
		if err := c.do(ctx, http.MethodGet, imagePath("tags", repository, "last", last), nil, &page); err != nil || len(page) == 0 {
			return all, err
		}
		all = append(all, page...)
		last = page[len(page)-1].Tag
	}
}

// TagHistory returns what a tag pointed at, newest first.
func (c *Client) TagHistory(ctx context.Context, repository, tag string) (history []api.TagChange, err error) {
	return history, c.do(ctx, http.MethodGet, imagePath("history", repository, "tag", tag), nil, &history)
}

// DeleteTag deletes a tag; with force, even one that is immutable.
func (c *Client) DeleteTag(ctx context.Context, repository, tag string, force bool) error {
	return c.do(ctx, http.MethodDelete, imagePath("tags", repository, "tag", tag, "force", strconv.FormatBool(force)), nil, nil)
}

// Restore moves a tag back, or brings back what was deleted.
func (c *Client) Restore(ctx context.Context, repository string, wish api.Restoration) (restored api.Restored, err error) {
	return restored, c.do(ctx, http.MethodPost, imagePath("restore", repository), wish, &restored)
}

// ImagePolicy returns the retention policy that holds for a repository of images; of the empty name, the one for all.
func (c *Client) ImagePolicy(ctx context.Context, repository string) (policy api.ImagePolicy, err error) {
	return policy, c.do(ctx, http.MethodGet, imagePath("policy", repository), nil, &policy)
}

// PutImagePolicy sets a retention policy; an empty text removes it.
func (c *Client) PutImagePolicy(ctx context.Context, repository, text string) error {
	return c.do(ctx, http.MethodPut, imagePath("policy", repository), api.NewImagePolicy{Text: text}, nil)
}

// TryImagePolicy says what a policy would delete now; an empty text means the policy that holds.
func (c *Client) TryImagePolicy(ctx context.Context, repository, text string) (decision retention.Decision, err error) {
	return decision, c.do(ctx, http.MethodPost, imagePath("dry-run", repository), api.NewImagePolicy{Text: text}, &decision)
}

// ImageQuotas returns the quotas that hold for a repository of images, the widest first.
func (c *Client) ImageQuotas(ctx context.Context, repository string) (quotas []api.ImageQuota, err error) {
	return quotas, c.do(ctx, http.MethodGet, imagePath("quota", repository), nil, &quotas)
}

// PutImageQuota sets a quota; 0 bytes remove it. That of the empty repository is for each repo that has none.
func (c *Client) PutImageQuota(ctx context.Context, repository string, bytes int64) error {
	return c.do(ctx, http.MethodPut, imagePath("quota", repository), api.NewImageQuota{Bytes: bytes}, nil)
}
