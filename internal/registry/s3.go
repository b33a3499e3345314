package registry

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// S3 keeps blobs in a bucket of an object store that speaks S3's protocol, under PREFIX/blobs/<algorithm>/<hex>. It is made
// by [OpenS3]. An object is there as a whole or not at all, which is what the order of its writes relies on.
type S3 struct {
	client   minio.Core
	bucket   string
	prefix   string
	redirect bool
}

const (
	// linkLife is for how long an address that a client is sent to is good. Clients go there at once; a download that was
	// begun goes on.
	linkLife = 15 * time.Minute
	// s3Part is how many bytes of a large blob go at a time, and s3Threads how many parts: no more are in memory at once.
	s3Part, s3Threads = 16 << 20, 3
	// maxS3Copy is how many bytes one request can copy.
	maxS3Copy = 5 << 30
)

// OpenS3 opens a bucket that is there already, by an address such as
//
//	s3://BUCKET/PREFIX?endpoint=https://s3.example.com&region=eu-west-1&redirect=false
//
// Without an endpoint it is AWS's. Credentials are those of the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
// AWS_SESSION_TOKEN), of ~/.aws/credentials, or, on AWS, of the machine's role. Dir is the folder of the registry: it is
// written there which bucket is its own, because two registries in one would take away each other's blobs.
func OpenS3(ctx context.Context, address, dir string) (*S3, error) {
	s, err := parseS3(address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := s.claim(ctx, dir); err != nil {
		return nil, err
	}
	return s, nil
}

func parseS3(address string) (*S3, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "s3" || u.Host == "" || u.User != nil || u.Fragment != "" {
		return nil, fmt.Errorf("%.200q is not the address of a bucket, such as s3://BUCKET/PREFIX?endpoint=https://s3.example.com", address)
	}
	s := &S3{bucket: u.Host, redirect: true}
	if s.prefix = strings.Trim(u.Path, "/"); s.prefix != "" {
		s.prefix += "/"
	}
	options := &minio.Options{Secure: true, MaxRetries: 3}
	endpoint := "s3.amazonaws.com"
	providers := []credentials.Provider{&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}}
	for key, values := range u.Query() {
		value := values[len(values)-1]
		switch key {
		case "endpoint":
			at, err := url.Parse(value)
			if err != nil || at.Host == "" || at.Scheme != "https" && at.Scheme != "http" || at.Path != "" || at.User != nil {
				return nil, fmt.Errorf("the endpoint %.200q is not an address such as https://s3.example.com", value)
			}
			endpoint, options.Secure = at.Host, at.Scheme == "https"
			options.BucketLookup = minio.BucketLookupPath
			options.Region = cmp.Or(options.Region, "us-east-1") // what those say that have none
		case "region":
			options.Region = value
		case "redirect":
			if s.redirect, err = strconv.ParseBool(value); err != nil {
				return nil, fmt.Errorf("redirect is true or false, not %.50q", value)
			}
		default:
			return nil, fmt.Errorf("the address of a bucket has no %.50q, only endpoint, region and redirect", key)
		}
	}
	if region := u.Query().Get("region"); region != "" {
		options.Region = region
	}
	if !u.Query().Has("endpoint") {
		providers = append(providers, &credentials.IAM{})
	}
	options.Creds = credentials.NewChainCredentials(providers)
	client, err := minio.NewCore(endpoint, options)
	if err != nil {
		return nil, fmt.Errorf("open the bucket %s: %w", s.bucket, err)
	}
	s.client = *client
	return s, nil
}

// explainS3 makes "not there" what the rest of the world takes for it.
func explainS3(err error) error {
	if err == nil {
		return nil
	}
	switch answer := minio.ToErrorResponse(err); {
	case answer.Code == minio.NoSuchBucket:
		return errors.New("there is no such bucket; make it first")
	case answer.Code == minio.NoSuchKey, answer.Code == minio.NoSuchUpload:
		return fs.ErrNotExist
	case answer.Code == minio.AccessDenied, answer.StatusCode == http.StatusForbidden:
		return fmt.Errorf("the object store refuses it (%s %s); look at the credentials and their rights", answer.Code, answer.Message)
	}
	return err
}

