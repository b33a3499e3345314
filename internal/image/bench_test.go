package image_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"slipway/internal/buildkit"
	"slipway/internal/buildkit/buildkittest"
	"slipway/internal/image"
	"slipway/internal/plan"
	"slipway/internal/testneeds"
)

func BenchmarkOpen(b *testing.B) {
	testneeds.Root(b)
	runc := testneeds.Tool(b, "runc")
	dir := b.TempDir()
	open := func(b *testing.B, dir string) {
		d, err := buildkit.Open(b.Context(), buildkit.Options{Dir: dir, Runc: runc})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := d.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.Run("new", func(b *testing.B) {
		for b.Loop() {
			open(b, b.TempDir())
		}
	})
	b.Run("again", func(b *testing.B) {
		for b.Loop() {
			open(b, dir)
		}
	})
}

func BenchmarkPull(b *testing.B) {
	testneeds.Root(b)
	reg := buildkittest.NewRegistry(b, "", "")
	noise := make([]byte, 5<<20)
	for i := range noise {
		noise[i] = byte(i * i >> 7)
	}
	reg.Push(b, "five:1", buildkittest.Busybox(b, buildkittest.Layer(b, map[string]string{"noise": string(noise)})))
	d := buildkittest.Open(b, buildkit.Options{})
	pull := func(b *testing.B, policy plan.Pull) *buildkit.Image {
		img, err := d.Pull(b.Context(), reg.Host+"/five:1", buildkit.PullOptions{Policy: policy})
		if err != nil {
			b.Fatal(err)
		}
		return img
	}
	img := pull(b, plan.PullMissing)
	defer img.Release()
	for name, policy := range map[string]plan.Pull{"if-not-exists": plan.PullMissing, "always": plan.PullAlways} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				pull(b, policy).Release()
			}
		})
	}
	b.Run("rootfs", func(b *testing.B) {
		for n := 0; b.Loop(); n++ {
			if _, err := d.Rootfs(b.Context(), img, fmt.Sprint("bench", n)); err != nil {
				b.Fatal(err)
			}
		}
	})
	// As the steps of a job do: each one's is removed when the next one is wanted.
	b.Run("rootfs-and-remove", func(b *testing.B) {
		for n := 0; b.Loop(); n++ {
			if _, err := d.Rootfs(b.Context(), img, fmt.Sprint("step", n)); err != nil {
				b.Fatal(err)
			}
			if err := d.RemoveRootfs(b.Context(), fmt.Sprint("step", n)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkBuild(b *testing.B) {
	testneeds.Root(b)
	reg := buildkittest.NewRegistry(b, "", "")
	reg.Push(b, "busybox:1", buildkittest.Busybox(b))
	builder := image.NewBuilder(buildkittest.Open(b, buildkit.Options{}))
	dir := b.TempDir()
	text := "FROM " + reg.Host + "/busybox:1\nCOPY . /app\nRUN true\n"
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	for name, noCache := range map[string]bool{"cached": false, "no-cache": true} {
		b.Run(name, func(b *testing.B) {
			req := image.Request{Workspace: dir, Repo: reg.Host + "/x", Scope: "bench", NoCache: noCache}
			for b.Loop() {
				if _, err := builder.Build(b.Context(), req, io.Discard); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	b.Logf("heap in use after the builds: %.1f MB", float64(m.HeapInuse)/1e6)
}
