package rollout_test

import (
	"fmt"
	"strings"
	"testing"

	"slipway/internal/fault"
	"slipway/internal/rollout"
)

func TestForbidden(t *testing.T) {
	s := start(t)
	s.Kubectl("create", "serviceaccount", "weak")
	account := fmt.Sprintf("the account system:serviceaccount:%s:weak may not ", s.Namespace)
	weak := func(step *rollout.Step) { step.Kubeconfig = s.kubeconfig("weak") }
	s.fails(web(), fault.Forbidden, []string{account, " leases.coordination.k8s.io in the namespace " + s.Namespace}, weak)
	weak = func(step *rollout.Step) { step.Kubeconfig, step.Environment = s.kubeconfig("weak"), "" }
	s.fails(web(), fault.Forbidden, []string{account, " deployments.apps in the namespace " + s.Namespace}, weak)
	// With the right to apply but none to look at pods, the rollout is followed without causes.
	s.Kubectl("create", "role", "deployer", "--verb=get,patch,create", "--resource=deployments.apps")
	s.Kubectl("create", "rolebinding", "deployer", "--role=deployer", "--serviceaccount="+s.Namespace+":weak")
	_, out := s.must(web(), weak)
	if !strings.Contains(out, "causes may be missing: "+account+"list replicasets.apps in the namespace") {
		t.Errorf("output %q does not say what is missing", out)
	}
}

// TestWithoutWatches deploys by an account that may get and list, but not watch: it is told as much, a little later.
func TestWithoutWatches(t *testing.T) {
	s := start(t)
	s.Kubectl("create", "serviceaccount", "weak")
	s.Kubectl("create", "role", "deployer", "--verb=get,list,patch,create", "--resource=deployments.apps,replicasets.apps,pods,pods/log,events")
	s.Kubectl("create", "rolebinding", "deployer", "--role=deployer", "--serviceaccount="+s.Namespace+":weak")
	weak := func(step *rollout.Step) { step.Kubeconfig, step.Environment = s.kubeconfig("weak"), "" }
	_, out := s.must(web(), weak)
	wantOrder(t, out, "deployment/web: created", "deployment/web: rolled out, 2 of 2 ready")
	out = s.fails(web("v1}", "v2}", "serve}", "crash}"), fault.Failed, []string{"deployment/web: pod web-", "exits with code 3, 3 times so far"}, weak)
	if !strings.Contains(out, "  | cannot open the database: no such host\n") || strings.Contains(out, "causes may be missing") {
		t.Errorf("output %q", out)
	}
}

// kubeconfig returns one for a service account of the namespace.
func (s *site) kubeconfig(account string) []byte {
	token := strings.TrimSpace(s.Kubectl("create", "token", account))
	cluster := s.Kubectl("config", "view", "--raw", "--minify", "-o", "jsonpath={.clusters[0].cluster.server} {.clusters[0].cluster.certificate-authority-data}")
	server, authority, _ := strings.Cut(cluster, " ")
	return fmt.Appendf(nil, `
apiVersion: v1
kind: Config
current-context: a
contexts: [{name: a, context: {cluster: a, user: a}}]
clusters: [{name: a, cluster: {server: %q, certificate-authority-data: %q}}]
users: [{name: a, user: {token: %q}}]
`, server, authority, token)
}

func TestNamespaceMissing(t *testing.T) {
	s := start(t)
	s.fails(web(), fault.NotFound, []string{"app.yaml:2:1: deployment/web is for the namespace nowhere, which does not exist"},
		func(step *rollout.Step) { step.Namespace = "nowhere" })
}

func TestKindUnknown(t *testing.T) {
	s := start(t)
	s.fails(web("kind: Deployment", "kind: Deploymnet"), fault.Invalid, []string{"app.yaml:2:1: the cluster has no kind Deploymnet of apps/v1"})
	s.fails(web("apps/v1", "apps/v1beta1"), fault.Invalid, []string{"app.yaml:2:1: the cluster has no Deployment in version apps/v1beta1; it has apps/v1"})
}

func TestRefused(t *testing.T) {
	s := start(t)
	s.fails(web("app: web}}\n  template", "app: other}}\n  template"), fault.Invalid,
		[]string{"app.yaml:2:1: deployment/web is refused by the cluster", "selector"})
	s.fails(web("replicas: 2", "replicas: many"), fault.Invalid, []string{"deployment/web is refused by the cluster"})
}

func TestTokenRevoked(t *testing.T) {
	s := start(t)
	bad := strings.Replace(string(s.kubeconfig("default")), `token: "`, `token: "x`, 1)
	s.fails(web(), fault.Unauthorized, []string{"does not accept the credentials"}, func(step *rollout.Step) { step.Kubeconfig = []byte(bad) })
}

func TestAuthorityUnknown(t *testing.T) {
	s := start(t)
	other := strings.Replace(string(s.kubeconfig("default")), "certificate-authority-data: ", "x-unused: ", 1)
	s.fails(web(), fault.Unavailable, []string{"is not signed by the authority in the kubeconfig"}, func(step *rollout.Step) { step.Kubeconfig = []byte(other) })
}

// TestServerAway cuts the connection to the API server in the middle of a rollout, and gives it back.
func TestServerAway(t *testing.T) {
	s := start(t)
	proxy := newProxy(t, s.server())
	s.config = []byte(strings.Replace(string(s.admin()), s.server(), proxy.address(), 1))
	_, out := s.must(web(), s.onLine(func(line string) {
		switch {
		case strings.HasPrefix(line, "deployment/web: created"):
			proxy.cut()
		case strings.HasPrefix(line, "trying again"):
			proxy.restore()
		}
	}))
	for _, want := range []string{"cannot be reached: the connection broke", "trying again until the time is over\n", "the Kubernetes API answers again\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("output does not have %q", want)
		}
	}
	proxy.cut()
	s.fails(web(), fault.Unavailable, []string{"the Kubernetes API at " + proxy.address() + " cannot be reached", "is the cluster up"})
}

// server returns the address of the API server.
func (s *site) server() string {
	url := s.Kubectl("config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}")
	return strings.TrimPrefix(url, "https://")
}

// admin returns the administrator's kubeconfig, with all files in it.
func (s *site) admin() []byte { return []byte(s.Kubectl("config", "view", "--raw", "--flatten")) }
