// Package layout carries a repository of a registry into an OCI image layout, a folder or a tar, and back: [Export] and
// [Import]. It speaks to the registry by its protocol (package remote), so any registry will do.
//
// A layout that somebody brings is hostile until proven otherwise: its names are only ever compared with those that a
// digest gives, nothing is read through a link out of the folder, every byte is held against its digest and size
// before or while it is sent, and no file is unpacked.
//
// The format: https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md
package layout

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Bounds of a layout.
const (
	maxIndex     = 32 << 20 // bytes of index.json
	maxManifest  = 4 << 20
	maxManifests = 200_000
	maxFiles     = 2_000_000 // in a tar
	maxDepth     = 8         // indexes in indexes
)

// Count says what was carried, each thing once.
type Count struct {
	Tags, Manifests, Blobs int
	// Bytes is what the manifests and blobs have.
	Bytes int64
}

// content is what a manifest, of an image or an index, refers to.
type content struct {
	Config    *ocispec.Descriptor  `json:"config"`
	Layers    []ocispec.Descriptor `json:"layers"`
	Blobs     []ocispec.Descriptor `json:"blobs"`
	Manifests []ocispec.Descriptor `json:"manifests"`
}

// blobs returns the descriptors of blobs. Those that may not be distributed may be missing.
func (c content) blobs() []ocispec.Descriptor {
	all := slices.Concat(c.Layers, c.Blobs)
	if c.Config != nil {
		all = append(all, *c.Config)
	}
	return all
}

// optional reports whether a blob of that type may be missing: its layer may not be distributed.
func optional(mediaType string) bool {
	return strings.Contains(mediaType, ".nondistributable.") || strings.Contains(mediaType, ".foreign.")
}

// manifestType reports whether that is a type of manifests.
func manifestType(mediaType string) bool {
	switch mediaType {
	case ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex,
		"application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json":
		return true
	}
	return false
}

func parseContent(what string, text []byte) (content, error) {
	var c content
	if err := json.Unmarshal(text, &c); err != nil {
		return c, fmt.Errorf("%s is not a manifest: %w", what, err)
	}
	// What an index has besides manifests are blobs, as of a build's cache.
	manifests := c.Manifests
	c.Manifests = nil
	for _, d := range manifests {
		if d.MediaType == "" || manifestType(d.MediaType) {
			c.Manifests = append(c.Manifests, d)
		} else {
			c.Blobs = append(c.Blobs, d)
		}
	}
	for _, d := range append(c.blobs(), c.Manifests...) {
		if err := checkDescriptor(d); err != nil {
			return c, fmt.Errorf("%s refers to something that cannot be: %w", what, err)
		}
	}
	return c, nil
}

func checkDescriptor(d ocispec.Descriptor) error {
	if err := checkDigest(d.Digest); err != nil {
		return err
	}
	if d.Size < 0 {
		return fmt.Errorf("%s with %d bytes", d.Digest, d.Size)
	}
	return nil
}

func checkDigest(d digest.Digest) error {
	if d.Validate() != nil || d.Algorithm() != digest.SHA256 && d.Algorithm() != digest.SHA512 {
		return fmt.Errorf("%.100q is not a digest of sha256 or sha512", d)
	}
	return nil
}

// blobName returns the name of what has a digest, which was checked.
func blobName(d digest.Digest) string { return "blobs/" + d.Algorithm().String() + "/" + d.Encoded() }

// checked reads what must have a digest and size, and fails at its end if it has not.
type checked struct {
	from     io.Reader
	want     digest.Digest
	left     int64
	verifier digest.Verifier
}

func newChecked(from io.Reader, d digest.Digest, size int64) *checked {
	return &checked{from: from, want: d, left: size, verifier: d.Verifier()}
}

// Read implements io.Reader. It never gives more than the size, and no end before the digest is right.
func (c *checked) Read(p []byte) (int, error) {
	if c.left == 0 {
		var more [1]byte
		if n, _ := io.ReadFull(c.from, more[:]); n > 0 {
			return 0, fmt.Errorf("%s has more bytes than its descriptor says", c.want)
		}
		if !c.verifier.Verified() {
			return 0, fmt.Errorf("the bytes of %s have another digest", c.want)
		}
		return 0, io.EOF
	}
	n, err := c.from.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	_, _ = c.verifier.Write(p[:n]) // a hash takes everything
	if errors.Is(err, io.EOF) {
		err = nil
		if c.left > 0 {
			err = fmt.Errorf("%s has %d bytes less than its descriptor says", c.want, c.left)
		}
	}
	return n, err
}
