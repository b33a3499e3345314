package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// trueSteps is a pipeline of n steps that run true one after the other.
func trueSteps(n int) string {
	var b strings.Builder
	b.WriteString("kind: pipeline\ntype: docker\nname: default\nsteps:\n")
	for i := range n {
		fmt.Fprintf(&b, "- name: s%d\n  image: busybox:1\n  commands: [\"true\"]\n", i+1)
	}
	return b.String()
}

// measurePipeline measures steps as a user gets them: the steps of a job through server, runner and engine, by the times
// that the run itself tells. Jobs and bare runc take turns, and the ratio is the median of those of the turns, because
// what else the machine does changes from turn to turn.
func measurePipeline(ctx context.Context, b *bench) error {
	const steps = 10
	s, err := b.server(ctx)
	if err != nil {
		return err
	}
	r, err := s.makeRepo(ctx, "bench/steps", trueSteps(steps))
	if err != nil {
		return err
	}
	warm, err := r.push(ctx) // this run pulls the image, and gives the bundle
	if err != nil {
		return err
	}
	bare, err := b.bareBundle(ctx, r, warm)
	if err != nil {
		return fmt.Errorf("take a step's bundle for bare runc: %w", err)
	}
	var each, pace, runc samples
	var eachRatios, paceRatios []float64
	for range b.times(15) {
		again, err := r.Restart(ctx, r.name, warm)
		if err != nil {
			return err
		}
		run, err := r.finish(ctx, again.Number)
		if err != nil {
			return err
		}
		done := run.Jobs[0].Steps[1:] // the first one clones
		var ours, theirs samples
		for _, step := range done {
			ours = append(ours, step.Finished.Sub(step.Started))
		}
		for range steps {
			took, err := bare.run(ctx)
			if err != nil {
				return err
			}
			theirs = append(theirs, took)
		}
		perStep := done[len(done)-1].Finished.Sub(done[0].Started) / steps
		each, runc, pace = append(each, ours...), append(runc, theirs...), append(pace, perStep)
		eachRatios = append(eachRatios, float64(ours.p50())/float64(theirs.p50()))
		paceRatios = append(paceRatios, float64(perStep)/float64(theirs.p50()))
	}
	b.table.compare("step, start to exit of `true`: in a pipeline", each, "runc", runc, median(eachRatios), 1.2)
	b.table.compare("step to step: a job of 10, time per step", pace, "runc", runc, median(paceRatios), 0)
	b.table.keep("steps of a pipeline", each)
	b.table.keep("bare runc in turns with them", runc)
	b.table.keep("time per step of whole jobs", pace)
	return nil
}

// bundle is a container for bare runc.
type bundle struct {
	runc, dir string
	count     int
}

// run runs the container's true, from the start of runc to its exit.
func (c *bundle) run(ctx context.Context) (time.Duration, error) {
	c.count++
	cmd := exec.CommandContext(ctx, c.runc, "--root", filepath.Join(c.dir, "state"), "run", "--bundle", c.dir, fmt.Sprintf("slipway-bench-%d-%d", os.Getpid(), c.count))
	began := time.Now()
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("bare runc: %w\n%s", err, out)
	}
	return time.Since(began), err
}

// bareBundle makes a bundle with the confinement of a step of a run, but without what is Slipway's own: its binds, and a
// network that others can reach. The root filesystem is a plain folder. All of this favours bare runc.
func (b *bench) bareBundle(ctx context.Context, r *repo, run int64) (*bundle, error) {
	var spec specs.Spec
	look := func() bool {
		configs, err := filepath.Glob(filepath.Join(r.data, "runner", "oci", "sandboxes", "*", "steps", "*", "config.json"))
		if err != nil || len(configs) == 0 {
			return false
		}
		data, err := os.ReadFile(configs[0])
		return err == nil && json.Unmarshal(data, &spec) == nil // it may be half written
	}
	if err := r.await(ctx, "a step began", often, look); err != nil {
		return nil, err
	}
	if _, err := r.finish(ctx, run); err != nil {
		return nil, err
	}
	c := &bundle{runc: b.runc, dir: filepath.Join(b.dir, "bare")}
	root := filepath.Join(c.dir, "rootfs", "bin")
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, err
	}
	layer, err := busybox()
	if err != nil {
		return nil, err
	}
	untar := exec.CommandContext(ctx, "tar", "-x", "-C", filepath.Dir(root))
	untar.Stdin = layer
	if out, err := untar.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("unpack busybox: %w\n%s", err, out)
	}
	spec.Root.Path = filepath.Dir(root)
	spec.Process.Args = []string{"/bin/true"}
	spec.Process.Cwd = "/"
	spec.Linux.CgroupsPath = fmt.Sprintf("/slipway-bench-%d", os.Getpid())
	for i, ns := range spec.Linux.Namespaces {
		if ns.Type == specs.NetworkNamespace {
			spec.Linux.Namespaces[i].Path = ""
		}
	}
	spec.Mounts = slices.DeleteFunc(spec.Mounts, func(m specs.Mount) bool { return slices.Contains(m.Options, "rbind") })
	config, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(c.dir, "config.json"), config, 0o600); err != nil {
		return nil, err
	}
	_, err = c.run(ctx)
	return c, err
}

