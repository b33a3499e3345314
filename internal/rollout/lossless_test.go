package rollout

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"slipway/internal/ci"
	"slipway/internal/manifest"
)

// losslessCase is a workload and what is added to it, one line each: a path with its value, "problem: …" or "note: …". In
// problems and notes the beginning is enough.
type losslessCase struct {
	name   string
	kind   string // Deployment if empty
	spec   string
	around surroundings
	want   string
}

const (
	surge25  = "spec.strategy.rollingUpdate.maxSurge 25%\nspec.strategy.rollingUpdate.maxUnavailable 0\n"
	drain5   = `spec.template.spec.containers[a].lifecycle.preStop {"sleep":{"seconds":5}}` + "\n"
	grace35  = "spec.template.spec.terminationGracePeriodSeconds 35\n"
	ready1   = "spec.minReadySeconds 1\n"
	probing  = "readinessProbe: {tcpSocket: {port: 80}}"
	standard = surge25 + drain5 + grace35 + ready1
)

func without(parts ...string) surroundings {
	s := surroundings{without: map[string]bool{}}
	for _, part := range parts {
		s.without[part] = true
	}
	return s
}

var losslessCases = []losslessCase{
	{name: "nothing is said", spec: "replicas: 3\ntemplate: {spec: {containers: [{name: a, " + probing + "}]}}", want: standard},
	{name: "one replica surges", spec: "template: {spec: {containers: [{name: a, " + probing + "}]}}", want: standard},
	{
		name: "all is said", want: "",
		spec: "replicas: 2\nminReadySeconds: 3\nstrategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}\n" +
			"template: {spec: {terminationGracePeriodSeconds: 60, containers: [{name: a, lifecycle: {preStop: {sleep: {seconds: 10}}}, " + probing + "}]}}",
	},
	{
		name: "several containers, one with a hook",
		spec: "template: {spec: {containers: [{name: a, lifecycle: {postStart: {exec: {command: [x]}}}, " + probing + "}, {name: b, lifecycle: {preStop: {exec: {command: [x]}}}}, {name: c}]}}",
		want: surge25 + drain5 + strings.Replace(drain5, "[a]", "[c]", 1) + grace35 + ready1,
	},
	{
		name: "too short a sleep", spec: "minReadySeconds: 0\ntemplate: {spec: {containers: [{name: a, lifecycle: {preStop: {sleep: {seconds: 2}}}, " + probing + "}]}}",
		want: surge25 + "problem: its container a drains for 2 s, not 5 s\nproblem: its minReadySeconds is 0, not 1\n",
	},
	{
		name: "grace that is enough", spec: "template: {spec: {terminationGracePeriodSeconds: 20, containers: [{name: a, " + probing + "}]}}",
		want: surge25 + drain5 + ready1 + "note: when its pods have drained, 15 of the 20 s of their\n",
	},
	{
		name: "grace that is not", spec: "template: {spec: {terminationGracePeriodSeconds: 5, containers: [{name: a, " + probing + "}]}}",
		want: surge25 + ready1 + "problem: its terminationGracePeriodSeconds of 5 ends a pod before it has drained\n",
	},
	{name: "no readiness probe", spec: "template: {spec: {containers: [{name: a}]}}", want: standard + "problem: it has no readinessProbe\n"},
	{
		name: "old cluster", spec: "template: {spec: {containers: [{name: a, " + probing + "}]}}", around: surroundings{policy: ci.Lossless{Drain: -1}},
		want: strings.Replace(standard, `{"sleep":{"seconds":5}}`, `{"exec":{"command":["sleep","5"]}}`, 1) + "note: Kubernetes before 1.30 cannot wait by itself\n",
	},
	{name: "Recreate", spec: "strategy: {type: Recreate}\ntemplate: {spec: {containers: [{name: a}]}}", want: "problem: its strategy is Recreate\n"},
	{
		name: "Recreate that is meant", spec: "strategy: {type: Recreate}\ntemplate: {spec: {containers: [{name: a}]}}", around: without(partSurge),
	},
	{
		name: "unavailable by wish", spec: "replicas: 4\nstrategy: {rollingUpdate: {maxUnavailable: 1}}\ntemplate: {spec: {containers: [{name: a, " + probing + "}]}}",
		want: drain5 + grace35 + ready1,
	},
	{
		name: "all unavailable", spec: "replicas: 4\nstrategy: {rollingUpdate: {maxUnavailable: 100%}}\ntemplate: {spec: {containers: [{name: a, " + probing + "}]}}",
		want: drain5 + grace35 + ready1 + "problem: its maxUnavailable of 100% lets all old pods end\n",
	},
	{
		name: "the only one unavailable", spec: "strategy: {rollingUpdate: {maxUnavailable: 1}}\ntemplate: {spec: {containers: [{name: a, " + probing + "}]}}",
		want: drain5 + grace35 + ready1 + "problem: its maxUnavailable of 1 lets all old pods end\n",
	},
	{
		name: "unavailable, but scaled", spec: "strategy: {rollingUpdate: {maxUnavailable: 1}}\ntemplate: {spec: {containers: [{name: a, " + probing + "}]}}",
		around: surroundings{scaled: true}, want: drain5 + grace35 + ready1,
	},
	{
		name: "half of one is none", spec: "strategy: {rollingUpdate: {maxUnavailable: 50%}}\ntemplate: {spec: {containers: [{name: a, " + probing + "}]}}",
		want: drain5 + grace35 + ready1,
	},
	{
		name: "no surge by wish", spec: "replicas: 2\nstrategy: {rollingUpdate: {maxSurge: 0}}\ntemplate: {spec: {containers: [{name: a, " + probing + "}]}}",
		want: drain5 + grace35 + ready1,
	},
	{
		name: "no surge of the only one", spec: "replicas: 1\nstrategy: {rollingUpdate: {maxSurge: 0%}}\ntemplate: {spec: {containers: [{name: a, " + probing + "}]}}",
		want: drain5 + grace35 + ready1 + "problem: its maxSurge of 0 lets the only pod end\n",
	},
	{
		name: "surge by wish", spec: "strategy: {rollingUpdate: {maxSurge: 100%}}\ntemplate: {spec: {containers: [{name: a, " + probing + "}]}}",
		want: "spec.strategy.rollingUpdate.maxUnavailable 0\n" + drain5 + grace35 + ready1,
	},
	{
		name: "network of the node", spec: "template: {spec: {hostNetwork: true, containers: [{name: a, " + probing + "}]}}",
		want: drain5 + grace35 + ready1 + "note: its pods use the network of their nodes\n",
	},
	{
		name: "port of the node", spec: "template: {spec: {containers: [{name: a, ports: [{containerPort: 80, hostPort: 8080}], " + probing + "}]}}",
		want: drain5 + grace35 + ready1 + "note: its pods use port 8080 of their nodes\n",
	},
	{
		name: "one pod a node", want: drain5 + grace35 + ready1 + "note: its pods must not share a node (podAntiAffinity)\n",
		spec: "template: {spec: {affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname}]}}, containers: [{name: a, " + probing + "}]}}",
	},
	{
		name: "a claim for one node", spec: "template: {spec: {containers: [{name: a, " + probing + "}]}}", around: surroundings{claim: "data (ReadWriteOnce)"},
		want: drain5 + grace35 + ready1 + "note: its pods share the claim data (ReadWriteOnce), which one node at a time can use\n",
	},
	{
		name: "a deadline that is too near", spec: "progressDeadlineSeconds: 1\ntemplate: {spec: {containers: [{name: a, " + probing + "}]}}",
		want: surge25 + drain5 + grace35 + "problem: its progressDeadlineSeconds of 1 leaves no time\n",
	},
	{
		name: "parts left out", spec: "template: {spec: {containers: [{name: a}]}}", around: without(partSurge, partReady, partReadiness), want: drain5 + grace35,
	},
	{name: "drain left out", spec: "template: {spec: {containers: [{name: a, " + probing + "}]}}", around: without(partDrain), want: surge25 + ready1},
	{name: "StatefulSet", kind: "StatefulSet", spec: "replicas: 2\ntemplate: {spec: {containers: [{name: a, " + probing + "}]}}", want: drain5 + grace35 + ready1},
	{name: "StatefulSet of one", kind: "StatefulSet", spec: "template: {spec: {containers: [{name: a, " + probing + "}]}}", want: "problem: it is a StatefulSet of one pod\n"},
	{
		name: "StatefulSet that is scaled", kind: "StatefulSet", spec: "template: {spec: {containers: [{name: a, " + probing + "}]}}",
		around: surroundings{scaled: true}, want: drain5 + grace35 + ready1,
	},
	{name: "StatefulSet by hand", kind: "StatefulSet", spec: "replicas: 2\nupdateStrategy: {type: OnDelete}\ntemplate: {spec: {containers: [{name: a}]}}"},
	{
		name: "DaemonSet", kind: "DaemonSet", spec: "template: {spec: {containers: [{name: a, " + probing + "}]}}",
		want: "spec.updateStrategy.rollingUpdate.maxSurge 1\nspec.updateStrategy.rollingUpdate.maxUnavailable 0\n" + drain5 + grace35 + ready1,
	},
	{
		name: "DaemonSet with a say", kind: "DaemonSet", spec: "updateStrategy: {rollingUpdate: {maxUnavailable: 2}}\ntemplate: {spec: {containers: [{name: a, " + probing + "}]}}",
		want: drain5 + grace35 + ready1,
	},
	{
		name: "DaemonSet with a folder of the node", kind: "DaemonSet", spec: "template: {spec: {volumes: [{name: log, hostPath: {path: /var/log}}], containers: [{name: a, " + probing + "}]}}",
		want: drain5 + grace35 + ready1 + "note: its pods share the folder of the volume log\n",
	},
	{name: "no spec", spec: "null"},
	{name: "wrong types", spec: "replicas: many\nminReadySeconds: soon\nstrategy: fast\ntemplate: {spec: {containers: [1, {name: a, lifecycle: gone}, {name: 3}], volumes: none}}", want: strings.Replace(drain5, "[a]", "[3]", 1) + grace35 + "problem: it has no readinessProbe\n"},
	{name: "wrong types of pods", spec: "template: {spec: 7}"},
	{name: "wrong types of containers", spec: "template: {spec: {containers: {a: b}}}", want: surge25 + ready1 + "problem: it has no readinessProbe\n"},
}

