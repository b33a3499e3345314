package buildkit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	ctdref "github.com/containerd/containerd/v2/pkg/reference"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/moby/buildkit/util/pull"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"slipway/internal/engine"
	"slipway/internal/plan"
)

// PullOptions say how an image is pulled.
type PullOptions struct {
	Policy plan.Pull
	// Auths are credentials by registry host.
	Auths []engine.Auth
	// Progress gets a line now and then, for the log of a step; nil means none. It is not called after Pull returned.
	Progress io.Writer
}

// Image is an image on this machine. It is held until Release.
type Image struct {
	// Ref is the reference in full: docker.io/library/busybox:latest.
	Ref string
	// Digest is of the manifest, or of the index, that Ref named.
	Digest string
	// Config is the image's own: environment, entrypoint, command, working directory, user.
	Config ocispec.Image

	images   *images
	held     *held
	released atomic.Bool
}

// Release lets the cache forget the image, in some minutes. Root filesystems made from it stay complete. It may be
// repeated.
func (img *Image) Release() {
	if !img.released.Swap(true) {
		img.images.release(img.held)
	}
}

// Pull brings the image of a reference as people write it (busybox, golang:1.26, registry.example.com/a/b@sha256:...)
// to this machine and unpacks it. Errors are a [*PullError] unless ctx is done. The caller must [Image.Release].
func (d *Daemon) Pull(ctx context.Context, ref string, opts PullOptions) (*Image, error) {
	named, err := parseReference(ref)
	if err != nil {
		return nil, &PullError{Ref: ref, Kind: BadReference, Err: err}
	}
	img, err := d.pull(ctx, named, opts)
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("pull %s: %w", ref, context.Cause(ctx))
		}
		return nil, NewPullError(ref, err, opts.Auths)
	}
	return img, nil
}

func (d *Daemon) pull(ctx context.Context, named reference.Named, opts PullOptions) (*Image, error) {
	var own engine.Auth // a mirror's login is everybody's, and tells nothing about who may have the image
	for _, a := range opts.Auths {
		if CanonicalHost(a.Host) == reference.Domain(named) {
			own = a
			break
		}
	}
	policy := resolvePolicy(opts.Policy, named)
	if policy != plan.PullAlways {
		if dgst := d.records.find(named.String(), own); dgst != "" {
			pinned, err := reference.WithDigest(reference.TrimNamed(named), dgst)
			if err != nil {
				return nil, err
			}
			h := d.images.find(dgst.String())
			if h == nil {
				h, err = d.fetch(ctx, pinned.String(), offline{}, nil)
			}
			if err == nil {
				return d.image(named, h, own)
			}
			if ctx.Err() != nil {
				return nil, err
			}
		}
		if policy == plan.PullNever {
			return nil, errNotHere
		}
	}
	progress := newPullProgress(opts.Progress)
	defer progress.stop()
	progress.printf("Pulling %s\n", reference.FamiliarString(named))
	resolver := docker.NewResolver(docker.ResolverOptions{Hosts: d.registries.withLogins(opts.Auths)})
	h, err := retry(ctx, func() (*held, error) {
		desc, err := resolve(ctx, resolver, named.String())
		if err != nil {
			return nil, err
		}
		if h := d.images.find(desc.Digest.String()); h != nil {
			return h, nil
		}
		return d.fetch(ctx, named.String(), resolver, progress)
	})
	if err != nil {
		return nil, err
	}
	progress.done(h.digest)
	return d.image(named, h, own)
}

// resolveTime bounds how long a registry, or its mirrors, may take to say what a reference is.
const resolveTime = 30 * time.Second

func resolve(ctx context.Context, resolver remotes.Resolver, ref string) (ocispec.Descriptor, error) {
	ctx, cancel := context.WithTimeout(ctx, resolveTime)
	defer cancel()
	_, desc, err := resolver.Resolve(ctx, ref)
	return desc, err
}

