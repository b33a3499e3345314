// Package cluster starts, looks at and stops real upstream Kubernetes on this machine: one node, all components as plain
// processes, no line of home-made orchestration in between. It is what `slipway cluster` does, for people without a
// cluster and for tests.
//
// Start reading at [Up]. Everything about a cluster follows from its data folder: its id is a hash of the folder's path
// and names what the machine can see of the cluster (the file layout.go); what it runs is listed in components.go. All
// of it lives in namespaces and a cgroup of its own (namespaces.go, cgroups.go), which is why [Down] can promise to leave
// nothing behind, and why several clusters can run side by side.
//
// The programs are built by the module in the folder cluster of the repository.
package cluster

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// DefaultData is the data folder of a cluster for which no other is named.
const DefaultData = "/var/lib/slipway/cluster"

// Options say which cluster is meant. The zero value is the default cluster, with programs from an empty path, which
// only those functions accept that start nothing.
type Options struct {
	// Data is the folder that holds all that the cluster keeps. Empty means [DefaultData].
	Data string

	// Bin is the folder with the programs that `make cluster` builds.
	Bin string

	// Registries are those that the node pulls from in a special way. Nil leaves alone what was set before.
	Registries []Registry

	// Own is the registry of the server on this machine, for a cluster whose registries nobody has set; nil means that none
	// is known. [ChangeRegistries] does not look at it.
	Own *Registry

	// Delete makes [Down] remove the data folder as well: everything deployed on the cluster, images, certificates, logs.
	Delete bool

	// Progress gets a line for each thing done, with the time it took. Nil means silence.
	Progress io.Writer
}

// progress writes lines like "  1.2s  etcd answers".
type progress struct {
	w     io.Writer
	start time.Time
}

func newProgress(w io.Writer) progress {
	if w == nil {
		w = io.Discard
	}
	return progress{w, time.Now()}
}

func (p progress) say(format string, args ...any) {
	fmt.Fprintf(p.w, "%6.1fs  %s\n", time.Since(p.start).Seconds(), fmt.Sprintf(format, args...))
}

// Kubeconfig gives the administrator's kubeconfig of the cluster in opts.Data. The key in it may do everything.
func Kubeconfig(opts Options) ([]byte, error) {
	l, err := newLayout(opts.Data, opts.Bin)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(l.kubeconfig())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, noCluster(l)
	}
	if err != nil {
		return nil, fmt.Errorf("read the kubeconfig: %w", err)
	}
	return b, nil
}
