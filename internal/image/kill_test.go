package image_test

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"testing"

	"slipway/internal/buildkit"
	"slipway/internal/buildkit/buildkittest"
	"slipway/internal/image"
	"slipway/internal/testneeds"
)

// A runner that is killed in the middle of a build leaves a container, its mounts and its interface. The next one
// removes them before it does anything else.
func TestKilledBuildIsSwept(t *testing.T) {
	testneeds.Root(t)
	testneeds.Tool(t, "runc")
	reg := buildkittest.NewRegistry(t, "", "")
	reg.Push(t, "busybox:1", buildkittest.Busybox(t))
	dir := t.TempDir()
	work := workspace(t, "-- Dockerfile --\nFROM "+reg.Host+"/busybox:1\nRUN echo started; sleep 86418\n")

	child := exec.Command(os.Args[0], "-test.run=^TestHelperKilledBuild$", "-test.v")
	child.Env = append(os.Environ(), "KILLED_DIR="+dir, "KILLED_WORK="+work, "KILLED_REPO="+reg.Host+"/x")
	child.Stderr = os.Stderr
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	for lines := bufio.NewScanner(stdout); lines.Scan() && !strings.HasSuffix(lines.Text(), "| started"); {
		log.WriteString(lines.Text() + "\n")
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	if running(t, "86418") == 0 || len(mountsUnder(t, dir)) == 0 {
		t.Fatalf("the kill left nothing; this test proves nothing\n%s", log.String())
	}

	b := image.NewBuilder(buildkittest.Open(t, buildkit.Options{Dir: dir}))
	if n := running(t, "86418"); n != 0 {
		t.Errorf("%d processes are left", n)
	}
	if left := mountsUnder(t, dir); len(left) != 0 {
		t.Errorf("mounts are left: %v", left)
	}
	work = workspace(t, "-- Dockerfile --\nFROM "+reg.Host+"/busybox:1\nRUN echo again\n")
	if _, log := build(t, b, image.Request{Workspace: work, Repo: reg.Host + "/x"}); !strings.Contains(log, "| again") {
		t.Errorf("the next build:\n%s", log)
	}
}

// TestHelperKilledBuild is no test: TestKilledBuildIsSwept runs it in a process that it kills.
func TestHelperKilledBuild(t *testing.T) {
	dir := os.Getenv("KILLED_DIR")
	if dir == "" {
		t.Skip("it is a helper process")
	}
	b := image.NewBuilder(buildkittest.Open(t, buildkit.Options{Dir: dir}))
	_, err := b.Build(t.Context(), image.Request{Workspace: os.Getenv("KILLED_WORK"), Repo: os.Getenv("KILLED_REPO")}, os.Stdout)
	t.Fatalf("the build ended: %v", err)
}
