package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"slipway/internal/fault"
	"slipway/internal/flow"
	"slipway/internal/kube"
	"slipway/internal/rollout"
)

// clusters are those that the server knows: that of its own runner, and those of the environments in its database. It keeps
// one client for each.
type clusters struct {
	// kubeconfig is the file of the runner's own cluster, which need not be there.
	kubeconfig string
	// others returns those of the environments.
	others func(context.Context) ([]flow.Cluster, error)

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

// List returns the clusters that there are now: first that of the own runner.
func (c *clusters) List(ctx context.Context) ([]kube.Cluster, error) {
	others, err := c.others(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []kube.Cluster
	if made, err := fileVersion(c.kubeconfig); err != nil {
		all = append(all, kube.Cluster{Err: fault.New(fault.Invalid, "the kubeconfig %s cannot be read: %s", c.kubeconfig, fault.Cause(err))})
	} else if made != "" {
		all = append(all, c.cluster("", made, func() (*kube.Client, error) { return kube.FromFile(c.kubeconfig, "") }))
	} else if os.Getenv("KUBERNETES_SERVICE_HOST") != "" { // as its runner does
		all = append(all, c.cluster("", "pod", kube.InCluster))
	}
	for _, o := range others {
		one := kube.Cluster{Err: o.Err}
		if o.Err == nil {
			one = c.cluster(o.Name, o.Kubeconfig, func() (*kube.Client, error) { return kube.FromKubeconfig([]byte(o.Kubeconfig)) })
		}
		one.Name, one.Repos, one.Namespaces = o.Name, o.Repos, o.Namespaces
		all = append(all, one)
	}
	for name, one := range c.known {
		if !slices.ContainsFunc(all, func(k kube.Cluster) bool { return k.Name == name }) {
			one.close()
			delete(c.known, name)
			delete(c.asked, name)
		}
	}
	return all, nil
}

// cluster returns a cluster with a client, which is made anew when what it is made of has changed.
func (c *clusters) cluster(name, of string, open func() (*kube.Client, error)) kube.Cluster {
	one, ok := c.known[name]
	if !ok || one.of != of {
		one.close()
		one = way{of: of}
		one.Client, one.err = open()
		if c.known == nil {
			c.known = map[string]way{}
		}
		c.known[name] = one
	}
	return kube.Cluster{Name: name, Client: one.Client, Err: one.err}
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

// running returns the images that clusters use which may be of a repo, and says in a sentence which of those that the repo
// deploys to could not be asked. What others deploy to counts as far as it is known: nobody's cluster keeps another's
// images by being away. Nor does anybody learn what is in there.
func (c *clusters) running(ctx context.Context, repo string) (uses []rollout.ImageUse, unasked string) {
	all, err := c.List(ctx)
	if err != nil {
		return nil, "the clusters are not known: " + fault.Of(err).Message
	}
	var away []string
	for _, one := range all {
		other := one.Repos != nil && !slices.Contains(one.Repos, repo)
		a := c.ask(ctx, one)
		if a.err != nil && !other {
			away = append(away, fmt.Sprintf("%s cannot be asked what it runs: %s", one, fault.Of(a.err).Message))
		}
		for _, use := range a.uses {
			use.Reason += " in " + one.String()
			if other {
				use.Reason = "something in a cluster of another repo has it"
			}
			uses = append(uses, use)
		}
	}
	return uses, strings.Join(away, "; ")
}

// ask asks a cluster for the images that it uses, or returns its last answer if that is new. What a cluster used that does not
// answer now is with the error.
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
	a.uses, a.err = rollout.ImagesInUse(asking, one.Client, one.Own())
	if ctx.Err() != nil { // that is no answer
		return a
	}
	if a.err != nil {
		a.at, a.uses = time.Now(), last.uses // it may have taken its time to fail, and is not waited for again at once
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked == nil {
		c.asked = map[string]answer{}
	}
	c.asked[one.Name] = a
	return a
}
