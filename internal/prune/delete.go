package prune

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"slipway/internal/remote"
)

// ErrSwitchedOff says that a registry deletes nothing.
var ErrSwitchedOff = errors.New("the registry deletes neither tags nor digests; of the distribution registry that is a setting, REGISTRY_STORAGE_DELETE_ENABLED=true")

// Result is what became of a tag that was to be deleted.
type Result struct {
	Tag Tag
	// Kept says why the tag is still there; empty means that it is deleted.
	Kept string
}

// Delete deletes tags, calling done after each. A tag that has moved since it was listed is kept. It first finds out, with
// tags of its own, how the registry deletes a tag without its siblings; if it cannot be made to, the error is
// [ErrSwitchedOff], and nothing was deleted. Deleting may be repeated after an error: what is done is done.
func Delete(ctx context.Context, c *remote.Client, r remote.Repository, tags []Tag, done func(Result)) error {
	if len(tags) == 0 {
		return nil
	}
	d := &deleter{c, r}
	remove, err := d.probe(ctx)
	if err != nil {
		return fmt.Errorf("find out how %s deletes tags: %w", r.Host, err)
	}
	for _, tag := range tags {
		now, err := c.Manifest(ctx, r, tag.Name)
		switch {
		case remote.Missing(err):
			done(Result{Tag: tag}) // somebody else did it
			continue
		case err != nil:
			return fmt.Errorf("look at %s:%s: %w", r, tag.Name, err)
		case now.Digest != tag.Digest:
			done(Result{tag, "it points at another image by now"})
			continue
		}
		if err := remove(ctx, tag.Name); err != nil {
			return fmt.Errorf("delete %s:%s: %w", r, tag.Name, err)
		}
		done(Result{Tag: tag})
	}
	return nil
}

type deleter struct {
	*remote.Client
	repository remote.Repository
}

// remover is a way to delete a tag.
type remover func(ctx context.Context, tag string) error

// probe returns the way to delete a tag that leaves its siblings alone. What a registry says of itself is not enough: some
// that take a tag for deletion delete the image with all its tags. So it is tried, on a manifest made for it.
func (d *deleter) probe(ctx context.Context) (remover, error) {
	// First what leaves no trace: where deletion is switched off, nothing could take the probe away again.
	err := d.Delete(ctx, d.repository, digest.FromString(rand.Text()).String())
	digests := !switchedOff(err)
	if err != nil && digests && !refused(err) {
		return nil, err
	}
	if !digests {
		err := d.Delete(ctx, d.repository, probeTag())
		if switchedOff(err) {
			err = d.deleteGitLab(ctx, probeTag())
		}
		if switchedOff(err) || noAddress(err) {
			return nil, ErrSwitchedOff
		}
		if err != nil && !refused(err) {
			return nil, err
		}
	}

	dummy, err := newDummy()
	if err != nil {
		return nil, err
	}
	tags := []string{probeTag(), probeTag()}
	way, err := d.try(ctx, dummy, tags[0], tags[1])
	// What the probe needed goes, whatever came of it: by the way that was found, and by its digest, which nobody else has.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if way != nil {
		for _, tag := range tags {
			err = errors.Join(err, ignoreMissing(way(ctx, tag)))
		}
	}
	if digests {
		err = errors.Join(err, ignoreMissing(d.Delete(ctx, d.repository, dummy.Digest)))
	}
	switch {
	case err != nil:
		return nil, err
	case way != nil:
		return way, nil
	case digests:
		return d.replace, nil
	}
	return nil, fmt.Errorf("%w (the tags %s and %s, with which that was tried, remain)", ErrSwitchedOff, tags[0], tags[1])
}

// try deletes the tag one of a manifest and sees what becomes of the other. It returns the first way that leaves that one
// alone, or nil.
func (d *deleter) try(ctx context.Context, dummy remote.Manifest, one, other string) (remover, error) {
	for _, remove := range []remover{
		func(ctx context.Context, tag string) error { return d.Delete(ctx, d.repository, tag) },
		d.deleteGitLab,
	} {
		if err := d.push(ctx, dummy, one, other); err != nil {
			return nil, err
		}
		if err := remove(ctx, one); refused(err) {
			continue
		} else if err != nil {
			return nil, err
		}
		gone, err := d.gone(ctx, one)
		if err != nil {
			return nil, err
		}
		lost, err := d.gone(ctx, other)
		if err != nil {
			return nil, err
		}
		if gone && !lost {
			return remove, nil
		}
	}
	return nil, nil
}

