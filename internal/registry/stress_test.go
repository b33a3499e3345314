package registry_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/internal/registry"
	"slipway/internal/retention"
	"slipway/internal/store"
	"slipway/internal/store/sqlstore"
)

var stressTime = flag.Duration("stress", 15*time.Second, "how long TestStress pushes, pulls, deletes and kills")

// stressGrace is the grace period of the servers that are killed. It is short, so that collections have work; a push that
// takes longer may be refused.
const stressGrace = time.Second

// image is what was pushed under a tag: an image, or an index of several.
type image struct {
	manifest []byte
	// signature is the digest of a manifest that is about it; empty without one.
	signature string
}

// stress is what the clients of one TestStress know.
type stress struct {
	t *testing.T
	// shared are blobs that images have in common: what one needs is what another has just let go of.
	shared [][]byte

	mu sync.Mutex
	// url is the server's. It is empty while there is none, which back tells the end of.
	url  string
	back *sync.Cond
	// tags are those that must be there; what a client has in hand is not among them.
	tags map[string]image
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

// reply is what a request got; the status is 0 if the server was killed meanwhile.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// send makes a request, with more header fields in pairs.
func (s *stress) send(method, address string, body []byte, header ...string) reply {
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
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return reply{}
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
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
	if s.send("POST", "/v2/"+repository+"/blobs/uploads/?mount="+digest+"&from=octo/app", nil).status == 201 {
		s.count("blobs mounted")
		return true
	}
	// With a mount that failed an upload was begun and is left behind, as by a client that dies.
	var status int
	if len(blob) < stressChunk {
		status = s.send("POST", "/v2/"+repository+"/blobs/uploads/?digest="+digest, blob).status
	} else {
		status = s.pushChunks(repository, digest, blob)
	}
	if status == 201 {
		s.count("blobs sent")
	}
	return status == 201
}

// stressChunk is the size of the chunks of large blobs.
const stressChunk = 300_000

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
	if rand.IntN(20) == 0 {
		size = stressChunk * (1 + rand.IntN(5))
	}
	var layers []object
	for _, blob := range [][]byte{random(size), s.shared[rand.IntN(len(s.shared))], s.shared[rand.IntN(len(s.shared))]} {
		if !s.pushBlob(repository, blob) {
			return nil, false
		}
		layers = append(layers, descriptor(mediaLayer, blob))
	}
	if rand.IntN(3) == 0 { // a slow client, which refers late to what it found
		time.Sleep(rand.N(stressGrace / 3))
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
	case r.status == 201 || r.status == 0:
	case r.status == 400 && took >= stressGrace/2: // what is older than that is not touched by asking for it
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

// stressTags is about how many tags there are at a time: so few that every shared blob is often needed by nobody.
const stressTags = 60

func (s *stress) alive() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.tags)
}

