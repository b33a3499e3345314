package registry_test

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/internal/fault"
	"slipway/internal/registry"
	"slipway/internal/retention"
	"slipway/internal/store"
	"slipway/internal/store/sqlstore"
	"slipway/internal/store/sqlstore/pgtest"
)

var stressTime = flag.Duration("stress", 0, "how long TestStress and TestStressS3 push, pull, delete and kill (default 10 and 5 seconds)")

// TestStress pushes, pulls, mounts, deletes, restores, cleans up by a policy and collects all at once, and kills the server with SIGKILL
// now and then. No push that was accepted may become unpullable, with its images and what is about it, and nothing that was
// restored; no tag that is immutable may move; no push may be refused, and no byte of an upload be lost, that the grace period
// protects; nothing that nobody needs may stay for longer than that; no quota may be exceeded; and the database and the disk must agree.
//
// Minutes of it: go test ./internal/registry -run TestStress$ -v -stress 5m
func TestStress(t *testing.T) {
	s := newStress(t, time.Second)
	s.run(cmp.Or(*stressTime, 10*time.Second))
}

// TestStressS3 is TestStress with the blobs in a bucket, whose store is killed as well, and with PostgreSQL.
func TestStressS3(t *testing.T) {
	b := newBucket(t)
	if b.gateway == nil {
		t.Skip("only the gateway of the tests can be killed")
	}
	// Objects' times are in seconds, and while the store is away, requests take some.
	s := newStress(t, 3*time.Second, crashS3+"="+b.address, crashDatabase+"="+pgtest.Start(t))
	s.gateway = b.gateway
	s.run(cmp.Or(*stressTime, 5*time.Second))
	if len(b.uploads()) > 0 {
		t.Errorf("unfinished uploads are left: %+v", b.uploads())
	}
}

func newStress(t *testing.T, grace time.Duration, env ...string) *stress {
	t.Helper()
	s := &stress{
		t: t, dir: t.TempDir(), grace: grace, tags: map[string]image{}, fixed: map[string]image{}, counts: map[string]int{},
		mirrored: mirrored{upstream: newUpstream(t), digests: map[string][]string{}},
	}
	s.back = sync.NewCond(&s.mu)
	for range 500 {
		s.shared = append(s.shared, random(5000))
	}
	s.env = append(env, crashMirror+"="+s.mirrored.host(), crashGrace+"="+grace.String())
	return s
}

// missing returns what is to be tried and was not yet.
func (s *stress) missing() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	wanted := []string{
		"pushes", "pulls", "deletions", "restores", "blobs mounted", "refused by the quota", "refused for an immutable tag", "pulls through the mirror", "kills",
	}
	if s.gateway != nil {
		wanted = append(wanted, "kills of the object store")
	}
	missing := slices.DeleteFunc(wanted, func(what string) bool { return s.counts[what] > 0 })
	if freed, _ := s.freed(); freed == 0 {
		missing = append(missing, "blobs freed")
	}
	return missing
}

// run does it for that long, and until nothing is missing.
func (s *stress) run(long time.Duration) {
	t := s.t
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var group, killers sync.WaitGroup
	group.Go(func() {
		timer := time.NewTimer(long)
		defer timer.Stop()
		<-timer.C
		latest := time.Now().Add(10 * time.Minute)
		for len(s.missing()) > 0 && time.Now().Before(latest) && t.Context().Err() == nil {
			time.Sleep(50 * time.Millisecond)
		}
		if missing := s.missing(); len(missing) > 0 {
			t.Errorf("in ten minutes there were no %s", strings.Join(missing, ", no "))
		}
		cancel()
	})
	var starting sync.Mutex // a server does not start without its object store
	kill := func() {}
	killers.Go(func() {
		for {
			var url string
			starting.Lock()
			url, kill = startServer(t, s.dir, s.env...)
			starting.Unlock()
			s.serve(url)
			select {
			case <-time.After(100*time.Millisecond + rand.N(2500*time.Millisecond)):
			case <-ctx.Done():
				return // the last one lives on for clients that are not done
			}
			s.serve("") // requests that are on their way meet their end
			kill()
			s.count("kills")
		}
	})
	if s.gateway != nil {
		killers.Go(func() {
			for {
				select {
				case <-time.After(200*time.Millisecond + rand.N(4*time.Second)):
				case <-ctx.Done():
					return
				}
				starting.Lock()
				s.away.Add(1)
				s.gateway.kill()
				s.gateway.restart()
				s.away.Add(1)
				starting.Unlock()
				s.count("kills of the object store")
			}
		})
	}
	for worker := range 6 {
		group.Go(func() { s.work(ctx, worker) })
	}
	group.Wait()
	killers.Wait()
	kill()

	// Everything that was accepted is there.
	url, kill := startServer(t, s.dir, s.env[:len(s.env)-1]...) // without the grace period
	s.serve(url)
	maps.Copy(s.tags, s.fixed)
	for name, pushed := range s.tags {
		if err := s.pull(path.Dir(name), path.Base(name), pushed); err != nil {
			t.Errorf("pull %s: %v", name, err)
		}
	}
	kill()
	s.finish()
}

