package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
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
// takes longer may be refused, and is not counted then.
const stressGrace = time.Second

// stress is what the clients of one TestStress know.
type stress struct {
	t *testing.T
	// shared are blobs that images have in common: what one needs is what another has just let go of.
	shared [][]byte

	mu sync.Mutex
	// url is the server's. It is empty while there is none, which back tells the end of.
	url  string
	back *sync.Cond
	// tags are those that must be there, with their manifests; what a client has in hand is not among them.
	tags map[string][]byte
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

// send makes a request, and returns its status and body; the status is 0 if the server was killed meanwhile.
func (s *stress) send(method, path string, body []byte) (int, []byte) {
	url := s.await()
	req, err := http.NewRequestWithContext(s.t.Context(), method, url+path, bytes.NewReader(body))
	if err != nil {
		s.t.Error(err)
		return 0, nil
	}
	req.SetBasicAuth("admin", "admin-password")
	req.Header.Set("Content-Type", mediaImage)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil
	}
	if resp.StatusCode >= 500 {
		s.t.Errorf("%s %s: %d %s", method, path, resp.StatusCode, answer)
	}
	return resp.StatusCode, answer
}

// push pushes an image as clients do: it asks for each blob, mounts it or sends it, in one request or in two. It reports
// whether the push was accepted.
func (s *stress) push(repository, tag string) (manifest []byte, accepted bool) {
	blobs := [][]byte{random(100 + rand.IntN(2000)), s.shared[rand.IntN(len(s.shared))], s.shared[rand.IntN(len(s.shared))]}
	var layers []object
	for _, blob := range blobs {
		digest := sum256(blob)
		layers = append(layers, descriptor(mediaLayer, blob))
		if status, _ := s.send("HEAD", "/v2/"+repository+"/blobs/"+digest, nil); status == 200 {
			s.count("blobs that were there")
			continue
		}
		status, _ := s.send("POST", "/v2/"+repository+"/blobs/uploads/?mount="+digest+"&from=octo/app", nil)
		if status == 201 {
			s.count("blobs mounted")
			continue
		}
		// With a mount that failed an upload was begun and is left behind, as by a client that dies.
		if status, _ = s.send("POST", "/v2/"+repository+"/blobs/uploads/?digest="+digest, blob); status != 201 {
			return nil, false
		}
	}
	manifest = encode(object{
		"schemaVersion": 2, "mediaType": mediaImage, "layers": layers[1:], "config": layers[0],
	})
	status, body := s.send("PUT", "/v2/"+repository+"/manifests/"+tag, manifest)
	if status != 201 && status != 0 {
		s.count("pushes that took longer than the grace period: " + string(body[:min(len(body), 60)]))
	}
	return manifest, status == 201
}

// pull reports whether the image is whole. A status of 0, of a killed server, says nothing about it.
func (s *stress) pull(repository, tag string, want []byte) error {
	status, got := s.send("GET", "/v2/"+repository+"/manifests/"+tag, nil)
	if status == 0 {
		return nil
	}
	if status != 200 || !bytes.Equal(got, want) {
		return fmt.Errorf("manifest: %d %s", status, got)
	}
	var m struct {
		Config struct{ Digest string }
		Layers []struct{ Digest string }
	}
	if err := json.Unmarshal(got, &m); err != nil {
		return err
	}
	for _, layer := range append(m.Layers, m.Config) {
		status, blob := s.send("GET", "/v2/"+repository+"/blobs/"+layer.Digest, nil)
		if status == 0 {
			return nil
		}
		if status != 200 || sum256(blob) != layer.Digest {
			return fmt.Errorf("blob %s: %d", layer.Digest, status)
		}
	}
	s.count("pulls")
	return nil
}

// take takes a tag in hand: nobody else deletes or pulls it meanwhile.
func (s *stress) take(repository string) (tag string, manifest []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, manifest := range s.tags { // in a random order
		if filepath.Dir(name) == repository {
			delete(s.tags, name)
			return filepath.Base(name), manifest
		}
	}
	return "", nil
}

func (s *stress) give(repository, tag string, manifest []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tags[repository+"/"+tag] = manifest
}

