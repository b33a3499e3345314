package e2e_test

import (
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/tools/clientcmd"

	"slipway/internal/ci"
	"slipway/internal/cluster/clustertest"
)

// A run deploys, somebody changes in the cluster what it deployed, and the server sees that and puts it back by a run.
func TestDrift(t *testing.T) {
	c := clustertest.Start(t)
	config, err := clientcmd.LoadFromFile(c.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	// An account of the test's namespace, because the server watches all that it may see.
	c.Kubectl("create", "serviceaccount", "deployer")
	c.Apply(`{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: deployer}, rules: [{apiGroups: ["*"], resources: ["*"], verbs: ["*"]}]}`)
	c.Kubectl("create", "rolebinding", "deployer", "--role=deployer", "--serviceaccount="+c.Namespace+":deployer")
	for _, user := range config.AuthInfos {
		user.ClientCertificateData, user.ClientKeyData = nil, nil
		user.Token = strings.TrimSpace(c.Kubectl("create", "token", "deployer"))
	}
	for _, context := range config.Contexts {
		context.Namespace = c.Namespace
	}
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, kubeconfig); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBECONFIG", kubeconfig)

	s := start(t, "host")
	dir := s.add("ada/engine")
	s.push(dir, map[string]string{
		".drone.yml": `
kind: pipeline
name: test
steps:
- name: deploy
  image: slipway/deploy
  settings: {manifests: app.yaml, heal: true}
`,
		"app.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {level: info}\n",
	})
	s.wantRun(s.done("ada/engine", 1), ci.Success, "")
	known := func(what string, wanted func(ci.Drift) bool) {
		t.Helper()
		s.await(what, func() bool {
			all, err := s.api.Drifts(t.Context(), "ada/engine")
			if err != nil {
				t.Fatal(err)
			}
			return len(all) == 1 && wanted(all[0])
		})
	}
	known("the environment is found", func(d ci.Drift) bool { return d.Release == 1 && !d.Drifted() && d.Heal })
	c.Kubectl("patch", "configmap", "settings", "--patch", `{"data": {"level": "debug"}}`, "--field-manager=mallory")
	known("it is healed", func(d ci.Drift) bool { return d.Release == 2 && !d.Drifted() && len(d.Healed) == 1 })
	run := s.done("ada/engine", 2)
	s.wantRun(run, ci.Success, "")
	if run.Event.By != "slipway" || !strings.Contains(s.log(run, 1, 1), "data.level: debug -> info") {
		t.Errorf("the run is by %q, and logs %q", run.Event.By, s.log(run, 1, 1))
	}
	if got := c.Kubectl("get", "configmap", "settings", "-o", "jsonpath={.data.level}"); got != "info" {
		t.Errorf("the value is %q", got)
	}
}
