package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"slipway/internal/api"
	"slipway/internal/ci"
)

// Environments lists the environments of a repo, with their rules.
func (c *Client) Environments(ctx context.Context, repo string) (environments []ci.Environment, err error) {
	return environments, c.do(ctx, http.MethodGet, "/api/repos/"+repo+"/environments", nil, &environments)
}

// Environment returns one environment.
func (c *Client) Environment(ctx context.Context, repo, name string) (environment ci.Environment, err error) {
	return environment, c.do(ctx, http.MethodGet, environmentPath(repo, name), nil, &environment)
}

// AddEnvironment makes an environment.
func (c *Client) AddEnvironment(ctx context.Context, repo string, environment api.NewEnvironment) (added ci.Environment, err error) {
	return added, c.do(ctx, http.MethodPost, "/api/repos/"+repo+"/environments", environment, &added)
}

// ChangeEnvironment changes the rules of an environment.
func (c *Client) ChangeEnvironment(ctx context.Context, repo, name string, rules api.EnvironmentRules) (changed ci.Environment, err error) {
	return changed, c.do(ctx, http.MethodPatch, environmentPath(repo, name), rules, &changed)
}

// DeleteEnvironment forgets the rules of an environment.
func (c *Client) DeleteEnvironment(ctx context.Context, repo, name string) error {
	return c.do(ctx, http.MethodDelete, environmentPath(repo, name), nil, nil)
}

// Reviews lists the review environments that exist.
func (c *Client) Reviews(ctx context.Context, repo string) (reviews []ci.Review, err error) {
	return reviews, c.do(ctx, http.MethodGet, "/api/repos/"+repo+"/reviews", nil, &reviews)
}

// Gates lists the newest deployments of a repo that came to a gate: of one run, or of all if run is 0; with waiting, only
// those that wait.
func (c *Client) Gates(ctx context.Context, repo string, run int64, waiting bool) (gates []ci.Gate, err error) {
	query := url.Values{"run": {strconv.FormatInt(run, 10)}, "waiting": {strconv.FormatBool(waiting)}}
	return gates, c.do(ctx, http.MethodGet, "/api/repos/"+repo+"/gates?"+query.Encode(), nil, &gates)
}

// Rollback starts a run that brings an environment back to an earlier release, and returns it.
func (c *Client) Rollback(ctx context.Context, repo, environment string, wish api.RollbackWish) (run ci.Run, err error) {
	return run, c.do(ctx, http.MethodPost, environmentPath(repo, environment)+"/rollback", wish, &run)
}

// Teardown starts a run that removes a review environment, and returns it.
func (c *Client) Teardown(ctx context.Context, repo, environment string, wish api.TeardownWish) (run ci.Run, err error) {
	return run, c.do(ctx, http.MethodPost, environmentPath(repo, environment)+"/teardown", wish, &run)
}

// Vote approves or rejects the deployments of a run that wait, and returns their gates.
func (c *Client) Vote(ctx context.Context, repo string, number int64, vote api.Ballot) (gates []ci.Gate, err error) {
	return gates, c.do(ctx, http.MethodPost, runPath(repo, number)+"/vote", vote, &gates)
}

// Promote runs the pipeline of a run again for another environment, and returns the new run.
func (c *Client) Promote(ctx context.Context, repo string, number int64, promotion api.Promotion) (run ci.Run, err error) {
	return run, c.do(ctx, http.MethodPost, runPath(repo, number)+"/promote", promotion, &run)
}

func environmentPath(repo, name string) string {
	return "/api/repos/" + repo + "/environments/" + url.PathEscape(name)
}
