package runner_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"slipway/internal/ci"
	"slipway/internal/flow"
	"slipway/internal/flow/flowtest"
	"slipway/internal/forge/gitd"
)

// origin is a repository on a real git endpoint, which the bench's repo is cloned from with the forge's token.
type origin struct {
	*bench
	dir string // a working copy
}

func newOrigin(b *bench) *origin {
	b.Helper()
	var handler *gitd.Server
	endpoint := httptest.NewUnstartedServer(nil)
	handler, err := gitd.Open(b.T.Context(), gitd.Options{
		Dir: filepath.Join(b.dir, "git"), URL: "http://" + endpoint.Listener.Addr().String(), Log: slog.New(slog.DiscardHandler),
		Authorize: func(_ context.Context, _, _, password string, _ bool) (string, error) {
			if password != "forge-token-of-ada" {
				return "", gitd.ErrUnauthorized
			}
			return "ada", nil
		},
	})
	if err != nil {
		b.Fatal(err)
	}
	endpoint.Config.Handler = handler
	endpoint.Start()
	b.Cleanup(func() {
		endpoint.Close()
		if err := handler.Close(); err != nil {
			b.Error(err)
		}
	})
	if err := handler.Create(b.T.Context(), flowtest.Repo); err != nil {
		b.Fatal(err)
	}
	b.Forge.CloneURL = endpoint.URL + "/" + flowtest.Repo + ".git"
	if _, err := b.AddRepo(b.T.Context(), flow.NewRepo{
		Name: flowtest.Repo, Forge: flowtest.Kind, ForgeURL: "https://git.example.com", Token: "forge-token-of-ada", Trusted: true,
	}); err != nil {
		b.Fatal(err)
	}
	o := &origin{bench: b, dir: b.TempDir()}
	o.git("init", "-q", "-b", "main")
	o.git("remote", "add", "origin", strings.Replace(b.Forge.CloneURL, "://", "://ada:forge-token-of-ada@", 1))
	return o
}

