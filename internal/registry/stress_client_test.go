package registry_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// image is what was pushed under a tag: an image, or an index of several.
type image struct {
	manifest []byte
	// signature is the digest of a manifest that is about it; empty without one.
	signature string
}

// stress is what the clients of one TestStress know.
type stress struct {
	t *testing.T
	// dir is the folder of the servers, env what else they are told.
	dir string
	env []string
	// grace is the grace period of the servers.
	grace time.Duration
	// gateway is the object store; nil if blobs are in a folder. away is odd while it is away, and grows.
	gateway *gateway
	away    atomic.Int32
	// mirrored are the images of another registry.
	mirrored mirrored
	// shared are blobs that images have in common: what one needs is what another has just let go of.
	shared [][]byte

	mu sync.Mutex
	// url is the server's. It is empty while there is none, which back tells the end of.
	url  string
	back *sync.Cond
	// tags are those that must be there; what a client has in hand is not among them.
	tags map[string]image
	// fixed are those that nobody may move or delete.
	fixed map[string]image
	// counts is how often what happened.
	counts map[string]int
}

func (s *stress) count(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[what]++
}

// serve says where the server is; the empty URL says that it is about to be killed.
func (s *stress) serve(url string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.url = url
	s.back.Broadcast()
}

// await returns the server's URL, once it has one.
func (s *stress) await() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.url == "" {
		s.back.Wait()
	}
	return s.url
}

// stressClient follows redirects to the object store without our password.
var stressClient = &http.Client{CheckRedirect: func(r *http.Request, _ []*http.Request) error {
	r.Header.Del("Authorization")
	return nil
}}

// reply is what a request got; the status is 0 if the server or its object store was killed meanwhile.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// send makes a request, with more header fields in pairs.
func (s *stress) send(method, address string, body []byte, header ...string) reply {
	away := s.away.Load()
	url := s.await()
	req, err := http.NewRequestWithContext(s.t.Context(), method, url+address, bytes.NewReader(body))
	if err != nil {
		s.t.Error(err)
		return reply{}
	}
	req.SetBasicAuth("admin", "admin-password")
	req.Header.Set("Content-Type", mediaImage)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := stressClient.Do(req)
	if err != nil {
		return reply{}
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return reply{}
	}
	if resp.StatusCode >= 500 && (away%2 == 1 || s.away.Load() != away) {
		s.count("requests that failed with the object store")
		return reply{}
	}
	if resp.StatusCode >= 500 {
		s.t.Errorf("%s %s: %d %s", method, address, resp.StatusCode, answer)
	}
	return reply{resp.StatusCode, resp.Header, answer}
}

// pushBlob gets a blob there as clients do: it asks for it, mounts it or sends it, in one request or in chunks.
func (s *stress) pushBlob(repository string, blob []byte) bool {
	digest := sum256(blob)
	if s.send("HEAD", "/v2/"+repository+"/blobs/"+digest, nil).status == 200 {
		s.count("blobs that were there")
		return true
	}
	from := stressRepositories[rand.IntN(len(stressRepositories))]
	switch mounted := s.send("POST", "/v2/"+repository+"/blobs/uploads/?mount="+digest+"&from="+from, nil).status; {
	case mounted == 201:
		s.count("blobs mounted")
		return true
	case s.refused(repository, mounted):
		return false
	}
	// With a mount that failed an upload was begun and is left behind, as by a client that dies.
	var status int
	if len(blob) < stressChunk || len(blob) > stressLarge {
		status = s.send("POST", "/v2/"+repository+"/blobs/uploads/?digest="+digest, blob).status
	} else {
		status = s.pushChunks(repository, digest, blob)
	}
	if status == 201 {
		s.count("blobs sent")
	} else if status != 0 && !s.refused(repository, status) {
		s.t.Errorf("push of a blob of %d bytes to %s: %d", len(blob), repository, status)
	}
	return status == 201
}

