package plan

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slipway/internal/ci"
)

// full returns a plan in which every field is set.
func full() Plan {
	return Plan{Version: Version, Jobs: []Job{
		{Name: "build", Workspace: "/drone/src", Steps: []Step{
			{Name: "clone", Kind: KindClone, Clone: &Clone{Ref: "refs/pull/1/head", Commit: "abc", Merge: "refs/heads/main", Depth: 1, Retries: 2, SkipVerify: true}},
		}},
		{
			Name: "all", Needs: []string{"build"}, On: []Outcome{Success, Failure}, OS: "linux", Arch: "arm64",
			Labels: map[string]string{"disk": "ssd"}, Timeout: 60, Network: Shared, Workspace: "/go", Checkout: "src/x",
			Volumes:     []Volume{{Name: "tmp", Memory: true, Size: 1}, {Name: "host", Host: "/srv"}},
			Env:         map[string]Value{"A": Text("<a>"), "B": FromSecret("job"), "C": FromFact(JobStatus)},
			PullSecrets: []string{"docker"},
			Steps: []Step{
				{
					Name: "exec", Kind: KindExec, Detach: true, IgnoreFailure: true, FailFast: true, Timeout: 5, Env: map[string]Value{"A": FromSecret("step")},
					Exec: &Exec{
						Image: "busybox", Pull: PullNever, Entrypoint: []string{"/bin/sh"}, Args: []string{"-c"}, Script: "true\n", WorkingDir: "/go", User: "0",
						Mounts: []Mount{{"tmp", "/tmp"}}, Devices: []Mount{{"/dev/kvm", "/dev/kvm"}}, Privileged: true, DNS: []string{"1.1.1.1"},
						DNSSearch: []string{"x"}, ExtraHosts: []string{"a:10.0.0.1"}, Aliases: []string{"db"}, HostNetwork: true,
						Limits: Limits{Memory: 1, Swap: 2, SharedMemory: 3, MilliCPU: 4}, SkipRestCode: 78,
					},
				},
				{
					Name: "image", Kind: KindImage, Needs: []string{"exec"}, On: []Outcome{Failure},
					Image: &Image{
						Repo: Text("a/b"), Registry: FromSecret("registry"), Tags: []Value{Text("latest"), FromSecret("tag")}, Context: "c", Dockerfile: "d", Target: "t",
						Args: map[string]Value{"x": FromSecret("arg")}, Labels: map[string]Value{"y": FromSecret("label")}, CacheFrom: []string{"a/b:c"},
						NoCache: true, Pull: true, Username: Text("u"), Password: FromSecret("password"), DryRun: true, Insecure: true,
					},
				},
				{
					Name: "deploy", Kind: KindDeploy, Needs: []string{"image", "exec"},
					Deploy: &Deploy{
						Environment: "production", Namespace: FromSecret("namespace"), Manifests: []string{"k8s"}, Images: map[string]Value{"app": FromSecret("app")},
						Kubeconfig: FromSecret("kubeconfig"), Timeout: 300,
					},
				},
			},
		},
	}}
}

func TestRoundTrip(t *testing.T) {
	want := full()
	if err := want.Validate(); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Plan
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	again, err := json.Marshal(got)
	if err != nil || string(again) != string(data) {
		t.Errorf("equal plans must have equal bytes: %v\n%s\n%s", err, data, again)
	}
}

func TestValueJSON(t *testing.T) {
	for text, want := range map[string]Value{
		`""`: {}, `"a<b"`: Text("a<b"), `{"secret":"s"}`: FromSecret("s"), `{"fact":"job.status"}`: FromFact(JobStatus),
	} {
		var got Value
		if err := json.Unmarshal([]byte(text), &got); err != nil || got != want {
			t.Errorf("%s is %v, %v; want %v", text, got, err, want)
		}
	}
	for _, text := range []string{`1`, `null1`, `{}`, `{"secret":"s","fact":"now"}`, `[]`, `{"secret":1}`} {
		var v Value
		if err := json.Unmarshal([]byte(text), &v); err == nil {
			t.Errorf("%s is no value, but is read as %v", text, v)
		}
	}
	if data, err := Text("<&>").MarshalJSON(); err != nil || strings.TrimSpace(string(data)) != `"<&>"` {
		t.Errorf("%s, %v", data, err)
	}
}

