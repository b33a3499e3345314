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

	mu     sync.Mutex
	known  map[string]way       // by name
	asked  map[string]answer    // by name
	asking map[string]*question // by name
	closed bool
	// questions are those that are under way.
	questions sync.WaitGroup
}

// way is how a cluster is reached, and what that was made of.
type way struct {
	of string
	*kube.Client
	err error
}

// answer is what a cluster last said of the images that it uses.
type answer struct {
	of *kube.Client
	// at is when it was asked, or failed to answer.
	at time.Time
	// uses is what it used at the time told, which is zero if it has never answered. They outlive an err.
	uses []rollout.ImageUse
	told time.Time
	// err is why it does not answer, and since is when that began.
	err   error
	since time.Time
}

// question is one that a cluster has not answered yet.
type question struct {
	of     *kube.Client
	cancel context.CancelFunc
	// done is closed when answer is there.
	done   chan struct{}
	answer answer
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
			if q := c.asking[name]; q != nil {
				q.cancel()
				delete(c.asking, name)
			}
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

// Close gives up what is being asked, and closes all clients.
func (c *clusters) Close() {
	c.mu.Lock()
	c.closed = true
	for _, q := range c.asking {
		q.cancel()
	}
	c.mu.Unlock()
	c.questions.Wait()
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

// askFor is how long a cluster may take to answer.
const askFor = time.Minute

// running returns the images that clusters use which may be of a repo, and says in sentences which of those that the repo
// deploys to could not be asked. What others deploy to counts as far as it is known: nobody's cluster keeps another's
// images by being away. Nor does anybody learn what is in there.
//
// Without wait it returns what is known now, and asks in the background.
func (c *clusters) running(ctx context.Context, repo string, wait bool) (uses []rollout.ImageUse, unasked, asking string) {
	all, err := c.List(ctx)
	if err != nil {
		return nil, "the clusters are not known: " + fault.Of(err).Message, ""
	}
	var away, asked []string
	for _, one := range all {
		other := one.Repos != nil && !slices.Contains(one.Repos, repo)
		var a answer
		if wait {
			if a = c.ask(ctx, one); a.err != nil && !other {
				away = append(away, fmt.Sprintf("%s cannot be asked what it runs: %s", one, fault.Of(a.err).Message))
			}
		} else {
			var old bool
			a, old = c.last(one)
			switch sentence := a.describe(one, time.Now()); {
			case other:
			case a.err != nil || a.told.IsZero():
				away = append(away, sentence)
			case old:
				asked = append(asked, sentence)
			}
		}
		for _, use := range a.uses {
			use.Reason += " in " + one.String()
			if other {
				use.Reason = "something in a cluster of another repo has it"
			}
			uses = append(uses, use)
		}
	}
	return uses, strings.Join(away, "; "), strings.Join(asked, "; ")
}

// describe says to people how far an answer that is not a new one can be relied on.
func (a answer) describe(one kube.Cluster, now time.Time) string {
	age := now.Sub(a.told).Round(time.Second).String() + " old"
	switch {
	case one.Client == nil:
		return fmt.Sprintf("%s cannot be asked what it runs: %s", one, fault.Of(a.err).Message)
	case a.err != nil && a.told.IsZero():
		return fmt.Sprintf("%s does not answer since %s, and what it runs is not known: %s", one, since(a.since), fault.Of(a.err).Message)
	case a.err != nil:
		return fmt.Sprintf("%s does not answer since %s, and what is known of it is %s: %s", one, since(a.since), age, fault.Of(a.err).Message)
	case a.told.IsZero():
		return fmt.Sprintf("%s is being asked what it runs; load the page again in a moment", one)
	}
	return fmt.Sprintf("%s is being asked what it runs; what is known of it is %s", one, age)
}

func since(t time.Time) string { return t.UTC().Format("2 January 15:04 UTC") }

// ask asks a cluster for the images that it uses, or returns its last answer if that is new. What a cluster used that does not
// answer now is with the error.
func (c *clusters) ask(ctx context.Context, one kube.Cluster) answer {
	a, q := c.question(one)
	if q == nil {
		return a
	}
	select {
	case <-q.done:
		return q.answer
	case <-ctx.Done():
		a.err = ctx.Err()
		return a
	}
}

// last returns a cluster's last answer, which is empty if there is none. If it is old, the cluster is being asked when this returns.
func (c *clusters) last(one kube.Cluster) (a answer, old bool) {
	a, q := c.question(one)
	return a, q != nil
}

// question returns a cluster's last answer and, unless that is new, the question that it is being asked now.
func (c *clusters) question(one kube.Cluster) (answer, *question) {
	if one.Client == nil {
		return answer{err: one.Err}, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.asked[one.Name]
	if last.of != one.Client {
		last = answer{of: one.Client, uses: last.uses, told: last.told} // by another way
	}
	if c.closed {
		last.err = errors.New("the server is being stopped")
		return last, nil
	}
	if time.Since(last.at) < askEvery {
		return last, nil
	}
	if q := c.asking[one.Name]; q != nil {
		if q.of == one.Client {
			return last, q
		}
		q.cancel()
	}
	// It outlives who asks first: others wait for the same answer, or look at it later.
	ctx, cancel := context.WithTimeout(context.Background(), askFor)
	q := &question{of: one.Client, done: make(chan struct{}), cancel: cancel}
	if c.asking == nil {
		c.asking, c.asked = map[string]*question{}, map[string]answer{}
	}
	c.asking[one.Name] = q
	c.questions.Go(func() {
		defer close(q.done)
		defer cancel()
		a := answer{of: one.Client, at: time.Now()}
		a.uses, a.err = rollout.ImagesInUse(ctx, one.Client, one.Own())
		a.told = a.at
		c.mu.Lock()
		defer c.mu.Unlock()
		if a.err != nil {
			// It may have taken its time to fail, and is not waited for again at once.
			a.at, a.since = time.Now(), time.Now()
			a.uses, a.told = last.uses, last.told
			if last.err != nil {
				a.since = last.since
			}
		}
		q.answer = a
		if c.asking[one.Name] == q { // else there is another way to it by now
			c.asked[one.Name] = a
			delete(c.asking, one.Name)
		}
	})
	return last, q
}
