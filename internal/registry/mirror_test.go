package registry_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	crandom "github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"slipway/internal/buildkit"
	"slipway/internal/buildkit/buildkittest"
	"slipway/internal/registry"
	client "slipway/internal/remote"
	"slipway/internal/store"
)

// upstream is a real registry which counts the requests that it gets, and which can misbehave.
type upstream struct {
	*httptest.Server
	next http.Handler
	mu   sync.Mutex
	hits map[string]int // by "<method> <path>"
	trap func(w http.ResponseWriter, r *http.Request) (handled bool)
}

func newUpstream(t testing.TB) *upstream {
	t.Helper()
	u := &upstream{next: ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))), hits: map[string]int{}}
	u.Server = httptest.NewServer(u)
	t.Cleanup(u.Close)
	return u
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	u.hits[r.Method+" "+r.URL.Path]++
	trap := u.trap
	u.mu.Unlock()
	if trap == nil || !trap(w, r) {
		u.next.ServeHTTP(w, r)
	}
}

func (u *upstream) host() string { return strings.TrimPrefix(u.URL, "http://") }

// path is what the images of u are below.
func (u *upstream) path() string { return "mirror/" + strings.ReplaceAll(u.host(), ":", "_") }

// set makes u misbehave, or, with nil, behave.
func (u *upstream) set(trap func(http.ResponseWriter, *http.Request) bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.trap, u.hits = trap, map[string]int{}
}

// count returns how many requests there were since set, whose method and path begin so.
func (u *upstream) count(prefix string) (n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for what, hits := range u.hits {
		if strings.HasPrefix(what, prefix) {
			n += hits
		}
	}
	return n
}

