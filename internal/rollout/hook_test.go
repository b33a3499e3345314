package rollout

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"slipway/internal/ci"
	"slipway/internal/manifest"
)

func objectsFrom(t *testing.T, text string) []manifest.Object {
	t.Helper()
	var objects []manifest.Object
	for _, doc := range strings.Split(text, "---\n") {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil {
			t.Fatal(err)
		}
		objects = append(objects, manifest.Object{Unstructured: u})
	}
	return objects
}

// TestSplit orders hooks by weight and name, and finds all that the pods of those before need, and nothing else.
func TestSplit(t *testing.T) {
	objects := objectsFrom(t, `
apiVersion: batch/v1
kind: Job
metadata: {name: b, namespace: shop, annotations: {slipway/hook: before}}
spec:
  template:
    spec:
      serviceAccountName: migrator
      imagePullSecrets: [{name: pull}]
      initContainers: [{name: i, envFrom: [{configMapRef: {name: env}}, {secretRef: {name: env}}]}]
      containers:
      - name: c
        env: [{name: A, valueFrom: {configMapKeyRef: {name: key, key: a}}}, {name: B, valueFrom: {secretKeyRef: {name: key, key: a}}}, {name: C, value: x}]
      volumes:
      - {name: a, configMap: {name: volume}}
      - {name: b, secret: {secretName: volume}}
      - {name: c, persistentVolumeClaim: {claimName: data}}
      - {name: d, projected: {sources: [{configMap: {name: projected}}, {secret: {name: projected}}]}}
---
{apiVersion: batch/v1, kind: Job, metadata: {name: a, namespace: shop, annotations: {slipway/hook: before}}}
---
{apiVersion: batch/v1, kind: Job, metadata: {name: z, namespace: shop, annotations: {slipway/hook: before, slipway/hook-weight: "-1"}}}
---
{apiVersion: batch/v1, kind: Job, metadata: {name: late, namespace: shop, annotations: {slipway/hook: after}}}
---
{apiVersion: batch/v1, kind: Job, metadata: {name: plain, namespace: shop}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: other}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: migrator, namespace: shop}}
---
{apiVersion: v1, kind: ServiceAccount, metadata: {name: migrator, namespace: other}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: r, namespace: shop}, subjects: [{kind: ServiceAccount, name: migrator}], roleRef: {kind: Role, name: role}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: role, namespace: shop}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: not, namespace: other}, subjects: [{kind: ServiceAccount, name: migrator}], roleRef: {kind: Role, name: role}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: c}, subjects: [{kind: ServiceAccount, name: migrator, namespace: shop}], roleRef: {kind: ClusterRole, name: reader}}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: reader}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: env, namespace: shop}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: key, namespace: shop}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: volume, namespace: shop}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: projected, namespace: shop}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: unused, namespace: shop}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: early, namespace: shop, annotations: {slipway/hook: before}}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: with-the-rest, namespace: shop, annotations: {slipway/hook: after}}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: env, namespace: other}}
---
{apiVersion: v1, kind: Secret, metadata: {name: pull, namespace: shop}}
---
{apiVersion: v1, kind: Secret, metadata: {name: env, namespace: shop}}
---
{apiVersion: v1, kind: Secret, metadata: {name: key, namespace: shop}}
---
{apiVersion: v1, kind: Secret, metadata: {name: volume, namespace: shop}}
---
{apiVersion: v1, kind: Secret, metadata: {name: projected, namespace: shop}}
---
{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: data, namespace: shop}}
`)
	if err := checkHooks(objects); err != nil {
		t.Fatal(err)
	}
	var all Differences
	for _, o := range objects {
		all = append(all, Difference{Object: o})
	}
	got := split(all)
	names := func(d Differences) string {
		var all []string
		for _, one := range d {
			all = append(all, one.Object.GetKind()+"/"+one.Object.GetNamespace()+"/"+one.Object.GetName())
		}
		return strings.Join(all, "\n")
	}
	for _, c := range []struct {
		phase     string
		got, want string
	}{
		{"before", names(got.before), "Job/shop/z\nJob/shop/a\nJob/shop/b"},
		{"after", names(got.after), "Job/shop/late"},
		{"early", names(got.early), "Namespace//shop\nServiceAccount/shop/migrator\nRoleBinding/shop/r\nRole/shop/role\nClusterRoleBinding//c\nClusterRole//reader\n" +
			"ConfigMap/shop/env\nConfigMap/shop/key\nConfigMap/shop/volume\nConfigMap/shop/projected\nConfigMap/shop/early\n" +
			"Secret/shop/pull\nSecret/shop/env\nSecret/shop/key\nSecret/shop/volume\nSecret/shop/projected\nPersistentVolumeClaim/shop/data"},
		{"rest", names(got.rest), "Job/shop/plain\nNamespace//other\nServiceAccount/other/migrator\nRoleBinding/other/not\nConfigMap/shop/unused\nConfigMap/shop/with-the-rest\nConfigMap/other/env"},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.phase, diff)
		}
	}
}

