package remote

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
)

// Options are what a Client is made of. The zero value reads what everybody may read, by HTTPS.
type Options struct {
	// Login returns the credentials for a registry, named as in image references (docker.io); empty ones mean none, and an
	// empty username with a password is an identity token. It may be called concurrently. nil means none for all.
	Login func(host string) (username, password string, err error)
	// Insecure are the registries that are spoken to by plain HTTP: host or host:port.
	Insecure []string
	// ConnectTimeout bounds making a connection; 0 means 5 seconds.
	ConnectTimeout time.Duration
	// AnswerTimeout bounds the wait for the head of an answer; 0 means 30 seconds.
	AnswerTimeout time.Duration
}

// Client speaks to registries. It may be used concurrently.
type Client struct {
	http     *http.Client
	login    func(host string) (username, password string, err error)
	insecure []string
	tokens   tokens
}

// New returns a client.
func New(o Options) *Client {
	c := &Client{login: o.Login, insecure: slices.Clone(o.Insecure)}
	if c.login == nil {
		c.login = func(string) (string, string, error) { return "", "", nil }
	}
	connect := cmp.Or(o.ConnectTimeout, 5*time.Second)
	c.http = &http.Client{
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           (&net.Dialer{Timeout: connect, KeepAlive: 30 * time.Second}).DialContext,
			TLSHandshakeTimeout:   connect,
			ResponseHeaderTimeout: cmp.Or(o.AnswerTimeout, 30*time.Second),
			MaxIdleConnsPerHost:   8,
			IdleConnTimeout:       time.Minute,
			ForceAttemptHTTP2:     true,
		},
		CheckRedirect: c.checkRedirect,
	}
	return c
}

// Close lets go of the connections that nobody uses.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// checkRedirect follows a registry to where its blobs are, but not to plain HTTP, and takes no credentials along: net/http
// would, to another port and to what is below the host.
func (c *Client) checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 5 {
		return errors.New("too many redirects")
	}
	if req.URL.Scheme != "https" && !slices.Contains(c.insecure, req.URL.Host) {
		return fmt.Errorf("the registry redirects to %s by plain HTTP", req.URL.Host)
	}
	if first := via[0].URL; req.URL.Host != first.Host || req.URL.Scheme != first.Scheme {
		req.Header.Del("Authorization")
	}
	return nil
}

// Repository is a repository of a registry.
type Repository struct {
	// Host is the registry as image references name it, such as docker.io or localhost:5000.
	Host string
	// Name is the repository in it, such as library/busybox.
	Name string
}

// ParseRepository reads the name of an image without a tag or digest, as people write it: busybox is
// docker.io/library/busybox.
func ParseRepository(s string) (Repository, error) {
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return Repository{}, fmt.Errorf("%.300q is not the name of an image, such as ghcr.io/octo/app: %w", s, err)
	}
	if !reference.IsNameOnly(named) {
		return Repository{}, fmt.Errorf("%.300q has a tag or a digest, and is to name a repository", s)
	}
	return Repository{reference.Domain(named), reference.Path(named)}, nil
}

// String returns the name as image references have it.
func (r Repository) String() string { return r.Host + "/" + r.Name }

// url returns the address of an endpoint of the repository.
func (c *Client) url(r Repository, path string, query url.Values) *url.URL {
	u := &url.URL{Scheme: "https", Host: r.Host, Path: "/v2/" + r.Name + "/" + path, RawQuery: query.Encode()}
	if slices.Contains(c.insecure, r.Host) {
		u.Scheme = "http"
	}
	if r.Host == "docker.io" {
		u.Host = "registry-1.docker.io"
	}
	return u
}

// Request is what [Client.Do] sends.
type Request struct {
	Method string
	// Repository is what the request is about, Actions what it does there: pull, push, delete; empty means pull.
	Repository Repository
	Actions    string
	// Path is below the repository, like manifests/latest, with Query. URL, if not nil, is in place of both: an address on
	// the same registry that it gave.
	Path  string
	Query url.Values
	URL   *url.URL
	// Header is added to the request's.
	Header http.Header
	Body   []byte
	// Open, if not nil, gives the body in place of Body, of Size bytes. It may be called again, for a second attempt.
	Open func() (io.ReadCloser, error)
	Size int64
}

// Do sends a request and returns the answer if it is a success; the caller closes its body. Otherwise the error is an
// [*Error], or, if the registry did not answer, another one.
func (c *Client) Do(ctx context.Context, r Request) (*http.Response, error) {
	u := r.URL
	if u == nil {
		u = c.url(r.Repository, r.Path, r.Query)
	}
	scope := "repository:" + r.Repository.Name + ":" + cmp.Or(r.Actions, "pull")
	for attempt := 1; ; attempt++ {
		req, err := http.NewRequestWithContext(ctx, r.Method, u.String(), bytes.NewReader(r.Body))
		if err != nil {
			return nil, err
		}
		if r.Open != nil {
			if req.Body, err = r.Open(); err != nil {
				return nil, err
			}
			req.GetBody, req.ContentLength = r.Open, r.Size
			if r.Size == 0 {
				_ = req.Body.Close()
				req.Body, req.GetBody = http.NoBody, nil
			}
		}
		if r.Header != nil {
			req.Header = r.Header.Clone()
		}
		req.Header.Set("User-Agent", "slipway")
		key := r.Repository.Host + " " + scope
		authorization := c.tokens.find(key)
		if authorization != "" {
			req.Header.Set("Authorization", authorization)
		}
		resp, err := c.http.Do(req)
		if err != nil {
			return nil, fmt.Errorf("ask %s: %w", r.Repository.Host, redact(err))
		}
		if resp.StatusCode < 300 {
			return resp, nil
		}
		answer := readError(resp)
		if resp.StatusCode != http.StatusUnauthorized || attempt == 2 {
			return nil, answer
		}
		c.tokens.drop(key, authorization)
		if err := c.authorize(ctx, r.Repository.Host, key, scope, resp.Header); err != nil {
			return nil, err
		}
	}
}

// redact drops the address from an error of net/http: a redirect may have signed it.
func redact(err error) error {
	var e *url.Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// Error is an answer of a registry that is no success.
type Error struct {
	Host   string
	Status int
	// Code and Message are the first error of the body (spec, "Error Codes"), if it has one.
	Code, Message string
	// RetryAfter is how long the registry wants to be left alone; 0 means that it did not say.
	RetryAfter time.Duration
}

// Error implements error.
func (e *Error) Error() string {
	text := fmt.Sprintf("%s answers %d %s", e.Host, e.Status, http.StatusText(e.Status))
	if e.Code != "" || e.Message != "" {
		text += fmt.Sprintf(": %.300q", strings.TrimSpace(e.Code+" "+e.Message))
	}
	return text
}

// Missing reports whether err is a registry's word that something is not there.
func Missing(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Status == http.StatusNotFound
}

// maxError is how much is read of an error's body.
const maxError = 16 << 10

// readError makes an error of resp, and closes it.
func readError(resp *http.Response) *Error {
	defer resp.Body.Close()
	e := &Error{Host: resp.Request.URL.Host, Status: resp.StatusCode}
	// Its seconds; what says a date instead is left to the caller's own pause.
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 && seconds < 1<<20 {
		e.RetryAfter = time.Duration(seconds) * time.Second
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxError))
	if err != nil {
		return e
	}
	var list struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(body, &list) == nil && len(list.Errors) > 0 {
		e.Code, e.Message = list.Errors[0].Code, list.Errors[0].Message
	}
	return e
}
