// Command slipway-bench measures what Slipway promises: the cost of a step against bare runc, the time from a push to the
// first line of log, idle memory, and more. It starts the real server with its runner, beside benchmarks of single
// packages, and prints one table. `make bench` runs it; what each number means is in bench/README.md.
//
// Read [measurements] first; it is the list of everything that is measured.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// measurement is one thing that is measured. It may give several rows.
type measurement struct {
	name    string
	measure func(context.Context, *bench) error
	// asked is true if it is only made when -only names it, because it takes long.
	asked bool
}

// measurements are in the order of the table. Those that need a server share one, which memory starts.
var measurements = []measurement{
	{name: "step", measure: measureEngineStep},
	{name: "compile", measure: measureCompile},
	{name: "memory", measure: measureMemory},
	{name: "pipeline", measure: measurePipeline},
	{name: "push", measure: measurePush},
	{name: "start", measure: measureStart},
	{name: "build", measure: measureBuild},
	{name: "claim", measure: measureClaims},
	{name: "binary", measure: measureBinary},
	{name: "rollout", measure: measureRollouts},
	{name: "diff", measure: measureDiff},
	{name: "drain", measure: measureDrain, asked: true},
}

// bench is what the measurements share.
type bench struct {
	bin     string // folder of the programs
	slipway string // the program that is measured
	runc    string
	dir     string // scratch
	quick   bool
	cluster string // data folder of a running cluster; empty means a new one
	table   table
	// shared is the server that several measurements use; see bench.server.
	shared *server
}

// times returns how often something is repeated.
func (b *bench) times(n int) int {
	if b.quick {
		return max(n/5, 3)
	}
	return n
}

func main() {
	var b bench
	only := flag.String("only", "", "measure only what matches this regular expression: step, compile, memory, pipeline, push, start, build, claim, binary, rollout, diff, drain (which is only measured if it is named)")
	out := flag.String("out", "", "file for the table and all raw numbers, as Markdown")
	flag.StringVar(&b.cluster, "cluster", "", "measure rollouts on the cluster in this data folder, instead of a new one")
	flag.BoolVar(&b.quick, "quick", false, "fewer repetitions, for trying out")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, &b, *only, *out); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run measures, prints and cleans up. Missing a target is no error; not being able to measure is.
func run(ctx context.Context, b *bench, only, out string) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("it starts containers, for which it must be root")
	}
	chosen, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	b.bin = filepath.Dir(self)
	if b.runc, err = exec.LookPath(filepath.Join(b.bin, "runc")); err != nil {
		return fmt.Errorf("%w; run this by `make bench`", err)
	}
	if b.dir, err = os.MkdirTemp("", "slipway-bench-"); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, b.shared.stop())
		if err == nil {
			err = os.RemoveAll(b.dir)
		} else {
			fmt.Fprintln(os.Stderr, "bench: what went wrong may be seen in", b.dir)
		}
	}()
	// A copy of its own, so that no other process shares its pages and makes its memory look smaller.
	b.slipway = filepath.Join(b.dir, "slipway")
	if err := copyProgram(b.slipway, filepath.Join(b.bin, "slipway")); err != nil {
		return err
	}
	b.table.head = describeMachine(ctx, b)
	var failures []error
	for _, m := range measurements {
		if !chosen.MatchString(m.name) || m.asked && only == "" {
			continue
		}
		began := time.Now()
		fmt.Fprintf(os.Stderr, "measuring %s ", m.name)
		if err := m.measure(ctx, b); err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", m.name, err))
			fmt.Fprintf(os.Stderr, "failed: %v\n", err)
			continue
		}
		fmt.Fprintf(os.Stderr, "took %s\n", time.Since(began).Round(time.Second))
	}
	b.table.print(os.Stdout)
	if out != "" {
		command := "make bench"
		if args := strings.Join(os.Args[1:], " "); b.quick || only != "" {
			command = "bin/slipway-bench " + args
		}
		if err := os.WriteFile(out, []byte(b.table.markdown(command)), 0o644); err != nil {
			failures = append(failures, err)
		}
	}
	return errors.Join(failures...)
}

func copyProgram(to, from string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return fmt.Errorf("%w; run this by `make bench`", err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