// work is a client, until ctx ends.
func (s *stress) work(ctx context.Context, worker int) {
	for i := 0; ctx.Err() == nil; i++ {
		repository := []string{"octo/app", "octo/app/cache"}[rand.IntN(2)]
		action := rand.IntN(6)
		if action < 2 && s.alive() > stressTags {
			action = 4
		}
		switch action {
		case 5: // a tag that a policy takes
			s.push(repository, fmt.Sprintf("old-%d-%d", worker, i))
		case 0, 1: // a new tag
			tag := fmt.Sprintf("t%d-%d", worker, i)
			if pushed, ok := s.push(repository, tag); ok {
				s.count("pushes")
				s.give(repository, tag, pushed)
			}
		case 2: // a tag that moves
			tag, old := s.take(repository)
			if tag == "" {
				continue
			}
			pushed, ok := s.push(repository, tag)
			switch {
			case ok:
				s.count("pushes")
				s.give(repository, tag, pushed)
			case pushed.manifest == nil: // the manifest was not even sent
				s.give(repository, tag, old)
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
		case 4: // Half of the deletions take the image along, half only the tag.
			tag, pushed := s.take(repository)
			if tag == "" {
				continue
			}
			reference := tag
			if rand.IntN(2) == 0 {
				reference = sum256(pushed.manifest)
			}
			if s.send("DELETE", "/v2/"+repository+"/manifests/"+reference, nil).status == 202 {
				s.count("deletions")
			}
		}
	}
}

// TestStress pushes, pulls, deletes, cleans up by a policy and collects all at once, and kills the server with SIGKILL now and
// then. No push that was accepted may become unpullable, with its images and what is about it; no push may be refused, and no
// byte of an upload be lost, that the grace period protects; nothing that nobody needs may stay for longer than that; and the database and
// the disk must agree.
//
// Minutes of it: go test ./internal/registry -run TestStress -v -stress 5m
func TestStress(t *testing.T) {
	dir := t.TempDir()
	s := &stress{t: t, tags: map[string]image{}, counts: map[string]int{}}
	s.back = sync.NewCond(&s.mu)
	for range 500 {
		s.shared = append(s.shared, random(5000))
	}
	ctx, cancel := context.WithTimeout(t.Context(), *stressTime)
	defer cancel()
	var group sync.WaitGroup
	kill := func() {}
	group.Go(func() {
		for {
			var url string
			url, kill = startServer(t, dir, crashCollects)
			s.serve(url)
			life := time.NewTimer(time.Duration(100+rand.IntN(2500)) * time.Millisecond)
			select {
			case <-life.C:
			case <-ctx.Done():
				return // the last one lives on for clients that are not done
			}
			s.serve("") // requests that are on their way meet their end
			kill()
			s.count("kills")
		}
	})
	for worker := range 6 {
		group.Go(func() { s.work(ctx, worker) })
	}
	group.Wait()
	kill()

	// Everything that was accepted is there.
	url, kill := startServer(t, dir)
	s.serve(url)
	for name, pushed := range s.tags {
		if err := s.pull(path.Dir(name), path.Base(name), pushed); err != nil {
			t.Errorf("pull %s: %v", name, err)
		}
	}
	kill()

	// After the grace period, nothing else is.
	db, err := sqlstore.Open(t.Context(), filepath.Join(dir, "slipway.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	h, err := registry.New(registry.Options{
		Dir: filepath.Join(dir, "registry"), Store: db, Authority: testPeople, Key: make([]byte, 32), Grace: stressGrace,
		Now: func() time.Time { return time.Now().Add(2 * time.Hour) },
	})
	if err != nil {
		t.Fatal(err)
	}
	cleaner, err := newCleaner(t.Context(), db, func() time.Time { return time.Now().Add(time.Hour) })
	if err != nil {
		t.Fatal(err)
	}
	cleaned, err := cleaner.Clean(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	collected, err := h.Collect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if problems, err := h.Check(t.Context(), registry.CheckOptions{Verify: true}); err != nil || len(problems) > 0 {
		t.Errorf("fsck found %+v, %v", problems, err)
	}
	needed := needs(t, db)
	files, err := filepath.Glob(filepath.Join(dir, "registry", "blobs", "*", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(needed) {
		t.Errorf("%d blobs are on disk, and %d are needed", len(files), len(needed))
	}
	for _, file := range files {
		if !needed["sha256:"+filepath.Base(file)] {
			t.Errorf("%s is not needed, and still there", file)
		}
	}
	if len(s.tags) == 0 || s.counts["deletions"] == 0 || s.counts["kills"] < 2 {
		t.Error("nothing much happened")
	}
	// Of what the servers said; the last words of those that were killed are not among it.
	lines, err := os.ReadFile(filepath.Join(dir, crashFreed))
	if err != nil {
		t.Fatal(err)
	}
	freed, size := 0, 0
	for line := range strings.Lines(string(lines)) {
		var b, n int
		if _, err := fmt.Sscan(line, &b, &n); err == nil { // not cut short
			freed, size = freed+b, size+n
		}
	}
	if freed == 0 {
		t.Error("nothing was collected while it went on")
	}
	t.Logf("%v; %d blobs of %d bytes were collected meanwhile; at last %+v and %+v went; %d tags and %d blobs are left",
		s.counts, freed, size, cleaned, collected, len(s.tags), len(files))
}

// needs returns the blobs that manifests refer to. It checks that the policy was obeyed, and that each manifest is there for a tag.
func needs(t *testing.T, db *sqlstore.DB) (needed map[string]bool) {
	t.Helper()
	needed = map[string]bool{}
	old := 0
	for _, repository := range []string{"octo/app", "octo/app/cache"} {
		tags, err := db.ListTags(t.Context(), store.Page{Repository: repository, Limit: 100_000})
		if err != nil {
			t.Fatal(err)
		}
		images := map[string]store.Manifest{}
		subjects := map[string][]string{}
		for page := (store.Page{Repository: repository, Limit: 500}); ; {
			manifests, err := db.ListManifests(t.Context(), page, false)
			if err != nil {
				t.Fatal(err)
			}
			if len(manifests) == 0 {
				break
			}
			page.Last = manifests[len(manifests)-1].Digest
			for _, m := range manifests {
				images[m.Digest] = m
				if m.Subject != "" {
					subjects[m.Subject] = append(subjects[m.Subject], m.Digest)
				}
			}
		}
		var keep func(digest string)
		keep = func(digest string) {
			m, ok := images[digest]
			if !ok {
				return
			}
			delete(images, digest)
			for _, r := range m.References {
				if r.Manifest {
					keep(r.Digest)
				} else {
					needed[r.Digest] = true
				}
			}
			for _, about := range subjects[digest] {
				keep(about)
			}
		}
		for _, tag := range tags {
			keep(tag.Digest)
			if strings.HasPrefix(tag.Name, "old-") {
				old++
			}
		}
		for digest := range images {
			t.Errorf("%s has the manifest %s, which no tag leads to", repository, digest)
		}
	}
	if old > 6 {
		t.Errorf("%d tags are left of those of which two repositories keep 3 each", old)
	}
	return needed
}

// stressPolicy is what the servers that are killed keep.
const stressPolicy = "rules: [{tags: old-*, keep: 3}]\nuntagged: 1s\n"

// noFacts know nothing of runs and branches.
type noFacts struct{}

func (noFacts) InUse(context.Context, string) ([]retention.Use, string, error) { return nil, "", nil }
func (noFacts) Branches(context.Context, string) ([]string, error)             { return nil, nil }
func (noFacts) Over(context.Context, []string) (map[string]bool, error)        { return nil, nil }

// newCleaner returns a cleaner with stressPolicy for all repositories.
func newCleaner(ctx context.Context, db *sqlstore.DB, now func() time.Time) (*retention.Cleaner, error) {
	cleaner := &retention.Cleaner{Store: db, Facts: noFacts{}, Now: now}
	return cleaner, cleaner.Put(ctx, "", stressPolicy, "test")
}

// crashFreed is the file to which collectForCrash writes what it freed: blobs and bytes, a line for each collection.
const crashFreed = "freed"

// collectForCrash cleans up and collects all the time, until the process is killed.
func collectForCrash(h *registry.Handler, db *sqlstore.DB, dir string) error {
	freed, err := os.OpenFile(filepath.Join(dir, crashFreed), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer freed.Close()
	cleaner, err := newCleaner(context.Background(), db, time.Now)
	if err != nil {
		return err
	}
	for range time.Tick(20 * time.Millisecond) {
		if _, err := cleaner.Clean(context.Background()); err != nil {
			return errors.Join(errors.New("the cleaner of a server failed"), err)
		}
		collected, err := h.Collect(context.Background())
		if err != nil {
			return errors.Join(errors.New("the collector of a server failed"), err)
		}
		if _, err := fmt.Fprintln(freed, collected.Blobs, collected.Bytes); err != nil {
			return err
		}
	}
	return nil
}