func (o *origin) git(args ...string) string {
	o.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = o.dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + o.dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C",
		"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.com", "GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.com",
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		o.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit commits files and pushes them to a branch.
func (o *origin) commit(branch string, files map[string]string) (hash string) {
	o.Helper()
	for name, text := range files {
		path := filepath.Join(o.dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			o.Fatal(err)
		}
	}
	o.git("add", "-A")
	o.git("commit", "-q", "--allow-empty", "-m", "Change")
	o.git("push", "-q", "--force", "origin", "HEAD:refs/heads/"+branch)
	return o.git("rev-parse", "HEAD")
}

// run runs a .drone.yml, which has a clone step, at a commit.
func (o *origin) run(event ci.Event, file string) ci.Run {
	o.Helper()
	o.Forge.Put(event.After, map[string]string{".drone.yml": file})
	event.Delivery = ""
	run, _, err := o.Accept(o.T.Context(), flowtest.Repo, event)
	if err != nil {
		o.Fatal(err)
	}
	return o.Await(run.Number, finished)
}

func push(hash string) ci.Event {
	return ci.Event{Kind: ci.Push, Ref: "refs/heads/main", After: hash, Source: "main", Target: "main"}
}

const cloned = "kind: pipeline\ntype: docker\nname: test\n"

func TestClone(t *testing.T) {
	b := newBench(t)
	o := newOrigin(b)
	o.commit("main", map[string]string{"cog": "square\n"})
	second := o.commit("main", map[string]string{"cog": "round\n"})
	third := o.commit("main", map[string]string{"cog": "oval\n"})
	b.start()

	run := o.run(push(second), cloned+`clone: {depth: 1}
steps:
- name: look
  image: busybox
  commands: [cat cog, git rev-list --count HEAD, git status --porcelain, "! grep -r forge-token .git", "! env | grep forge-token"]
`)
	b.wantRun(run, ci.Success, "")
	if log := withoutTrace(b.Log(run, 1, 2)); log != "round\n1\n" {
		t.Errorf("the step sees %q", log)
	}
	if log := b.Log(run, 1, 1); !strings.Contains(log, "slipway: git fetch") || strings.Contains(log, "forge-token") {
		t.Errorf("the clone's log is %q", log)
	}
	run = o.run(push(third), cloned+"steps:\n- name: look\n  image: busybox\n  commands: [cat cog, git rev-list --count HEAD]\n")
	if log := withoutTrace(b.Log(run, 1, 2)); log != "oval\n3\n" {
		t.Errorf("without a depth the step sees %q", log)
	}
}

// Nothing that a repository holds makes git run a program, read this machine's files or speak to other places.
func TestCloneHostile(t *testing.T) {
	b := newBench(t)
	o := newOrigin(b)
	trap := b.outside("trap")
	for _, link := range [][2]string{{"/etc/passwd", "users"}, {"..", "up"}, {"/", "root"}} {
		if err := os.Symlink(link[0], filepath.Join(o.dir, link[1])); err != nil {
			t.Fatal(err)
		}
	}
	hash := o.commit("main", map[string]string{
		".gitattributes":       "* filter=evil diff=evil merge=evil\n",
		".gitconfig":           "[filter \"evil\"]\n\tsmudge = touch " + trap + "\n",
		".gitmodules":          "[submodule \"x\"]\n\tpath = x\n\turl = ext::touch " + trap + "\n",
		"hooks/post-checkout":  "#!/bin/sh\ntouch " + trap + "\n",
		".husky/post-checkout": "#!/bin/sh\ntouch " + trap + "\n",
	})
	b.start()
	run := o.run(push(hash), cloned+"steps:\n- name: look\n  image: busybox\n  commands: [readlink users, ls]\n")
	b.wantRun(run, ci.Success, "")
	if log := b.Log(run, 1, 2); !strings.Contains(log, "/etc/passwd\n") {
		t.Errorf("the link was not checked out as it is: %q", log)
	}
	if exists(trap) {
		t.Error("the repository has run a program on the runner's machine")
	}
}

func TestCloneGone(t *testing.T) {
	b := newBench(t)
	o := newOrigin(b)
	o.commit("main", map[string]string{"cog": "square\n"})
	b.start()
	run := o.run(push(strings.Repeat("ab", 20)), cloned+"steps:\n- name: look\n  image: busybox\n  commands: [ls]\n")
	b.wantRun(run, ci.Error, `step "clone": commit ababababab is no longer in the repository: a forced push has removed it from refs/heads/main`)
	b.wantSteps(run, ci.Error, ci.Skipped)
	b.clean()
}

func TestClonePullRequest(t *testing.T) {
	b := newBench(t)
	o := newOrigin(b)
	base := o.commit("main", map[string]string{"cog": "square\n", "gear": "one\n"})
	change := o.commit("topic", map[string]string{"cog": "round\n"})
	o.git("checkout", "-q", base)
	o.commit("main", map[string]string{"gear": "two\n"})
	o.git("checkout", "-q", base)
	conflict := o.commit("clash", map[string]string{"gear": "three\n"})
	b.start()
	file := cloned + "steps:\n- name: look\n  image: busybox\n  commands: [cat cog gear]\n"
	pull := func(branch, hash string) ci.Event {
		return ci.Event{
			Kind: ci.PullRequest, Ref: "refs/heads/" + branch, After: hash, Source: branch, Target: "main",
			PullRequest: &ci.Change{Number: 1, HeadRepo: flowtest.Repo},
		}
	}
	run := o.run(pull("topic", change), file)
	b.wantRun(run, ci.Success, "")
	if log := withoutTrace(b.Log(run, 1, 2)); log != "round\ntwo\n" {
		t.Errorf("the merge has %q", log)
	}
	run = o.run(pull("clash", conflict), file)
	b.wantRun(run, ci.Error, "does not merge into main: there are conflicts in gear; merge main into the branch, or rebase it")
}
