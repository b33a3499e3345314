package e2e_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	sdk "code.gitea.io/sdk/gitea"

	"slipway/internal/api"
	"slipway/internal/ci"
	"slipway/internal/cluster/clustertest"
	"slipway/internal/forge/gitea/giteatest"
)

// A real Gitea: its webhook starts runs, and its commits show how they end. A fork's pull request gets no secret. The names
// have capitals, which those of the images that a run pushes do not have.
func TestGitea(t *testing.T) {
	for _, engine := range []string{"oci", "host"} {
		t.Run(engine, func(t *testing.T) { testGitea(t, engine) })
	}
}

func testGitea(t *testing.T, engine string) {
	s := start(t, engine)
	s.seed()
	forge := giteatest.New(t, giteatest.Options{})
	ada, eve := forge.NewUser(t, "Ada"), forge.NewUser(t, "eve")
	forge.NewRepo(t, ada, "Engine", false)
	if _, err := s.api.AddRepo(t.Context(), api.NewRepo{
		Name: "Ada/Engine", Forge: "gitea", ForgeURL: forge.URL, Token: ada.Token, Trusted: engine == "host",
	}); err != nil {
		t.Fatal(err)
	}
	if err := s.api.PutSecret(t.Context(), "Ada/Engine", "password", api.SecretValue{Value: "correct-horse", PullRequests: true}); err != nil {
		t.Fatal(err)
	}

	diff := ""
	if engine == "oci" { // whose machine has a cluster, too
		diff = s.diffStep(t) + imageStep
	}
	work := forge.Work(t, ada, "Ada/Engine")
	good := work.Commit("Use a secret", map[string]string{"k8s/app.yaml": "{apiVersion: v1, kind: ConfigMap, metadata: {name: cogs}}", "Dockerfile": "FROM scratch\nCOPY k8s /\n", ".drone.yml": `
kind: pipeline
type: docker
name: test
steps:
- name: uses
  image: busybox
  environment: {PASSWORD: {from_secret: password}}
  commands:
  - test -e .drone.yml
  - echo "the password has $${#PASSWORD} letters"
` + diff})
	work.Push("main")
	run := s.awaitRun("Ada/Engine", 1)
	s.wantRun(run, ci.Success, "")
	if log := s.log(run, 1, 2); !strings.Contains(log, "the password has 13 letters\n") {
		t.Errorf("the log is %q", log)
	}
	s.awaitStatus(forge, good, "slipway/push", sdk.StatusSuccess, "run 1 succeeded")
	if engine == "oci" {
		if len(run.Images) != 1 || run.Images[0].Ref != s.host+"/ada/engine:latest" {
			t.Errorf("the run's images are %+v", run.Images)
		}
		tags, err := s.api.ImageTags(t.Context(), "Ada/Engine")
		if err != nil || len(tags) != 1 || tags[0].By != "Ada/Engine run 1" {
			t.Errorf("the tags are %+v, %v", tags, err)
		}
		if err := s.api.PutImageQuota(t.Context(), "Ada/Engine", 1<<30); err != nil {
			t.Error(err)
		}
		if quotas, err := s.api.ImageQuotas(t.Context(), "ada/engine"); err != nil || len(quotas) != 1 || quotas[0].Used == 0 {
			t.Errorf("the quotas are %+v, %v", quotas, err)
		}
	}

	// The same people's pull request gets the secret, a stranger's fork does not.
	work.Git("checkout", "-q", "-b", "topic")
	work.Commit("Grind", map[string]string{"cog": "round"})
	work.Push("topic")
	s.wantRun(s.awaitRun("Ada/Engine", 2), ci.Success, "")
	openPull(t, forge, ada, "topic")
	run = s.awaitRun("Ada/Engine", 3)
	s.wantRun(run, ci.Success, "")
	if log := s.log(run, 1, 2); run.Event.Kind != ci.PullRequest || !strings.Contains(log, "the password has 13 letters\n") {
		t.Errorf("the run of %s logs %q", run.Event.Kind, log)
	}
	if diff != "" {
		s.awaitComment(forge, ada, 1, "`production` in `", "+ configmap/cogs: create", "[run 3](")
	}

	if engine == "oci" { // a fork is never trusted, and the engine host runs nothing else
		if _, _, err := forge.Client(t, eve).CreateFork("Ada", "Engine", sdk.CreateForkOption{}); err != nil {
			t.Fatal(err)
		}
		theirs := forge.Work(t, eve, "eve/Engine")
		theirs.Git("checkout", "-q", "-b", "greedy")
		greedy := theirs.Commit("Want more", map[string]string{"cog": "square"})
		theirs.Push("greedy")
		openPull(t, forge, eve, "eve:greedy")
		run = s.awaitRun("Ada/Engine", 4)
		s.wantRun(run, ci.Success, "")
		if log := s.log(run, 1, 2); !run.Event.FromFork() || !strings.Contains(log, "the password has 0 letters\n") ||
			!strings.Contains(log, `slipway: secret "password" is not given to pull requests; PASSWORD is not set`) {
			t.Errorf("the fork's run (%t) logs %q", run.Event.FromFork(), log)
		}
		s.awaitStatus(forge, greedy, "slipway/pull_request", sdk.StatusSuccess, "succeeded")
		s.awaitComment(forge, ada, 2, "is not shown for a pull request of a fork")
	}

	work.Git("checkout", "-q", "main")
	bad := work.Commit("Break", map[string]string{".drone.yml": `
kind: pipeline
type: docker
name: test
steps:
- name: breaks
  image: busybox
  commands: [echo the reason, exit 7]
`})
	work.Push("main")
	number := map[string]int64{"oci": 5, "host": 4}[engine]
	run = s.awaitRun("Ada/Engine", number)
	s.wantRun(run, ci.Failure, `step "breaks" ended with exit code 7`)
	if log := s.log(run, 1, 2); !strings.Contains(log, "the reason\n") {
		t.Errorf("the log is %q", log)
	}
	s.awaitStatus(forge, bad, "slipway/push", sdk.StatusFailure, `step "breaks" ended with exit code 7`)
}

