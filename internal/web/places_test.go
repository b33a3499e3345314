package web_test

import (
	"net/url"
	"testing"
	"time"

	"slipway/internal/auth"
	"slipway/internal/ci"
)

// Pages join what was deployed with the rules of environments, with what waits, and with what differs.
func TestEnvironmentRules(t *testing.T) {
	s := newSite(t, "http")
	s.sampleReleases()
	s.sampleRules()
	v := s.visitor()
	page := v.get("/environments")
	page.want(t, 200, `href="https://shop.example.com"`, "run 1</a> waits for 1 of 1 approvals of production", "1 object differs from what was deployed",
		`href="/ada/engine/environments/-/empty"`, "nothing was deployed yet")
	page.lacks(t, "review/fix#1", "Approve") // it was torn down
	v.get("/ada/engine/environments/-/empty").want(t, 200, "Nothing was deployed yet.", "There are no releases.", "release/*")
	v.get("/ada/engine/environments/shop-fix/review/fix%231").want(t, 200, "It was torn down.", "Oil the &lt;cogs&gt;")
	page = v.get("/ada/engine/environments/shop/production")
	page.want(t, 200, "Deployed by", "ann, bob", "<code>main</code>", "Differs from what was deployed", "deployment/web", "spec.replicas:", "<code>5</code> instead of <code>2</code>", "kubectl-scale",
		"frozen until", "sale &lt;now&gt;", "waits for 1 of 1 approvals")
	page.lacks(t, ">Approve<", "sale <now>")

	v.login(s.token("eve", auth.ScopeRepo+"ada/engine"))
	v.get("/ada/engine/runs/1").want(t, 200, "waits for 1 of 1 approvals of production", ">Approve<", ">Reject<")
	vote := url.Values{"environment": {"production"}, "choice": {"approve"}, "comment": {"fine <i>"}}
	v.post("/ada/engine/runs/1/vote", v.url, vote).want(t, 403, "eve may not approve deployments to production")
	v = s.visitor()
	v.login(s.token("bob", auth.ScopeRepo+"ada/engine"))
	v.post("/ada/engine/runs/1/vote", "https://evil.example.com", vote).want(t, 403, "another site")
	if a := v.post("/ada/engine/runs/1/vote", v.url, vote); a.path != "/ada/engine/runs/1" {
		t.Errorf("the vote leads to %s", a.path)
	}
	v.get("/ada/engine/runs/1").want(t, 200, "approve by bob: fine &lt;i&gt;")
	v.post("/ada/engine/runs/1/vote", v.url, url.Values{"choice": {"nonsense"}}).want(t, 400, "is none of approve, reject and override")
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
			Fields: []ci.DriftedField{{Path: "spec.replicas", Now: "5", Released: "2"}},
		}},
	}))
}