// measurePush measures from the start of `git push` until a client that follows the logs has their first bytes: of any
// log, which is that of the checkout, and of the first step's own output.
func measurePush(ctx context.Context, b *bench) error {
	s, err := b.server(ctx)
	if err != nil {
		return err
	}
	r, err := s.makeRepo(ctx, "bench/push", "kind: pipeline\ntype: docker\nname: default\nsteps:\n- name: hello\n  image: busybox:1\n  commands: [echo hello]\n")
	if err != nil {
		return err
	}
	var any, own, pushed, accepted, started samples
	for i := range b.times(30) + 1 {
		if err := r.commit(ctx); err != nil {
			return err
		}
		began := time.Now()
		clone, step := r.followNext(ctx)
		if _, err := r.push(ctx); err != nil {
			return err
		}
		took := time.Since(began)
		first, second := <-clone, <-step
		run, err := r.finish(ctx, r.runs)
		if err != nil {
			return err
		}
		if err := errors.Join(first.err, second.err); err != nil {
			return err
		}
		if i == 0 {
			continue // it may have pulled the image
		}
		any = append(any, first.at.Sub(began))
		own = append(own, second.at.Sub(began))
		pushed = append(pushed, took)
		accepted = append(accepted, run.Created.Sub(began))
		started = append(started, run.Jobs[0].Steps[1].Started.Sub(began))
	}
	b.table.limit("push to first line: of the first step's own output", own, 500*time.Millisecond)
	b.table.limit("push to first line: of any log", any, 500*time.Millisecond)
	b.table.note("After the start of `git push`, medians: the run exists after %s, the checkout's first line is there after %s, the first step starts after %s, git push ends after %s, the step's first line is there after %s.",
		short(accepted.p50()), short(any.p50()), short(started.p50()), short(pushed.p50()), short(own.p50()))
	b.table.keep("push to first line of the step", own)
	b.table.keep("push to first line of any log", any)
	return nil
}

// arrival says when something came, or why not.
type arrival struct {
	at  time.Time
	err error
}

// followNext follows the logs of the first two steps of the repo's next run, as soon as there is one, and tells when each
// gives its first byte.
func (r *repo) followNext(ctx context.Context) (first, second <-chan arrival) {
	number := r.runs + 1
	channels := [2]chan arrival{make(chan arrival, 1), make(chan arrival, 1)}
	go func() {
		limited, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		err := r.await(limited, "the push made a run", often, func() bool {
			run, err := r.Run(limited, r.name, number)
			return err == nil && len(run.Jobs) > 0
		})
		for i, c := range channels {
			go func() {
				w := &firstByte{}
				err := err
				if err == nil {
					_, err = r.Log(ctx, r.name, number, 1, i+1, 0, true, w)
				}
				if err == nil && w.at.IsZero() {
					err = fmt.Errorf("the log of step %d is empty", i+1)
				}
				c <- arrival{w.at, err}
			}()
		}
	}()
	return channels[0], channels[1]
}

// firstByte remembers when the first byte was written to it.
type firstByte struct{ at time.Time }

func (w *firstByte) Write(p []byte) (int, error) {
	if w.at.IsZero() && len(p) > 0 {
		w.at = time.Now()
	}
	return len(p), nil
}
