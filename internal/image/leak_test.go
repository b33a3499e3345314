package image_test

import (
	"testing"

	"go.uber.org/goleak"

	"slipway/internal/buildkit"
	"slipway/internal/buildkit/buildkittest"
	"slipway/internal/image"
	"slipway/internal/testneeds"
)

func TestNoGoroutineOutlivesClose(t *testing.T) {
	testneeds.Root(t)
	before := goleak.IgnoreCurrent()
	reg := buildkittest.NewRegistry(t, "", "")
	reg.Push(t, "busybox:1", buildkittest.Busybox(t))
	d := buildkittest.Open(t, buildkit.Options{})
	work := workspace(t, "-- Dockerfile --\nFROM "+reg.Host+"/busybox:1\nRUN true\n")
	build(t, image.NewBuilder(d), image.Request{Workspace: work, Repo: reg.Host + "/x"})
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	reg.Close()
	goleak.VerifyNone(t, before,
		// BuildKit's history looks after its records every two minutes, for as long as the process lives.
		goleak.IgnoreAnyFunction("github.com/moby/buildkit/solver/llbsolver/history.NewQueue.func2"),
		// These two only sleep, a minute and ten seconds, before they find nothing to do.
		goleak.IgnoreAnyFunction("github.com/moby/buildkit/control.NewController.After.throttle.func3.1"),
		goleak.IgnoreAnyFunction("github.com/moby/buildkit/solver.(*Job).Discard.func1"),
	)
}
