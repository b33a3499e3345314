package buildkit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/buildkit/cache/remotecache"
	inlinecache "github.com/moby/buildkit/cache/remotecache/inline"
	registrycache "github.com/moby/buildkit/cache/remotecache/registry"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/control"
	"github.com/moby/buildkit/frontend"
	dockerfile "github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/gateway/forwarder"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/bboltcachestorage"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/moby/buildkit/util/resolver"
	"github.com/moby/buildkit/worker"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
)

// DefaultKeepBytes bounds the cache when [Options.KeepBytes] is zero: 20 GB.
const DefaultKeepBytes = 20e9

// Options say where and how BuildKit runs.
type Options struct {
	// Dir holds everything: layers, root filesystems, cache, state. It should be on a file system that can be the upper
	// layer of an overlay; on others each root filesystem is a full copy of its image.
	Dir string
	// Runc is the path or name of the runc binary that runs the RUN steps of builds; empty means "runc".
	Runc string
	// Mirrors of registries, by the registry's host (docker.io), asked in their order.
	Mirrors map[string][]Mirror
	// Insecure are registry hosts that are spoken to over plain HTTP. Loopback hosts always are.
	Insecure []string
	// KeepBytes is about how much of the cache that nothing uses is kept; 0 means [DefaultKeepBytes].
	KeepBytes int64
	// Network is what RUN steps reach; the zero value is [NetworkBridge].
	Network Network
	// DNS are the name servers of RUN steps; empty means those of this machine that a container can reach.
	DNS []string
}

// Daemon is BuildKit running in this process. Its methods may be called concurrently.
type Daemon struct {
	worker     *imageWorker
	controller *control.Controller
	registries *registries
	records    *records
	images     images
	grown      atomic.Bool // by a pull, since the cache's bounds were last looked at
	client     *client.Client

	solves  solves
	server  *grpc.Server
	collect chan struct{}
	stop    context.CancelFunc
	running sync.WaitGroup
	lock    *os.File
	close   sync.Once
	closed  error
}

// Open starts BuildKit in opts.Dir, which is created if need be. One process at a time may hold a folder: if another
// does, the error is a [*HeldError]. What builds of a killed process left (containers, mounts, networks) is removed;
// root filesystems stay. The context bounds the start only; the caller must [Daemon.Close].
func Open(ctx context.Context, opts Options) (_ *Daemon, err error) {
	dir, err := filepath.Abs(opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("open buildkit: %w", err)
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("open buildkit: %w", err)
	}
	// Snapshot paths end up in mounts that outlive this process; they should not depend on a symbolic link.
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return nil, fmt.Errorf("open buildkit: %w", err)
	}
	opts.Dir = dir
	if opts.KeepBytes == 0 {
		opts.KeepBytes = DefaultKeepBytes
	}
	if opts.Runc == "" {
		opts.Runc = "runc"
	}
	d := &Daemon{collect: make(chan struct{}, 1)}
	if d.lock, err = lockDir(dir); err != nil {
		return nil, err
	}
	if err := d.open(ctx, opts); err != nil {
		_ = d.Close()
		return nil, fmt.Errorf("open buildkit in %s: %w", dir, err)
	}
	return d, nil
}

func (d *Daemon) open(ctx context.Context, opts Options) (err error) {
	background, stop := context.WithCancel(context.Background())
	d.stop = stop
	if d.registries, err = newRegistries(opts.Mirrors, opts.Insecure); err != nil {
		return err
	}
	// BuildKit caches how registries are reached per process, not per instance.
	resolver.DefaultPool.Clear()
	if d.records, err = openRecords(filepath.Join(opts.Dir, "pulled.db")); err != nil {
		return err
	}
	if d.worker, err = newWorker(ctx, opts, d.registries.hosts); err != nil {
		return err
	}
	if d.controller, err = d.newController(background, opts); err != nil {
		return err
	}
	listener := bufconn.Listen(1 << 20)
	d.server = grpc.NewServer(
		grpc.MaxRecvMsgSize(16<<20), grpc.MaxSendMsgSize(16<<20), grpc.WaitForHandlers(true),
		grpc.ChainUnaryInterceptor(d.solves.intercept, grpcerrors.UnaryServerInterceptor),
		grpc.StreamInterceptor(grpcerrors.StreamServerInterceptor))
	d.controller.Register(d.server)
	d.running.Go(func() { _ = d.server.Serve(listener) })
	d.client, err = client.New(ctx, "passthrough:///buildkit",
		client.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }),
		client.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	if err != nil {
		return err
	}
	d.running.Go(func() { d.keepHouse(background) })
	return nil
}