// push puts an image into u and returns its manifest's digest and its layer's.
func (u *upstream) push(t testing.TB, ref string, size int64) (manifest, layer string) {
	t.Helper()
	image, err := crandom.Image(size, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := crane.Push(image, u.host()+"/"+ref); err != nil {
		t.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	blob, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.String(), blob.String()
}

// newMirror returns a site that fetches from hosts.
func newMirror(t testing.TB, hosts []string, change ...func(*registry.Options)) (*site, *clock) {
	t.Helper()
	c := &clock{}
	asks := client.New(client.Options{Insecure: hosts})
	t.Cleanup(asks.Close)
	return newSite(t, append([]func(*registry.Options){func(o *registry.Options) {
		o.Now = c.now
		o.Mirror = registry.Mirror{Hosts: hosts, Client: asks}
	}}, change...)...), c
}

// TestMirrorPull pulls an index with all its images through, and again when the other registry is gone.
func TestMirrorPull(t *testing.T) {
	u := newUpstream(t)
	index, err := crandom.Index(10_000, 2, 2)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewTag(u.host() + "/team/app:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, index); err != nil {
		t.Fatal(err)
	}
	s, clock := newMirror(t, []string{u.host()})
	pull := func() {
		t.Helper()
		ref, err := name.NewTag(s.host() + "/" + u.path() + "/team/app:1")
		if err != nil {
			t.Fatal(err)
		}
		got, err := remote.Index(ref, crane.GetOptions(as("reader")).Remote...)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Index(got); err != nil {
			t.Fatal(err)
		}
	}
	u.set(nil)
	pull()
	if n := u.count("GET /v2/team/app/"); n != 1+2+2+4 {
		t.Errorf("%d fetches, want each once", n)
	}
	u.set(nil)
	pull()
	if n := u.count(""); n != 0 {
		t.Errorf("%d requests for what is here and fresh", n)
	}
	clock.forward(2 * time.Hour)
	pull()
	if n := u.count("HEAD /v2/team/app/manifests/1"); n != 1 || u.count("GET /v2/team") != 0 {
		t.Errorf("a tag was checked %d times by HEAD: %v", n, u.hits)
	}
	clock.forward(2 * time.Hour)
	u.Close()
	pull()
	s.want(s.do("GET", "/v2/"+u.path()+"/team/app/manifests/2", nil), 404, "MANIFEST_UNKNOWN")
	clock.forward(31 * 24 * time.Hour)
	s.want(s.do("GET", "/v2/"+u.path()+"/team/app/manifests/1", nil), 404, "MANIFEST_UNKNOWN")
}

// TestMirrorTagMoves follows a tag, and leaves it alone once somebody has pushed it here.
func TestMirrorTagMoves(t *testing.T) {
	u := newUpstream(t)
	first, _ := u.push(t, "app:1", 100)
	s, clock := newMirror(t, []string{u.host()})
	path := "/v2/" + u.path() + "/app/manifests/1"
	s.wantHeader(s.want(s.do("GET", path, nil), 200), "Docker-Content-Digest", first)
	second, _ := u.push(t, "app:1", 100)
	s.wantHeader(s.want(s.do("GET", path, nil), 200), "Docker-Content-Digest", first)
	clock.forward(2 * time.Hour)
	s.wantHeader(s.want(s.do("GET", path, nil), 200), "Docker-Content-Digest", second)

	manifest := s.image(u.path()+"/app", nil)
	s.want(s.putManifest(u.path()+"/app", "1", manifest), 201)
	clock.forward(1000 * time.Hour)
	s.wantHeader(s.want(s.do("GET", path, nil), 200), "Docker-Content-Digest", sum256(manifest))
	changes, err := s.store.TagHistory(t.Context(), u.path()+"/app", "1", 10)
	if err != nil || len(changes) != 3 || changes[0].By != "admin" || changes[1].By != store.Mirror {
		t.Errorf("history %v, %v", changes, err)
	}
	// The same image, pushed by hand, is somebody's as well.
	u.push(t, "same:1", 100)
	image, err := crane.Pull(u.host() + "/same:1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.pull(u.path() + "/same:1"); err != nil {
		t.Fatal(err)
	}
	content, err := image.RawManifest()
	if err != nil {
		t.Fatal(err)
	}
	mediaType, err := image.MediaType()
	if err != nil {
		t.Fatal(err)
	}
	s.want(s.do("PUT", "/v2/"+u.path()+"/same/manifests/1", bytes.NewReader(content), "Content-Type: "+string(mediaType)), 201)
	u.Close()
	clock.forward(1000 * time.Hour)
	if _, err := s.pull(u.path() + "/same:1"); err != nil {
		t.Error(err)
	}
}

// TestMirrorLogin fetches from a registry of our own kind, with its token flow.
func TestMirrorLogin(t *testing.T) {
	up := newSite(t)
	manifest := up.image("octo/app", nil)
	up.want(up.putManifest("octo/app", "1", manifest), 201)
	path := "/v2/mirror/" + strings.ReplaceAll(up.host(), ":", "_") + "/octo/app/manifests/1"
	for password, want := range map[string]int{"octo-password": 200, "wrong": 404, "": 404} {
		asks := client.New(client.Options{Insecure: []string{up.host()}, Login: func(host string) (string, string, error) {
			if host != up.host() {
				return "", "", fmt.Errorf("asked for the login of %s", host)
			}
			return "octo", password, nil
		}})
		s := newSite(t, func(o *registry.Options) { o.Mirror = registry.Mirror{Hosts: []string{up.host()}, Client: asks} })
		a := s.want(s.do("GET", path, nil), want)
		if want == 200 && !bytes.Equal(a.body, manifest) {
			t.Errorf("got %s", a.body)
		}
		asks.Close()
	}
}

// TestMirrorOnce lets a hundred clients wait for one fetch.
func TestMirrorOnce(t *testing.T) {
	const clients = 100
	u := newUpstream(t)
	digest, layer := u.push(t, "app:1", 1<<20)
	gate := make(chan struct{})
	u.set(func(http.ResponseWriter, *http.Request) bool { <-gate; return false })
	s, _ := newMirror(t, []string{u.host()})
	var arrived atomic.Int64
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if arrived.Add(1) == clients {
			close(gate)
		}
		s.handler.ServeHTTP(w, r)
	}))
	defer front.Close()
	for _, what := range []string{"manifests/1", "manifests/" + digest, "blobs/" + layer} {
		var group sync.WaitGroup
		for range clients {
			group.Go(func() {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, front.URL+"/v2/"+u.path()+"/app/"+what, nil)
				if err != nil {
					t.Error(err)
					return
				}
				req.SetBasicAuth("reader", "reader-password")
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				defer resp.Body.Close()
				body, err := io.ReadAll(resp.Body)
				if err != nil || resp.StatusCode != 200 || resp.Header.Get("Docker-Content-Digest") != sum256(body) {
					t.Errorf("%d, %d bytes, %v", resp.StatusCode, len(body), err)
				}
			})
		}
		group.Wait()
		want := 1
		if what == "manifests/"+digest {
			want = 0 // it came with the tag
		}
		if n := u.count("GET /v2/app/" + what); n != want {
			t.Errorf("%s was fetched %d times, want %d", what, n, want)
		}
		gate = make(chan struct{})
		arrived.Store(0)
		u.set(func(http.ResponseWriter, *http.Request) bool { <-gate; return false })
	}
}