// image gives h a name, which is recorded. If that fails the pull has: the machine's disk is full or broken.
func (d *Daemon) image(named reference.Named, h *held, login engine.Auth) (*Image, error) {
	if err := d.records.put(named.String(), login, digest.Digest(h.digest)); err != nil {
		d.images.release(h)
		return nil, fmt.Errorf("record the pull: %w", err)
	}
	return &Image{Ref: named.String(), Digest: h.digest, Config: h.config, images: &d.images, held: h}, nil
}

// resolvePolicy turns the default into what it means: a name whose content is meant to change is asked for each time.
func resolvePolicy(policy plan.Pull, named reference.Named) plan.Pull {
	if policy != plan.PullDefault {
		return policy
	}
	if _, pinned := named.(reference.Digested); pinned {
		return plan.PullMissing
	}
	if tagged, ok := named.(reference.Tagged); ok && tagged.Tag() != "latest" {
		return plan.PullMissing
	}
	return plan.PullAlways
}

// fetch resolves ref, gets what is missing of it through resolver, unpacks it and holds it for one user.
func (d *Daemon) fetch(ctx context.Context, ref string, resolver remotes.Resolver, progress *pullProgress) (*held, error) {
	spec, err := ctdref.Parse(ref)
	if err != nil {
		return nil, err
	}
	// Manifests and configuration are held by this lease until those of the layers take over.
	ctx, done, err := leaseutil.WithLease(ctx, d.worker.LeaseManager(), leases.WithExpiration(time.Hour), leaseutil.MakeTemporary)
	if err != nil {
		return nil, err
	}
	defer func() { _ = done(context.WithoutCancel(ctx)) }()

	puller := &pull.Puller{
		ContentStore: d.worker.ContentStore(),
		Resolver:     resolver,
		Src:          spec,
		Platform:     platforms.Normalize(platforms.DefaultSpec()),
	}
	manifests, err := puller.PullManifests(ctx, func(session.Group) remotes.Resolver { return resolver })
	if err != nil {
		return nil, err
	}
	h := &held{digest: manifests.MainManifestDesc.Digest.String()}
	raw, err := content.ReadBlob(ctx, d.worker.ContentStore(), manifests.ConfigDesc)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, &h.config); err != nil {
		return nil, fmt.Errorf("read the image's configuration: %w", err)
	}
	if got := h.config.Platform; got.Architecture != "" && !platforms.Only(puller.Platform).Match(got) {
		return nil, &platformError{has: platforms.Format(got)}
	}
	if h.top, err = d.unpack(ctx, manifests, progress); err != nil {
		return nil, err
	}
	d.grown.Store(true)
	return d.images.add(h), nil
}

// unpack makes the layers' snapshots and returns a hold on the last.
func (d *Daemon) unpack(ctx context.Context, manifests *pull.PulledManifests, progress *pullProgress) (top cache.ImmutableRef, err error) {
	handlers := cache.DescHandlers{}
	for _, layer := range manifests.Descriptors {
		handlers[layer.Digest] = &cache.DescHandler{
			Provider: func(g session.Group) content.Provider {
				return progress.count(manifests.Provider(g))
			},
			Annotations: layer.Annotations,
			Ref:         manifests.Ref,
		}
		progress.expect(layer.Size)
	}
	defer func() {
		if err != nil && top != nil {
			_ = top.Release(context.WithoutCancel(ctx))
			top = nil
		}
	}()
	for _, layer := range manifests.Descriptors {
		next, err := d.worker.CacheMgr.GetByBlob(ctx, layer, top, handlers, cache.WithImageRef(manifests.Ref))
		if err != nil {
			return top, err
		}
		if top != nil {
			_ = top.Release(context.WithoutCancel(ctx)) // next holds it
		}
		top = next
	}
	if top == nil {
		return nil, nil
	}
	for _, desc := range manifests.Nonlayers {
		err := d.worker.LeaseManager().AddResource(ctx, leases.Lease{ID: top.ID()}, leases.Resource{
			ID: desc.Digest.String(), Type: "content",
		})
		if err != nil {
			return top, err
		}
	}
	return top, top.Extract(ctx, nil)
}

