package ci_test

import (
	"math"
	"testing"

	"slipway/internal/ci"
)

func TestCondition(t *testing.T) {
	for text, holds := range map[string][3]bool{ // for 0.5, 1 and 2
		"< 1": {true, false, false}, "<=1": {true, true, false}, "> 1": {false, false, true}, ">= 1e0": {false, true, true}, " == 1 ": {false, true, false}, "!= 1": {true, false, true},
	} {
		c, err := ci.ParseCondition(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		for i, value := range []float64{0.5, 1, 2} {
			if c.Holds(value) != holds[i] {
				t.Errorf("%g %s is %t", value, c, c.Holds(value))
			}
		}
		if c.Holds(math.NaN()) {
			t.Errorf("%q holds for what is no number", text)
		}
	}
	for _, text := range []string{"", "1", "< ", "<< 1", "< x", "= 1", "< NaN", "< 1 2"} {
		if c, err := ci.ParseCondition(text); err == nil {
			t.Errorf("%q is taken for %s", text, c)
		}
	}
}

// The parts of a strategy that its readers cannot get wrong may still come over the wire.
func TestStrategyBounds(t *testing.T) {
	for name, s := range map[string]ci.Strategy{
		"no kind":       {},
		"weight":        {Kind: ci.Canary, Steps: []ci.StrategyStep{{Weight: -1}}},
		"pause":         {Kind: ci.Canary, Steps: []ci.StrategyStep{{Pause: math.MaxInt64}}},
		"keep":          {Kind: ci.BlueGreen, Keep: -1},
		"steps":         {Kind: ci.Canary, Steps: make([]ci.StrategyStep, 1000)},
		"checks":        {Kind: ci.Canary, Checks: make([]ci.Check, 1000)},
		"interval":      {Kind: ci.Canary, Checks: []ci.Check{{URL: "/", Interval: -1}}},
		"count":         {Kind: ci.Canary, Checks: []ci.Check{{URL: "/", Count: -1}}},
		"status":        {Kind: ci.Canary, Checks: []ci.Check{{URL: "/", Status: 99}}},
		"way out":       {Kind: ci.Canary, Checks: []ci.Check{{URL: "/a/../../../../nodes"}}},
		"hidden way":    {Kind: ci.Canary, Checks: []ci.Check{{URL: "/a%2f.%2e/nodes"}}},
		"check of step": {Kind: ci.Canary, Steps: []ci.StrategyStep{{Checks: []ci.Check{{}}}}},
		"after":         {Kind: ci.BlueGreen, After: []ci.Check{{}}},
		"rolling":       {Kind: ci.Rolling, Deployments: []string{"a"}},
	} {
		if s.Validate() == nil {
			t.Errorf("%s: %+v is valid", name, s)
		}
	}
	if err := (ci.Strategy{Kind: ci.Canary, Steps: ci.DefaultSteps()}).Validate(); err != nil {
		t.Errorf("the default is not valid: %v", err)
	}
}

func TestStrategyAsksOthers(t *testing.T) {
	inside, outside := []ci.Check{{URL: "/healthz"}}, []ci.Check{{URL: "/healthz"}, {URL: "http://10.0.0.1/"}}
	for name, s := range map[string]struct {
		ci.Strategy
		want bool
	}{
		"none":   {ci.Strategy{Kind: ci.Rolling}, false},
		"paths":  {ci.Strategy{Kind: ci.BlueGreen, Checks: inside, After: inside}, false},
		"checks": {ci.Strategy{Kind: ci.BlueGreen, Checks: outside}, true},
		"after":  {ci.Strategy{Kind: ci.BlueGreen, After: outside}, true},
		"step":   {ci.Strategy{Kind: ci.Canary, Checks: inside, Steps: []ci.StrategyStep{{}, {Checks: outside}}}, true},
	} {
		if got := s.AsksOthers(); got != s.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