// finish checks that after the grace period nothing else is there.
func (s *stress) finish() {
	t := s.t
	db, err := sqlstore.Open(t.Context(), cmp.Or(s.getenv(crashDatabase), filepath.Join(s.dir, "slipway.db")))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	o, err := crashOptions(t.Context(), db, s.dir, s.getenv)
	if err != nil {
		t.Fatal(err)
	}
	o.Now = func() time.Time { return time.Now().Add(48 * time.Hour) }
	h, err := registry.New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	cleaner, err := newCleaner(t.Context(), db, s.grace, func() time.Time { return time.Now().Add(24 * time.Hour) })
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
	swept, err := h.Sweep(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if problems, err := h.Check(t.Context(), registry.CheckOptions{Verify: true}); err != nil || len(problems) > 0 {
		t.Errorf("fsck found %+v, %v", problems, err)
	}
	needed := map[string]bool{}
	for _, repository := range stressRepositories {
		for digest := range needs(t, db, repository) {
			needed[digest] = true
		}
	}
	fetched := refersTo(t, db, s.mirrored.path()+"/library/app")
	blobs := s.blobs()
	for digest := range needed {
		if !blobs[digest] {
			t.Errorf("%s is needed, and is not there", digest)
		}
	}
	for digest := range blobs {
		if !needed[digest] && !fetched[digest] {
			t.Errorf("%s is not needed, and still there", digest)
		}
	}
	quotas, err := db.FindQuotas(t.Context(), stressSmall)
	if err != nil || len(quotas) != 1 || quotas[0].Used > stressQuota || quotas[0].Used == 0 {
		t.Errorf("of the quota of %d: %+v, %v", stressQuota, quotas, err)
	}
	freed, size := s.freed()
	for _, what := range slices.Sorted(maps.Keys(s.counts)) {
		t.Logf("%7d %s", s.counts[what], what)
	}
	t.Logf("%d blobs of %d bytes were collected meanwhile; at last %+v and %+v went, and %d uploads; %d tags and %d blobs are left",
		freed, size, cleaned, collected, swept, len(s.tags), len(blobs))
}

// freed is how many blobs and bytes the servers said that they collected. The last words of those that were killed are not among it.
func (s *stress) freed() (blobs, size int) {
	lines, err := os.ReadFile(filepath.Join(s.dir, crashFreed))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.t.Error(err)
	}
	for line := range strings.Lines(string(lines)) {
		var b, n int
		if _, err := fmt.Sscan(line, &b, &n); err == nil { // not cut short
			blobs, size = blobs+b, size+n
		}
	}
	return blobs, size
}

// blobs are the digests of those that are stored.
func (s *stress) blobs() map[string]bool {
	s.t.Helper()
	stored := map[string]bool{}
	folder := filepath.Join(s.dir, "registry", "blobs", "*", "*", "*")
	if s.gateway != nil {
		folder = filepath.Join(s.gateway.dir, "images", "some", "where", "blobs", "*", "*")
	}
	files, err := filepath.Glob(folder)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, file := range files {
		stored["sha256:"+filepath.Base(file)] = true
	}
	return stored
}

// getenv is os.Getenv in the servers.
func (s *stress) getenv(name string) string {
	for _, setting := range s.env {
		if key, value, _ := strings.Cut(setting, "="); key == name {
			return value
		}
	}
	return ""
}