// offline is a resolver that reaches nothing, for an image that should be here.
type offline struct{}

var errNotHere = errors.New("the image is not on this machine")

func (offline) Resolve(context.Context, string) (string, ocispec.Descriptor, error) {
	return "", ocispec.Descriptor{}, errNotHere
}
func (offline) Fetcher(context.Context, string) (remotes.Fetcher, error) { return offline{}, nil }
func (offline) Pusher(context.Context, string) (remotes.Pusher, error)   { return nil, errNotHere }
func (offline) Fetch(context.Context, ocispec.Descriptor) (io.ReadCloser, error) {
	return nil, errNotHere
}

// pullProgress tells how a pull goes, with a line every few seconds while there is something to wait for. A nil one
// tells nothing.
type pullProgress struct {
	out         io.Writer
	start       time.Time
	total, have atomic.Int64
	quit        chan struct{}
	ended       sync.WaitGroup
}

// progressEvery is rare enough for a log that people read.
const progressEvery = 5 * time.Second

func newPullProgress(out io.Writer) *pullProgress {
	if out == nil {
		return nil
	}
	p := &pullProgress{out: out, start: time.Now(), quit: make(chan struct{})}
	return p
}

func (p *pullProgress) printf(format string, args ...any) {
	if p == nil {
		return
	}
	p.ended.Wait() // one writer at a time
	fmt.Fprintf(p.out, format, args...)
	p.quit = make(chan struct{})
	quit := p.quit
	p.ended.Go(func() {
		tick := time.NewTicker(progressEvery)
		defer tick.Stop()
		for {
			select {
			case <-quit:
				return
			case <-tick.C:
				fmt.Fprintf(p.out, "  %s of %s\n", bytesText(p.have.Load()), bytesText(p.total.Load()))
			}
		}
	})
}

func (p *pullProgress) expect(n int64) {
	if p != nil {
		p.total.Add(n)
	}
}

func (p *pullProgress) stop() {
	if p == nil {
		return
	}
	select {
	case <-p.quit:
	default:
		close(p.quit)
	}
	p.ended.Wait()
}

func (p *pullProgress) done(dgst string) {
	if p == nil {
		return
	}
	p.stop()
	took := time.Since(p.start).Round(10 * time.Millisecond)
	if n := p.have.Load(); n > 0 {
		fmt.Fprintf(p.out, "Pulled %s (%s) in %s\n", shortDigest(dgst), bytesText(n), took)
		return
	}
	fmt.Fprintf(p.out, "Up to date: %s\n", shortDigest(dgst))
}

// count counts what is read through provider.
func (p *pullProgress) count(provider content.Provider) content.Provider {
	if p == nil {
		return provider
	}
	return countingProvider{provider, p}
}

type countingProvider struct {
	content.Provider
	progress *pullProgress
}

func (c countingProvider) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	r, err := c.Provider.ReaderAt(ctx, desc)
	if err != nil {
		return nil, err
	}
	return countingReader{r, c.progress}, nil
}

type countingReader struct {
	content.ReaderAt
	progress *pullProgress
}

func (c countingReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := c.ReaderAt.ReadAt(p, off)
	c.progress.have.Add(int64(n))
	return n, err
}

func bytesText(n int64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1f GB", float64(n)/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", float64(n)/1e6)
	}
	return fmt.Sprintf("%.1f kB", float64(n)/1e3)
}

func shortDigest(dgst string) string {
	if hex, ok := strings.CutPrefix(dgst, "sha256:"); ok && len(hex) > 12 {
		return "sha256:" + hex[:12]
	}
	return dgst
}

// hostPlatform is what this machine runs, for messages.
func hostPlatform() string { return runtime.GOOS + "/" + runtime.GOARCH }
