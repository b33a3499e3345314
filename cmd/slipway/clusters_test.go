package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"slipway/internal/cluster/clustertest"
	"slipway/internal/flow"
	"slipway/internal/rollout"
)

// TestClusters asks the runner's own cluster what it runs: one that is there, one that is away, and none.
func TestClusters(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	var others []flow.Cluster
	file := filepath.Join(t.TempDir(), "kubeconfig")
	c := &clusters{kubeconfig: file, others: func(context.Context) ([]flow.Cluster, error) { return others, nil }}
	defer c.Close()
	if all, err := c.List(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("without a kubeconfig there are the clusters %v, %v", all, err)
	}
	if uses, unasked, _ := c.running(t.Context(), "octo/app", true); len(uses) != 0 || unasked != "" {
		t.Errorf("without a cluster there is %v in use, and %q", uses, unasked)
	}

	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("no kubeconfig")
	if _, unasked, _ := c.running(t.Context(), "octo/app", true); !strings.Contains(unasked, "the runner's own cluster cannot be asked what it runs") {
		t.Errorf("with a wrong kubeconfig it says %q", unasked)
	}
	write(`{"apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c"}}],
		"clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}]}`)
	if _, unasked, _ := c.running(t.Context(), "octo/app", true); !strings.Contains(unasked, "cannot be reached") {
		t.Errorf("with a cluster that is away it says %q", unasked)
	}

	real := clustertest.Start(t)
	real.Kubectl("create", "deployment", "asleep", "--image=ci.example.com/octo/app:7", "--replicas=0")
	text, err := os.ReadFile(real.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	write(string(text))
	uses, unasked, _ := c.running(t.Context(), "octo/app", true)
	if unasked != "" || !slices.ContainsFunc(uses, func(u rollout.ImageUse) bool {
		return u.Image == "ci.example.com/octo/app:7" && strings.HasSuffix(u.Reason, "has it in the runner's own cluster")
	}) {
		t.Errorf("with a cluster there is %v in use, and %q", uses, unasked)
	}

	// Another way to it, for another repo: each repo hears of the clusters that it may have environments in.
	others = []flow.Cluster{
		{Name: "east", Kubeconfig: string(text), Repos: []string{"octo/app"}}, {Name: "west", Err: errors.New("it is sealed"), Repos: []string{"octo/far"}},
	}
	if _, unasked, _ := c.running(t.Context(), "octo/app", true); unasked != "" {
		t.Errorf("it says %q of a cluster that another repo has", unasked)
	}
	if _, unasked, _ := c.running(t.Context(), "octo/far", true); !strings.HasPrefix(unasked, "the cluster west cannot be asked what it runs") {
		t.Errorf("of a cluster whose kubeconfig is lost it says %q", unasked)
	}
	all, err := c.List(t.Context())
	if err != nil || len(all) != 3 || all[1].Client == nil {
		t.Fatalf("the clusters are %+v, %v", all, err)
	}
	others = nil
	if again, err := c.List(t.Context()); err != nil || len(again) != 1 || again[0].Client != all[0].Client {
		t.Errorf("the clusters are %+v, %v", again, err)
	}
	if len(c.known) != 1 || len(c.asked) != 1 {
		t.Errorf("of clusters that are gone %d ways and %d answers are kept", len(c.known)-1, len(c.asked)-1)
	}
}

// TestClustersOfOthers counts what runs where another repo deploys to, without saying what that is, and what a cluster ran
// before it went away.
func TestClustersOfOthers(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	const away = `{"apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c"}}],
		"clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}]}`
	c := &clusters{others: func(context.Context) ([]flow.Cluster, error) {
		return []flow.Cluster{{Name: "east", Kubeconfig: away, Repos: []string{"octo/web"}}}, nil
	}}
	defer c.Close()
	all, err := c.List(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatalf("the clusters are %+v, %v", all, err)
	}
	ran := []rollout.ImageUse{{Image: "ci.example.com/octo/base:1", Reason: "pod/secret of the namespace web runs it"}}
	const before, after = "before it went away", "afterwards"
	for _, when := range []string{before, after} {
		last := answer{of: all[0].Client, at: time.Now(), uses: ran}
		if when == after {
			last.at = last.at.Add(-askEvery)
		}
		c.asked = map[string]answer{"east": last}
		uses, unasked, _ := c.running(t.Context(), "octo/base", true)
		if want := []rollout.ImageUse{{Image: ran[0].Image, Reason: "something in a cluster of another repo has it"}}; unasked != "" || !slices.Equal(uses, want) {
			t.Errorf("%s, %+v is in use for another repo, and %q", when, uses, unasked)
		}
		uses, unasked, _ = c.running(t.Context(), "octo/web", true)
		if (unasked != "") != (when == after) || len(uses) != 1 || uses[0].Reason != ran[0].Reason+" in the cluster east" {
			t.Errorf("%s, %+v is in use for its repo, and %q", when, uses, unasked)
		}
	}
}

// TestClusterHangs looks at what is known of a cluster that takes connections and answers nobody: nobody waits who only looks, and a
// clean-up waits for the answer, or for the reason that there is none.
func TestClusterHangs(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	reached, hang := make(chan struct{}, 100), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		reached <- struct{}{}
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	}))
	defer server.Close()
	c := &clusters{others: func(context.Context) ([]flow.Cluster, error) {
		return []flow.Cluster{{Name: "east", Repos: []string{"octo/app"}, Kubeconfig: fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "c",
			"contexts": [{"name": "c", "context": {"cluster": "c"}}], "clusters": [{"name": "c", "cluster": {"server": %q}}]}`, server.URL)}}, nil
	}}
	defer c.Close()

	// Nobody has ever asked it.
	for range 2 {
		uses, unasked, asking := c.running(t.Context(), "octo/app", false)
		if len(uses) != 0 || unasked != "the cluster east is being asked what it runs; load the page again in a moment" || asking != "" {
			t.Errorf("of a cluster that hangs it says %v, %q, %q", uses, unasked, asking)
		}
	}
	<-reached
	if n := len(c.asking); n != 1 {
		t.Errorf("there are %d questions", n)
	}
	// Whoever carries out a policy waits for the same answer, as long as they have.
	ctx, cancel := context.WithCancel(t.Context())
	waited := make(chan string, 1)
	go func() {
		_, unasked, _ := c.running(ctx, "octo/app", true)
		waited <- unasked
	}()
	cancel()
	if unasked := <-waited; !strings.HasPrefix(unasked, "the cluster east cannot be asked what it runs: ") {
		t.Errorf("a clean-up that was stopped says %q", unasked)
	}

	// What it said before is shown, with its age.
	c.mu.Lock()
	last := answer{of: c.known["east"].Client, uses: []rollout.ImageUse{{Image: "octo/app:1", Reason: "pod a runs it"}}, told: time.Now().Add(-time.Hour)}
	c.asked["east"] = last
	c.mu.Unlock()
	uses, unasked, asking := c.running(t.Context(), "octo/app", false)
	if len(uses) != 1 || unasked != "" || !strings.HasPrefix(asking, "the cluster east is being asked what it runs; what is known of it is 1h0m") {
		t.Errorf("of a cluster that has answered before it says %v, %q, %q", uses, unasked, asking)
	}

	// And when it gives no answer, since when that is so.
	last.err, last.at, last.since = errors.New("it does not answer"), time.Now(), time.Date(2026, 11, 22, 4, 30, 0, 0, time.UTC)
	c.mu.Lock()
	c.asked["east"] = last
	c.mu.Unlock()
	uses, unasked, asking = c.running(t.Context(), "octo/app", false)
	if len(uses) != 1 || !strings.HasPrefix(unasked, "the cluster east does not answer since 22 November 04:30 UTC, and what is known of it is 1h0m") || asking != "" {
		t.Errorf("of a cluster that does not answer it says %v, %q, %q", uses, unasked, asking)
	}
	// Time alone makes that no better: it is asked again, and keeps its reason until it answers.
	last.at = last.at.Add(-askEvery)
	c.mu.Lock()
	c.asked["east"] = last
	c.mu.Unlock()
	if _, again, _ := c.running(t.Context(), "octo/app", false); again != unasked && !strings.HasPrefix(again, unasked[:60]) {
		t.Errorf("later it says %q", again)
	}

	// An error of the cluster is an answer for who waits.
	close(hang)
	if _, unasked, _ := c.running(t.Context(), "octo/app", true); !strings.HasPrefix(unasked, "the cluster east cannot be asked what it runs: ") {
		t.Errorf("of a cluster that talks nonsense it says %q", unasked)
	}
}
