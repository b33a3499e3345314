package rollout

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func thing(kind string, content map[string]any) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: content}
	u.SetAPIVersion("v1")
	u.SetKind(kind)
	return u
}

func TestCompare(t *testing.T) {
	type m = map[string]any
	tests := []struct {
		name          string
		kind          string
		before, after m
		want          string
	}{
		{"same", "X", m{"spec": m{"a": int64(1)}}, m{"spec": m{"a": int64(1)}}, ""},
		{"came and went", "X", m{"spec": m{"a": int64(1)}}, m{"spec": m{"b": "x"}}, "spec.a: - 1|spec.b: + x"},
		{"by name", "X", m{"l": []any{m{"name": "a", "v": "1"}, m{"name": "b"}}}, m{"l": []any{m{"name": "b"}, m{"name": "a", "v": "2"}}}, "l[a].v: 1 -> 2"},
		{"order", "X", m{"l": []any{m{"name": "a"}, m{"name": "b"}}}, m{"l": []any{m{"name": "b"}, m{"name": "a"}}}, `l: ["a","b"] -> ["b","a"]`},
		{"by position", "X", m{"l": []any{"a", "b"}}, m{"l": []any{"a", "c", "d"}}, "l[1]: b -> c|l[2]: + d"},
		{"status and managers", "X", m{"status": m{"a": "1"}, "metadata": m{"generation": int64(1)}}, m{"metadata": m{"generation": int64(2)}}, ""},
		{"labels", "X", m{"metadata": m{"labels": m{"a.b/c": "1"}}}, m{"metadata": m{"labels": m{"a.b/c": "2"}}}, "metadata.labels[a.b/c]: 1 -> 2"},
		{"secret", "Secret", m{"data": m{"a": "b2xk", "b": "eA=="}}, m{"data": m{"a": "bmV3", "b": "eA=="}}, "data.a: (secret) -> another (secret)"},
		{"secret gone", "Secret", m{"data": m{"a": "b2xk"}}, m{"type": "Opaque"}, "data.a: - (secret)|type: + Opaque"},
		{"terminal", "X", m{"a": "b"}, m{"a": "\x1b[31mc\x07"}, "a: b -> c"},
		{"copy of kubectl", "X", m{"metadata": m{"annotations": m{lastApplied: "{}"}}}, m{"metadata": m{}}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			p := newPrinter(&out)
			for _, f := range compare(nil, thing(tt.kind, tt.before), thing(tt.kind, tt.after)) {
				f.write(p)
			}
			var lines []string
			for line := range strings.Lines(out.String()) {
				lines = append(lines, strings.TrimSpace(line))
			}
			if got := strings.Join(lines, "|"); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func TestLines(t *testing.T) {
	got := lines("a\nb\nc\n", "a\nx\nc\n")
	if want := []string{"- b", "+ x"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := lines("", strings.Repeat("a\n", 100)); len(got) != maxLines+1 {
		t.Errorf("%d lines are shown", len(got))
	}
}

func FuzzManagedPaths(f *testing.F) {
	f.Add([]byte(`{"f:spec":{"f:replicas":{},"f:c":{"k:{\"name\":\"web\"}":{".":{},"f:image":{}}}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, path := range managedPaths(raw) {
			if strings.ContainsAny(path, "\n\x1b") {
				t.Errorf("path %q", path)
			}
		}
	})
}

func TestManagedPaths(t *testing.T) {
	got := managedPaths([]byte(`{"f:spec":{"f:replicas":{},"f:c":{"k:{\"name\":\"web\"}":{".":{},"f:image":{}}}}}`))
	slices.Sort(got)
	if want := []string{"spec.c[web].image", "spec.replicas"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
