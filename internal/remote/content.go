package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"
)

// MaxManifest is the most bytes that are read of a manifest.
const MaxManifest = 4 << 20

// The media types of manifests that are asked for (image-spec, "Media Types"; Docker's schema 2).
var manifestTypes = []string{
	"application/vnd.oci.image.index.v1+json",
	"application/vnd.oci.image.manifest.v1+json",
	"application/vnd.docker.distribution.manifest.list.v2+json",
	"application/vnd.docker.distribution.manifest.v2+json",
}

// ErrCorrupt says that a registry sent what does not have the digest or size that was asked for.
var ErrCorrupt = errors.New("the registry sent something else than was asked for")

// Manifest is a manifest, byte for byte.
type Manifest struct {
	MediaType string
	Digest    string
	Content   []byte
}

func manifestRequest(method string, r Repository, ref string) Request {
	return Request{
		Method: method, Repository: r, Path: "manifests/" + ref,
		Header: http.Header{"Accept": {strings.Join(manifestTypes, ", ")}},
	}
}

// Resolve returns the digest of the manifest that a tag names, without counting as a pull. A registry that does not say
// the digest gets an empty one.
func (c *Client) Resolve(ctx context.Context, r Repository, tag string) (string, error) {
	resp, err := c.Do(ctx, manifestRequest(http.MethodHead, r, tag))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	d := digest.Digest(resp.Header.Get("Docker-Content-Digest"))
	if d.Validate() != nil {
		return "", nil
	}
	return d.String(), nil
}

// Manifest returns the manifest that ref, a tag or a digest, names. Its digest was checked.
func (c *Client) Manifest(ctx context.Context, r Repository, ref string) (Manifest, error) {
	resp, err := c.Do(ctx, manifestRequest(http.MethodGet, r, ref))
	if err != nil {
		return Manifest{}, err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(io.LimitReader(resp.Body, MaxManifest+1))
	if err != nil {
		return Manifest{}, fmt.Errorf("read the manifest %s of %s: %w", ref, r, redact(err))
	}
	if len(content) > MaxManifest {
		return Manifest{}, fmt.Errorf("the manifest %s of %s has more than %d bytes: %w", ref, r, MaxManifest, ErrCorrupt)
	}
	want := digest.Digest(ref)
	if !strings.Contains(ref, ":") { // a tag
		want = digest.Digest(resp.Header.Get("Docker-Content-Digest"))
		if want == "" {
			want = digest.FromBytes(content)
		}
	}
	if want.Validate() != nil || want.Algorithm().FromBytes(content) != want {
		return Manifest{}, fmt.Errorf("the manifest %s of %s does not have the digest %.100q: %w", ref, r, want, ErrCorrupt)
	}
	mediaType, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		mediaType = ""
	}
	return Manifest{MediaType: mediaType, Digest: want.String(), Content: content}, nil
}

// Blob returns the bytes of a blob and how many they are, or -1 if the registry does not say. The caller closes them, and
// checks their digest.
func (c *Client) Blob(ctx context.Context, r Repository, digest string) (io.ReadCloser, int64, error) {
	resp, err := c.Do(ctx, Request{Method: http.MethodGet, Repository: r, Path: "blobs/" + digest})
	if err != nil {
		return nil, 0, err
	}
	return resp.Body, resp.ContentLength, nil
}

// maxTags bounds how many tags are listed.
const maxTags = 1 << 20

// Tags returns all tags of a repository.
func (c *Client) Tags(ctx context.Context, r Repository) ([]string, error) {
	request := Request{Method: http.MethodGet, Repository: r, Path: "tags/list", Query: url.Values{"n": {"1000"}}}
	var tags []string
	for {
		page, next, err := c.tagPage(ctx, request)
		if err != nil {
			return nil, err
		}
		tags = append(tags, page...)
		if next == nil {
			return tags, nil
		}
		if len(page) == 0 || len(tags) > maxTags {
			return nil, fmt.Errorf("%s lists tags without end", r)
		}
		request.URL = next
	}
}

func (c *Client) tagPage(ctx context.Context, request Request) (tags []string, next *url.URL, err error) {
	resp, err := c.Do(ctx, request)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	var list struct{ Tags []string }
	if err := readJSON(resp.Body, 16<<20, &list); err != nil {
		return nil, nil, fmt.Errorf("read the tags of %s: %w", request.Repository, err)
	}
	next, err = nextPage(resp)
	return list.Tags, next, err
}

