package rollout_test

import (
	"strings"
	"testing"

	"slipway/internal/ci"
	"slipway/internal/fault"
)

// routes defines HTTPRoutes, with what of their schema counts here: the Gateway API has it at
// https://gateway-api.sigs.k8s.io/reference/spec/#httproute. No gateway is needed to read weights.
const routes = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata:
  name: httproutes.gateway.networking.k8s.io
  annotations: {api-approved.kubernetes.io: "https://github.com/kubernetes-sigs/gateway-api/pull/3328"}
spec:
  group: gateway.networking.k8s.io
  scope: Namespaced
  names: {kind: HTTPRoute, listKind: HTTPRouteList, plural: httproutes, singular: httproute}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties:
              parentRefs: {type: array, x-kubernetes-list-type: atomic, items: {type: object, x-kubernetes-preserve-unknown-fields: true}}
              rules:
                type: array
                x-kubernetes-list-type: atomic
                items:
                  type: object
                  properties:
                    matches: {type: array, x-kubernetes-list-type: atomic, items: {type: object, x-kubernetes-preserve-unknown-fields: true}}
                    backendRefs:
                      type: array
                      x-kubernetes-list-type: atomic
                      items:
                        type: object
                        required: [name]
                        properties:
                          group: {type: string, default: ""}
                          kind: {type: string, default: Service}
                          name: {type: string}
                          namespace: {type: string}
                          port: {type: integer, format: int32}
                          weight: {type: integer, format: int32, default: 1, minimum: 0, maximum: 1000000}
`

func route(name string) string {
	return `
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: ` + name + `}
spec:
  parentRefs: [{name: gateway}]
  rules:
  - backendRefs: [{name: web, port: 80}]
  - backendRefs: [{name: web, port: 80, weight: 3}, {name: other, port: 80, weight: 1}]
`
}

// TestCanaryByRoute has an HTTPRoute of the environment, and one of somebody else, which split the traffic by weights.
func TestCanaryByRoute(t *testing.T) {
	s := start(t)
	s.Apply(routes)
	s.Kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd/httproutes.gateway.networking.k8s.io")
	s.must(app("replicas: 2", "replicas: 3") + route("own"))
	s.Apply(route("foreign"))
	weights := func(name string) string {
		return s.Kubectl("get", "httproute", name, "-o", `jsonpath={range .spec.rules[*]}{range .backendRefs[*]}{.name}={.weight} {end}/ {end}`)
	}
	const plain = "web=1 / web=3 other=1 / "
	seen := map[string]string{}
	steps := []ci.StrategyStep{{Weight: 10}, {Weight: 60}}
	look := s.onLine(func(line string) {
		for _, at := range []string{"10 % of the traffic", "60 % of the traffic", "all traffic"} {
			if strings.HasPrefix(line, "canary: "+at) {
				seen[at] = weights("own") + weights("foreign") + s.Kubectl("get", "deployment", "web-canary", "-o", "jsonpath={.spec.replicas}") +
					s.Kubectl("get", "service", "web", "-o", `jsonpath= {.spec.selector.slipway/track}`)
			}
		}
	})
	_, out := s.must(app("v1}", "v2}", "replicas: 2", "replicas: 3")+route("own"), by(ci.Strategy{Kind: ci.Canary, Steps: steps}), look)
	wantLines(t, out, "canary: 10 % of the traffic of deployment/web goes to the new version by httproute/foreign (1 of 4 pods)")
	for at, want := range map[string]string{
		"10 % of the traffic": strings.Repeat("web=90 web-canary=10 / web=270 web-canary=30 other=100 / ", 2) + "1 ",
		"60 % of the traffic": strings.Repeat("web=40 web-canary=60 / web=120 web-canary=180 other=100 / ", 2) + "2 ",
		// Before the old pods go, nothing is sent to them any more.
		"all traffic": strings.Repeat("web=0 web-canary=100 / web=0 web-canary=300 other=100 / ", 2) + "3 canary",
	} {
		if seen[at] != want {
			t.Errorf("at %s the weights are %q, want %q", at, seen[at], want)
		}
	}
	after := func() {
		t.Helper()
		for _, name := range []string{"own", "foreign"} {
			if got := weights(name); got != plain {
				t.Errorf("afterwards the weights of %s are %q", name, got)
			}
		}
	}
	after()
	s.wantLeft("v2", "v2", "v2")
	if state := s.state(); state.Progress != nil || len(state.Objects) != 4 {
		t.Errorf("the state is %+v", state)
	}
	strategy := ci.Strategy{Kind: ci.Canary, Steps: steps, Checks: []ci.Check{{URL: "/broken", Interval: 1}}}
	s.fails(app("v1}", "v3}", "replicas: 2", "replicas: 3")+route("own"), fault.Failed, []string{"the check /broken failed at step 1 of 2", "ROLLED BACK: release 2 serves again"}, by(strategy))
	after()
	s.wantLeft("v2", "v2", "v2")
	s.wantThere("deployment.apps/web", "service/web")
	if got := s.Kubectl("get", "service", "web", "-o", "jsonpath={.spec.selector}"); got != `{"app":"web"}` {
		t.Errorf("the selector of the service is %s", got)
	}
}
