package registry

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"slipway/internal/s3"
)

// S3 keeps blobs in a bucket of an object store that speaks S3's protocol, under PREFIX/blobs/<algorithm>/<hex>. It is made
// by [OpenS3]. An object is there as a whole or not at all, which is what the order of its writes relies on.
type S3 struct {
	client   *s3.Client
	bucket   string
	prefix   string
	redirect bool
}

// linkLife is for how long an address that a client is sent to is good. Clients go there at once; a download that was begun
// goes on.
const linkLife = 15 * time.Minute

// OpenS3 opens a bucket that is there already, by an address such as
//
//	s3://BUCKET/PREFIX?endpoint=https://s3.example.com&region=eu-west-1&redirect=false
//
// Without an endpoint it is AWS's. Credentials are found by [s3.FindCredentials]. Dir is the folder of the registry: it is
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
	options := s3.Options{Bucket: u.Host}
	for key, values := range u.Query() {
		value := values[len(values)-1]
		switch key {
		case "endpoint":
			options.Endpoint = value
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
	if options.Credentials, err = s3.FindCredentials(); err != nil {
		return nil, err
	}
	s.client, err = s3.New(options)
	return s, err
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
	body, err := s.client.Get(ctx, key, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return s.client.Put(ctx, key, bytes.NewReader(own), int64(len(own)))
	}
	if err != nil {
		return fmt.Errorf("read from the bucket %s: %w", s.bucket, err)
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
	return s.client.Put(ctx, s.key(d), f, size)
}

// keep implements storage.
func (s *S3) keep(ctx context.Context, _ string, size int64, d digest) error {
	info, err := s.stat(ctx, d)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.size != size {
		return errCollected
	}
	return err
}

func (s *S3) stat(ctx context.Context, d digest) (stored, error) {
	info, err := s.client.Stat(ctx, s.key(d))
	return stored{info.Size, info.Modified}, err
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
		body, err := r.s.client.Get(r.ctx, r.key, r.offset)
		if err != nil {
			return 0, err
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
func (s *S3) remove(ctx context.Context, d digest) error { return s.client.Delete(ctx, s.key(d)) }

// walk implements storage.
func (s *S3) walk(ctx context.Context, f func(d digest) error) error {
	prefix := s.prefix + "blobs/"
	return s.client.List(ctx, prefix, func(key string) error {
		d, err := parseDigest(strings.Replace(strings.TrimPrefix(key, prefix), "/", ":", 1))
		if err != nil || s.key(d) != key {
			return nil //nolint:nilerr // it is not a blob, and somebody else's
		}
		return f(d)
	})
}

// setAside implements storage.
func (s *S3) setAside(ctx context.Context, d digest) error {
	return s.client.Move(ctx, s.key(d), s.prefix+"damaged/"+d.algorithm+"-"+d.hex)
}

// sweep implements storage: parts of large blobs that a killed process left cost money, and no list of objects shows them.
func (s *S3) sweep(ctx context.Context, then time.Time) (n int, err error) {
	uploads, err := s.client.Uploads(ctx, s.prefix+"blobs/")
	if err != nil {
		return 0, fmt.Errorf("list unfinished uploads of the bucket %s: %w", s.bucket, err)
	}
	for _, upload := range uploads {
		if !upload.Begun.Before(then) {
			continue
		}
		if err := s.client.Abort(ctx, upload); err != nil {
			return n, fmt.Errorf("remove an unfinished upload: %w", err)
		}
		n++
	}
	return n, nil
}

// link implements linker. Nobody is asked for it: whether the blob is there was found out before.
func (s *S3) link(d digest) string {
	if !s.redirect {
		return ""
	}
	return s.client.Link(s.key(d), linkLife)
}
