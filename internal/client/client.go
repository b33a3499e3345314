// Package client is the Go client of the API. The command line is written on it, and so are tests and the demo.
//
// A [Client] has one method for each operation. Errors are faults ([slipway/internal/fault]): what the server said, or
// that it does not answer.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"slipway/internal/api"
	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/plan"
)

// Client asks one server. It may be used concurrently.
type Client struct {
	// URL is the server's root.
	URL string
	// Token says who asks; empty means nobody, who sees what is public.
	Token string
	// HTTP sends the requests; nil means http.DefaultClient.
	HTTP *http.Client
}

// Repos lists the repos that the token may see.
func (c *Client) Repos(ctx context.Context) (repos []ci.Repo, err error) {
	return repos, c.do(ctx, http.MethodGet, "/api/repos", nil, &repos)
}

// AddRepo begins to serve a repo.
func (c *Client) AddRepo(ctx context.Context, repo api.NewRepo) (added ci.Repo, err error) {
	return added, c.do(ctx, http.MethodPost, "/api/repos", repo, &added)
}

// Repo returns one repo.
func (c *Client) Repo(ctx context.Context, name string) (repo ci.Repo, err error) {
	return repo, c.do(ctx, http.MethodGet, "/api/repos/"+name, nil, &repo)
}

// ChangeRepo changes settings of a repo.
func (c *Client) ChangeRepo(ctx context.Context, name string, change api.RepoChange) (repo ci.Repo, err error) {
	return repo, c.do(ctx, http.MethodPatch, "/api/repos/"+name, change, &repo)
}

// DeleteRepo stops serving a repo.
func (c *Client) DeleteRepo(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, "/api/repos/"+name, nil, nil)
}

// Runs lists runs, newest first: of one repo, or of all if its name is empty. Before is the ID that the page ends before,
// or 0; limit is at most 500, or 0 for 50.
func (c *Client) Runs(ctx context.Context, repo string, before int64, limit int) (runs []ci.Run, err error) {
	query := url.Values{}
	if before > 0 {
		query.Set("before", strconv.FormatInt(before, 10))
	}
	if limit > 0 {
		query.Set("limit", strconv.Itoa(limit))
	}
	path := "/api/runs"
	if repo != "" {
		path = "/api/repos/" + repo + "/runs"
	}
	return runs, c.do(ctx, http.MethodGet, path+"?"+query.Encode(), nil, &runs)
}

// Run returns a run with its jobs and steps.
func (c *Client) Run(ctx context.Context, repo string, number int64) (run ci.Run, err error) {
	return run, c.do(ctx, http.MethodGet, runPath(repo, number), nil, &run)
}

// Plan returns the plan of a run.
func (c *Client) Plan(ctx context.Context, repo string, number int64) (p plan.Plan, err error) {
	return p, c.do(ctx, http.MethodGet, runPath(repo, number)+"/plan", nil, &p)
}

// Rollouts returns how far the deployments of a run are.
func (c *Client) Rollouts(ctx context.Context, repo string, number int64) (rollouts []ci.Rollout, err error) {
	return rollouts, c.do(ctx, http.MethodGet, runPath(repo, number)+"/rollouts", nil, &rollouts)
}

// Cancel cancels a run.
func (c *Client) Cancel(ctx context.Context, repo string, number int64) (run ci.Run, err error) {
	return run, c.do(ctx, http.MethodPost, runPath(repo, number)+"/cancel", nil, &run)
}

// Restart runs the event of a run again, and returns the new run.
func (c *Client) Restart(ctx context.Context, repo string, number int64) (run ci.Run, err error) {
	return run, c.do(ctx, http.MethodPost, runPath(repo, number)+"/restart", nil, &run)
}

// Log copies the log of a step to w, from byte offset on. With follow it goes on until the step has ended.
func (c *Client) Log(ctx context.Context, repo string, number int64, job, step int, offset int64, follow bool, w io.Writer) (int64, error) {
	path := fmt.Sprintf("%s/jobs/%d/steps/%d/log?offset=%d&follow=%t", runPath(repo, number), job, step, offset, follow)
	resp, err := c.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	from := &source{r: resp.Body}
	n, err := io.Copy(w, from)
	if from.err != nil {
		return n, &fault.Error{Code: fault.Unavailable, Message: fmt.Sprintf("the server broke the log off (%s)", fault.Cause(err)), Err: err}
	}
	return n, err
}

