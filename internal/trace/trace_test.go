package trace

import (
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"slipway/internal/ci"
	"slipway/internal/release"
)

var start = time.Date(2026, 2, 3, 12, 0, 0, 0, time.UTC)

// past is a history, newest first: v1, v2, v1 with other settings, one of v3 that failed and was taken back, and a rollback to
// the first.
func past() []ci.Release {
	at := func(number int64, image, digest string) ci.Release {
		begun := start.Add(time.Duration(number) * time.Hour)
		return ci.Release{Number: number, Status: ci.Success, Started: begun, Finished: begun.Add(time.Minute), Images: []string{"r/db@sha256:d", image}, Digest: digest}
	}
	failed := at(4, "r/web@sha256:3", "four")
	failed.Status, failed.Restored = ci.Failure, 3
	back := at(5, "r/web@sha256:1", "one")
	back.Of = 1
	return []ci.Release{back, failed, at(3, "r/web@sha256:1", "three"), at(2, "r/web@sha256:2", "two"), at(1, "r/web@sha256:1", "one")}
}

func TestPick(t *testing.T) {
	web := []string{"r/web@sha256:1"}
	history := past()
	for _, test := range []struct {
		name   string
		state  release.State
		origin origin
		want   int64
	}{
		{"the workload, and all is well", release.State{Current: 5, Latest: history[0]}, origin{}, 5},
		{"the workload after a failure that was taken back", release.State{Current: 3, Latest: history[1]}, origin{}, 3},
		{"the workload during a deployment", release.State{Current: 3, Latest: history[1], Pending: true}, origin{}, 4},
		{"the workload of which nothing was good", release.State{Latest: history[1]}, origin{}, 5},
		{"a pod of the second", release.State{Current: 5}, origin{start.Add(2*time.Hour + time.Second), []string{"r/web@sha256:2"}}, 2},
		{"a pod of the third, with the image of the first", release.State{Current: 3}, origin{start.Add(3*time.Hour + time.Second), web}, 3},
		{"a pod that the failed one brought", release.State{Current: 3}, origin{start.Add(4*time.Hour + time.Second), []string{"r/web@sha256:3"}}, 4},
		{"a ReplicaSet of the first, which serves again", release.State{Current: 5}, origin{start.Add(time.Hour + time.Second), web}, 5},
		{"a ReplicaSet of the first, before that", release.State{Current: 3}, origin{start.Add(time.Hour + time.Second), web}, 1},
		{"a cluster whose clock is late", release.State{Current: 3}, origin{start.Add(3*time.Hour - 5*time.Second), web}, 3},
		{"a pod from before what is remembered", release.State{Current: 3}, origin{start, web}, 1},
		{"an image that nobody deployed", release.State{Current: 3}, origin{start.Add(time.Hour), []string{"r/web@sha256:9"}}, 0},
	} {
		got, why := pick(history, test.state, test.origin)
		switch {
		case got == nil && (test.want != 0 || why == ""):
			t.Errorf("%s: none (%s), want %d", test.name, why, test.want)
		case got != nil && got.Number != test.want:
			t.Errorf("%s: %d, want %d", test.name, got.Number, test.want)
		}
	}
	// Releases may follow each other within seconds, and a cluster counts whole ones.
	quick := []ci.Release{
		{Number: 2, Started: start.Add(4500 * time.Millisecond), Finished: start.Add(6 * time.Second), Images: web},
		{Number: 1, Started: start.Add(500 * time.Millisecond), Finished: start.Add(3 * time.Second), Images: web},
	}
	for made, want := range map[time.Duration]int64{0: 1, 2 * time.Second: 1, 4 * time.Second: 2, time.Hour: 2} {
		if got, _ := pick(quick, release.State{Current: 2}, origin{start.Add(made), web}); got.Number != want {
			t.Errorf("made after %s: %d, want %d", made, got.Number, want)
		}
	}
	if got, why := pick(nil, release.State{Environment: "x"}, origin{}); got != nil || why == "" {
		t.Errorf("of no history: %v, %q", got, why)
	}
}

func TestUses(t *testing.T) {
	r := ci.Release{Images: []string{"r/web@sha256:1", "r/db:5"}}
	for image, want := range map[string]string{
		"r/web@sha256:1": "r/web@sha256:1", "sha256:1": "r/web@sha256:1", "mirror/r/web@sha256:1": "r/web@sha256:1", "r/db:5": "r/db:5",
		"r/web": "", "r/db": "", "sha256:2": "", "": "",
	} {
		if got := Uses(r, image); got != want {
			t.Errorf("%q: %q, want %q", image, got, want)
		}
	}
}

func TestIngressRoutes(t *testing.T) {
	exact, prefix := networkingv1.PathTypeExact, networkingv1.PathTypePrefix
	path := func(path string, kind *networkingv1.PathType, service string) networkingv1.HTTPIngressPath {
		return networkingv1.HTTPIngressPath{Path: path, PathType: kind, Backend: networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: service}}}
	}
	rule := func(host string, paths ...networkingv1.HTTPIngressPath) networkingv1.IngressRule {
		return networkingv1.IngressRule{Host: host, IngressRuleValue: networkingv1.IngressRuleValue{HTTP: &networkingv1.HTTPIngressRuleValue{Paths: paths}}}
	}
	ingress := networkingv1.Ingress{
		ObjectMeta: metav1.ObjectMeta{Name: "i", Namespace: "n"},
		Spec: networkingv1.IngressSpec{
			DefaultBackend: &networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: "default"}},
			Rules: []networkingv1.IngressRule{
				rule("shop.example.com", path("/", &prefix, "shop"), path("/cart", &prefix, "cart"), path("/cart", &exact, "exact")),
				rule("*.example.com", path("/", &prefix, "wild")),
				rule("", path("/health", nil, "any")),
				{Host: "nothing.example.com"},
			},
		},
	}
	for address, want := range map[[2]string]string{
		{"shop.example.com", "/"}:        "shop",
		{"shop.example.com", "/cart"}:    "exact",
		{"shop.example.com", "/cart/7"}:  "cart",
		{"shop.example.com", "/carton"}:  "shop",
		{"other.example.com", "/x"}:      "wild",
		{"example.com", "/x"}:            "default",
		{"example.org", "/health/x"}:     "any",
		{"other.example.com", "/health"}: "wild",
	} {
		routes := ingressRoutes(ingress, address[0], address[1])
		if got := best(routes); got.service != want || got.namespace != "n" || got.via == "" {
			t.Errorf("%v leads to %+v, want %s", address, got, want)
		}
	}
}
