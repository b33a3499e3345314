package rollout_test

import (
	"fmt"
	"io"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"slipway/internal/cluster/clustertest"
	"slipway/internal/kube"
	"slipway/internal/manifest"
	"slipway/internal/rollout"
)

// BenchmarkFollow measures how long after the end of a rollout Slipway has noticed it, against a watch beside it, and how
// many requests the whole deployment took.
func BenchmarkFollow(b *testing.B) {
	c := clustertest.Start(b)
	c.Import(image, build(b))
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		b.Fatal(err)
	}
	transport, err := rest.TransportFor(config)
	if err != nil {
		b.Fatal(err)
	}
	target, err := url.Parse(config.Host)
	if err != nil {
		b.Fatal(err)
	}
	var requests atomic.Int64
	proxy := &httputil.ReverseProxy{Transport: transport, FlushInterval: -1, Rewrite: func(r *httputil.ProxyRequest) {
		requests.Add(1)
		r.SetURL(target)
	}}
	server := httptest.NewServer(proxy)
	defer server.Close()
	client, err := kube.FromKubeconfig(fmt.Appendf(nil, `{apiVersion: v1, kind: Config, current-context: a,
contexts: [{name: a, context: {cluster: a, user: a}}], clusters: [{name: a, cluster: {server: %q}}], users: [{name: a, user: {token: none}}]}`, server.URL))
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	beside, err := kube.FromFile(c.Kubeconfig, "")
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer root.Close()
	deploy := func(version string) {
		if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(web("v1}", version+"}")), 0o600); err != nil {
			b.Fatal(err)
		}
		rendered, err := manifest.Render(b.Context(), manifest.Source{Root: root, Paths: []string{"a.yaml"}})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := rollout.Deploy(b.Context(), rollout.Request{Client: client, Objects: rendered.Objects, Namespace: c.Namespace}, io.Discard); err != nil {
			b.Fatal(err)
		}
	}
	deploy("v0")
	requests.Store(0)
	var late time.Duration
	n := 0
	for b.Loop() {
		n++
		watch, err := beside.Core.AppsV1().Deployments(c.Namespace).Watch(b.Context(), metav1.ListOptions{})
		if err != nil {
			b.Fatal(err)
		}
		generation := int64(n + 1)
		ended := make(chan time.Time, 1)
		go func() {
			for event := range watch.ResultChan() {
				d := event.Object.(*appsv1.Deployment)
				if s := d.Status; s.ObservedGeneration >= generation && s.UpdatedReplicas == 2 && s.Replicas == 2 && s.AvailableReplicas == 2 {
					ended <- time.Now()
					return
				}
			}
		}()
		deploy(fmt.Sprint("v", n))
		noticed := time.Now()
		late += noticed.Sub(<-ended)
		watch.Stop()
	}
	b.ReportMetric(float64(late.Milliseconds())/float64(n), "ms-late/op")
	b.ReportMetric(float64(requests.Load())/float64(n), "requests/op")
}
