package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"slipway/internal/ci"
	"slipway/internal/cluster"
	"slipway/internal/probe"
)

// requestsPerSecond is the load during a rollout, half of it on new connections and half on kept ones.
const requestsPerSecond = 500

// tail is how long the load goes on after the last pod of the old version is gone.
const tail = time.Second

const benchImage = "slipway.bench/server:1"

// benchServer serves, and cares nothing for SIGTERM: it has no handler for it, so it ends in the middle of whatever it does,
// or it ignores it and is killed when its time is over.
const benchServer = `package main

import (
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	if os.Getenv("ON_TERM") == "ignore" {
		signal.Ignore(syscall.SIGTERM)
	}
	panic(http.ListenAndServe(":8080", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, os.Getenv("VERSION")) })))
}
`

// benchPods is what is rolled out: a Deployment of two pods behind a Service, with a readiness probe and nothing else.
// VERSION, ONTERM, STRATEGY, READY and DRAIN are replaced.
const benchPods = `apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  STRATEGY
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: ` + benchImage + `
        imagePullPolicy: Never
        env: [{name: VERSION, value: "VERSION"}, {name: ON_TERM, value: "ONTERM"}]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
        DRAIN
`

// site is the cluster that rollouts are measured on.
type site struct {
	options cluster.Options
	dir     string
}

// withCluster calls f with a cluster that has the image of the server: a new one, or that in the folder of -cluster.
func (b *bench) withCluster(ctx context.Context, f func(*site) error) (err error) {
	bin := cmp.Or(os.Getenv("SLIPWAY_CLUSTER_BIN"), filepath.Join(b.bin, "cluster"))
	s := &site{options: cluster.Options{Data: b.cluster, Bin: bin}, dir: b.dir}
	if b.cluster == "" {
		s.options.Data = filepath.Join(b.dir, "cluster")
		defer func() {
			down := s.options
			down.Delete = true
			err = errors.Join(err, cluster.Down(context.WithoutCancel(ctx), down))
		}()
	}
	if err := cluster.Up(ctx, s.options); err != nil {
		return err
	}
	source, program := filepath.Join(b.dir, "server.go"), filepath.Join(b.dir, "ignores-sigterm")
	if err := os.WriteFile(source, []byte(benchServer), 0o600); err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", program, source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the server: %w\n%s", err, out)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	var image bytes.Buffer
	if err := cluster.WriteProgramImage(&image, benchImage, data); err != nil {
		return err
	}
	if err := cluster.ImportImage(ctx, s.options, &image); err != nil {
		return err
	}
	return f(s)
}

// kubectl runs kubectl as administrator and returns what it printed.
func (s *site) kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	args = append([]string{"--kubeconfig", s.kubeconfig()}, args...)
	return command(ctx, stdin, filepath.Join(s.options.Bin, "kubectl"), args...)
}

func (s *site) kubeconfig() string { return filepath.Join(s.options.Data, "kubeconfig") }

func command(ctx context.Context, stdin, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s: %w\n%s%s", name, err, out.String(), errs.String())
	}
	return out.String(), nil
}

// contender is one way to roll out, with a namespace of its own.
type contender struct {
	*site
	name      string
	namespace string
	manifest  string
	roll      func(ctx context.Context, c *contender, manifest string) error

	times samples
	sum   lost
	under time.Duration // the load
}

func byKubectl(ctx context.Context, c *contender, manifest string) error {
	if _, err := c.kubectl(ctx, manifest, "apply", "-n", c.namespace, "-f", "-"); err != nil {
		return err
	}
	_, err := c.kubectl(ctx, "", "rollout", "status", "-n", c.namespace, "deployment/web")
	return err
}

// bySlipway deploys with the program of that path.
func bySlipway(program string) func(ctx context.Context, c *contender, manifest string) error {
	return func(ctx context.Context, c *contender, manifest string) error {
		file := filepath.Join(c.dir, c.namespace+".yaml")
		if err := os.WriteFile(file, []byte(manifest), 0o600); err != nil {
			return err
		}
		_, err := command(ctx, "", program, "deploy", file, "--root", c.dir, "-n", c.namespace, "--environment", "bench", "--kubeconfig", c.kubeconfig())
		return err
	}
}

// start brings the first version up.
func (c *contender) start(ctx context.Context) error {
	if _, err := c.kubectl(ctx, "", "create", "namespace", c.namespace); err != nil {
		return err
	}
	return c.roll(ctx, c, strings.ReplaceAll(c.manifest, "VERSION\"", "first\""))
}

func (c *contender) remove(ctx context.Context) error {
	_, err := c.kubectl(context.WithoutCancel(ctx), "", "delete", "namespace", c.namespace, "--wait=false")
	return err
}

