package gitd_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"slipway/internal/ci"
	"slipway/internal/forge"
	"slipway/internal/forge/gitd"
	"slipway/internal/testneeds"
)

// The tokens of the tests.
const (
	writer = "token-that-writes"
	reader = "token-that-reads"
)

// fixture is a server with one repository, ada/engine, and what its pushes gave.
type fixture struct {
	*gitd.Server
	t   *testing.T
	dir string
	// host is where it listens, without scheme.
	host string

	mu     sync.Mutex
	events []ci.Event
	onPush func(events []ci.Event, out io.Writer)
}

func start(t *testing.T, change func(*gitd.Options)) *fixture {
	t.Helper()
	testneeds.Tool(t, "git")
	f := &fixture{t: t, dir: t.TempDir()}
	web := httptest.NewUnstartedServer(nil)
	f.host = web.Listener.Addr().String()
	options := gitd.Options{
		Dir: f.dir,
		URL: "http://" + f.host + "/git",
		Authorize: func(_ context.Context, repo, _, password string, write bool) (string, error) {
			switch {
			case password == writer, password == reader && !write:
				return "token of " + password, nil
			case password == reader:
				return "", forge.ErrDenied
			default:
				return "", gitd.ErrUnauthorized
			}
		},
		OnPush: func(_ context.Context, repo string, events []ci.Event, out io.Writer) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.events = append(f.events, events...)
			if f.onPush != nil {
				f.onPush(events, out)
			}
		},
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	if change != nil {
		change(&options)
	}
	server, err := gitd.Open(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	f.Server = server
	web.Config.Handler = http.StripPrefix("/git", server)
	web.Start()
	t.Cleanup(func() {
		web.Close()
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := server.Create(t.Context(), "ada/engine"); err != nil {
		t.Fatal(err)
	}
	return f
}

// url is where to clone the repository with a token.
func (f *fixture) url(token string) string {
	return fmt.Sprintf("http://ada:%s@%s/git/ada/engine.git", token, f.host)
}

// taken returns the events since the last call.
func (f *fixture) taken() []ci.Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	events := f.events
	f.events = nil
	return events
}

// tryGit runs the machine's git as a user would.
func tryGit(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C",
		"GIT_AUTHOR_NAME=Ada Lovelace", "GIT_AUTHOR_EMAIL=ada@example.com", "GIT_AUTHOR_DATE=2026-02-03T04:05:06+0100",
		"GIT_COMMITTER_NAME=Grace Hopper", "GIT_COMMITTER_EMAIL=grace@example.com",
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := tryGit(t, dir, args...)
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(out)
}

// work makes a working copy with one commit, not pushed yet.
func (f *fixture) work() string {
	f.t.Helper()
	dir := f.t.TempDir()
	git(f.t, dir, "init", "-q", "-b", "main")
	git(f.t, dir, "remote", "add", "origin", f.url(writer))
	commit(f.t, dir, ".drone.yml", "kind: pipeline\n", "Add a pipeline")
	return dir
}

func commit(t *testing.T, dir, path, content, message string) string {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, path), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	git(t, dir, "add", path)
	git(t, dir, "commit", "-q", "-m", message)
	return git(t, dir, "rev-parse", "HEAD")
}

func TestPushBecomesEvent(t *testing.T) {
	f := start(t, nil)
	f.onPush = func(events []ci.Event, out io.Writer) {
		fmt.Fprintf(out, "run 1 of %s\n", events[0].Target)
		fmt.Fprint(out, "http://ci.example.com/ada/engine/1\n")
	}
	dir := f.work()
	first := git(t, dir, "rev-parse", "HEAD")

	out := git(t, dir, "push", "origin", "main")
	for _, want := range []string{"remote: run 1 of main", "remote: http://ci.example.com/ada/engine/1", "main -> main"} {
		if !strings.Contains(out, want) {
			t.Errorf("the pusher did not see %q in\n%s", want, out)
		}
	}
	events := f.taken()
	if len(events) != 1 {
		t.Fatalf("got %d events, want 1: %+v", len(events), events)
	}
	e := events[0]
	if e.Kind != ci.Push || e.Ref != "refs/heads/main" || e.Before != "" || e.After != first || e.Source != "main" || e.Target != "main" || e.Sender != "ada" {
		t.Errorf("unexpected event %+v", e)
	}
	if a := e.Commit.Author; e.Commit.Message != "Add a pipeline\n" || a.Name != "Ada Lovelace" || a.Email != "ada@example.com" || a.Time.Format("2006-01-02T15:04:05-0700") != "2026-02-03T04:05:06+0100" {
		t.Errorf("unexpected commit %+v", e.Commit)
	}

	second := commit(t, dir, "a", "a", "Say a\n\nAnd why.")
	git(t, dir, "push", "origin", "main")
	if e := f.taken()[0]; e.Before != first || e.After != second || e.Commit.Title() != "Say a" {
		t.Errorf("unexpected second event %+v", e)
	}

	git(t, dir, "reset", "-q", "--hard", first)
	forced := commit(t, dir, "b", "b", "Say b")
	if out, err := tryGit(t, dir, "push", "origin", "main"); err == nil {
		t.Errorf("a push that loses a commit went through without force:\n%s", out)
	}
	git(t, dir, "push", "--force", "origin", "main")
	if events := f.taken(); len(events) != 1 || events[0].Before != second || events[0].After != forced {
		t.Errorf("unexpected events of a forced push %+v", events)
	}

	git(t, dir, "push", "origin", "main")
	if events := f.taken(); len(events) != 0 {
		t.Errorf("a push of nothing gave %+v", events)
	}
}

func TestSeveralRefs(t *testing.T) {
	f := start(t, nil)
	dir := f.work()
	head := git(t, dir, "rev-parse", "HEAD")
	git(t, dir, "branch", "topic/one")
	git(t, dir, "tag", "v1")
	git(t, dir, "tag", "-a", "v2", "-m", "The second")
	git(t, dir, "tag", "blob", git(t, dir, "rev-parse", "HEAD:.drone.yml"))
	git(t, dir, "update-ref", "refs/notes/x", head)
	git(t, dir, "push", "origin", "main", "topic/one", "v1", "v2", "blob", "refs/notes/x")

	got := map[string]ci.Event{}
	for _, e := range f.taken() {
		got[e.Ref] = e
	}
	if len(got) != 4 {
		t.Errorf("got %d events, want main, topic/one, v1, v2: %v", len(got), got)
	}
	if e := got["refs/heads/topic/one"]; e.Kind != ci.Push || e.Target != "topic/one" || e.After != head {
		t.Errorf("unexpected event of a branch %+v", e)
	}
	for _, tag := range []string{"v1", "v2"} {
		e := got["refs/tags/"+tag]
		if e.Kind != ci.Tag || e.TagName() != tag || e.After != head || e.Target != "" || e.Commit.Title() != "Add a pipeline" {
			t.Errorf("unexpected event of tag %s: %+v", tag, e)
		}
	}

	git(t, dir, "push", "origin", ":topic/one", ":v1")
	want := ci.Event{Kind: ci.Delete, Ref: "refs/heads/topic/one", Before: head, Source: "topic/one", Target: "topic/one", Sender: "ada", By: "token of " + writer}
	events := f.taken()
	for i := range events {
		events[i].Delivery = ""
	}
	if !reflect.DeepEqual(events, []ci.Event{want}) {
		t.Errorf("a deleted branch and a deleted tag gave %+v", events)
	}
}

func TestManyRefsAreBounded(t *testing.T) {
	f := start(t, nil)
	dir := f.work()
	for i := range 25 {
		git(t, dir, "branch", fmt.Sprintf("b%02d", i))
	}
	out := git(t, dir, "push", "origin", "--all")
	if n := len(f.taken()); n != 20 {
		t.Errorf("got %d events, want 20", n)
	}
	if want := "remote: Slipway acts on the first 20 branches and tags of a push, and leaves out 6."; !strings.Contains(out, want) {
		t.Errorf("no %q in\n%s", want, out)
	}
}

func TestDefaultBranchFollowsFirstPush(t *testing.T) {
	f := start(t, nil)
	repo := forge.Repo{Repo: ci.Repo{Name: "ada/engine"}}
	if d, err := f.Describe(t.Context(), repo); err != nil || d.Branch != "main" || d.CloneURL != "http://"+f.host+"/git/ada/engine.git" {
		t.Errorf("Describe = %+v, %v", d, err)
	}
	dir := f.work()
	git(t, dir, "branch", "-m", "trunk")
	git(t, dir, "push", "origin", "trunk")
	if d, err := f.Describe(t.Context(), repo); err != nil || d.Branch != "trunk" {
		t.Errorf("Describe after the first push = %+v, %v", d, err)
	}
	clone := filepath.Join(t.TempDir(), "clone")
	git(t, t.TempDir(), "clone", "-q", f.url(reader), clone)
	if got := git(t, clone, "branch", "--show-current"); got != "trunk" {
		t.Errorf("a clone is on %q", got)
	}
}

func TestClone(t *testing.T) {
	f := start(t, nil)
	dir := f.work()
	var hashes []string
	for i := range 5 {
		hashes = append(hashes, commit(t, dir, "n", fmt.Sprint(i), fmt.Sprint("Count ", i)))
	}
	git(t, dir, "push", "origin", "main")

	for _, version := range []string{"0", "1", "2"} {
		t.Run("protocol "+version, func(t *testing.T) {
			whole := filepath.Join(t.TempDir(), "whole")
			git(t, t.TempDir(), "-c", "protocol.version="+version, "clone", "-q", f.url(reader), whole)
			if got := git(t, whole, "rev-list", "--count", "HEAD"); got != "6" {
				t.Errorf("clone has %s commits, want 6", got)
			}
			shallow := filepath.Join(t.TempDir(), "shallow")
			git(t, t.TempDir(), "-c", "protocol.version="+version, "clone", "-q", "--depth=2", f.url(reader), shallow)
			if got := git(t, shallow, "rev-list", "--count", "HEAD"); got != "2" {
				t.Errorf("shallow clone has %s commits, want 2", got)
			}
			git(t, shallow, "-c", "protocol.version="+version, "fetch", "-q", "--unshallow")
			if got := git(t, shallow, "rev-list", "--count", "HEAD"); got != "6" {
				t.Errorf("deepened clone has %s commits, want 6", got)
			}
			one := t.TempDir()
			git(t, one, "init", "-q")
			git(t, one, "-c", "protocol.version="+version, "fetch", "-q", "--depth=1", f.url(reader), hashes[2])
			if got := git(t, one, "rev-parse", "FETCH_HEAD"); got != hashes[2] {
				t.Errorf("fetched %s, want %s", got, hashes[2])
			}
		})
	}

	// A long negotiation is sent gzipped.
	other := t.TempDir()
	git(t, other, "init", "-q", "-b", "main")
	for i := range 120 {
		git(t, other, "commit", "-q", "--allow-empty", "-m", fmt.Sprint("Count ", i))
	}
	git(t, other, "fetch", "-q", f.url(reader), "main")
	if got := git(t, other, "rev-parse", "FETCH_HEAD"); got != hashes[4] {
		t.Errorf("fetched %s, want %s", got, hashes[4])
	}
}

func TestPushFromShallowClone(t *testing.T) {
	f := start(t, nil)
	dir := f.work()
	commit(t, dir, "n", "1", "One")
	git(t, dir, "push", "origin", "main")
	f.taken()
	shallow := filepath.Join(t.TempDir(), "shallow")
	git(t, t.TempDir(), "clone", "-q", "--depth=1", f.url(writer), shallow)
	hash := commit(t, shallow, "n", "2", "Two")
	git(t, shallow, "push", "origin", "main")
	if events := f.taken(); len(events) != 1 || events[0].After != hash {
		t.Errorf("unexpected events %+v", events)
	}
}

func TestLargePush(t *testing.T) {
	f := start(t, func(o *gitd.Options) { o.MaxPush = 80 << 20 })
	dir := f.work()
	hash := commit(t, dir, "large", noise(50<<20), "Add 50 MiB")
	git(t, dir, "push", "origin", "main")
	if events := f.taken(); len(events) != 1 || events[0].After != hash {
		t.Errorf("unexpected events %+v", events)
	}

	before := hash
	commit(t, dir, "larger", noise(100<<20), "Add 100 MiB")
	out, err := tryGit(t, dir, "push", "origin", "main")
	if err == nil || !strings.Contains(out, "maximum allowed size") {
		t.Errorf("a push that is too large: %v\n%s", err, out)
	}
	if got := git(t, filepath.Join(f.dir, "ada", "engine.git"), "rev-parse", "main"); got != before {
		t.Errorf("main is at %s after a refused push, want %s", got, before)
	}
	if events := f.taken(); len(events) != 0 {
		t.Errorf("a refused push gave %+v", events)
	}
	if left, _ := filepath.Glob(filepath.Join(f.dir, "ada", "engine.git", "objects", "tmp_objdir*")); len(left) > 0 {
		t.Errorf("a refused push left %v", left)
	}
}

// noise returns n bytes that do not compress, the same each time.
func noise(n int) string {
	b := make([]byte, n)
	x := uint64(n)
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return string(b)
}

func TestRefusals(t *testing.T) {
	f := start(t, nil)
	dir := f.work()
	git(t, dir, "push", "-q", "origin", "main")
	base := "http://ada:" + writer + "@" + f.host + "/git/"
	tests := []struct {
		name string
		args []string
		want string
	}{
		{"wrong token", []string{"push", f.url("nonsense"), "main"}, "Slipway needs a valid token to push to ada/engine: give any user name, and as password a token with the scope repo:ada/engine."},
		{"no token", []string{"ls-remote", "http://" + f.host + "/git/ada/engine.git"}, "could not read Username"},
		{"read only token", []string{"push", f.url(reader), "main"}, "This token may not push to ada/engine: it needs the scope repo:ada/engine."},
		{"no such repo", []string{"push", base + "ada/loom.git", "main"}, "There is no repo ada/loom on this server: create it with `slipway repo add ada/loom`."},
		{"no such name", []string{"push", base + "Ada/..%2f..%2fetc", "main"}, "is no name for a repo"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			out, err := tryGit(t, dir, test.args...)
			if err == nil || !strings.Contains(out, test.want) {
				t.Errorf("got %v and\n%s\nwant %q", err, out, test.want)
			}
		})
	}
}

