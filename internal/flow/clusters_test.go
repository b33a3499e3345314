package flow_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/flow/flowtest"
)

// TestHeal puts a release back by a run, and tells how that ends.
func TestHeal(t *testing.T) {
	s := flowtest.New(t)
	d := ci.Drift{Repo: flowtest.Repo, Environment: "production", Namespace: "shop", Release: 3}
	heal := func(number int64, status ci.Status) error {
		t.Helper()
		changes, stop := s.Changes()
		defer stop()
		healed := make(chan error, 1)
		go func() { healed <- s.Heal(t.Context(), d) }()
		<-changes
		s.Await(number, func(run ci.Run) bool { return run.Status == ci.Pending })
		if again, err := s.Healing(t.Context(), d); err != nil || again.Number != number {
			t.Errorf("while run %d is to heal, run %d is started: %v", number, again.Number, err)
		}
		r := claim(t, s)
		step := r.Job.Steps[0].Deploy
		if step.Action != "rollback" || step.Release != 3 || step.Environment != "production" || step.Namespace.Text != "shop" {
			t.Errorf("the step is %+v", step)
		}
		r.append(r.start(1), r.end(1, status, 0))
		r.finish(status)
		return <-healed
	}
	if err := heal(1, ci.Success); err != nil {
		t.Errorf("heal: %v", err)
	}
	run := s.Run(1)
	if o := run.Event.Order; run.Event.By != "slipway" || !o.Own || run.Event.Commit.Message != "Put release 3 of production back, from which the cluster differs" {
		t.Errorf("the run is %+v", run.Event)
	}
	if err := heal(2, ci.Failure); fault.Of(err).Code != fault.Failed || !strings.Contains(err.Error(), "run 2, which was to put release 3 back in production, ended as failure") {
		t.Errorf("heal in vain: %v", err)
	}
}

// TestHealWithoutRunner gives up when no runner comes, and leaves nothing that would be carried out late.
func TestHealWithoutRunner(t *testing.T) {
	s := flowtest.New(t)
	d := ci.Drift{Repo: flowtest.Repo, Environment: "production", Namespace: "shop", Release: 3}
	changes, stop := s.Changes()
	defer stop()
	healed := make(chan error, 1)
	go func() { healed <- s.Heal(t.Context(), d) }()
	<-changes
	s.Await(1, func(run ci.Run) bool { return run.Status == ci.Pending })
	s.Clock.Forward(31 * time.Minute)
	s.Push("kind: pipeline\nname: other\nsteps: []\n") // a change of whatever run
	err := <-healed
	if fault.Of(err).Code != fault.Unavailable || !strings.Contains(err.Error(), "no runner took run 1 within half an hour, which was to put release 3 back in production") {
		t.Errorf("it says %v", err)
	}
	if run := s.Run(1); run.Status != ci.Canceled {
		t.Errorf("the run is %s", run.Status)
	}
}

// TestClusters lists the clusters of environments, each way to one once.
func TestClusters(t *testing.T) {
	s := flowtest.New(t)
	kubeconfig := func(token string) string {
		return `{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}],
			clusters: [{name: c, cluster: {server: "https://kube.example.com:6443"}}], users: [{name: u, user: {token: ` + token + `}}]}`
	}
	add := func(name, namespace, kubeconfig string) {
		t.Helper()
		_, err := s.AddEnvironment(t.Context(), flowtest.Repo, name, kubeconfig, func(e *ci.Environment) { e.Namespace = namespace })
		if err != nil {
			t.Fatal(err)
		}
	}
	add("own", "shop", "")
	add("production", "shop", kubeconfig("one"))
	add("review/*", "shop-{branch}", kubeconfig("two"))
	add("staging", "shop-staging", kubeconfig("one"))
	err := s.DB.UpdateReview(t.Context(), flowtest.Repo, "review/fix", func(r *ci.Review) error {
		r.Pattern, r.Branch, r.Namespace, r.Created = "review/*", "fix", "shop-fix", s.Clock.Now()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	all, err := s.Clusters(t.Context())
	if err != nil || len(all) != 2 {
		t.Fatalf("the clusters are %+v, %v", all, err)
	}
	for i, want := range []struct{ name, token, namespaces string }{
		{"https://kube.example.com:6443", "token: one", "shop,shop-staging"},
		{"https://kube.example.com:6443 of ada/engine review/*", "token: two", "shop-fix"},
	} {
		c := all[i]
		if c.Name != want.name || !strings.Contains(c.Kubeconfig, want.token) || c.Err != nil ||
			!slices.Equal(c.Repos, []string{flowtest.Repo}) || strings.Join(c.Namespaces, ",") != want.namespaces {
			t.Errorf("cluster %d is %+v", i, c)
		}
	}
}
