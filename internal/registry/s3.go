package registry

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// S3 keeps blobs in a bucket of an object store that speaks S3's protocol, under PREFIX/blobs/<algorithm>/<hex>. It is made
// by [OpenS3]. An object is there as a whole or not at all, which is what the order of its writes relies on.
type S3 struct {
	client *minio.Client
	keys   *credentials.Credentials
	bucket string
	// prefix is empty, or ends in a slash.
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
// Without an endpoint it is AWS's, and without a region the store is asked for it. Credentials are found where AWS's programs
// look for them, and renewed before they end. Dir is the folder of the registry: it is written there which bucket is its own,
// because two registries in one would take away each other's blobs.
func OpenS3(ctx context.Context, address, dir string) (*S3, error) {
	s, err := parseS3(address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := s.checkCredentials(ctx); err != nil {
		return nil, err
	}
	return s, s.claim(ctx, dir)
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
	found, err := s.read(ctx, key)
	if errors.Is(err, fs.ErrNotExist) {
		return s.put(ctx, key, bytes.NewReader(own), int64(len(own)))
	}
	if err != nil {
		return fmt.Errorf("read from the bucket %s: %w", s.bucket, err)
	}
	if string(found) != string(own) {
		return fmt.Errorf("s3://%s/%s belongs to another registry; give each its own prefix, or, if this is its data folder restored, put %q into %s",
			s.bucket, s.prefix, strings.TrimSpace(string(found)), file)
	}
	return nil
}

// read returns the beginning of a small object.
func (s *S3) read(ctx context.Context, key string) ([]byte, error) {
	object, err := s.client.GetObject(ctx, s.bucket, key, minio.GetObjectOptions{})
	if err != nil {
		return nil, s.explain(err)
	}
	defer object.Close()
	content, err := io.ReadAll(io.LimitReader(object, 1<<10))
	return content, s.explain(err)
}

const (
	// partSize is how many bytes go in one request at least, and maxParts in how many an object may; partsAtOnce at a time.
	partSize, maxParts, partsAtOnce = 16 << 20, 10_000, 3
)

// put stores an object. It is there when all of it is. What is from a file goes in parts at a time, and from there, not from memory.
func (s *S3) put(ctx context.Context, key string, from io.Reader, size int64) error {
	ctx, cancel := context.WithCancel(ctx) // the library's senders of parts live until then
	defer cancel()
	_, err := s.client.PutObject(ctx, s.bucket, key, from, size, minio.PutObjectOptions{
		ContentType: "application/octet-stream", PartSize: uint64(max(partSize, (size+maxParts-1)/maxParts)), NumThreads: partsAtOnce,
		DisableContentSha256: size == 0, // without TLS a signed stream has an end of its own, which the Versity gateway leaves unread then
	})
	return s.explain(err)
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
	failed := s.put(ctx, s.key(d), f, size)
	if failed != nil && s.keep(ctx, path, size, d) == nil {
		return nil // only its answer was lost, and asking again made an error of it
	}
	return failed
}

// keep implements storage.
func (s *S3) keep(ctx context.Context, _ string, size int64, d digest) error {
	info, err := s.client.StatObject(ctx, s.bucket, s.key(d), minio.StatObjectOptions{})
	err = s.explain(err)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size != size {
		return errCollected
	}
	return err
}

// open implements storage. The store is asked for what the object is, and for its bytes only when somebody reads.
func (s *S3) open(ctx context.Context, d digest) (io.ReadSeekCloser, stored, error) {
	object, err := s.client.GetObject(ctx, s.bucket, s.key(d), minio.GetObjectOptions{})
	if err != nil {
		return nil, stored{}, s.explain(err)
	}
	info, err := object.Stat()
	if err != nil {
		_ = object.Close() // it was to be read only
		return nil, stored{}, s.explain(err)
	}
	return object, stored{info.Size, info.LastModified}, nil
}

// remove implements storage.
func (s *S3) remove(ctx context.Context, d digest) error {
	err := s.explain(s.client.RemoveObject(ctx, s.bucket, s.key(d), minio.RemoveObjectOptions{}))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// walk implements storage.
func (s *S3) walk(ctx context.Context, f func(d digest) error) error {
	prefix := s.prefix + "blobs/"
	for object := range s.client.ListObjectsIter(ctx, s.bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
		if object.Err != nil {
			return s.explain(object.Err)
		}
		d, err := parseDigest(strings.Replace(strings.TrimPrefix(object.Key, prefix), "/", ":", 1))
		if err != nil || s.key(d) != object.Key {
			continue // it is not a blob, and somebody else's
		}
		if err := f(d); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// setAside implements storage.
func (s *S3) setAside(ctx context.Context, d digest) error {
	aside := minio.CopyDestOptions{Bucket: s.bucket, Object: s.prefix + "damaged/" + d.algorithm + "-" + d.hex}
	if _, err := s.client.ComposeObject(ctx, aside, minio.CopySrcOptions{Bucket: s.bucket, Object: s.key(d)}); err != nil {
		return s.explain(err)
	}
	return s.remove(ctx, d)
}

// sweep implements storage: parts of large blobs that a killed process left cost money, and no list of objects shows them.
func (s *S3) sweep(ctx context.Context, then time.Time) (n int, err error) {
	ctx, cancel := context.WithCancel(ctx)
	uploads := s.client.ListIncompleteUploads(ctx, s.bucket, s.prefix+"blobs/", true)
	defer func() {
		cancel()
		for range uploads { // until the library has noticed
		}
	}()
	for upload := range uploads {
		if upload.Err != nil {
			return n, fmt.Errorf("list unfinished uploads of the bucket %s: %w", s.bucket, s.explain(upload.Err))
		}
		if !upload.Initiated.Before(then) {
			continue
		}
		err := s.explain((minio.Core{Client: s.client}).AbortMultipartUpload(ctx, s.bucket, upload.Key, upload.UploadID))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return n, fmt.Errorf("remove an unfinished upload: %w", err)
		}
		n++
	}
	return n, nil
}

// link implements linker. Nobody is asked for it: whether the blob is there was found out before.
func (s *S3) link(ctx context.Context, d digest) (string, error) {
	if !s.redirect {
		return "", nil
	}
	address, err := s.client.PresignedGetObject(ctx, s.bucket, s.key(d), linkLife, nil)
	if err != nil {
		return "", s.explain(err)
	}
	return address.String(), nil
}
