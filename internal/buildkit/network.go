package buildkit

import (
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/network"
)

// Network is what the RUN steps of builds reach.
type Network string

// The networks of builds. Whatever is set, RUN --network=none has none, and RUN --network=host is only for builds that
// are granted it.
const (
	// NetworkBridge reaches the internet, but nothing of this machine. It is the default.
	NetworkBridge Network = ""
	// NetworkNone reaches nothing.
	NetworkNone Network = "none"
)

func newNetworks(opts Options) (map[pb.NetMode]network.Provider, error) {
	return map[pb.NetMode]network.Provider{
		pb.NetMode_UNSET: network.NewNoneProvider(),
		pb.NetMode_NONE:  network.NewNoneProvider(),
		pb.NetMode_HOST:  network.NewHostProvider(),
	}, nil
}