func TestCallbackNeverBreaksPush(t *testing.T) {
	f := start(t, nil)
	f.onPush = func([]ci.Event, io.Writer) { panic("boom") }
	dir := f.work()
	out := git(t, dir, "push", "origin", "main")
	if !strings.Contains(out, "remote: Slipway failed to act on this push; its log says why.") {
		t.Errorf("the pusher did not see that something went wrong:\n%s", out)
	}
	clone := filepath.Join(t.TempDir(), "clone")
	git(t, t.TempDir(), "clone", "-q", f.url(reader), clone)
}

func TestConcurrentPushes(t *testing.T) {
	f := start(t, nil)
	dir := f.work()
	git(t, dir, "push", "-q", "origin", "main")
	f.taken()
	want := map[string]string{}
	var copies []string
	for i := range 8 {
		work := filepath.Join(t.TempDir(), "work")
		git(t, t.TempDir(), "clone", "-q", f.url(writer), work)
		branch := fmt.Sprintf("b%d", i)
		git(t, work, "checkout", "-q", "-b", branch)
		want["refs/heads/"+branch] = commit(t, work, "n", fmt.Sprint(i), "Count "+branch)
		copies = append(copies, work)
	}
	var all sync.WaitGroup
	for _, work := range copies {
		all.Go(func() {
			if out, err := tryGit(t, work, "push", "origin", "HEAD"); err != nil {
				t.Errorf("push: %v\n%s", err, out)
			}
		})
	}
	all.Wait()
	for _, e := range f.taken() {
		if want[e.Ref] != e.After {
			t.Errorf("%s is %s, want %s", e.Ref, e.After, want[e.Ref])
		}
		delete(want, e.Ref)
	}
	if len(want) > 0 {
		t.Errorf("no event of %v", want)
	}
}

