package storetest

import (
	"testing"
	"time"

	"slipway/internal/ci"
	"slipway/internal/store"
)

func testDrifts(t *testing.T, s store.Store) {
	shop := ci.Drift{
		Environment: "production", Namespace: "shop", Repo: "a/b", Release: 3, Checked: noon, Since: noon.Add(-time.Hour), Heal: true,
		Objects: []ci.DriftedObject{{
			Kind: "ConfigMap", Namespace: "shop", Name: "settings", Fields: []ci.Field{{Path: "data.a", Old: "x\x00", New: "y"}},
			By: []ci.Author{{Manager: "kubectl-edit", At: noon}},
		}},
		Healed: []ci.Healing{{At: noon, Objects: []string{"configmap/settings data.a"}}}, Fight: "not put back any more",
	}
	elsewhere := ci.Drift{Cluster: "east", Environment: "production", Namespace: "shop", Repo: "a/b", Unknown: "the cluster is away"}
	other := ci.Drift{Environment: "staging", Namespace: "shop", Repo: "a/c"}
	terminal := ci.Drift{Environment: "production", Namespace: "lab"}
	for _, d := range []ci.Drift{other, shop, elsewhere, terminal} {
		check(t, s.PutDrift(t.Context(), d))
	}
	list := func(repo string, want ...ci.Drift) {
		t.Helper()
		got, err := s.ListDrifts(t.Context(), repo)
		check(t, err)
		same(t, got, want)
	}
	list("", terminal, shop, elsewhere, other)
	list("a/b", shop, elsewhere)
	list("no/no")

	shop.Objects, shop.Fight = nil, ""
	check(t, s.PutDrift(t.Context(), shop))
	list("a/b", shop, elsewhere)
	check(t, s.DeleteDrift(t.Context(), ci.Drift{Cluster: "east", Environment: "production", Namespace: "shop", Repo: "a/b"}))
	check(t, s.DeleteDrift(t.Context(), elsewhere))
	list("a/b", shop)
}
