package prune_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	crane2 "github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"slipway/internal/prune"
	"slipway/internal/registry"
	"slipway/internal/remote"
	"slipway/internal/store/sqlstore"
	"slipway/internal/testneeds"
)

// distribution starts a real distribution registry and returns its host.
func distribution(t *testing.T, deletes bool) string {
	t.Helper()
	program := testneeds.Tool(t, "distribution")
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf(`version: 0.1
log: {level: info}
storage:
  filesystem: {rootdirectory: %s}
  delete: {enabled: %v}
http: {addr: "127.0.0.1:0"}
`, filepath.Join(dir, "data"), deletes)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), program, "serve", config)
	output, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	found := make(chan string, 1)
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		var log strings.Builder
		buffer := make([]byte, 4096)
		sent := false
		for {
			n, err := output.Read(buffer)
			log.Write(buffer[:n])
			if m := listening.FindStringSubmatch(log.String()); m != nil && !sent {
				found <- m[1]
				sent = true
			}
			if err != nil {
				if !sent {
					found <- ""
					t.Logf("distribution says: %s", log.String())
				}
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-drained
		_ = cmd.Wait()
	})
	host := <-found
	if host == "" {
		t.Fatal("distribution did not start")
	}
	return host
}

var listening = regexp.MustCompile(`listening on (127\.0\.0\.1:\d+)`)

// own starts Slipway's registry.
func own(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	db, err := sqlstore.Open(t.Context(), filepath.Join(dir, "slipway.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	handler, err := registry.New(registry.Options{Dir: dir, Store: db, Authority: octo{}, Key: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(handler.Close)
	return serve(t, handler)
}

func serve(t *testing.T, handler http.Handler) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// octo is the Authority of a registry in which octo may do everything, and guest read.
type octo struct{ name string }

func (octo) Access(_ context.Context, username, password string) (registry.Grants, error) {
	if password != username+"-password" {
		return nil, registry.ErrCredentials
	}
	return octo{username}, nil
}
func (o octo) Subject() string { return o.name }
func (o octo) Allows(_ string, action registry.Action) bool {
	return o.name == "octo" || action == registry.Pull
}

// before puts answer in front of the registry at host: a registry of another kind.
func before(t *testing.T, host string, answer func(w http.ResponseWriter, r *http.Request, pass http.Handler)) string {
	t.Helper()
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: host})
	proxy.ModifyResponse = func(resp *http.Response) error {
		if at, err := url.Parse(resp.Header.Get("Location")); err == nil && at.Host != "" {
			at.Scheme, at.Host = "", ""
			resp.Header.Set("Location", at.String())
		}
		return nil
	}
	return serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(w, r, proxy) }))
}

// refuse answers as registries do.
func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":"no"}]}`, code)
}

// deletedTag returns the tag that r deletes by the address of manifests, or "".
func deletedTag(r *http.Request) string {
	i := strings.LastIndex(r.URL.Path, "/manifests/")
	if r.Method != http.MethodDelete || i < 0 || strings.Contains(r.URL.Path[i:], ":") {
		return ""
	}
	return r.URL.Path[i+len("/manifests/"):]
}

// The kinds of registries.
var kinds = map[string]func(t *testing.T) string{
	"slipway":      own,
	"distribution": func(t *testing.T) string { return distribution(t, true) },
	// As distribution was before its version 3.
	"digests only": func(t *testing.T) string {
		return before(t, distribution(t, true), func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
			if deletedTag(r) != "" {
				refuse(w, http.StatusBadRequest, "DIGEST_INVALID")
				return
			}
			pass.ServeHTTP(w, r)
		})
	},
	// As GitLab's: tags have an address of their own.
	"gitlab": func(t *testing.T) string {
		return before(t, distribution(t, true), func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
			if deletedTag(r) != "" {
				refuse(w, http.StatusBadRequest, "DIGEST_INVALID")
				return
			}
			r.URL.Path = strings.Replace(r.URL.Path, "/tags/reference/", "/manifests/", 1)
			pass.ServeHTTP(w, r)
		})
	},
	"tags only": func(t *testing.T) string {
		return before(t, distribution(t, true), func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
			if r.Method == http.MethodDelete && strings.Contains(r.URL.Path, "sha256:") {
				refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED")
				return
			}
			pass.ServeHTTP(w, r)
		})
	},
	// A trap: who deletes a tag deletes the image with all its tags.
	"tag means image": func(t *testing.T) string {
		host := distribution(t, true)
		return before(t, host, func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
			if tag := deletedTag(r); tag != "" {
				digest, err := crane.Digest(host + "/octo/app:" + tag)
				if err != nil {
					refuse(w, http.StatusNotFound, "MANIFEST_UNKNOWN")
					return
				}
				r.URL.Path = "/v2/octo/app/manifests/" + digest
			}
			pass.ServeHTTP(w, r)
		})
	},
}