// TestTailLines copies each line of a log once, whatever breaks and however long it is.
func TestTailLines(t *testing.T) {
	var out bytes.Buffer
	tail := &tail{printer: newPrinter(&out)}
	log := "one\n\x1b[31mtwo\x1b[0m\n" + strings.Repeat("x", 3*tailLineBytes) + "\nlast"
	broken := errors.New("the connection broke")
	n, err := tail.lines(iotest.TimeoutReader(strings.NewReader(log[:8])), "migrate", 0)
	if n != 1 || !errors.Is(err, iotest.ErrTimeout) {
		t.Fatalf("copied %d lines: %v", n, err)
	}
	n, err = tail.lines(iotest.ErrReader(broken), "migrate", n)
	if n != 1 || !errors.Is(err, broken) {
		t.Fatalf("copied %d lines: %v", n, err)
	}
	n, err = tail.lines(strings.NewReader(log), "migrate", n)
	if n != 4 || err != nil {
		t.Fatalf("copied %d lines: %v", n, err)
	}
	want := "migrate | one\nmigrate | two\nmigrate | " + strings.Repeat("x", tailLineBytes) + " …\nmigrate | last\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	out.Reset()
	if _, err := tail.lines(strings.NewReader(strings.Repeat(strings.Repeat("y", 1<<20)+"\n", 20)), "migrate", 0); !errors.Is(err, errTailFull) {
		t.Errorf("a log without end ended with %v", err)
	}
	if !strings.HasSuffix(out.String(), "migrate wrote more than 16 MiB; the rest is not shown\n") {
		t.Error("it is not said that the log was cut")
	}
}

// TestPainter shows a picture when it has changed and the last one has had its time, and the last one at once.
func TestPainter(t *testing.T) {
	objects := objectsFrom(t, `
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}}
---
{apiVersion: batch/v1, kind: Job, metadata: {name: migrate, annotations: {slipway/hook: before}}}
`)
	var shown []ci.Rollout
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	p := newPainter(func(r ci.Rollout) { shown = append(shown, r) })
	p.now = func() time.Time { return now }
	p.plan(objects, false)
	if len(shown) != 1 || len(shown[0].Workloads) != 2 || shown[0].Workloads[0].Name != "migrate" || shown[0].Workloads[0].Hook != HookBefore {
		t.Fatalf("shown is %+v", shown)
	}
	web := Status{Object: objects[0], Text: "0 of 1 updated", Pods: Pods{Desired: 1}}
	p.paint(web, false, nil, "")
	p.flush(false) // too early
	now = now.Add(picturePause)
	p.flush(false)
	p.paint(web, false, nil, "")
	now = now.Add(picturePause)
	p.flush(false) // nothing new
	if len(shown) != 2 || shown[1].Workloads[1].State != ci.WorkloadRolls || shown[0].Workloads[1].State != ci.WorkloadWaits {
		t.Fatalf("shown is %+v", shown)
	}
	web.troubles = []trouble{{key: "exit/web", cause: "pod web-1 " + strings.Repeat("exits ", 1000)}}
	p.paint(web, true, []string{"line"}, "web-1 (web)")
	p.flush(true)
	if w := shown[2].Workloads[1]; w.State != ci.WorkloadFailed || len(w.Trouble) > 2*pictureText || len(w.Log) != 1 {
		t.Errorf("the failed workload is %+v", w)
	}
	p.plan(objects, true)
	last := shown[3]
	if !last.Back || len(last.Failed) != 1 || last.Failed[0].Name != "web" || len(last.Workloads) != 1 {
		t.Errorf("the picture of the way back is %+v", last)
	}
}
