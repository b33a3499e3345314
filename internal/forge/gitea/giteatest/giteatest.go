// Package giteatest starts a real Gitea for tests, with SQLite, in a folder of its own, and helps to use it the way its
// users do: repositories by its API, commits by git over HTTP.
//
// Start with [New], or with [Shared] where several tests of a package use one instance.
package giteatest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	sdk "code.gitea.io/sdk/gitea"

	"slipway/internal/testneeds"
)

// startTime bounds the start, stopTime the end of the process before it is killed.
const (
	startTime = 2 * time.Minute
	stopTime  = 10 * time.Second
)

// Options says how to start; its zero value is fine.
type Options struct {
	// Host is the address to listen on and to be called at; empty means 127.0.0.1. A test whose containers clone from
	// Gitea needs one that they reach.
	Host string
}

// Server is a running Gitea.
type Server struct {
	// URL is its root, without a slash at the end.
	URL string
	// Admin is its administrator.
	Admin User

	dir    string
	bin    string
	stop   context.CancelFunc
	ended  chan struct{} // closed when the process has ended
	err    error         // how it ended
	output *output
}

// User is an account, and a token that may do all that the account may.
type User struct {
	Name, Email, Password, Token string
}

// New starts a Gitea and stops it at the end of the test. It skips the test if `make gitea` has not been run.
func New(t testing.TB, options Options) *Server {
	t.Helper()
	s, err := Start(context.WithoutCancel(t.Context()), testneeds.Tool(t, "gitea"), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("Gitea said:\n%s", s.output)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Shared is one Gitea for the tests of a package, started by the first that needs it. Its zero value is ready; close it in
// TestMain.
type Shared struct {
	once   sync.Once
	server *Server
	err    error
}

// Server returns the running instance. It skips the test if `make gitea` has not been run.
func (s *Shared) Server(t testing.TB) *Server {
	t.Helper()
	bin := testneeds.Tool(t, "gitea")
	s.once.Do(func() { s.server, s.err = Start(context.WithoutCancel(t.Context()), bin, Options{}) })
	if s.err != nil {
		t.Fatal(s.err)
	}
	return s.server
}

// Close stops the instance if one was started.
func (s *Shared) Close() error {
	if s.server == nil {
		return nil
	}
	return s.server.Close()
}

// Start starts the Gitea at bin and waits until it answers. Close it in the end.
func Start(ctx context.Context, bin string, options Options) (*Server, error) {
	if options.Host == "" {
		options.Host = "127.0.0.1"
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	// Gitea must know its port beforehand, and somebody else may take a free one in between.
	var failures []error
	for range 3 {
		s, err := start(ctx, bin, options)
		if err == nil {
			return s, nil
		}
		failures = append(failures, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, fmt.Errorf("start Gitea: %w", errors.Join(failures...))
}

func start(ctx context.Context, bin string, options Options) (_ *Server, err error) {
	port, err := freePort(options.Host)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "giteatest-")
	if err != nil {
		return nil, err
	}
	s := &Server{
		URL: "http://" + net.JoinHostPort(options.Host, port),
		dir: dir, bin: bin, ended: make(chan struct{}), output: &output{},
	}
	if err := s.configure(options.Host, port); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	s.run()
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := s.healthy(ctx); err != nil {
		return nil, err
	}
	s.Admin = User{Name: "root-of-tests", Email: "root@example.com", Password: rand.Text()}
	out, err := s.command(ctx, "admin", "user", "create", "--admin", "--username", s.Admin.Name, "--password", s.Admin.Password,
		"--email", s.Admin.Email, "--must-change-password=false", "--access-token", "--access-token-name", "tests", "--access-token-scopes", "all").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("create the administrator: %w: %s", err, out)
	}
	if s.Admin.Token = tokenIn(string(out)); s.Admin.Token == "" {
		return nil, fmt.Errorf("create the administrator: no token in %q", out)
	}
	return s, nil
}

// tokenIn finds the token in what `admin user create` prints: the one word of 40 hexadecimal digits.
func tokenIn(text string) string {
	for _, word := range strings.Fields(text) {
		if len(word) == 40 && strings.Trim(word, "0123456789abcdef") == "" {
			return word
		}
	}
	return ""
}

func freePort(host string) (string, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

// configure writes Gitea's configuration: everything in the folder, nothing called outside, webhooks allowed anywhere.
func (s *Server) configure(host, port string) error {
	static, err := filepath.EvalSymlinks(s.bin + ".static")
	if err != nil {
		return fmt.Errorf("find Gitea's templates, to which `make gitea` makes a link: %w", err)
	}
	me, err := user.Current()
	if err != nil {
		return err
	}
	// Gitea refuses to run as root unless it is told that this is known to be unwise. Here it serves one test on a private
	// address, and any other user may not be able to read the module cache.
	config := fmt.Sprintf(`
APP_NAME = Gitea of a test
RUN_USER = %s
RUN_MODE = prod
WORK_PATH = %s
I_AM_BEING_UNSAFE_RUNNING_AS_ROOT = %t

[server]
PROTOCOL = http
HTTP_ADDR = %s
HTTP_PORT = %s
ROOT_URL = %s/
STATIC_ROOT_PATH = %s
DISABLE_SSH = true
LFS_START_SERVER = false
OFFLINE_MODE = true

[database]
DB_TYPE = sqlite3
PATH = %s/gitea.db

[repository]
ROOT = %s/repositories
DEFAULT_BRANCH = main

[security]
INSTALL_LOCK = true
SECRET_KEY = %s

[webhook]
ALLOWED_HOST_LIST = *
DELIVER_TIMEOUT = 30

[service]
DISABLE_REGISTRATION = true

[indexer]
ISSUE_INDEXER_TYPE = db

[queue]
TYPE = channel

[log]
MODE = console
LEVEL = warn

[actions]
ENABLED = false

[packages]
ENABLED = false

[cron]
ENABLED = false

[cron.update_checker]
ENABLED = false
`, me.Username, s.dir, os.Geteuid() == 0, host, port, s.URL, static, s.dir, s.dir, rand.Text())
	return os.WriteFile(s.config(), []byte(config), 0o600)
}

func (s *Server) config() string { return filepath.Join(s.dir, "app.ini") }

// command returns a command of Gitea's command line.
func (s *Server) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.bin, append(args, "--config", s.config(), "--work-path", s.dir)...)
	cmd.Dir = s.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "USER=" + os.Getenv("USER"), "LC_ALL=C"}
	return cmd
}

// run starts the server process and a goroutine that waits for it.
func (s *Server) run() {
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	cmd := s.command(ctx, "web")
	cmd.Stdout, cmd.Stderr = s.output, s.output
	// It dies with the test process, even if that is killed; and it takes the git processes that it started with it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopTime
	go func() {
		defer close(s.ended)
		// The kernel sends Pdeathsig when the starting thread ends, so the thread must stay.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		s.err = cmd.Run()
		if cmd.Process != nil {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
	}()
}

// healthy waits until Gitea says that it is well.
func (s *Server) healthy(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/api/healthz", nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-s.ended:
			return fmt.Errorf("it ended: %w\n%s", s.err, s.output)
		case <-ctx.Done():
			return fmt.Errorf("it did not get ready: %w\n%s", ctx.Err(), s.output)
		case <-tick.C:
		}
	}
}

