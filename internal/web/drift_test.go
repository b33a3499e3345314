package web_test

import (
	"strings"
	"testing"
	"time"

	"slipway/internal/auth"
	"slipway/internal/ci"
)

// The pages say what in the cluster is not as it was deployed, who changed it, and offer to put it back.
func TestDriftPages(t *testing.T) {
	s := newSite(t, "http")
	serves, _ := s.sampleReleases()
	since := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	d := ci.Drift{
		Repo: "ada/engine", Environment: "production", Namespace: "shop", Release: 9, Checked: since.Add(time.Minute), Since: since,
		Objects: []ci.DriftedObject{
			{
				Kind: "Deployment", Namespace: "shop", Name: "web", Fields: []ci.Field{{Path: "spec.replicas", Old: "<7>", New: "2"}},
				By: []ci.Author{{Manager: "kubectl-<edit>", At: since}},
			},
			{Kind: "ConfigMap", Namespace: "shop", Name: "settings", Missing: true},
		},
		Heal: true, Healed: []ci.Healing{{At: since.Add(-time.Minute)}}, Fight: "not put back any more: it is <changed> again",
	}
	const page = "/ada/engine/environments/shop/production"
	v := s.visitor()
	v.get(page).lacks(t, "as it was deployed")
	check(t, s.db.PutDrift(t.Context(), d))
	// In another cluster of the same names all is well.
	check(t, s.db.PutDrift(t.Context(), ci.Drift{Cluster: "east", Repo: "ada/engine", Environment: "production", Namespace: "shop", Release: 9, Checked: since}))

	v.get("/environments").want(t, 200, "2 objects in the cluster are not as release 9 left them since 4 March 2026, 05:06:07 UTC")
	v.get(page).want(t, 200, "Not as it was deployed", "deployment/web", "changed by kubectl-&lt;edit&gt; on 4 March 2026", "configmap/settings",
		"it is not in the cluster any more", "not put back any more: it is &lt;changed&gt; again", "Put back 4 March 2026, 05:05:07 UTC")
	v.get(page).lacks(t, "spec.replicas", "&lt;7&gt;", "<edit>", "Roll back to release 9")
	v.login(s.token("ann", auth.ScopeRepo+"ada/engine"))
	v.get(page).want(t, 200, "spec.replicas", "&lt;7&gt;", "Roll back to release 9")
	if a := v.post(serves+"/rollback", v.url, nil); !strings.HasPrefix(a.path, "/ada/engine/runs/") {
		t.Errorf("the click leads to %s", a.path)
	}

	d.Objects, d.Since, d.Fight, d.Unknown = nil, time.Time{}, "", "the cluster is <away>"
	check(t, s.db.PutDrift(t.Context(), d))
	v.get(page).want(t, 200, ">As it was deployed<", "Not known now: the cluster is &lt;away&gt;")
	v.get("/environments").lacks(t, "not as release 9 left")
}
