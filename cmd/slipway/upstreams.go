package main

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"slipway/internal/buildkit"
	"slipway/internal/protocol"
)

// ownMirror is a server as its runner sees it, and has the runner pull through the server's registry whatever that
// mirrors: the server says so with each job, so that its flags need not be said to each runner again.
type ownMirror struct {
	protocol.Server
	// others are the mirrors that the runner's own flags name. They are asked first.
	others map[string][]buildkit.Mirror
	// mirror is the server's registry.
	mirror buildkit.Mirror
	// set has the engine use other mirrors.
	set func(map[string][]buildkit.Mirror) error
	log *slog.Logger

	mu    sync.Mutex
	known []string // what the server said last
}

// Claim implements [protocol.Server].
func (o *ownMirror) Claim(ctx context.Context, claim protocol.Claim) (*protocol.Assignment, error) {
	a, err := o.Server.Claim(ctx, claim)
	o.learn(a)
	return a, err
}

// Resume implements [protocol.Server].
func (o *ownMirror) Resume(ctx context.Context, lease string) (*protocol.Assignment, error) {
	a, err := o.Server.Resume(ctx, lease)
	o.learn(a)
	return a, err
}

// learn puts the mirrors to use before the job of a begins.
func (o *ownMirror) learn(a *protocol.Assignment) {
	if a == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if slices.Equal(a.Mirrors, o.known) {
		return
	}
	if err := o.set(o.with(a.Mirrors...)); err != nil {
		o.log.Error("use the server's registry as a mirror", "of", a.Mirrors, "error", err)
		return
	}
	o.known = slices.Clone(a.Mirrors)
}

// with returns the mirrors of all registries when the server's own is the last for hosts. It always is for docker.io:
// it has what was pushed below mirror/docker.io/, also where nothing is fetched.
func (o *ownMirror) with(hosts ...string) map[string][]buildkit.Mirror {
	all := maps.Clone(o.others)
	for _, host := range append([]string{"docker.io"}, hosts...) {
		host = buildkit.CanonicalHost(host)
		if list := all[host]; !slices.Contains(list, o.mirror) {
			all[host] = append(slices.Clone(list), o.mirror)
		}
	}
	return all
}
