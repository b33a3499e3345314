package web_test

import (
	"net/url"
	"testing"

	"slipway/internal/ci"
)

// A deployment that waits is shown with its reason, and may be approved by those who may.
func TestWaitingDeployment(t *testing.T) {
	s := newSite(t, "http")
	s.file = `
kind: pipeline
type: docker
name: ship
clone: {disable: true}
steps: [{name: deploy, image: slipway/deploy, settings: {manifests: [k8s]}}]
`
	s.addRepo("ada/engine", false)
	_, err := s.flow.AddEnvironment(t.Context(), "ada/engine", "production", "", func(e *ci.Environment) { e.Approvals = 1 })
	check(t, err)
	s.push("ada/engine", "Ship")
	j := s.claim()
	j.start(1)
	permit, err := s.flow.Permit(t.Context(), j.lease, 1, "")
	if err != nil || permit.State != ci.GateWaiting {
		t.Fatalf("%+v, %v", permit, err)
	}
	const page, vote = "/ada/engine/runs/1", "/ada/engine/runs/1/vote"
	v := s.visitor()
	seen := v.get(page)
	seen.want(t, 200, "waits for 1 of 1 approvals of production", "Log in to approve or reject")
	seen.lacks(t, `value="approve"`)
	if a := v.post(vote, s.url, url.Values{"choice": {"approve"}}); a.path == page {
		t.Errorf("a stranger approves: %s", a.body)
	}
	v.login(s.token("bob", "repo:ada/engine"))
	v.get(page).want(t, 200, `name="environment" value="production"`, `value="approve"`, `value="reject"`)
	v.post(vote, s.url, url.Values{"choice": {"perhaps"}}).want(t, 400, "is none of approve, reject and override")
	v.post(vote, s.url, url.Values{"choice": {"override"}}).want(t, 409, "production is not frozen now")
	v.post(vote, s.url, url.Values{"choice": {"approve"}, "environment": {"production"}, "comment": {"<b>go</b>"}}).want(t, 200)
	permit, err = s.flow.Permit(t.Context(), j.lease, 1, "")
	if err != nil || permit.State != ci.GatePassed {
		t.Fatalf("%+v, %v", permit, err)
	}
	seen = v.get(page)
	seen.want(t, 200, "bob: approve production, “&lt;b&gt;go&lt;/b&gt;”")
	seen.lacks(t, `value="approve"`)
	v.post(vote, s.url, url.Values{"choice": {"approve"}}).want(t, 409, "no deployment of run 1 of ada/engine waits now")
}
