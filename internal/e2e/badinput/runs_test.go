package badinput_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"slipway/internal/buildkit/buildkittest"
	"slipway/internal/e2e/program"
	"slipway/internal/testneeds"
)

// TestRuns pushes what cannot work, and reads what the pusher's terminal, the run and its log say.
func TestRuns(t *testing.T) {
	testneeds.Root(t)
	s := start(t, "--runc", testneeds.Tool(t, "runc"), "--capacity", "4", "--name", "anvil", "--kubeconfig", "/nonexistent")
	otherArch := "arm64"
	if runtime.GOARCH == otherArch {
		otherArch = "amd64"
	}
	s.seed("busybox", buildkittest.Busybox(t))
	s.seed("other", buildkittest.Platform(t, buildkittest.Busybox(t), otherArch))
	s.seed("noshell", buildkittest.Image(t, buildkittest.Layer(t, map[string]string{"hello": "x"})))
	refuses := status(t, http.StatusUnauthorized)
	broken := status(t, http.StatusInternalServerError)
	nobody := closedPort(t)

	// one makes a pipeline of one step.
	one := func(step string) string { return "kind: pipeline\nname: a\nsteps:\n- {name: s, " + step + "}\n" }
	build := func(settings string) string {
		return one("image: plugins/docker, settings: {registry: '" + s.host + "', " + settings + "}")
	}
	for _, test := range []struct {
		name     string
		pipeline string
		files    string // "name content" lines
		// The run's end, and what run log -f says last on the error output.
		status, says string
		// inLog is in the log; notInLog must not be.
		inLog, notInLog string
	}{
		// Pipeline files. What is wrong with them is in the pusher's terminal already.
		{name: "yaml", pipeline: "kind: pipeline\nsteps: [{\n", status: "error", says: ".drone.yml:"},
		{name: "tab", pipeline: "kind: pipeline\nsteps:\n\t- name: x\n", status: "error", says: ".drone.yml:3:1: a tab cannot indent; use spaces"},
		{name: "empty", pipeline: "", status: "error", says: ".drone.yml:1:1: the file has no pipeline"},
		{name: "none", files: "README x", status: "error", says: "has no pipeline file; looked for .drone.yml, .drone.yaml"},
		{name: "huge", pipeline: "kind: pipeline\n#" + strings.Repeat("x", 2<<20), status: "error", says: "is too large; a pipeline file has at most 1024 KiB"},
		{name: "needs", pipeline: one("image: busybox, depends_on: [hu]"), status: "error", says: `step "s" depends on "hu"`},
		{name: "kubernetes", pipeline: "kind: pipeline\ntype: kubernetes\nsteps: [{name: s, image: busybox}]\n", status: "error", says: "pipelines of type kubernetes are not supported yet"},
		{name: "privileged", pipeline: one("image: busybox, privileged: true"), status: "error", says: `step "s" is privileged, which is only for trusted repos`},

		// Images of steps.
		{name: "tag", pipeline: one("image: 'busybox:none'"), status: "error", says: `step "s": image busybox:none does not exist in the registry docker.io`},
		{name: "reference", pipeline: one("image: 'Not/../one:::'"), status: "error", says: `"Not/../one:::" is not an image reference`},
		{name: "refused", pipeline: one("image: '" + refuses + "/x'"), status: "error", says: "without a login, or it does not exist"},
		{name: "broken", pipeline: one("image: '" + broken + "/x'"), status: "error", says: "(it answered 500 Internal Server Error)"},
		{name: "nobody", pipeline: one("image: '" + nobody + "/x'"), status: "error", says: "(connection refused)"},
		{name: "arch", pipeline: one("image: other"), status: "error", says: "is not made for linux/" + runtime.GOARCH + ", only for linux/" + otherArch},
		{name: "noshell", pipeline: one("image: noshell, commands: [x]"), status: "failure", says: `step "s" ended with exit code 127`, inLog: "commands need an image with a shell"},
		{name: "user", pipeline: one("image: busybox, user: nobodyhere, commands: [id]"), status: "error", says: `there is no user "nobodyhere"`},

		// Steps.
		{name: "exit", pipeline: one("image: busybox, commands: [exit 3]"), status: "failure", says: `step "s" ended with exit code 3`},
		{name: "memory", pipeline: one("image: busybox, mem_limit: 20mb, commands: [tail /dev/zero]"), status: "failure", says: "the kernel killed it for want of memory"},
		{
			name:     "service",
			pipeline: "kind: pipeline\nname: a\nservices: [{name: db, image: busybox, commands: [exit 7]}]\nsteps: [{name: s, image: busybox, commands: [sleep 1]}]\n",
			status:   "success", inLog: "it ended with exit code 7 while the job still ran",
		},
		{name: "secret", pipeline: one("image: busybox, environment: {A: {from_secret: nope}}, commands: ['echo a=$A.']"), status: "success", inLog: "this repo has no secret \"nope\"; A is not set. Add it by: slipway secret set bad/secret nope"},
		{
			// A step may replace the checkout by a link: what reads it afterwards is on the host.
			name: "link",
			pipeline: "kind: pipeline\nname: a\nworkspace: {base: /w, path: src}\nsteps:\n" +
				"- {name: s, image: busybox, commands: ['cd /; rm -rf /w/src; ln -s /etc /w/src']}\n" +
				"- {name: build, image: plugins/docker, failure: ignore, settings: {repo: x/y, dockerfile: passwd, dry_run: true}}\n" +
				"- {name: deploy, image: slipway/deploy, settings: {manifests: passwd, namespace: x}}\n",
			status: "failure", says: `the checkout "src" is no folder of the workspace any more`, inLog: `the checkout "src" leads out of the workspace`, notInLog: "root:",
		},

		// Builds.
		{name: "dockerfile", pipeline: build("repo: bad/dockerfile"), status: "failure", says: `Dockerfile "Dockerfile" does not exist in the workspace`},
		{name: "instruction", pipeline: build("repo: bad/instruction"), files: "Dockerfile FROM busybox\\nRUNN x\\n", status: "failure", says: "Dockerfile:2: unknown instruction: RUNN"},
		{name: "run", pipeline: build("repo: bad/run"), files: "Dockerfile FROM busybox\\nRUN exit 9\\n", status: "failure", says: "Dockerfile:2: RUN exit 9 failed with exit code 9"},
		{name: "rights", pipeline: build("repo: bad/other"), files: "Dockerfile FROM busybox\\n", status: "failure", says: "refuses the push of " + s.host + "/bad/other:latest to the login it was given"},
		{name: "password", pipeline: build("repo: bad/password, username: me, password: wrong"), files: "Dockerfile FROM scratch\\nCOPY Dockerfile /\\n", status: "failure", says: "refuses the push of " + s.host + "/bad/password:latest to the login it was given"},
		{name: "unreachable", pipeline: one("image: plugins/docker, settings: {repo: '" + nobody + "/x'}"), files: "Dockerfile FROM busybox\\n", status: "failure", says: "cannot be reached to push " + nobody + "/x:latest (connection refused)"},

		// Deploys, as far as they need no cluster.
		{name: "cluster", pipeline: one("image: slipway/deploy, settings: {manifests: k8s, namespace: x}"), files: "k8s/a.yaml apiVersion: v1\\nkind: ConfigMap\\nmetadata: {name: x}\\n", status: "failure", says: "this runner has no cluster of its own"},
		{name: "manifests", pipeline: one("image: slipway/deploy, settings: {manifests: k8s, namespace: x}"), status: "failure", says: "k8s: there is no such file or folder"},
		{name: "kubeconfig", pipeline: one("image: slipway/deploy, settings: {manifests: k8s, namespace: x, kubeconfig: {from_secret: nope}}"), files: "k8s/a.yaml x: y", status: "failure", says: "the setting kubeconfig is empty; set its secret by: slipway secret set bad/kubeconfig nope"},
		{name: "variable", pipeline: one("image: slipway/deploy, settings: {manifests: k8s, namespace: x, variables: {A: {from_secret: nope}}}"), files: "k8s/a.yaml x: y", status: "failure", says: "the secret nope, which A has the value of, is empty; set it by: slipway secret set bad/variable nope"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			repo := "bad/" + test.name
			s.must(t, "", "repo", "add", repo)
			files := map[string]string{}
			for line := range strings.Lines(test.files) {
				file, content, _ := strings.Cut(line, " ")
				files[file] = strings.ReplaceAll(content, `\n`, "\n")
			}
			if test.name != "none" {
				files[".drone.yml"] = test.pipeline
			}
			pushed := s.push(t, repo, files)
			r := run(t, s.env(), "", "run", "log", "--follow", repo, "1")
			want := 2
			if test.status == "success" {
				want = 0
			} else {
				checkSentence(t, r.err, "run 1 of "+repo+": "+test.status+". ")
				checkSentence(t, r.err, test.says)
			}
			if r.code != want {
				t.Errorf("exit code %d, want %d: %s", r.code, want, r.err)
			}
			if !strings.Contains(r.out, test.inLog) || test.notInLog != "" && strings.Contains(r.out, test.notInLog) {
				t.Errorf("the log is\n%s", r.out)
			}
			if show := s.must(t, "", "run", "show", repo, "1"); strings.Count(show, test.says) == 0 {
				t.Errorf("run show says\n%s", show)
			}
			if r.out == "" && strings.Count(pushed, test.says) != 1 { // it ended before it began
				t.Errorf("the pusher sees\n%s", pushed)
			}
		})
	}
}

