package buildkit

import "context"

// KeepBounds does what keepHouse does after pulls, now.
func (d *Daemon) KeepBounds(ctx context.Context) (int64, error) {
	d.images.sweep(0)
	if !d.grown.Swap(false) {
		return 0, nil
	}
	return d.prune(ctx, d.worker.GCPolicy()...)
}
