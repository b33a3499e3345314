package gitea_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	sdk "code.gitea.io/sdk/gitea"

	"slipway/internal/ci"
	"slipway/internal/forge"
	"slipway/internal/forge/gitea"
	"slipway/internal/forge/gitea/giteatest"
)

var shared giteatest.Shared

func TestMain(m *testing.M) {
	code := m.Run()
	if err := shared.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

const secret = "the key of the hooks"

// fixture is a repository on a real Gitea, and where its webhooks arrive.
type fixture struct {
	t      *testing.T
	server *giteatest.Server
	owner  giteatest.User
	forge  *gitea.Forge
	repo   forge.Repo
	hooks  chan delivery
	url    string
}

type delivery struct {
	header http.Header
	body   []byte
}

func setUp(t *testing.T, name string, private bool) *fixture {
	t.Helper()
	server := shared.Server(t)
	f := &fixture{t: t, server: server, owner: server.Admin, forge: gitea.New(), hooks: make(chan delivery, 100)}
	made := server.NewRepo(t, f.owner, name, private)
	f.repo = forge.Repo{
		Repo:          ci.Repo{Name: made.FullName, Forge: gitea.Kind, ForgeURL: server.URL},
		Token:         server.NewToken(t, f.owner, "write:repository"),
		WebhookSecret: secret,
	}
	web := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, forge.MaxHook))
		if err != nil {
			t.Errorf("read a webhook: %v", err)
		}
		f.hooks <- delivery{r.Header, body}
	}))
	t.Cleanup(web.Close)
	f.url = web.URL + "/hook"
	return f
}

// register tells Gitea to call the fixture.
func (f *fixture) register() {
	f.t.Helper()
	if err := f.forge.Register(f.t.Context(), f.repo, f.url); err != nil {
		f.t.Fatal(err)
	}
}

// await waits for a webhook of which the adapter makes what is looked for, and passes over others: Gitea delivers in no
// particular order.
func (f *fixture) await(what string, match func(event ci.Event, reason string) bool) ci.Event {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	for {
		select {
		case d := <-f.hooks:
			event, reason, err := f.forge.Hook(f.t.Context(), f.repo, d.header, d.body)
			if err != nil {
				f.t.Fatalf("%v\n%v\n%s", err, d.header, d.body)
			}
			if match(event, reason) {
				return event
			}
			f.t.Logf("passed over: %s %s %s%s", event.Kind, event.Action, event.Ref, reason)
		case <-ctx.Done():
			f.t.Fatalf("no webhook about %s came", what)
		}
	}
}

// pushed waits for the event of a push or a tag.
func (f *fixture) pushed(ref, hash string) ci.Event {
	f.t.Helper()
	return f.await(ref, func(e ci.Event, _ string) bool { return e.Ref == ref && e.After == hash })
}

// pulled waits for the event of a pull request.
func (f *fixture) pulled(action, hash string) ci.Event {
	f.t.Helper()
	return f.await("a pull request "+action, func(e ci.Event, _ string) bool {
		return e.Kind == ci.PullRequest && e.Action == action && e.After == hash
	})
}

