package flow

import (
	"context"
	"errors"
	"fmt"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/kube"
	"slipway/internal/secret"
	"slipway/internal/store"
)

// AddEnvironment gives a repo an environment: its Repo and Name, and what make changes of it. The kubeconfig is sealed; empty
// means the runner's own cluster.
func (f *Flow) AddEnvironment(ctx context.Context, repo, name, kubeconfig string, make func(*ci.Environment)) (ci.Environment, error) {
	if _, err := f.findRepo(ctx, repo); err != nil {
		return ci.Environment{}, err
	}
	_, err := f.FindEnvironment(ctx, repo, name)
	if err == nil {
		return ci.Environment{}, fault.New(fault.Conflict, "%s has an environment %s already; change it by: slipway env set %[1]s '%[2]s'", repo, name)
	}
	if fault.Of(err).Code != fault.NotFound {
		return ci.Environment{}, err
	}
	return f.putEnvironment(ctx, ci.Environment{Repo: repo, Name: name, Created: f.Now()}, &kubeconfig, make)
}

// ChangeEnvironment changes the rules of an environment. A kubeconfig that is nil leaves its cluster as it is.
func (f *Flow) ChangeEnvironment(ctx context.Context, repo, name string, kubeconfig *string, change func(*ci.Environment)) (ci.Environment, error) {
	found, err := f.FindEnvironment(ctx, repo, name)
	if err != nil {
		return ci.Environment{}, err
	}
	return f.putEnvironment(ctx, found, kubeconfig, change)
}

func (f *Flow) putEnvironment(ctx context.Context, e ci.Environment, kubeconfig *string, change func(*ci.Environment)) (ci.Environment, error) {
	repo, name, created := e.Repo, e.Name, e.Created
	earlier := e
	change(&e)
	e.Repo, e.Name, e.Created, e.Updated = repo, name, created, f.Now()
	if err := e.Check(); err != nil {
		return ci.Environment{}, fault.New(fault.Invalid, "%w", err)
	}
	if kubeconfig != nil {
		var err error
		if e.Cluster, e.Kubeconfig, err = f.sealKubeconfig(repo, name, *kubeconfig); err != nil {
			return ci.Environment{}, err
		}
	}
	if err := f.keepReviews(ctx, earlier, e); err != nil {
		return ci.Environment{}, err
	}
	if err := f.Store.PutEnvironment(ctx, e); err != nil {
		return ci.Environment{}, fmt.Errorf("store the environment %s of %s: %w", name, repo, err)
	}
	f.stir() // what waits at its gates may pass now
	return e, nil
}

// keepReviews refuses to move a pattern while there are review environments of it: nothing would find them any more.
func (f *Flow) keepReviews(ctx context.Context, before, after ci.Environment) error {
	if before.Namespace == after.Namespace && before.Cluster == after.Cluster {
		return nil
	}
	reviews, err := f.Store.ListReviews(ctx, after.Repo)
	if err != nil {
		return fmt.Errorf("list the review environments of %s: %w", after.Repo, err)
	}
	for _, r := range reviews {
		if r.Pattern == after.Name {
			return fault.New(fault.Conflict, "%s cannot get another cluster or namespace while there are review environments of it, such as %s; tear them down first", after.Name, r.Name)
		}
	}
	return nil
}

// sealKubeconfig checks and seals the kubeconfig of an environment, and returns the address of its API server.
func (f *Flow) sealKubeconfig(repo, name, kubeconfig string) (host string, sealed []byte, err error) {
	if kubeconfig == "" {
		return "", nil, nil
	}
	if len(kubeconfig) > secret.MaxValue {
		return "", nil, fault.New(fault.TooLarge, "the kubeconfig has %d bytes; at most %d are allowed", len(kubeconfig), secret.MaxValue)
	}
	client, err := kube.FromKubeconfig([]byte(kubeconfig))
	if err != nil {
		return "", nil, err
	}
	client.Close()
	if sealed, err = f.Keys.Seal([]byte(kubeconfig), "kubeconfig", repo, name); err != nil {
		return "", nil, fmt.Errorf("seal the kubeconfig of %s: %w", name, err)
	}
	return client.Host, sealed, nil
}

// openKubeconfig returns the kubeconfig of an environment; empty means the runner's own cluster.
func (f *Flow) openKubeconfig(e ci.Environment) (string, error) {
	if len(e.Kubeconfig) == 0 {
		return "", nil
	}
	text, err := f.Keys.Open(e.Kubeconfig, "kubeconfig", e.Repo, e.Name)
	if err != nil {
		return "", fault.New(fault.Internal, "cannot open the kubeconfig of the environment %s of %s: %w", e.Name, e.Repo, err)
	}
	return string(text), nil
}

// FindEnvironment returns the rules of that very name, which may be a pattern, or a fault for people.
func (f *Flow) FindEnvironment(ctx context.Context, repo, name string) (ci.Environment, error) {
	all, err := f.Store.ListEnvironments(ctx, repo)
	if err != nil {
		return ci.Environment{}, fmt.Errorf("list the environments of %s: %w", repo, err)
	}
	for _, e := range all {
		if e.Name == name {
			return e, nil
		}
	}
	return ci.Environment{}, fault.New(fault.NotFound, "%s has no environment %q; slipway env list %[1]s shows those that there are", repo, name)
}

// DeleteEnvironment forgets the rules of an environment. What runs there goes on.
func (f *Flow) DeleteEnvironment(ctx context.Context, repo, name string) error {
	err := f.Store.DeleteEnvironment(ctx, repo, name)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return fault.New(fault.NotFound, "%s has no environment %q; slipway env list %[1]s shows those that there are", repo, name)
	case errors.Is(err, store.ErrInUse):
		return fault.New(fault.Conflict, "there are review environments of %s, and nothing would tear them down; do that first: slipway env teardown %s ENV", name, repo)
	case err == nil:
		f.stir()
	}
	return err
}
