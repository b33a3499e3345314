package drift

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/kube"
	"slipway/internal/release"
	"slipway/internal/rollout"
	"slipway/internal/store"
)

// maxPlaces bounds the environments of a cluster that are watched.
const maxPlaces = 500

// Keeper watches all environments of the clusters that a server knows, and keeps in the store how they differ from what was
// deployed there. Without clusters, or environments in them, it does next to nothing. Its fields are set before Run.
type Keeper struct {
	// Clusters returns the clusters that there are now. A client of it is another one when the way to its cluster is.
	Clusters func(ctx context.Context) ([]kube.Cluster, error)
	Store    store.Drifts
	// Heal puts the release that serves back in the environment that d names, and returns when that is done.
	Heal func(ctx context.Context, d ci.Drift) error
	Log  *slog.Logger
	// Now is the clock.
	Now func() time.Time
	// Look is the time between two looks for new environments; 0 means 20 seconds.
	Look time.Duration
	Pace Pace
}

// watched is an environment that is being watched.
type watched struct {
	client *kube.Client
	stop   context.CancelFunc
	done   chan struct{}
}

// end stops to watch, and waits for that.
func (w watched) end() {
	w.stop()
	<-w.done
}

// Run watches until ctx is done.
func (k *Keeper) Run(ctx context.Context) {
	all := map[name]watched{}
	defer func() {
		for _, w := range all {
			w.stop()
		}
		for _, w := range all {
			w.end()
		}
	}()
	tick := time.NewTicker(cmp.Or(k.Look, 20*time.Second))
	defer tick.Stop()
	for {
		if err := k.look(ctx, all); err != nil && ctx.Err() == nil {
			k.Log.Warn("look for environments whose drift is watched", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// name is what tells environments apart.
type name struct{ cluster, namespace, environment, repo string }

func nameOf(d ci.Drift) name { return name{d.Cluster, d.Namespace, d.Environment, d.Repo} }

// look begins to watch environments that are new, and forgets those that are gone.
func (k *Keeper) look(ctx context.Context, all map[name]watched) error {
	clusters, err := k.Clusters(ctx)
	if err != nil {
		return err
	}
	known, err := k.Store.ListDrifts(ctx, "")
	if err != nil {
		return fmt.Errorf("list what is known of drift: %w", err)
	}
	before := map[name]ci.Drift{}
	for _, d := range known {
		before[nameOf(d)] = d
	}
	there := map[name]bool{}
	// A cluster may be known by several ways; the first is as good as the others.
	seen := map[name]bool{}
	for _, c := range clusters {
		states, err := environments(ctx, c)
		if err != nil { // those that are watched say so themselves
			for n, d := range before {
				if n.cluster == c.Name {
					there[n] = true
					if _, ok := all[n]; !ok {
						d.Unknown = fault.Of(err).Message
						k.put(ctx, d, before[n])
					}
				}
			}
			continue
		}
		for _, s := range states[:min(len(states), maxPlaces)] {
			d := ci.Drift{Cluster: c.Name, Namespace: s.Namespace, Environment: s.Environment, Repo: s.Repo}
			n := nameOf(d)
			at := name{c.Client.Host, n.namespace, n.environment, n.repo}
			if seen[at] || c.Repos != nil && !slices.Contains(c.Repos, s.Repo) {
				continue
			}
			seen[at] = true
			there[n] = true
			if w, ok := all[n]; ok && w.client == c.Client {
				continue
			} else if ok {
				w.end()
			}
			if stored, ok := before[n]; ok {
				d = stored
			}
			all[n] = k.watch(ctx, c.Client, d)
		}
	}
	for n, w := range all {
		if !there[n] {
			w.end()
			delete(all, n)
		}
	}
	for n, d := range before {
		if !there[n] {
			if err := k.Store.DeleteDrift(ctx, d); err != nil {
				return fmt.Errorf("forget the drift of an environment that is gone: %w", err)
			}
		}
	}
	return nil
}

// environments returns those of a cluster, or of the namespaces that are known if the account may not look at all.
func environments(ctx context.Context, c kube.Cluster) (states []release.State, err error) {
	if c.Client == nil {
		return nil, c.Err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	states, err = release.Environments(ctx, c.Client, "")
	if !apierrors.IsForbidden(err) {
		return states, c.Client.Explain(err)
	}
	for _, namespace := range c.Own() {
		found, err := release.Environments(ctx, c.Client, namespace)
		if err != nil {
			return nil, c.Client.Explain(err)
		}
		states = append(states, found...)
	}
	return states, nil
}

// watch begins to watch an environment of which d is known.
func (k *Keeper) watch(ctx context.Context, client *kube.Client, d ci.Drift) watched {
	ctx, stop := context.WithCancel(ctx)
	w := watched{client, stop, make(chan struct{})}
	place := release.Place{Client: client, Namespace: d.Namespace, Environment: d.Environment, Repo: d.Repo}
	go func() {
		defer close(w.done)
		Watch(ctx, place, k.Pace, func(ctx context.Context, report rollout.DriftReport) { d = k.found(ctx, d, report) })
	}()
	return w
}

// found keeps what was found, and heals it if it shall be. It returns what is known then.
func (k *Keeper) found(ctx context.Context, before ci.Drift, report rollout.DriftReport) ci.Drift {
	d := before
	if report.Unknown == "" {
		d.Heal = report.Heal
	}
	d = Next(d, report, k.Now().UTC())
	if Heals(d) {
		// Noted first: who is killed while healing has tried it.
		d = Healed(d, k.Now().UTC())
		k.put(ctx, d, before)
		k.Log.Info("put back what differs", "environment", d.Environment, "namespace", d.Namespace, "repo", d.Repo, "cluster", d.Cluster, "differs", names(d))
		if err := k.Heal(ctx, d); err != nil && ctx.Err() == nil {
			noted := d
			if fault.Of(err).Code == fault.Unavailable {
				d = Untried(d)
			} else {
				d = Unhealed(d, err)
			}
			k.put(ctx, d, noted)
			k.Log.Error("put back what differs", "environment", d.Environment, "namespace", d.Namespace, "repo", d.Repo, "cluster", d.Cluster, "error", err)
		}
		return d
	}
	k.put(ctx, d, before)
	return d
}

// put stores d, if it says more than before does.
func (k *Keeper) put(ctx context.Context, d, before ci.Drift) {
	same := before
	same.Checked = d.Checked
	if reflect.DeepEqual(d, same) && d.Checked.Sub(before.Checked) < time.Minute {
		return
	}
	if err := k.Store.PutDrift(ctx, d); err != nil && ctx.Err() == nil {
		k.Log.Error("store the drift of an environment", "error", err)
	}
}