// TestMirrorStreams sends the first half of a blob on before the second has come.
func TestMirrorStreams(t *testing.T) {
	u := newUpstream(t)
	content := random(2 << 20)
	digest := sum256(content)
	gate := make(chan struct{})
	u.set(func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		_, _ = w.Write(content[:1<<20])
		_ = http.NewResponseController(w).Flush()
		<-gate
		_, _ = w.Write(content[1<<20:])
		return true
	})
	s, _ := newMirror(t, []string{u.host()})
	get := func(headers ...string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/v2/"+u.path()+"/app/blobs/"+digest, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("reader", "reader-password")
		for _, h := range headers {
			name, value, _ := strings.Cut(h, ": ")
			req.Header.Set(name, value)
		}
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	resp := get()
	defer resp.Body.Close()
	half := make([]byte, 1<<20)
	if _, err := io.ReadFull(resp.Body, half); err != nil {
		t.Fatal(err)
	}
	part := get("Range: bytes=1000-1999")
	defer part.Body.Close()
	if body, err := io.ReadAll(part.Body); err != nil || part.StatusCode != 206 || !bytes.Equal(body, content[1000:2000]) {
		t.Errorf("a range gets %d, %d bytes, %v", part.StatusCode, len(body), err)
	}
	close(gate)
	rest, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(append(half, rest...), content) {
		t.Errorf("%v", err)
	}
	a := s.want(s.do("HEAD", "/v2/"+u.path()+"/app/blobs/"+digest, nil), 200)
	s.wantHeader(a, "Content-Length", fmt.Sprint(len(content)))
	if n := u.count("GET"); n != 1 {
		t.Errorf("%d fetches", n)
	}
	s.wantFiles(1)
}

