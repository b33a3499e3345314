package host_test

import (
	"strings"
	"testing"

	"go.uber.org/goleak"

	"slipway/internal/engine"
	"slipway/internal/engine/enginetest"
	"slipway/internal/engine/host"
	"slipway/internal/plan"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEngine(t *testing.T) {
	shim := enginetest.Shim(t)
	enginetest.Run(t, func(t testing.TB, dir string) engine.Engine { return newEngine(t, dir, shim) })
}

func newEngine(t testing.TB, dir, shim string) *host.Engine {
	eng, err := host.New(host.Options{Dir: dir, Shim: shim})
	if err != nil {
		t.Fatal(err)
	}
	return eng
}

func TestUntrusted(t *testing.T) {
	eng := newEngine(t, t.TempDir(), "/bin/false")
	_, err := eng.Setup(t.Context(), engine.Spec{ID: enginetest.NewID(), Job: plan.Job{Workspace: "/w"}})
	if err == nil || !strings.Contains(err.Error(), "trusted") {
		t.Errorf("Setup of an untrusted job: %v", err)
	}
}

func TestRefused(t *testing.T) {
	eng := newEngine(t, t.TempDir(), "/bin/false")
	env, err := eng.Setup(t.Context(), engine.Spec{ID: enginetest.NewID(), Job: plan.Job{Workspace: "/w"}, Trusted: true})
	if err != nil {
		t.Fatal(err)
	}
	defer env.Close(t.Context())
	sh := []string{"/bin/sh"}
	for want, exec := range map[string]plan.Exec{
		"commands":       {},
		"volumes":        {Entrypoint: sh, Mounts: []plan.Mount{{Source: "v", Path: "/v"}}},
		"privileges":     {Entrypoint: sh, Privileged: true},
		"limits":         {Entrypoint: sh, Limits: plan.Limits{Memory: 1}},
		"/bin/false did": {Entrypoint: sh},
	} {
		_, err := env.Start(t.Context(), engine.Step{Name: want, Exec: exec}, nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Start of %+v: %v, want something about %s", exec, err, want)
		}
	}
}
