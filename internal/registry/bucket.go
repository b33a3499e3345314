package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// parseS3 reads the address of a bucket. Nobody is asked yet.
func parseS3(address string) (*S3, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "s3" || u.Host == "" || u.User != nil || u.Fragment != "" {
		return nil, fmt.Errorf("%.200q is not the address of a bucket, such as s3://BUCKET/PREFIX?endpoint=https://s3.example.com", address)
	}
	s := &S3{bucket: u.Host, redirect: true}
	if s.prefix = strings.Trim(u.Path, "/"); s.prefix != "" {
		s.prefix += "/"
	}
	endpoint, region := "https://s3.amazonaws.com", "" // of which the library finds out where the bucket is
	for key, values := range u.Query() {
		value := values[len(values)-1]
		switch key {
		case "endpoint":
			endpoint = value
		case "region":
			region = value
		case "redirect":
			if s.redirect, err = strconv.ParseBool(value); err != nil {
				return nil, fmt.Errorf("redirect is true or false, not %.50q", value)
			}
		default:
			return nil, fmt.Errorf("the address of a bucket has no %.50q, only endpoint, region and redirect", key)
		}
	}
	root, err := url.Parse(endpoint)
	if err != nil || root.Host == "" || root.Scheme != "https" && root.Scheme != "http" || strings.Trim(root.Path, "/") != "" || root.User != nil {
		return nil, fmt.Errorf("the endpoint %.200q is not an address such as https://s3.example.com", endpoint)
	}
	transport, err := minio.DefaultTransport(root.Scheme == "https")
	if err != nil {
		return nil, err
	}
	transport.ResponseHeaderTimeout = 5 * time.Minute // some stores put the parts of a large object together first
	s.keys = credentials.New(&keyring{places: findCredentials(), now: time.Now})
	s.client, err = minio.New(root.Host, &minio.Options{Creds: s.keys, Secure: root.Scheme == "https", Region: region, Transport: bodyGuard{transport}})
	if err != nil {
		return nil, fmt.Errorf("the bucket s3://%s at %s: %w", s.bucket, endpoint, err)
	}
	return s, nil
}

// bodyGuard is a transport that is done with the body of a request when it returns a failure. Those of the standard library may go on
// reading it, and the client rewinds it at once to send it again: both would read from one place, and what is sent be damaged
// (https://github.com/minio/minio-go/issues/790).
type bodyGuard struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (g bodyGuard) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil || r.Body == http.NoBody {
		return g.RoundTripper.RoundTrip(r)
	}
	body := &guardedBody{ReadCloser: r.Body}
	r = r.Clone(r.Context())
	r.Body = body
	resp, err := g.RoundTripper.RoundTrip(r)
	if err != nil || resp.StatusCode/100 != 2 {
		body.end()
	}
	return resp, err
}

// guardedBody is a body that can be ended by others than its reader.
type guardedBody struct {
	mu sync.Mutex
	io.ReadCloser
	ended bool
}

// Read implements io.Reader.
func (b *guardedBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return 0, errors.New("the request is over")
	}
	return b.ReadCloser.Read(p)
}

func (b *guardedBody) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
}

// keyring finds credentials in the first place that has some, and again before they end.
type keyring struct {
	places []credentials.Provider
	// found is the place that had some, value what it had.
	found credentials.Provider
	value credentials.Value
	// again is when to look there again, zero for when found says so.
	again time.Time
	now   func() time.Time
}

// keysAgain is how long credentials that name no end are believed, such as those in a file, which may be replaced; and how
// long those that could not be renewed, and are still good.
const keysAgain = time.Minute

// findCredentials returns where the credentials are that AWS's own programs would use: those of the environment, of a web identity
// (EKS), of a container (ECS, EKS Pod Identity), of a profile in AWS's files, or of the machine's role (IMDSv2).
func findCredentials() []credentials.Provider {
	// Nothing is done while they are asked. What is reached on the machine itself is not reached by a proxy.
	far := &http.Client{Timeout: 15 * time.Second}
	near := &http.Client{Timeout: 15 * time.Second, Transport: &http.Transport{}}
	set := func(name string) bool { return os.Getenv(name) != "" }
	file := &credentials.FileAWSCredentials{}
	switch {
	case set("AWS_ACCESS_KEY_ID") && set("AWS_SECRET_ACCESS_KEY"):
		return []credentials.Provider{&credentials.EnvAWS{}}
	case set("AWS_WEB_IDENTITY_TOKEN_FILE"):
		return []credentials.Provider{&credentials.IAM{Client: far, Endpoint: os.Getenv("AWS_ENDPOINT_URL_STS")}}
	case set("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"), set("AWS_CONTAINER_CREDENTIALS_FULL_URI"):
		return []credentials.Provider{&credentials.IAM{Client: near}}
	case set("AWS_PROFILE"), set("AWS_SHARED_CREDENTIALS_FILE"): // no other than what was asked for
		return []credentials.Provider{file}
	}
	return []credentials.Provider{file, &credentials.IAM{Client: near, Endpoint: os.Getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT")}}
}

// Retrieve implements credentials.Provider.
func (k *keyring) Retrieve() (credentials.Value, error) { return k.RetrieveWithCredContext(nil) }

// RetrieveWithCredContext implements credentials.Provider.
func (k *keyring) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	var failed []error
	for _, place := range k.places {
		value, err := place.RetrieveWithCredContext(cc)
		if err == nil && value.AccessKeyID != "" && value.SecretAccessKey != "" {
			k.found, k.value, k.again = place, value, time.Time{}
			if value.Expiration.IsZero() {
				k.again = k.now().Add(keysAgain)
			}
			return value, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, err)
		}
	}
	if k.found != nil && (k.value.Expiration.IsZero() || k.now().Before(k.value.Expiration)) {
		k.again = k.now().Add(keysAgain)
		return k.value, nil
	}
	return credentials.Value{}, fmt.Errorf("there are no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, write ~/.aws/credentials, "+
		"or give the machine a role: %w", errors.Join(failed...))
}

// IsExpired implements credentials.Provider.
func (k *keyring) IsExpired() bool {
	if k.found == nil || !k.again.IsZero() {
		return !k.now().Before(k.again)
	}
	return k.found.IsExpired()
}

// checkCredentials says early and plainly that there are none.
func (s *S3) checkCredentials(ctx context.Context) error {
	_, err := s.keys.GetWithContext(&credentials.CredContext{Context: ctx, Client: http.DefaultClient})
	return err
}

// explain says what an error of the store means. One that says that an object is not there is fs.ErrNotExist.
func (s *S3) explain(err error) error {
	var answer minio.ErrorResponse
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &answer):
		return fmt.Errorf("ask the object store of the bucket %s: %w", s.bucket, err)
	case answer.Code == minio.NoSuchKey, answer.Code == minio.NoSuchUpload:
		return fmt.Errorf("%w in the bucket %s", fs.ErrNotExist, s.bucket)
	case answer.Code == minio.NoSuchBucket:
		return fmt.Errorf("there is no such bucket as %s; make it first", s.bucket)
	case answer.StatusCode == http.StatusInsufficientStorage:
		return fmt.Errorf("the object store says %s: %w", answer.Code, syscall.ENOSPC)
	case answer.StatusCode == http.StatusForbidden:
		return fmt.Errorf("the object store refuses it: %s %s; look at the credentials, their rights, and the machine's clock", answer.Code, answer.Message)
	}
	return fmt.Errorf("the object store answers %d %s %s", answer.StatusCode, answer.Code, answer.Message)
}
