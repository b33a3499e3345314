package rollout

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"

	"slipway/internal/manifest"
)

var update = flag.Bool("update", false, "rewrite the wanted parts of testdata")

// TestSequences plays what a cluster showed, one txtar for each rollout. Each of its files is named after the time of a
// look, such as 10s, and has the objects then: first the one that is watched, then its ReplicaSets, pods and events. The
// file want has the lines that are printed, and how the rollout fails.
func TestSequences(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases in testdata: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want := len(archive.Files) - 1
			if archive.Files[want].Name != "want" {
				t.Fatal("the last file is not want")
			}
			got := play(t, archive.Files[:want])
			if *update {
				archive.Files[want].Data = []byte(got)
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(archive.Files[want].Data), got); diff != "" {
				t.Errorf("output (-want +got):\n%s", diff)
			}
		})
	}
}

// play returns what a watcher says of a sequence.
func play(t *testing.T, looks []txtar.File) string {
	var out bytes.Buffer
	w := &watcher{printer: newPrinter(&out), since: map[string]time.Time{}, statuses: make([]Status, 1), said: make([]said, 1)}
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, look := range looks {
		after, err := time.ParseDuration(look.Name)
		if err != nil {
			t.Fatal(err)
		}
		w.statuses[0] = assess(t, look.Data)
		w.say(start.Add(after), false)
		for _, f := range w.failed(start.Add(after)) {
			fmt.Fprintf(&out, "fails after %s: %s\n", after, f)
		}
		if w.done() {
			fmt.Fprintf(&out, "done after %s\n", after)
		}
	}
	return out.String()
}

// assess returns the status of the first object of a look.
func assess(t *testing.T, data []byte) Status {
	t.Helper()
	var first runtime.Object
	var sets []appsv1.ReplicaSet
	p := podsAndEvents{events: map[types.UID][]corev1.Event{}}
	for _, doc := range strings.Split(string(data), "---\n") {
		object, _, err := scheme.Codecs.UniversalDeserializer().Decode([]byte(doc), nil, nil)
		if err != nil {
			t.Fatalf("%v in:\n%s", err, doc)
		}
		if first == nil {
			first = object
		}
		switch object := object.(type) {
		case *appsv1.ReplicaSet:
			sets = append(sets, *object)
		case *corev1.Pod:
			p.pods = append(p.pods, *object)
		case *corev1.Event:
			p.events[object.InvolvedObject.UID] = append(p.events[object.InvolvedObject.UID], *object)
		}
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(first)
	if err != nil {
		t.Fatal(err)
	}
	o := manifest.Object{Unstructured: &unstructured.Unstructured{Object: content}}
	patience := Patience{}.withDefaults()
	switch first := first.(type) {
	case *appsv1.Deployment:
		return assessDeployment(o, first, sets, p, patience)
	case *appsv1.StatefulSet:
		return assessStatefulSet(o, first, p, patience)
	case *appsv1.DaemonSet:
		return assessDaemonSet(o, first, "new", p, patience)
	case *batchv1.Job:
		return assessJob(o, first, p, patience)
	case *corev1.Pod:
		return assessPod(o, first, p, patience)
	case *corev1.PersistentVolumeClaim:
		return assessClaim(o, first, p.events[first.UID], patience)
	}
	t.Fatalf("cannot assess %T", first)
	return Status{}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{
		"a\x1b[31mb\x1b[0mc":           "abc",
		"bell\a and\ttab and\r return": "bell and tab and return",
		"\x1b]0;title\x07x":            "]0;titlex",
		"häßlich 日本":                   "häßlich 日本",
		"a\u202eb":                     "ab",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) is %q, want %q", in, got, want)
		}
	}
}

func TestPullCause(t *testing.T) {
	event := []corev1.Event{{Reason: "Failed", Message: `Failed to pull image "a/b:1": rpc error: code = Unknown desc = failed to pull and unpack image "a/b:1": failed to resolve reference "a/b:1": a/b:1: not found`}}
	for _, c := range []struct {
		message string
		events  []corev1.Event
		cause   string
		certain bool
	}{
		{`rpc error: code = NotFound desc = failed to pull and unpack image "a/b:1": failed to resolve reference "a/b:1": a/b:1: not found`, nil, "not found", true},
		{`Back-off pulling image "a/b:1": ErrImagePull: rpc error: code = NotFound desc = failed to pull and unpack image "a/b:1": failed to resolve reference "a/b:1": a/b:1: not found`, nil, "not found", true},
		{`Back-off pulling image "a/b:1"`, event, "not found", true},
		{`Back-off pulling image "a/b:1"`, nil, "the node gives no reason yet", false},
		{`failed to pull and unpack image "a/b:1": failed to resolve reference "a/b:1": failed to authorize: failed to fetch anonymous token: unexpected status from GET request to https://a/token: 401 Unauthorized`, nil, "failed to authorize: failed to fetch anonymous token: https://a/token: 401 Unauthorized", true},
		{`failed to resolve image: failed to do request: Head "https://a/v2/b/manifests/1": dial tcp: lookup a on 10.0.0.1:53: no such host`, nil, "dial tcp: lookup a on 10.0.0.1:53: no such host", false},
		{`failed to do request: Head "https://a/v2/b/manifests/1": dial tcp 10.0.0.1:443: i/o timeout`, nil, "dial tcp 10.0.0.1:443: i/o timeout", false},
	} {
		if cause, certain := pullCause(c.message, "a/b:1", c.events); cause != c.cause || certain != c.certain {
			t.Errorf("%q (%d events) gives %q, %t; want %q, %t", c.message, len(c.events), cause, certain, c.cause, c.certain)
		}
	}
}
