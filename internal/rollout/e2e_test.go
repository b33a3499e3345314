package rollout_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"slipway/internal/ci"
	"slipway/internal/cluster"
	"slipway/internal/cluster/clustertest"
	"slipway/internal/fault"
	"slipway/internal/kube"
	"slipway/internal/manifest"
	"slipway/internal/rollout"
)

// program is an application that does what its environment says: serve, fail, or eat memory.
const program = `package main

import (
	"fmt"
	"net/http"
	"os"
	"strings"
)

func main() {
	fmt.Println("starting", os.Getenv("VERSION"))
	switch os.Getenv("MODE") {
	case "crash":
		fmt.Println("cannot open the \x1b[31mdatabase\x1b[0m: no such host")
		os.Exit(3)
	case "succeed":
		return
	case "eat":
		var all [][]byte
		for {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = 1
			}
			all = append(all, b)
		}
		_ = all
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if os.Getenv("MODE") == "lie" && !strings.HasPrefix(r.UserAgent(), "kube-probe") {
			http.Error(w, "ready, but no use", 500)
			return
		}
		fmt.Fprintln(w, os.Getenv("VERSION"))
	})
	http.HandleFunc("/broken", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", 500) })
	panic(http.ListenAndServe(":8080", nil))
}
`

const image = "slipway.test/deploy:1"

var (
	built sync.Once
	data  []byte
)

// build returns the program, built once.
func build(t testing.TB) []byte {
	built.Do(func() { data = clustertest.Program(t, program) })
	return data
}

// site is the test cluster with the test's own namespace and workspace.
type site struct {
	*clustertest.Cluster
	t      *testing.T
	dir    string
	line   func(string) // called for each line of output, if set
	config []byte       // a kubeconfig to use instead of the administrator's, if set
}

// TestMain runs a few tests at once however few processors there are, unless the command line says how many: most of their
// time they wait for the cluster.
func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if !given {
		if err := flag.Set("test.parallel", strconv.Itoa(max(4, runtime.GOMAXPROCS(0)))); err != nil {
			panic(err)
		}
	}
	m.Run()
}

func start(t *testing.T) *site {
	t.Parallel()
	c := clustertest.Start(t)
	c.Import(image, build(t))
	return &site{Cluster: c, t: t, dir: t.TempDir()}
}

