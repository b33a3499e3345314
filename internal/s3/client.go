// Package s3 is a client of one bucket of an object store that speaks S3's protocol: the handful of calls that keeping
// whole files there takes, signed by AWS's fourth way. Bodies are files, so that a call can be repeated.
//
// It is here because the libraries for it have megabytes.
package s3

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// Options are what a Client is made of.
type Options struct {
	// Endpoint is the root of the store, such as https://s3.example.com, where buckets are paths; empty means AWS.
	Endpoint string
	// Region is the bucket's; empty means us-east-1, which is also what stores are told that have none.
	Region string
	Bucket string
	Credentials
}

// Client speaks to a bucket. It may be used concurrently.
type Client struct {
	http   *http.Client
	signer signer
	bucket string
	// root is the address of the bucket, without a slash at its end.
	root url.URL
}

// attempts is how often a call is made that the store fails, or does not answer, and pause how long it then waits first.
const (
	attempts = 4
	pause    = 200 * time.Millisecond
)

// New returns a client. It asks nothing yet.
func New(o Options) (*Client, error) {
	o.Region = cmp.Or(o.Region, "us-east-1")
	if o.Bucket == "" || strings.ContainsAny(o.Bucket, "/?#") || o.KeyID == "" || o.Secret == "" {
		return nil, errors.New("a bucket and credentials are needed")
	}
	c := &Client{signer: signer{o.Credentials, o.Region}, bucket: o.Bucket, http: &http.Client{
		Transport: &http.Transport{
			Proxy:       http.ProxyFromEnvironment,
			DialContext: (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
			// The end of a large upload may take as long.
			ResponseHeaderTimeout: 5 * time.Minute, TLSHandshakeTimeout: 10 * time.Second,
			MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute, DisableCompression: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	switch {
	case o.Endpoint != "":
		root, err := url.Parse(o.Endpoint)
		if err != nil || root.Host == "" || root.Scheme != "https" && root.Scheme != "http" || strings.Trim(root.Path, "/") != "" || root.User != nil {
			return nil, fmt.Errorf("the endpoint %.200q is not an address such as https://s3.example.com", o.Endpoint)
		}
		c.root = url.URL{Scheme: root.Scheme, Host: root.Host, Path: "/" + o.Bucket}
	case strings.Contains(o.Bucket, "."): // as a part of a host it would fit no certificate
		c.root = url.URL{Scheme: "https", Host: "s3." + o.Region + ".amazonaws.com", Path: "/" + o.Bucket}
	default:
		c.root = url.URL{Scheme: "https", Host: o.Bucket + ".s3." + o.Region + ".amazonaws.com"}
	}
	return c, nil
}

// Close lets go of the connections that nobody uses.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Error is an answer of the store that is no success. One that says that an object is not there is fs.ErrNotExist.
type Error struct {
	Status        int
	Code, Message string
}

// Error implements error.
func (e *Error) Error() string {
	switch {
	case e.Code == "NoSuchBucket":
		return "there is no such bucket; make it first"
	case e.Status == http.StatusForbidden:
		return strings.TrimSpace("the object store refuses it: "+e.Code+" "+e.Message) + "; look at the credentials, their rights, and the machine's clock"
	}
	return strings.TrimSpace(fmt.Sprintf("the object store answers %d %s %s", e.Status, e.Code, e.Message))
}

// Is makes "not there" fs.ErrNotExist. An answer to HEAD has no code.
func (e *Error) Is(target error) bool {
	return target == fs.ErrNotExist && e.Status == http.StatusNotFound && (e.Code == "" || e.Code == "NoSuchKey" || e.Code == "NoSuchUpload")
}

// call is one request.
type call struct {
	method, key string
	query       url.Values
	header      http.Header
	body        *io.SectionReader // nil for none
}

// address returns where a key is.
func (c *Client) address(key string, query url.Values) url.URL {
	u := c.root
	u.Path += "/" + key
	u.RawPath = encode(u.Path, true)
	u.RawQuery = encodeQuery(query)
	return u
}

// do makes a call, and makes it again if the store failed. The caller closes the body of the answer, which is a success.
func (c *Client) do(ctx context.Context, o call) (*http.Response, error) {
	sum := emptySum
	if o.body != nil {
		h := sha256.New()
		if _, err := io.Copy(h, io.NewSectionReader(o.body, 0, o.body.Size())); err != nil {
			return nil, err
		}
		sum = hex.EncodeToString(h.Sum(nil))
	}
	for attempt := 1; ; attempt++ {
		resp, err := c.once(ctx, o, sum)
		if err == nil && resp.StatusCode/100 == 2 {
			return resp, nil
		}
		again := err != nil
		if err == nil {
			again = resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests
			err = readError(resp)
		}
		if !again || attempt == attempts || ctx.Err() != nil {
			return nil, err
		}
		timer := time.NewTimer(pause << (attempt - 1))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		}
	}
}

func (c *Client) once(ctx context.Context, o call, sum string) (*http.Response, error) {
	u := c.address(o.key, o.query)
	req, err := http.NewRequestWithContext(ctx, o.method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.URL = &u
	if o.header != nil {
		req.Header = o.header.Clone()
	}
	if o.body != nil && o.body.Size() > 0 {
		req.Body, req.ContentLength = io.NopCloser(io.NewSectionReader(o.body, 0, o.body.Size())), o.body.Size()
	}
	c.signer.sign(req, sum, time.Now())
	resp, err := c.http.Do(req)
	if u := (*url.Error)(nil); errors.As(err, &u) {
		err = fmt.Errorf("ask the object store at %s: %w", c.root.Host, u.Err)
	}
	return resp, err
}

func readError(resp *http.Response) error {
	defer resp.Body.Close()
	e := &Error{Status: resp.StatusCode}
	var body struct{ Code, Message string }
	if text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10)); err == nil && xml.Unmarshal(text, &body) == nil {
		e.Code, e.Message = body.Code, body.Message
	}
	return e
}

// Info is what the store knows of an object.
type Info struct {
	Size     int64
	Modified time.Time
}

// Stat returns what is known of an object, or fs.ErrNotExist.
func (c *Client) Stat(ctx context.Context, key string) (Info, error) {
	resp, err := c.do(ctx, call{method: http.MethodHead, key: key})
	if err != nil {
		return Info{}, err
	}
	defer resp.Body.Close()
	modified, err := http.ParseTime(resp.Header.Get("Last-Modified"))
	if err != nil || resp.ContentLength < 0 {
		return Info{}, fmt.Errorf("the object store does not say the size and time of %s", key)
	}
	return Info{resp.ContentLength, modified}, nil
}

// Get returns an object from a byte on, or fs.ErrNotExist. The caller closes it.
func (c *Client) Get(ctx context.Context, key string, from int64) (io.ReadCloser, error) {
	o := call{method: http.MethodGet, key: key}
	if from > 0 {
		o.header = http.Header{"Range": {fmt.Sprintf("bytes=%d-", from)}}
	}
	resp, err := c.do(ctx, o)
	if err != nil {
		return nil, err
	}
	if from > 0 && resp.StatusCode != http.StatusPartialContent {
		_ = resp.Body.Close() // it was to be read only
		return nil, errors.New("the object store does not know ranges")
	}
	return resp.Body, nil
}

// Link returns an address from which everybody may read an object for that long. The store is not asked.
func (c *Client) Link(key string, life time.Duration) string {
	return c.signer.presign(c.address(key, nil), life, time.Now())
}

// Delete removes an object. One that is not there is no error.
func (c *Client) Delete(ctx context.Context, key string) error {
	err := c.quiet(ctx, call{method: http.MethodDelete, key: key})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// maxCopy is how many bytes one call can copy.
const maxCopy = 5 << 30

// Move gives an object another key.
func (c *Client) Move(ctx context.Context, from, to string) error {
	info, err := c.Stat(ctx, from)
	if err != nil {
		return err
	}
	if info.Size > maxCopy {
		return fmt.Errorf("%s has more than %d bytes, which one call cannot copy; move it by hand", from, int64(maxCopy))
	}
	header := http.Header{"X-Amz-Copy-Source": {encode("/"+c.bucket+"/"+from, true)}}
	if err := c.late(ctx, call{method: http.MethodPut, key: to, header: header}, nil); err != nil {
		return err
	}
	return c.Delete(ctx, from)
}

// quiet makes a call of whose answer nobody wants anything.
func (c *Client) quiet(ctx context.Context, o call) error {
	resp, err := c.do(ctx, o)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// late makes a call whose answer is XML, and may turn out to be an error after it began as a success.
func (c *Client) late(ctx context.Context, o call, into any) error {
	resp, err := c.do(ctx, o)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return fmt.Errorf("read the object store's answer: %w", err)
	}
	var failed struct {
		XMLName       xml.Name
		Code, Message string
	}
	if err := xml.Unmarshal(text, &failed); err != nil {
		return fmt.Errorf("read the object store's answer: %w", err)
	}
	if failed.XMLName.Local == "Error" {
		return &Error{http.StatusInternalServerError, failed.Code, failed.Message}
	}
	if into == nil {
		return nil
	}
	return xml.Unmarshal(text, into)
}

const (
	// whole is up to how many bytes an object goes in one call; above, it goes in parts.
	whole = 32 << 20
	// minPart is how many bytes a part has at least, maxParts how many there are at most; threads go at a time.
	minPart, maxParts, threads = 16 << 20, 10_000, 3
)

// Put stores an object of that size. It is there when all of it is.
func (c *Client) Put(ctx context.Context, key string, from io.ReaderAt, size int64) error {
	if size > whole {
		return c.putParts(ctx, key, from, size)
	}
	return c.quiet(ctx, call{
		method: http.MethodPut, key: key, body: io.NewSectionReader(from, 0, size), header: http.Header{"Content-Type": {"application/octet-stream"}},
	})
}

// part is one of a large object.
type part struct {
	XMLName    xml.Name `xml:"Part"`
	PartNumber int
	ETag       string
}

func (c *Client) putParts(ctx context.Context, key string, from io.ReaderAt, size int64) (failed error) {
	var begun struct{ UploadId string } //nolint:revive,staticcheck // the name of the element
	err := c.late(ctx, call{
		method: http.MethodPost, key: key, query: url.Values{"uploads": {""}}, header: http.Header{"Content-Type": {"application/octet-stream"}},
	}, &begun)
	if err != nil {
		return err
	}
	defer func() {
		if failed != nil { // what cannot be removed now, a sweep finds
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
			defer cancel()
			_ = c.Abort(ctx, Upload{Key: key, ID: begun.UploadId})
		}
	}()
	partSize := max(minPart, (size+maxParts-1)/maxParts)
	parts := make([]part, (size+partSize-1)/partSize)
	group, sending := errgroup.WithContext(ctx)
	group.SetLimit(threads)
	for i := range parts {
		group.Go(func() error {
			at := int64(i) * partSize
			resp, err := c.do(sending, call{
				method: http.MethodPut, key: key, query: url.Values{"partNumber": {strconv.Itoa(i + 1)}, "uploadId": {begun.UploadId}},
				body: io.NewSectionReader(from, at, min(partSize, size-at)),
			})
			if err != nil {
				return err
			}
			parts[i] = part{PartNumber: i + 1, ETag: resp.Header.Get("ETag")}
			return resp.Body.Close()
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	text, err := xml.Marshal(struct {
		XMLName xml.Name `xml:"CompleteMultipartUpload"`
		Parts   []part
	}{Parts: parts})
	if err != nil {
		return err
	}
	return c.late(ctx, call{
		method: http.MethodPost, key: key, query: url.Values{"uploadId": {begun.UploadId}}, header: http.Header{"Content-Type": {"application/xml"}},
		body: io.NewSectionReader(bytes.NewReader(text), 0, int64(len(text))),
	}, nil)
}

// List calls f for the key of each object that begins with prefix.
func (c *Client) List(ctx context.Context, prefix string, f func(key string) error) error {
	query := url.Values{"list-type": {"2"}, "prefix": {prefix}}
	for {
		var page struct {
			Contents              []struct{ Key string }
			IsTruncated           bool
			NextContinuationToken string
		}
		if err := c.late(ctx, call{method: http.MethodGet, query: query}, &page); err != nil {
			return err
		}
		for _, object := range page.Contents {
			if err := f(object.Key); err != nil {
				return err
			}
		}
		if !page.IsTruncated {
			return nil
		}
		if page.NextContinuationToken == "" {
			return errors.New("the object store lists without end")
		}
		query.Set("continuation-token", page.NextContinuationToken)
	}
}

// Upload is an object in parts that was begun, and not ended.
type Upload struct {
	Key   string
	ID    string    `xml:"UploadId"`
	Begun time.Time `xml:"Initiated"`
}

// Uploads returns the unfinished uploads of keys that begin with prefix.
func (c *Client) Uploads(ctx context.Context, prefix string) (all []Upload, err error) {
	query := url.Values{"uploads": {""}, "prefix": {prefix}}
	for {
		var page struct {
			Upload                            []Upload
			IsTruncated                       bool
			NextKeyMarker, NextUploadIdMarker string //nolint:revive,staticcheck // the names of the elements
		}
		err := c.late(ctx, call{method: http.MethodGet, query: query}, &page)
		if errors.Is(err, fs.ErrNotExist) { // some stores say so when there are none
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, page.Upload...)
		if !page.IsTruncated {
			return all, nil
		}
		if page.NextKeyMarker == query.Get("key-marker") && page.NextUploadIdMarker == query.Get("upload-id-marker") {
			return all, errors.New("the object store lists uploads without end")
		}
		query.Set("key-marker", page.NextKeyMarker)
		query.Set("upload-id-marker", page.NextUploadIdMarker)
	}
}

// Abort removes an unfinished upload. One that is not there is no error.
func (c *Client) Abort(ctx context.Context, u Upload) error {
	err := c.quiet(ctx, call{method: http.MethodDelete, key: u.Key, query: url.Values{"uploadId": {u.ID}}})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
