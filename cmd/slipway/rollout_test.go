package main

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"slipway/internal/ci"
)

func TestStrategyFlags(t *testing.T) {
	file := filepath.Join(t.TempDir(), "strategy.yaml")
	if err := os.WriteFile(file, []byte("kind: canary\nsteps: [5:1m]\nchecks: [/healthz]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wrong := filepath.Join(t.TempDir(), "wrong.yaml")
	if err := os.WriteFile(wrong, []byte("kind: canary\nsteps: [5%:soon]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		flags strategyFlags
		want  *ci.Strategy
		err   string
	}{
		{strategyFlags{}, nil, ""},
		{strategyFlags{strategy: "recreate"}, &ci.Strategy{Kind: ci.Recreate}, ""},
		{strategyFlags{strategy: "canary", steps: "10:90s, 50:manual"}, &ci.Strategy{Kind: ci.Canary, Steps: []ci.StrategyStep{{Weight: 10, Pause: 90}, {Weight: 50, Manual: true}}}, ""},
		{strategyFlags{strategy: file}, &ci.Strategy{Kind: ci.Canary, Steps: []ci.StrategyStep{{Weight: 5, Pause: 60}}, Checks: []ci.Check{{URL: "/healthz"}}}, ""},
		{strategyFlags{steps: "10"}, nil, "--steps needs --strategy canary"},
		{strategyFlags{strategy: "blue-green", steps: "10"}, nil, "has steps, which only canary has, and not blue-green"},
		{strategyFlags{strategy: "canary", steps: "10,x"}, nil, `--steps: the step "x" must begin with a whole number of percent`},
		{strategyFlags{strategy: "yellow"}, nil, `there is no strategy and no file "yellow"`},
		{strategyFlags{strategy: wrong}, nil, "wrong.yaml:2:9: the step \"5%:soon\" must end with a time"},
	} {
		got, err := c.flags.read()
		if c.err == "" && (err != nil || !reflect.DeepEqual(got, c.want)) {
			t.Errorf("%+v give %+v, %v", c.flags, got, err)
		}
		if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%+v give the error %v, want %q", c.flags, err, c.err)
		}
	}
}
