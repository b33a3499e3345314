package oci_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"slipway/internal/buildkit"
	"slipway/internal/buildkit/buildkittest"
	"slipway/internal/engine"
	"slipway/internal/engine/enginetest"
	"slipway/internal/engine/oci"
	"slipway/internal/plan"
)

// BenchmarkStep measures a step that runs true, from Start to the return of Wait, against bare runc with the same bundle
// without the shim and its own files. The two take turns, so that both see the same machine. Reported are the medians
// (step-p50-ms, runc-p50-ms), the 95th percentiles, and the ratio of the medians, whose target is 1.2. The time until the
// container's remains are removed, which a job does not wait for and bare runc does, is gone-p50-ms.
//
// Bare runc gets its root filesystem and its network namespace for free: its bundle is ready, and its namespace is new
// and empty. The step makes both, with a snapshot, an overlay mount and a cable to its job's bridge.
func BenchmarkStep(b *testing.B) {
	m := newMachine(b)
	b.Run("overlay", func(b *testing.B) { benchmarkStep(b, m, m.options(b, b.TempDir()), enginetest.Image) })
	b.Run("buildkit", func(b *testing.B) {
		registry := buildkittest.NewRegistry(b, "", "")
		registry.Push(b, "busybox:1", buildkittest.Busybox(b))
		opts := m.options(b, b.TempDir())
		opts.Images = pulled{buildkittest.Open(b, buildkit.Options{})}
		benchmarkStep(b, m, opts, registry.Host+"/busybox:1")
	})
}

func benchmarkStep(b *testing.B, m machine, opts oci.Options, image string) {
	eng := newEngine(b, opts)
	b.Cleanup(func() { eng.Close() })
	job := plan.Job{Name: "job", Workspace: "/drone/src"}
	for i := range b.N + 1 {
		job.Steps = append(job.Steps, plan.Step{Name: fmt.Sprint("s", i), Kind: plan.KindExec, Exec: &plan.Exec{Image: image}})
	}
	env, err := eng.Setup(b.Context(), engine.Spec{ID: enginetest.NewID(), Job: job})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := env.Close(context.Background()); err != nil {
			b.Error(err)
		}
	})
	step := func(i int) {
		exec := plan.Exec{Image: image, Entrypoint: []string{"/bin/true"}}
		proc, err := env.Start(b.Context(), engine.Step{Name: fmt.Sprint("s", i), Exec: exec}, io.Discard)
		if err != nil {
			b.Fatal(err)
		}
		if result, err := proc.Wait(b.Context()); err != nil || result.ExitCode != 0 {
			b.Fatal(result, err)
		}
	}
	step(b.N) // its bundle is the model of the bare one
	bare := bareBundle(b, m, env)
	b.ResetTimer()
	var ours, gone, theirs []time.Duration
	for i := range b.N {
		begin := time.Now()
		step(i)
		ours = append(ours, time.Since(begin))
		awaitEmpty(b, filepath.Join(filepath.Dir(env.Workspace()), "..", "..", "runc"))
		gone = append(gone, time.Since(begin))
		begin = time.Now()
		id := enginetest.NewID()
		if out, err := exec.Command(m.Runc, "--root", filepath.Join(bare, "state"), "run", "--bundle", bare, id).CombinedOutput(); err != nil {
			b.Fatalf("runc: %v\n%s", err, out)
		}
		theirs = append(theirs, time.Since(begin))
	}
	b.StopTimer()
	for name, times := range map[string][]time.Duration{"step": ours, "gone": gone, "runc": theirs} {
		slices.Sort(times)
		b.ReportMetric(milliseconds(times[len(times)/2]), name+"-p50-ms")
		b.ReportMetric(milliseconds(times[len(times)*95/100]), name+"-p95-ms")
	}
	b.ReportMetric(float64(ours[len(ours)/2])/float64(theirs[len(theirs)/2]), "ratio")
	b.ReportMetric(0, "ns/op")
}

// awaitEmpty waits until a folder has no entries.
func awaitEmpty(b *testing.B, dir string) {
	for {
		entries, err := os.ReadDir(dir)
		if err != nil {
			b.Fatal(err)
		}
		if len(entries) == 0 {
			return
		}
		time.Sleep(100 * time.Microsecond)
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// bareBundle makes a bundle with the confinement, namespaces and mounts of a step of env, but without what is Slipway's.
func bareBundle(b *testing.B, m machine, env engine.Env) string {
	configs, err := filepath.Glob(filepath.Join(filepath.Dir(env.Workspace()), "steps", "*", "config.json"))
	if err != nil || len(configs) != 1 {
		b.Fatal(configs, err)
	}
	data, err := os.ReadFile(configs[0])
	if err != nil {
		b.Fatal(err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	spec.Root.Path = filepath.Join(dir, "rootfs")
	if out, err := exec.Command("cp", "-a", m.Base, spec.Root.Path).CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	spec.Process.Args = []string{"/bin/true"}
	spec.Linux.CgroupsPath = "/slipway-bench-" + enginetest.NewID()
	for i, ns := range spec.Linux.Namespaces {
		if ns.Type == specs.NetworkNamespace {
			spec.Linux.Namespaces[i].Path = ""
		}
	}
	spec.Mounts = slices.DeleteFunc(spec.Mounts, func(m specs.Mount) bool {
		return m.Destination == "/.slipway/shim" || m.Destination == "/.slipway/step"
	})
	if data, err = json.Marshal(spec); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600); err != nil {
		b.Fatal(err)
	}
	return dir
}

// BenchmarkSandbox measures what a job costs beside its steps: Setup and Close.
func BenchmarkSandbox(b *testing.B) {
	m := newMachine(b)
	eng := newEngine(b, m.options(b, b.TempDir()))
	b.Cleanup(func() { eng.Close() })
	var job plan.Job
	job.Workspace = "/drone/src"
	for i := range 5 {
		job.Steps = append(job.Steps, plan.Step{Name: fmt.Sprint("s", i), Kind: plan.KindExec, Exec: &plan.Exec{Image: enginetest.Image}})
	}
	var setup, closing time.Duration
	for b.Loop() {
		begin := time.Now()
		env, err := eng.Setup(b.Context(), engine.Spec{ID: enginetest.NewID(), Job: job})
		if err != nil {
			b.Fatal(err)
		}
		setup += time.Since(begin)
		begin = time.Now()
		if err := env.Close(b.Context()); err != nil {
			b.Fatal(err)
		}
		closing += time.Since(begin)
	}
	b.ReportMetric(milliseconds(setup)/float64(b.N), "setup-ms")
	b.ReportMetric(milliseconds(closing)/float64(b.N), "close-ms")
	b.ReportMetric(0, "ns/op")
}