// replace moves the tag to a manifest that nobody else has, and deletes that one's digest.
func (d *deleter) replace(ctx context.Context, tag string) error {
	dummy, err := newDummy()
	if err != nil {
		return err
	}
	if err := d.push(ctx, dummy, tag); err != nil {
		return err
	}
	// Half done, the tag would name an image that is none: what is begun is finished.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := d.Delete(ctx, d.repository, dummy.Digest); err != nil {
		return err
	}
	gone, err := d.gone(ctx, tag)
	if err == nil && !gone {
		err = errors.New("it is still there after its manifest was deleted")
	}
	return err
}

// deleteGitLab deletes a tag the way that GitLab's registry had before others had one.
func (d *deleter) deleteGitLab(ctx context.Context, tag string) error {
	resp, err := d.Do(ctx, remote.Request{
		Method: http.MethodDelete, Repository: d.repository, Actions: "pull,push,delete", Path: "tags/reference/" + tag,
	})
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// gone reports whether the registry knows no such tag.
func (d *deleter) gone(ctx context.Context, tag string) (bool, error) {
	_, err := d.Manifest(ctx, d.repository, tag)
	if remote.Missing(err) {
		return true, nil
	}
	return false, err
}

// marker is an annotation of the manifests that are made here, so that they are known when a program died halfway.
const marker = "dev.slipway.deleted"

// dummyConfig is a configuration that every registry takes.
const dummyConfig = `{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}`

// newDummy makes a manifest that is unlike all others.
func newDummy() (remote.Manifest, error) {
	const mediaType = "application/vnd.oci.image.manifest.v1+json"
	content, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": mediaType,
		"config": map[string]any{
			"mediaType": "application/vnd.oci.image.config.v1+json",
			"digest":    digest.FromString(dummyConfig), "size": len(dummyConfig),
		},
		"layers":      []any{},
		"annotations": map[string]string{marker: rand.Text()},
	})
	return remote.Manifest{MediaType: mediaType, Digest: digest.FromBytes(content).String(), Content: content}, err
}

// push pushes a manifest that newDummy made to tags.
func (d *deleter) push(ctx context.Context, dummy remote.Manifest, tags ...string) error {
	if err := d.PutBlob(ctx, d.repository, []byte(dummyConfig)); err != nil {
		return fmt.Errorf("push a manifest in place of the tag: %w", err)
	}
	for _, tag := range tags {
		if err := d.PutManifest(ctx, d.repository, tag, dummy); err != nil {
			return fmt.Errorf("push a manifest in place of the tag: %w", err)
		}
	}
	return nil
}

// probePrefix is how the tags begin that a probe makes.
const probePrefix = "slipway-probe-"

// probeTag returns a tag that nobody has.
func probeTag() string { return probePrefix + strings.ToLower(rand.Text()) }

// switchedOff reports whether err says that the registry never deletes such a thing, whether it is there or not.
func switchedOff(err error) bool {
	var e *remote.Error
	return errors.As(err, &e) && (e.Status == http.StatusMethodNotAllowed || e.Status == http.StatusNotImplemented || e.Code == "UNSUPPORTED")
}

// noAddress reports whether err says that the registry has no such endpoint, which is not "no such tag".
func noAddress(err error) bool {
	var e *remote.Error
	return errors.As(err, &e) && e.Status == http.StatusNotFound && e.Code == ""
}

// refused reports whether err is a registry's word that it cannot do what was asked, or has no such thing, rather than that
// it may not be asked.
func refused(err error) bool {
	var e *remote.Error
	return switchedOff(err) || errors.As(err, &e) && (e.Status == http.StatusBadRequest || e.Status == http.StatusNotFound)
}

func ignoreMissing(err error) error {
	if remote.Missing(err) {
		return nil
	}
	return err
}
