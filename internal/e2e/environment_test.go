package e2e_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"slipway/internal/api"
	"slipway/internal/ci"
	"slipway/internal/client"
	"slipway/internal/cluster/clustertest"
)

// cli runs the command line as somebody, and returns what it prints.
func (s *instance) cli(token string, args ...string) (string, error) {
	cmd := exec.CommandContext(s.Context(), slipway, args...)
	cmd.Env = append(os.Environ(), "SLIPWAY_SERVER="+s.api.URL, "SLIPWAY_TOKEN="+token, "HOME="+s.dir)
	out, err := cmd.CombinedOutput()
	s.Logf("slipway %s: %v\n%s", strings.Join(args, " "), err, out)
	return string(out), err
}

func (s *instance) mustCLI(token string, args ...string) string {
	s.Helper()
	out, err := s.cli(token, args...)
	if err != nil {
		s.Fatalf("slipway %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// token makes a token of the repo that is called like somebody.
func (s *instance) token(name string) string {
	s.Helper()
	made, err := s.api.CreateToken(s.Context(), api.NewToken{Name: name, Scopes: []string{"repo:ada/engine"}})
	if err != nil {
		s.Fatal(err)
	}
	return made.Text
}

// TestEnvironments goes the way of a team: a deployment that somebody has to approve, while the server and the runner are killed; a
// review environment that comes, changes and goes with its branch; going back and promoting.
func TestEnvironments(t *testing.T) {
	c := clustertest.Start(t)
	s := start(t, "host")
	work := s.add("ada/engine")
	bob := s.token("bob")
	kubeconfig := filepath.Join(s.dir, "kubeconfig")
	if err := os.WriteFile(kubeconfig, []byte(c.Kubectl("config", "view", "--raw", "--flatten")), 0o600); err != nil {
		t.Fatal(err)
	}
	admin, own := s.api.Token, c.Namespace+"-{branch}"
	s.mustCLI(admin, "env", "create", "ada/engine", "production", "-n", c.Namespace, "--kubeconfig", kubeconfig, "--branch", "main", "--approvals", "1")
	s.mustCLI(admin, "env", "create", "ada/engine", "review/*", "-n", own, "--kubeconfig", kubeconfig, "--lifetime", "72h", "--url", "https://{branch}.example.com")
	if out, err := s.cli(bob, "env", "set", "ada/engine", "production", "--approvals", "0"); err == nil || !strings.Contains(out, "no admin's") {
		t.Errorf("who may push changes the rules: %v, %s", err, out)
	}
	value := func(namespace, name string) string {
		return c.Kubectl("get", "configmap", name, "-n", namespace, "--ignore-not-found", "-o", "jsonpath={.data.value}")
	}
	files := func(text string) map[string]string {
		return map[string]string{
			".drone.yml": `
kind: pipeline
type: docker
name: ship
steps:
- name: production
  image: slipway/deploy
  settings: {manifests: [app.yaml], environment: production, timeout: 120}
  when: {branch: [main], event: [push, promote]}
- name: review
  image: slipway/deploy
  settings: {manifests: [app.yaml], environment: "review/${DRONE_BRANCH}", timeout: 120}
  when: {branch: {exclude: [main]}, event: [push]}
`,
			"app.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: app}\ndata: {value: " + text + ", host: \"${SLIPWAY_HOST}\"}\n",
		}
	}
	waits := func(number int64) {
		t.Helper()
		s.await("the deployment waits", func() bool {
			gates, err := s.api.Gates(t.Context(), "ada/engine", number, true)
			if err != nil {
				t.Fatal(err)
			}
			return len(gates) == 1
		})
	}

	// Who pushed may not approve; everything dies meanwhile; somebody else approves.
	s.push(work, files("one"))
	waits(1)
	if out, err := s.cli(admin, "env", "approve", "ada/engine", "1"); err == nil || !strings.Contains(out, "admin caused run 1, so somebody else has to approve") {
		t.Errorf("approved by who pushed: %v, %s", err, out)
	}
	s.killRunner()
	s.kill(9)
	s.up()
	if out := s.mustCLI(bob, "env", "waiting", "ada/engine"); !strings.Contains(out, "waits for 1 of 1 approvals of production") {
		t.Errorf("what waits: %s", out)
	}
	if got := value(c.Namespace, "app"); got != "" {
		t.Errorf("deployed before it was approved: %q", got)
	}
	s.mustCLI(bob, "env", "approve", "ada/engine", "1", "--comment", "ship it")
	s.wantRun(s.done("ada/engine", 1), ci.Success, "")
	if got := value(c.Namespace, "app"); got != "one" {
		t.Errorf("in the cluster is %q", got)
	}
	s.push(work, files("two"))
	waits(2)
	s.mustCLI(bob, "env", "reject", "ada/engine", "2", "--comment", "not today")
	s.wantRun(s.done("ada/engine", 2), ci.Failure, "rejected by bob: not today")

	// A branch gets a review environment, and takes it along when it goes.
	review := c.Namespace + "-" + ci.BranchSlug("feature/x")
	s.git(work, "checkout", "-q", "-b", "feature/x")
	for i, text := range []string{"three", "four"} {
		s.commit(work, files(text))
		s.git(work, "push", "-q", "origin", "HEAD")
		s.wantRun(s.done("ada/engine", int64(3+i)), ci.Success, "")
		if got := value(review, "app"); got != text {
			t.Errorf("in the review environment is %q, want %q", got, text)
		}
		if got := c.Kubectl("get", "configmap", "app", "-n", review, "-o", "jsonpath={.data.host}"); got != ci.BranchSlug("feature/x")+".example.com" {
			t.Errorf("its host is %q", got)
		}
	}
	if out := s.mustCLI(bob, "env", "list", "ada/engine"); !strings.Contains(out, "review/feature/x") || !strings.Contains(out, review) || !strings.Contains(out, "https://feature-x-") {
		t.Errorf("the list: %s", out)
	}
	if out := s.git(work, "push", "origin", ":feature/x"); !strings.Contains(out, "run 5 tears down review/feature/x") {
		t.Errorf("the pusher sees %q", out)
	}
	s.wantRun(s.done("ada/engine", 5), ci.Success, "")
	if got := c.Kubectl("get", "namespace", review, "--ignore-not-found", "-o", "name"); got != "" {
		t.Errorf("there is still %s", got)
	}
	if out := s.mustCLI(bob, "env", "list", "ada/engine"); strings.Contains(out, "review/feature/x") {
		t.Errorf("the list still has it: %s", out)
	}

	// Nor does a run bring it back that was under way when the branch was deleted. A push to the branch that is there again does.
	tested := filepath.Join(s.dir, "tested")
	slow := files("six")
	slow[".drone.yml"] = strings.Replace(slow[".drone.yml"], "steps:\n", "steps:\n- name: test\n  image: host\n  commands: [\"until test -e "+tested+"; do sleep 0.1; done\"]\n", 1)
	s.commit(work, slow)
	s.git(work, "push", "-q", "origin", "HEAD")
	s.git(work, "push", "-q", "origin", ":feature/x")
	s.wantRun(s.done("ada/engine", 7), ci.Success, "")
	if err := os.WriteFile(tested, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.wantRun(s.done("ada/engine", 6), ci.Failure, "run 7, which is newer than this one, tears review/feature/x down, because the branch feature/x was deleted")
	if got := c.Kubectl("get", "namespace", review, "--ignore-not-found", "-o", "name"); got != "" {
		t.Errorf("there is %s again", got)
	}
	s.commit(work, files("seven"))
	s.git(work, "push", "-q", "origin", "HEAD")
	s.wantRun(s.done("ada/engine", 8), ci.Success, "")
	if got := value(review, "app"); got != "seven" {
		t.Errorf("in the review environment is %q", got)
	}
	s.mustCLI(bob, "env", "teardown", "ada/engine", "review/feature/x")
	s.wantRun(s.done("ada/engine", 9), ci.Success, "")

	// Promoting run 1 deploys it again, and needs the approval; going back does not.
	s.mustCLI(bob, "promote", "ada/engine", "1", "production")
	waits(10)
	ann := &client.Client{URL: s.api.URL, Token: s.token("ann")}
	if _, err := ann.Vote(t.Context(), "ada/engine", 10, api.Ballot{Choice: ci.Approve}); err != nil {
		t.Fatal(err)
	}
	s.wantRun(s.done("ada/engine", 10), ci.Success, "")
	s.git(work, "checkout", "-q", "main")
	s.push(work, files("five"))
	waits(11)
	s.mustCLI(bob, "env", "approve", "ada/engine", "11")
	s.wantRun(s.done("ada/engine", 11), ci.Success, "")
	s.mustCLI(bob, "env", "rollback", "ada/engine", "production")
	back := s.done("ada/engine", 12)
	s.wantRun(back, ci.Success, "")
	if got := value(c.Namespace, "app"); got != "one" {
		t.Errorf("after going back there is %q: %s", got, s.log(back, 1, 1))
	}
}