// web is a Deployment of the program. edit, pairs of old and new text, changes it.
func web(edit ...string) string {
	return strings.NewReplacer(edit...).Replace(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  progressDeadlineSeconds: 600
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: web
        image: slipway.test/deploy:1
        imagePullPolicy: IfNotPresent
        env: [{name: VERSION, value: v1}, {name: MODE, value: serve}]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
`)
}

// absent edits a manifest so that its image is not there: such a version fails as soon as its first pod should start, where one
// that crashes has to do so three times.
func absent(edit ...string) []string {
	return append(edit, "slipway.test/deploy:1", "slipway.test/none:1", "IfNotPresent", "Never")
}

// step is a deploy step with the given manifest. The caller closes its workspace.
func (s *site) step(yaml string, set ...func(*rollout.Step)) rollout.Step {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, "app.yaml"), []byte(yaml), 0o600); err != nil {
		s.t.Fatal(err)
	}
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		s.t.Fatal(err)
	}
	step := rollout.Step{
		Workspace:   root,
		Manifests:   []string{"app.yaml"},
		Namespace:   s.Namespace,
		Environment: "test",
		Timeout:     90 * time.Second,
		Kubeconfig:  s.config,
		Client:      func() (*kube.Client, error) { return kube.FromFile(s.Kubeconfig, "") },
	}
	for _, f := range set {
		f(&step)
	}
	return step
}

// deploy runs a deploy step with the given manifest and returns its output.
func (s *site) deploy(ctx context.Context, yaml string, set ...func(*rollout.Step)) (rollout.Result, string, error) {
	s.t.Helper()
	step := s.step(yaml, set...)
	defer step.Workspace.Close()
	var out strings.Builder
	begin := time.Now()
	result, err := rollout.Run(ctx, step, io.MultiWriter(&out, hook(func(line string) {
		if s.line != nil {
			s.line(line)
		}
	})))
	s.t.Logf("after %s: %v\n%s", time.Since(begin).Round(100*time.Millisecond), err, out.String())
	return result, out.String(), err
}

// onLine has f called for each line of output.
func (s *site) onLine(f func(line string)) func(*rollout.Step) {
	return func(*rollout.Step) { s.line = f }
}

// must deploys what has to succeed.
func (s *site) must(yaml string, set ...func(*rollout.Step)) (rollout.Result, string) {
	s.t.Helper()
	result, out, err := s.deploy(s.t.Context(), yaml, set...)
	if err != nil {
		s.t.Fatalf("deploy: %v", err)
	}
	return result, out
}

// fails deploys what has to fail with code, and with all of parts in its error.
func (s *site) fails(yaml string, code fault.Code, parts []string, set ...func(*rollout.Step)) string {
	s.t.Helper()
	_, out, err := s.deploy(s.t.Context(), yaml, set...)
	if err == nil {
		s.t.Fatal("the deployment succeeded")
	}
	wantError(s.t, err, code, parts...)
	return out
}

func wantError(t *testing.T, err error, code fault.Code, parts ...string) {
	t.Helper()
	f := fault.Of(err)
	if f.Code != code {
		t.Errorf("code %s, want %s (%v)", f.Code, code, err)
	}
	for _, part := range parts {
		if !strings.Contains(f.Message, part) {
			t.Errorf("error %q does not say %q", f.Message, part)
		}
	}
	if strings.Contains(f.Message, "\n") {
		t.Errorf("error %q is more than a sentence", f.Message)
	}
}

// versions returns the value of VERSION of each pod that is ready.
func (s *site) versions() []string {
	s.t.Helper()
	lines := s.Kubectl("get", "pods", "-l", "app=web", "-o",
		`jsonpath={range .items[*]}{.status.containerStatuses[0].ready}{" "}{.spec.containers[0].env[0].value}{"\n"}{end}`)
	var versions []string
	for line := range strings.Lines(lines) {
		if version, ok := strings.CutPrefix(strings.TrimSpace(line), "true "); ok {
			versions = append(versions, version)
		}
	}
	slices.Sort(versions)
	return versions
}

func (s *site) wantServing(versions ...string) {
	s.t.Helper()
	if got := s.versions(); !slices.Equal(got, versions) {
		s.t.Errorf("pods that are ready have versions %v, want %v", got, versions)
	}
}

func TestFirstAndUpdate(t *testing.T) {
	s := start(t)
	result, out := s.must(web())
	s.wantServing("v1", "v1")
	if len(result.Changes) != 1 || result.Changes[0].Action != "created" || !result.Statuses[0].Done {
		t.Errorf("result %+v", result)
	}
	if !strings.Contains(out, "deployment/web: rolled out, 2 of 2 ready\n") {
		t.Errorf("output %q does not say that it is rolled out", out)
	}
	if got := s.Kubectl("get", "deployment", "web", "-o", `jsonpath={.metadata.annotations.slipway/environment} {.metadata.managedFields[*].manager}`); !strings.HasPrefix(got, "test ") || !strings.Contains(got, "slipway") {
		t.Errorf("annotation and managers %q", got)
	}
	if result, _ = s.must(web()); result.Changes[0].Action != "unchanged" {
		t.Errorf("the second time the action is %s, want unchanged", result.Changes[0].Action)
	}
	result, _ = s.must(web("v1}", "v2}"))
	s.wantServing("v2", "v2")
	if result.Changes[0].Action != "configured" {
		t.Errorf("the action of the update is %s", result.Changes[0].Action)
	}
}

// pushed serves a registry that the cluster can pull from, pushes the program to it, and returns what was pushed.
func (s *site) pushed() ci.Image {
	s.t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	s.t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	s.Registry(cluster.Registry{Host: host})
	ref := host + "/shop/web:7"
	var tar bytes.Buffer
	if err := cluster.WriteProgramImage(&tar, ref, build(s.t)); err != nil {
		s.t.Fatal(err)
	}
	img, err := tarball.Image(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(tar.Bytes())), nil }, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := crane.Push(img, ref); err != nil {
		s.t.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		s.t.Fatal(err)
	}
	return ci.Image{Ref: ref, Digest: digest.String()}
}

// TestPinned deploys an image that the run pushed, and then one that nobody pushed.
func TestPinned(t *testing.T) {
	s := start(t)
	pushed := s.pushed()
	repo := strings.TrimSuffix(pushed.Ref, ":7")
	byRun := func(step *rollout.Step) { step.Pushed = []ci.Image{pushed} }
	_, out := s.must(web("slipway.test/deploy:1", repo), byRun)
	s.wantServing("v1", "v1")
	if want := fmt.Sprintf("image %s is %s@%s, pushed by this run as %s\n", repo, repo, pushed.Digest, pushed.Ref); !strings.HasPrefix(out, want) {
		t.Errorf("output %q does not begin with %q", out, want)
	}
	begin := time.Now()
	out = s.fails(web("v1}", "v2}", "slipway.test/deploy:1", repo+"-none:1"), fault.Failed,
		[]string{fmt.Sprintf("cannot pull image %q", repo+"-none:1"), "not found", "the old version still serves: 2 of 2 of its pods are ready"}, byRun)
	s.wantServing("v1", "v1")
	if strings.Contains(out, "wrote nothing to its log") {
		t.Errorf("output %q speaks of a log", out)
	}
	t.Logf("the missing image was noticed after %s", time.Since(begin))
}

func TestImageNameInvalid(t *testing.T) {
	s := start(t)
	s.fails(web("slipway.test/deploy:1", "'Not An Image'"), fault.Invalid, []string{"app.yaml:2:1", "is not an image reference"})
}

func job(mode string) string {
	return `
apiVersion: batch/v1
kind: Job
metadata: {name: migrate}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers:
      - {name: migrate, image: "slipway.test/deploy:1", imagePullPolicy: IfNotPresent, env: [{name: MODE, value: ` + mode + `}]}
`
}

func TestJob(t *testing.T) {
	s := start(t)
	_, out := s.must(job("succeed"))
	if !strings.Contains(out, "job/migrate: completed\n") {
		t.Errorf("output %q", out)
	}
	// A Job that is over is replaced by one that differs.
	out = s.fails(job("crash"), fault.Failed, []string{"job/migrate: failed"})
	if !strings.Contains(out, "! job/migrate: replace\n") || !strings.Contains(out, "job/migrate: replaced\n") {
		t.Errorf("output %q", out)
	}
}

func TestJobFails(t *testing.T) {
	s := start(t)
	out := s.fails(job("crash"), fault.Failed, []string{"job/migrate: failed: pod migrate-", "exits with code 3"})
	if !strings.Contains(out, "  | cannot open the") {
		t.Errorf("output %q does not have the log", out)
	}
}

// TestOtherKinds deploys one of each kind that is watched in its own way.
func TestOtherKinds(t *testing.T) {
	s := start(t)
	yaml := func(version string) string {
		pod := `
    metadata: {labels: {app: KIND}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: a, image: "slipway.test/deploy:1", imagePullPolicy: IfNotPresent, env: [{name: VERSION, value: ` + version + `}],
         readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}}
`
		return `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.` + s.Namespace + `.example.com}