func TestFile(t *testing.T) {
	f := start(t, nil)
	dir := f.work()
	if err := os.Mkdir(filepath.Join(dir, "ci"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"link": ".drone.yml", "out": "../../etc/passwd"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	commit(t, dir, "ci/large", strings.Repeat("x", forge.MaxFile+1), "Add a large file")
	git(t, dir, "add", "-A")
	git(t, dir, "commit", "-q", "-m", "Add links")
	head := git(t, dir, "rev-parse", "HEAD")
	git(t, dir, "push", "-q", "origin", "main")

	repo := forge.Repo{Repo: ci.Repo{Name: "ada/engine"}}
	for _, path := range []string{".drone.yml", "link"} {
		if got, err := f.File(t.Context(), repo, head, path); err != nil || string(got) != "kind: pipeline\n" {
			t.Errorf("File(%s) = %q, %v", path, got, err)
		}
	}
	for _, path := range []string{"missing", "ci", "out", ".drone.yml/x"} {
		if got, err := f.File(t.Context(), repo, head, path); !errors.Is(err, forge.ErrNotFound) {
			t.Errorf("File(%s) = %q, %v, want ErrNotFound", path, got, err)
		}
	}
	if _, err := f.File(t.Context(), repo, strings.Repeat("0", 40), ".drone.yml"); !errors.Is(err, forge.ErrNotFound) {
		t.Errorf("a commit that isn't there: %v", err)
	}
	for _, bad := range [][2]string{{head, "ci/large"}, {head, "../x"}, {head, "a\nb"}, {"main", ".drone.yml"}, {"--help", ".drone.yml"}} {
		if got, err := f.File(t.Context(), repo, bad[0], bad[1]); err == nil || errors.Is(err, forge.ErrNotFound) {
			t.Errorf("File(%q) = %d bytes, %v, want another error", bad, len(got), err)
		}
	}
	if _, err := f.File(t.Context(), forge.Repo{Repo: ci.Repo{Name: "ada/loom"}}, head, "x"); !errors.Is(err, forge.ErrNotFound) {
		t.Errorf("a repo that isn't there: %v", err)
	}
}

func TestOpenBranches(t *testing.T) {
	f := start(t, nil)
	repo := forge.Repo{Repo: ci.Repo{Name: "ada/engine", Branch: "main"}}
	want := func(names ...string) {
		t.Helper()
		got, err := f.OpenBranches(t.Context(), repo)
		slices.Sort(got)
		if err != nil || got == nil || !slices.Equal(got, names) {
			t.Errorf("the open branches are %q, %v; want %q", got, err, names)
		}
	}
	want()
	work := f.work()
	commit(t, work, "a.txt", "1", "one")
	git(t, work, "push", "-q", "origin", "HEAD:main", "HEAD:fix/login", "HEAD:gone")
	want("fix/login", "gone", "main") // new ones, at the same commit
	git(t, work, "push", "-q", "origin", ":gone")
	commit(t, work, "a.txt", "2", "two")
	git(t, work, "push", "-q", "origin", "HEAD:fix/login")
	want("fix/login", "main")
	commit(t, work, "a.txt", "3", "three")
	git(t, work, "push", "-q", "origin", "HEAD:main")
	want("main") // fix/login was merged
	repo.Name = "ada/loom"
	if _, err := f.OpenBranches(t.Context(), repo); !errors.Is(err, forge.ErrNotFound) {
		t.Errorf("error is %v", err)
	}
}

func TestCreateAndRemove(t *testing.T) {
	f := start(t, nil)
	if err := f.Create(t.Context(), "ada/engine"); !errors.Is(err, gitd.ErrExists) {
		t.Errorf("second Create: %v", err)
	}
	for _, bad := range []string{"", "ada", "ada/", "/x", "ada/../x", "ada/x.git", "ada/x.lock", "ada/.x", "Ada/x", "ada/x/y", "ada/x y", "ada/" + strings.Repeat("x", 65)} {
		if err := f.Create(t.Context(), bad); err == nil {
			t.Errorf("Create(%q) went through", bad)
		}
	}
	if err := f.Remove(t.Context(), "ada/engine"); err != nil {
		t.Fatal(err)
	}
	if err := f.Remove(t.Context(), "ada/engine"); !errors.Is(err, forge.ErrNotFound) {
		t.Errorf("second Remove: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(f.dir, "ada", "*")); len(left) > 0 {
		t.Errorf("Remove left %v", left)
	}
	if err := f.Create(t.Context(), "ada/engine"); err != nil {
		t.Errorf("Create after Remove: %v", err)
	}
}

func TestOpenClearsAwayCrash(t *testing.T) {
	f := start(t, nil)
	dir := f.work()
	git(t, dir, "push", "-q", "origin", "main")
	repo := filepath.Join(f.dir, "ada", "engine.git")
	for _, path := range []string{"refs/heads/main.lock", "packed-refs.lock", "objects/tmp_objdir-incoming-x/pack/y", "../.tmp-z/HEAD"} {
		path = filepath.Join(repo, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	busy, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := gitd.Open(busy, gitd.Options{Dir: f.dir}); err == nil || !strings.Contains(err.Error(), "in use by another server") {
		t.Errorf("a second server on the folder: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := gitd.Open(t.Context(), gitd.Options{Dir: f.dir})
	if err != nil {
		t.Fatal(err)
	}
	f.Server = again
	for _, left := range []string{"refs/heads/main.lock", "packed-refs.lock", "objects/tmp_objdir-incoming-x", "../.tmp-z"} {
		if _, err := os.Lstat(filepath.Join(repo, left)); err == nil {
			t.Errorf("%s is still there", left)
		}
	}
	if _, err := again.File(t.Context(), forge.Repo{Repo: ci.Repo{Name: "ada/engine"}}, git(t, dir, "rev-parse", "HEAD"), ".drone.yml"); err != nil {
		t.Errorf("the repository suffered: %v", err)
	}
}
