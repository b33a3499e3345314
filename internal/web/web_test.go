package web_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"slipway/internal/auth"
	"slipway/internal/blob"
	"slipway/internal/ci"
	"slipway/internal/flow"
	"slipway/internal/forge"
	"slipway/internal/protocol"
	"slipway/internal/retention"
	"slipway/internal/runlog"
	"slipway/internal/secret"
	"slipway/internal/store/sqlstore"
	"slipway/internal/web"
)

// site is a server with the real flow, store and logs. Its forge has one pipeline file, and the test is its runner.
type site struct {
	t     testing.TB
	flow  *flow.Flow
	db    *sqlstore.DB
	auth  *auth.Authority
	url   string
	file  string // the pipeline file of every commit
	admin string // a token
	inUse retention.Usage
	// images keeps the registry tidy.
	images *retention.Cleaner
}

// oneFile is a forge whose repos have the same pipeline file at every commit.
type oneFile struct{ site *site }

func (o oneFile) Describe(_ context.Context, repo forge.Repo) (ci.Repo, error) {
	repo.Repo.CloneURL = o.site.url + "/git/" + repo.Name + ".git"
	return repo.Repo, nil
}

func (o oneFile) Register(context.Context, forge.Repo, string) error { return nil }

func (o oneFile) Hook(context.Context, forge.Repo, http.Header, []byte) (ci.Event, string, error) {
	return ci.Event{}, "", forge.ErrForged
}

func (o oneFile) File(_ context.Context, _ forge.Repo, _, path string) ([]byte, error) {
	if path != ".drone.yml" {
		return nil, forge.ErrNotFound
	}
	return []byte(o.site.file), nil
}

func (o oneFile) Report(context.Context, forge.Repo, forge.Status) error { return nil }

// twoJobs is a pipeline of two jobs, the first of two steps.
const twoJobs = `
kind: pipeline
type: docker
name: test
clone: {disable: true}
steps:
  - {name: unit, image: busybox, commands: [x]}
  - {name: race, image: busybox, commands: [x]}
---
kind: pipeline
type: docker
name: deploy
clone: {disable: true}
steps:
  - {name: rollout, image: busybox, commands: [x]}
depends_on: [test]
`

func newSite(t testing.TB, scheme string) *site {
	t.Helper()
	return newSiteOn(t, scheme, filepath.Join(t.TempDir(), "slipway.db"))
}

// newSiteOn is newSite with the database of that address.
func newSiteOn(t testing.TB, scheme, database string) *site {
	t.Helper()
	dir := t.TempDir()
	db, err := sqlstore.Open(t.Context(), database)
	check(t, err)
	t.Cleanup(func() { check(t, db.Close()) })
	keys, err := secret.OpenKeys(filepath.Join(dir, "secret.key"))
	check(t, err)
	blobs, err := blob.OpenDir(filepath.Join(dir, "blobs"))
	check(t, err)
	t.Cleanup(func() { check(t, blobs.Close()) })
	logs, err := runlog.Open(t.Context(), filepath.Join(dir, "logs"), blobs, runlog.Options{})
	check(t, err)
	t.Cleanup(func() { check(t, logs.Close()) })
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	s := &site{t: t, db: db, file: twoJobs, auth: &auth.Authority{Tokens: db, Jobs: db, Key: key, Now: time.Now}}
	s.images = &retention.Cleaner{Store: db, Facts: s, Now: time.Now}
	server := httptest.NewUnstartedServer(nil)
	s.url = "http://" + server.Listener.Addr().String()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	s.flow = flow.New(flow.Options{
		Store: db, Logs: logs, Keys: keys, Auth: s.auth, Log: log, Forges: map[string]forge.Forge{flow.OwnForge: oneFile{s}},
		URL: strings.Replace(s.url, "http", scheme, 1), Registry: "registry.test",
	})
	server.Config.Handler = web.New(web.Options{
		Flow: s.flow, Store: db, Logs: logs, Auth: s.auth, Log: log, Images: s.images,
	})
	server.Start()
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections) // streams end with their browser
	t.Cleanup(func() { s.flow.Close(context.Background()) })
	s.admin = s.token("admin", auth.ScopeAdmin)
	return s
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *site) token(name string, scopes ...string) string {
	s.t.Helper()
	text, _, err := s.auth.Create(s.t.Context(), name, scopes, time.Time{})
	check(s.t, err)
	return text
}