spec:
  group: ` + s.Namespace + `.example.com
  scope: Namespaced
  names: {kind: Thing, plural: things}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
---
apiVersion: ` + s.Namespace + `.example.com/v1
kind: Thing
metadata: {name: a}
---
apiVersion: v1
kind: Namespace
metadata: {name: ` + s.Namespace + `-two}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: a, namespace: ` + s.Namespace + `-two}
---
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {selector: {app: stateful}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: a}
spec:
  replicas: 2
  serviceName: a
  selector: {matchLabels: {app: stateful}}
  template:` + strings.ReplaceAll(pod, "KIND", "stateful") + `
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: a}
spec:
  selector: {matchLabels: {app: daemon}}
  template:` + strings.ReplaceAll(pod, "KIND", "daemon") + `
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: a}
spec:
  schedule: "0 0 1 1 *"
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: a, image: "slipway.test/deploy:1"}]}}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: a}
spec: {accessModes: [ReadWriteOnce], storageClassName: ` + s.Namespace + `, resources: {requests: {storage: 1Mi}}}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: ` + s.Namespace + `}
provisioner: example.com/none
volumeBindingMode: WaitForFirstConsumer
`
	}
	t.Cleanup(func() {
		// The test's context, which Kubectl uses, is over by now.
		out, err := exec.Command(filepath.Join(s.Options.Bin, "kubectl"), "--kubeconfig", s.Kubeconfig, "delete", "--wait=false",
			"crd/things."+s.Namespace+".example.com", "namespace/"+s.Namespace+"-two", "storageclass/"+s.Namespace).CombinedOutput()
		if err != nil {
			t.Errorf("clean up: %v: %s", err, out)
		}
	})
	s.must(yaml("v1"))
	_, out := s.must(yaml("v2"))
	for _, want := range []string{"statefulset/a: rolled out, 2 of 2 ready\n", "daemonset/a: rolled out, 1 of 1 ready\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("output does not have %q", want)
		}
	}
	for _, app := range []string{"stateful", "daemon"} {
		if got := s.Kubectl("get", "pods", "-l", "app="+app, "-o", "jsonpath={.items[*].spec.containers[0].env[0].value}"); strings.Contains(got, "v1") {
			t.Errorf("pods of %s have versions %q", app, got)
		}
	}
	// The new revision of one fails, and the pods of its old one do not confuse. Only one is broken: which of two is
	// noticed first is chance.
	broken, fine, _ := strings.Cut(yaml("v3"), "kind: DaemonSet")
	broken = strings.NewReplacer(absent()...).Replace(broken)
	s.fails(broken+"kind: DaemonSet"+fine, fault.Failed,
		[]string{"statefulset/a: pod a-1 may not pull image", "the old version still serves: 1 of 2", "ROLLED BACK: release 2 serves again"})
	if got := s.Kubectl("get", "pods", "-l", "app=stateful", "-o", "jsonpath={.items[*].spec.containers[0].env[0].value}"); got != "v2 v2" {
		t.Errorf("after going back, the pods have versions %q", got)
	}
}

// hook is a writer that calls f for each line.
type hook func(line string)

func (f hook) Write(b []byte) (int, error) {
	f(string(b))
	return len(b), nil
}

// TestCanceled cancels a deployment while it is watched.
func TestCanceled(t *testing.T) {
	s := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, _, err := s.deploy(ctx, web("path: /", "path: /broken"), s.onLine(func(line string) {
		if strings.Contains(line, "2 of 2 updated") { // and never ready
			cancel()
		}
	}))
	wantError(t, err, fault.Failed, "canceled", "deployment/web: 2 of 2 updated, 0 ready")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v does not wrap the cancellation", err)
	}
}

func TestScope(t *testing.T) {
	s := start(t)
	client, err := kube.FromFile(s.Kubeconfig, "")
	if err != nil {
		t.Fatal(err)
	}
	_, lists, err := client.Core.Discovery().ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	builtin := manifest.BuiltinScope(nil)
	checked := 0
	for _, list := range lists {
		for _, r := range list.APIResources {
			if strings.Contains(r.Name, "/") {
				continue
			}
			gvk := parseGVK(t, list.GroupVersion, r.Kind)
			namespaced, known := builtin(gvk)
			if known && namespaced != r.Namespaced {
				t.Errorf("%s: namespaced is %t, want %t", gvk, namespaced, r.Namespaced)
			}
			if known {
				checked++
			}
		}
	}
	if checked < 40 {
		t.Errorf("only %d kinds were compared", checked)
	}
}