func TestDescribe(t *testing.T) {
	f := setUp(t, "described", true)
	work := f.server.Work(t, f.owner, f.repo.Name)
	work.Commit("First", nil)
	work.Push("HEAD:refs/heads/main")
	got, err := f.forge.Describe(t.Context(), f.repo)
	if err != nil {
		t.Fatal(err)
	}
	base := f.server.URL + "/" + f.repo.Name
	want := ci.Repo{Name: f.repo.Name, Forge: "gitea", ForgeURL: f.server.URL, CloneURL: base + ".git", Link: base, Branch: "main", Private: true}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("Describe = %+v\nwant       %+v", got, want)
	}

	stranger := f.server.NewUser(t, "stranger-of-described")
	other := f.server.NewUser(t, "guest-of-described")
	owner, name, _ := strings.Cut(f.repo.Name, "/")
	mode := sdk.AccessModeWrite
	if _, err := f.server.Client(t, f.owner).AddCollaborator(owner, name, other.Name, sdk.AddCollaboratorOption{Permission: &mode}); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change func(*forge.Repo)
		is     error
		want   string
	}{
		{"wrong token", func(r *forge.Repo) { r.Token = "0123456789012345678901234567890123456789" }, forge.ErrDenied, "does not know the token"},
		{"stranger", func(r *forge.Repo) { r.Token = stranger.Token }, forge.ErrNotFound, "it is not there, or the token may not see it"},
		{"not an administrator", func(r *forge.Repo) { r.Token = other.Token }, forge.ErrDenied, "is not an administrator of"},
		{"scope is missing", func(r *forge.Repo) { r.Token = f.server.NewToken(t, f.owner, "read:user") }, forge.ErrDenied, "needs the scope read:repository"},
		{"no such repo", func(r *forge.Repo) { r.Name = "nobody/nothing" }, forge.ErrNotFound, "nobody/nothing"},
		{"no such forge", func(r *forge.Repo) { r.ForgeURL = "http://127.0.0.1:1" }, nil, "no answer"},
		{"not a forge", func(r *forge.Repo) { r.ForgeURL = strings.TrimSuffix(f.url, "/hook") }, nil, "is this the URL of a Gitea"},
		{"not a URL", func(r *forge.Repo) { r.ForgeURL = "git.example.com" }, nil, "must look like https://"},
		{"not a name", func(r *forge.Repo) { r.Name = "../admin" }, nil, "is no name for a repo"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			repo := f.repo
			test.change(&repo)
			_, err := f.forge.Describe(t.Context(), repo)
			if err == nil || !strings.Contains(err.Error(), test.want) || test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("got %v, want %q", err, test.want)
			}
			if err != nil && (strings.Contains(err.Error(), repo.Token) || strings.Contains(err.Error(), "\n")) {
				t.Errorf("not a sentence for people: %v", err)
			}
		})
	}
}

