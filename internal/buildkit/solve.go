package buildkit

import (
	"context"
	"encoding/json"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/identity"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"

	"slipway/internal/engine"
)

// Solve runs a build. Unlike BuildKit's own client it returns only when the build has really ended: after a
// cancellation too no process of it runs any more and nothing of it is mounted. It sets opt.Ref and closes status.
func (d *Daemon) Solve(ctx context.Context, opt client.SolveOpt, status chan *client.SolveStatus) (*client.SolveResponse, error) {
	opt.Ref = identity.NewID()
	wait := d.solves.expect(opt.Ref)
	defer wait()
	return d.client.Solve(ctx, nil, opt, status)
}

// Logins gives a build the credentials of auths, and those of the mirrors, as part of its session. BuildKit asks for
// them by host.
func (d *Daemon) Logins(auths []engine.Auth) session.Attachable {
	return &logins{registries: d.registries, auths: auths}
}

type logins struct {
	auth.UnimplementedAuthServer
	registries *registries
	auths      []engine.Auth
}

// Register implements [session.Attachable].
func (l *logins) Register(server *grpc.Server) { auth.RegisterAuthServer(server, l) }

// Credentials implements [auth.AuthServer].
func (l *logins) Credentials(_ context.Context, req *auth.CredentialsRequest) (*auth.CredentialsResponse, error) {
	login := l.registries.login(l.auths, req.Host)
	return &auth.CredentialsResponse{Username: login.Username, Secret: login.Password}, nil
}

// Size returns the bytes of the layers and the configuration of the image of a manifest that was just built, as a
// registry stores them; or 0 if the manifest is not at hand.
func (d *Daemon) Size(ctx context.Context, manifest digest.Digest) int64 {
	raw, err := content.ReadBlob(ctx, d.worker.ContentStore(), ocispec.Descriptor{Digest: manifest})
	if err != nil {
		return 0
	}
	var m ocispec.Manifest
	if json.Unmarshal(raw, &m) != nil {
		return 0
	}
	size := m.Config.Size
	for _, layer := range m.Layers {
		size += layer.Size
	}
	return size
}

// solves knows which builds the controller is at, from its side: a client that is cancelled returns at once, while the
// controller is still killing the container.
type solves struct {
	mu     sync.Mutex
	groups map[string]*sync.WaitGroup
}

// expect announces a build and returns a function that waits for its end and forgets it.
func (s *solves) expect(ref string) (wait func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.groups == nil {
		s.groups = map[string]*sync.WaitGroup{}
	}
	group := &sync.WaitGroup{}
	s.groups[ref] = group
	return func() {
		s.mu.Lock()
		delete(s.groups, ref)
		s.mu.Unlock()
		group.Wait()
	}
}

// intercept is a [grpc.UnaryServerInterceptor].
func (s *solves) intercept(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if solve, ok := req.(*controlapi.SolveRequest); ok {
		s.mu.Lock()
		group := s.groups[solve.Ref]
		if group != nil {
			group.Add(1)
		}
		s.mu.Unlock()
		if group != nil {
			defer group.Done()
		} else {
			return nil, context.Canceled // its caller is gone already
		}
	}
	return handler(ctx, req)
}
