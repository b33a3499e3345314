package registry

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"slipway/internal/remote"
	"slipway/internal/store"
)

// Mirror makes the registry fetch what is asked for below mirror/ and is not there from the registry that it stands for.
// What somebody pushed there stays as it is.
type Mirror struct {
	// Hosts are the registries that are fetched from, as image references name them (docker.io, localhost:5000). No other
	// is ever asked, whatever a client says. None means that nothing is fetched.
	Hosts []string
	// Client asks them. It is the caller's to close.
	Client *remote.Client
	// Fresh is for how long a tag is served without asking again where it points; 0 means one hour.
	Fresh time.Duration
	// Stale is for how long a tag is served while its registry does not answer; 0 means 30 days. Digests do not grow stale.
	Stale time.Duration
	// Quota is how many bytes fetched images may have together; 0 means any number. What was used longest ago goes first;
	// what was used in the last ten minutes does not, so there may be more for a while; at twice the quota nothing more is
	// fetched. A blob counts once in each repository.
	Quota int64
	// Pause is for how long a registry that does not answer is left alone; 0 means 30 seconds.
	Pause time.Duration
}

const (
	// patience is how long a client waits for news of a tag that is here.
	patience = 5 * time.Second
	// fetchTime bounds fetching a manifest.
	fetchTime = time.Minute
	// maxPause bounds what a registry may say in Retry-After.
	maxPause = 15 * time.Minute
	// inUse is how long something is certainly not evicted after it was used, and touchEvery how often a use is noted.
	inUse      = 10 * time.Minute
	touchEvery = time.Minute
)

// cache is the state of a Mirror.
type cache struct {
	Mirror
	// upstreams are Hosts by the part of a name after mirror/.
	upstreams map[string]string
	manifests singleflight.Group
	evicting  sync.Mutex

	// life ends with Close. Fetches outlive the requests that wait for them, and are under it in place of those.
	life   context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu        sync.Mutex
	downloads map[string]*download
	coming    int64 // bytes of the downloads that go on
	pauses    map[string]pause
}

// pause says until when a registry is left alone, and why.
type pause struct {
	until time.Time
	err   error
}

func newCache(m Mirror) *cache {
	m.Fresh = cmp.Or(m.Fresh, time.Hour)
	m.Stale = cmp.Or(m.Stale, 30*24*time.Hour)
	m.Pause = cmp.Or(m.Pause, 30*time.Second)
	c := &cache{Mirror: m, upstreams: map[string]string{}, downloads: map[string]*download{}, pauses: map[string]pause{}}
	for _, host := range m.Hosts {
		c.upstreams[mirrorPart(host)] = host
	}
	c.life, c.cancel = context.WithCancel(context.Background())
	return c
}

// mirrorPart is the part of a repository's name that stands for a registry. A port has no place in a name; an underscore
// cannot be in a host's.
func mirrorPart(host string) string { return strings.ReplaceAll(strings.ToLower(host), ":", "_") }

// Close ends the fetches from other registries, and waits for them.
func (h *Handler) Close() {
	h.cache.cancel()
	h.cache.work.Wait()
}

// upstream returns what the repository stands for, if that is fetched from.
func (c *cache) upstream(name string) (remote.Repository, bool) {
	rest, ok := strings.CutPrefix(name, mirrorPrefix)
	if !ok {
		return remote.Repository{}, false
	}
	part, rest, _ := strings.Cut(rest, "/")
	host, ok := c.upstreams[part]
	return remote.Repository{Host: host, Name: rest}, ok && rest != ""
}

// paused returns why the registry is left alone just now, or nil.
func (c *cache) paused(host string, now time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.pauses[host]; ok && now.Before(p.until) {
		return p.err
	}
	return nil
}

// note remembers that a registry does not answer, or wants to be left alone: until then, a build on a machine without a
// way to it goes on at once.
func (h *Handler) note(host string, err error) {
	c := h.cache
	var answer *remote.Error
	pauseTime := c.Pause
	switch {
	case err == nil || errors.Is(err, context.Canceled) || errors.Is(err, remote.ErrCorrupt):
		return
	case !errors.As(err, &answer):
	case answer.Status == http.StatusTooManyRequests:
		pauseTime = min(cmp.Or(answer.RetryAfter, time.Minute), maxPause)
	case answer.Status < 500:
		return
	}
	h.log.Warn("registry: leaving a mirrored registry alone", "host", host, "for", pauseTime, "error", err)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pauses[host] = pause{h.now().Add(pauseTime), err}
}

// findManifest is store.FindManifest, which for a repository of another registry fetches what is not here or may be old.
func (h *Handler) findManifest(ctx context.Context, name, ref string) (_ store.Manifest, failed error) {
	m, err := h.store.FindManifest(ctx, name, ref)
	from, ok := h.cache.upstream(name)
	if !ok || err != nil && !errors.Is(err, store.ErrNotFound) {
		return m, err
	}
	hit := true
	defer func() { h.counters.mirrored(aManifest, hit, failed) }()
	var old *store.Manifest
	wait := fetchTime
	if err == nil {
		cached, err := h.store.FindCached(ctx, name, ref)
		if errors.Is(err, store.ErrNotFound) {
			return m, nil // somebody pushed it
		}
		if err != nil {
			return m, err
		}
		now := h.now()
		if now.Sub(cached.Used) > touchEvery {
			for _, reference := range []string{ref, m.Digest} {
				if err := h.store.TouchCached(ctx, name, reference, now, time.Time{}); err != nil {
					return m, err
				}
			}
		}
		age := now.Sub(cached.Checked)
		if !validTag(ref) || age < h.cache.Fresh {
			return m, nil
		}
		if age < h.cache.Stale {
			old, wait = &m, patience
		}
	}

	fetched := h.cache.manifests.DoChan(name+"@"+ref, func() (any, error) {
		h.cache.work.Add(1)
		defer h.cache.work.Done()
		return h.fetchManifest(from, name, ref)
	})
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case result := <-fetched:
		var answer *remote.Error
		gone := errors.As(result.Err, &answer) && answer.Status == http.StatusNotFound
		if result.Err != nil && old != nil && !gone {
			return *old, nil
		}
		if result.Err != nil {
			return store.Manifest{}, h.upstreamError(result.Err, name, codeManifestUnknown, "manifest "+ref)
		}
		hit = false
		return result.Val.(store.Manifest), nil
	case <-timer.C:
		if old != nil {
			return *old, nil
		}
		return store.Manifest{}, h.upstreamError(context.DeadlineExceeded, name, codeManifestUnknown, "manifest "+ref)
	case <-ctx.Done():
		return store.Manifest{}, ctx.Err()
	}
}