// claim makes the place the registry's whose folder dir is, unless it is another's.
func (s *S3) claim(ctx context.Context, dir string) (failed error) {
	file, key := filepath.Join(dir, "storage-id"), s.prefix+"slipway-registry"
	own, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		own = []byte(rand.Text() + "\n")
		if err = os.MkdirAll(dir, 0o700); err == nil {
			err = os.WriteFile(file, own, 0o600)
		}
		defer func() {
			if failed != nil {
				_ = os.Remove(file) // the folder belongs to no bucket yet
			}
		}()
	}
	if err != nil {
		return err
	}
	body, _, _, err := s.client.GetObject(ctx, s.bucket, key, minio.GetObjectOptions{})
	if errors.Is(explainS3(err), fs.ErrNotExist) {
		_, err := s.client.Client.PutObject(ctx, s.bucket, key, strings.NewReader(string(own)), int64(len(own)), minio.PutObjectOptions{ContentType: "text/plain"})
		return explainS3(err)
	}
	if err != nil {
		return fmt.Errorf("read from the bucket %s: %w", s.bucket, explainS3(err))
	}
	defer body.Close()
	found, err := io.ReadAll(io.LimitReader(body, 1<<10))
	if err == nil && string(found) != string(own) {
		err = fmt.Errorf("s3://%s/%s belongs to another registry; give each its own prefix, or, if this is its data folder restored, put %q into %s",
			s.bucket, s.prefix, strings.TrimSpace(string(found)), file)
	}
	return err
}

func (s *S3) key(d digest) string { return s.prefix + "blobs/" + d.algorithm + "/" + d.hex }

func (s *S3) where(d digest) string { return "s3://" + s.bucket + "/" + s.key(d) }

