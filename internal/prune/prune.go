// Package prune deletes tags of other people's registries, by their protocol alone, so that no other tag suffers.
//
// Start reading at [List], which looks at the tags of a repository, [Rules], which decide what goes and do nothing else,
// and [Delete], which deletes some. No digest of anybody's image is ever deleted, for tags share digests and indexes need
// them. A registry that can delete a tag is told to; to one that cannot, a manifest that nobody else has is pushed under the
// tag, and that manifest's digest is deleted, which takes the tag along. What the images occupied is freed when the registry
// collects its garbage.
package prune

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"slipway/internal/remote"
)

const (
	// atOnce is how many requests a registry gets at once.
	atOnce = 4
	// maxConfig is the most bytes of an image's configuration that is read for its time.
	maxConfig = 4 << 20
)

// List returns the tags of a repository with the times at which their images were made, as they say themselves. A time
// that is missing, or that a reproducible build has put in its place, is unknown.
func List(ctx context.Context, c *remote.Client, r remote.Repository) ([]Tag, error) {
	names, err := c.Tags(ctx, r)
	if err != nil {
		return nil, err
	}
	tags := make([]Tag, len(names))
	var mu sync.Mutex
	known := map[string]Tag{} // by digest
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for i, name := range names {
		group.Go(func() error {
			m, err := c.Manifest(ctx, r, name)
			if remote.Missing(err) {
				return nil // deleted meanwhile, or a dangling tag
			}
			if err != nil {
				return err
			}
			mu.Lock()
			tag, ok := known[m.Digest]
			mu.Unlock()
			if !ok {
				tag.Digest = m.Digest
				if tag.Time, tag.Left, err = created(ctx, c, r, m, 0); err != nil {
					return fmt.Errorf("find out when %s:%s was made: %w", r, name, err)
				}
				mu.Lock()
				known[m.Digest] = tag
				mu.Unlock()
			}
			tag.Name = name
			tags[i] = tag
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	there := tags[:0]
	for _, tag := range tags {
		if tag.Name != "" {
			there = append(there, tag)
		}
	}
	return there, nil
}

// created returns when the image was made: what its annotation says, or its configuration, or, of an index, its first
// image; and whether it is none, but what an interrupted Delete left. What cannot be read is unknown; only a registry that
// fails is an error.
func created(ctx context.Context, c *remote.Client, r remote.Repository, m remote.Manifest, depth int) (at time.Time, left bool, err error) {
	var body struct {
		Config      struct{ Digest string }
		Manifests   []struct{ Digest string }
		Annotations map[string]string
	}
	if json.Unmarshal(m.Content, &body) != nil {
		return time.Time{}, false, nil
	}
	if body.Annotations[marker] != "" {
		return time.Time{}, true, nil
	}
	if at := parseTime(body.Annotations["org.opencontainers.image.created"]); !at.IsZero() {
		return at, false, nil
	}
	if len(body.Manifests) > 0 && depth == 0 && digest.Digest(body.Manifests[0].Digest).Validate() == nil {
		first, err := c.Manifest(ctx, r, body.Manifests[0].Digest)
		if remote.Missing(err) || errors.Is(err, remote.ErrCorrupt) {
			return time.Time{}, false, nil
		}
		if err != nil {
			return time.Time{}, false, err
		}
		return created(ctx, c, r, first, depth+1)
	}
	want := digest.Digest(body.Config.Digest)
	if want.Validate() != nil {
		return time.Time{}, false, nil
	}
	blob, _, err := c.Blob(ctx, r, want.String())
	if remote.Missing(err) {
		return time.Time{}, false, nil
	}
	if err != nil {
		return time.Time{}, false, err
	}
	defer blob.Close()
	content, err := io.ReadAll(io.LimitReader(blob, maxConfig))
	if err != nil {
		return time.Time{}, false, fmt.Errorf("read the configuration %s: %w", want, err)
	}
	var config struct{ Created string }
	if want.Algorithm().FromBytes(content) != want || json.Unmarshal(content, &config) != nil {
		return time.Time{}, false, nil
	}
	return parseTime(config.Created), false, nil
}

// firstYear is the one in which the first images were made. Reproducible builds say earlier ones, such as 1970 and 1980.
const firstYear = 2013

// parseTime returns the zero time for what is none, or says nothing.
func parseTime(s string) time.Time {
	at, err := time.Parse(time.RFC3339, s)
	if err != nil || at.UTC().Year() < firstYear {
		return time.Time{}
	}
	return at
}
