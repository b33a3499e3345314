package runner_test

import (
	"fmt"
	"strings"
	"testing"

	"slipway/internal/ci"
	"slipway/internal/cluster/clustertest"
	"slipway/internal/store"
)

const deployImage = "slipway.test/runner:1"

// deployProgram serves, unless it is told to fail.
const deployProgram = `package main

import (
	"net/http"
	"os"
)

func main() {
	if os.Getenv("VERSION") == "broken" {
		os.Exit(3)
	}
	panic(http.ListenAndServe(":8080", nil))
}
`

// deployPipeline writes a manifest and deploys it.
func deployPipeline(namespace, version string) string {
	manifest := `apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: web
        image: ` + deployImage + `
        imagePullPolicy: IfNotPresent
        env: [{name: VERSION, value: ` + version + `}]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
`
	return rendering(manifest) + fmt.Sprintf(`- name: deploy
  image: slipway/deploy
  settings: {manifests: [app.yaml], namespace: %s, kubeconfig: {from_secret: kubeconfig}, timeout: 120}
`, namespace)
}

// rendering is the beginning of a pipeline, whose first step writes manifests to app.yaml.
func rendering(manifests string) string {
	return fmt.Sprintf(`kind: pipeline
type: docker
name: test
clone: {disable: true}
steps:
- name: render
  image: busybox
  commands:
  - |
    cat > app.yaml <<EOF
%s    EOF
`, indent(manifests))
}

func indent(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString("    " + line)
	}
	return b.String()
}

// A runner that is ended in the middle of a rollout leaves it to its successor, which brings it to its end: to the new
// release if that works, and else back to the last good one. The server has a row of each release.
func TestResumeMidRollout(t *testing.T) {
	c := clustertest.Start(t)
	c.Import(deployImage, clustertest.Program(t, deployProgram))
	b := newBench(t)
	kubeconfig := c.Kubectl("config", "view", "--raw", "--flatten")
	if err := b.PutSecret(t.Context(), "ada/engine", "kubeconfig", kubeconfig, false); err != nil {
		t.Fatal(err)
	}
	version := func() string {
		return c.Kubectl("get", "deployment", "web", "--ignore-not-found", "-o", "jsonpath={.spec.template.spec.containers[0].env[0].value} {.status.updatedReplicas} {.status.readyReplicas}")
	}
	interrupted := func(v string) ci.Run {
		t.Helper()
		stop := b.start()
		run := b.Push(deployPipeline(c.Namespace, v))
		b.until("the rollout of "+v+" is under way", func() bool {
			if run := b.Server.Run(run.Number); run.Status.Done() {
				t.Fatalf("the run is over: %+v", run)
			}
			return strings.HasPrefix(version(), v+" ")
		})
		stop()
		if run := b.Server.Run(run.Number); run.Status != ci.Running {
			t.Fatalf("the run is %s", run.Status)
		}
		stop = b.start()
		defer stop()
		return b.Await(run.Number, finished)
	}
	run := interrupted("v1")
	b.wantRun(run, ci.Success, "")
	if got := version(); got != "v1 2 2" {
		t.Errorf("in the cluster is %q", got)
	}
	if log := b.Log(run, 1, 2); !strings.Contains(log, "going on with release 1, which was not finished") {
		t.Errorf("the log is %q", log)
	}
	run = interrupted("broken")
	if run.Status != ci.Failure || !strings.Contains(run.Message, "exits with code 3") || !strings.Contains(run.Message, "ROLLED BACK: release 1 serves again") {
		t.Errorf("the run is %s: %s", run.Status, run.Message)
	}
	b.until("the old version serves", func() bool { return version() == "v1 2 2" })
	releases, err := b.DB.ListReleases(t.Context(), store.ReleaseFilter{Repo: "ada/engine", Environment: "production"})
	if err != nil || len(releases) != 2 {
		t.Fatalf("the releases are %+v, %v", releases, err)
	}
	if bad, good := releases[0], releases[1]; bad.Number != 2 || bad.Status != ci.Failure || bad.Restored != 1 || bad.Run != run.Number ||
		good.Number != 1 || good.Status != ci.Success || good.Step != "deploy" || len(good.Images) != 1 || good.Namespace != c.Namespace {
		t.Errorf("the releases are %+v", releases)
	}
}
