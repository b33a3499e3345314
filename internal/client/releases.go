package client

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"slipway/internal/api"
	"slipway/internal/ci"
)

// Releases lists releases, newest first: of one repo, or of all if its name is empty. Limit 0 means 50.
func (c *Client) Releases(ctx context.Context, repo string, filter api.ReleaseListing) (releases []ci.Release, err error) {
	query := url.Values{}
	set := func(name, value string) {
		if value != "" && value != "0" {
			query.Set(name, value)
		}
	}
	set("environment", filter.Environment)
	set("namespace", filter.Namespace)
	set("image", filter.Image)
	set("before", strconv.FormatInt(filter.Before, 10))
	set("limit", strconv.Itoa(filter.Limit))
	set("run", strconv.FormatInt(filter.Run, 10))
	path := "/api/releases"
	if repo != "" {
		path = "/api/repos/" + repo + "/releases"
	}
	return releases, c.do(ctx, http.MethodGet, path+"?"+query.Encode(), nil, &releases)
}

// Release returns a release by its ID.
func (c *Client) Release(ctx context.Context, repo string, id int64) (r ci.Release, err error) {
	return r, c.do(ctx, http.MethodGet, releasePath(repo, id), nil, &r)
}

// Manifests returns the rendered manifests of a release, with the values of Secrets masked.
func (c *Client) Manifests(ctx context.Context, repo string, id int64) (manifests []api.Manifest, err error) {
	return manifests, c.do(ctx, http.MethodGet, releasePath(repo, id)+"/manifests", nil, &manifests)
}

// DiffRelease returns what changed from the release with the ID from to the other; 0 stands for the good one before.
func (c *Client) DiffRelease(ctx context.Context, repo string, id, from int64) (diff api.ReleaseDiff, err error) {
	return diff, c.do(ctx, http.MethodGet, fmt.Sprintf("%s/diff?from=%d", releasePath(repo, id), from), nil, &diff)
}

// ImportRelease stores a release that was found in a cluster.
func (c *Client) ImportRelease(ctx context.Context, found api.FoundRelease) error {
	return c.do(ctx, http.MethodPost, "/api/releases", found, nil)
}

// Previews returns what deployments of a run would change.
func (c *Client) Previews(ctx context.Context, repo string, run int64) (previews []ci.Preview, err error) {
	return previews, c.do(ctx, http.MethodGet, runPath(repo, run)+"/previews", nil, &previews)
}

// RunsOfImage lists the runs that pushed an image, newest first: a reference as it was pushed, or a digest.
func (c *Client) RunsOfImage(ctx context.Context, image string) (runs []ci.Run, err error) {
	return runs, c.do(ctx, http.MethodGet, "/api/runs?"+url.Values{"image": {image}}.Encode(), nil, &runs)
}

func releasePath(repo string, id int64) string {
	return fmt.Sprintf("/api/repos/%s/releases/%d", repo, id)
}
