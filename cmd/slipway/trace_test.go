package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"slipway/internal/ci"
	"slipway/internal/cluster/clustertest"
	"slipway/internal/fault"
	"slipway/internal/flow/flowtest"
	"slipway/internal/kube"
	"slipway/internal/rollout"
	"slipway/internal/store"
	"slipway/internal/web"
)

const traceImage = "slipway.test/trace:1"

// traceProgram serves.
const traceProgram = `package main

import "net/http"

func main() { panic(http.ListenAndServe(":8080", nil)) }
`

// traceSite is a cluster that ada/engine deploys to, and a server that knows of it.
type traceSite struct {
	t       *testing.T
	cluster *clustertest.Cluster
	server  *flowtest.Server
	http    *httptest.Server
	admin   string
	dir     string
}

func newTraceSite(t *testing.T) *traceSite {
	s := &traceSite{t: t, cluster: clustertest.Start(t), dir: t.TempDir()}
	s.serve()
	return s
}

// serve starts a server with an empty database.
func (s *traceSite) serve() {
	s.server = flowtest.New(s.t)
	log := slog.New(slog.DiscardHandler)
	s.http = httptest.NewServer(web.New(web.Options{Flow: s.server.Flow, Store: s.server.DB, Logs: s.server.Logs, Auth: s.server.Auth, Log: log}))
	s.t.Cleanup(s.http.Close)
	var err error
	if s.admin, _, err = s.server.Auth.Create(s.t.Context(), "admin", []string{"admin"}, time.Time{}); err != nil {
		s.t.Fatal(err)
	}
}

// run runs a command as somebody who is logged in, and returns what it prints.
func (s *traceSite) run(code fault.Code, args ...string) string {
	s.t.Helper()
	var out bytes.Buffer
	cmd := newRootCommand()
	args = append(args, "--kubeconfig", s.cluster.Kubeconfig, "-n", s.cluster.Namespace)
	if args[1] != "diff" {
		args = append(args, "--server", s.http.URL, "--token", s.admin)
	}
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	err := cmd.ExecuteContext(s.t.Context())
	s.t.Logf("%s: %v\n%s", strings.Join(args, " "), err, out.String())
	if (err == nil) != (code == "") || err != nil && fault.Of(err).Code != code {
		s.t.Fatalf("%s: %v, want code %q", strings.Join(args, " "), err, code)
	}
	if err != nil {
		out.WriteString(fault.Of(err).Message)
	}
	return out.String()
}

func (s *traceSite) want(out string, parts ...string) {
	s.t.Helper()
	for _, part := range parts {
		if !strings.Contains(out, part) {
			s.t.Errorf("the output lacks %q:\n%s", part, out)
		}
	}
}