// turns rolls out n new versions, one after the other, under load, until all pods of old ones are gone, and adds what came
// of it to the sum.
func (c *contender) turns(ctx context.Context, n int) (probe.Result, error) {
	address, err := c.kubectl(ctx, "", "get", "-n", c.namespace, "service/web", "-o", "jsonpath={.spec.clusterIP}")
	if err != nil {
		return probe.Result{}, err
	}
	url := "http://" + address
	if err := probe.Check(ctx, probe.Options{URL: url}); err != nil {
		return probe.Result{}, fmt.Errorf("%s does not serve: %w", url, err)
	}
	load := probe.Start(ctx, probe.Options{URL: url, Rate: requestsPerSecond})
	defer load.Stop()
	loaded := time.Now()
	for range n {
		began := time.Now()
		if err := c.roll(ctx, c, strings.ReplaceAll(c.manifest, "VERSION\"", fmt.Sprintf("v%d\"", len(c.times)))); err != nil {
			return probe.Result{}, err
		}
		c.times = append(c.times, time.Since(began))
		fmt.Fprint(os.Stderr, ".")
	}
	for {
		pods, err := c.kubectl(ctx, "", "get", "pods", "-n", c.namespace, "-o", "name")
		if err != nil {
			return probe.Result{}, err
		}
		if strings.Count(pods, "\n") <= 2 {
			break
		}
		time.Sleep(seldom)
	}
	time.Sleep(tail)
	result := load.Stop()
	c.sum.add(result)
	c.under += time.Since(loaded)
	return result, nil
}

// lost is what became of all requests to a contender.
type lost struct{ fresh, kept, all, repeated probe.Count }

func (l *lost) add(r probe.Result) {
	for _, sum := range []struct {
		to *probe.Count
		by probe.Count
	}{{&l.fresh, r.Fresh}, {&l.kept, r.Kept}, {&l.all, probe.Count{Sent: r.Sent, Lost: r.Lost}}, {&l.repeated, probe.Count{Sent: r.Repeated}}} {
		sum.to.Sent += sum.by.Sent
		sum.to.Lost += sum.by.Lost
	}
}

func (l lost) String() string {
	return fmt.Sprintf("lost %d of %d (new connections %d of %d, kept ones %d of %d)", l.all.Lost, l.all.Sent, l.fresh.Lost, l.fresh.Sent, l.kept.Lost, l.kept.Sent)
}

// block is how many rollouts follow each other before it is the other's turn.
const block = 5

// measureRollouts rolls out by kubectl and by Slipway in turns: first a server that ends at once when it is told to, then
// one that does not even listen.
func measureRollouts(ctx context.Context, b *bench) error {
	return b.withCluster(ctx, func(s *site) error {
		for _, server := range []struct{ onTerm, what string }{
			{"", "a server that dies of SIGTERM"},
			{"ignore", "a server that ignores SIGTERM"},
		} {
			if err := measureServer(ctx, b, s, server.onTerm, server.what); err != nil {
				return err
			}
		}
		return nil
	})
}

func measureServer(ctx context.Context, b *bench, s *site, onTerm, what string) (err error) {
	manifest := strings.NewReplacer("STRATEGY", "", "DRAIN", "", "ONTERM", onTerm).Replace(benchPods)
	kubectl := &contender{site: s, name: "kubectl", roll: byKubectl}
	slipway := &contender{site: s, name: "slipway", roll: bySlipway(b.slipway)}
	both := []*contender{kubectl, slipway}
	for _, c := range both {
		c.namespace, c.manifest = fmt.Sprintf("bench-%d-%s%s", os.Getpid(), c.name, onTerm), manifest
		defer func() { err = errors.Join(err, c.remove(ctx)) }()
		if err := c.start(ctx); err != nil {
			return err
		}
	}
	for left := b.times(20); left > 0; left -= block {
		for _, c := range both {
			result, err := c.turns(ctx, min(left, block))
			if err != nil {
				return err
			}
			if result.Lost > 0 {
				b.table.note("%s, by %s, %d rollouts: %s", what, c.name, min(left, block), result)
			}
		}
	}
	b.table.add(row{
		what:     fmt.Sprintf("%d rollouts of %s, %d requests/s", len(slipway.times), what, requestsPerSecond),
		measured: slipway.sum.String(), peer: "kubectl " + kubectl.sum.String(), target: "0 lost", met: slipway.sum.all.Lost == 0,
	})
	// Its two pods are replaced one after the other, and each new one is to be ready for a while.
	allowed := 2*ci.DefaultReady*time.Second + 500*time.Millisecond
	more := slipway.times.p50() - kubectl.times.p50()
	b.table.add(row{
		what:     "the same, from apply to done",
		measured: slipway.times.String(), peer: "kubectl " + kubectl.times.String(), ratio: fmt.Sprintf("%+.2f s", more.Seconds()),
		target: fmt.Sprintf("p50 ≤ kubectl's + 2 × %d s ready + 0.5 s", ci.DefaultReady), met: more <= allowed,
	})
	for _, c := range both {
		b.table.keep(fmt.Sprintf("%s, by %s, apply to done", what, c.name), c.times)
		b.table.note("%s, by %s: %.0f requests/s; of those on kept connections %d were sent again, because the connection was closed.",
			what, c.name, float64(c.sum.all.Sent)/c.under.Seconds(), c.sum.repeated.Sent)
	}
	return nil
}

