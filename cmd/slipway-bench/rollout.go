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
	source, program := filepath.Join(b.dir, "server.go"), filepath.Join(b.dir, "server")
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
	sum   probe.Result
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

// turn rolls a new version out under load, until all pods of the old one are gone, and keeps what came of it.
func (c *contender) turn(ctx context.Context, version string) (probe.Result, error) {
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
	began := time.Now()
	if err := c.roll(ctx, c, strings.ReplaceAll(c.manifest, "VERSION\"", version+"\"")); err != nil {
		return probe.Result{}, err
	}
	took := time.Since(began)
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
	c.times = append(c.times, took)
	c.sum.Sent, c.sum.Lost, c.sum.Repeated = c.sum.Sent+result.Sent, c.sum.Lost+result.Lost, c.sum.Repeated+result.Repeated
	c.sum.Fresh.Sent, c.sum.Fresh.Lost = c.sum.Fresh.Sent+result.Fresh.Sent, c.sum.Fresh.Lost+result.Fresh.Lost
	c.sum.Kept.Sent, c.sum.Kept.Lost = c.sum.Kept.Sent+result.Kept.Sent, c.sum.Kept.Lost+result.Kept.Lost
	return result, nil
}

// measureDrain finds out how long pods must drain, and new ones must have been ready, so that nothing is lost: it rolls by
// kubectl with each pair of times.
func measureDrain(ctx context.Context, b *bench) error {
	return b.withCluster(ctx, func(s *site) error {
		for _, ready := range []int{0, 1, 2} {
			for _, drain := range []int{0, 2, 3, 4, 5, 6} {
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
	began := time.Now()
	for i := range b.times(10) {
		result, err := c.turn(ctx, fmt.Sprint("v", i))
		if err != nil {
			return err
		}
		if result.Lost > 0 {
			b.table.note("drain %d, ready %d: %s", drain, ready, result)
		}
	}
	b.table.add(row{
		what:     fmt.Sprintf("drain %d s, ready %d s", drain, ready),
		measured: fmt.Sprintf("%d of %d lost on new connections, %d of %d on kept ones, which broke %d times", c.sum.Fresh.Lost, c.sum.Fresh.Sent, c.sum.Kept.Lost, c.sum.Kept.Sent, c.sum.Repeated),
		peer:     "done " + c.times.String(),
	})
	fmt.Fprintf(os.Stderr, "drain %d ready %d: lost %d+%d of %d, %d repeated, %s, in %s\n", drain, ready, c.sum.Fresh.Lost, c.sum.Kept.Lost, c.sum.Sent, c.sum.Repeated, c.times, time.Since(began).Round(time.Second))
	return nil
}
