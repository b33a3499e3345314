package runner

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"slipway/internal/plan"
)

// clone checks the commit out into the workspace, by the machine's own git.
//
// The repository's content is hostile: git runs without any configuration but ours, no hook, filter, credential helper
// or submodule of the repository gets to run, and only HTTP is spoken. The login goes to git by its environment, so that
// it is neither on a command line nor in the workspace's .git/config.
func (s *stepRun) clone(ctx context.Context) error {
	c := s.step.Clone
	if err := emptyFolder(s.w.env.Workspace()); err != nil {
		return fmt.Errorf("empty the workspace: %w", err)
	}
	into := cmp.Or(s.w.a.Job.Checkout, ".")
	root, err := os.OpenRoot(s.w.env.Workspace())
	if err != nil {
		return fmt.Errorf("open the workspace: %w", err)
	}
	defer root.Close()
	if err := root.MkdirAll(into, 0o755); err != nil {
		return fmt.Errorf("make the folder of the checkout: %w", err)
	}
	dir := filepath.Join(root.Name(), filepath.FromSlash(into)) // nothing but this step has been in it
	git := gitCommand{dir: dir, env: gitEnv(s.w.a.Clone.URL, s.w.a.Clone.Username, s.w.a.Clone.Password, c.SkipVerify), say: s.log.say}
	if _, err := git.run(ctx, "init", "--quiet", "--initial-branch=slipway", "."); err != nil {
		return err
	}
	if _, err := git.run(ctx, "remote", "add", "origin", s.w.a.Clone.URL); err != nil {
		return err
	}
	for attempt := 0; ; attempt++ {
		err := fetch(ctx, git, c)
		if err == nil {
			return checkout(ctx, git, c)
		}
		if attempt >= max(c.Retries, 1) || ctx.Err() != nil {
			return err
		}
		s.log.say(fmt.Sprintf("%s; trying again", oneLine(err.Error())))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Duration(attempt+1) * time.Second):
		}
	}
}

// fetch brings the commit, and the branch that it is merged into.
func fetch(ctx context.Context, git gitCommand, c *plan.Clone) error {
	args := []string{"fetch", "--quiet", "--no-tags", "--no-recurse-submodules"}
	if c.Merge != "" {
		// A merge needs the history up to where the branches parted.
		_, err := git.run(ctx, append(args, "origin", "+"+c.Merge+":refs/slipway/base", "+"+c.Ref+":refs/slipway/head")...)
		return err
	}
	// The commit itself is asked for, because its reference may have moved on since. A server that gives only what
	// references name gives the reference's whole history, which has the commit.
	exact := slices.Clone(args)
	if c.Depth > 0 {
		exact = append(exact, "--depth="+strconv.Itoa(c.Depth))
	}
	if _, err := git.run(ctx, append(exact, "origin", "+"+c.Commit+":refs/slipway/head")...); err == nil || ctx.Err() != nil {
		return err
	}
	_, err := git.run(ctx, append(args, "origin", "+"+c.Ref+":refs/slipway/head")...)
	return err
}

// checkout puts what was fetched into the folder.
func checkout(ctx context.Context, git gitCommand, c *plan.Clone) error {
	if _, err := git.ask(ctx, "cat-file", "-e", c.Commit+"^{commit}"); err != nil {
		if ctx.Err() != nil {
			return err
		}
		return fmt.Errorf("commit %.10s is no longer in the repository: a forced push has removed it from %s", c.Commit, c.Ref)
	}
	if c.Merge == "" {
		_, err := git.run(ctx, "checkout", "--quiet", "--detach", c.Commit, "--")
		return err
	}
	if _, err := git.run(ctx, "checkout", "--quiet", "--detach", "refs/slipway/base", "--"); err != nil {
		return err
	}
	_, err := git.run(ctx, "merge", "--quiet", "--no-edit", "-m", "slipway: test the merge", c.Commit)
	if err == nil || ctx.Err() != nil {
		return err
	}
	branch := strings.TrimPrefix(c.Merge, "refs/heads/")
	if files, listErr := git.ask(ctx, "diff", "--name-only", "--diff-filter=U"); listErr == nil && files != "" {
		return fmt.Errorf("commit %.10s does not merge into %s: there are conflicts in %s; merge %[2]s into the branch, or rebase it",
			c.Commit, branch, strings.ReplaceAll(files, "\n", ", "))
	}
	return fmt.Errorf("commit %.10s does not merge into %s: %w", c.Commit, branch, err)
}

// gitCommand runs git in one folder and environment.
type gitCommand struct {
	dir string
	env []string
	say func(...string)
}

// run runs git and returns what it printed, without the last line's end.
func (g gitCommand) run(ctx context.Context, args ...string) (string, error) {
	g.say("git " + strings.Join(args, " "))
	return g.ask(ctx, args...)
}

// ask is run for questions, which the log need not show.
func (g gitCommand) ask(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir, cmd.Env = g.dir, g.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	var stdout, stderr bounded
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err == nil {
		return strings.TrimSpace(stdout.String()), nil
	}
	if errors.Is(err, exec.ErrNotFound) {
		return "", errors.New("this runner's machine has no git; install it")
	}
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	text := strings.TrimPrefix(strings.TrimSpace(stderr.String()), "fatal: ")
	if text == "" {
		text = err.Error()
	}
	return "", fmt.Errorf("git %s: %s", args[0], text)
}

// bounded keeps the first bytes that are written to it: a server says as much as it likes.
type bounded struct{ bytes.Buffer }

const maxGitOutput = 4 << 10

func (b *bounded) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), max(0, maxGitOutput-b.Len()))])
	return len(p), nil
}

// gitEnv is the whole environment of git: nothing of this process, of the machine's configuration or of the user's.
func gitEnv(remote, username, password string, skipVerify bool) []string {
	config := [][2]string{
		{"core.hooksPath", "/dev/null"},
		{"core.fsmonitor", "false"},
		{"credential.helper", ""},
		{"protocol.allow", "never"},
		{"protocol.http.allow", "always"},
		{"protocol.https.allow", "always"},
		{"http.followRedirects", "initial"},
		{"safe.directory", "*"},
		{"user.name", "slipway"},
		{"user.email", "slipway@localhost"},
	}
	if u, err := url.Parse(remote); err == nil && password != "" {
		login := base64.StdEncoding.EncodeToString([]byte(username + ":" + password))
		config = append(config, [2]string{"http." + u.Scheme + "://" + u.Host + "/.extraHeader", "Authorization: Basic " + login})
	}
	if skipVerify {
		config = append(config, [2]string{"http.sslVerify", "false"})
	}
	env := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "LC_ALL=C",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0",
		"GIT_CONFIG_COUNT=" + strconv.Itoa(len(config)),
	}
	for i, kv := range config {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, kv[0]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, kv[1]))
	}
	return env
}

// emptyFolder removes all that is in dir, but not dir itself, which may be a mount.
func emptyFolder(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}