func (s *site) addRepo(name string, private bool) {
	s.t.Helper()
	_, err := s.flow.AddRepo(s.t.Context(), flow.NewRepo{Name: name, Private: private})
	check(s.t, err)
}

// push makes a run of a repo.
func (s *site) push(repo, message string) ci.Run {
	s.t.Helper()
	run, skip, err := s.flow.Accept(s.t.Context(), repo, ci.Event{
		Kind: ci.Push, Ref: "refs/heads/main", After: strings.Repeat("c0ffee12", 5), Source: "main", Target: "main",
		Commit: ci.Commit{Message: message, Author: ci.Signature{Name: "Ada <b>Lovelace</b>", Email: "ada@example.com"}},
		Link:   "javascript:alert(1)",
	})
	check(s.t, err)
	if skip != "" {
		s.t.Fatal(skip)
	}
	return run
}

// job is a claimed job, in the hands of a runner that does as it is told.
type job struct {
	s      *site
	lease  string
	seq    int64
	offset map[int]int64
}

func (s *site) claim() *job {
	s.t.Helper()
	a, err := s.flow.Claim(s.t.Context(), protocol.Claim{Runner: "test", OS: "linux", Arch: "amd64", Lease: rand.Text()})
	check(s.t, err)
	if a == nil {
		s.t.Fatal("there is no job to claim")
	}
	return &job{s: s, lease: a.Lease, offset: map[int]int64{}}
}

func (j *job) append(e protocol.Event) {
	j.s.t.Helper()
	j.seq++
	e.Seq, e.Time = j.seq, time.Now()
	check(j.s.t, j.s.flow.Append(j.s.t.Context(), j.lease, []protocol.Event{e}))
}

func (j *job) start(step int) {
	j.s.t.Helper()
	j.append(protocol.Event{Start: &protocol.StepStart{Step: step}})
}

func (j *job) log(step int, text string) {
	j.s.t.Helper()
	for piece := range slices.Chunk([]byte(text), 32<<10) { // no more than the server takes at once
		j.append(protocol.Event{Log: &protocol.Log{Step: step, Offset: j.offset[step], Data: piece}})
		j.offset[step] += int64(len(piece))
	}
}

func (j *job) end(step int, status ci.Status, code int) {
	j.s.t.Helper()
	j.append(protocol.Event{End: &protocol.StepEnd{Step: step, Status: status, ExitCode: code}})
}

func (j *job) finish(status ci.Status) {
	j.s.t.Helper()
	check(j.s.t, j.s.flow.Finish(j.s.t.Context(), j.lease, protocol.Outcome{Status: status, Time: time.Now()}))
}

// visitor is a browser without JavaScript.
type visitor struct {
	t      testing.TB
	url    string
	client *http.Client
}

func (s *site) visitor() *visitor {
	jar, err := cookiejar.New(nil)
	check(s.t, err)
	return &visitor{s.t, s.url, &http.Client{Jar: jar}}
}

// answer is the answer to a request, after redirects.
type answer struct {
	status int
	path   string
	header http.Header
	body   string
}