func newClient(t *testing.T, host, user string) *remote.Client {
	t.Helper()
	c := remote.New(remote.Options{Insecure: []string{host}, Login: func(string) (string, string, error) { return user, user + "-password", nil }})
	t.Cleanup(c.Close)
	return c
}

func basic(user string) authn.Authenticator {
	return &authn.Basic{Username: user, Password: user + "-password"}
}

func as(user string) crane.Option { return crane.WithAuth(basic(user)) }

// image makes an image that says when it was made.
func image(t *testing.T, at time.Time) v1.Image {
	t.Helper()
	made, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	if made, err = mutate.CreatedAt(made, v1.Time{Time: at}); err != nil {
		t.Fatal(err)
	}
	return made
}

// site is a repository with tags, some of which share images.
type site struct {
	host  string
	repo  remote.Repository
	index v1.ImageIndex
}

func newSite(t *testing.T, host string) *site {
	t.Helper()
	s := &site{host: host, repo: remote.Repository{Host: host, Name: "octo/app"}}
	now := time.Now()
	old, older := image(t, now.AddDate(0, 0, -100)), image(t, now.AddDate(0, 0, -200))
	for tag, made := range map[string]v1.Image{
		"v1": older, "stable": older, "v2": old, "v2.0": old, "v3": image(t, now), "undated": image(t, time.Date(1980, 1, 1, 0, 0, 1, 0, time.UTC)), // as buildpacks say
	} {
		if err := crane.Push(made, s.repo.String()+":"+tag, as("octo")); err != nil {
			t.Fatal(err)
		}
	}
	s.index = mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: old})
	ref, err := name.NewTag(s.repo.String() + ":multi")
	if err != nil {
		t.Fatal(err)
	}
	if err := crane2.WriteIndex(ref, s.index, crane2.WithAuth(basic("octo"))); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *site) tags(t *testing.T) []string {
	t.Helper()
	tags, err := crane.ListTags(s.repo.String(), as("octo"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(tags)
	return tags
}

// pull checks that an image is whole.
func (s *site) pull(t *testing.T, tag string) {
	t.Helper()
	ref, err := name.NewTag(s.repo.String() + ":" + tag)
	if err != nil {
		t.Fatal(err)
	}
	if tag == "multi" {
		index, err := crane2.Index(ref, crane2.WithAuth(basic("octo")))
		if err == nil {
			err = validate.Index(index)
		}
		if err != nil {
			t.Errorf("%s: %v", tag, err)
		}
		return
	}
	made, err := crane2.Image(ref, crane2.WithAuth(basic("octo")))
	if err == nil {
		err = validate.Image(made)
	}
	if err != nil {
		t.Errorf("%s: %v", tag, err)
	}
}

// TestPrune deletes tags of each kind of registry, and pulls all that remain.
func TestPrune(t *testing.T) {
	for kind, start := range kinds {
		t.Run(kind, func(t *testing.T) {
			s := newSite(t, start(t))
			c := newClient(t, s.host, "octo")
			tags, err := prune.List(t.Context(), c, s.repo)
			if err != nil {
				t.Fatal(err)
			}
			rules := prune.Rules{Match: regexp.MustCompile(`^(v|undated)`), OlderThan: 30 * 24 * time.Hour}
			var doomed []prune.Tag
			for _, d := range rules.Decide(tags, time.Now()) {
				if d.Delete {
					doomed = append(doomed, d.Tag)
				}
			}
			deleted := 0
			if err := prune.Delete(t.Context(), c, s.repo, doomed, func(r prune.Result) {
				deleted++
				if r.Kept != "" {
					t.Errorf("%s kept: %s", r.Tag.Name, r.Kept)
				}
			}); err != nil {
				t.Fatal(err)
			}
			want := []string{"multi", "stable", "undated", "v3"}
			if got := s.tags(t); !slices.Equal(got, want) || deleted != 3 {
				t.Fatalf("%d deleted, %q remain, want %q", deleted, got, want)
			}
			for _, tag := range want {
				s.pull(t, tag)
			}
		})
	}
}

// TestPruneSwitchedOff leaves a registry that deletes nothing as it was.
func TestPruneSwitchedOff(t *testing.T) {
	host := distribution(t, false)
	s := newSite(t, host)
	before := s.tags(t)
	err := prune.Delete(t.Context(), newClient(t, host, "octo"), s.repo, []prune.Tag{{Name: "v1"}}, func(prune.Result) { t.Error("done") })
	if !errors.Is(err, prune.ErrSwitchedOff) {
		t.Errorf("got %v", err)
	}
	if after := s.tags(t); !slices.Equal(before, after) {
		t.Errorf("%q became %q", before, after)
	}
}

// TestPruneMoved keeps a tag that somebody has pushed since, and does not mind one that is gone.
func TestPruneMoved(t *testing.T) {
	s := newSite(t, own(t))
	c := newClient(t, s.host, "octo")
	tags, err := prune.List(t.Context(), c, s.repo)
	if err != nil {
		t.Fatal(err)
	}
	if err := crane.Push(image(t, time.Now()), s.repo.String()+":v1", as("octo")); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(t.Context(), s.repo, "v2"); err != nil {
		t.Fatal(err)
	}
	var kept []string
	doomed := slices.DeleteFunc(tags, func(tag prune.Tag) bool { return tag.Name != "v1" && tag.Name != "v2" })
	if err := prune.Delete(t.Context(), c, s.repo, doomed, func(r prune.Result) {
		if r.Kept != "" {
			kept = append(kept, r.Tag.Name)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(kept, []string{"v1"}) {
		t.Errorf("kept %q", kept)
	}
	s.pull(t, "v1")
}

// TestPruneForbidden stops before the first deletion when the login may only read.
func TestPruneForbidden(t *testing.T) {
	s := newSite(t, own(t))
	before := s.tags(t)
	err := prune.Delete(t.Context(), newClient(t, s.host, "guest"), s.repo, []prune.Tag{{Name: "v1"}}, func(prune.Result) { t.Error("done") })
	var answer *remote.Error
	if !errors.As(err, &answer) || answer.Status != http.StatusUnauthorized && answer.Status != http.StatusForbidden {
		t.Errorf("got %v", err)
	}
	if after := s.tags(t); !slices.Equal(before, after) {
		t.Errorf("%q became %q", before, after)
	}
	if _, err := prune.List(t.Context(), newClient(t, s.host, "nobody"), remote.Repository{Host: s.host, Name: "octo/none"}); !remote.Missing(err) {
		t.Errorf("a repository that is not there: %v", err)
	}
}

// TestPruneInterrupted breaks the connection at each request of a deletion by a manifest in place of the tag, and then
// lets it end: no other tag ever suffers.
func TestPruneInterrupted(t *testing.T) {
	inner := kinds["digests only"](t)
	var left atomic.Int64
	left.Store(1 << 40)
	host := before(t, inner, func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		if left.Add(-1) < 0 {
			panic(http.ErrAbortHandler)
		}
		pass.ServeHTTP(w, r)
	})
	s := newSite(t, host)
	c := newClient(t, host, "octo")
	tags, err := prune.List(t.Context(), c, s.repo)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(tags, func(tag prune.Tag) bool { return tag.Name == "v1" })
	for n := int64(0); ; n++ {
		left.Store(n)
		err := prune.Delete(t.Context(), c, s.repo, tags[i:i+1], func(prune.Result) {})
		left.Store(1 << 40)
		if n == 0 && err == nil {
			t.Fatal("nothing was interrupted")
		}
		for _, tag := range []string{"stable", "v2", "v2.0", "v3", "undated", "multi"} {
			s.pull(t, tag)
		}
		if err == nil {
			break
		}
		if n > 100 {
			t.Fatal("it never ends")
		}
	}
	// What the interrupted ones left is the first to go.
	tags, err = prune.List(t.Context(), c, s.repo)
	if err != nil {
		t.Fatal(err)
	}
	var doomed []prune.Tag
	for _, d := range (prune.Rules{OlderThan: 20 * 365 * 24 * time.Hour}).Decide(tags, time.Now()) {
		if d.Delete {
			doomed = append(doomed, d.Tag)
		}
	}
	if err := prune.Delete(t.Context(), c, s.repo, doomed, func(prune.Result) {}); err != nil {
		t.Fatal(err)
	}
	if got, want := s.tags(t), []string{"multi", "stable", "undated", "v2", "v2.0", "v3"}; !slices.Equal(got, want) {
		t.Errorf("%q remain, want %q", got, want)
	}
}