// refused reports whether that is the answer to what goes beyond the quota that the repository has.
func (s *stress) refused(repository string, status int) bool {
	if repository != stressSmall || status != 403 {
		return false
	}
	s.count("refused by the quota")
	return true
}

const (
	// stressChunk is the size of the chunks of large blobs, and stressLarge from where on they are sent at once, and go to an object
	// store in parts.
	stressChunk, stressLarge = 300_000, 16 << 20
	// stressSmall is the repository that may have no more than stressQuota bytes.
	stressSmall, stressQuota = "octo/small", 80_000
)

// stressRepositories are those that are pushed to.
var stressRepositories = []string{"octo/app", "octo/app/cache", "octo/other", stressSmall}

// pushChunks sends a blob in chunks. When the server is killed it goes on, with the next one, from where that says.
func (s *stress) pushChunks(repository, digest string, blob []byte) int {
	begun := s.send("POST", "/v2/"+repository+"/blobs/uploads/", nil)
	place := begun.header.Get("Location")
	if begun.status != 202 {
		return begun.status
	}
	for offset := 0; offset < len(blob); {
		end := min(offset+stressChunk, len(blob))
		sent := s.send("PATCH", place, blob[offset:end], "Content-Range", fmt.Sprintf("%d-%d", offset, end-1))
		if sent.status == 202 {
			offset = end
			continue
		}
		if sent.status == 403 {
			return sent.status
		}
		for sent.status == 0 {
			sent = s.send("GET", place, nil)
		}
		var last int
		if _, err := fmt.Sscanf(sent.header.Get("Range"), "0-%d", &last); err != nil || last >= end || sent.status != 204 && sent.status != 416 {
			s.t.Errorf("an upload of which %d bytes were accepted: %d %s %s", offset, sent.status, sent.header.Get("Range"), sent.body)
			return sent.status
		}
		if last == 0 && sent.status == 204 {
			last = -1 // no byte, or one, which the next chunk will find out
		}
		if last+1 < offset {
			s.t.Errorf("of an upload %d bytes were accepted, and %d are there", offset, last+1)
		}
		offset = last + 1
		s.count("uploads resumed")
	}
	return s.send("PUT", place+"?digest="+digest, nil).status
}

// pushImage pushes an image under a tag, or, if that is empty, under its digest. It returns no manifest if it did not come to that.
func (s *stress) pushImage(repository, tag string) (manifest []byte, accepted bool) {
	start := time.Now()
	size := 100 + rand.IntN(2000)
	switch n := rand.IntN(400); {
	case n < 20:
		size = stressChunk * (1 + rand.IntN(5))
	case n == 20 && s.gateway != nil:
		size = stressLarge + stressChunk
	}
	var layers []object
	for _, blob := range [][]byte{random(size), s.shared[rand.IntN(len(s.shared))], s.shared[rand.IntN(len(s.shared))]} {
		if !s.pushBlob(repository, blob) {
			return nil, false
		}
		layers = append(layers, descriptor(mediaLayer, blob))
	}
	if rand.IntN(3) == 0 { // a slow client, which refers late to what it found
		time.Sleep(rand.N(s.grace / 3))
	}
	manifest = encode(object{
		"schemaVersion": 2, "mediaType": mediaImage, "layers": layers[1:], "config": layers[0],
	})
	return manifest, s.pushManifest(repository, cmp.Or(tag, sum256(manifest)), mediaImage, manifest, start)
}

// pushManifest pushes a manifest whose parts were pushed since start.
func (s *stress) pushManifest(repository, reference, mediaType string, manifest []byte, start time.Time) bool {
	r := s.send("PUT", "/v2/"+repository+"/manifests/"+reference, manifest, "Content-Type", mediaType)
	switch took := time.Since(start); {
	case r.status == 201 || r.status == 0 || s.refused(repository, r.status):
	case r.status == 400 && took >= s.grace/2: // what is older than that is not touched by asking for it
		s.count("pushes that took too long for the grace period")
	default:
		s.t.Errorf("push of %s:%s after %s: %d %s", repository, reference, took, r.status, r.body)
	}
	return r.status == 201
}

