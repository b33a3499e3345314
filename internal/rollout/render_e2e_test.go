package rollout_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"slipway/internal/manifest"
	"slipway/internal/rollout"
)

// unpack writes the files of an archive in testdata into the workspace.
func (s *site) unpack(name string) {
	s.t.Helper()
	archive, err := txtar.ParseFile(filepath.Join("testdata", "render", name))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, f := range archive.Files {
		path := filepath.Join(s.dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			s.t.Fatal(err)
		}
		if err := os.WriteFile(path, f.Data, 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
}

// TestChart deploys a Helm chart twice: what it knows of the cluster, its hooks, and that the second time is an upgrade.
func TestChart(t *testing.T) {
	s := start(t)
	s.unpack("chart.txtar")
	const password = "correct-horse-battery"
	var asked manifest.Charts
	chart := func(version string) func(*rollout.Step) {
		return func(step *rollout.Step) {
			step.Manifests = []string{"chart"}
			step.Charts = manifest.Charts{Values: []string{"values.yaml"}, SetText: map[string]string{"version": version, "password": password}}
			step.Variables = map[string]string{"REPLICAS": "1"}
			step.Confidential = []string{password}
			step.Renderer = func(ctx context.Context, source manifest.Source) (manifest.Rendered, error) {
				asked = source.Charts
				return manifest.Render(ctx, source)
			}
		}
	}
	result, out, err := s.deploy(t.Context(), "", chart("v1"))
	if err != nil {
		t.Fatal(err)
	}
	if asked.Upgrade || !strings.HasPrefix(asked.KubeVersion, "v1.") || !slices.Contains(asked.APIVersions, "apps/v1/Deployment") {
		t.Errorf("the chart was told %+v of the cluster", asked)
	}
	if result.Release == nil || result.Release.Number != 1 {
		t.Errorf("release %+v, want the first", result.Release)
	}
	s.wantServing("v1")
	if strings.Contains(out, password) {
		t.Errorf("the output shows a secret:\n%s", out)
	}
	if got := s.Kubectl("get", "configmap", "cluster", "-o", "jsonpath={.data.upgrade} {.data.policy} {.data.namespace}"); got != "false true "+s.Namespace {
		t.Errorf("the chart was rendered with %q", got)
	}
	if got := s.Kubectl("get", "secret", "web", "-o", "jsonpath={.data.password}"); got != "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5" {
		t.Errorf("the secret is %q", got)
	}
	if got := s.Kubectl("get", "job", "migrate", "-o", `jsonpath={.metadata.annotations.slipway/hook} {.status.succeeded}`); got != "before 1" {
		t.Errorf("the hook is %q, want that it ran before", got)
	}
	if _, _, err = s.deploy(t.Context(), "", chart("v2")); err != nil {
		t.Fatal(err)
	}
	s.wantServing("v2")
	if got := s.Kubectl("get", "configmap", "cluster", "-o", "jsonpath={.data.upgrade}"); got != "true" || !asked.Upgrade {
		t.Errorf("the second time, the chart was told that this is an upgrade: %q", got)
	}
}

// TestJsonnet deploys a Jsonnet file with variables.
func TestJsonnet(t *testing.T) {
	s := start(t)
	s.unpack("jsonnet.txtar")
	_, _, err := s.deploy(t.Context(), "", func(step *rollout.Step) {
		step.Manifests = []string{"app/main.jsonnet"}
		step.Variables = map[string]string{"version": "v7"}
	})
	if err != nil {
		t.Fatal(err)
	}
	s.wantServing("v7")
}
