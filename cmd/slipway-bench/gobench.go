package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// goBench runs benchmarks of one package, and returns the readings of each by "name unit". Times of the unit ns/op are
// durations; other units are in their own terms.
func (b *bench) goBench(ctx context.Context, pkg, pattern, benchtime string, count int) (map[string][]float64, error) {
	// A program of its own, because `go test` mixes what the tested libraries log into the results.
	program := filepath.Join(b.dir, "bench.test")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-o", program, pkg)
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", strings.Join(build.Args, " "), err, out)
	}
	cmd := exec.CommandContext(ctx, program, "-test.run=^$", "-test.bench="+pattern, "-test.benchtime="+benchtime, "-test.count="+strconv.Itoa(count), "-test.timeout=10m")
	var stderr bytes.Buffer
	cmd.Dir, cmd.Stderr = pkg, &stderr
	cmd.Env = append(os.Environ(), "SLIPWAY_TEST_ALL=1")
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("benchmark %s of %s: %w\n%s%s", pattern, pkg, err, out, stderr.Bytes())
	}
	found := map[string][]float64{}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name := strings.TrimPrefix(fields[0], "Benchmark")
		if i := strings.LastIndexByte(name, '-'); i > 0 { // the number of cores
			name = name[:i]
		}
		for i := 2; i+1 < len(fields); i += 2 {
			value, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return nil, fmt.Errorf("%s: cannot read %q", pkg, line)
			}
			key := name + " " + fields[i+1]
			found[key] = append(found[key], value)
		}
		b.table.note("`go test -bench '%s' -benchtime %s %s`: `%s`", pattern, benchtime, pkg, strings.Join(fields, " "))
	}
	if len(found) == 0 {
		return nil, errors.New(pkg + " has no benchmark " + pattern)
	}
	return found, nil
}

// perOp returns the readings of a benchmark's ns/op.
func perOp(found map[string][]float64, name string) (samples, error) {
	var s samples
	for _, ns := range found[name+" ns/op"] {
		s = append(s, time.Duration(ns))
	}
	if len(s) == 0 {
		return nil, errors.New("no reading of " + name)
	}
	return s, nil
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(values))[len(values)/2]
}

// measureEngineStep measures a step from the engine's Start to the return of Wait.
func measureEngineStep(ctx context.Context, b *bench) error {
	found, err := b.goBench(ctx, "./internal/engine/oci", "BenchmarkStep/buildkit", strconv.Itoa(b.times(50))+"x", 3)
	if err != nil {
		return err
	}
	get := func(unit string) float64 { return median(found["Step/buildkit "+unit]) }
	ratio := get("ratio")
	b.table.add(row{
		what:     "step, start to exit of `true`: engine",
		measured: fmt.Sprintf("p50 %.1f ms, p95 %.1f ms", get("step-p50-ms"), get("step-p95-ms")),
		peer:     fmt.Sprintf("runc p50 %.1f ms, p95 %.1f ms", get("runc-p50-ms"), get("runc-p95-ms")),
		ratio:    fmt.Sprintf("%.2f", ratio), target: "ratio ≤ 1.20", met: ratio > 0 && ratio <= 1.2,
	})
	return nil
}

// measureCompile measures the compilation of a file of 200 steps.
func measureCompile(ctx context.Context, b *bench) error {
	found, err := b.goBench(ctx, "./internal/dialect/drone", "BenchmarkCompile200Steps$", "50x", b.times(10))
	if err != nil {
		return err
	}
	times, err := perOp(found, "Compile200Steps")
	if err != nil {
		return err
	}
	b.table.limit("compile a file of 200 steps", times, 50*time.Millisecond)
	return nil
}

// measureBuild measures the build and push of a trivial Dockerfile.
func measureBuild(ctx context.Context, b *bench) error {
	found, err := b.goBench(ctx, "./internal/image", "BenchmarkBuild$", "5x", b.times(5))
	if err != nil {
		return err
	}
	for _, variant := range []struct{ name, what string }{
		{"Build/cached", "image of 3 instructions, build and push, all cached"},
		{"Build/no-cache", "the same without cache"},
	} {
		times, err := perOp(found, variant.name)
		if err != nil {
			return err
		}
		b.table.limit(variant.what, times, 0)
	}
	return nil
}

// measureClaims measures the queue with ten thousand jobs in it.
func measureClaims(ctx context.Context, b *bench) error {
	found, err := b.goBench(ctx, "./internal/store/sqlstore", "BenchmarkBusy/(SQLite|PostgreSQL)/Claim$", strconv.Itoa(b.times(500))+"x", 1)
	if err != nil {
		return err
	}
	for _, name := range []string{"SQLite", "PostgreSQL"} {
		times, err := perOp(found, "Busy/"+name+"/Claim")
		if err != nil {
			return err
		}
		b.table.add(row{
			what:     "claims of a job, 10,000 queued, 100,000 past, " + name,
			measured: fmt.Sprintf("%.0f per second", 1/times.p50().Seconds()),
		})
	}
	return nil
}
