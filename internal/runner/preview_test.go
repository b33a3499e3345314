package runner_test

import (
	"fmt"
	"strings"
	"testing"

	"slipway/internal/ci"
	"slipway/internal/cluster/clustertest"
	"slipway/internal/flow/flowtest"
)

// diffPipeline writes manifests and says what deploying them would change; in a push it deploys them.
func diffPipeline(namespace, manifests string) string {
	return rendering(manifests) + fmt.Sprintf(`- name: diff
  image: slipway/diff
  settings: {manifests: [app.yaml], namespace: %s, kubeconfig: {from_secret: kubeconfig}}
- name: deploy
  image: slipway/deploy
  when: {event: push}
  settings: {manifests: [app.yaml], namespace: %[1]s, kubeconfig: {from_secret: kubeconfig}}
`, namespace)
}

// A step of a pull request finds out what it would change, masks what is secret, and says so there; it changes nothing.
func TestPreview(t *testing.T) {
	c := clustertest.Start(t)
	b := newBench(t)
	kubeconfig := c.Kubectl("config", "view", "--raw", "--flatten")
	set := func(pullRequests bool) {
		t.Helper()
		if err := b.PutSecret(t.Context(), flowtest.Repo, "kubeconfig", kubeconfig, pullRequests); err != nil {
			t.Fatal(err)
		}
	}
	set(false)
	const before = `apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {mode: slow}
---
apiVersion: v1
kind: Secret
metadata: {name: database}
stringData: {password: hunter2}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 0
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec: {containers: [{name: db, image: "slipway.test/none:1"}]}
`
	const after = `apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {mode: fast}
---
apiVersion: v1
kind: Secret
metadata: {name: database}
stringData: {password: hunter3}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: more}
`
	stop := b.start()
	defer stop()
	run := b.Await(b.Push(diffPipeline(c.Namespace, before)).Number, finished)
	b.wantRun(run, ci.Success, "")
	pull := func() ci.Run {
		t.Helper()
		run, _, err := b.Accept(t.Context(), flowtest.Repo, b.PullRequest(diffPipeline(c.Namespace, after), false))
		if err != nil {
			t.Fatal(err)
		}
		return b.Await(run.Number, finished)
	}
	previewOf := func(run ci.Run) ci.Preview {
		t.Helper()
		previews, err := b.DB.ListPreviews(t.Context(), flowtest.Repo, run.Number)
		if err != nil || len(previews) != 1 {
			t.Fatalf("the previews are %+v, %v", previews, err)
		}
		return previews[0]
	}

	run = pull()
	b.wantRun(run, ci.Failure, `step "diff": the secret kubeconfig of the setting kubeconfig is not given to pull requests; allow it by: slipway secret set ada/engine kubeconfig --pull-requests`)
	if p := previewOf(run); !strings.Contains(p.Message, "is not given to pull requests") {
		t.Errorf("the preview is %+v", p)
	}
	set(true)
	run = pull()
	b.wantRun(run, ci.Success, "")
	p := previewOf(run)
	got := map[string]ci.Difference{}
	for _, d := range p.Differences {
		got[d.Object] = d
	}
	if p.Namespace != c.Namespace || p.Environment != "production" || p.Summary() != "1 to create, 2 to change, 1 to delete" {
		t.Errorf("the preview is %+v: %s", p, p.Summary())
	}
	if d := got["configmap/settings"]; d.Action != "change" || len(d.Fields) != 1 || d.Fields[0].Old != "slow" || d.Fields[0].New != "fast" {
		t.Errorf("the ConfigMap differs by %+v", d)
	}
	if d := got["statefulset/db"]; d.Action != "delete" || !strings.Contains(d.Caution, "It has state") {
		t.Errorf("the StatefulSet differs by %+v", d)
	}
	comment := b.Forge.AwaitComment(t, 1, "`production` in `"+c.Namespace+"`: 1 to create, 2 to change, 1 to delete", "⚠️ **`statefulset/db`**", "data.password: another value")
	if strings.Contains(comment.Body, "hunter") {
		t.Errorf("the comment has a secret:\n%s", comment.Body)
	}
	if names := c.Kubectl("get", "configmaps,statefulsets", "-o", "name"); strings.Contains(names, "configmap/more") || !strings.Contains(names, "statefulset.apps/db") {
		t.Errorf("in the cluster are %s", names)
	}
}