func TestRegisterIsIdempotent(t *testing.T) {
	f := setUp(t, "registered", false)
	for range 3 {
		f.register()
	}
	owner, name, _ := strings.Cut(f.repo.Name, "/")
	hooks, _, err := f.server.Client(t, f.owner).ListRepoHooks(owner, name, sdk.ListHooksOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(hooks) != 1 || !hooks[0].Active || hooks[0].Config["url"] != f.url {
		t.Fatalf("unexpected hooks %+v", hooks)
	}
	// Somebody has broken it: registering again sets it right.
	inactive := false
	if _, err := f.server.Client(t, f.owner).EditRepoHook(owner, name, hooks[0].ID, sdk.EditHookOption{Active: &inactive, Events: []string{"issues"}, Config: map[string]string{"url": f.url, "content_type": "json", "secret": "another"}}); err != nil {
		t.Fatal(err)
	}
	f.register()
	work := f.server.Work(t, f.owner, f.repo.Name)
	hash := work.Commit("First", nil)
	work.Push("HEAD:refs/heads/main")
	f.pushed("refs/heads/main", hash)

	readOnly := f.repo
	readOnly.Token = f.server.NewToken(t, f.owner, "read:repository")
	if err := f.forge.Register(t.Context(), readOnly, f.url+"2"); !errors.Is(err, forge.ErrDenied) || !strings.Contains(err.Error(), "needs the scope write:repository") {
		t.Errorf("Register with a token that only reads: %v", err)
	}
	noSecret := f.repo
	noSecret.WebhookSecret = ""
	if err := f.forge.Register(t.Context(), noSecret, f.url); err == nil {
		t.Error("Register went through without a secret")
	}
}

func TestPushAndTag(t *testing.T) {
	f := setUp(t, "pushed", true)
	f.register()
	work := f.server.Work(t, f.owner, f.repo.Name)
	first := work.Commit("Add a pipeline\n\nWith a reason.", map[string]string{".drone.yml": "kind: pipeline\n"})
	work.Push("HEAD:refs/heads/main")
	e := f.pushed("refs/heads/main", first)
	if e.Kind != ci.Push || e.Ref != "refs/heads/main" || e.Source != "main" || e.Target != "main" || e.Before != "" || e.After != first || e.Sender != f.owner.Name || e.FromFork() {
		t.Errorf("unexpected event of a push %+v", e)
	}
	if a := e.Commit.Author; e.Commit.Message != "Add a pipeline\n\nWith a reason.\n" || a.Login != f.owner.Name || a.Email != f.owner.Email || a.Time.IsZero() || !strings.HasSuffix(e.Commit.Link, first) || a.Avatar == "" {
		t.Errorf("unexpected commit %+v", e.Commit)
	}
	if e.Link != e.Commit.Link || !strings.HasPrefix(e.Delivery, "sha256:") {
		t.Errorf("unexpected link %q or delivery %q", e.Link, e.Delivery)
	}

	second := work.Commit("Two", nil)
	work.Push("HEAD:refs/heads/main")
	if e := f.pushed("refs/heads/main", second); e.Before != first || !strings.Contains(e.Link, first+"..."+second) {
		t.Errorf("unexpected event of a second push %+v", e)
	}

	work.Git("tag", "v1")
	work.Push("v1")
	if e := f.pushed("refs/tags/v1", second); e.Kind != ci.Tag || e.TagName() != "v1" || e.After != second || e.Target != "" || e.Commit.Title() != "Two" {
		t.Errorf("unexpected event of a tag %+v", e)
	}
	work.Git("tag", "-a", "v2", "-m", "The second")
	work.Push("v2")
	if e := f.pushed("refs/tags/v2", second); e.Kind != ci.Tag || e.TagName() != "v2" || e.After != second || e.Commit.Title() != "Two" {
		t.Errorf("unexpected event of an annotated tag %+v", e)
	}

	work.Push("HEAD:refs/heads/topic/one")
	if e := f.pushed("refs/heads/topic/one", second); e.Kind != ci.Push || e.Target != "topic/one" || e.Before != "" || e.After != second {
		t.Errorf("unexpected event of a new branch %+v", e)
	}
}

func TestPullRequest(t *testing.T) {
	f := setUp(t, "pulled", false)
	owner, name, _ := strings.Cut(f.repo.Name, "/")
	work := f.server.Work(t, f.owner, f.repo.Name)
	base := work.Commit("First", map[string]string{"a": "a"})
	work.Push("HEAD:refs/heads/main")
	f.register()

	work.Git("checkout", "-q", "-b", "topic")
	head := work.Commit("Topic", map[string]string{"b": "b"})
	work.Push("HEAD:refs/heads/topic")
	client := f.server.Client(t, f.owner)
	pull, _, err := client.CreatePullRequest(owner, name, sdk.CreatePullRequestOption{Base: "main", Head: "topic", Title: "Say b", Body: "Because."})
	if err != nil {
		t.Fatal(err)
	}
	e := f.pulled("opened", head)
	if e.Ref != fmt.Sprintf("refs/pull/%d/head", pull.Index) || e.Source != "topic" || e.Target != "main" || e.Before != base || e.After != head || e.FromFork() || e.Link != pull.HTMLURL {
		t.Errorf("unexpected event of a pull request %+v", e)
	}
	if c := e.PullRequest; c.Number != pull.Index || c.Title != "Say b" || c.Draft || c.HeadRepo != f.repo.Name {
		t.Errorf("unexpected change %+v", c)
	}
	if e.Commit.Message != "Say b\n\nBecause." || e.Commit.Author.Login != f.owner.Name {
		t.Errorf("unexpected commit %+v", e.Commit)
	}

	head = work.Commit("More", map[string]string{"c": "c"})
	work.Push("HEAD:refs/heads/topic")
	if e := f.pulled("synchronized", head); e.FromFork() {
		t.Errorf("unexpected event of new commits %+v", e)
	}

	closed, open := sdk.StateClosed, sdk.StateOpen
	if _, _, err := client.EditPullRequest(owner, name, pull.Index, sdk.EditPullRequestOption{State: &closed}); err != nil {
		t.Fatal(err)
	}
	f.await("the closed pull request", func(_ ci.Event, reason string) bool { return strings.Contains(reason, "closed") })
	if _, _, err := client.EditPullRequest(owner, name, pull.Index, sdk.EditPullRequestOption{State: &open}); err != nil {
		t.Fatal(err)
	}
	f.pulled("reopened", head)
}

func TestPullRequestFromFork(t *testing.T) {
	f := setUp(t, "forked", false)
	owner, name, _ := strings.Cut(f.repo.Name, "/")
	work := f.server.Work(t, f.owner, f.repo.Name)
	work.Commit("First", map[string]string{".drone.yml": "kind: pipeline\n"})
	work.Push("HEAD:refs/heads/main")
	f.register()

	guest := f.server.NewUser(t, "guest")
	if _, _, err := f.server.Client(t, guest).CreateFork(owner, name, sdk.CreateForkOption{}); err != nil {
		t.Fatal(err)
	}
	fork := f.server.Work(t, guest, guest.Name+"/"+name)
	head := fork.Commit("Steal", map[string]string{".drone.yml": "kind: theft\n"})
	fork.Push("HEAD:refs/heads/main")
	if _, _, err := f.server.Client(t, guest).CreatePullRequest(owner, name, sdk.CreatePullRequestOption{Base: "main", Head: guest.Name + ":main", Title: "Steal"}); err != nil {
		t.Fatal(err)
	}
	e := f.pulled("opened", head)
	if !e.FromFork() || e.PullRequest.HeadRepo != guest.Name+"/"+name || e.After != head || e.Source != "main" || e.Target != "main" || e.Sender != guest.Name {
		t.Errorf("unexpected event %+v %+v", e, e.PullRequest)
	}
	// The commit can be read from the base repository, with the base's token.
	if got, err := f.forge.File(t.Context(), f.repo, head, ".drone.yml"); err != nil || string(got) != "kind: theft\n" {
		t.Errorf("File = %q, %v", got, err)
	}

	// The AGit flow needs no fork, only the right to read. It must not look like a branch of the repo.
	direct := f.server.Work(t, guest, f.repo.Name)
	head = direct.Commit("Steal without a fork", map[string]string{".drone.yml": "kind: heist\n"})
	direct.Git("push", "-q", "-o", "topic=heist", "-o", "title=Steal", "origin", "HEAD:refs/for/main")
	if e := f.pulled("opened", head); !e.FromFork() {
		t.Errorf("unexpected event of the AGit flow %+v %+v", e, e.PullRequest)
	}
}

func TestFile(t *testing.T) {
	f := setUp(t, "filed", true)
	work := f.server.Work(t, f.owner, f.repo.Name)
	hash := work.Commit("First", map[string]string{".drone.yml": "kind: pipeline\n", "ci/with space/ü?#%.yml": "odd\n", "large": strings.Repeat("x", forge.MaxFile+1), "full": strings.Repeat("x", forge.MaxFile)})
	f.register()
	work.Push("HEAD:refs/heads/main")
	f.pushed("refs/heads/main", hash) // before that, Gitea may take the repository for empty
	for path, want := range map[string]string{".drone.yml": "kind: pipeline\n", "ci/with space/ü?#%.yml": "odd\n", "full": strings.Repeat("x", forge.MaxFile)} {
		if got, err := f.forge.File(t.Context(), f.repo, hash, path); err != nil || string(got) != want {
			t.Errorf("File(%s) = %.40q, %v", path, got, err)
		}
	}
	for _, path := range []string{"missing.yml", "ci"} {
		if got, err := f.forge.File(t.Context(), f.repo, hash, path); !errors.Is(err, forge.ErrNotFound) {
			t.Errorf("File(%s) = %q, %v, want ErrNotFound", path, got, err)
		}
	}
	if _, err := f.forge.File(t.Context(), f.repo, strings.Repeat("1", 40), ".drone.yml"); !errors.Is(err, forge.ErrNotFound) {
		t.Errorf("a commit that isn't there: %v", err)
	}
	for _, bad := range [][2]string{{hash, "large"}, {hash, "../x"}, {hash, "/x"}, {"main", ".drone.yml"}} {
		if _, err := f.forge.File(t.Context(), f.repo, bad[0], bad[1]); err == nil || errors.Is(err, forge.ErrNotFound) {
			t.Errorf("File(%q): %v, want another error", bad, err)
		}
	}
	without := f.repo
	without.Token = ""
	if _, err := f.forge.File(t.Context(), without, hash, ".drone.yml"); err == nil {
		t.Error("a private repo's file was read without a token")
	}
}

func TestOpenBranches(t *testing.T) {
	f := setUp(t, "branched", true)
	f.repo.Branch = "main"
	work := f.server.Work(t, f.owner, f.repo.Name)
	work.Commit("First", map[string]string{"a.txt": "1"})
	f.register()
	work.Push("HEAD:refs/heads/new")
	topic := work.Commit("Second", map[string]string{"a.txt": "2"})
	work.Push("HEAD:refs/heads/topic", "HEAD:refs/heads/main")
	f.pushed("refs/heads/topic", topic)
	want := func(names ...string) {
		t.Helper()
		got, err := f.forge.OpenBranches(t.Context(), f.repo)
		slices.Sort(got)
		if err != nil || !slices.Equal(got, names) {
			t.Errorf("the open branches are %q, %v; want %q", got, err, names)
		}
	}
	want("main", "topic") // new was merged; topic is where main is
	ahead := work.Commit("Third", map[string]string{"a.txt": "3"})
	work.Push("HEAD:refs/heads/topic")
	f.pushed("refs/heads/topic", ahead)
	want("main", "topic")
	f.repo.Token = "wrong"
	if _, err := f.forge.OpenBranches(t.Context(), f.repo); !errors.Is(err, forge.ErrDenied) {
		t.Errorf("with a wrong token: %v", err)
	}
}

func TestReport(t *testing.T) {
	f := setUp(t, "reported", true)
	work := f.server.Work(t, f.owner, f.repo.Name)
	hash := work.Commit("First", nil)
	f.register()
	work.Push("HEAD:refs/heads/main")
	f.pushed("refs/heads/main", hash) // before that, Gitea may take the repository for empty
	status := forge.Status{Commit: hash, Context: forge.Context(ci.Push), Description: "Waiting\nfor a runner", Link: "http://ci.example.com/1"}
	for state, want := range map[ci.Status]sdk.StatusState{
		ci.Pending: "pending", ci.Running: "pending", ci.Success: "success", ci.Skipped: "success",
		ci.Failure: "failure", ci.Error: "error", ci.Canceled: "error",
	} {
		status.State = state
		if err := f.forge.Report(t.Context(), f.repo, status); err != nil {
			t.Fatal(err)
		}
		got := newest(f.server.Statuses(t, f.repo.Name, hash))
		if got.State != want || got.Context != "slipway/push" || got.Description != "Waiting for a runner" || got.TargetURL != status.Link {
			t.Errorf("%s is shown as %+v", state, got)
		}
	}
	status.Description = strings.Repeat("ü", 500)
	if err := f.forge.Report(t.Context(), f.repo, status); err != nil {
		t.Error(err)
	}
	status.Commit = strings.Repeat("1", 40)
	if err := f.forge.Report(t.Context(), f.repo, status); err == nil {
		t.Error("a status was written to a commit that isn't there")
	}
	status.State = "splendid"
	if err := f.forge.Report(t.Context(), f.repo, status); err == nil {
		t.Error("an unknown status was written")
	}
}

func newest(statuses []*sdk.Status) *sdk.Status {
	var last *sdk.Status
	for _, s := range statuses {
		if last == nil || s.ID > last.ID {
			last = s
		}
	}
	return last
}

func TestForgedHooks(t *testing.T) {
	f := gitea.New()
	repo := forge.Repo{Repo: ci.Repo{Name: "ada/engine"}, WebhookSecret: secret}
	body := []byte(`{"ref":"refs/heads/main","after":"1111111111111111111111111111111111111111","repository":{"id":1,"full_name":"Ada/Engine"}}`)
	sign := func(key string, body []byte) string {
		mac := hmac.New(sha256.New, []byte(key))
		mac.Write(body)
		return hex.EncodeToString(mac.Sum(nil))
	}
	good := sign(secret, body)
	tests := []struct {
		name   string
		header map[string]string
		repo   func(*forge.Repo)
		want   string // of the error; empty for none
		forged bool
	}{
		{name: "genuine", header: map[string]string{"X-Gitea-Signature": good}},
		{name: "genuine, GitHub's header", header: map[string]string{"X-Hub-Signature-256": "sha256=" + good}},
		{name: "none", forged: true},
		{name: "another key", header: map[string]string{"X-Gitea-Signature": sign("guess", body)}, forged: true},
		{name: "another body", header: map[string]string{"X-Gitea-Signature": sign(secret, body[1:])}, forged: true},
		{name: "not hexadecimal", header: map[string]string{"X-Gitea-Signature": "zz"}, forged: true},
		{name: "cut", header: map[string]string{"X-Gitea-Signature": good[:32]}, forged: true},
		{name: "wrong first", header: map[string]string{"X-Gitea-Signature": "00", "X-Hub-Signature-256": "sha256=" + good}, forged: true},
		{name: "empty key", header: map[string]string{"X-Gitea-Signature": sign("", body)}, repo: func(r *forge.Repo) { r.WebhookSecret = "" }, forged: true},
		{name: "another repo's", header: map[string]string{"X-Gitea-Signature": good}, repo: func(r *forge.Repo) { r.Name = "ada/loom" }, want: "is about"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			repo, header := repo, http.Header{"X-Gitea-Event": {"push"}}
			if test.repo != nil {
				test.repo(&repo)
			}
			for k, v := range test.header {
				header.Set(k, v)
			}
			event, reason, err := f.Hook(t.Context(), repo, header, body)
			switch {
			case test.forged:
				if !errors.Is(err, forge.ErrForged) {
					t.Errorf("got %+v, %q, %v, want ErrForged", event, reason, err)
				}
			case test.want != "":
				if err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %+v, %q, %v, want %q", event, reason, err, test.want)
				}
			case err != nil || reason != "" || event.After == "":
				t.Errorf("got %+v, %q, %v", event, reason, err)
			}
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("the error holds the secret: %v", err)
			}
		})
	}
}