func TestValidate(t *testing.T) {
	exec := func(name string, needs ...string) Step {
		return Step{Name: name, Kind: KindExec, Needs: needs, Exec: &Exec{Image: "x"}}
	}
	job := func(name string, steps ...Step) Job { return Job{Name: name, Workspace: "/w", Steps: steps} }
	one := func(change func(*Job)) Plan {
		j := job("j", exec("a"))
		change(&j)
		return Plan{Version: Version, Jobs: []Job{j}}
	}
	step := func(change func(*Step)) Plan { return one(func(j *Job) { change(&j.Steps[0]) }) }
	many := Plan{Version: Version}
	for i := range MaxJobs + 1 {
		many.Jobs = append(many.Jobs, job(fmt.Sprint(i)))
	}
	for want, p := range map[string]Plan{
		"plan version 2":          {Version: 2},
		"501 jobs":                many,
		`two jobs are called "a"`: {Version: Version, Jobs: []Job{job("a"), job("a")}},
		`job "a" needs "b", which does not exist`:           {Version: Version, Jobs: []Job{{Name: "a", Workspace: "/w", Needs: []string{"b"}}}},
		"the jobs a -> b -> a need each other":              {Version: Version, Jobs: []Job{{Name: "a", Workspace: "/w", Needs: []string{"b"}}, {Name: "b", Workspace: "/w", Needs: []string{"a"}}}},
		"the steps a -> a need each other":                  step(func(s *Step) { s.Needs = []string{"a"} }),
		"the steps b -> d -> c -> b need each other":        one(func(j *Job) { j.Steps = []Step{exec("a", "b"), exec("b", "d"), exec("c", "b"), exec("d", "c")} }),
		`step "a" needs "z", which does not exist`:          step(func(s *Step) { s.Needs = []string{"z"} }),
		`two steps are called "a"`:                          one(func(j *Job) { j.Steps = append(j.Steps, exec("a")) }),
		"a job needs a name":                                one(func(j *Job) { j.Name = "" }),
		`workspace "/"`:                                     one(func(j *Job) { j.Workspace = "/" }),
		`workspace "/a/../b"`:                               one(func(j *Job) { j.Workspace = "/a/../b" }),
		`workspace "w"`:                                     one(func(j *Job) { j.Workspace = "w" }),
		`checkout "../x"`:                                   one(func(j *Job) { j.Checkout = "../x" }),
		`checkout "/x"`:                                     one(func(j *Job) { j.Checkout = "/x" }),
		`checkout "a/"`:                                     one(func(j *Job) { j.Checkout = "a/" }),
		`"A=B" cannot be the name of a variable`:            one(func(j *Job) { j.Env = map[string]Value{"A=B": {}} }),
		`"" cannot be the name of a variable`:               step(func(s *Step) { s.Env = map[string]Value{"": {}} }),
		`volume name ""`:                                    one(func(j *Job) { j.Volumes = []Volume{{}} }),
		`volume name "v" is empty or used twice`:            one(func(j *Job) { j.Volumes = []Volume{{Name: "v"}, {Name: "v"}} }),
		`host path "x"`:                                     one(func(j *Job) { j.Volumes = []Volume{{Name: "v", Host: "x"}} }),
		"a step needs a name":                               step(func(s *Step) { s.Name = "" }),
		`kind "exec" needs its own field set, and no other`: step(func(s *Step) { s.Clone = &Clone{} }),
		`kind "image" needs its own field set`:              step(func(s *Step) { s.Kind = KindImage }),
		`kind "x" needs its own field set`:                  step(func(s *Step) { s.Kind = "x" }),
		"a container needs an image":                        step(func(s *Step) { s.Exec.Image = "" }),
		`working directory "x"`:                             step(func(s *Step) { s.Exec.WorkingDir = "x" }),
		`the job has no volume "v"`:                         step(func(s *Step) { s.Exec.Mounts = []Mount{{"v", "/x"}} }),
		`mount path "/"`:                                    one(func(j *Job) { j.Volumes, j.Steps[0].Exec.Mounts = []Volume{{Name: "v"}}, []Mount{{"v", "/"}} }),
		"1001 steps":                                        one(func(j *Job) { j.Steps = make([]Step, MaxSteps+1) }),
	} {
		if err := p.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error is %v, want %q", err, want)
		}
	}
	if err := (Plan{Version: Version}).Validate(); err != nil {
		t.Errorf("a plan may be empty: %v", err)
	}
}