func (d *Daemon) newController(ctx context.Context, opts Options) (*control.Controller, error) {
	sessions, err := session.NewManager()
	if err != nil {
		return nil, err
	}
	workers := &worker.Controller{}
	if err := workers.Add(d.worker); err != nil {
		return nil, err
	}
	cache, err := bboltcachestorage.NewStore(filepath.Join(opts.Dir, "cache.db"))
	if err != nil {
		return nil, err
	}
	history, err := bolt.Open(filepath.Join(opts.Dir, "history.db"), 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType})
	if err != nil {
		return nil, errors.Join(err, cache.Close())
	}
	noHistory := int64(0) // runs are recorded by the server
	return control.NewController(control.Opt{
		SessionManager:   sessions,
		WorkerController: workers,
		Frontends: map[string]frontend.Frontend{
			"dockerfile.v0": forwarder.NewGatewayForwarder(workers.Infos(), dockerfile.Build),
		},
		ResolveCacheExporterFuncs: map[string]remotecache.ResolveCacheExporterFunc{
			"inline":   inlinecache.ResolveCacheExporterFunc(),
			"registry": registrycache.ResolveCacheExporterFunc(sessions, d.registries.hosts),
		},
		ResolveCacheImporterFuncs: map[string]remotecache.ResolveCacheImporterFunc{
			"registry": registrycache.ResolveCacheImporterFunc(sessions, d.worker.ContentStore(), d.registries.hosts),
		},
		CacheManager:   solver.NewCacheManager(ctx, "local", cache, worker.NewCacheResultStorage(workers)),
		Entitlements:   []string{"network.host"}, // allowed here, granted per build
		HistoryDB:      history,
		CacheStore:     cache,
		LeaseManager:   d.worker.LeaseManager(),
		ContentStore:   d.worker.ContentStore(),
		HistoryConfig:  &config.HistoryConfig{MaxEntries: &noHistory},
		GarbageCollect: d.worker.GarbageCollect,
		GracefulStop:   ctx.Done(),
	})
}

// SetMirrors replaces what [Options.Mirrors] said, for the pulls and builds that begin after it. After an error the mirrors
// are as before.
func (d *Daemon) SetMirrors(mirrors map[string][]Mirror) error {
	if err := d.registries.setMirrors(mirrors); err != nil {
		return err
	}
	resolver.DefaultPool.Clear() // it remembers where registries are
	return nil
}

// collectDelay is how long the space of what was removed waits to be freed. Freeing it locks the database, and a removed
// root filesystem is most often that of a step whose successor starts in this moment.
const collectDelay = 5 * time.Second

// keepHouse does what BuildKit does only around builds: it lets go of images that nobody uses any more, keeps the cache
// in its bounds after pulls, and frees the space of what was removed. What fails is done by the next round.
func (d *Daemon) keepHouse(ctx context.Context) {
	tick := time.NewTicker(holdIdle / 5)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			d.images.sweep(holdIdle)
			if d.grown.Swap(false) {
				_, _ = d.prune(ctx, d.worker.GCPolicy()...)
			}
		case <-d.collect:
			select {
			case <-ctx.Done():
				return
			case <-time.After(collectDelay):
			}
			_ = d.worker.GarbageCollect(ctx)
		}
	}
}

// Prune removes everything from the cache that nothing uses, and returns the number of bytes freed. Root filesystems
// and images that are held stay.
func (d *Daemon) Prune(ctx context.Context) (int64, error) {
	d.images.sweep(0)
	freed, err := d.prune(ctx, client.PruneInfo{All: true})
	if err == nil {
		err = d.worker.GarbageCollect(ctx)
	}
	if err != nil {
		return freed, fmt.Errorf("prune the image cache: %w", err)
	}
	return freed, nil
}

func (d *Daemon) prune(ctx context.Context, what ...client.PruneInfo) (int64, error) {
	var freed int64
	usage := make(chan client.UsageInfo)
	counted := make(chan struct{})
	go func() {
		defer close(counted)
		for u := range usage {
			freed += u.Size
		}
	}()
	err := d.worker.Prune(ctx, usage, what...)
	close(usage)
	<-counted
	return freed, err
}

// Close ends BuildKit and gives the folder back. Builds that run are cancelled; pulls should have ended before. It may
// be repeated.
func (d *Daemon) Close() error {
	d.close.Do(func() { d.closed = d.shutdown() })
	return d.closed
}

func (d *Daemon) shutdown() error {
	var problems []error
	check := func(err error) {
		if err != nil {
			problems = append(problems, err)
		}
	}
	if d.stop != nil {
		d.stop()
	}
	if d.client != nil {
		check(d.client.Close())
	}
	if d.server != nil {
		d.server.Stop() // waits for the handlers, whose contexts it cancels
	}
	d.running.Wait()
	d.images.sweep(0)
	if d.controller != nil {
		check(d.controller.Close())
	}
	if d.worker != nil {
		check(d.worker.shutdown(d.controller == nil))
	}
	if d.records != nil {
		check(d.records.close())
	}
	resolver.DefaultPool.Clear()
	if d.registries != nil {
		d.registries.client.CloseIdleConnections()
	}
	check(d.lock.Close())
	if len(problems) > 0 {
		return fmt.Errorf("close buildkit: %w", errors.Join(problems...))
	}
	return nil
}
