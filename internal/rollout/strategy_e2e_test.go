package rollout_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/internal/ci"
	"slipway/internal/rollout"
)

// app is a Deployment whose pods end as those of real programs do, and its Service.
func app(edit ...string) string {
	return strings.NewReplacer(edit...).Replace(web(
		"terminationGracePeriodSeconds: 0", "terminationGracePeriodSeconds: 20",
		"        imagePullPolicy: IfNotPresent", "        imagePullPolicy: IfNotPresent\n        lifecycle: {preStop: {sleep: {seconds: 3}}}",
	) + `---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
`)
}

func by(strategy ci.Strategy) func(*rollout.Step) {
	return func(step *rollout.Step) { step.Policy.Strategy = &strategy }
}

// answers counts who answers.
type answers struct {
	mu     sync.Mutex
	counts map[string]int
	failed []string
	stop   context.CancelFunc
	wg     sync.WaitGroup
}

// ask sends requests to the Service, each on a connection of its own, until the test ends or finish is called.
func (s *site) ask() *answers {
	s.t.Helper()
	address := "http://" + s.Kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	ctx, stop := context.WithCancel(s.t.Context())
	a := &answers{counts: map[string]int{}, stop: stop}
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for range 4 {
		a.wg.Go(func() {
			for ctx.Err() == nil {
				version, err := fetch(client, address)
				a.mu.Lock()
				if err != nil {
					a.failed = append(a.failed, err.Error())
				} else {
					a.counts[version]++
				}
				a.mu.Unlock()
				select {
				case <-ctx.Done():
				case <-time.After(10 * time.Millisecond):
				}
			}
		})
	}
	s.t.Cleanup(func() { a.finish() })
	return a
}

func fetch(client *http.Client, address string) (string, error) {
	response, err := client.Get(address)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", response.StatusCode)
	}
	return strings.TrimSpace(string(body)), err
}

// reset returns what was counted so far, and counts anew.
func (a *answers) reset() map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	counts := a.counts
	a.counts = map[string]int{}
	return counts
}

func (a *answers) finish() {
	a.stop()
	a.wg.Wait()
}

// wantNoLoss ends the load, and wants that every request was answered.
func (a *answers) wantNoLoss(t *testing.T) {
	t.Helper()
	a.finish()
	if len(a.failed) > 0 {
		t.Errorf("%d requests failed, the first: %s", len(a.failed), a.failed[0])
	}
}

// wantPlain wants that nothing in the cluster says that a release came by steps.
func (s *site) wantPlain(want ...string) {
	s.t.Helper()
	s.wantThere(want...)
	if got := s.Kubectl("get", "service", "web", "-o", "jsonpath={.spec.selector}"); got != `{"app":"web"}` {
		s.t.Errorf("the selector of the service is %s", got)
	}
	if got := s.Kubectl("get", "deployment,service,replicaset", "-o", "name", "-l", rollout.TrackLabel); got != "" {
		s.t.Errorf("there are still %s", got)
	}
	state := s.state()
	if state.Progress != nil || state.Pending || state.Locked != "" || len(state.Objects) != len(want)+1 { // with the PodDisruptionBudget
		s.t.Errorf("the state is %+v", state)
	}
}

func TestBlueGreen(t *testing.T) {
	s := start(t)
	s.must(app(), by(ci.Strategy{Kind: ci.BlueGreen}))
	load := s.ask()
	var before, kept map[string]int
	_, out := s.must(app("v1}", "v2}"), by(ci.Strategy{Kind: ci.BlueGreen, Keep: 2, Checks: []ci.Check{{URL: "/", Count: 2, Interval: 1}}}), s.onLine(func(line string) {
		switch {
		case strings.Contains(line, "all traffic of deployment/web goes to the new version"):
			before = load.reset()
		case strings.Contains(line, "passed; release 2 takes the place of release 1"):
			kept = load.reset()
		}
	}))
	after := load.reset()
	load.wantNoLoss(t)
	t.Logf("answers before the switch %v, while the old version was kept %v, and after that %v", before, kept, after)
	wantLines(t, out, "deployment/web-preview: created", "service/web-preview: created", "blue-green: check /: status 200", "deployment/web-preview: deleted", "service/web-preview: deleted")
	if before["v1"] == 0 || kept["v1"] > 0 || kept["v2"] == 0 || after["v1"] > 0 || after["v2"] == 0 {
		t.Errorf("answers before the switch %v, while the old version was kept %v, and after that %v", before, kept, after)
	}
	s.Kubectl("wait", "--for=delete", "pod", "-l", rollout.TrackLabel, "--timeout=60s")
	s.wantPlain("deployment.apps/web", "service/web")
	s.wantServing("v2", "v2")
}

func TestCanary(t *testing.T) {
	s := start(t)
	s.must(app("replicas: 2", "replicas: 3"))
	load := s.ask()
	shares := map[string]map[string]int{}
	step := "before"
	_, out := s.must(app("v1}", "v2}", "replicas: 2", "replicas: 3"), by(ci.Strategy{Kind: ci.Canary, Steps: []ci.StrategyStep{{Weight: 0}, {Weight: 25, Pause: 3}, {Weight: 50, Pause: 3}, {Weight: 75, Pause: 3}, {Weight: 100, Pause: 2}}}), s.onLine(func(line string) {
		for _, of := range []string{"step 2 of 5", "step 3 of 5", "step 4 of 5", "step 5 of 5", "passed"} {
			if strings.Contains(line, "canary: "+of) {
				shares[step] = load.reset()
				step = of
			}
		}
	}))
	load.wantNoLoss(t)
	t.Logf("shares %v", shares)
	_ = out
	s.Kubectl("wait", "--for=delete", "pod", "-l", rollout.TrackLabel, "--timeout=60s")
	s.wantPlain("deployment.apps/web", "service/web")
	s.wantServing("v2", "v2", "v2")
}

func TestRecreate(t *testing.T) {
	s := start(t)
	s.must(app())
	load := s.ask()
	s.must(app("v1}", "v2}"), by(ci.Strategy{Kind: ci.Recreate}))
	load.finish()
	s.wantPlain("deployment.apps/web", "service/web")
	s.wantServing("v2", "v2")
}
