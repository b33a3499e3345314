package giteatest

import (
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Work is a working copy of a repository, in which a user commits and pushes with the machine's git.
type Work struct {
	t   testing.TB
	dir string
}

// Work makes a working copy whose origin is the repository (owner/name), with the user's token. The repository may be
// empty; if it is not, its default branch is checked out.
func (s *Server) Work(t testing.TB, u User, repo string) *Work {
	t.Helper()
	origin, err := url.Parse(s.URL + "/" + repo + ".git")
	if err != nil {
		t.Fatal(err)
	}
	origin.User = url.UserPassword(u.Name, u.Token)
	w := &Work{t: t, dir: t.TempDir()}
	w.Git("init", "-q", "-b", "main")
	w.Git("config", "user.name", u.Name)
	w.Git("config", "user.email", u.Email)
	w.Git("remote", "add", "origin", origin.String())
	w.Git("fetch", "-q", "origin")
	if w.Git("branch", "-r") != "" {
		w.Git("remote", "set-head", "origin", "--auto")
		w.Git("reset", "-q", "--hard", "origin/HEAD")
	}
	return w
}

// Git runs git in the working copy and returns what it printed.
func (w *Work) Git(args ...string) string {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), "git", args...)
	cmd.Dir = w.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		w.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// Commit writes files, by their paths, commits them with everything else that changed, and returns the commit's hash.
func (w *Work) Commit(message string, files map[string]string) string {
	w.t.Helper()
	for path, content := range files {
		path = filepath.Join(w.dir, filepath.FromSlash(path))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			w.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
	w.Git("add", "-A")
	w.Git("commit", "-q", "--allow-empty", "-m", message)
	return w.Git("rev-parse", "HEAD")
}

// Push pushes refs to the repository, such as "main" or "HEAD:refs/heads/topic".
func (w *Work) Push(refs ...string) {
	w.t.Helper()
	w.Git(append([]string{"push", "-q", "origin"}, refs...)...)
}