// push pushes an image or an index under a tag, and perhaps what is about it. What it returns has no manifest if it did not come to
// that, and otherwise is what the tag may point to, even if that was not accepted.
func (s *stress) push(repository, tag string) (pushed image, accepted bool) {
	if rand.IntN(4) > 0 {
		pushed.manifest, accepted = s.pushImage(repository, tag)
	} else {
		start := time.Now()
		var images []object
		for range 1 + rand.IntN(2) {
			manifest, ok := s.pushImage(repository, "")
			if !ok {
				return image{}, false
			}
			images = append(images, descriptor(mediaImage, manifest))
		}
		pushed.manifest = encode(object{"schemaVersion": 2, "mediaType": mediaIndex, "manifests": images})
		accepted = s.pushManifest(repository, tag, mediaIndex, pushed.manifest, start)
		s.count("pushes of indexes")
	}
	if accepted && rand.IntN(4) == 0 {
		start := time.Now()
		if !s.pushBlob(repository, []byte("{}")) {
			return pushed, true
		}
		config := descriptor(mediaLayer, []byte("{}"))
		signature := encode(object{
			"schemaVersion": 2, "mediaType": mediaImage, "config": config, "layers": []object{config},
			"subject": descriptor(mediaOf(pushed.manifest), pushed.manifest),
		})
		if s.pushManifest(repository, sum256(signature), mediaImage, signature, start) {
			pushed.signature = sum256(signature)
			s.count("pushes of signatures")
		}
	}
	return pushed, accepted
}

func mediaOf(manifest []byte) string {
	var m struct{ MediaType string }
	_ = json.Unmarshal(manifest, &m) // it is our own
	return m.MediaType
}

// errKilled says that the server was killed meanwhile, which says nothing about what was asked.
var errKilled = errors.New("the server was killed")

// get gets what has that digest, which must be there.
func (s *stress) get(address, digest string) ([]byte, error) {
	r := s.send("GET", address, nil)
	switch {
	case r.status == 0:
		return nil, errKilled
	case r.status != 200:
		return nil, fmt.Errorf("%s: %d %s", address, r.status, r.body)
	case sum256(r.body) != digest:
		return nil, fmt.Errorf("%s has the digest %s, not %s", address, sum256(r.body), digest)
	}
	return r.body, nil
}

// pull pulls what the tag points to with all that it needs, and what is about it.
func (s *stress) pull(repository, tag string, want image) error {
	err := s.pullManifest(repository, tag, sum256(want.manifest))
	if err == nil && want.signature != "" {
		r := s.send("GET", "/v2/"+repository+"/referrers/"+sum256(want.manifest), nil)
		if r.status != 0 && !bytes.Contains(r.body, []byte(want.signature)) {
			return fmt.Errorf("the signature %s is not in the referrers: %d %s", want.signature, r.status, r.body)
		}
		err = s.pullManifest(repository, want.signature, want.signature)
	}
	if errors.Is(err, errKilled) {
		return nil
	}
	if err == nil {
		s.count("pulls")
	}
	return err
}

func (s *stress) pullManifest(repository, reference, digest string) error {
	got, err := s.get("/v2/"+repository+"/manifests/"+reference, digest)
	if err != nil {
		return err
	}
	var m struct {
		Config            struct{ Digest string }
		Layers, Manifests []struct{ Digest string }
	}
	if err := json.Unmarshal(got, &m); err != nil {
		return err
	}
	for _, child := range m.Manifests {
		if err := s.pullManifest(repository, child.Digest, child.Digest); err != nil {
			return err
		}
	}
	if m.Config.Digest == "" {
		return nil
	}
	for _, layer := range append(m.Layers, m.Config) {
		if _, err := s.get("/v2/"+repository+"/blobs/"+layer.Digest, layer.Digest); err != nil {
			return err
		}
	}
	return nil
}

// take takes a tag in hand: nobody else deletes or pulls it meanwhile.
func (s *stress) take(repository string) (tag string, pushed image) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, pushed := range s.tags { // in a random order
		if path.Dir(name) == repository {
			delete(s.tags, name)
			return path.Base(name), pushed
		}
	}
	return "", image{}
}

