package gitea

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	sdk "code.gitea.io/sdk/gitea"

	"slipway/internal/ci"
	"slipway/internal/forge"
)

// Kind is what [ci.Repo.Forge] says of a repo on Gitea or Forgejo.
const Kind = "gitea"

const (
	// callTimeout bounds one call of the API.
	callTimeout = 30 * time.Second
	// maxAnswer bounds what the API answers, in bytes.
	maxAnswer = 8 << 20
	// maxDescription bounds a status's description, in characters: Gitea shows it on one line.
	maxDescription = 140
)

// Forge speaks to any number of Gitea and Forgejo servers: each repo says on which it is. It is safe for concurrent use.
type Forge struct {
	client *http.Client
}

var _ forge.Forge = (*Forge)(nil)

// New returns the forge.
func New() *Forge {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.ResponseHeaderTimeout = callTimeout
	return &Forge{client: &http.Client{
		Transport: bounded{transport},
		Timeout:   callTimeout,
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			// Go would take the token along to a subdomain. Nobody's API redirects elsewhere on purpose.
			first := via[0].URL
			if req.URL.Host != first.Host || req.URL.Scheme != first.Scheme {
				return fmt.Errorf("it redirects to %s://%s, which gets no token; set the repo's forge URL to the address that answers itself", req.URL.Scheme, req.URL.Host)
			}
			if len(via) >= 5 {
				return errors.New("it redirects in circles")
			}
			return nil
		},
	}}
}

// bounded cuts answers that are too long.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := b.RoundTripper.RoundTrip(req)
	if err == nil {
		resp.Body = http.MaxBytesReader(nil, resp.Body, maxAnswer)
	}
	return resp, err
}

// call is one conversation about one repo.
type call struct {
	*sdk.Client
	repo        forge.Repo
	owner, name string
}

// namePattern is what Gitea allows as the name of an owner or a repository.
var namePattern = regexp.MustCompile(`^[A-Za-z0-9._-]{1,100}$`)

func (f *Forge) call(ctx context.Context, repo forge.Repo) (*call, error) {
	owner, name, ok := strings.Cut(repo.Name, "/")
	if !ok || !namePattern.MatchString(owner) || !namePattern.MatchString(name) || strings.Trim(owner, ".") == "" || strings.Trim(name, ".") == "" {
		return nil, fmt.Errorf("%.100q is no name for a repo on Gitea: write owner/name", repo.Name)
	}
	base, err := url.Parse(repo.ForgeURL)
	if err != nil || base.Host == "" || base.Scheme != "https" && base.Scheme != "http" || base.User != nil {
		return nil, fmt.Errorf("the forge URL of %s must look like https://git.example.com, without user or token in it", repo.Name)
	}
	// An empty version: don't ask for it, everything used here is in any Gitea or Forgejo of the last years.
	client, err := sdk.NewClient(repo.ForgeURL, sdk.SetContext(ctx), sdk.SetHTTPClient(f.client), sdk.SetToken(repo.Token), sdk.SetGiteaVersion(""))
	if err != nil {
		return nil, fmt.Errorf("set up the client for %s: %w", repo.ForgeURL, err)
	}
	return &call{Client: client, repo: repo, owner: owner, name: name}, nil
}

// failed turns what the library returns into a sentence: doing says what was tried, scope which right of the token it takes.
func (c *call) failed(doing, scope string, resp *sdk.Response, err error) error {
	at := fmt.Sprintf("%s of %s at %s", doing, c.repo.Name, c.repo.ForgeURL)
	if resp == nil || resp.Response == nil {
		if u := (*url.Error)(nil); errors.As(err, &u) {
			err = u.Err // the rest of it is the URL again
		}
		return fmt.Errorf("%s: no answer: %w", at, err)
	}
	switch resp.StatusCode {
	case http.StatusUnauthorized:
		return fmt.Errorf("%s: the forge does not know the token: make a new one there with the scope %s and give it to `slipway repo add`: %w", at, scope, forge.ErrDenied)
	case http.StatusForbidden:
		return fmt.Errorf("%s: the token or its user lacks a right: the token needs the scope %s, its user must be an administrator of the repository: %w", at, scope, forge.ErrDenied)
	case http.StatusNotFound:
		return fmt.Errorf("%s: it is not there, or the token may not see it: %w", at, forge.ErrNotFound)
	}
	if resp.StatusCode/100 == 2 {
		return fmt.Errorf("%s: the answer is not understood; is this the URL of a Gitea or Forgejo", at)
	}
	return fmt.Errorf("%s: the forge answered %d: %s", at, resp.StatusCode, short(err.Error(), 200))
}

// Describe asks for the repository, and checks that the token's user administers it, as webhooks need.
func (f *Forge) Describe(ctx context.Context, repo forge.Repo) (ci.Repo, error) {
	c, err := f.call(ctx, repo)
	if err != nil {
		return ci.Repo{}, err
	}
	found, resp, err := c.GetRepo(c.owner, c.name)
	if err != nil {
		return ci.Repo{}, c.failed("read the repository", "read:repository", resp, err)
	}
	if found.Permissions == nil || !found.Permissions.Admin {
		return ci.Repo{}, fmt.Errorf("the token's user is not an administrator of %s at %s, which webhooks need: make the token with another user, or give this one the right: %w", repo.Name, repo.ForgeURL, forge.ErrDenied)
	}
	described := repo.Repo
	described.Forge = Kind
	described.Name = found.FullName
	described.CloneURL = found.CloneURL
	described.Link = found.HTMLURL
	described.Branch = found.DefaultBranch
	described.Private = found.Private || found.Internal
	return described, nil
}