// work is a client, until ctx ends.
func (s *stress) work(ctx context.Context, worker int) {
	for i := 0; ctx.Err() == nil; i++ {
		repository := []string{"octo/app", "octo/app/cache"}[rand.IntN(2)]
		switch rand.IntN(6) {
		case 5: // a tag that a policy takes
			s.push(repository, fmt.Sprintf("old-%d-%d", worker, i))
		case 0, 1: // a new tag
			tag := fmt.Sprintf("t%d-%d", worker, i)
			if manifest, ok := s.push(repository, tag); ok {
				s.count("pushes")
				s.give(repository, tag, manifest)
			}
		case 2: // a tag that moves
			tag, old := s.take(repository)
			if tag == "" {
				continue
			}
			manifest, ok := s.push(repository, tag)
			switch {
			case ok:
				s.count("pushes")
				s.give(repository, tag, manifest)
			case manifest == nil: // the manifest was not even sent
				s.give(repository, tag, old)
			}
		case 3:
			tag, manifest := s.take(repository)
			if tag == "" {
				continue
			}
			if err := s.pull(repository, tag, manifest); err != nil {
				s.t.Errorf("pull %s:%s: %v", repository, tag, err)
			}
			s.give(repository, tag, manifest)
		case 4: // Half of the deletions take the image along, half only the tag.
			tag, manifest := s.take(repository)
			if tag == "" {
				continue
			}
			reference := tag
			if rand.IntN(2) == 0 {
				reference = sum256(manifest)
			}
			if status, _ := s.send("DELETE", "/v2/"+repository+"/manifests/"+reference, nil); status == 202 {
				s.count("deletions")
			}
		}
	}
}

// TestStress pushes, pulls, deletes and collects all at once, and kills the server with SIGKILL now and then. No push that
// was accepted may become unpullable, nothing that nobody needs may stay for longer than the grace period, and the
// database and the disk must agree.
func TestStress(t *testing.T) {
	dir := t.TempDir()
	s := &stress{t: t, tags: map[string][]byte{}, counts: map[string]int{}}
	s.back = sync.NewCond(&s.mu)
	for range 12 {
		s.shared = append(s.shared, random(20_000))
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
	for name, manifest := range s.tags {
		if err := s.pull(filepath.Dir(name), filepath.Base(name), manifest); err != nil {
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
	needed, images := needs(t, db)
	if tagged := tagged(t, db); images != tagged {
		t.Errorf("%d images are left, and %d have a tag", images, tagged)
	}
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
	t.Logf("%v; %d tags and %d blobs are left; at last %+v and %+v went", s.counts, len(s.tags), len(files), cleaned, collected)
}

// tagged returns how many images have a tag, and checks that the policy was obeyed.
func tagged(t *testing.T, db *sqlstore.DB) int {
	t.Helper()
	images, old := map[string]bool{}, 0
	for _, repository := range []string{"octo/app", "octo/app/cache"} {
		tags, err := db.ListTags(t.Context(), store.Page{Repository: repository, Limit: 100_000})
		if err != nil {
			t.Fatal(err)
		}
		for _, tag := range tags {
			images[repository+tag.Digest] = true
			if strings.HasPrefix(tag.Name, "old-") {
				old++
			}
		}
	}
	if old > 6 {
		t.Errorf("%d tags are left of those of which two repositories keep 3 each", old)
	}
	return len(images)
}

// needs returns the blobs that manifests refer to, and how many manifests there are.
func needs(t *testing.T, db *sqlstore.DB) (needed map[string]bool, images int) {
	t.Helper()
	needed = map[string]bool{}
	for _, repository := range []string{"octo/app", "octo/app/cache"} {
		for last := ""; ; {
			manifests, err := db.ListManifests(t.Context(), store.Page{Repository: repository, Last: last, Limit: 500}, false)
			if err != nil {
				t.Fatal(err)
			}
			if len(manifests) == 0 {
				break
			}
			last = manifests[len(manifests)-1].Digest
			images += len(manifests)
			for _, m := range manifests {
				for _, r := range m.References {
					needed[r.Digest] = true
				}
			}
		}
	}
	return needed, images
}

// stressPolicy is what the servers that are killed keep.
const stressPolicy = "rules: [{tags: old-*, keep: 3}]\nuntagged: 1s\n"

// noFacts know nothing of runs and branches.
type noFacts struct{}

func (noFacts) InUse(context.Context, string) ([]retention.Use, string, error) { return nil, "", nil }
func (noFacts) Branches(context.Context, string) ([]string, error)             { return nil, nil }
func (noFacts) Over(context.Context, string) (bool, error)                     { return false, nil }

// newCleaner returns a cleaner with stressPolicy for all repositories.
func newCleaner(ctx context.Context, db *sqlstore.DB, now func() time.Time) (*retention.Cleaner, error) {
	cleaner := &retention.Cleaner{Store: db, Facts: noFacts{}, Now: now}
	return cleaner, cleaner.Put(ctx, "", stressPolicy, "test")
}

// collectForCrash cleans up and collects all the time, until the process is killed.
func collectForCrash(h *registry.Handler, db *sqlstore.DB) error {
	cleaner, err := newCleaner(context.Background(), db, time.Now)
	if err != nil {
		return err
	}
	for range time.Tick(20 * time.Millisecond) {
		if _, err := cleaner.Clean(context.Background()); err != nil {
			return errors.Join(errors.New("the cleaner of a server failed"), err)
		}
		if _, err := h.Collect(context.Background()); err != nil {
			return errors.Join(errors.New("the collector of a server failed"), err)
		}
	}
	return nil
}
