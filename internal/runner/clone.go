package runner

import (
	"bytes"
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
	dir := filepath.Join(s.w.env.Workspace(), filepath.FromSlash(s.w.a.Job.Checkout)) // below the workspace, where nothing but this step has been
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the folder of the checkout: %w", err)
	}
	git := gitCommand{dir: dir, env: gitEnv(s.w.a.Clone.URL, s.w.a.Clone.Username, s.w.a.Clone.Password, c.SkipVerify), say: s.log.say}
	if err := git.run(ctx, "init", "--quiet", "--initial-branch=slipway", "."); err != nil {
		return err
	}
	if err := git.run(ctx, "remote", "add", "origin", s.w.a.Clone.URL); err != nil {
		return err
	}
	for attempt := 0; ; attempt++ {
		err := fetch(ctx, git, c)
		if err == nil || attempt >= max(c.Retries, 1) || ctx.Err() != nil {
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

func fetch(ctx context.Context, git gitCommand, c *plan.Clone) error {
	args := []string{"fetch", "--quiet", "--no-tags", "--no-recurse-submodules"}
	if c.Merge == "" {
		// The commit itself is asked for, because its reference may have moved on since. A server that gives only what
		// references name gives the reference's whole history, which has the commit.
		exact := slices.Clone(args)
		if c.Depth > 0 {
			exact = append(exact, "--depth="+strconv.Itoa(c.Depth))
		}
		if git.run(ctx, append(exact, "origin", "+"+c.Commit+":refs/slipway/head")...) != nil {
			if err := git.run(ctx, append(args, "origin", "+"+c.Ref+":refs/slipway/head")...); err != nil {
				return err
			}
		}
		return git.run(ctx, "checkout", "--quiet", "--detach", c.Commit, "--")
	}
	if err := git.run(ctx, append(args, "origin", "+"+c.Merge+":refs/slipway/base", "+"+c.Ref+":refs/slipway/head")...); err != nil {
		return err
	}
	if err := git.run(ctx, "checkout", "--quiet", "--detach", "refs/slipway/base", "--"); err != nil {
		return err
	}
	if err := git.run(ctx, "merge", "--quiet", "--no-edit", "-m", "slipway: test the merge", c.Commit); err != nil {
		return fmt.Errorf("commit %.10s does not merge into %s: %w", c.Commit, strings.TrimPrefix(c.Merge, "refs/heads/"), err)
	}
	return nil
}

// gitCommand runs git in one folder and environment.
type gitCommand struct {
	dir string
	env []string
	say func(...string)
}

func (g gitCommand) run(ctx context.Context, args ...string) error {
	g.say("git " + strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir, cmd.Env = g.dir, g.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if errors.Is(err, exec.ErrNotFound) {
		return errors.New("this runner's machine has no git; install it")
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	text := strings.TrimSpace(stderr.String())
	return fmt.Errorf("git %s: %s", args[0], strings.TrimPrefix(text, "fatal: "))
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
