package layout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/internal/remote"
)

// Reader gives the files of a layout.
type Reader interface {
	// Open opens a regular file of the layout and returns its size. Of one that is not there it says fs.ErrNotExist.
	Open(name string) (io.ReadCloser, int64, error)
}

// Import pushes all of a layout into a repository: blobs that are not there, manifests, and tags by the annotations
// org.opencontainers.image.ref.name in its index. It may be repeated. After an error, what was pushed until then stays; tags
// come after all that they need.
func Import(ctx context.Context, client *remote.Client, repository remote.Repository, from Reader) (Count, error) {
	i := &importer{ctx: ctx, client: client, repository: repository, from: from, manifests: map[digest.Digest]remote.Manifest{}, blobs: map[digest.Digest]bool{}}
	if err := i.run(); err != nil {
		return i.count, fmt.Errorf("import into %s: %w", repository, err)
	}
	return i.count, nil
}

type importer struct {
	ctx        context.Context // of the one call of Import
	client     *remote.Client
	repository remote.Repository
	from       Reader
	// manifests that were pushed, for their tags; those of large layouts are without Content, and read again.
	manifests map[digest.Digest]remote.Manifest
	blobs     map[digest.Digest]bool
	count     Count
}

func (i *importer) run() error {
	var version ocispec.ImageLayout
	text, err := i.small(ocispec.ImageLayoutFile, 4<<10)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("this is not an OCI layout: it has no file oci-layout")
	}
	if err == nil {
		err = json.Unmarshal(text, &version)
	}
	if err != nil {
		return fmt.Errorf("read oci-layout: %w", err)
	}
	if version.Version != ocispec.ImageLayoutVersion {
		return fmt.Errorf("the layout has the version %.20q, and only %s is known", version.Version, ocispec.ImageLayoutVersion)
	}
	if text, err = i.small(ocispec.ImageIndexFile, maxIndex); err != nil {
		return fmt.Errorf("read index.json: %w", err)
	}
	var index ocispec.Index
	if err := json.Unmarshal(text, &index); err != nil {
		return fmt.Errorf("index.json cannot be read: %w", err)
	}

	// What is wrong with the index is said before anything is pushed.
	tags := map[string]digest.Digest{}
	for k, d := range index.Manifests {
		if err := checkDescriptor(d); err != nil {
			return fmt.Errorf("manifests[%d] of index.json: %w", k, err)
		}
		if !manifestType(d.MediaType) {
			return fmt.Errorf("manifests[%d] of index.json has the type %.100q, which is not one of images", k, d.MediaType)
		}
		name, ok := d.Annotations[ocispec.AnnotationRefName]
		if !ok {
			continue
		}
		tag, ok := tagOf(name)
		if !ok {
			return fmt.Errorf("manifests[%d] of index.json is called %.200q, which cannot be a tag", k, name)
		}
		if other, ok := tags[tag]; ok && other != d.Digest {
			return fmt.Errorf("index.json gives the tag %s to two images, %s and %s", tag, other, d.Digest)
		}
		tags[tag] = d.Digest
	}
	for _, d := range index.Manifests {
		if err := i.manifest(d, 0); err != nil {
			return err
		}
	}
	for _, d := range index.Manifests {
		name, ok := d.Annotations[ocispec.AnnotationRefName]
		if !ok {
			continue
		}
		tag, _ := tagOf(name)
		content, err := i.read(d)
		if err != nil {
			return err
		}
		m := remote.Manifest{MediaType: i.manifests[d.Digest].MediaType, Content: content}
		if err := i.client.PutManifest(i.ctx, i.repository, tag, m); err != nil {
			return fmt.Errorf("set the tag %s: %w", tag, err)
		}
		i.count.Tags++
	}
	return nil
}

var tagPattern = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)

// tagOf returns the tag that a layout's name stands for: the name, or, of a whole reference, its tag.
func tagOf(name string) (string, bool) {
	if at := strings.LastIndexByte(name, ':'); at > strings.LastIndexByte(name, '/') {
		name = name[at+1:]
	}
	return name, tagPattern.MatchString(name)
}

// manifest pushes a manifest after all that it needs.
func (i *importer) manifest(d ocispec.Descriptor, depth int) error {
	if _, ok := i.manifests[d.Digest]; ok {
		return nil
	}
	if depth > maxDepth {
		return fmt.Errorf("the index %s is nested more than %d deep", d.Digest, maxDepth)
	}
	if len(i.manifests) >= maxManifests {
		return fmt.Errorf("the layout has more than %d manifests", maxManifests)
	}
	text, err := i.read(d)
	if err != nil {
		return err
	}
	c, err := parseContent("the manifest "+d.Digest.String(), text)
	if err != nil {
		return err
	}
	for _, blob := range c.blobs() {
		if err := i.blob(blob); err != nil {
			return err
		}
	}
	for _, child := range c.Manifests {
		if err := i.manifest(child, depth+1); err != nil {
			return err
		}
	}
	m := remote.Manifest{MediaType: d.MediaType, Digest: d.Digest.String(), Content: text}
	if err := i.client.PutManifest(i.ctx, i.repository, m.Digest, m); err != nil {
		return fmt.Errorf("push the manifest %s: %w", d.Digest, err)
	}
	m.Content = nil
	i.manifests[d.Digest] = m
	i.count.Manifests++
	i.count.Bytes += d.Size
	return nil
}

// read returns a manifest of the layout, checked.
func (i *importer) read(d ocispec.Descriptor) ([]byte, error) {
	if d.Size > maxManifest {
		return nil, fmt.Errorf("the manifest %s has %d bytes; at most %d are read", d.Digest, d.Size, maxManifest)
	}
	file, _, err := i.from.Open(blobName(d.Digest))
	if err != nil {
		return nil, fmt.Errorf("read the manifest %s: %w", d.Digest, err)
	}
	defer file.Close()
	return io.ReadAll(newChecked(file, d.Digest, d.Size))
}

// blob pushes a blob unless it is there.
func (i *importer) blob(d ocispec.Descriptor) error {
	if i.blobs[d.Digest] {
		return nil
	}
	there, err := i.client.HasBlob(i.ctx, i.repository, d.Digest.String())
	if err != nil {
		return fmt.Errorf("ask for the blob %s: %w", d.Digest, err)
	}
	if !there {
		file, size, err := i.from.Open(blobName(d.Digest))
		if errors.Is(err, fs.ErrNotExist) && optional(d.MediaType) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the blob %s: %w", d.Digest, err)
		}
		_ = file.Close() // it was to be read only
		if size != d.Size {
			return fmt.Errorf("the blob %s has %d bytes, and its descriptor says %d", d.Digest, size, d.Size)
		}
		open := func() (io.ReadCloser, error) {
			file, _, err := i.from.Open(blobName(d.Digest))
			if err != nil {
				return nil, err
			}
			return struct {
				io.Reader
				io.Closer
			}{newChecked(file, d.Digest, d.Size), file}, nil
		}
		if err := i.client.PutBlobFrom(i.ctx, i.repository, d.Digest.String(), d.Size, open); err != nil {
			return fmt.Errorf("push the blob %s: %w", d.Digest, err)
		}
		i.count.Blobs++
		i.count.Bytes += d.Size
	}
	i.blobs[d.Digest] = true
	return nil
}

// small reads a file of at most limit bytes.
func (i *importer) small(name string, limit int64) ([]byte, error) {
	file, size, err := i.from.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if size > limit {
		return nil, fmt.Errorf("it has %d bytes; at most %d are read", size, limit)
	}
	return io.ReadAll(io.LimitReader(file, limit))
}