// TestNothingIsLeft looks for what belongs to a server, its runner and their jobs after they have stopped.
func TestNothingIsLeft(t *testing.T) {
	testneeds.Root(t)
	s := start(t, "--runc", testneeds.Tool(t, "runc"))
	s.seed("busybox", buildkittest.Busybox(t))
	s.must(t, "", "repo", "add", "bad/left")
	s.push(t, "bad/left", map[string]string{
		".drone.yml": "kind: pipeline\nname: a\nservices: [{name: db, image: busybox, commands: [sleep 3600]}]\nsteps:\n" +
			"- {name: s, image: busybox, commands: ['sleep 3600 & exit 1']}\n" +
			"- {name: build, image: plugins/docker, when: {status: failure}, settings: {repo: x/y, dry_run: true}}\n",
		"Dockerfile": "FROM busybox\nRUN exit 1\n",
	})
	if r := run(t, s.env(), "", "run", "log", "--follow", "bad/left", "1"); r.code != 2 {
		t.Errorf("exit code %d: %s", r.code, r.err)
	}
	for deadline := time.Now().Add(program.Limit); ; time.Sleep(20 * time.Millisecond) { // the runner hears that the server has all of it
		if left, _ := filepath.Glob(filepath.Join(s.data(), "runner", "jobs", "job-*")); len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the runner keeps the journal of a run that is over")
		}
	}
	s.stop()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, s.dir) {
			t.Errorf("a mount is left: %s", line)
		}
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range processes {
		if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), s.dir) {
			t.Errorf("a process is left: %s: %q", file, text)
		}
	}
	for _, pattern := range []string{"runner/oci/sandboxes/*", "runner/oci/runc/*", "logs/*"} {
		if left, _ := filepath.Glob(filepath.Join(s.data(), pattern)); len(left) > 0 {
			t.Errorf("files are left: %v", left)
		}
	}
}

// seed puts an image where its plain name finds it: below mirror/docker.io/ of the server's registry.
func (s *instance) seed(image string, content v1.Image) {
	s.Helper()
	ref, err := name.NewTag(s.host+"/mirror/docker.io/library/"+image+":latest", name.Insecure)
	if err != nil {
		s.Fatal(err)
	}
	if err := remote.Write(ref, content, remote.WithAuth(&authn.Basic{Username: "ada", Password: s.token})); err != nil {
		s.Fatal(err)
	}
}

// push makes a repository of files, pushes it and returns what the pusher sees.
func (s *instance) push(t *testing.T, repo string, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for file, content := range files {
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var seen string
	for _, args := range [][]string{
		{"init", "--quiet", "--initial-branch=main"},
		{"add", "--all"},
		{"-c", "user.name=Ada", "-c", "user.email=ada@example.com", "commit", "--quiet", "--message=try"},
		{"push", "--quiet", "http://ada:" + s.token + "@" + s.host + "/git/" + repo, "main"},
	} {
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %s: %v\n%s", args[0], err, out)
		}
		seen = string(out)
	}
	return seen
}

// status starts a server that answers everything with one status, and returns its host.
func status(t *testing.T, code int) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// closedPort returns an address at which nothing listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
