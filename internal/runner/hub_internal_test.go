package runner

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/internal/engine"
	"slipway/internal/plan"
	"slipway/internal/protocol"
)

func TestHasDaemon(t *testing.T) {
	for image, want := range map[string]bool{
		"docker:dind":                                   true,
		"docker:27-dind":                                true,
		"docker:27.3.1-dind-alpine3.20":                 true,
		"docker.io/library/docker:dind":                 true,
		"registry.example.com/docker:dind":              true,
		"registry.example.com:5000/tools/docker:1-dind": true,
		"docker:dind@sha256:" + strings.Repeat("a", 64): true,
		"docker":               true, // has had a daemon since 2022
		"docker:28":            true,
		"docker:cli":           false,
		"docker:28-cli":        false,
		"docker:git":           false,
		"docker:dind-rootless": false,
		"plugins/docker:20":    false, // brings its own arguments, a mirror's among them
		"busybox:dind":         false,
		"dind":                 false,
		"Not a reference":      false,
		"":                     false,
	} {
		if got := hasDaemon(plan.Exec{Image: image, Privileged: true}); got != want {
			t.Errorf("%s: %v", image, got)
		}
	}
	for what, x := range map[string]plan.Exec{
		"not privileged":              {Image: "docker:dind"},
		"on the network of a machine": {Image: "docker:dind", Privileged: true, HostNetwork: true},
	} {
		if hasDaemon(x) {
			t.Error(what)
		}
	}
}

// offer returns what a step of x gets when its server mirrors the given registries.
func offer(x plan.Exec, mirrors ...string) (engine.Step, string) {
	r := New(Options{Registry: "http://server"})
	w := &walk{runner: r, hub: r.newHub(&protocol.Assignment{
		Registry: "ci.example.com", Mirrors: mirrors, Auths: []engine.Auth{{Host: "ci.example.com", Username: "job", Password: "token"}},
	})}
	step := engine.Step{Exec: x}
	sentence := (&stepRun{w: w}).offerHub(&step)
	return step, sentence
}

func TestOfferHub(t *testing.T) {
	dind := plan.Exec{Image: "docker:dind", Privileged: true, Args: []string{"--mtu=1400"}}
	step, sentence := offer(dind, "ghcr.io", "docker.io")
	if step.Local == nil || sentence == "" || len(step.Exec.Args) != 1 || len(step.Files) != 1 ||
		step.Files[0] != (engine.File{Path: "/etc/docker/daemon.json", Content: `{"registry-mirrors": ["http://127.0.0.1:27071"]}` + "\n"}) {
		t.Errorf("%+v, %q", step, sentence)
	}
	if step, sentence := offer(dind, "ghcr.io"); step.Local != nil || len(step.Files) != 0 || sentence != "" {
		t.Errorf("without a mirror of Docker Hub: %+v, %q", step, sentence)
	}
	if step, sentence := offer(plan.Exec{Image: "busybox", Privileged: true}, "docker.io"); step.Local != nil || len(step.Files) != 0 || sentence != "" {
		t.Errorf("busybox: %+v, %q", step, sentence)
	}
	for what, change := range map[string]func(*plan.Exec){
		"a mirror":          func(x *plan.Exec) { x.Args = []string{"--registry-mirror=http://10.0.0.1"} },
		"a mirror, apart":   func(x *plan.Exec) { x.Args = []string{"--registry-mirror", "http://10.0.0.1"} },
		"another file":      func(x *plan.Exec) { x.Entrypoint = []string{"dockerd", "--config-file=/x"} },
		"a script":          func(x *plan.Exec) { x.Script = "echo '{}' > /etc/docker/daemon.json; dockerd" },
		"a mounted file":    func(x *plan.Exec) { x.Mounts = []plan.Mount{{Source: "v", Path: "/etc/docker/daemon.json"}} },
		"a mounted folder":  func(x *plan.Exec) { x.Mounts = []plan.Mount{{Source: "v", Path: "/etc/docker/"}} },
		"a folder above it": func(x *plan.Exec) { x.Mounts = []plan.Mount{{Source: "v", Path: "/etc"}} },
	} {
		x := dind
		change(&x)
		if step, sentence := offer(x, "docker.io"); step.Local == nil || len(step.Files) != 0 || sentence != "" {
			t.Errorf("%s of the pipeline's: %+v, %q", what, step, sentence)
		}
	}
	certificates := dind
	certificates.Mounts = []plan.Mount{{Source: "v", Path: "/etc/docker/certs.d"}}
	if step, _ := offer(certificates, "docker.io"); len(step.Files) != 1 {
		t.Errorf("with certificates: %+v", step)
	}
}