// hookEvents are the webhook events that Slipway uses, by the names of Gitea's API. Tags come as pushes.
var hookEvents = []string{"push", "pull_request_only", "pull_request_sync"}

// Register looks for a webhook to hookURL and sets it right, or makes one.
func (f *Forge) Register(ctx context.Context, repo forge.Repo, hookURL string) error {
	if repo.WebhookSecret == "" {
		return fmt.Errorf("register the webhook of %s: without a webhook secret anybody could forge one", repo.Name)
	}
	c, err := f.call(ctx, repo)
	if err != nil {
		return err
	}
	config := map[string]string{"url": hookURL, "content_type": "json", "secret": repo.WebhookSecret, "http_method": "post"}
	const doing, scope = "register the webhook", "write:repository"
	for page := 1; page <= 20; page++ {
		hooks, resp, err := c.ListRepoHooks(c.owner, c.name, sdk.ListHooksOptions{ListOptions: sdk.ListOptions{Page: page, PageSize: 50}})
		if err != nil {
			return c.failed(doing, scope, resp, err)
		}
		at := slices.IndexFunc(hooks, func(h *sdk.Hook) bool { return h.Config["url"] == hookURL })
		if at >= 0 {
			// The secret cannot be read back, so it is set each time.
			active := true
			resp, err := c.EditRepoHook(c.owner, c.name, hooks[at].ID, sdk.EditHookOption{Config: config, Events: hookEvents, Active: &active})
			if err != nil {
				return c.failed(doing, scope, resp, err)
			}
			return nil
		}
		if len(hooks) == 0 {
			break
		}
	}
	_, resp, err := c.CreateRepoHook(c.owner, c.name, sdk.CreateHookOption{Type: sdk.HookTypeGitea, Config: config, Events: hookEvents, Active: true})
	if err != nil {
		return c.failed(doing, scope, resp, err)
	}
	return nil
}

// hashPattern is a full hash, SHA-1 or SHA-256.
var hashPattern = regexp.MustCompile(`^(?:[0-9a-f]{40}|[0-9a-f]{64})$`)

// File reads a file through the API. The commit of a pull request is in the base repository as well.
func (f *Forge) File(ctx context.Context, repo forge.Repo, commit, path string) ([]byte, error) {
	if !hashPattern.MatchString(commit) {
		return nil, fmt.Errorf("%.80q is not the full hash of a commit", commit)
	}
	if !fs.ValidPath(path) {
		return nil, fmt.Errorf("%.200q is not a path inside a repo", path)
	}
	c, err := f.call(ctx, repo)
	if err != nil {
		return nil, err
	}
	doing := fmt.Sprintf("read %s at %.10s", path, commit)
	body, resp, err := c.GetFileReader(c.owner, c.name, commit, path)
	if err != nil {
		return nil, c.failed(doing, "read:repository", resp, err)
	}
	defer body.Close()
	content, err := io.ReadAll(io.LimitReader(body, forge.MaxFile+1))
	if err != nil {
		return nil, c.failed(doing, "read:repository", nil, err)
	}
	if len(content) > forge.MaxFile {
		return nil, fmt.Errorf("%s of %s at %.10s has more than %d KiB: %w", path, repo.Name, commit, forge.MaxFile>>10, forge.ErrTooLarge)
	}
	return content, nil
}

// states are Gitea's words for ours. It has none for running and canceled.
var states = map[ci.Status]sdk.StatusState{
	ci.Pending:  sdk.StatusPending,
	ci.Running:  sdk.StatusPending,
	ci.Success:  sdk.StatusSuccess,
	ci.Skipped:  sdk.StatusSuccess,
	ci.Failure:  sdk.StatusFailure,
	ci.Error:    sdk.StatusError,
	ci.Canceled: sdk.StatusError,
}

// Report writes the status.
func (f *Forge) Report(ctx context.Context, repo forge.Repo, status forge.Status) error {
	state, ok := states[status.State]
	if !ok {
		return fmt.Errorf("report to %s: there is no status %q", repo.Name, status.State)
	}
	if !hashPattern.MatchString(status.Commit) {
		return fmt.Errorf("report to %s: %.80q is not the full hash of a commit", repo.Name, status.Commit)
	}
	c, err := f.call(ctx, repo)
	if err != nil {
		return err
	}
	_, resp, err := c.CreateStatus(c.owner, c.name, status.Commit, sdk.CreateStatusOption{
		State: state, Context: status.Context, Description: short(status.Description, maxDescription), TargetURL: status.Link,
	})
	if err != nil {
		return c.failed("report the status", "write:repository", resp, err)
	}
	return nil
}

// short cuts a text to one line of at most n characters.
func short(s string, n int) string {
	runes := []rune(strings.Join(strings.Fields(s), " "))
	if len(runes) > n {
		runes = append(runes[:n-1], '…')
	}
	return string(runes)
}