// nextPage returns the address in Link (RFC 8288), or nil. It must be on the same registry: credentials go there.
func nextPage(resp *http.Response) (*url.URL, error) {
	target, parameters, _ := strings.Cut(resp.Header.Get("Link"), ">")
	if !strings.HasPrefix(target, "<") || !strings.Contains(parameters, "next") {
		return nil, nil
	}
	next, err := resp.Request.URL.Parse(target[1:])
	if err != nil {
		return nil, fmt.Errorf("the link to the next page: %w", err)
	}
	if next.Host != resp.Request.URL.Host {
		return nil, fmt.Errorf("the next page is on another host, %s", next.Host)
	}
	next.Scheme = resp.Request.URL.Scheme
	return next, nil
}

// PutManifest pushes a manifest to ref, a tag or its digest.
func (c *Client) PutManifest(ctx context.Context, r Repository, ref string, m Manifest) error {
	return c.do(ctx, Request{
		Method: http.MethodPut, Repository: r, Actions: "pull,push", Path: "manifests/" + ref,
		Header: http.Header{"Content-Type": {m.MediaType}}, Body: m.Content,
	})
}

// PutBlob uploads a small blob in one piece (spec, "POST then PUT").
func (c *Client) PutBlob(ctx context.Context, r Repository, content []byte) error {
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
	return c.PutBlobFrom(ctx, r, digest.FromBytes(content).String(), int64(len(content)), open)
}

// PutBlobFrom uploads a blob of that digest and size, which the registry checks, in one piece. Open gives its bytes, and
// may be called again.
func (c *Client) PutBlobFrom(ctx context.Context, r Repository, digest string, size int64, open func() (io.ReadCloser, error)) error {
	resp, err := c.Do(ctx, Request{Method: http.MethodPost, Repository: r, Actions: "pull,push", Path: "blobs/uploads/"})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	location, err := resp.Request.URL.Parse(resp.Header.Get("Location"))
	if err != nil || location.Host != resp.Request.URL.Host {
		return fmt.Errorf("%s names no address of its own for an upload", r.Host)
	}
	location.Scheme = resp.Request.URL.Scheme
	query := location.Query()
	query.Set("digest", digest)
	location.RawQuery = query.Encode()
	return c.do(ctx, Request{
		Method: http.MethodPut, Repository: r, Actions: "pull,push", URL: location, Open: open, Size: size,
		Header: http.Header{"Content-Type": {"application/octet-stream"}},
	})
}

// HasBlob reports whether the repository has a blob.
func (c *Client) HasBlob(ctx context.Context, r Repository, digest string) (bool, error) {
	err := c.do(ctx, Request{Method: http.MethodHead, Repository: r, Actions: "pull,push", Path: "blobs/" + digest})
	if Missing(err) {
		return false, nil
	}
	return err == nil, err
}

// maxReferrers bounds how many referrers of one manifest are listed.
const maxReferrers = 1 << 16

// Referrers returns the digests of the manifests that are about the one of that digest; none of a registry that does not
// know.
func (c *Client) Referrers(ctx context.Context, r Repository, digest string) ([]string, error) {
	request := Request{Method: http.MethodGet, Repository: r, Path: "referrers/" + digest}
	var all []string
	for {
		page, next, err := c.referrerPage(ctx, request)
		if Missing(err) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if next == nil {
			return all, nil
		}
		if len(page) == 0 || len(all) > maxReferrers {
			return nil, fmt.Errorf("%s lists referrers of %s without end", r, digest)
		}
		request.URL = next
	}
}

func (c *Client) referrerPage(ctx context.Context, request Request) (digests []string, next *url.URL, err error) {
	resp, err := c.Do(ctx, request)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	var list struct{ Manifests []struct{ Digest string } }
	if err := readJSON(resp.Body, 16<<20, &list); err != nil {
		return nil, nil, fmt.Errorf("read the referrers in %s: %w", request.Repository, err)
	}
	for _, m := range list.Manifests {
		digests = append(digests, m.Digest)
	}
	next, err = nextPage(resp)
	return digests, next, err
}

// Delete deletes a manifest by its digest, or a tag, where the registry can do that. Deleting a digest takes all its tags
// along.
func (c *Client) Delete(ctx context.Context, r Repository, ref string) error {
	return c.do(ctx, Request{Method: http.MethodDelete, Repository: r, Actions: "pull,push,delete", Path: "manifests/" + ref})
}

// do is Do without the answer.
func (c *Client) do(ctx context.Context, r Request) error {
	resp, err := c.Do(ctx, r)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// readJSON reads a value of at most limit bytes.
func readJSON(r io.Reader, limit int64, v any) error {
	body, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return redact(err)
	}
	if int64(len(body)) > limit {
		return fmt.Errorf("it has more than %d bytes", limit)
	}
	return json.Unmarshal(body, v)
}
