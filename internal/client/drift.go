package client

import (
	"context"
	"net/http"
	"net/url"

	"slipway/internal/ci"
)

// Drifts returns how the environments of a repo differ from what was deployed to them, or those of all repos if repo is
// empty, as far as the server knows.
func (c *Client) Drifts(ctx context.Context, repo string) (drifts []ci.Drift, err error) {
	return drifts, c.do(ctx, http.MethodGet, "/api/drift?"+url.Values{"repo": {repo}}.Encode(), nil, &drifts)
}
