package gitd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"slipway/internal/ci"
	"slipway/internal/forge"
)

// Kind is what [ci.Repo.Forge] says of a repo that lives here.
const Kind = "slipway"

// DefaultBranch is the default branch of a new repository. The first push may bring another.
const DefaultBranch = "main"

// Errors that callers tell apart.
var (
	// ErrExists is returned by [Server.Create].
	ErrExists = errors.New("the repository exists already")
	// ErrUnauthorized is what Options.Authorize returns, wrapped or not, when user and password are missing or wrong.
	// Git then asks its user for them.
	ErrUnauthorized = errors.New("no valid user and token given")
)

// Options says how to serve. Dir, URL and Authorize are needed.
type Options struct {
	// Dir is the folder of the repositories. It is made if it is not there. One server at a time may use it.
	Dir string
	// URL is where the handler is reached from outside, such as https://ci.example.com/git. It begins the clone URLs.
	URL string
	// Authorize says whether who calls may read the repo, or write to it, and who that is for sure: the user is only what they
	// call themselves. Its error is nil, [ErrUnauthorized], [forge.ErrDenied], [forge.ErrNotFound], or some other one if it
	// cannot tell. User and password are empty when the caller gave none. It is asked before it is known whether the repository
	// exists.
	Authorize func(ctx context.Context, repo, user, password string, write bool) (who string, err error)
	// OnPush is called when a push has moved branches or tags, and before the pusher gets the end of the answer. What
	// it writes to out appears on the pusher's terminal, line by line, as it is written. Its context doesn't end with the
	// pusher's connection, but after a minute. It must not use out after it returned. It may be called a second time for
	// the same push, with events of the same deliveries; see [Server.Recover]. Nil means nobody cares.
	OnPush func(ctx context.Context, repo string, events []ci.Event, out io.Writer)
	// MaxPush bounds the bytes of one push; 0 means 2 GiB.
	MaxPush int64
	// Timeout bounds one request; 0 means an hour.
	Timeout time.Duration
	// Idle bounds how long a client may neither send nor take anything while the server waits for it; 0 means two minutes.
	Idle time.Duration
	// Log takes what goes wrong; nil means slog's default.
	Log *slog.Logger
}

// Server serves the repositories of a folder. It is an [http.Handler] and a [forge.Forge], and safe for concurrent use.
type Server struct {
	options Options
	bin     string   // git
	env     []string // of every git process
	lock    *os.File // held by this server and by every git process that it started; see Open
	mux     *http.ServeMux
	slots   chan struct{} // one for each git process that serves a request

	background context.Context // of what outlives a request
	stop       context.CancelFunc
	tending    sync.WaitGroup
	tended     sync.Map // repositories that are being tended: name -> struct{}
}

var (
	_ http.Handler = (*Server)(nil)
	_ forge.Forge  = (*Server)(nil)
)

// maxProcesses bounds the git processes that serve requests at the same time; further requests wait.
const maxProcesses = 32

// lockWait bounds how long Open waits for the git processes of a server that was killed.
const lockWait = 20 * time.Second

// Open prepares the folder and returns its server. It clears away what a crash left behind. Close it in the end.
func Open(ctx context.Context, options Options) (*Server, error) {
	if options.MaxPush == 0 {
		options.MaxPush = 2 << 30
	}
	if options.Timeout == 0 {
		options.Timeout = time.Hour
	}
	if options.Idle == 0 {
		options.Idle = 2 * time.Minute
	}
	if options.Log == nil {
		options.Log = slog.Default()
	}
	dir, err := filepath.Abs(options.Dir)
	if err != nil {
		return nil, err
	}
	options.Dir = dir
	options.URL = strings.TrimSuffix(options.URL, "/")

	bin, err := exec.LookPath("git")
	if err != nil {
		return nil, errors.New("serving git repositories needs the program git: install the package git")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the folder of git repositories: %w", err)
	}
	lock, err := lockFolder(ctx, dir)
	if err != nil {
		return nil, err
	}

	s := &Server{options: options, bin: bin, env: environment(options), lock: lock, slots: make(chan struct{}, maxProcesses)}
	s.background, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.mux = s.routes()
	if err := s.sweep(); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("clear away what a crash left in the folder of git repositories: %w", err)
	}
	return s, nil
}

// Close waits for what the server does in the background, after asking it to stop. Requests must have ended.
func (s *Server) Close() error {
	s.stop()
	s.tending.Wait()
	return s.lock.Close()
}

