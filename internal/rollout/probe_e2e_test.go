package rollout_test

import (
	"strings"
	"testing"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/rollout"
)

// pinned is served with an address that is known before it is deployed.
func (s *site) pinned(edit ...string) (yaml, url string) {
	s.t.Helper()
	address := s.Kubectl("create", "service", "clusterip", "reserved", "--tcp=80:8080", "-o", "jsonpath={.spec.clusterIP}")
	s.Kubectl("delete", "service", "reserved")
	return strings.Replace(served(edit...), "spec: {selector: {app: web},", "spec: {clusterIP: "+address+", selector: {app: web},", 1), "http://" + address
}

// wantRolled wants two pods of a version, and none of another but those that end.
func (s *site) wantRolled(version string) {
	s.t.Helper()
	got := s.Kubectl("get", "deployment/web", "-o", "jsonpath={.spec.template.spec.containers[0].env[0].value} {.status.updatedReplicas} {.status.replicas} {.status.readyReplicas}")
	if want := version + " 2 2 2"; got != want {
		s.t.Errorf("the Deployment is at %q, want %q", got, want)
	}
}

func probing(p ci.Probe) func(*rollout.Step) {
	return func(step *rollout.Step) { step.Policy.Probe = &p }
}

// TestProbe rolls a service out that was never there, and then a new version of it, and loses nothing.
func TestProbe(t *testing.T) {
	s := start(t)
	yaml, url := s.pinned()
	// Long enough for a machine that is busy with other tests.
	slow, load := lossless(ci.Lossless{Drain: 10}), probing(ci.Probe{URL: url, Rate: 100, Timeout: 30})
	// Nobody takes the first connections, and the test would wait for them.
	result, out := s.must(yaml, slow, probing(ci.Probe{URL: url, Rate: 100, Timeout: 10}))
	if r := result.Release.Probe; r == nil || r.URL != url || r.Sent == 0 || r.Lost != 0 {
		t.Errorf("the probe's counts are %+v", r)
	}
	if want := "probe: nothing gives a good answer at " + url + " yet ("; !strings.Contains(out, want) {
		t.Errorf("the output does not say %q", want)
	}
	yaml = strings.Replace(yaml, "v1}", "v2}", 1)
	result, out = s.must(yaml, slow, load)
	s.wantRolled("v2")
	history := s.history()
	if r := history[0].Probe; r == nil || r.Sent == 0 || r.Lost != 0 || result.Release.Probe.String() != r.String() {
		t.Errorf("the probe's counts are %+v", r)
	}
	wantLines(t, out, "probe: "+history[0].Probe.String())
	if pods := s.Kubectl("get", "pods", "-o", "name"); strings.Count(pods, "\n") != 2 {
		t.Errorf("the probe ended before the old pods: %s", pods)
	}
	// Nothing to roll out is nothing to probe.
	if result, _ := s.must(yaml, slow, load); result.Release.Probe != nil {
		t.Errorf("requests were sent: %+v", result.Release.Probe)
	}
}

// TestProbeLosses rolls a version out that is ready and answers badly: it goes back.
func TestProbeLosses(t *testing.T) {
	s := start(t)
	yaml, url := s.pinned()
	s.must(yaml)
	bad := strings.NewReplacer("v1}", "v2}", "serve}", "lie}").Replace(yaml)
	s.fails(bad, fault.Failed, []string{"the probe failed: ", " requests to " + url + " lost: ", "× status 500", "; none may be; ROLLED BACK: release 1 serves again"},
		probing(ci.Probe{URL: url, Rate: 100}))
	if r := s.history()[0]; r.Status != ci.Failure || r.Probe == nil || r.Probe.Lost == 0 || !strings.Contains(r.Probe.String(), "status 500") || r.Restored != 1 {
		t.Errorf("the release is %+v, its probe %+v", r, r.Probe)
	}
	s.wantRolled("v1")
	s.must(bad, probing(ci.Probe{URL: url, Status: 0, Losses: 1 << 30}))
	s.wantRolled("v2")
	// What serves answers badly: the next release may be its cure, and need not answer well before.
	result, out := s.must(yaml, probing(ci.Probe{URL: url}))
	if want := "probe: the old pods give no good answer at " + url + " (status 500)"; !strings.Contains(out, want) || result.Release.Probe == nil || result.Release.Probe.Sent == 0 {
		t.Errorf("the output does not say %q, or nothing was sent: %+v", want, result.Release.Probe)
	}
	s.wantRolled("v1")
}

// TestProbeWrong names URLs that cannot be right.
func TestProbeWrong(t *testing.T) {
	s := start(t)
	yaml, url := s.pinned()
	s.must(yaml)
	next := strings.Replace(yaml, "v1}", "v2}", 1)
	for _, c := range []struct {
		probe ci.Probe
		code  fault.Code
		parts []string
	}{
		{ci.Probe{URL: url + ":81", Timeout: 2}, fault.Failed, []string{"the probe gets no answer from " + url + ":81 before the rollout, although pods are ready: ", "nothing was applied"}},
		{ci.Probe{URL: "http://169.254.169.254/"}, fault.Failed, []string{"link-local"}},
		{ci.Probe{URL: "http://127.0.0.1/"}, fault.Failed, []string{"is the runner's own machine, which only trusted repos may ask"}},
		{ci.Probe{URL: "file:///etc/passwd"}, fault.Invalid, []string{"must begin with http:// or https://"}},
		{ci.Probe{URL: url, Rate: 10000}, fault.Invalid, []string{"its rate must be from 1 to 500"}},
	} {
		s.fails(next, c.code, c.parts, probing(c.probe))
	}
	s.wantRolled("v1")
	if n := len(s.history()); n != 1 {
		t.Errorf("there are %d releases", n)
	}
}
