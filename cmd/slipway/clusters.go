package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/kube"
	"slipway/internal/rollout"
)

// clusters are those that the server knows: that of its own runner, and those of the environments in its database. It keeps
// one client for each.
type clusters struct {
	// kubeconfig is the file of the runner's own cluster, which need not be there.
	kubeconfig string

	mu    sync.Mutex
	known map[string]way    // by name
	asked map[string]answer // by name
}

// way is how a cluster is reached, and what that was made of.
type way struct {
	of string
	*kube.Client
	err error
}

// answer is what a cluster said of the images that it uses.
type answer struct {
	of   *kube.Client
	at   time.Time
	uses []rollout.ImageUse
	err  error
}

// List returns the clusters that there are now.
func (c *clusters) List(context.Context) ([]kube.Cluster, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []kube.Cluster
	if made, err := fileVersion(c.kubeconfig); err != nil {
		all = append(all, kube.Cluster{Err: fault.New(fault.Invalid, "the kubeconfig %s cannot be read: %s", c.kubeconfig, fault.Cause(err))})
	} else if made != "" {
		own := c.way("", made, func() (*kube.Client, error) { return kube.FromFile(c.kubeconfig, "") })
		all = append(all, kube.Cluster{Client: own.Client, Err: own.err})
	}
	for name, one := range c.known {
		if !slices.ContainsFunc(all, func(k kube.Cluster) bool { return k.Name == name }) {
			one.close()
			delete(c.known, name)
		}
	}
	return all, nil
}

// way returns the way to a cluster. It is made anew when what it is made of has changed.
func (c *clusters) way(name, of string, open func() (*kube.Client, error)) way {
	if one, ok := c.known[name]; ok && one.of == of {
		return one
	} else if ok {
		one.close()
	}
	one := way{of: of}
	one.Client, one.err = open()
	if c.known == nil {
		c.known = map[string]way{}
	}
	c.known[name] = one
	return one
}

func (c way) close() {
	if c.Client != nil {
		c.Client.Close()
	}
}

// Close closes all clients.
func (c *clusters) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range c.known {
		one.close()
	}
}

// fileVersion returns what is another one when a file changes, or "" if there is none.
func fileVersion(path string) (string, error) {
	info, err := os.Stat(path)
	if path == "" || errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return fmt.Sprint(info.Size(), info.ModTime().UnixNano()), nil
}

// askEvery is how long an answer of a cluster holds: a clean-up asks for one repository after the other.
const askEvery = time.Minute

// running returns the images that clusters use which may be of a repo, and says in a sentence which could not be asked.
func (c *clusters) running(ctx context.Context, repo string) (uses []rollout.ImageUse, unasked string) {
	all, err := c.List(ctx)
	if err != nil {
		return nil, "the clusters are not known: " + fault.Of(err).Message
	}
	var away []string
	for _, one := range all {
		if one.Repos != nil && !slices.Contains(one.Repos, repo) {
			continue
		}
		a := c.ask(ctx, one)
		if a.err != nil {
			away = append(away, fmt.Sprintf("%s cannot be asked what it runs: %s", one, fault.Of(a.err).Message))
		}
		for _, use := range a.uses {
			use.Reason += " in " + one.String()
			uses = append(uses, use)
		}
	}
	return uses, strings.Join(away, "; ")
}

// ask asks a cluster for the images that it uses, or returns its last answer if that is new.
func (c *clusters) ask(ctx context.Context, one kube.Cluster) answer {
	if one.Client == nil {
		return answer{err: one.Err}
	}
	c.mu.Lock()
	last, ok := c.asked[one.Name]
	c.mu.Unlock()
	if ok && last.of == one.Client && time.Since(last.at) < askEvery {
		return last
	}
	asking, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	a := answer{of: one.Client, at: time.Now()}
	a.uses, a.err = rollout.ImagesInUse(asking, one.Client, []string{one.Client.Namespace})
	if ctx.Err() != nil { // that is no answer
		return a
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked == nil {
		c.asked = map[string]answer{}
	}
	c.asked[one.Name] = a
	return a
}

// heal puts back the release that serves in an environment.
func (c *clusters) heal(ctx context.Context, d ci.Drift) error {
	all, err := c.List(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(k kube.Cluster) bool { return k.Name == d.Cluster })
	if i < 0 || all[i].Client == nil {
		return fault.New(fault.Unavailable, "the cluster of %s is not known any more", d.Environment)
	}
	_, err = rollout.Rollback(ctx, rollout.Request{
		Client: all[i].Client, Namespace: d.Namespace, Environment: d.Environment, Release: ci.Release{Repo: d.Repo, By: "slipway"},
	}, d.Release, io.Discard)
	return err
}