func TestSecureWorkload(t *testing.T) {
	for _, c := range losslessCases {
		t.Run(c.name, func(t *testing.T) {
			kind := c.kind
			if kind == "" {
				kind = "Deployment"
			}
			text := "apiVersion: apps/v1\nkind: " + kind + "\nmetadata: {name: web}\nspec:\n  " + strings.ReplaceAll(c.spec, "\n", "\n  ") + "\n"
			u, manifest := decode(t, text), decode(t, text)
			c.around.native = c.around.policy.Drain == 0
			c.around.policy = ci.Lossless{Drain: 5, Ready: 1}
			added := secureWorkload(u, c.around)
			lines := c.want
			next := func(kind, got string) {
				want, rest, _ := strings.Cut(lines, "\n")
				if want == "" || !strings.HasPrefix(kind+got, want) {
					t.Errorf("got %q, want %q", kind+got, want)
				}
				lines = rest
			}
			for _, f := range added.fields {
				if f.Reason == "" {
					t.Errorf("%s has no reason", f.Path)
				}
				next("", f.Path+" "+f.New)
			}
			for _, problem := range added.problems {
				next("problem: ", problem)
			}
			for _, note := range added.notes {
				next("note: ", note)
			}
			if lines != "" {
				t.Errorf("missing are %q", lines)
			}
			// What is there by now is all that is needed, and what was said stays.
			if c.around.native {
				if again := secureWorkload(u, c.around); len(again.fields) > 0 {
					t.Errorf("the second time adds %v", again.fields)
				}
			}
			contains(t, "", u.Object, manifest.Object)
		})
	}
}