// TestRedirectKeepsToken: the token goes to the host it was made for, and nowhere else.
func TestRedirectKeepsToken(t *testing.T) {
	var seen http.Header
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = r.Header.Clone() }))
	defer other.Close()
	first := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusFound))
	defer first.Close()
	repo := forge.Repo{Repo: ci.Repo{Name: "ada/engine", ForgeURL: first.URL}, Token: "hush"}
	_, err := gitea.New().Describe(t.Context(), repo)
	if err == nil || !strings.Contains(err.Error(), "gets no token") {
		t.Errorf("got %v, want an error about the redirect", err)
	}
	if seen != nil {
		t.Errorf("the other host was asked: %v", seen)
	}
}

// TestTooManyBranches: half a list would say that the other half was deleted.
func TestTooManyBranches(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		page, err := strconv.Atoi(r.URL.Query().Get("page"))
		if err != nil {
			t.Error(err)
		}
		branches := make([]map[string]any, 50)
		for i := range branches {
			branches[i] = map[string]any{"name": fmt.Sprintf("b%d", page*50+i), "commit": map[string]any{"id": "c0ffee"}}
		}
		_ = json.NewEncoder(w).Encode(branches)
	}))
	defer web.Close()
	repo := forge.Repo{Repo: ci.Repo{Name: "ada/engine", ForgeURL: web.URL, Branch: "main"}, Token: "hush"}
	if branches, err := gitea.New().OpenBranches(t.Context(), repo); err != nil || branches != nil {
		t.Errorf("there are %d branches, %v; want nil", len(branches), err)
	}
}

// TestEndlessAnswer: what a forge says is bounded.
func TestEndlessAnswer(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		chunk := []byte(strings.Repeat(" ", 1<<20))
		for {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}))
	defer web.Close()
	repo := forge.Repo{Repo: ci.Repo{Name: "ada/engine", ForgeURL: web.URL}, Token: "hush"}
	if _, err := gitea.New().Describe(t.Context(), repo); err == nil {
		t.Error("an endless answer was taken")
	}
}