// TestMirrorBadUpstream gets what is wrong, and keeps nothing of it.
func TestMirrorBadUpstream(t *testing.T) {
	content := random(100_000)
	wrong := append(bytes.Clone(content[:99_999]), content[99_999]+1)
	digest := sum256(content)
	send := func(body []byte, length int, headers ...string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			if length >= 0 {
				w.Header().Set("Content-Length", fmt.Sprint(length))
			}
			for _, h := range headers {
				name, value, _ := strings.Cut(h, ": ")
				w.Header().Set(name, value)
			}
			_, _ = w.Write(body)
			_ = http.NewResponseController(w).Flush()
			return true
		}
	}
	manifest := `{"schemaVersion":2,"mediaType":"` + mediaIndex + `","manifests":[]}`
	for name, test := range map[string]struct {
		path   string
		trap   func(http.ResponseWriter, *http.Request) bool
		status int // 0: the connection breaks, or, if all came at once, it is an error
	}{
		"a blob with a wrong last byte":      {"blobs/" + digest, send(wrong, 100_000), 0},
		"a blob of wrong, unknown length":    {"blobs/" + digest, send(wrong, -1), 502},
		"a blob that ends early":             {"blobs/" + digest, send(content[:50_000], 100_000), 0},
		"a blob that is too long":            {"blobs/" + digest, send(nil, 2<<20), 502},
		"a blob without end":                 {"blobs/" + digest, send(make([]byte, 2<<20), -1), 502},
		"an empty blob":                      {"blobs/" + digest, send(nil, 0), 502},
		"a manifest with another digest":     {"manifests/" + digest, send([]byte(manifest), -1, "Content-Type: "+mediaIndex), 502},
		"a tag whose digest is a lie":        {"manifests/1", send([]byte(manifest), -1, "Content-Type: "+mediaIndex, "Docker-Content-Digest: "+digest), 502},
		"a manifest of 5 MB":                 {"manifests/1", send(make([]byte, 5_000_000), -1, "Content-Type: "+mediaIndex), 502},
		"a manifest that is a page":          {"manifests/1", send([]byte("<html>"), -1, "Content-Type: text/html"), 502},
		"a manifest with a path as a digest": {"manifests/1", send([]byte(`{"schemaVersion":2,"manifests":[{"digest":"../../x","size":1}]}`), -1, "Content-Type: "+mediaIndex), 502},
		"a registry that redirects in circles": {"blobs/" + digest, func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
			return true
		}, 404},
		"a registry that redirects elsewhere by HTTP": {"blobs/" + digest, func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusTemporaryRedirect)
			return true
		}, 404},
		"a token endpoint elsewhere by HTTP": {"blobs/" + digest, func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("WWW-Authenticate", `Bearer realm="ftp://192.0.2.1/"`)
			w.WriteHeader(401)
			return true
		}, 404},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			u.set(test.trap)
			s, _ := newMirror(t, []string{u.host()}, func(o *registry.Options) { o.MaxBlob = 1 << 20 })
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/v2/"+u.path()+"/app/"+test.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.SetBasicAuth("reader", "reader-password")
			resp, err := http.DefaultTransport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if test.status == 0 {
				if broken := errors.Is(err, io.ErrUnexpectedEOF) && len(body) < len(content); !broken && resp.StatusCode < 400 {
					t.Errorf("%d: %d bytes, %v", resp.StatusCode, len(body), err)
				}
			} else if resp.StatusCode != test.status || err != nil {
				t.Errorf("%d %.300s, %v", resp.StatusCode, body, err)
			}
			s.handler.Close()
			s.wantFiles(0)
		})
	}
}

// TestMirrorRecovers goes on when a fetch that broke is asked for again.
func TestMirrorRecovers(t *testing.T) {
	u := newUpstream(t)
	_, layer := u.push(t, "app:1", 100_000)
	u.set(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Length", "100000")
		_, _ = w.Write(make([]byte, 1000))
		return true
	})
	s, _ := newMirror(t, []string{u.host()})
	path := "/v2/" + u.path() + "/app/blobs/" + layer
	s.want(s.do("HEAD", path, nil), 404)
	u.set(nil)
	a := s.want(s.do("GET", path, nil), 200)
	if sum256(a.body) != layer {
		t.Error("another blob")
	}
}

// TestMirrorLeavesAlone asks no more for a while when it is told to, or not answered.
func TestMirrorLeavesAlone(t *testing.T) {
	u := newUpstream(t)
	u.push(t, "app:1", 100)
	s, clock := newMirror(t, []string{u.host()})
	path := "/v2/" + u.path() + "/app/manifests/"
	s.want(s.do("GET", path+"1", nil), 200)
	u.set(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Retry-After", "100")
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	})
	s.want(s.do("GET", path+"2", nil), 429, "TOOMANYREQUESTS")
	s.want(s.do("GET", path+"3", nil), 429, "TOOMANYREQUESTS")
	s.want(s.do("GET", "/v2/"+u.path()+"/app/blobs/"+sum256(nil), nil), 429, "TOOMANYREQUESTS")
	if n := u.count(""); n != 1 {
		t.Errorf("%d requests", n)
	}
	clock.forward(90 * time.Second)
	s.want(s.do("GET", path+"3", nil), 429)
	clock.forward(11 * time.Second)
	u.set(nil)
	s.want(s.do("GET", path+"3", nil), 404)
	if n := u.count(""); n != 1 {
		t.Errorf("%d requests after the pause", n)
	}

	u.set(func(w http.ResponseWriter, _ *http.Request) bool { panic(http.ErrAbortHandler) })
	s.want(s.do("GET", path+"4", nil), 404)
	u.set(nil)
	clock.forward(2 * time.Hour)
	s.want(s.do("GET", path+"1", nil), 200)
	u.set(func(w http.ResponseWriter, _ *http.Request) bool { panic(http.ErrAbortHandler) })
	clock.forward(2 * time.Hour)
	s.want(s.do("GET", path+"1", nil), 200) // stale
	before := u.count("")
	s.want(s.do("GET", path+"1", nil), 200)
	s.want(s.do("GET", path+"5", nil), 404)
	if n := u.count(""); before == 0 || n != before {
		t.Errorf("%d requests, then %d, of a registry that does not answer", before, n)
	}
}