func (s *stress) give(repository, tag string, pushed image) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tags[repository+"/"+tag] = pushed
}

// stressTags is about how many tags there are at a time: so few that every shared blob is often needed by nobody. Of those that cannot
// be moved there are stressFixed.
const stressTags, stressFixed = 80, 30

func (s *stress) alive() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.tags)
}

// work is a client, until ctx ends.
func (s *stress) work(ctx context.Context, worker int) {
	for i := 0; ctx.Err() == nil; i++ {
		repository := stressRepositories[rand.IntN(len(stressRepositories))]
		action := rand.IntN(9)
		if action < 2 && s.alive() > stressTags {
			action = 4
		}
		switch action {
		case 0, 1: // a new tag
			tag := fmt.Sprintf("t%d-%d", worker, i)
			if pushed, ok := s.push(repository, tag); ok {
				s.count("pushes")
				s.give(repository, tag, pushed)
			}
		case 2:
			if tag, old := s.take(repository); tag != "" {
				s.move(repository, tag, old)
			}
		case 3:
			tag, pushed := s.take(repository)
			if tag == "" {
				continue
			}
			if err := s.pull(repository, tag, pushed); err != nil {
				s.t.Errorf("pull %s:%s: %v", repository, tag, err)
			}
			s.give(repository, tag, pushed)
		case 4, 5:
			if tag, pushed := s.take(repository); tag != "" {
				s.delete(repository, tag, pushed)
			}
		case 6: // a tag that a policy takes
			s.push(repository, fmt.Sprintf("old-%d-%d", worker, i))
		case 7:
			if name, pushed := s.aFixed(); name != "" {
				s.attack(path.Dir(name), path.Base(name), pushed)
				continue
			}
			tag := fmt.Sprintf("v%d-%d", worker, i)
			if pushed, ok := s.push("octo/app", tag); ok {
				s.count("pushes of immutable tags")
				s.mu.Lock()
				s.fixed["octo/app/"+tag] = pushed
				s.mu.Unlock()
			}
		case 8:
			s.pullMirrored(worker, i)
		}
	}
}

// move pushes another image under a tag, and perhaps moves it back.
func (s *stress) move(repository, tag string, old image) {
	start := time.Now()
	pushed, ok := s.push(repository, tag)
	switch {
	case pushed.manifest == nil: // the manifest was not even sent
		s.give(repository, tag, old)
		return
	case !ok:
		return
	}
	s.count("pushes")
	if rand.IntN(3) > 0 {
		s.give(repository, tag, pushed)
		return
	}
	switch s.restore(repository, tag, "", old, start) {
	case 200:
		s.give(repository, tag, old)
	case 404, 409:
		s.give(repository, tag, pushed)
	}
}

// delete deletes a tag, or the image with it, and perhaps has them back.
func (s *stress) delete(repository, tag string, pushed image) {
	start := time.Now()
	reference := tag
	if rand.IntN(2) == 0 {
		reference = sum256(pushed.manifest)
	}
	deleted := s.send("DELETE", "/v2/"+repository+"/manifests/"+reference, nil)
	if deleted.status != 202 {
		if deleted.status != 0 {
			s.t.Errorf("delete %s:%s by %s: %d %s", repository, tag, reference, deleted.status, deleted.body)
		}
		return
	}
	s.count("deletions")
	if rand.IntN(2) == 0 {
		return
	}
	digest := ""
	if rand.IntN(2) == 0 {
		digest = sum256(pushed.manifest)
	}
	if s.restore(repository, tag, digest, pushed, start) == 200 {
		s.give(repository, tag, pushed)
	}
}

