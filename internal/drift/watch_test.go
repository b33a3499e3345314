package drift_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"slipway/internal/ci"
	"slipway/internal/cluster/clustertest"
	"slipway/internal/drift"
	"slipway/internal/kube"
	"slipway/internal/release"
	"slipway/internal/rollout"
)

const settings = `
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {level: info}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
`

// site is a namespace of the test cluster, with an environment in it.
type site struct {
	*clustertest.Cluster
	t     *testing.T
	place release.Place
}

func start(t *testing.T) *site {
	t.Parallel()
	s := &site{Cluster: clustertest.Start(t), t: t}
	s.place = release.Place{Client: s.client(), Namespace: s.Namespace, Environment: "production", Repo: "octo/shop"}
	return s
}

func (s *site) client() *kube.Client {
	s.t.Helper()
	client, err := kube.FromFile(s.Kubeconfig, "")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(client.Close)
	return client
}

// deploy makes a release of manifests.
func (s *site) deploy(manifests string, set ...func(*rollout.Step)) {
	s.t.Helper()
	dir := s.t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "app.yaml"), []byte(manifests), 0o600); err != nil {
		s.t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		s.t.Fatal(err)
	}
	defer root.Close()
	var out strings.Builder
	step := rollout.Step{
		Workspace: root, Manifests: []string{"app.yaml"}, Namespace: s.Namespace, Environment: s.place.Environment,
		Release: ci.Release{Repo: s.place.Repo}, Client: func() (*kube.Client, error) { return kube.FromFile(s.Kubeconfig, "") },
	}
	for _, f := range set {
		f(&step)
	}
	if _, err := rollout.Run(s.t.Context(), step, &out); err != nil {
		s.t.Fatalf("deploy: %v\n%s", err, out.String())
	}
}

// quick is a pace for tests: nothing waits long, but for what must not happen by itself.
var quick = drift.Pace{Quiet: 50 * time.Millisecond, Again: 200 * time.Millisecond, Resync: time.Hour}

// watch watches the environment until the test ends, and returns what is found.
func (s *site) watch(place release.Place) <-chan rollout.DriftReport {
	found := make(chan rollout.DriftReport, 1000)
	ctx, stop := context.WithCancel(s.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		drift.Watch(ctx, place, quick, func(_ context.Context, report rollout.DriftReport) { found <- report })
	}()
	s.t.Cleanup(func() { stop(); <-done })
	return found
}

// await returns the first report that is as wanted.
func (s *site) await(found <-chan rollout.DriftReport, what string, wanted func(rollout.DriftReport) bool) rollout.DriftReport {
	s.t.Helper()
	timeout := time.After(90 * time.Second)
	var last rollout.DriftReport
	for {
		select {
		case last = <-found:
			if wanted(last) {
				return last
			}
		case <-timeout:
			s.t.Fatalf("%s: not within 90 s; the last report is %+v", what, last)
		}
	}
}

// clean is a report that the release of that number is there as it was deployed.
func clean(number int64) func(rollout.DriftReport) bool {
	return func(r rollout.DriftReport) bool {
		return r.Unknown == "" && r.Release.Number == number && len(r.Differences) == 0
	}
}

// differs is a report of one object that differs, of that name.
func differs(kind, name string, missing bool) func(rollout.DriftReport) bool {
	return func(r rollout.DriftReport) bool {
		o := r.Objects()
		return len(o) == 1 && o[0].Kind == kind && o[0].Name == name && o[0].Missing == missing
	}
}

// TestWatch sees what happens to an environment from its first release on.
func TestWatch(t *testing.T) {
	s := start(t)
	found := s.watch(s.place)
	s.await(found, "no release", func(r rollout.DriftReport) bool { return r.Unknown == "nothing was deployed there" })
	s.deploy(settings)
	s.await(found, "the first release", clean(1))

	s.Kubectl("patch", "configmap", "settings", "--patch", `{"data": {"level": "debug"}}`, "--field-manager=mallory")
	r := s.await(found, "a change", differs("ConfigMap", "settings", false))
	if by := r.Objects()[0].By; len(by) != 1 || by[0].Manager != "mallory" {
		t.Errorf("it was changed by %v", by)
	}
	s.Kubectl("patch", "configmap", "settings", "--patch", `{"data": {"level": "info"}}`)
	s.await(found, "the change taken back", clean(1))
	s.Kubectl("delete", "service", "web")
	s.await(found, "a deletion", differs("Service", "web", true))

	// A release without the Service, and with an object of a kind that was not watched.
	s.deploy(strings.Split(settings, "---")[0] + "\n---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: robot}\n")
	s.await(found, "the second release", clean(2))
	s.Kubectl("delete", "serviceaccount", "robot")
	s.await(found, "a deletion of the second release's", differs("ServiceAccount", "robot", true))
}