// fetchManifest gets a manifest and stores it, unless it has come meanwhile or is still the right one.
func (h *Handler) fetchManifest(from remote.Repository, name, ref string) (store.Manifest, error) {
	if err := h.cache.paused(from.Host, h.now()); err != nil {
		return store.Manifest{}, err
	}
	ctx, cancel := context.WithTimeout(h.cache.life, fetchTime)
	defer cancel()
	m, err := h.store.FindManifest(ctx, name, ref)
	if err == nil {
		cached, err := h.store.FindCached(ctx, name, ref)
		if errors.Is(err, store.ErrNotFound) || err == nil && (!validTag(ref) || h.now().Sub(cached.Checked) < h.cache.Fresh) {
			return m, nil
		}
		if err != nil {
			return m, errors.Join(errLocal, err)
		}
		// Asking where a tag points is no pull, of which some registries allow but a few.
		digest, err := h.cache.Client.Resolve(ctx, from, ref)
		h.note(from.Host, err)
		if err != nil {
			return m, err
		}
		if digest == m.Digest {
			if err := h.store.TouchCached(ctx, name, ref, h.now(), h.now()); err != nil {
				return m, errors.Join(errLocal, err)
			}
			return m, nil
		}
	} else if !errors.Is(err, store.ErrNotFound) {
		return m, errors.Join(errLocal, err)
	}

	got, err := h.cache.Client.Manifest(ctx, from, ref)
	h.note(from.Host, err)
	if err != nil {
		return store.Manifest{}, err
	}
	m, err = parseManifest(got.MediaType, got.Content)
	if err != nil {
		return m, errors.Join(remote.ErrCorrupt, err)
	}
	m.Repository, m.Digest, m.Created, m.By = name, got.Digest, h.now(), store.Mirror
	var tags []string
	if validTag(ref) {
		tags = []string{ref}
	}
	if err := h.store.PutCached(ctx, m, tags...); err != nil {
		return m, errors.Join(errLocal, err)
	}
	return m, nil
}

// upstreamError is what a client is told when something is not here and could not be fetched. It is "not found" whether
// the other registry has no such thing or does not answer: the client then asks the next mirror, or that registry itself.
func (h *Handler) upstreamError(err error, name, code, what string) error {
	var answer *remote.Error
	var own *statusError
	switch {
	case errors.As(err, &own), errors.Is(err, errLocal), errors.Is(err, context.Canceled):
		return err
	case errors.As(err, &answer) && answer.Status == http.StatusTooManyRequests:
		return fail(http.StatusTooManyRequests, codeTooManyRequests, "%s has no %.200s, and its registry wants to be left alone for now: %v", name, what, answer)
	case errors.Is(err, remote.ErrCorrupt):
		h.log.Error("registry: the mirrored registry sent something wrong", "repository", name, "error", err)
		return fail(http.StatusBadGateway, codeUnknown, "the registry that %s stands for sent a %.200s that is not right; nothing was stored", name, what)
	case answer != nil:
		return fail(http.StatusNotFound, code, "%s has no %.200s: %v", name, what, answer)
	}
	return fail(http.StatusNotFound, code, "%s has no %.200s, and the registry that it stands for does not answer", name, what)
}

// errLocal marks a failure of this registry's own disk or database.
var errLocal = errors.New("keep what was fetched")

// evict forgets what was used longest ago until what was fetched has limit bytes, or else only what is in use, and returns
// how many there are. The bytes are freed by the collection of garbage, like those of all that was deleted.
func (h *Handler) evict(ctx context.Context, limit int64) (size int64, err error) {
	h.cache.evicting.Lock()
	defer h.cache.evicting.Unlock()
	for {
		freed, size, err := h.store.EvictCached(ctx, limit, h.now().Add(-inUse), h.now())
		if err != nil || freed == 0 {
			return size, err
		}
		h.log.Info("registry: the mirror's quota is used up; forgot images", "bytes", freed)
	}
}

// reserve keeps the quota when a blob of that size comes, and refuses it when what is in use alone would be twice the
// quota: nobody fills the disk by pulling. What it reserves must be released.
func (h *Handler) reserve(ctx context.Context, size int64) error {
	c := h.cache
	c.mu.Lock()
	c.coming += size
	coming := c.coming
	c.mu.Unlock()
	if c.Quota <= 0 {
		return nil
	}
	there, err := h.evict(ctx, max(0, c.Quota-coming))
	if err != nil {
		return errors.Join(errLocal, err)
	}
	if size > c.Quota || there+coming > 2*c.Quota {
		return fail(http.StatusInsufficientStorage, codeUnknown, "the quota for images of other registries is used up by what was pulled in the last minutes; pull again later, or from there")
	}
	return nil
}

// release says that what was reserved has come, or will not.
func (c *cache) release(size int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.coming -= size
}