// TestMirrorHosts asks nobody but who was named.
func TestMirrorHosts(t *testing.T) {
	u, other := newUpstream(t), newUpstream(t)
	other.push(t, "app:1", 100)
	s, _ := newMirror(t, []string{u.host()})
	s.want(s.do("GET", "/v2/app/manifests/1?ns="+other.host(), nil), 404)
	s.want(s.do("GET", "/v2/"+other.path()+"/app/manifests/1", nil), 404)
	s.want(s.do("GET", "/v2/app/manifests/1?ns="+u.host()+"@"+other.host(), nil), 404, "NAME_INVALID")
	s.want(s.do("GET", "/v2/"+u.path()+"/app/manifests/1", nil, "Authorization: "), 401)
	s.want(s.do("GET", "/v2/app/manifests/1?ns="+u.host(), nil), 404)
	other.set(nil)
	if n := other.count(""); n != 0 {
		t.Errorf("%d requests to a host that was not named", n)
	}
	if n := u.count(""); n != 1 {
		t.Errorf("%d requests to the host that was named", n)
	}
}

// pull pulls an image whole and returns its digest.
func (s *site) pull(ref string) (string, error) {
	image, err := crane.Pull(s.host()+"/"+ref, as("reader"))
	if err != nil {
		return "", err
	}
	if err := validate.Image(image); err != nil {
		return "", err
	}
	digest, err := image.Digest()
	return digest.String(), err
}

// TestMirrorClosedPort answers without an upstream, on a machine that reaches none.
func TestMirrorClosedPort(t *testing.T) {
	u := newUpstream(t)
	u.Close()
	s, _ := newMirror(t, []string{u.host()})
	for range 3 {
		s.want(s.do("GET", "/v2/library/busybox/manifests/1?ns="+u.host(), nil), 404, "MANIFEST_UNKNOWN")
		s.want(s.do("GET", "/v2/library/busybox/blobs/"+sum256(nil)+"?ns="+u.host(), nil), 404, "BLOB_UNKNOWN")
	}
}

// TestMirrorBuildKit pulls through with the engine's client.
func TestMirrorBuildKit(t *testing.T) {
	u := newUpstream(t)
	image := buildkittest.Image(t, buildkittest.Layer(t, map[string]string{"hello": "world"}))
	if err := crane.Push(image, u.host()+"/octo/app:v1"); err != nil {
		t.Fatal(err)
	}
	want, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	s, _ := newMirror(t, []string{u.host()})
	daemon := buildkittest.Open(t, buildkit.Options{Mirrors: map[string][]buildkit.Mirror{
		u.host(): {{URL: s.URL, Username: "reader", Password: "reader-password"}},
	}})
	for range 2 {
		pulled, err := daemon.Pull(t.Context(), u.host()+"/octo/app:v1", buildkit.PullOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if pulled.Digest != want.String() {
			t.Errorf("got %s, want %s", pulled.Digest, want)
		}
		pulled.Release()
	}
	if got, err := s.pull(u.path() + "/octo/app:v1"); err != nil || got != want.String() {
		t.Errorf("%s, %v", got, err)
	}
	if n := u.count("GET /v2/octo/app/manifests/v1"); n != 1 {
		t.Errorf("the tag was fetched %d times", n)
	}
}