// mirrorServer is a server of which a hub is made; it notes what it is asked.
type mirrorServer struct {
	*httptest.Server
	hub *httptest.Server

	mu    sync.Mutex
	asked []string
}

func newMirrorServer(t *testing.T, answer http.HandlerFunc) *mirrorServer {
	s := &mirrorServer{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		s.mu.Lock()
		s.asked = append(s.asked, r.Method+" "+r.RequestURI+" "+user+":"+password+" "+r.Header.Get("Range")+r.Header.Get("Cookie"))
		s.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(s.Server.Close)
	r := New(Options{Registry: s.URL + "/"})
	t.Cleanup(r.transport.CloseIdleConnections)
	s.hub = httptest.NewServer(r.newHub(&protocol.Assignment{
		Registry: "ci.example.com", Mirrors: []string{"docker.io"}, Auths: []engine.Auth{{Host: "ci.example.com", Username: "job", Password: "token"}},
	}))
	t.Cleanup(s.hub.Close)
	return s
}

// ask sends a request to the hub as it is written, and returns the answer with its body.
func (s *mirrorServer) ask(t *testing.T, method, path string, header http.Header) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.hub.URL, nil)
	if err != nil {
		t.Error(err)
		return &http.Response{}, ""
	}
	req.URL.Opaque = path
	for name, values := range header {
		req.Header[name] = values
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Error(err)
		return &http.Response{}, ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return resp, "broken off"
	}
	return resp, string(body)
}

// took returns what the server was asked since the last call.
func (s *mirrorServer) took() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := strings.Join(s.asked, "\n")
	s.asked = nil
	return all
}

var aDigest = "sha256:" + strings.Repeat("0a", 32)

func TestHub(t *testing.T) {
	s := newMirrorServer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Docker-Content-Digest", aDigest)
		w.Header().Set("Set-Cookie", "a=b")
		w.Header().Set("Www-Authenticate", "Bearer realm=x")
		if r.Header.Get("Range") != "" {
			w.WriteHeader(http.StatusPartialContent)
		}
		_, _ = io.WriteString(w, "bytes")
	})
	resp, body := s.ask(t, "GET", "/v2/library/busybox/manifests/1.36?ns=ghcr.io&x=y", http.Header{"Authorization": {"Basic x"}, "Cookie": {"c=d"}})
	if resp.StatusCode != 200 || body != "bytes" || resp.Header.Get("Docker-Content-Digest") != aDigest {
		t.Errorf("%s %q %v", resp.Status, body, resp.Header)
	}
	if resp.Header.Get("Set-Cookie") != "" || resp.Header.Get("Www-Authenticate") != "" {
		t.Errorf("the daemon is told %v", resp.Header)
	}
	if got := s.took(); got != "GET /v2/mirror/docker.io/library/busybox/manifests/1.36 job:token " {
		t.Errorf("the server is asked %q", got)
	}
	resp, _ = s.ask(t, "HEAD", "/v2/a/b_c/d--e/manifests/"+aDigest, nil)
	if got := s.took(); resp.StatusCode != 200 || got != "HEAD /v2/mirror/docker.io/a/b_c/d--e/manifests/"+aDigest+" job:token " {
		t.Errorf("%s, %q", resp.Status, got)
	}
	resp, _ = s.ask(t, "GET", "/v2/library/busybox/blobs/"+aDigest, http.Header{"Range": {"bytes=2-"}})
	if got := s.took(); resp.StatusCode != http.StatusPartialContent || !strings.HasSuffix(got, "/blobs/"+aDigest+" job:token bytes=2-") {
		t.Errorf("%s, %q", resp.Status, got)
	}
	if resp, body = s.ask(t, "GET", "/v2/", nil); resp.StatusCode != 200 || body != "{}" || resp.Header.Get("Docker-Distribution-API-Version") != "registry/2.0" {
		t.Errorf("%s %q %v", resp.Status, body, resp.Header)
	}
	if got := s.took(); got != "" {
		t.Errorf("the server is asked %q", got)
	}
}