// imageStep pushes an image under the name that it has if nobody says another.
const imageStep = `- name: image
  image: slipway/image
  when: {event: push}
`

// diffStep returns a step of Ada/Engine that says what a pull request would change in a real cluster.
func (s *instance) diffStep(t *testing.T) string {
	c := clustertest.Start(t)
	kubeconfig := c.Kubectl("config", "view", "--raw", "--flatten")
	if err := s.api.PutSecret(t.Context(), "Ada/Engine", "kubeconfig", api.SecretValue{Value: kubeconfig, PullRequests: true}); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`- name: diff
  image: slipway/diff
  when: {event: pull_request}
  settings: {manifests: [k8s], namespace: %s, kubeconfig: {from_secret: kubeconfig}}
`, c.Namespace)
}

// awaitComment waits until Slipway's only comment on a pull request of Ada/Engine has all parts.
func (s *instance) awaitComment(forge *giteatest.Server, by giteatest.User, pull int64, parts ...string) {
	s.Helper()
	s.await("a comment on the pull request", func() bool {
		comments, _, err := forge.Client(s.T, by).ListIssueComments("Ada", "Engine", pull, sdk.ListIssueCommentOptions{})
		if err != nil {
			s.Fatal(err)
		}
		if len(comments) > 1 {
			s.Fatalf("there are %d comments", len(comments))
		}
		return len(comments) == 1 && !slices.ContainsFunc(parts, func(part string) bool { return !strings.Contains(comments[0].Body, part) })
	})
}

func openPull(t *testing.T, forge *giteatest.Server, by giteatest.User, head string) {
	t.Helper()
	if _, _, err := forge.Client(t, by).CreatePullRequest("Ada", "Engine", sdk.CreatePullRequestOption{
		Head: head, Base: "main", Title: "Grind more cogs",
	}); err != nil {
		t.Fatal(err)
	}
}

// awaitRun waits until there is a run of that number, and for its end.
func (s *instance) awaitRun(repo string, number int64) ci.Run {
	s.Helper()
	s.await("a webhook starts a run", func() bool {
		runs, err := s.api.Runs(s.Context(), repo, 0, 1)
		if err != nil {
			s.Fatal(err)
		}
		return len(runs) > 0 && runs[0].Number >= number
	})
	return s.done(repo, number)
}

// awaitStatus waits until the newest status of a commit is as wanted.
func (s *instance) awaitStatus(forge *giteatest.Server, commit, context string, state sdk.StatusState, description string) {
	s.Helper()
	s.await("commit status "+string(state), func() bool {
		for _, status := range forge.Statuses(s, "Ada/Engine", commit) {
			if status.Context == context && status.State == state {
				if !strings.Contains(status.Description, description) {
					s.Errorf("the status says %q, want %q", status.Description, description)
				}
				return true
			}
		}
		return false
	})
}
