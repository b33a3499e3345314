package rollout

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/kube"
	"slipway/internal/manifest"
)

func TestKeepOut(t *testing.T) {
	object := func(kind, namespace, name string) manifest.Object {
		u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": kind}}
		u.SetNamespace(namespace)
		u.SetName(name)
		return manifest.Object{Unstructured: u, Origin: manifest.Position{File: "app.yaml"}}
	}
	reserved := []ci.Reserved{
		{Namespace: "shop", Environment: "production"},
		{Cluster: "https://far.example.com:6443", Namespace: "far", Environment: "abroad"},
	}
	for _, c := range []struct {
		namespace, kubeconfig string
		object                manifest.Object
		want                  string
	}{
		{"test", "", object("Secret", "", "a"), ""},
		{"test", "", object("Secret", "other", "a"), ""},
		{"test", "", object("Secret", "shop", "a"), "a is for the namespace shop, which belongs to the environment production"},
		{"test", "", object("Namespace", "", "shop"), "which belongs to the environment production"},
		{"shop", "", object("Secret", "", "a"), "the namespace shop belongs to the environment production"},
		{"test", "", object("Secret", "far", "a"), ""},
		{"test", "brought", object("Secret", "far", "a"), "which belongs to the environment abroad"},
		{"test", "brought", object("Secret", "shop", "a"), ""},
	} {
		s := Step{Environment: "test", Namespace: c.namespace, Kubeconfig: []byte(c.kubeconfig), Reserved: reserved}
		r := s.bare(&kube.Client{Host: "https://far.example.com:6443"})
		r.Objects = []manifest.Object{c.object}
		err := s.keepOut(r)
		if c.want == "" && err != nil || c.want != "" && (fault.Of(err).Code != fault.Forbidden || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