func (v *visitor) do(r *http.Request) answer {
	v.t.Helper()
	response, err := v.client.Do(r)
	check(v.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	check(v.t, err)
	return answer{response.StatusCode, response.Request.URL.RequestURI(), response.Header, string(body)}
}

func (v *visitor) get(path string) answer {
	v.t.Helper()
	r, err := http.NewRequestWithContext(v.t.Context(), http.MethodGet, v.url+path, nil)
	check(v.t, err)
	return v.do(r)
}

func (v *visitor) post(path, origin string, form url.Values) answer {
	v.t.Helper()
	r, err := http.NewRequestWithContext(v.t.Context(), http.MethodPost, v.url+path, strings.NewReader(form.Encode()))
	check(v.t, err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Origin", origin)
	return v.do(r)
}

func (v *visitor) login(token string) answer {
	v.t.Helper()
	return v.post("/login", v.url, url.Values{"token": {token}, "next": {"/"}})
}

func (a answer) want(t *testing.T, status int, parts ...string) {
	t.Helper()
	if a.status != status {
		t.Errorf("%s: status is %d, want %d\n%s", a.path, a.status, status, a.body)
	}
	for _, part := range parts {
		if !strings.Contains(a.body, part) {
			t.Errorf("%s lacks %q:\n%s", a.path, part, a.body)
		}
	}
}

func (a answer) lacks(t *testing.T, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if strings.Contains(a.body, part) {
			t.Errorf("%s has %q:\n%s", a.path, part, a.body)
		}
	}
}

func TestEmpty(t *testing.T) {
	s := newSite(t, "http")
	v := s.visitor()
	v.get("/").want(t, 200, "No repo yet", "slipway login "+s.url+" &lt; admin-token", "slipway repo add you/hello")
	s.addRepo("ada/engine", false)
	v.get("/").want(t, 200, "No run yet", `href="/ada/engine"`)
	v.get("/ada/engine").want(t, 200, "git remote add slipway "+s.url+"/git/ada/engine.git", "git push slipway HEAD:main", "slipway token create me --scope repo:ada/engine")
	v.get("/ada/other").want(t, 404, "there is no repo &#34;ada/other&#34; here", "private")
	v.get("/ada/engine/runs/1").want(t, 404, "ada/engine has no run 1")
	v.get("/ada/engine/runs/x").want(t, 404)
	v.get("/a/b/c/d/e/f/g").want(t, 404, "there is no such page")
	if a := v.get("/ada/engine/runs"); a.path != "/ada/engine" {
		t.Errorf("the runs of a repo are at %s", a.path)
	}
	if a := v.get("/?repo=ada%2Fengine"); a.path != "/ada/engine" {
		t.Errorf("the filter leads to %s", a.path)
	}
}

func TestHeaders(t *testing.T) {
	s := newSite(t, "http")
	s.addRepo("ada/engine", false)
	s.push("ada/engine", "x")
	v := s.visitor()
	for _, path := range []string{"/", "/login", "/nope", "/ada/engine/runs/1", "/ada/engine/runs/1/1/1/log", "/assets/app.js"} {
		a := v.get(path)
		csp := a.header.Get("Content-Security-Policy")
		for _, part := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"} {
			if !strings.Contains(csp, part) {
				t.Errorf("%s: policy %q lacks %s", path, csp, part)
			}
		}
		if strings.Contains(csp, "unsafe") || a.header.Get("X-Content-Type-Options") != "nosniff" || a.header.Get("Referrer-Policy") != "same-origin" {
			t.Errorf("%s: headers are %v", path, a.header)
		}
		a.lacks(t, " style=", " onclick=")
	}
	start := strings.Index(v.get("/").body, "/assets/app.js?v=")
	asset := v.get(v.get("/").body[start : start+len("/assets/app.js?v=")+12])
	if asset.status != 200 || !strings.Contains(asset.header.Get("Cache-Control"), "immutable") {
		t.Errorf("the script is answered with %d, %v", asset.status, asset.header)
	}
	v.get("/assets/../web.go").want(t, 404)
}

