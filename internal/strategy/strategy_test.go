package strategy_test

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"slipway/internal/ci"
	"slipway/internal/strategy"
)

func TestParse(t *testing.T) {
	s, problems := strategy.Parse(`
kind: canary
deployments: [web, api]
steps:
- 10:90s
- {weight: 25%, pause: 2m, checks: [/ready]}
- 50:manual
- {weight: 75, manual: true}
- 100
checks:
- {url: /healthz, status: 204, count: 3, interval: 5s, failures: 1}
- {name: error rate, url: "http://prometheus:9090", query: 'rate(errors[1m])', condition: "< 0.01"}
- {url: "https://a", username: ada, password: {from_secret: p}, ca: {from_secret: c}}
- {url: "https://a", token: {from_secret: t}}
`)
	want := ci.Strategy{
		Kind: ci.Canary, Deployments: []string{"web", "api"},
		Steps: []ci.StrategyStep{
			{Weight: 10, Pause: 90}, {Weight: 25, Pause: 120, Checks: []ci.Check{{URL: "/ready"}}}, {Weight: 50, Manual: true}, {Weight: 75, Manual: true}, {Weight: 100},
		},
		Checks: []ci.Check{
			{URL: "/healthz", Status: 204, Count: 3, Interval: 5, Failures: 1},
			{Name: "error rate", URL: "http://prometheus:9090", Query: "rate(errors[1m])", Condition: "< 0.01"},
			{URL: "https://a", Login: ci.Login{Username: "ada", Password: &ci.FromSecret{Secret: "p"}, CA: &ci.FromSecret{Secret: "c"}}},
			{URL: "https://a", Login: ci.Login{Token: &ci.FromSecret{Secret: "t"}}},
		},
	}
	if len(problems) > 0 || !reflect.DeepEqual(s, want) {
		t.Errorf("read %+v, %v", s, problems)
	}
	s, problems = strategy.Parse("kind: blue-green\nmanual: true\nkeep: 30s\nafter: [{url: /}]\n")
	if want = (ci.Strategy{Kind: ci.BlueGreen, Manual: true, Keep: 30, After: []ci.Check{{URL: "/"}}}); len(problems) > 0 || !reflect.DeepEqual(s, want) {
		t.Errorf("read %+v, %v", s, problems)
	}
	if s, problems = strategy.Parse("recreate"); len(problems) > 0 || !reflect.DeepEqual(s, ci.Strategy{Kind: ci.Recreate}) {
		t.Errorf("read %+v, %v", s, problems)
	}
}

func TestProblems(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   "1:1: there is no strategy",
		"cannary":                            `1:1: there is no strategy "cannary"; there are rolling, recreate, blue-green, canary`,
		"[canary]":                           "1:1: the strategy must be a mapping, not a list",
		"stesp: [10]":                        `1:1: the strategy has no key "stesp"; did you mean "steps"?`,
		"steps: [10]":                        "1:1: the strategy needs a kind",
		"kind: canary\nsteps: x":             "2:8: steps must be a list",
		"kind: canary\nsteps: [10, 10]":      "1:1: the strategy step 2: the weight 10 must be more than the 10 before it",
		"kind: canary\nsteps: [10, 101]":     `2:13: the step "101" must begin with a whole number of percent`,
		"kind: canary\nsteps: [\"10:soon\"]": `2:9: the step "10:soon" must end with a time`,
		"kind: canary\nsteps: [{pause: 2m}]": "2:9: a step needs a weight",
		"kind: canary\nsteps: [{weight: 5, pause: 1s, manual: true}]":                                                   "2:9: a step has a pause or is manual, not both",
		"kind: canary\nsteps: []":                                                                                       "2:8: steps must have at least one step",
		"kind: canary\nkeep: 1m":                                                                                        "1:1: the strategy has keep, which only blue-green has, and not canary",
		"kind: recreate\nchecks: [/]":                                                                                   "1:1: the strategy has checks, which only canary and blue-green have, and not recreate",
		"kind: blue-green\nmanual: perhaps":                                                                             "2:9: manual must be true or false",
		"kind: blue-green\nkeep: -1s":                                                                                   "2:7: keep must be a time such as",
		"kind: blue-green\nchecks: [ftp://a]":                                                                           "2:10: the check cannot be used: url must be an address",
		"kind: blue-green\nchecks: [//a]":                                                                               "2:10: the check cannot be used: url must be an address",
		"kind: blue-green\nchecks: [\"http://u:p@a\"]":                                                                  "2:10: the check cannot be used: url may not have a password",
		"kind: canary\nchecks: [{url: /, query: x, condition: \"> 1\"}]":                                                "2:10: the check cannot be used: url must be the address of Prometheus",
		"kind: canary\nchecks: [{url: \"http://p\", query: x}]":                                                         `condition must be a comparison with a number`,
		"kind: canary\nchecks: [{url: /, condition: \"> 1\"}]":                                                          "condition is for checks with a query",
		"kind: canary\nkind: canary":                                                                                    `the key "kind" is there twice`,
		"kind: canary\nchecks: [{url: /, token: {from_secret: t}}]":                                                     "a path is asked by way of the API server, so it has no login",
		"kind: canary\nchecks: [{url: \"http://a\", token: t}]":                                                         "2:35: token must be {from_secret: NAME}",
		"kind: canary\nchecks: [{url: \"http://a\", token: {from_secret: \"\"}}]":                                       "must name a secret",
		"kind: canary\nchecks: [{url: \"http://a\", ca: {from_secret: t}}]":                                             "a ca is for a url that begins with https://",
		"kind: canary\nchecks: [{url: \"http://a\", username: a}]":                                                      "username and password need each other",
		"kind: canary\nchecks: [{url: \"http://a\", username: \"a:b\", password: {from_secret: t}}]":                    `"a:b" cannot be a username`,
		"kind: canary\nchecks: [{url: \"http://a\", username: a, password: {from_secret: t}, token: {from_secret: t}}]": "not both",
		"kind: {": "1:",
	} {
		_, problems := strategy.Parse(text)
		var all []string
		for _, p := range problems {
			all = append(all, fmt.Sprintf("%d:%d: %s", p.Pos.Line, p.Pos.Column, p.Message))
		}
		if !strings.Contains(strings.Join(all, "\n"), want) || len(all) == 0 {
			t.Errorf("%q gives %q, want %q", text, all, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("kind: canary\nsteps: [10:2m, {weight: 50, manual: true}]\nchecks: [{url: /a, count: 2}]")
	f.Add("{kind: blue-green, keep: 5m, after: [{url: 'http://p', query: up, condition: '== 1'}]}")
	f.Fuzz(func(t *testing.T, text string) {
		s, problems := strategy.Parse(text)
		if len(problems) == 0 {
			if err := s.Validate(); err != nil {
				t.Errorf("%q is taken for %+v: %v", text, s, err)
			}
		}
	})
}
