package rollout_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slipway/internal/cluster/clustertest"
	"slipway/internal/fault"
	"slipway/internal/kube"
	"slipway/internal/manifest"
	"slipway/internal/rollout"
)

// preview returns what `slipway diff` prints for a manifest.
func (s *site) preview(yaml string, set ...func(*rollout.Step)) (rollout.Differences, string) {
	s.t.Helper()
	step := s.step(yaml, set...)
	defer step.Workspace.Close()
	var out strings.Builder
	d, err := rollout.Preview(s.t.Context(), step, &out)
	if err != nil {
		s.t.Fatal(err)
	}
	d.Write(&out)
	s.t.Log(out.String())
	return d, out.String()
}

func wantLines(t *testing.T, out string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains(out, line+"\n") {
			t.Errorf("the output does not have the line %q", line)
		}
	}
}

const settings = `
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data:
  level: info
  app.conf: |
    a = 1
    b = 2
---
apiVersion: v1
kind: Secret
metadata: {name: password}
stringData: {word: hunter2}
`

func TestDiff(t *testing.T) {
	s := start(t)
	_, out := s.preview(web() + settings)
	wantLines(t, out, "differences: 3 to create", "+ deployment/web: create", "+ configmap/settings: create", "+ secret/password: create")
	if got := s.Kubectl("get", "deployments,configmaps,secrets", "-o", "name"); strings.Contains(got, "web") || strings.Contains(got, "settings") {
		t.Errorf("the diff changed the cluster: %s", got)
	}
	s.must(web() + settings)
	d, out := s.preview(web() + settings)
	wantLines(t, out, "differences: 3 to leave")
	if !d.Empty() {
		t.Errorf("differences after deploying: %+v", d)
	}
	_, out = s.preview(web("v1}", "v2}", "replicas: 2", "replicas: 3") +
		strings.NewReplacer("info", "debug", "b = 2", "b = 3", "hunter2", "hunter3").Replace(settings))
	wantLines(t, out,
		"differences: 3 to change",
		"~ deployment/web: change",
		"    spec.replicas: 2 -> 3",
		"    spec.template.spec.containers[web].env[VERSION].value: v1 -> v2",
		"    data.level: info -> debug",
		"    data[app.conf]:",
		"      - b = 2",
		"      + b = 3",
		"    data.word: (secret) -> another (secret)",
	)
	if strings.Contains(out, "hunter") || strings.Contains(out, "aHVudGVy") {
		t.Error("the diff shows a secret")
	}
	s.wantServing("v1", "v1")
}

// TestDiffRefused looks at a change that cannot be made: it is part of the answer, and nothing is applied.
func TestDiffRefused(t *testing.T) {
	s := start(t)
	s.must(web() + settings)
	other := web("app: web}", "app: other}") + strings.Replace(settings, "info", "debug", 1)
	d, out := s.preview(other)
	wantError(t, d.Err(), fault.Conflict, "app.yaml:2:1: deployment/web is refused", "spec.selector: ", "field is immutable")
	wantLines(t, out, "differences: 1 to change, 1 to refuse, 1 to leave", "x deployment/web: refuse")
	s.fails(other, fault.Conflict, []string{"deployment/web", "immutable", "delete the object first or give the new one another name"})
	if got := s.Kubectl("get", "configmap", "settings", "-o", "jsonpath={.data.level}"); got != "info" {
		t.Errorf("the ConfigMap was changed to %q although the Deployment is refused", got)
	}
	// The annotation allows it.
	uid := s.Kubectl("get", "deployment", "web", "-o", "jsonpath={.metadata.uid}")
	_, out = s.must(strings.Replace(other, "{name: web}", `{name: web, annotations: {slipway/replace: "true"}}`, 1))
	wantLines(t, out, "! deployment/web: replace",
		"    note: cannot change in place (spec.selector is immutable), so it is deleted and created again", "deployment/web: replaced")
	if now := s.Kubectl("get", "deployment", "web", "-o", "jsonpath={.metadata.uid}"); now == uid {
		t.Error("the Deployment is still the old one")
	}
}

// TestTakenOver deploys over what somebody changed by hand.
func TestTakenOver(t *testing.T) {
	s := start(t)
	s.must(web())
	s.Kubectl("set", "env", "deployment/web", "VERSION=byhand")
	_, out := s.must(web())
	wantLines(t, out, "    spec.template.spec.containers[web].env[VERSION].value: byhand -> v1")
	if !strings.Contains(out, "was set by kubectl-set and becomes Slipway's") {
		t.Error("the output does not say who set the field")
	}
	s.wantServing("v1", "v1")
}

// TestAutoscaled deploys what a HorizontalPodAutoscaler scales: with replicas in the manifest, and without.
func TestAutoscaled(t *testing.T) {
	s := start(t)
	scaler := `
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec: {minReplicas: 1, maxReplicas: 5, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}}
`
	s.must(web() + scaler)
	s.Kubectl("scale", "deployment/web", "--replicas=3")
	_, out := s.must(web("v1}", "v2}") + scaler)
	wantLines(t, out, "    note: spec.replicas stays 3, because horizontalpodautoscaler/web scales it")
	s.wantServing("v2", "v2", "v2")
	s.must(web("replicas: 2", "", "v1}", "v3}") + scaler)
	s.wantServing("v3", "v3", "v3")
}

// BenchmarkDiff compares 500 ConfigMaps, of which each tenth differs.
func BenchmarkDiff(b *testing.B) {
	c := clustertest.Start(b)
	objects := func(edit string) []byte {
		var all strings.Builder
		for i := range 500 {
			text := "same"
			if i%10 == 0 {
				text = edit
			}
			fmt.Fprintf(&all, "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c%d}\ndata: {a: %q, b: %q}\n", i, text, strings.Repeat("x", 500))
		}
		return []byte(all.String())
	}
	dir := b.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer root.Close()
	client, err := kube.FromFile(c.Kubeconfig, "")
	if err != nil {
		b.Fatal(err)
	}
	request := func(edit string) rollout.Request {
		if err := os.WriteFile(filepath.Join(dir, "a.yaml"), objects(edit), 0o600); err != nil {
			b.Fatal(err)
		}
		rendered, err := manifest.Render(b.Context(), manifest.Source{Root: root, Paths: []string{"a.yaml"}})
		if err != nil {
			b.Fatal(err)
		}
		return rollout.Request{Client: client, Objects: rendered.Objects, Namespace: c.Namespace}
	}
	if _, err := rollout.Deploy(b.Context(), request("old"), io.Discard); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		d, err := rollout.Diff(b.Context(), request("new"))
		if err != nil {
			b.Fatal(err)
		}
		var out strings.Builder
		d.Write(&out)
		if !strings.HasPrefix(out.String(), "differences: 50 to change, 450 to leave\n") {
			b.Fatal(out.String()[:200])
		}
	}
}