func decode(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	data, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(data); err != nil {
		t.Fatal(err)
	}
	return u
}

// contains wants all that part has in whole, with the same values.
func contains(t *testing.T, path string, whole, part any) {
	t.Helper()
	switch part := part.(type) {
	case map[string]any:
		for key, value := range part {
			m, _ := whole.(map[string]any)
			contains(t, path+"."+key, m[key], value)
		}
	case []any:
		list, _ := whole.([]any)
		if len(list) != len(part) {
			t.Fatalf("%s has %d elements", path, len(list))
		}
		for i := range part {
			contains(t, path, list[i], part[i])
		}
	default:
		if whole != part {
			t.Errorf("%s is %v, was %v", path, whole, part)
		}
	}
}

func TestLeftOut(t *testing.T) {
	object := func(value string) manifest.Object {
		u := &unstructured.Unstructured{Object: map[string]any{"kind": "Deployment", "metadata": map[string]any{"name": "web"}}}
		u.SetAnnotations(map[string]string{LosslessAnnotation: value})
		return manifest.Object{Unstructured: u, Origin: manifest.Position{File: "a.yaml", Line: 2}}
	}
	if got, err := leftOut(object("off")); got != nil || err != nil {
		t.Errorf("off is %v, %v", got, err)
	}
	if got, err := leftOut(object("surge, ready")); len(got) != 2 || !got["surge"] || !got["ready"] || err != nil {
		t.Errorf("two parts are %v, %v", got, err)
	}
	for _, bad := range []string{"", "of", "surge;ready", "off,surge", "\x1b[31m"} {
		if _, err := leftOut(object(bad)); err == nil || !strings.Contains(err.Error(), "slipway/lossless of deployment/web") {
			t.Errorf("%q gives %v", bad, err)
		}
	}
}