// measureDiff compares 500 objects with the cluster, where they are: once all as they are, and once all changed.
func measureDiff(ctx context.Context, b *bench) error {
	return b.withCluster(ctx, func(s *site) (err error) {
		namespace := fmt.Sprintf("bench-%d-diff", os.Getpid())
		if _, err := s.kubectl(ctx, "", "create", "namespace", namespace); err != nil {
			return err
		}
		defer func() {
			_, failed := s.kubectl(context.WithoutCancel(ctx), "", "delete", "namespace", namespace, "--wait=false")
			err = errors.Join(err, failed)
		}()
		file := filepath.Join(b.dir, "objects.yaml")
		run := func(verb, value string) (time.Duration, error) {
			if err := os.WriteFile(file, []byte(manyObjects(value)), 0o600); err != nil {
				return 0, err
			}
			began := time.Now()
			out, err := command(ctx, "", b.slipway, verb, file, "--root", b.dir, "-n", namespace, "--environment", "bench", "--kubeconfig", s.kubeconfig())
			took := time.Since(began)
			var exit *exec.ExitError
			if verb == "diff" && errors.As(err, &exit) && exit.ExitCode() == 2 && strings.HasPrefix(out, "differences: ") {
				err = nil // there are some
			}
			return took, err
		}
		if _, err := run("deploy", "a"); err != nil {
			return err
		}
		for _, c := range []struct{ what, value string }{{"all as they are", "a"}, {"all changed", "b"}} {
			var times samples
			for range b.times(10) {
				took, err := run("diff", c.value)
				if err != nil {
					return err
				}
				times = append(times, took)
			}
			b.table.limit("diff of 500 objects, "+c.what, times, 2*time.Second)
			b.table.keep("diff of 500 objects, "+c.what, times)
		}
		return nil
	})
}

// manyObjects are 300 ConfigMaps, 100 Secrets, and 100 Deployments of no pods.
func manyObjects(value string) string {
	var y strings.Builder
	for i := range 500 {
		switch i % 5 {
		case 0:
			fmt.Fprintf(&y, "apiVersion: v1\nkind: Secret\nmetadata: {name: s%d}\nstringData: {value: %s}\n---\n", i, value)
		case 1:
			fmt.Fprintf(&y, `apiVersion: apps/v1
kind: Deployment
metadata: {name: d%d}
spec:
  replicas: 0
  selector: {matchLabels: {app: d%d}}
  template:
    metadata: {labels: {app: d%d}}
    spec: {containers: [{name: a, image: none, env: [{name: VALUE, value: %s}]}]}
---
`, i, i, i, value)
		default:
			fmt.Fprintf(&y, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c%d}\ndata: {value: %s}\n---\n", i, value)
		}
	}
	return y.String()
}

// measureDrain finds out how long pods must drain, and new ones must have been ready, so that nothing is lost: it rolls by
// kubectl with each pair of times.
func measureDrain(ctx context.Context, b *bench) error {
	return b.withCluster(ctx, func(s *site) error {
		for _, ready := range []int{0, 1, 2} {
			for _, drain := range []int{0, 1, 2, 3, 5} {
				if err := measurePair(ctx, b, s, drain, ready); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func measurePair(ctx context.Context, b *bench, s *site, drain, ready int) (err error) {
	preStop := ""
	if drain > 0 {
		preStop = fmt.Sprintf("lifecycle: {preStop: {sleep: {seconds: %d}}}", drain)
	}
	c := &contender{site: s, name: "kubectl", namespace: fmt.Sprintf("bench-%d-%d-%d", os.Getpid(), drain, ready), roll: byKubectl, manifest: strings.NewReplacer(
		"STRATEGY", fmt.Sprintf("minReadySeconds: %d\n  strategy: {rollingUpdate: {maxUnavailable: 0}}", ready), "DRAIN", preStop, "ONTERM", "",
	).Replace(benchPods)}
	defer func() { err = errors.Join(err, c.remove(ctx)) }()
	if err := c.start(ctx); err != nil {
		return err
	}
	for range b.times(10) { // one by one, each with the connections of a new load
		result, err := c.turns(ctx, 1)
		if err != nil {
			return err
		}
		if result.Lost > 0 {
			b.table.note("drain %d s, ready %d s: %s", drain, ready, result)
		}
	}
	b.table.add(row{what: fmt.Sprintf("%d rollouts by kubectl, drain %d s, ready %d s", len(c.times), drain, ready), measured: c.sum.String(), peer: "done after " + c.times.String()})
	return nil
}
