package drift_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"slipway/internal/ci"
	"slipway/internal/drift"
	"slipway/internal/kube"
	"slipway/internal/rollout"
	"slipway/internal/store/sqlstore"
)

// account returns the kubeconfig of an account that may do everything in the test's namespace and nothing elsewhere.
func (s *site) account() []byte {
	s.t.Helper()
	s.Kubectl("create", "serviceaccount", "deployer")
	s.Apply(`{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: deployer}, rules: [{apiGroups: ["*"], resources: ["*"], verbs: ["*"]}]}`)
	s.Kubectl("create", "rolebinding", "deployer", "--role=deployer", "--serviceaccount="+s.Namespace+":deployer")
	config, err := clientcmd.LoadFromFile(s.Kubeconfig)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, user := range config.AuthInfos {
		user.ClientCertificateData, user.ClientKeyData = nil, nil
		user.Token = strings.TrimSpace(s.Kubectl("create", "token", "deployer"))
	}
	for _, c := range config.Contexts {
		c.Namespace = s.Namespace
	}
	text, err := clientcmd.Write(*config)
	if err != nil {
		s.t.Fatal(err)
	}
	return text
}

// TestKeeper watches what an account may see, keeps it in the store, heals it, and forgets it with its cluster.
func TestKeeper(t *testing.T) {
	s := start(t)
	db, err := sqlstore.Open(t.Context(), filepath.Join(t.TempDir(), "slipway.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	client, err := kube.FromKubeconfig(s.account())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	// Of the time before a restart.
	old := ci.Drift{Namespace: s.Namespace, Environment: "old", Release: 7}
	if err := db.PutDrift(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	s.deploy(settings)

	var gone, away atomic.Bool
	k := &drift.Keeper{
		Clusters: func(context.Context) ([]kube.Cluster, error) {
			switch {
			case gone.Load():
				return nil, nil
			case away.Load():
				return []kube.Cluster{{Err: fmt.Errorf("the way is closed")}}, nil
			}
			return []kube.Cluster{{Client: client}}, nil
		},
		Store: db, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: time.Now, Look: 200 * time.Millisecond, Pace: quick,
		Heal: func(ctx context.Context, d ci.Drift) error {
			_, err := rollout.Rollback(ctx, rollout.Request{
				Client: client, Namespace: d.Namespace, Environment: d.Environment, Release: ci.Release{Repo: d.Repo, By: "slipway"},
			}, d.Release, io.Discard)
			return err
		},
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); k.Run(ctx) }()
	defer func() { stop(); <-done }()
	await := func(what string, wanted func([]ci.Drift) bool) []ci.Drift {
		t.Helper()
		var all []ci.Drift
		for end := time.Now().Add(90 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if all, err = db.ListDrifts(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
			if wanted(all) {
				return all
			}
		}
		t.Fatalf("%s: not within 90 s; known is %+v", what, all)
		return nil
	}
	one := func(f func(ci.Drift) bool) func([]ci.Drift) bool {
		return func(all []ci.Drift) bool { return len(all) == 1 && all[0].Repo == "octo/shop" && f(all[0]) }
	}

	await("found", one(func(d ci.Drift) bool { return d.Release == 1 && !d.Drifted() && d.Unknown == "" }))
	edit := func() {
		s.Kubectl("patch", "configmap", "settings", "--patch", `{"data": {"level": "debug"}}`, "--field-manager=mallory")
	}
	edit()
	known := await("changed", one(ci.Drift.Drifted))
	if d := known[0]; d.Since.IsZero() || d.Heal || d.Objects[0].By[0].Manager != "mallory" || d.Objects[0].Fields[0].Old != "debug" {
		t.Errorf("known is %+v", d)
	}
	// A release whose policy says that it is healed.
	heal := true
	s.deploy(settings, func(step *rollout.Step) { step.Policy.Heal = &heal })
	await("deployed again", one(func(d ci.Drift) bool { return d.Release == 2 && !d.Drifted() && d.Heal }))
	edit()
	await("healed", one(func(d ci.Drift) bool { return d.Release == 3 && !d.Drifted() && d.Heal && len(d.Healed) == 1 }))
	history, err := s.place.History(t.Context())
	if err != nil || history[0].Of != 2 || history[0].By != "slipway" {
		t.Errorf("the history is %+v, %v", history, err)
	}

	away.Store(true)
	edit()
	await("healed once more, though nobody can look for environments now", one(func(d ci.Drift) bool { return d.Release == 4 && !d.Drifted() }))
	gone.Store(true)
	await("forgotten", func(all []ci.Drift) bool { return len(all) == 0 })
}