// restore has what a tag pointed to back, which was there until start.
func (s *stress) restore(repository, tag, digest string, want image, start time.Time) (status int) {
	r := s.send("POST", stressRestore+"?repository="+repository+"&tag="+tag+"&digest="+digest, nil)
	switch took := time.Since(start); {
	case r.status == 200 && string(r.body) != sum256(want.manifest):
		s.t.Errorf("restored %s:%s to %s instead of %s", repository, tag, r.body, sum256(want.manifest))
	case r.status == 200:
		s.count("restores")
	case r.status == 0:
	case r.status == 409 && repository == stressSmall:
		s.count("refused by the quota")
	case r.status == 404 && took >= s.grace/2:
		s.count("restores that came too late for the grace period")
	default:
		s.t.Errorf("restore %s:%s after %s: %d %s", repository, tag, took, r.status, r.body)
	}
	return r.status
}

// aFixed returns one of the tags that cannot be moved, or none, as long as there are to be more.
func (s *stress) aFixed() (name string, pushed image) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.fixed) < stressFixed && rand.IntN(2) == 0 {
		return "", image{}
	}
	for name, pushed := range s.fixed { // in a random order
		return name, pushed
	}
	return "", image{}
}

// attack tries what must not move or delete a tag.
func (s *stress) attack(repository, tag string, want image) {
	var r reply
	method := rand.IntN(5)
	switch method {
	case 0:
		r = s.send("DELETE", "/v2/"+repository+"/manifests/"+tag, nil)
	case 1:
		r = s.send("DELETE", "/v2/"+repository+"/manifests/"+sum256(want.manifest), nil)
	default:
		other, ok := s.pushImage(repository, "")
		switch {
		case !ok:
			return
		case method == 2:
			r = s.send("PUT", "/v2/"+repository+"/manifests/"+tag, other)
		case method == 3:
			r = s.send("PUT", "/v2/"+repository+"/manifests/"+sum256(other)+"?tag="+tag, other)
		default:
			r = s.send("POST", stressRestore+"?repository="+repository+"&tag="+tag+"&digest="+sum256(other), nil)
			if r.status == 409 {
				r.status = 403
			}
		}
	}
	switch {
	case r.status == 403:
		s.count("refused for an immutable tag")
	case r.status != 0 && (method < 4 || r.status != 404): // what is to be restored may have gone
		s.t.Errorf("attack %d on %s:%s: %d %s", method, repository, tag, r.status, r.body)
	}
	if err := s.pull(repository, tag, want); err != nil {
		s.t.Errorf("pull %s:%s: %v", repository, tag, err)
	}
}

// mirrored are the images of another registry, which is not killed.
type mirrored struct {
	*upstream
	mu sync.Mutex
	// digests are what each tag has ever pointed to.
	digests map[string][]string
}

// push pushes an image there. What is pushed twice under a tag moves it.
func (m *mirrored) push(t *testing.T, tag string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	digest, _ := m.upstream.push(t, "library/app:"+tag, 3000)
	m.digests[tag] = append(m.digests[tag], digest)
}

// pullMirrored pulls an image of the other registry through the server.
func (s *stress) pullMirrored(worker, i int) {
	tag := fmt.Sprintf("m%d-%d", worker, rand.IntN(10+i/10))
	s.mirrored.mu.Lock()
	known := len(s.mirrored.digests[tag])
	s.mirrored.mu.Unlock()
	if known == 0 || rand.IntN(10) == 0 {
		s.mirrored.push(s.t, tag)
	}
	repository := s.mirrored.path() + "/library/app"
	r := s.send("GET", "/v2/"+repository+"/manifests/"+tag, nil)
	if r.status == 0 {
		return
	}
	s.mirrored.mu.Lock()
	digests := s.mirrored.digests[tag]
	s.mirrored.mu.Unlock()
	digest := sum256(r.body)
	if r.status != 200 || !slices.Contains(digests, digest) {
		s.t.Errorf("pull %s through the mirror: %d %s", tag, r.status, r.body)
		return
	}
	switch err := s.pullManifest(repository, digest, digest); {
	case err == nil:
		s.count("pulls through the mirror")
	case !errors.Is(err, errKilled):
		s.t.Errorf("pull %s through the mirror: %v", tag, err)
	}
}
