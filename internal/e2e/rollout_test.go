package e2e_test

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"

	"slipway/internal/api"
	"slipway/internal/ci"
	"slipway/internal/cluster/clustertest"
)

const rolloutImage = "slipway.test/e2e:1"

// rolloutProgram migrates, which takes a while, or serves.
const rolloutProgram = `package main

import (
	"fmt"
	"net/http"
	"os"
	"time"
)

func main() {
	if os.Getenv("MODE") == "migrate" {
		fmt.Println("migrating to", os.Getenv("VERSION"))
		time.Sleep(5 * time.Second)
		fmt.Println("migrated")
		return
	}
	panic(http.ListenAndServe(":8080", nil))
}
`

// rolloutManifests are a server and the migration that runs before it.
func rolloutManifests(version string) string {
	return strings.ReplaceAll(`apiVersion: batch/v1
kind: Job
metadata: {name: migrate, annotations: {slipway/hook: before}}
spec:
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: migrate
        image: `+rolloutImage+`
        imagePullPolicy: IfNotPresent
        env: [{name: VERSION, value: V}, {name: MODE, value: migrate}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  minReadySeconds: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: web
        image: `+rolloutImage+`
        imagePullPolicy: IfNotPresent
        env: [{name: VERSION, value: V}]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
`, "value: V}", "value: "+version+"}")
}

// The server and its runner are killed while a hook runs, and again in the middle of the rollout. Their successors bring
// it to its end: the hook has run once, there is one release, and its record is true.
func TestKillRollout(t *testing.T) {
	c := clustertest.Start(t)
	c.Import(rolloutImage, clustertest.Program(t, rolloutProgram))
	s := start(t, "host")
	dir := s.add("ada/engine")
	kubeconfig := c.Kubectl("config", "view", "--raw", "--flatten")
	if err := s.api.PutSecret(t.Context(), "ada/engine", "kubeconfig", api.SecretValue{Value: kubeconfig}); err != nil {
		t.Fatal(err)
	}
	s.push(dir, map[string]string{"k8s/app.yaml": rolloutManifests("v1"), ".drone.yml": `
kind: pipeline
type: docker
name: ship
steps:
- name: deploy
  image: slipway/deploy
  settings: {manifests: [k8s], namespace: ` + c.Namespace + `, kubeconfig: {from_secret: kubeconfig}, timeout: 150}
`})
	s.wantRun(s.done("ada/engine", 1), ci.Success, "")

	s.push(dir, map[string]string{"k8s/app.yaml": rolloutManifests("v2")})
	run := func() ci.Run {
		t.Helper()
		run, err := s.api.Run(t.Context(), "ada/engine", 2)
		if err != nil {
			t.Fatal(err)
		}
		return run
	}
	killAt := func(line string) {
		t.Helper()
		s.await("the log says "+line, func() bool {
			run := run()
			if run.Status.Done() {
				s.wantRun(run, ci.Running, "")
			}
			return len(run.Jobs) > 0 && strings.Contains(s.log(run, 1, 2), line)
		})
		s.kill(syscall.SIGKILL)
		s.killRunner()
		s.up()
	}
	killAt("migrate | migrating to v2\n")
	killAt("deployment/web: configured\n")
	last := s.done("ada/engine", 2)
	s.wantRun(last, ci.Success, "")

	log := s.log(last, 1, 2)
	for _, want := range []string{
		"slipway: the runner was restarted; this step begins again\n", "going on with release 2, which was not finished\n",
		"job/migrate: was begun by this deployment already, and is not run again\n", "deployment/web: rolled out, 2 of 2 ready\n",
	} {
		if !strings.Contains(log, want) {
			t.Errorf("the log does not have %q:\n%s", want, log)
		}
	}
	if got := strings.Fields(c.Kubectl("get", "pods", "-l", "job-name=migrate", "-o", "name")); len(got) != 1 {
		t.Errorf("the migration ran in %v", got)
	}
	if got := c.Kubectl("get", "deployment", "web", "-o", "jsonpath={.spec.template.spec.containers[0].env[0].value} {.status.updatedReplicas} {.status.readyReplicas} {.metadata.generation}"); got != "v2 2 2 2" {
		t.Errorf("in the cluster is %q", got)
	}
	var releases []ci.Release
	for _, head := range strings.Split(strings.TrimSpace(c.Kubectl("get", "secrets", "-l", "slipway/record=release", "--sort-by=.metadata.name",
		"-o", `jsonpath={range .items[*]}{.metadata.annotations.slipway/release}{"\n"}{end}`)), "\n") {
		var r ci.Release
		if err := json.Unmarshal([]byte(head), &r); err != nil {
			t.Fatal(err)
		}
		releases = append(releases, r)
	}
	if len(releases) != 2 {
		t.Fatalf("the releases are %+v", releases)
	}
	if r := releases[1]; r.Number != 2 || r.Run != 2 || r.Status != ci.Success || r.Restored != 0 || r.Commit != last.Event.After || r.Started.After(last.Jobs[0].Finished) {
		t.Errorf("the release is %+v", r)
	}
	rollouts, err := s.api.Rollouts(t.Context(), "ada/engine", 2)
	if err != nil || len(rollouts) != 1 || len(rollouts[0].Workloads) != 2 || rollouts[0].StepNumber != 2 {
		t.Fatalf("the pictures are %+v, %v", rollouts, err)
	}
	for _, w := range rollouts[0].Workloads {
		if w.State != ci.WorkloadDone {
			t.Errorf("%s %s is shown as %s", w.Kind, w.Name, w.State)
		}
	}
}
