package layout

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/internal/remote"
)

// Writer takes the files of a layout.
type Writer interface {
	// Put writes a file of that size; from gives exactly so many bytes, or an error. No name comes twice.
	Put(name string, size int64, from io.Reader) error
}

// Export writes a repository: what its tags name, the images of indexes, and what is about any of them. Blobs stream, and
// are checked on their way. A tag that goes meanwhile is left out; an image of an index that was deleted, too. After an
// error, what was written is not a layout.
func Export(ctx context.Context, client *remote.Client, repository remote.Repository, to Writer) (Count, error) {
	e := &exporter{ctx: ctx, client: client, repository: repository, to: to, done: map[digest.Digest]bool{}}
	if err := e.run(); err != nil {
		return e.count, fmt.Errorf("export %s: %w", repository, err)
	}
	return e.count, nil
}

type exporter struct {
	ctx        context.Context // of the one call of Export
	client     *remote.Client
	repository remote.Repository
	to         Writer
	done       map[digest.Digest]bool // manifests and blobs that were written
	asked      []digest.Digest        // manifests that were written, and of whose referrers nobody knows yet
	index      ocispec.Index
	count      Count
}

func (e *exporter) run() error {
	tags, err := e.client.Tags(e.ctx, e.repository)
	if err != nil {
		return err
	}
	marker, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return err
	}
	if err := e.to.Put(ocispec.ImageLayoutFile, int64(len(marker)), bytes.NewReader(marker)); err != nil {
		return err
	}
	e.index = ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	slices.Sort(tags)
	for _, tag := range tags {
		found, err := e.manifest(tag, 0)
		if err != nil {
			return fmt.Errorf("the tag %s: %w", tag, err)
		}
		if found == nil {
			continue
		}
		found.Annotations = map[string]string{ocispec.AnnotationRefName: tag}
		e.index.Manifests = append(e.index.Manifests, *found)
		e.count.Tags++
	}
	for len(e.asked) > 0 {
		subject := e.asked[len(e.asked)-1]
		e.asked = e.asked[:len(e.asked)-1]
		if err := e.referrers(subject); err != nil {
			return fmt.Errorf("what is about %s: %w", subject, err)
		}
	}
	text, err := json.MarshalIndent(e.index, "", "  ")
	if err != nil {
		return err
	}
	return e.to.Put(ocispec.ImageIndexFile, int64(len(text)), bytes.NewReader(text))
}

// referrers writes what is about a manifest. It stands in the index without a name.
func (e *exporter) referrers(subject digest.Digest) error {
	about, err := e.client.Referrers(e.ctx, e.repository, subject.String())
	if err != nil {
		return err
	}
	for _, name := range about {
		if err := checkDigest(digest.Digest(name)); err != nil {
			return err
		}
		if e.done[digest.Digest(name)] {
			continue
		}
		found, err := e.manifest(name, 0)
		if err != nil {
			return err
		}
		if found != nil {
			e.index.Manifests = append(e.index.Manifests, *found)
		}
	}
	return nil
}

// manifest writes the manifest that ref names, with all that it needs. It returns nil if there is none.
func (e *exporter) manifest(ref string, depth int) (*ocispec.Descriptor, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("indexes are nested more than %d deep", maxDepth)
	}
	m, err := e.client.Manifest(e.ctx, e.repository, ref)
	if remote.Missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	d := ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.Digest(m.Digest), Size: int64(len(m.Content))}
	if err := checkDigest(d.Digest); err != nil {
		return nil, err
	}
	if e.done[d.Digest] {
		return &d, nil
	}
	e.done[d.Digest] = true
	c, err := parseContent("the manifest "+m.Digest, m.Content)
	if err != nil {
		return nil, err
	}
	for _, blob := range c.blobs() {
		if err := e.blob(blob); err != nil {
			return nil, err
		}
	}
	for _, child := range c.Manifests {
		if _, err := e.manifest(child.Digest.String(), depth+1); err != nil {
			return nil, err
		}
	}
	if err := e.put(d, bytes.NewReader(m.Content)); err != nil {
		return nil, err
	}
	e.count.Manifests++
	e.asked = append(e.asked, d.Digest)
	return &d, nil
}

func (e *exporter) blob(d ocispec.Descriptor) error {
	if e.done[d.Digest] {
		return nil
	}
	body, _, err := e.client.Blob(e.ctx, e.repository, d.Digest.String())
	if remote.Missing(err) && optional(d.MediaType) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("the blob %s: %w", d.Digest, err)
	}
	defer body.Close()
	e.done[d.Digest] = true
	e.count.Blobs++
	return e.put(d, body)
}

func (e *exporter) put(d ocispec.Descriptor, from io.Reader) error {
	e.count.Bytes += d.Size
	return e.to.Put(blobName(d.Digest), d.Size, newChecked(from, d.Digest, d.Size))
}
