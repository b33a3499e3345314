package buildkit

import (
	"context"
	"sync"
	"time"

	"github.com/moby/buildkit/cache"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// holdIdle is how long an image is held after its last user: the next step of a job mostly uses it again, and then
// nothing has to be read or written.
const holdIdle = 5 * time.Minute

// images are those that are held in BuildKit's cache, by digest. Whoever pulls one that is here already shares it.
type images struct {
	mu       sync.Mutex
	byDigest map[string]*held
}

// held is an image with a hold on its layers. Its fields are guarded by images.mu, except those that never change.
type held struct {
	digest string
	config ocispec.Image
	top    cache.ImmutableRef // nil if there are no layers

	users int
	idle  time.Time // since when there are none
}

// find returns the image of that digest with one more user, or nil.
func (i *images) find(digest string) *held {
	i.mu.Lock()
	defer i.mu.Unlock()
	h := i.byDigest[digest]
	if h != nil {
		h.users++
	}
	return h
}

// add takes h, or gives it up for one that came earlier, and returns what is held now with one more user.
func (i *images) add(h *held) *held {
	i.mu.Lock()
	defer i.mu.Unlock()
	if earlier := i.byDigest[h.digest]; earlier != nil {
		h.letGo()
		h = earlier
	}
	if i.byDigest == nil {
		i.byDigest = map[string]*held{}
	}
	i.byDigest[h.digest] = h
	h.users++
	return h
}

func (i *images) release(h *held) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if h.users--; h.users == 0 {
		h.idle = time.Now()
	}
}

// sweep lets go of the images without users for that long.
func (i *images) sweep(age time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for digest, h := range i.byDigest {
		if h.users == 0 && time.Since(h.idle) >= age {
			delete(i.byDigest, digest)
			h.letGo()
		}
	}
}

func (h *held) letGo() {
	if h.top != nil {
		_ = h.top.Release(context.Background())
	}
}