// What is no question for an image of Docker Hub does not reach the server.
func TestHubRefuses(t *testing.T) {
	s := newMirrorServer(t, func(http.ResponseWriter, *http.Request) {})
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"} {
		if resp, _ := s.ask(t, method, "/v2/library/busybox/manifests/1", nil); resp.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("%s: %s", method, resp.Status)
		}
	}
	for _, path := range []string{
		"/", "/v2", "/v2/_catalog", "/v2/token", "/jwt/auth", "/api/runner/claim", "/v2/library/busybox/tags/list",
		"/v2/library/busybox/referrers/" + aDigest, "/v2/library/busybox/blobs/uploads/", "/v2/library/busybox/blobs/1",
		"/v2/../../octo/app/manifests/1", "/v2/library/../../../octo/app/manifests/1", "/v2/library/%2e%2e/octo/manifests/1",
		"/v2/library%2fbusybox/manifests/1", "/v2//octo/app/manifests/1", "/v2/UPPER/manifests/1", "/v2/a/manifests/", "/v2/a/manifests/x/y",
		"/v2/a/manifests/-x", "/v2/a/manifests/" + strings.Repeat("a", 129), "/v2/" + strings.Repeat("a/", 300) + "b/manifests/1",
		"http://elsewhere.example.com/v2/a/manifests/..", "/V2/a/manifests/1",
	} {
		if resp, _ := s.ask(t, "GET", path, nil); resp.StatusCode != http.StatusNotFound && path != "/v2" {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	if got := s.took(); got != "" {
		t.Errorf("the server is asked %q", got)
	}
}

// What the server cannot give is never taken for an image, and says nothing of logins.
func TestHubFails(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		status int
		body   string
	}{
		{"the job is over", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }, 404, "not for this job"},
		{"not allowed", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(403) }, 404, "not for this job"},
		{"not there", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, `{"errors": []}`, 404) }, 404, `{"errors": []}`},
		{"left alone", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(429) }, 429, ""},
		{"broken", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 502, "does not answer"},
		{"broken off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "200000")
			_, _ = io.WriteString(w, strings.Repeat("half", 25000))
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}, 200, "broken off"},
	} {
		s := newMirrorServer(t, test.answer)
		resp, body := s.ask(t, "GET", "/v2/library/busybox/blobs/"+aDigest, nil)
		if resp.StatusCode != test.status || !strings.Contains(body, test.body) {
			t.Errorf("%s: %s %q", test.name, resp.Status, body)
		}
	}
}

// A redirect to where the server keeps its bytes is followed here, without the login.
func TestHubFollows(t *testing.T) {
	bucket := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("the bucket gets the job's login")
		}
		_, _ = io.WriteString(w, "from the bucket")
	}))
	defer bucket.Close()
	s := newMirrorServer(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, strings.Replace(bucket.URL, "127.0.0.1", "localhost", 1)+"/x", http.StatusTemporaryRedirect)
	})
	if resp, body := s.ask(t, "GET", "/v2/library/busybox/blobs/"+aDigest, nil); resp.StatusCode != 200 || body != "from the bucket" {
		t.Errorf("%s %q", resp.Status, body)
	}
}

func TestHubBusy(t *testing.T) {
	release := make(chan struct{})
	free := sync.OnceFunc(func() { close(release) })
	defer free()
	arrived := make(chan struct{}, hubRequests)
	s := newMirrorServer(t, func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-release
	})
	var all sync.WaitGroup
	for range hubRequests {
		all.Go(func() { s.ask(t, "GET", "/v2/library/busybox/blobs/"+aDigest, nil) })
	}
	for range hubRequests {
		select {
		case <-arrived:
		case <-time.After(time.Minute):
			t.Fatal("the requests do not arrive")
		}
	}
	if resp, _ := s.ask(t, "GET", "/v2/library/busybox/blobs/"+aDigest, nil); resp.StatusCode != http.StatusTooManyRequests {
		t.Errorf("one more: %s", resp.Status)
	}
	free()
	all.Wait()
}

func FuzzHubPath(f *testing.F) {
	f.Add("/v2/library/busybox/manifests/latest")
	f.Add("/v2/a/b/blobs/" + aDigest)
	f.Add("/v2/../x/manifests/1")
	f.Fuzz(func(t *testing.T, path string) {
		if what := hubPath.FindStringSubmatch(path); what != nil {
			if strings.Contains(what[1], "..") && !strings.Contains(what[1], "/manifests/") || strings.Contains(what[1], "//") || strings.ContainsAny(what[1], "?#%\\ \n") {
				t.Errorf("%q becomes %q", path, what[1])
			}
		}
	})
}