// manifests returns the manifests of a repository by digest, deleted ones too.
func manifests(t *testing.T, db *sqlstore.DB, repository string) map[string]store.Manifest {
	t.Helper()
	all := map[string]store.Manifest{}
	for page := (store.Page{Repository: repository, Limit: 500}); ; {
		list, err := db.ListManifests(t.Context(), page, false)
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 0 {
			return all
		}
		page.Last = list[len(list)-1].Digest
		for _, m := range list {
			all[m.Digest] = m
		}
	}
}

// refersTo returns the blobs that the manifests of a repository refer to.
func refersTo(t *testing.T, db *sqlstore.DB, repository string) map[string]bool {
	t.Helper()
	blobs := map[string]bool{}
	for _, m := range manifests(t, db, repository) {
		for _, r := range m.References {
			blobs[r.Digest] = true
		}
	}
	return blobs
}

// needs returns the blobs that manifests of a repository refer to. It checks that the policy was obeyed, and that each manifest is
// there for a tag.
func needs(t *testing.T, db *sqlstore.DB, repository string) (needed map[string]bool) {
	t.Helper()
	needed = map[string]bool{}
	tags, err := db.ListTags(t.Context(), store.Page{Repository: repository, Limit: 100_000})
	if err != nil {
		t.Fatal(err)
	}
	images := manifests(t, db, repository)
	subjects := map[string][]string{}
	for digest, m := range images {
		if m.Subject != "" {
			subjects[m.Subject] = append(subjects[m.Subject], digest)
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
	old := 0
	for _, tag := range tags {
		keep(tag.Digest)
		if strings.HasPrefix(tag.Name, "old-") {
			old++
		}
	}
	for digest := range images {
		t.Errorf("%s has the manifest %s, which no tag leads to", repository, digest)
	}
	if old > 3 {
		t.Errorf("%s has %d tags of which it is to keep 3", repository, old)
	}
	return needed
}

// stressPolicy is what the servers that are killed keep, with their grace period.
const stressPolicy = "immutable: [v*]\nrules: [{tags: old-*, keep: 3}]\nuntagged: %s\n"

// noFacts know nothing of runs and branches.
type noFacts struct{}

func (noFacts) InUse(context.Context, string, bool) (retention.Usage, error) {
	return retention.Usage{}, nil
}
func (noFacts) Branches(context.Context, string) ([]string, error)      { return nil, nil }
func (noFacts) Over(context.Context, []string) (map[string]bool, error) { return nil, nil }

// newCleaner returns a cleaner with stressPolicy for all repositories.
func newCleaner(ctx context.Context, db *sqlstore.DB, grace time.Duration, now func() time.Time) (*retention.Cleaner, error) {
	cleaner := &retention.Cleaner{Store: db, Facts: noFacts{}, Now: now}
	return cleaner, cleaner.Put(ctx, "", fmt.Sprintf(stressPolicy, grace), "test")
}

// crashFreed is the file to which collectForCrash writes what it freed: blobs and bytes, a line for each collection.
const crashFreed = "freed"

// stressRestore is where such a server restores a tag, as the API does for people.
const stressRestore = "/restore"

// restores serves stressRestore beside the registry.
func restores(h http.Handler, cleaner *retention.Cleaner) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/v2/", h)
	mux.HandleFunc("POST "+stressRestore, func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		digest, err := cleaner.Restore(r.Context(), q.Get("repository"), q.Get("tag"), q.Get("digest"), "admin")
		if err != nil {
			http.Error(w, err.Error(), fault.Of(err).Code.HTTPStatus())
			return
		}
		fmt.Fprint(w, digest)
	})
	return mux
}

// collectForCrash cleans up and collects all the time, until the process is killed. An object store may be away meanwhile.
func collectForCrash(h *registry.Handler, cleaner *retention.Cleaner, dir string, storeMayFail bool) error {
	freed, err := os.OpenFile(filepath.Join(dir, crashFreed), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer freed.Close()
	for range time.Tick(20 * time.Millisecond) {
		if _, err := cleaner.Clean(context.Background()); err != nil {
			return errors.Join(errors.New("the cleaner of a server failed"), err)
		}
		collected, err := h.Collect(context.Background())
		if err != nil && !storeMayFail {
			return errors.Join(errors.New("the collector of a server failed"), err)
		}
		if _, err := fmt.Fprintln(freed, collected.Blobs, collected.Bytes); err != nil {
			return err
		}
	}
	return nil
}
