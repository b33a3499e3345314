package rollout_test

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/release"
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

// await waits until n requests have been answered since the counts began anew.
func (a *answers) await(n int) {
	for {
		a.mu.Lock()
		sum := len(a.failed)
		for _, count := range a.counts {
			sum += count
		}
		a.mu.Unlock()
		if sum >= n {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
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
	s.wantNoDrift(s.place(), state.Current)
}

// wantLeft waits until all pods that had to end have ended, and wants these versions.
func (s *site) wantLeft(versions ...string) {
	s.t.Helper()
	s.Kubectl("wait", "--for=delete", "pod", "-l", rollout.TrackLabel, "--timeout=120s")
	deadline := time.Now().Add(2 * time.Minute)
	for !slices.Equal(s.versions(), versions) && time.Now().Before(deadline) {
		time.Sleep(200 * time.Millisecond)
	}
	s.wantServing(versions...)
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
	s.wantPlain("deployment.apps/web", "service/web")
	s.wantLeft("v2", "v2")
}

// TestBlueGreenCheckFails has a new version that does not pass its check before the switch: nobody notices.
func TestBlueGreenCheckFails(t *testing.T) {
	s := start(t)
	s.must(app() + config("a", "one"))
	load := s.ask()
	strategy := ci.Strategy{Kind: ci.BlueGreen, Checks: []ci.Check{{Name: "health", URL: "/broken", Status: 200, Interval: 1, Failures: 1}}}
	out := s.fails(app("v1}", "v2}")+config("a", "two")+config("new", "two"), fault.Failed,
		[]string{"the check health failed at step 1 of 2 of the blue-green: status 500, not 200", "ROLLED BACK: release 1 serves again"}, by(strategy))
	wantLines(t, out, "blue-green: check health: status 500, not 200", "deployment/web-preview: deleted", "service/web-preview: deleted")
	load.wantNoLoss(t)
	if counts := load.reset(); counts["v2"] > 0 || counts["v1"] == 0 {
		t.Errorf("answers %v", counts)
	}
	s.wantPlain("deployment.apps/web", "configmap/a", "service/web")
	s.wantLeft("v1", "v1")
	if got := s.value("a"); got != "one" {
		t.Errorf("the ConfigMap has %q after going back", got)
	}
	if _, out := s.preview(app() + config("a", "one")); !strings.Contains(out, "differences: 4 to leave\n") {
		t.Errorf("the cluster is not exactly as release 1 left it: %s", out)
	}
}

// TestCanary goes through all kinds of weights of a Service that is split by replicas, and measures them.
func TestCanary(t *testing.T) {
	s := start(t)
	s.must(app("replicas: 2", "replicas: 3"))
	load := s.ask()
	shares := map[string]map[string]int{}
	step := "before"
	steps := []ci.StrategyStep{{Weight: 0}, {Weight: 25, Manual: true}, {Weight: 75, Manual: true}, {Weight: 100, Pause: 2}}
	probe := ci.Probe{URL: "http://" + s.Kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"), Timeout: 30}
	result, out := s.must(app("v1}", "v2}", "replicas: 2", "replicas: 3"), by(ci.Strategy{Kind: ci.Canary, Steps: steps}), probing(probe), s.onLine(func(line string) {
		for _, of := range []string{"step 2 of 4", "step 3 of 4", "step 4 of 4", "passed"} {
			if !strings.HasPrefix(line, "canary: "+of) {
				continue
			}
			shares[step] = load.reset()
			step = of
			if strings.HasSuffix(of, "2 of 4") || strings.HasSuffix(of, "3 of 4") { // only what is answered at this very step counts
				load.await(200)
				shares[step], step = load.reset(), "after "+of
				s.tell(release.Next)
			}
		}
	}))
	if pods := s.Kubectl("get", "pods", "-l", rollout.TrackLabel, "-o", "name"); pods != "" {
		t.Errorf("the probe ended before the pods of the canary: %s", pods)
	}
	if r := result.Release.Probe; r == nil || r.Sent == 0 || r.Lost != 0 {
		t.Errorf("the probe's counts are %+v", r)
	}
	shares[step] = load.reset()
	load.wantNoLoss(t)
	t.Logf("shares %v", shares)
	wantLines(t, out,
		"canary: the new version of deployment/web is up and gets no traffic yet (1 pod)",
		"canary: 25 % of the traffic of deployment/web goes to the new version (1 of 4 pods)",
		"canary: 75 % of the traffic of deployment/web goes to the new version (3 of 4 pods)",
		"canary: all traffic of deployment/web goes to the new version (3 pods)")
	// One of four pods, and three of four: with hundreds of requests, these bounds are far away.
	for _, want := range []struct {
		step     string
		from, to float64
	}{{"step 2 of 4", 0.1, 0.45}, {"step 3 of 4", 0.55, 0.9}, {"step 4 of 4", 1, 1}, {"passed", 1, 1}} {
		counts := shares[want.step]
		if share := float64(counts["v2"]) / float64(counts["v1"]+counts["v2"]); !(share >= want.from && share <= want.to) {
			t.Errorf("at %s the new version got %.2f of the traffic (%v), want %.2f to %.2f", want.step, share, counts, want.from, want.to)
		}
	}
	s.wantPlain("deployment.apps/web", "service/web")
	s.wantLeft("v2", "v2", "v2")
}

// tell gives an instruction to the release that is under way, as slipway rollout does.
func (s *site) tell(verb release.Verb) {
	s.t.Helper()
	if _, err := s.place().Tell(s.t.Context(), verb, "ann"); err != nil {
		s.t.Errorf("saying %s: %v", verb, err)
	}
}

// TestCanaryByHand goes on, stays and ends by instructions, and in a second release goes back by one.
func TestCanaryByHand(t *testing.T) {
	s := start(t)
	s.must(app())
	if _, err := s.place().Tell(t.Context(), release.Next, "ann"); fault.Of(err).Code != fault.Conflict || !strings.Contains(err.Error(), "comes by steps right now") {
		t.Errorf("an instruction where nothing is under way: %v", err)
	}
	steps := []ci.StrategyStep{{Weight: 10, Manual: true}, {Weight: 50, Manual: true}, {Weight: 60, Manual: true}}
	waits, over := 0, 0
	waiting := func(step *rollout.Step) {
		step.Waits = func() func() { waits++; return func() { over++ } }
	}
	_, out := s.must(app("v1}", "v2}"), by(ci.Strategy{Kind: ci.Canary, Steps: steps}), waiting, s.onLine(func(line string) {
		switch {
		case strings.HasPrefix(line, "canary: step 1 of 3: waiting until somebody says: slipway rollout next test -n "+s.Namespace):
			s.tell(release.Hold)
		case strings.HasPrefix(line, "canary: ann says to stay here"):
			s.tell(release.Next)
		case strings.HasPrefix(line, "canary: step 2 of 3: waiting"):
			s.tell(release.Finish)
		}
	}))
	wantLines(t, out, "canary: ann says to go on", "canary: ann says that no other step is needed", "canary: 33 % of the traffic of deployment/web goes to the new version (1 of 3 pods)")
	if strings.Contains(out, "step 3 of 3") {
		t.Error("there was a step after all was said to be over")
	}
	if waits != 2 || over != 2 {
		t.Errorf("it waited %d times, and %d times that was over", waits, over)
	}
	s.wantPlain("deployment.apps/web", "service/web")

	load := s.ask()
	strategy := ci.Strategy{Kind: ci.Canary, Steps: []ci.StrategyStep{{Weight: 80, Manual: true}}}
	out = s.fails(app("v1}", "v3}"), fault.Failed, []string{"canary was stopped at step 1 of 1 by ann", "ROLLED BACK: release 2 serves again"}, by(strategy), s.onLine(func(line string) {
		if strings.HasPrefix(line, "canary: step 1 of 1: waiting") {
			if got := s.Kubectl("get", "deployment", "web", "-o", "jsonpath={.spec.replicas}"); got != "1" {
				t.Errorf("the old version has %s pods", got)
			}
			s.tell(release.Abort)
		}
	}))
	load.wantNoLoss(t)
	if counts := load.reset(); counts["v2"] == 0 || counts["v3"] == 0 {
		t.Errorf("answers %v", counts)
	}
	wantLines(t, out, "deployment/web-canary: deleted", "service/web-canary: deleted")
	s.wantPlain("deployment.apps/web", "service/web")
	s.wantLeft("v2", "v2")
}

// TestCanaryNeverReady has a new version whose pods never get ready: nobody has to wait for the end of its time to go back,
// and at that end the error says what was waited for.
func TestCanaryNeverReady(t *testing.T) {
	s := start(t)
	s.must(app())
	unready := app("v1}", "v2}", "path: /,", "path: /broken,")
	canary := by(ci.Strategy{Kind: ci.Canary, Steps: []ci.StrategyStep{{Weight: 10}}})
	s.fails(unready, fault.Failed, []string{"deployment/web-canary: not rolled out within 10s", "ROLLED BACK: release 1 serves again"}, canary,
		func(step *rollout.Step) { step.Timeout = 10 * time.Second })
	s.fails(unready, fault.Failed, []string{"canary was stopped at step 1 of 1 by ann", "ROLLED BACK: release 1 serves again"}, canary, s.onLine(func(line string) {
		if !strings.HasPrefix(line, "deployment/web-canary: created") {
			return
		}
		s.tell(release.Next) // is for when the step is reached, and in nobody's way
		for {
			if _, there, err := s.place().Instruction(t.Context()); err != nil || !there {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
		s.tell(release.Abort)
	}))
	s.wantPlain("deployment.apps/web", "service/web")
}

// prometheus answers queries as the documentation of the HTTP API of Prometheus has it ("Instant queries"), with one value
// after the other.
func prometheus(t *testing.T, token string, values ...string) (address string, ca []byte, asked func() []string) {
	t.Helper()
	var mu sync.Mutex
	var queries []string
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.Header.Get("Authorization") != "Bearer "+token {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if r.URL.Path != "/prom/api/v1/query" || r.FormValue("query") == "" {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"status":"error","errorType":"bad_data","error":"invalid parameter \"query\""}`)
			return
		}
		value := values[min(len(queries), len(values)-1)]
		queries = append(queries, r.FormValue("query"))
		fmt.Fprintf(w, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{"job":"web"},"value":[1435781451.781,%q]}]}}`, value)
	}))
	t.Cleanup(server.Close)
	ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	return server.URL + "/prom/", ca, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(queries)
	}
}

// TestCanaryAbortedByPrometheus has an error rate that rises in the second step.
func TestCanaryAbortedByPrometheus(t *testing.T) {
	s := start(t)
	s.must(app())
	const token = "very-secret-token"
	address, ca, asked := prometheus(t, token, "0.002", "0.004", "0.25")
	secrets := map[string]string{"prometheus_ca": string(ca)}
	strategy := ci.Strategy{
		Kind: ci.Canary, Steps: []ci.StrategyStep{{Weight: 10}, {Weight: 50, Pause: 60}},
		Checks: []ci.Check{{
			Name: "error rate", URL: address, Query: `rate(errors{app="web"}[1m])`, Condition: "< 0.01", Count: 2, Interval: 1,
			Login: ci.Login{Token: &ci.FromSecret{Secret: "prometheus_token"}, CA: &ci.FromSecret{Secret: "prometheus_ca"}},
		}},
	}
	known := func(step *rollout.Step) { step.ProbeLocal, step.Secrets = true, secrets }
	s.fails(app("v1}", "v2}"), fault.Invalid, []string{"the secret prometheus_token, which the check error rate needs, is not there or empty; give it by: --secret prometheus_token=FILE"}, by(strategy), known)
	secrets["prometheus_token"] = token + "\n"
	out := s.fails(app("v1}", "v2}"), fault.Failed,
		[]string{"the check error rate failed at step 2 of 2 of the canary: 0.25, which is not < 0.01", "ROLLED BACK: release 1 serves again"}, by(strategy), known)
	wantLines(t, out, "canary: check error rate: 0.002 < 0.01", "canary: check error rate: 0.004 < 0.01", "canary: check error rate: 0.25, which is not < 0.01")
	if queries := asked(); len(queries) != 3 || queries[0] != `rate(errors{app="web"}[1m])` {
		t.Errorf("Prometheus was asked %q", queries)
	}
	if kept := s.Kubectl("get", "secrets,leases", "-o", "yaml"); strings.Contains(out+kept, token) {
		t.Error("the token is in the log or in what is kept of the release")
	}
	s.wantPlain("deployment.apps/web", "service/web")
	s.wantLeft("v1", "v1")
}

// TestCanaryCrashes has a new version whose pods do not start.
func TestCanaryCrashes(t *testing.T) {
	s := start(t)
	s.must(app())
	s.fails(app("v1}", "v2}", "MODE, value: serve", "MODE, value: crash"), fault.Failed,
		[]string{"deployment/web-canary: pod web-canary-", "exits with code 3, 3 times so far; ROLLED BACK: release 1 serves again"}, by(ci.Strategy{Kind: ci.Canary}))
	s.wantPlain("deployment.apps/web", "service/web")
	s.wantLeft("v1", "v1")
	if got := s.Kubectl("get", "deployment", "web", "-o", "jsonpath={.status.observedGeneration}"); got != "1" {
		t.Errorf("the old version was touched: its generation is %s", got)
	}
}

// TestStrategyResumed kills a release in its second step. Its successor goes on there.
func TestStrategyResumed(t *testing.T) {
	s := start(t)
	s.must(app())
	yaml := app("v1}", "v2}") + migration("before", "v2", "succeed") + config("settings", "v2")
	strategy := ci.Strategy{Kind: ci.Canary, Steps: []ci.StrategyStep{{Weight: 10}, {Weight: 50, Pause: 2}, {Weight: 100}}}
	run := func(step *rollout.Step) {
		step.Release = ci.Release{Run: 7, Step: "deploy"}
		step.Resumed = func() bool { return true }
	}
	ctx, kill := context.WithCancel(t.Context())
	defer kill()
	_, _, err := s.deploy(ctx, yaml, run, by(strategy), s.onLine(func(line string) {
		if strings.HasPrefix(line, "canary: step 2 of 3") {
			kill()
		}
	}))
	if p := s.state().Progress; err == nil || p == nil || p.Step != 1 || p.Weight != 50 {
		t.Fatalf("it was not interrupted at its second step: %v, %+v", err, p)
	}
	s.wantThere("deployment.apps/web", "deployment.apps/web-canary", "configmap/settings", "service/web", "service/web-canary", "job.batch/migrate-before")
	s.line = nil
	s.Kubectl("delete", "job", "migrate-before") // as one that shall not stay long after its end
	_, out := s.must(yaml, run, by(strategy))
	wantLines(t, out, "going on with release 2, which was not finished", "canary: passed; release 2 takes the place of release 1")
	if strings.Contains(out, "web-canary: created") || strings.Contains(out, "runs before the rest") {
		t.Error("the successor began anew")
	}
	if state := s.state(); state.Progress != nil || state.Pending || state.Current != 2 {
		t.Errorf("the state is %+v", state)
	}
	s.wantThere("deployment.apps/web", "configmap/settings", "service/web")
	s.wantLeft("v2", "v2")
}

// TestStrategyLeftBehind kills releases for good: what comes next, a deployment or a rollback, takes them back first.
func TestStrategyLeftBehind(t *testing.T) {
	s := start(t)
	s.must(app())
	load := s.ask()
	leave := func(run int64, yaml, at string) {
		t.Helper()
		ctx, kill := context.WithCancel(t.Context())
		defer kill()
		_, _, err := s.deploy(ctx, yaml, by(ci.Strategy{Kind: ci.BlueGreen, Keep: 60}), func(step *rollout.Step) {
			step.Release = ci.Release{Run: run, Step: "deploy"}
			step.Resumed = func() bool { return true }
		}, s.onLine(func(line string) {
			if strings.HasPrefix(line, at) {
				kill()
			}
		}))
		s.line = nil
		if err == nil || s.state().Progress == nil {
			t.Fatalf("it was not interrupted: %v", err)
		}
		// The lock of a process that was killed ends by itself after half a minute.
		s.Kubectl("delete", "lease", "slipway.test")
	}
	leave(7, app("v1}", "v2}"), "blue-green: step 2 of 2")
	_, out := s.must(app("v1}", "v3}"))
	wantLines(t, out, "release 2 was left in the middle of its blue-green; it is taken back first", "deployment/web-preview: deleted")
	s.wantPlain("deployment.apps/web", "service/web")
	s.wantLeft("v3", "v3")
	leave(8, app("v1}", "v4}"), "blue-green: the new version of deployment/web is up")
	out, err := s.rollback(0)
	if err != nil {
		t.Fatal(err)
	}
	wantLines(t, out, "release 4 was left in the middle of its blue-green; it is taken back first", "going back to release 3 of the environment test of the namespace "+s.Namespace)
	load.wantNoLoss(t)
	if counts := load.reset(); counts["v2"] == 0 || counts["v4"] > 0 {
		t.Errorf("answers %v", counts)
	}
	s.wantPlain("deployment.apps/web", "service/web")
	s.wantLeft("v3", "v3")
	// The environment has another strategy by the time the successor of a runner goes on.
	leave(9, app("v1}", "v5}"), "blue-green: the new version of deployment/web is up")
	_, out = s.must(app("v1}", "v5}"), func(step *rollout.Step) { step.Release = ci.Release{Run: 9, Step: "deploy"} })
	wantLines(t, out, "release 6 was left in the middle of its blue-green; it is taken back first", "going on with release 6, which was not finished")
	s.wantPlain("deployment.apps/web", "service/web")
	s.wantLeft("v5", "v5")
}

// TestStrategyRefused has strategies that cannot be carried out: nothing changes.
func TestStrategyRefused(t *testing.T) {
	s := start(t)
	s.must(app())
	changed := app("v1}", "v2}")
	s.fails(changed, fault.Invalid, []string{"the strategy is for deployment/other, which no manifest has"}, by(ci.Strategy{Kind: ci.Canary, Deployments: []string{"other"}}))
	s.Kubectl("create", "service", "clusterip", "web-canary", "--tcp=80")
	s.fails(changed, fault.Conflict, []string{"the canary needs the name service/web-canary for a while, which something else has", "nothing was changed"}, by(ci.Strategy{Kind: ci.Canary}))
	s.Kubectl("delete", "service", "web-canary")
	s.Kubectl("autoscale", "deployment", "web", "--max=4")
	s.fails(changed, fault.Invalid, []string{"a canary of deployment/web cannot get 60 % of the traffic", "horizontalpodautoscaler/web scales them"}, by(ci.Strategy{Kind: ci.Canary, Steps: []ci.StrategyStep{{Weight: 60}}}))
	s.Kubectl("delete", "horizontalpodautoscaler", "web")
	s.Kubectl("run", "stranger", "--image="+image, "--labels=app=web", "--image-pull-policy=Never")
	s.fails(changed, fault.Conflict, []string{"service/web sends traffic to other pods than those of deployment/web, too (such as stranger)"}, by(ci.Strategy{Kind: ci.BlueGreen}))
	s.Kubectl("delete", "pod", "stranger", "--now")
	s.Kubectl("create", "quota", "none", "--hard=pods=0")
	s.Kubectl("delete", "pods", "-l", "app=web")
	s.fails(changed, fault.Failed, []string{"the version that serves is not well, so there is nothing to compare a new one with", "deploy with the strategy rolling to replace it at once"},
		by(ci.Strategy{Kind: ci.Canary}), func(step *rollout.Step) { step.Timeout = 20 * time.Second })
	s.wantPlain("deployment.apps/web", "service/web")
}