// deploy brings a version of the app, as a step of a run, and stores its release as the server does.
func (s *traceSite) deploy(run ci.Run, version string, rollback bool) {
	s.t.Helper()
	manifests := strings.NewReplacer("VERSION", version, "HOST", s.host(), "IMAGE", traceImage).Replace(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: web
        image: IMAGE
        imagePullPolicy: IfNotPresent
        env: [{name: MODE, value: VERSION}]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Secret
metadata: {name: database}
stringData: {password: hunter2-VERSION}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  rules:
  - host: HOST
    http: {paths: [{path: /cart, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
`)
	if err := os.WriteFile(filepath.Join(s.dir, "app.yaml"), []byte(manifests), 0o600); err != nil {
		s.t.Fatal(err)
	}
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		s.t.Fatal(err)
	}
	defer root.Close()
	release := ci.Release{
		Repo: "ada/engine", Run: run.Number, Step: "deploy", Commit: run.Event.After, Author: "Ada", Title: run.Event.Commit.Title(), By: "ada",
		Link: s.server.Link("ada/engine", run.Number),
	}
	var result rollout.Result
	if rollback {
		client, err := kube.FromFile(s.cluster.Kubeconfig, "")
		if err != nil {
			s.t.Fatal(err)
		}
		defer client.Close()
		result, err = rollout.Rollback(s.t.Context(), rollout.Request{Client: client, Namespace: s.cluster.Namespace, Environment: "review/x", Release: release}, 0, io.Discard)
		if err != nil {
			s.t.Fatal(err)
		}
	} else {
		result, err = rollout.Run(s.t.Context(), rollout.Step{
			Workspace: root, Manifests: []string{"app.yaml"}, Namespace: s.cluster.Namespace, Environment: "review/x", Release: release,
			Client: func() (*kube.Client, error) { return kube.FromFile(s.cluster.Kubeconfig, "") },
		}, io.Discard)
		if err != nil {
			s.t.Fatal(err)
		}
	}
	if err := s.server.ImportRelease(s.t.Context(), *result.Release, result.Manifests); err != nil {
		s.t.Fatal(err)
	}
}

func (s *traceSite) host() string { return s.cluster.Namespace + ".example.com" }

func (s *traceSite) push() ci.Run {
	s.t.Helper()
	return s.server.Push("kind: pipeline\ntype: docker\nname: test\nsteps: [{name: a, image: busybox, commands: [make]}]\n")
}

// What runs leads back to its commit, by every way, and where it does not the trail says why. The database, thrown away, is
// filled again from the cluster.
func TestTrace(t *testing.T) {
	s := newTraceSite(t)
	s.cluster.Import(traceImage, clustertest.Program(t, traceProgram))
	s.deploy(s.push(), "v1", false)
	second := s.push()
	s.deploy(second, "v2", false)

	pod := s.cluster.Kubectl("get", "pods", "-l", "app=web", "--sort-by=.metadata.creationTimestamp", "-o", "jsonpath={.items[-1:].metadata.name}")
	back := []string{"deployment/web in " + s.cluster.Namespace, "review/x of ada/engine", "release 2: success, it serves", second.Event.After + " Grind the cogs", "Ada <ada@example.com>", s.server.Link("ada/engine", 2)}
	s.want(s.run("", "trace", "pod/"+pod), append(back, "pod/"+pod, "replicaset/web-")...)
	s.want(s.run("", "trace", "deploy/web"), back...)
	s.want(s.run("", "trace", "ingress.networking.k8s.io/web"), back[1:]...)
	s.want(s.run("", "trace", "http://"+s.host()+"/cart/7"), append(back, "ingress/web in "+s.cluster.Namespace+": "+s.host()+"/cart", "service/web")...)
	s.want(s.run("", "trace", "http://web."+s.cluster.Namespace+".svc/"), append(back, "the name of a service")...)
	s.want(s.run("", "trace", traceImage), back[1:]...)
	var out found
	if err := json.Unmarshal([]byte(s.run("", "trace", "pods/"+pod, "--json")), &out); err != nil || len(out.Trails) != 1 || out.Trails[0].Release.Number != 2 {
		t.Errorf("the JSON is %+v, %v", out, err)
	}

	// Where the trail ends, it says why.
	s.want(s.run(fault.NotFound, "trace", "pod/none"), "there is no pod/none in the namespace "+s.cluster.Namespace)
	s.want(s.run(fault.NotFound, "trace", "http://"+s.host()+"/other"), "no Ingress, HTTPRoute or Service of the cluster answers for "+s.host()+"/other")
	s.want(s.run(fault.NotFound, "trace", "registry.test/none@sha256:0"), "no release uses the image registry.test/none@sha256:0")
	s.want(s.run(fault.NotFound, "trace", "registry.test/web"), "give its digest, because releases name images by that")
	s.cluster.Kubectl("create", "configmap", "mine")
	s.want(s.run(fault.NotFound, "trace", "cm/mine"), "the trail ends here: configmap/mine in "+s.cluster.Namespace+" was not deployed to an environment of Slipway")
	s.cluster.Kubectl("set", "image", "deployment/web", "web=slipway.test/by-hand:1")
	s.cluster.Kubectl("wait", "--for=jsonpath={.status.unavailableReplicas}=1", "deployment/web", "--timeout=120s")
	byHand := s.cluster.Kubectl("get", "replicasets", "-l", "app=web", "-o", `jsonpath={range .items[?(@.spec.template.spec.containers[0].image=="slipway.test/by-hand:1")]}{.metadata.name}{end}`)
	s.want(s.run(fault.NotFound, "trace", "rs/"+byHand), "no release of review/x that the cluster remembers has the image slipway.test/by-hand:1: either somebody changed it by hand")

	// Back to the first: its ReplicaSet is there still, and serves by a release that repeats it.
	s.deploy(s.push(), "v1", true)
	pod = s.cluster.Kubectl("get", "pods", "-l", "app=web", "--field-selector=status.phase=Running", "--sort-by=.metadata.creationTimestamp", "-o", "jsonpath={.items[-1:].metadata.name}")
	s.want(s.run("", "trace", "pod/"+pod), "release 3: success, it serves", "repeats   release 1")
	s.want(s.run("", "env", "diff", "review/x", "1", "2", "--repo", "ada/engine"), "env[MODE].value: v1 -> v2", "secret/database: change")

	s.rebuild()
}

// rebuild throws the database away and fills it again from the cluster: the pages are the same.
func (s *traceSite) rebuild() {
	t := s.t
	t.Helper()
	before := s.pages()
	if len(before) < 5 {
		t.Fatalf("there are only %d pages", len(before))
	}
	s.serve()
	s.push() // runs are not in the cluster; their pages are linked to where they are there
	s.push()
	s.push()
	if got := s.pages(); len(got) != 2 {
		t.Fatalf("a new database has %d pages of releases", len(got))
	}
	for range 2 { // it may be repeated
		s.want(s.run("", "env", "import"), "ada/engine in the environment review/x of the namespace "+s.cluster.Namespace+": 3 releases")
	}
	after := s.pages()
	for path, page := range before {
		if after[path] != page {
			t.Errorf("the page %s was\n%s\nand is now\n%s", path, page, after[path])
		}
	}
	if len(after) != len(before) {
		t.Errorf("there were %d pages, and are %d", len(before), len(after))
	}
	// What belongs to a repo that is not served is told.
	if err := s.server.DeleteRepo(t.Context(), "ada/engine"); err != nil {
		t.Fatal(err)
	}
	s.want(s.run(fault.NotFound, "env", "import"), `there is no repo "ada/engine"`, "add these by slipway repo add")
}

var moving = regexp.MustCompile(`(?s)data-(?:ago|now|since)="\d+"|title="[^"]*"|>(?:just now|[0-9]+ \w+ ago)<`)

// login returns the browser of somebody who is logged in.
func (s *traceSite) login() *http.Client {
	s.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	client := &http.Client{Jar: jar}
	form := url.Values{"token": {s.admin}, "next": {"/environments"}}
	request, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.http.URL+"/login", strings.NewReader(form.Encode()))
	if err != nil {
		s.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := client.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	response.Body.Close()
	return client
}

// pages returns the pages of what is deployed, by path, without what moves with the time.
func (s *traceSite) pages() map[string]string {
	s.t.Helper()
	paths := []string{"/environments", "/ada/engine/environments/" + s.cluster.Namespace + "/review/x"}
	releases, err := s.server.DB.ListReleases(s.t.Context(), store.ReleaseFilter{})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, r := range releases {
		paths = append(paths, fmt.Sprintf("/ada/engine/releases/%d", r.ID))
	}
	client := s.login()
	all := map[string]string{}
	for _, path := range paths {
		request, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, s.http.URL+path, nil)
		if err != nil {
			s.t.Fatal(err)
		}
		response, err := client.Do(request)
		if err != nil {
			s.t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil {
			s.t.Fatal(err)
		}
		response.Body.Close()
		if strings.Contains(string(body), "hunter2") {
			s.t.Errorf("the page %s shows the secret", path)
		}
		all[path] = moving.ReplaceAllString(string(body), "")
	}
	return all
}