func TestRunPage(t *testing.T) {
	s := newSite(t, "http")
	s.addRepo("ada/engine", false)
	s.push("ada/engine", "Make it <turn>\n\nlong text")
	v := s.visitor()
	v.get("/ada/engine/runs/1").want(t, 200, "Make it &lt;turn&gt;", "pending", "by Ada &lt;b&gt;Lovelace", "c0ffee12", "It has not started yet.",
		`data-live="/ada/engine/runs/1/live?auto=1"`, `aria-label="deploy: waiting"`)
	v.get("/ada/engine/runs/1").lacks(t, "javascript:", "Restart<", "Cancel<", "long text")

	j := s.claim()
	j.start(1)
	j.log(1, "one\n\x1b[32mtwo\x1b[0m <b>\n")
	v.get("/ada/engine/runs/1").want(t, 200, `<code>one</code>`, `<span class="f2">two</span> &lt;b&gt;`, `data-at="1.1" data-follows`, `href="/ada/engine/runs/1/1/1" aria-current="true"`)
	j.end(1, ci.Success, 0)
	j.start(2)
	j.log(2, "bad\n")
	j.append(protocol.Event{Image: &protocol.Image{Step: 2, Image: ci.Image{Ref: "registry.test/ada/engine:1", Digest: "sha256:abc"}}})
	j.end(2, ci.Failure, 3)
	j.finish(ci.Failure)
	page := v.get("/ada/engine/runs/1")
	page.want(t, 200, "failure", "failure (3)", "exit code 3", "<code>bad</code>", "registry.test/ada/engine:1", "sha256:abc", "test failed", "Log in to restart")
	page.lacks(t, "data-live", "data-follows")
	v.get("/ada/engine/runs/1/1/1").want(t, 200, "<code>one</code>")
	v.get("/ada/engine/runs/1/1/9").want(t, 404, "no such step")
	v.get("/ada/engine/runs/1/2/1").want(t, 200, "It did not run.")
	raw := v.get("/ada/engine/runs/1/1/1/log")
	if raw.body != "one\n\x1b[32mtwo\x1b[0m <b>\n" || raw.header.Get("Content-Type") != "text/plain; charset=utf-8" {
		t.Errorf("the raw log is %q, %v", raw.body, raw.header)
	}
	v.get("/").want(t, 200, `href="/ada/engine/runs/1"`, "push to <b>main</b>")

	v.login(s.admin)
	if a := v.post("/ada/engine/runs/1/restart", s.url, nil); a.path != "/ada/engine/runs/2" {
		t.Errorf("restarted at %s: %s", a.path, a.body)
	}
	v.get("/ada/engine/runs/2").want(t, 200, `again, after <a href="/ada/engine/runs/1">#1</a>`, "Cancel</button>")
	v.post("/ada/engine/runs/2/cancel", s.url, nil).want(t, 200, "canceled by admin", "Restart</button>")
	v.post("/ada/engine/runs/2/cancel", s.url, nil).want(t, 409, "over already")
}

func TestProblems(t *testing.T) {
	s := newSite(t, "http")
	s.addRepo("ada/engine", false)
	s.file = "kind: pipeline\ntype: docker\nname: a\nstpes: 1\nsteps:\n  - {name: one, commands: [x]}\n"
	s.push("ada/engine", "x")
	page := s.visitor().get("/ada/engine/runs/1")
	page.want(t, 200, "<code>.drone.yml:6:5</code>", "needs an image", "1 warning about", "<code>.drone.yml:4:1</code>", "stpes", " open><summary>")
	page.lacks(t, "warning: ", `id="log"`)
}

func TestPaging(t *testing.T) {
	s := newSite(t, "http")
	s.addRepo("ada/engine", false)
	s.addRepo("ada/secret", true)
	s.file = "kind: pipeline\ntype: docker\nname: a\n" // too little to run
	for i := range 120 {
		s.push("ada/engine", fmt.Sprintf("commit %d", i+1))
		if i%3 == 0 {
			s.push("ada/secret", "hush")
		}
	}
	v := s.visitor()
	for _, start := range []string{"/", "/ada/engine"} {
		seen := map[string]bool{}
		pages := 0
		for path := start; path != ""; pages++ {
			page := v.get(path)
			page.want(t, 200)
			page.lacks(t, "hush", "ada/secret")
			for _, part := range strings.Split(page.body, ">commit ")[1:] {
				number, _, _ := strings.Cut(part, "<")
				if seen[number] {
					t.Errorf("%s shows commit %s again", path, number)
				}
				seen[number] = true
			}
			_, next, _ := strings.Cut(page.body, `rel="next" href="`)
			path, _, _ = strings.Cut(next, `"`)
		}
		if len(seen) != 120 || pages != 3 {
			t.Errorf("%s: %d runs on %d pages", start, len(seen), pages)
		}
	}
}

