package main

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"slipway/internal/auth"
	"slipway/internal/blob"
	"slipway/internal/ci"
	"slipway/internal/cluster"
	"slipway/internal/drift"
	"slipway/internal/fault"
	"slipway/internal/flow"
	"slipway/internal/forge"
	"slipway/internal/forge/gitd"
	"slipway/internal/forge/gitea"
	"slipway/internal/plan"
	"slipway/internal/protocol"
	"slipway/internal/registry"
	"slipway/internal/retention"
	"slipway/internal/runlog"
	"slipway/internal/secret"
	"slipway/internal/store/sqlstore"
	"slipway/internal/version"
	"slipway/internal/web"
)

// serverOptions are the flags of `slipway server`.
type serverOptions struct {
	data     string
	listen   string
	url      string
	database string
	noRunner bool
	timeout  time.Duration
	grace    time.Duration
	storage  string
	mirror   mirrorOptions
	runner   runnerOptions
}

func newServerCommand() *cobra.Command {
	var opts serverOptions
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Serve everything: API, pages, git, webhooks, registry, queue, and a runner beside it",
		Long: `Serve everything on one address: the API and the pages, the git endpoint, the forges' webhooks, the image registry
and the queue of jobs. Unless --no-runner is given, a runner is started beside it as a process of its own; killing
or restarting the server does not touch the steps that it runs.

The first start makes an admin's token and writes it to the file admin-token in the data folder.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runServer(cmd.Context(), opts, cmd.ErrOrStderr()) },
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.data, "data", defaultData, "folder of everything that the server keeps")
	flags.StringVar(&opts.listen, "listen", "127.0.0.1:7070", "address to listen on")
	flags.StringVar(&opts.url, "url", "", "root under which people, forges and images reach the server (default http://ADDRESS of --listen)")
	flags.StringVar(&opts.database, "database", "", "postgres://... or a path of an SQLite file (default DATA/slipway.db)")
	flags.BoolVar(&opts.noRunner, "no-runner", false, "start no runner beside the server")
	flags.DurationVar(&opts.timeout, "timeout", time.Hour, "limit of a job whose repo sets none")
	flags.DurationVar(&opts.grace, "registry-grace", 24*time.Hour, "how long the registry keeps what nobody needs any more, and what was deleted")
	flags.StringVar(&opts.storage, "registry-storage", "", "bucket of the registry's blobs, s3://BUCKET/PREFIX?endpoint=https://HOST&region=REGION (default: the data folder)")
	opts.mirror.addFlags(flags)
	opts.runner.addEngineFlags(flags)
	return cmd
}

// runServer is the whole server, from its data folder to its last request.
func runServer(ctx context.Context, opts serverOptions, stderr io.Writer) (err error) {
	log := slog.New(slog.NewTextHandler(stderr, nil))

	// The address first: a second server of the same data finds it taken, and has touched nothing.
	unlock, err := lockData("server", opts.data)
	if err != nil {
		return err
	}
	defer unlock()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", opts.listen)
	if err != nil {
		return fault.New(fault.Conflict, "cannot listen on %s: %s; choose another address by --listen", opts.listen, fault.Cause(err))
	}
	defer listener.Close()
	var front net.Listener
	if opts.mirror.listen != "" {
		if front, err = (&net.ListenConfig{}).Listen(ctx, "tcp", opts.mirror.listen); err != nil {
			return fault.New(fault.Conflict, "cannot listen on %s: %s; choose another address by --mirror-listen", opts.mirror.listen, fault.Cause(err))
		}
		defer front.Close()
	}
	if opts.grace < time.Minute {
		return fault.New(fault.Invalid, "--registry-grace %s is too short; a push needs a minute at least between a layer and its manifest", opts.grace)
	}
	inside := "http://" + listener.Addr().String()
	if opts.timeout <= 0 {
		return fault.New(fault.Invalid, "--timeout is more than 0, not %s", opts.timeout)
	}
	opts.runner.server = inside
	if !opts.noRunner {
		if err := opts.runner.check(); err != nil { // its runner would end at once, again and again
			return err
		}
	}
	if opts.url == "" {
		opts.url = inside
	}
	root, err := url.Parse(strings.TrimSuffix(opts.url, "/"))
	if err != nil || root.Host == "" || root.Path != "" || root.Scheme != "http" && root.Scheme != "https" {
		return fault.New(fault.Invalid, "--url %q is not the root of a server, such as https://slipway.example.com", opts.url)
	}

	// What it remembers.
	if opts.database == "" {
		opts.database = filepath.Join(opts.data, "slipway.db")
	}
	db, err := sqlstore.Open(ctx, opts.database)
	if err != nil {
		return fault.New(fault.Unavailable, "%w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	keys, err := secret.OpenKeys(filepath.Join(opts.data, "secret.key"))
	if err != nil {
		return fault.New(fault.Invalid, "%w", err)
	}
	tokenKey, err := loadKey(filepath.Join(opts.data, "token.key"))
	if err != nil {
		return err
	}
	blobs, err := blob.OpenDir(filepath.Join(opts.data, "blobs"))
	if err != nil {
		return fault.New(fault.Unavailable, "%w", err)
	}
	logs, err := runlog.Open(ctx, filepath.Join(opts.data, "logs"), blobs, runlog.Options{})
	if err != nil {
		return fault.New(fault.Unavailable, "%w", err)
	}
	defer logs.Close()
	authority := &auth.Authority{Tokens: db, Jobs: db, Key: derive(tokenKey, "jobs"), Now: time.Now}

	// What it serves. The flow and the git endpoint know each other: a push becomes a run.
	access := access{authority: authority, repos: db}
	var runs *flow.Flow
	git, err := gitd.Open(ctx, gitd.Options{
		Dir: filepath.Join(opts.data, "git"), URL: root.String() + "/git", Log: log,
		Authorize: access.git,
		OnPush: func(ctx context.Context, repo string, events []ci.Event, out io.Writer) {
			announce(ctx, runs, repo, events, out)
		},
	})
	if err != nil {
		return fmt.Errorf("open the git endpoint: %w", err)
	}
	defer git.Close()
	connected := &clusters{kubeconfig: opts.runner.kubeconfig, others: func(ctx context.Context) ([]flow.Cluster, error) {
		return runs.Clusters(ctx)
	}}
	defer connected.Close()
	cleaner := &retention.Cleaner{Store: db, Facts: facts{db, connected.running, func(ctx context.Context, repo string) ([]string, error) {
		return runs.OpenBranches(ctx, repo)
	}}, Now: time.Now}
	mirror, err := opts.mirror.open(opts.runner.insecure)
	if err != nil {
		return err
	}
	defer mirror.Client.Close()
	runs = flow.New(flow.Options{
		Store: db, Logs: logs, Keys: keys, Auth: authority, Log: log,
		Forges: map[string]forge.Forge{gitd.Kind: git, gitea.Kind: gitea.New()},
		System: plan.System{Proto: root.Scheme, Host: root.Host, Registry: root.Host, Version: version.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH},
		URL:    root.String(), Inside: inside, Registry: root.Host, Mirrors: mirror.Hosts, Timeout: opts.timeout, Retention: cleaner,
	})
	objects, err := openStorage(ctx, opts.storage, opts.data)
	if err != nil {
		return err
	}
	images, err := registry.New(registry.Options{
		Dir: filepath.Join(opts.data, "registry"), S3: objects, Store: db, Authority: access, Key: derive(tokenKey, "registry"),
		URL: root.String(), Hosts: []string{root.Host, listener.Addr().String()}, Mirror: mirror, Grace: opts.grace, Immutable: cleaner.Fixed, Log: log,
	})
	if err != nil {
		return fmt.Errorf("open the registry: %w", err)
	}
	defer images.Close()
	if err := firstTokens(ctx, authority, opts.data, log); err != nil {
		return err
	}
	if err := writeOwnRegistry(opts.data, listener.Addr(), mirror.Hosts); err != nil {
		return err
	}
	if err := runs.Recover(ctx); err != nil {
		return err
	}
	if _, err := git.Recover(ctx); err != nil {
		return fmt.Errorf("take up pushes that were not acted on: %w", err)
	}

	mux := http.NewServeMux()
	mux.Handle("/jwt/auth", images)
	mux.Handle("/git/", http.StripPrefix("/git", git))
	mux.Handle(protocol.PathPrefix, protocol.Handler(runs, access.runner))
	mux.Handle("/metrics", measure(authority, db, images, log))
	mux.Handle("/", web.New(web.Options{Flow: runs, Store: db, Logs: logs, Auth: authority, Images: cleaner, Log: log}))
	server := &http.Server{
		Handler: registryFirst(images, mux), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve on %s: %w", opts.listen, err)
		}
		return nil
	})
	if front != nil {
		dockers := &http.Server{
			Handler: images.Front("docker.io"), ReadHeaderTimeout: server.ReadHeaderTimeout, IdleTimeout: server.IdleTimeout, ErrorLog: server.ErrorLog,
		}
		server.RegisterOnShutdown(func() { _ = dockers.Close() }) // who pulls from a mirror asks again, elsewhere
		group.Go(func() error {
			if err := dockers.Serve(front); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve on %s: %w", opts.mirror.listen, err)
			}
			return nil
		})
	}
	group.Go(func() error { runs.Run(ctx); return nil })
	group.Go(func() error { giveBack(ctx, runs); return nil })
	keeper := &drift.Keeper{Clusters: connected.List, Store: db, Heal: runs.Heal, Log: log, Now: time.Now}
	group.Go(func() error { keeper.Run(ctx); return nil })
	group.Go(func() error { tidy(ctx, cleaner, images, min(opts.grace, time.Hour), log); return nil })
	if !opts.noRunner {
		opts.runner.data = filepath.Join(opts.data, "runner")
		opts.runner.tokenFile = filepath.Join(opts.data, "runner-token")
		group.Go(func() error { return superviseRunner(ctx, opts.runner, log) })
	}
	group.Go(func() error {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		// Followers of logs and waiting runners hold their connections for long; they come back by themselves.
		if err := server.Shutdown(grace); err != nil {
			_ = server.Close()
		}
		runs.Close(grace)
		return nil
	})
	log.Info("slipway server", "version", version.Version(), "url", root.String(), "data", opts.data)
	return group.Wait()
}

// registryFirst gives the registry its requests as they came: an http.ServeMux answers names like o/../a with a redirect to
// another repository, where the registry's clients are to be told what is wrong with them.
func registryFirst(registry, others http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2" || strings.HasPrefix(r.URL.Path, "/v2/") {
			registry.ServeHTTP(w, r)
			return
		}
		others.ServeHTTP(w, r)
	})
}

// openStorage opens the bucket of the registry's blobs, if they are to be in one.
func openStorage(ctx context.Context, address, data string) (*registry.S3, error) {
	dir := filepath.Join(data, "registry")
	if address == "" {
		if _, err := os.Stat(filepath.Join(dir, "storage-id")); err == nil {
			return nil, fault.New(fault.Invalid, "the blobs of %s are in a bucket; give it by --registry-storage", dir)
		}
		return nil, nil
	}
	if blobs, err := filepath.Glob(filepath.Join(dir, "blobs", "sha*", "*", "*")); err == nil && len(blobs) > 0 {
		return nil, fault.New(fault.Invalid, "%s has blobs, and they do not move by themselves: copy the files blobs/ALGORITHM/XX/HEX to PREFIX/blobs/ALGORITHM/HEX, "+
			"remove the folder, and start again", dir)
	}
	objects, err := registry.OpenS3(ctx, address, dir)
	if err != nil {
		return nil, fault.New(fault.Invalid, "--registry-storage: %w", err)
	}
	return objects, nil
}

// announce makes runs of what was pushed, and tells the pusher of them.
func announce(ctx context.Context, runs *flow.Flow, repo string, events []ci.Event, out io.Writer) {
	for _, event := range events {
		if event.Kind == ci.Delete {
			gone, err := runs.Deleted(ctx, repo, event)
			for _, run := range gone {
				fmt.Fprintf(out, "Slipway: run %d tears down %s: %s\n", run.Number, run.Event.DeployTo, runs.Link(repo, run.Number))
			}
			if err != nil {
				fmt.Fprintf(out, "Slipway: the review environments of %s stay: %s\n", event.Target, fault.Of(err).Message)
			}
			continue
		}
		run, skip, err := runs.Accept(ctx, repo, event)
		switch {
		case err != nil:
			fmt.Fprintf(out, "Slipway: no run: %s\n", fault.Of(err).Message)
		case skip != "":
			fmt.Fprintf(out, "Slipway: no run, the commit says %s\n", skip)
		case run.Status == ci.Error:
			fmt.Fprintf(out, "Slipway: run %d cannot start:\n%s\n%s\n", run.Number, run.Message, runs.Link(repo, run.Number))
		case run.Status == ci.Skipped:
			fmt.Fprintf(out, "Slipway: run %d has nothing to do: %s\n", run.Number, run.Message)
		default:
			fmt.Fprintf(out, "Slipway: run %d: %s\n", run.Number, runs.Link(repo, run.Number))
		}
		for _, warning := range run.Warnings {
			fmt.Fprintf(out, "%s\n", warning)
		}
	}
}

// firstTokens makes the tokens of the admin and of the server's own runner, once.
func firstTokens(ctx context.Context, authority *auth.Authority, data string, log *slog.Logger) error {
	for _, first := range []struct{ file, name, scope string }{
		{"admin-token", "admin", auth.ScopeAdmin},
		{"runner-token", "own runner", auth.ScopeRunner},
		{"pull-token", "own cluster", auth.ScopePull},
	} {
		path := filepath.Join(data, first.file)
		if text, err := os.ReadFile(path); err == nil {
			if _, err := authority.Find(ctx, strings.TrimSpace(string(text))); err == nil {
				continue
			}
		}
		text, _, err := authority.Create(ctx, first.name, []string{first.scope}, time.Time{})
		if err != nil {
			return fmt.Errorf("make the token %s: %w", first.name, err)
		}
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			return fmt.Errorf("write the token %s: %w", first.name, err)
		}
		log.Info("made a token", "name", first.name, "file", path)
	}
	return nil
}

// ownRegistryFile, in a server's data folder, says to a cluster on the same machine where the server's registry is, how it
// gets in, and what is mirrored there.
const ownRegistryFile = "own-registry.json"

func writeOwnRegistry(data string, listen net.Addr, mirrors []string) error {
	path := filepath.Join(data, ownRegistryFile)
	token, err := os.ReadFile(filepath.Join(data, "pull-token"))
	if err != nil {
		return fmt.Errorf("read the token for clusters: %w", err)
	}
	address, err := netip.ParseAddrPort(listen.String())
	if err != nil {
		return fmt.Errorf("read the server's own address: %w", err)
	}
	own, ok := cluster.OwnRegistry(address, strings.TrimSpace(string(token)), mirrors)
	if !ok { // what an earlier start wrote would lead nowhere
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	}
	return own.Save(path)
}

// derive makes a key for one purpose of the server's, so that what one part signs another never takes for its own.
func derive(key []byte, purpose string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("slipway " + purpose))
	return mac.Sum(nil)
}

// loadKey reads a key of 32 random bytes, which the first start makes.
func loadKey(path string) ([]byte, error) {
	key, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		key = make([]byte, 32)
		_, _ = rand.Read(key) // it never fails, says its documentation
		return key, os.WriteFile(path, key, 0o600)
	}
	if err == nil && len(key) != 32 {
		err = fmt.Errorf("%s has %d bytes, and a key has 32; restore it from a backup", path, len(key))
	}
	return key, err
}

// giveBack gives memory back to the system when no run has changed for a while; Go by itself does that only after minutes.
func giveBack(ctx context.Context, runs *flow.Flow) {
	const quiet = 2 * time.Second
	ids, stop := runs.Changes()
	defer stop()
	idle := time.NewTimer(quiet)
	defer idle.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ids:
			idle.Reset(quiet)
		case <-idle.C:
			debug.FreeOSMemory()
		}
	}
}