// Close stops Gitea and removes its folder. It may be called more than once.
func (s *Server) Close() error {
	s.stop()
	<-s.ended
	return os.RemoveAll(s.dir)
}

// Client returns a client of the API for a user.
func (s *Server) Client(t testing.TB, u User) *sdk.Client {
	t.Helper()
	c, err := sdk.NewClient(s.URL, sdk.SetToken(u.Token), sdk.SetGiteaVersion(""), sdk.SetContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// NewUser creates an account that is no administrator, and a token for it.
func (s *Server) NewUser(t testing.TB, name string) User {
	t.Helper()
	u := User{Name: name, Email: name + "@example.com", Password: rand.Text()}
	mustChange := false
	if _, _, err := s.Client(t, s.Admin).AdminCreateUser(sdk.CreateUserOption{Username: u.Name, Email: u.Email, Password: u.Password, MustChangePassword: &mustChange}); err != nil {
		t.Fatalf("create the user %s: %v", name, err)
	}
	u.Token = s.NewToken(t, u, "all")
	return u
}

// NewToken makes a token with the given scopes, such as "read:repository".
func (s *Server) NewToken(t testing.TB, u User, scopes ...sdk.AccessTokenScope) string {
	t.Helper()
	c, err := sdk.NewClient(s.URL, sdk.SetBasicAuth(u.Name, u.Password), sdk.SetGiteaVersion(""), sdk.SetContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := c.CreateAccessToken(sdk.CreateAccessTokenOption{Name: rand.Text(), Scopes: scopes})
	if err != nil {
		t.Fatalf("create a token for %s: %v", u.Name, err)
	}
	return token.Token
}

// NewRepo creates an empty repository of a user.
func (s *Server) NewRepo(t testing.TB, u User, name string, private bool) *sdk.Repository {
	t.Helper()
	repo, _, err := s.Client(t, u).CreateRepo(sdk.CreateRepoOption{Name: name, Private: private, DefaultBranch: "main"})
	if err != nil {
		t.Fatalf("create the repository %s/%s: %v", u.Name, name, err)
	}
	return repo
}

// Statuses returns the commit statuses, the newest first.
func (s *Server) Statuses(t testing.TB, repo, commit string) []*sdk.Status {
	t.Helper()
	owner, name, _ := strings.Cut(repo, "/")
	statuses, _, err := s.Client(t, s.Admin).ListStatuses(owner, name, commit, sdk.ListStatusesOption{})
	if err != nil {
		t.Fatalf("list the statuses of %s at %s: %v", repo, commit, err)
	}
	return statuses
}

// output keeps the last of what the process printed.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.text.Len() > 64<<10 {
		o.text.Next(32 << 10)
	}
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}