func TestPrivate(t *testing.T) {
	s := newSite(t, "http")
	s.addRepo("ada/secret", true)
	s.push("ada/secret", "hush")
	j := s.claim()
	j.start(1)
	j.log(1, "hush\n")
	stranger, other, reader := s.visitor(), s.visitor(), s.visitor()
	other.login(s.token("other", auth.ScopeRepo+"ada/engine")).want(t, 200, "other")
	reader.login(s.token("reader", auth.ScopeRepo+"ada/secret")).want(t, 200, "reader", "hush")
	for _, path := range []string{"/ada/secret", "/ada/secret/live", "/ada/secret/runs/1", "/ada/secret/runs/1/1/1", "/ada/secret/runs/1/1/1/log", "/ada/secret/runs/1/live"} {
		for _, v := range []*visitor{stranger, other} {
			a := v.get(path)
			a.want(t, 404)
			a.lacks(t, "hush")
		}
		if !strings.HasSuffix(path, "live") {
			reader.get(path).want(t, 200)
		}
	}
	for _, verb := range []string{"cancel", "restart"} {
		stranger.post("/ada/secret/runs/1/"+verb, s.url, nil).want(t, 404)
		other.post("/ada/secret/runs/1/"+verb, s.url, nil).want(t, 404)
	}
	stranger.get("/").lacks(t, "hush", "secret/")
}

func TestManage(t *testing.T) {
	s := newSite(t, "http")
	s.addRepo("ada/engine", false)
	s.push("ada/engine", "x")
	stranger, other, admin := s.visitor(), s.visitor(), s.visitor()
	other.login(s.token("other", auth.ScopeRepo+"bob/thing"))
	admin.login(s.admin)
	const cancel = "/ada/engine/runs/1/cancel"
	if a := stranger.post(cancel, s.url, nil); a.path != "/login?next=%2Fada%2Fengine%2Fruns%2F1" {
		t.Errorf("a stranger is sent to %s", a.path)
	}
	other.post(cancel, s.url, nil).want(t, 403, "does not allow to change ada/engine")
	for _, origin := range []string{"https://evil.example", "null", "http://127.0.0.1:1"} {
		admin.post(cancel, origin, nil).want(t, 403, "a page of another site")
		admin.post("/login", origin, url.Values{"token": {s.admin}}).want(t, 403)
	}
	if a := admin.get(cancel); a.status == 200 {
		t.Errorf("a GET cancels: %d", a.status)
	}
	run, err := s.flow.FindRun(t.Context(), "ada/engine", 1)
	if err != nil || run.Status.Done() {
		t.Fatalf("the run is %s, %v", run.Status, err)
	}
	admin.post(cancel, s.url, nil).want(t, 200, "canceled by admin")
}

func TestLogin(t *testing.T) {
	for _, scheme := range []string{"http", "https"} {
		s := newSite(t, scheme)
		v := s.visitor()
		v.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		v.login("slw_nonsense").want(t, 401, "not known here")
		v.login("").want(t, 401, "not a token")
		v.login(strings.Repeat("x", 5000)).want(t, 401, "not a token")
		a := v.login(s.admin)
		cookie := a.header.Get("Set-Cookie")
		if a.status != 303 || strings.Contains(cookie, s.admin) || !strings.Contains(cookie, "HttpOnly") || !strings.Contains(cookie, "SameSite=Lax") ||
			strings.Contains(cookie, "Secure") != (scheme == "https") || strings.HasPrefix(cookie, "__Host-") != (scheme == "https") {
			t.Errorf("%s: %d, cookie %q", scheme, a.status, cookie)
		}
		for next, want := range map[string]string{
			"/ada/engine": "/ada/engine", "https://evil.example": "/", "//evil.example": "/", "/\\evil.example": "/",
			"javascript:alert(1)": "/", "": "/", "/\t/evil.example": "/", "/x?line=3#L3": "/x?line=3#L3",
		} {
			a := v.post("/login", s.url, url.Values{"token": {s.admin}, "next": {next}})
			if got := a.header.Get("Location"); got != want {
				t.Errorf("after a login with next %q comes %q", next, got)
			}
		}
	}

	s := newSite(t, "http")
	v := s.visitor()
	text, token, err := s.auth.Create(t.Context(), "soon gone", []string{auth.ScopeAdmin}, time.Time{})
	check(t, err)
	v.login(text).want(t, 200, "soon gone")
	v.get("/").want(t, 200, "soon gone")
	root, err := url.Parse(s.url)
	check(t, err)
	kept := v.client.Jar.Cookies(root)
	v.post("/logout", s.url, nil).want(t, 200, "Log in")
	v.get("/").lacks(t, "soon gone")
	v.client.Jar.SetCookies(root, kept)
	v.get("/").want(t, 200, "soon gone")
	damaged := *kept[0]
	flipped := []byte(damaged.Value)
	middle := len(flipped) / 2
	flipped[middle] = map[bool]byte{true: 'B', false: 'A'}[flipped[middle] == 'A']
	damaged.Value = string(flipped)
	v.client.Jar.SetCookies(root, []*http.Cookie{&damaged})
	v.get("/").lacks(t, "soon gone")
	v.client.Jar.SetCookies(root, kept)
	check(t, s.flow.Store.DeleteToken(t.Context(), token.ID))
	v.get("/").want(t, 200, "Log in") // at once
}