// stage implements storage: it sends the upload, which appears under its name when all of it is there.
func (s *S3) stage(ctx context.Context, path string, size int64, d digest) error {
	if err := s.keep(ctx, path, size, d); err == nil || !errors.Is(err, errCollected) {
		return err // nothing to send
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = s.client.Client.PutObject(ctx, s.bucket, s.key(d), f, size, minio.PutObjectOptions{
		ContentType: "application/octet-stream", PartSize: partSize(size), NumThreads: s3Threads,
	})
	if err != nil {
		return fmt.Errorf("send a blob to the object store: %w", explainS3(err))
	}
	return nil
}

// partSize is as much as an object of that size needs: it has at most 10,000 parts.
func partSize(size int64) uint64 { return uint64(max(s3Part, (size/9000/s3Part+1)*s3Part)) }

// keep implements storage.
func (s *S3) keep(ctx context.Context, _ string, size int64, d digest) error {
	info, err := s.stat(ctx, d)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.size != size {
		return errCollected
	}
	return err
}

func (s *S3) stat(ctx context.Context, d digest) (stored, error) {
	info, err := s.client.StatObject(ctx, s.bucket, s.key(d), minio.StatObjectOptions{})
	return stored{info.Size, info.LastModified}, explainS3(err)
}

// open implements storage.
func (s *S3) open(ctx context.Context, d digest) (io.ReadSeekCloser, stored, error) {
	info, err := s.stat(ctx, d)
	if err != nil {
		return nil, stored{}, err
	}
	return &s3Reader{ctx: ctx, s: s, key: s.key(d), size: info.size}, info, nil
}

// s3Reader reads an object from where it stands, by a request that begins with the first read.
type s3Reader struct {
	ctx    context.Context // of the one who opened it
	s      *S3
	key    string
	size   int64
	offset int64
	body   io.ReadCloser
}

// Read implements io.Reader.
func (r *s3Reader) Read(p []byte) (int, error) {
	if r.offset >= r.size {
		return 0, io.EOF
	}
	if r.body == nil {
		var o minio.GetObjectOptions
		if r.offset > 0 {
			if err := o.SetRange(r.offset, 0); err != nil {
				return 0, err
			}
		}
		body, _, _, err := r.s.client.GetObject(r.ctx, r.s.bucket, r.key, o)
		if err != nil {
			return 0, explainS3(err)
		}
		r.body = body
	}
	n, err := r.body.Read(p)
	r.offset += int64(n)
	if err == io.EOF && r.offset < r.size {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Seek implements io.Seeker.
func (r *s3Reader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.offset
	case io.SeekEnd:
		offset += r.size
	}
	if offset < 0 {
		return 0, errors.New("seek before the start")
	}
	if offset != r.offset {
		if err := r.Close(); err != nil {
			return 0, err
		}
		r.offset = offset
	}
	return offset, nil
}

// Close implements io.Closer.
func (r *s3Reader) Close() error {
	if r.body == nil {
		return nil
	}
	err := r.body.Close()
	r.body = nil
	return err
}

// remove implements storage.
func (s *S3) remove(ctx context.Context, d digest) error {
	err := explainS3(s.client.RemoveObject(ctx, s.bucket, s.key(d), minio.RemoveObjectOptions{}))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// walk implements storage.
func (s *S3) walk(ctx context.Context, f func(d digest) error) error {
	prefix := s.prefix + "blobs/"
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for object := range s.client.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
		if object.Err != nil {
			return fmt.Errorf("list the bucket %s: %w", s.bucket, explainS3(object.Err))
		}
		d, err := parseDigest(strings.Replace(strings.TrimPrefix(object.Key, prefix), "/", ":", 1))
		if err != nil || s.key(d) != object.Key {
			continue
		}
		if err := f(d); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// setAside implements storage.
func (s *S3) setAside(ctx context.Context, d digest) error {
	info, err := s.stat(ctx, d)
	if err != nil {
		return err
	}
	to := minio.CopyDestOptions{Bucket: s.bucket, Object: s.prefix + "damaged/" + d.algorithm + "-" + d.hex}
	from := minio.CopySrcOptions{Bucket: s.bucket, Object: s.key(d)}
	if info.size <= maxS3Copy {
		_, err = s.client.Client.CopyObject(ctx, to, from)
	} else {
		_, err = s.client.ComposeObject(ctx, to, from)
	}
	if err != nil {
		return fmt.Errorf("put the damaged %s aside: %w", s.where(d), explainS3(err))
	}
	return s.remove(ctx, d)
}

// sweep implements storage: parts of large blobs that a killed process left cost money, and no list of objects shows them.
func (s *S3) sweep(ctx context.Context, then time.Time) (int, error) {
	n := 0
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for upload := range s.client.ListIncompleteUploads(ctx, s.bucket, s.prefix+"blobs/", true) {
		if upload.Err != nil {
			return n, fmt.Errorf("list unfinished uploads of the bucket %s: %w", s.bucket, explainS3(upload.Err))
		}
		if !upload.Initiated.Before(then) {
			continue
		}
		err := explainS3(s.client.AbortMultipartUpload(ctx, s.bucket, upload.Key, upload.UploadID))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return n, fmt.Errorf("remove an unfinished upload: %w", err)
		}
		n++
	}
	return n, ctx.Err()
}

// link implements linker. Nobody is asked for it: whether the blob is there was found out before.
func (s *S3) link(ctx context.Context, d digest) (string, error) {
	if !s.redirect {
		return "", nil
	}
	u, err := s.client.PresignedGetObject(ctx, s.bucket, s.key(d), linkLife, nil)
	if err != nil {
		return "", fmt.Errorf("make an address of %s: %w", s.where(d), explainS3(err))
	}
	return u.String(), nil
}
