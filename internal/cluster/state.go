package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// layoutVersion changes when an older Slipway's data folder can no longer be used as it is.
const layoutVersion = 1

// state is what has to be remembered about a cluster. It is in state.json of the data folder.
type state struct {
	Layout     int          `json:"layout"`
	Kubernetes string       `json:"kubernetes"`    // version that the data was made by
	Block      netip.Prefix `json:"block"`         // addresses of the cluster
	Registries []Registry   `json:"registries"`    // nil if nobody has set them
	Own        bool         `json:"own,omitempty"` // they are the server's own
}

func (s state) network() network { return network{s.Block} }

// loadState reads the state. A data folder without one gives fs.ErrNotExist.
func (l layout) loadState() (state, error) {
	var s state
	b, err := os.ReadFile(l.in("state.json"))
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("read %s: %w", l.in("state.json"), err)
	}
	if s.Layout != layoutVersion {
		return s, fmt.Errorf("the cluster in %s was made by another version of slipway (layout %d, this one uses %d): remove it with `slipway cluster down --delete --data %s`, which loses what is deployed on it", l.data, s.Layout, layoutVersion, l.data)
	}
	return s, nil
}

func (l layout) saveState(s state) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(l.in("state.json"), append(b, '\n'), 0o600)
}

// writeFile replaces path in one step: a reader or a crash sees the old content or the new one.
func writeFile(path string, content []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(mode), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// lock holds the cluster for one command at a time, and gives the function that lets it go. The kernel lets go when
// the process dies. It waits as long as ctx allows.
func (l layout) lock(ctx context.Context, waiting func()) (func(), error) {
	f, err := os.OpenFile(l.in("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the cluster: %w", err)
	}
	said := false
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			_ = f.Close()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		if !said {
			waiting()
			said = true
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			_ = f.Close()
			return nil, fmt.Errorf("another command has been working on the cluster in %s for too long: %w", l.data, err)
		}
	}
}

// pause waits between two looks at a condition.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