// A log of which a page shows a part.
func TestLogWindow(t *testing.T) {
	s := newSite(t, "http")
	s.addRepo("ada/engine", false)
	s.push("ada/engine", "x")
	j := s.claim()
	j.start(1)
	var text bytes.Buffer
	for i := range 5000 {
		fmt.Fprintf(&text, "this is line %d\n", i+1)
	}
	j.log(1, text.String())
	v := s.visitor()
	end := v.get("/ada/engine/runs/1")
	end.want(t, 200, "this is line 5000<", `id="L3001"`, `href="/ada/engine/runs/1/1/1?line=1001">Show them`, "data-follows")
	end.lacks(t, `id="L2999"`)
	middle := v.get("/ada/engine/runs/1/1/1?line=1001")
	middle.want(t, 200, `id="L1001"`, `id="L3000"`, "?line=1\"", "?line=3002\"")
	middle.lacks(t, `id="L1000"`, `id="L3002"`, "data-follows")
	if len(end.body) > 400_000 {
		t.Errorf("the page has %d bytes", len(end.body))
	}
}

// readUntil reads server-sent events until one has that name, and returns them.
func readUntil(t *testing.T, r io.Reader, event string) string {
	t.Helper()
	var got strings.Builder
	buffer := make([]byte, 32<<10)
	for {
		n, err := r.Read(buffer)
		got.Write(buffer[:n])
		if strings.Contains(got.String(), "event: "+event+"\n") && strings.HasSuffix(got.String(), "\n\n") {
			return got.String()
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			t.Fatalf("no event %q in %s", event, got.String())
		}
	}
}

func (v *visitor) stream(path string) io.ReadCloser {
	v.t.Helper()
	r, err := http.NewRequestWithContext(v.t.Context(), http.MethodGet, v.url+path, nil)
	check(v.t, err)
	response, err := v.client.Do(r)
	check(v.t, err)
	v.t.Cleanup(func() { response.Body.Close() })
	if got := response.Header.Get("Content-Type"); got != "text/event-stream" {
		v.t.Fatalf("%s is answered with %d, %s", path, response.StatusCode, got)
	}
	return response.Body
}

func TestLive(t *testing.T) {
	s := newSite(t, "http")
	s.addRepo("ada/engine", false)
	s.push("ada/engine", "x")
	v := s.visitor()
	list := v.stream("/live")
	readUntil(t, list, "page")
	page := v.stream("/ada/engine/runs/1/live?auto=1")
	readUntil(t, page, "reset")
	j := s.claim()
	j.start(1)
	j.log(1, "one\npart")
	if got := readUntil(t, page, "log"); !strings.Contains(got, `data: <div id="L2">`) {
		t.Errorf("got %s", got)
	}
	j.log(1, "ial\n")
	if got := readUntil(t, page, "log"); !strings.Contains(got, "partial") || strings.Contains(got, `id="L1"`) {
		t.Errorf("got %s", got)
	}
	j.end(1, ci.Success, 0)
	j.start(2)
	j.log(2, "race\n")
	if got := readUntil(t, page, "reset"); !strings.Contains(got, "data: 1.2\n") {
		t.Errorf("got %s", got)
	}
	j.end(2, ci.Failure, 1)
	j.finish(ci.Failure)
	if got := readUntil(t, page, "end"); !strings.Contains(got, "data: ada/engine 1: failure\n") {
		t.Errorf("got %s", got)
	}
	if got := readUntil(t, list, "page"); !strings.Contains(got, `href="/ada/engine/runs/1"`) {
		t.Errorf("got %s", got)
	}
	// Who comes when all is over is told all of it.
	if got := readUntil(t, v.stream("/ada/engine/runs/1/live?at=1.1&after=0"), "end"); !strings.Contains(got, "partial") {
		t.Errorf("got %s", got)
	}
}