func TestNeedsTrust(t *testing.T) {
	if what := full().Jobs[0].NeedsTrust(); what != "" {
		t.Errorf("a clone needs no trust, but: %s", what)
	}
	for want, job := range map[string]Job{
		`volume "v" mounts a folder of the host`: {Volumes: []Volume{{Name: "v", Host: "/"}}},
		`volume "v" is in memory`:                {Volumes: []Volume{{Name: "v", Memory: true}}},
		`step "s" is privileged`:                 {Steps: []Step{{Name: "s", Exec: &Exec{Privileged: true}}}},
		`step "s" uses devices of the host`:      {Steps: []Step{{Name: "s", Exec: &Exec{Devices: []Mount{{}}}}}},
		`step "s" uses the network of the host`:  {Steps: []Step{{Name: "s", Exec: &Exec{HostNetwork: true}}}},
		`step "s" sets DNS servers`:              {Steps: []Step{{Name: "s", Exec: &Exec{DNSSearch: []string{"x"}}}}},
		`step "s" adds hosts`:                    {Steps: []Step{{Name: "s", Exec: &Exec{ExtraHosts: []string{"x"}}}}},
		`step "s" sets the size of /dev/shm`:     {Steps: []Step{{Name: "s", Exec: &Exec{Limits: Limits{SharedMemory: 1}}}}},
	} {
		if got := job.NeedsTrust(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestSecrets(t *testing.T) {
	want := []string{"app", "arg", "docker", "job", "kubeconfig", "label", "namespace", "password", "registry", "step", "tag"}
	if diff := cmp.Diff(want, full().Jobs[1].Secrets()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	from := func(name string) *ci.FromSecret { return &ci.FromSecret{Secret: name} }
	policy := ci.Policy{
		Probe: &ci.Probe{Login: ci.Login{Username: "ada", Password: from("password")}},
		Strategy: &ci.Strategy{
			Checks: []ci.Check{{Login: ci.Login{Token: from("token"), CA: from("ca")}}}, After: []ci.Check{{Login: ci.Login{Token: from("token")}}},
			Steps: []ci.StrategyStep{{Checks: []ci.Check{{Login: ci.Login{Token: from("step")}}}}},
		},
	}
	logins := Job{Steps: []Step{{Deploy: &Deploy{Policy: policy}}}}
	if diff := cmp.Diff([]string{"ca", "password", "step", "token"}, logins.Secrets()); diff != "" {
		t.Errorf("logins (-want +got):\n%s", diff)
	}
}

func TestEnvOf(t *testing.T) {
	job := full().Jobs[1]
	want := map[string]Value{"A": FromSecret("step"), "B": FromSecret("job"), "C": FromFact(JobStatus)}
	if diff := cmp.Diff(want, job.EnvOf(job.Steps[0])); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if job.Env["A"] != Text("<a>") {
		t.Error("the job's environment must stay as it is")
	}
}

func TestProblems(t *testing.T) {
	ps := Problems{
		{"f", 2, 1, SeverityError, "b"}, {"f", 1, 9, SeverityWarning, "w"}, {"f", 2, 1, SeverityError, "b"}, {"f", 0, 0, SeverityError, "all"},
	}.Sort()
	if want := "f: all\nf:1:9: warning: w\nf:2:1: b"; ps.Error() != want {
		t.Errorf("got\n%s\nwant\n%s", ps.Error(), want)
	}
	if err := ps.Err(); err == nil || err.Error() != "f: all\nf:2:1: b" {
		t.Errorf("errors are %v", err)
	}
	if err := ps[1:2].Err(); err != nil {
		t.Errorf("warnings are no error: %v", err)
	}
}