// lockFolder takes the lock of dir. The lock belongs to the open file, which every git process inherits: who gets it
// knows that no process of an earlier server is at work in the folder any more, not even after a kill -9.
func lockFolder(ctx context.Context, dir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the folder of git repositories: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return lock, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			_ = lock.Close()
			return nil, fmt.Errorf("lock the folder of git repositories: %w", err)
		}
		select {
		case <-ctx.Done():
			_ = lock.Close()
			return nil, fmt.Errorf("the folder of git repositories %s is in use by another server", dir)
		case <-tick.C:
		}
	}
}

// sweep removes half-made repositories, lock files and unfinished pushes. Nobody can own them: the folder is locked.
func (s *Server) sweep() error {
	root, err := os.OpenRoot(s.options.Dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		switch {
		case entry.IsDir() && strings.HasPrefix(name, temporary), entry.IsDir() && strings.HasPrefix(name, "tmp_objdir-"):
			if err := root.RemoveAll(path); err != nil {
				return err
			}
			return fs.SkipDir
		case entry.IsDir() && (len(name) == 2 || name == "pack") && strings.HasSuffix(filepath.Dir(path), ".git/objects"):
			return fs.SkipDir // where the many files are
		case !entry.IsDir() && strings.HasSuffix(name, ".lock") && strings.Contains(path, ".git/"):
			return root.Remove(path)
		}
		return nil
	})
}

// temporary begins the name of a folder that is not a repository yet, or no longer. No owner's name begins so.
const temporary = ".tmp-"

// namePattern is what owner and repository names look like: what is safe as a folder, in a URL and in an image's name.
var namePattern = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?$`)

// CheckName is the function [CheckName], for callers that hold only a forge.
func (s *Server) CheckName(name string) error { return CheckName(name) }

// CheckName returns an error that says what is wrong with a repo's name, which must be owner/name.
func CheckName(name string) error {
	owner, base, ok := strings.Cut(name, "/")
	if !ok || !namePattern.MatchString(owner) || !namePattern.MatchString(base) ||
		strings.Contains(name, "..") || strings.HasSuffix(owner, ".git") || strings.HasSuffix(base, ".git") ||
		strings.HasSuffix(owner, ".lock") || strings.HasSuffix(base, ".lock") {
		return fmt.Errorf("%.100q is no name for a repo: write owner/name, each of at most 64 lower case letters, digits and inner . _ -, not ending in .git or .lock", name)
	}
	return nil
}

// dir returns the folder of a repository, which need not exist.
func (s *Server) dir(name string) string {
	return filepath.Join(s.options.Dir, filepath.FromSlash(name)+".git")
}

// find returns the folder of a repository, or [forge.ErrNotFound].
func (s *Server) find(name string) (string, error) {
	if err := CheckName(name); err != nil {
		return "", fmt.Errorf("%w: %w", forge.ErrNotFound, err)
	}
	dir := s.dir(name)
	if _, err := os.Stat(filepath.Join(dir, "HEAD")); err != nil {
		return "", fmt.Errorf("there is no repository %s on this server: %w", name, forge.ErrNotFound)
	}
	return dir, nil
}

// Create makes an empty repository, whole or not at all. It returns [ErrExists] if there is one of that name.
func (s *Server) Create(ctx context.Context, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	dir := s.dir(name)
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return fmt.Errorf("create the repository %s: %w", name, err)
	}
	made, err := os.MkdirTemp(filepath.Dir(dir), temporary)
	if err != nil {
		return fmt.Errorf("create the repository %s: %w", name, err)
	}
	defer os.RemoveAll(made)
	if _, err := s.output(ctx, made, nil, "init", "--quiet", "--bare", "--template=", "--initial-branch="+DefaultBranch); err != nil {
		return fmt.Errorf("create the repository %s: %w", name, err)
	}
	// A folder with something in it cannot be replaced by a rename, so of two at the same time one wins.
	if err := os.Rename(made, dir); errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTEMPTY) {
		return fmt.Errorf("%s: %w", name, ErrExists)
	} else if err != nil {
		return fmt.Errorf("create the repository %s: %w", name, err)
	}
	return syncFolder(filepath.Dir(dir))
}

// Remove deletes a repository and everything in it, for good. It returns [forge.ErrNotFound] if there is none.
func (s *Server) Remove(_ context.Context, name string) error {
	dir, err := s.find(name)
	if err != nil {
		return err
	}
	gone, err := os.MkdirTemp(filepath.Dir(dir), temporary)
	if err != nil {
		return fmt.Errorf("remove the repository %s: %w", name, err)
	}
	if err := os.Rename(dir, filepath.Join(gone, "git")); err != nil {
		return fmt.Errorf("remove the repository %s: %w", name, err)
	}
	if err := os.RemoveAll(gone); err != nil {
		return fmt.Errorf("remove the repository %s: %w", name, err)
	}
	return nil
}

// syncFolder makes the names in a folder durable.
func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
