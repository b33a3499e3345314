package web_test

import (
	"testing"
	"time"

	"slipway/internal/ci"
)

// Pages join what was deployed with the rules of environments, with what waits, and with what differs.
func TestEnvironmentRules(t *testing.T) {
	s := newSite(t, "http")
	s.sampleReleases()
	s.sampleRules()
	v := s.visitor()
	page := v.get("/environments")
	page.want(t, 200, `href="https://shop.example.com"`, "run 1</a> waits for 1 of 1 approvals of production", "1 object in the cluster is not as release 9 left it",
		`href="/ada/engine/environments/-/empty"`, "nothing was deployed yet")
	page.lacks(t, "review/fix#1") // it was torn down
	v.get("/ada/engine/environments/-/empty").want(t, 200, "Nothing was deployed yet.", "There are no releases.", "release/*")
	v.get("/ada/engine/environments/shop-fix/review/fix%231").want(t, 200, "It was torn down.", "Oil the &lt;cogs&gt;")
	page = v.get("/ada/engine/environments/shop/production")
	page.want(t, 200, "Deployed by", "ann, bob", "<code>main</code>", "deployment/web",
		"frozen until", "sale &lt;now&gt;", "waits for 1 of 1 approvals")
	page.lacks(t, "sale <now>")
}

// sampleRules gives ada/engine of sampleReleases rules, a deployment that waits, and one that drifted.
func (s *site) sampleRules() {
	s.t.Helper()
	now := time.Now()
	for _, e := range []ci.Environment{
		{Name: "empty", Branches: []string{"release/*"}, Position: 1},
		{
			Name: "production", Namespace: "shop", Branches: []string{"main"}, Deployers: []string{"ann", "bob"}, Approvals: 1, Approvers: []string{"bob"},
			URL: "https://shop.example.com", Position: 2,
			Freezes: []ci.Freeze{{Reason: "sale <now>", From: now.Add(-time.Hour), Until: now.Add(time.Hour)}},
		},
		{Name: "review/*", Namespace: "shop-{branch}"},
	} {
		e.Repo, e.Created, e.Updated = "ada/engine", now, now
		check(s.t, s.db.PutEnvironment(s.t.Context(), e))
	}
	run, err := s.flow.FindRun(s.t.Context(), "ada/engine", 1)
	check(s.t, err)
	_, err = s.db.UpdateGate(s.t.Context(), run.ID, 1, 1, func(g *ci.Gate) error {
		g.Environment, g.State, g.Since, g.Reason = "production", ci.GateWaiting, now, "waits for 1 of 1 approvals of production"
		return nil
	})
	check(s.t, err)
	check(s.t, s.db.PutDrift(s.t.Context(), ci.Drift{
		Repo: "ada/engine", Environment: "production", Namespace: "shop", Release: 9, Checked: now, Since: now, Objects: []ci.DriftedObject{{
			Kind: "deployment", Namespace: "shop", Name: "web", By: []ci.Author{{Manager: "kubectl-scale", At: now}},
			Fields: []ci.Field{{Path: "spec.replicas", Old: "5", New: "2"}},
		}},
	}))
}