// TestHeal puts back what somebody changes, until that is in vain.
func TestHeal(t *testing.T) {
	s := start(t)
	s.deploy(settings)
	known := ci.Drift{Heal: true}
	healed := make(chan ci.Drift, 1000)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		drift.Watch(ctx, s.place, quick, func(ctx context.Context, report rollout.DriftReport) {
			known = drift.Next(known, report, time.Now())
			if drift.Heals(known) {
				known = drift.Healed(known, time.Now())
				_, err := rollout.Rollback(ctx, rollout.Request{
					Client: s.place.Client, Namespace: s.Namespace, Environment: "production", Release: ci.Release{Repo: "octo/shop"},
				}, known.Release, &strings.Builder{})
				if err != nil && ctx.Err() == nil {
					t.Errorf("heal: %v", err)
				}
			}
			healed <- known
		})
	}()
	defer func() { stop(); <-done }()
	await := func(what string, wanted func(ci.Drift) bool) ci.Drift {
		t.Helper()
		timeout := time.After(90 * time.Second)
		var last ci.Drift
		for {
			select {
			case last = <-healed:
				if wanted(last) {
					return last
				}
			case <-timeout:
				t.Fatalf("%s: not within 90 s; the last is %+v", what, last)
			}
		}
	}
	await("the first look", func(d ci.Drift) bool { return d.Release == 1 && !d.Drifted() })
	for i := range 2 {
		s.Kubectl("patch", "configmap", "settings", "--patch", `{"data": {"level": "debug"}}`, "--field-manager=mallory")
		await("healed", func(d ci.Drift) bool { return d.Release == int64(i+2) && !d.Drifted() && d.Unknown == "" })
		if got := s.Kubectl("get", "configmap", "settings", "-o", "jsonpath={.data.level}"); got != "info" {
			t.Errorf("after healing the value is %q", got)
		}
	}
	s.Kubectl("patch", "configmap", "settings", "--patch", `{"data": {"level": "debug"}}`, "--field-manager=mallory")
	d := await("a fight", func(d ci.Drift) bool { return d.Fight != "" })
	if !strings.Contains(d.Fight, "configmap/settings was put back 2 times within 30m, and mallory changes it again") {
		t.Errorf("it says %q", d.Fight)
	}
	if got := s.Kubectl("get", "configmap", "settings", "-o", "jsonpath={.data.level}"); got != "debug" {
		t.Errorf("the fight goes on: the value is %q", got)
	}
}

// door is a way to the API server that can be shut.
type door struct {
	*httptest.Server
	shut atomic.Bool
}

// door opens one, as the administrator.
func (s *site) door() *door {
	s.t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", s.Kubeconfig)
	if err != nil {
		s.t.Fatal(err)
	}
	to, err := url.Parse(config.Host)
	if err != nil {
		s.t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.FlushInterval = -1
	if proxy.Transport, err = rest.TransportFor(config); err != nil {
		s.t.Fatal(err)
	}
	d := &door{}
	d.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if d.shut.Load() {
			http.Error(w, "away", http.StatusServiceUnavailable)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	s.t.Cleanup(d.Close)
	return d
}

// client goes through the door.
func (d *door) client(t *testing.T) *kube.Client {
	t.Helper()
	client, err := kube.FromKubeconfig([]byte(`{"apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c"}}],
		"clusters": [{"name": "c", "cluster": {"server": "` + d.URL + `"}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// TestAway loses the cluster and has it back, changed meanwhile.
func TestAway(t *testing.T) {
	s := start(t)
	s.deploy(settings)
	door := s.door()
	place := s.place
	place.Client = door.client(t)
	found := s.watch(place)
	s.await(found, "the first look", clean(1))
	door.shut.Store(true)
	door.CloseClientConnections()
	s.await(found, "the cluster away", func(r rollout.DriftReport) bool { return strings.Contains(r.Unknown, "cannot be reached") })
	s.Kubectl("delete", "service", "web")
	door.shut.Store(false)
	s.await(found, "what was deleted meanwhile", differs("Service", "web", true))
	s.Kubectl("delete", "configmap", "settings")
	s.await(found, "what is deleted since", func(r rollout.DriftReport) bool { return len(r.Differences) == 2 })
}
