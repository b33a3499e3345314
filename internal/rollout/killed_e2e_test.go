package rollout_test

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"slipway/internal/ci"
	"slipway/internal/cluster"
	"slipway/internal/cluster/clustertest"
	"slipway/internal/rollout"
	"slipway/internal/testneeds"
)

// TestServerKilled kills the API server in the middle of a rollout, and once more while a hook runs: when it is back, the
// deployment goes on and ends right, without running anything twice. It has a cluster of its own.
func TestServerKilled(t *testing.T) {
	testneeds.Root(t)
	t.Parallel()
	opts := cluster.Options{Bin: clustertest.Bin(t), Data: filepath.Join(t.TempDir(), "data"), Progress: t.Output()}
	t.Cleanup(func() {
		all := opts
		all.Delete = true
		if err := cluster.Down(context.WithoutCancel(t.Context()), all); err != nil {
			t.Error(err)
		}
	})
	up := func() {
		if err := cluster.Up(t.Context(), opts); err != nil {
			t.Error(err)
		}
	}
	up()
	c := clustertest.In(t, opts)
	c.Import(image, build(t))
	s := &site{Cluster: c, t: t, dir: t.TempDir()}
	settings := "---" + config("settings", "v1")
	s.must(web() + settings)

	// killedAt kills the API server at a line of the output with that part, and starts it again when Slipway has noticed.
	killedAt := func(part string) func(*rollout.Step) {
		killed := false
		return s.onLine(func(line string) {
			switch {
			case !killed && strings.Contains(line, part):
				killed = true
				killAPIServer(t, opts)
			case strings.HasPrefix(line, "trying again"):
				up()
			}
		})
	}
	_, out := s.must(web("v1}", "v2}")+settings, killedAt(" of 2 updated"))
	wantOrder(t, out, "deployment/web: configured", "the Kubernetes API at ", "trying again until the time is over", "the Kubernetes API answers again", "deployment/web: rolled out, 2 of 2 ready")
	s.wantServing("v2", "v2")

	migrating := "job/migrate-before: runs before the rest"
	_, out = s.must(web("v1}", "v3}")+settings+migration("before", "v3", "succeed"), killedAt(migrating))
	wantOrder(t, out, migrating, "trying again until the time is over", "the Kubernetes API answers again", "job/migrate-before: completed", "deployment/web: rolled out")
	s.wantServing("v3", "v3")
	if pods := strings.Fields(s.Kubectl("get", "pods", "-l", "job-name=migrate-before", "-o", "name")); len(pods) != 1 {
		t.Errorf("the hook ran in %v", pods)
	}
	var statuses []ci.Status
	for _, r := range s.history() {
		statuses = append(statuses, r.Status)
	}
	if state := s.state(); !slices.Equal(statuses, []ci.Status{ci.Success, ci.Success, ci.Success}) || state.Current != 3 || state.Pending {
		t.Errorf("the releases are %v, the state is %+v", statuses, state)
	}
}

// killAPIServer ends the API server as a crash would, and waits until it is gone.
func killAPIServer(t *testing.T, opts cluster.Options) {
	pid := func() int {
		report, err := cluster.Status(t.Context(), opts)
		if err != nil {
			t.Error(err)
			return 0
		}
		for _, component := range report.Components {
			if component.Name == "kube-apiserver" {
				return component.PID
			}
		}
		return 0
	}
	victim := pid()
	if victim == 0 {
		t.Error("no API server runs")
		return
	}
	if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for pid() == victim && t.Context().Err() == nil {
		<-tick.C
	}
}