// source remembers whether reading failed, which tells a broken connection from a broken destination.
type source struct {
	r   io.Reader
	err error
}

// Read implements [io.Reader].
func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// Secrets lists the names of a repo's secrets.
func (c *Client) Secrets(ctx context.Context, repo string) (secrets []ci.Secret, err error) {
	return secrets, c.do(ctx, http.MethodGet, "/api/repos/"+repo+"/secrets", nil, &secrets)
}

// PutSecret sets a secret.
func (c *Client) PutSecret(ctx context.Context, repo, name string, value api.SecretValue) error {
	return c.do(ctx, http.MethodPut, "/api/repos/"+repo+"/secrets/"+url.PathEscape(name), value, nil)
}

// DeleteSecret deletes a secret.
func (c *Client) DeleteSecret(ctx context.Context, repo, name string) error {
	return c.do(ctx, http.MethodDelete, "/api/repos/"+repo+"/secrets/"+url.PathEscape(name), nil, nil)
}

// Tokens lists tokens, without their texts.
func (c *Client) Tokens(ctx context.Context) (tokens []ci.Token, err error) {
	return tokens, c.do(ctx, http.MethodGet, "/api/tokens", nil, &tokens)
}

// CreateToken makes a token. Its text is in the answer and never again.
func (c *Client) CreateToken(ctx context.Context, token api.NewToken) (made api.MadeToken, err error) {
	return made, c.do(ctx, http.MethodPost, "/api/tokens", token, &made)
}

// DeleteToken deletes a token.
func (c *Client) DeleteToken(ctx context.Context, id int64) error {
	return c.do(ctx, http.MethodDelete, fmt.Sprintf("/api/tokens/%d", id), nil, nil)
}

func runPath(repo string, number int64) string {
	return fmt.Sprintf("/api/repos/%s/runs/%d", repo, number)
}

func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode the request: %w", err)
		}
		body = bytes.NewReader(data)
	}
	resp, err := c.send(ctx, method, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return &fault.Error{Code: fault.Unavailable, Message: fmt.Sprintf("what answers at %s is no Slipway server of this version; check the address", c.URL), Err: err}
	}
	return nil
}

// send sends a request and returns an answer that is good.
func (c *Client) send(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(c.URL, "/")+path, body)
	if err != nil {
		return nil, &fault.Error{Code: fault.Invalid, Message: fmt.Sprintf("%q is not the root of a server, such as https://slipway.example.com", c.URL), Err: err}
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.Token != "" {
		req.Header.Set("Authorization", "Bearer "+c.Token)
	}
	httpClient := c.HTTP
	if httpClient == nil {
		httpClient = http.DefaultClient
	}
	resp, err := httpClient.Do(req)
	if err != nil {
		return nil, &fault.Error{
			Code: fault.Unavailable, Err: err,
			Message: fmt.Sprintf("no Slipway server answers at %s (%s); check the address, and that slipway server runs there", c.URL, fault.Cause(err)),
		}
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, problem(resp)
}

// problem reads what a server has against a request: an RFC 9457 problem, or at least a status.
func problem(resp *http.Response) error {
	var p struct {
		Detail string `json:"detail"`
		Errors []struct {
			Message  string `json:"message"`
			Location string `json:"location"`
		} `json:"errors"`
	}
	code := fault.FromHTTPStatus(resp.StatusCode)
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&p); err != nil || p.Detail == "" {
		return fault.New(code, "the server answers %s to %s; check the address of the server and the name of the repo", resp.Status, resp.Request.URL.Path)
	}
	if len(p.Errors) == 0 {
		return fault.New(code, "%s", p.Detail)
	}
	// The request does not have the shape that the API describes.
	var wrong []string
	for _, e := range p.Errors {
		wrong = append(wrong, fmt.Sprintf("%s: %s", strings.TrimPrefix(e.Location, "body."), e.Message))
	}
	return fault.New(fault.Invalid, "the server does not take this: %s", strings.Join(wrong, "; "))
}
