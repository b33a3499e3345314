package auth_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"slipway/internal/auth"
	"slipway/internal/fault"
	"slipway/internal/flow/flowtest"
	"slipway/internal/protocol"
)

func TestPrincipals(t *testing.T) {
	// Each row says for whom what is allowed, by letters: Admin, Runner, Manages, Reads of ada/engine, pulls and Pushes of
	// its images, pull of a mirror's, and then of another repo's images.
	for want, who := range map[string]auth.Principal{
		"ARMR pP m p":    {Scopes: []string{auth.ScopeAdmin}},
		"--MR pP m -":    {Scopes: []string{"repo:ada/engine"}},
		"---- -- m p":    {Scopes: []string{"repo:eve/other"}},
		"---- p- m p":    {Scopes: []string{auth.ScopePull}},
		"-R-- -- m -":    {Scopes: []string{auth.ScopeRunner}},
		"---- p- m - ":   {Scopes: []string{"pull:ada/engine"}},
		"---- -- m -  ":  {Scopes: []string{"pull:ada/eng", "metrics"}},
		"---R pP m -":    {Scopes: []string{"repo:ada/engine"}, Job: 7},
		"---R p- m -":    {Scopes: []string{"repo:ada/engine"}, Job: 7, ReadOnly: true},
		"--MR pP m - ":   {Scopes: []string{"repo:Ada/Engine"}},
		"---- p- m -   ": {Scopes: []string{"pull:ADA/engine"}},
		"---- -- - -":    {},
		"---- -- - - ":   {Scopes: []string{"metrics"}},
		"---- -- m - ":   {Scopes: []string{"repo:ada/eng"}},
	} {
		letter := func(c string, allowed bool) string {
			if allowed {
				return c
			}
			return "-"
		}
		got := letter("A", who.Admin()) + letter("R", who.Runner()) + letter("M", who.Manages("ada/engine")) + letter("R", who.Reads("ada/engine")) + " " +
			letter("p", who.Pulls("ada/engine/app")) + letter("P", who.Pushes("ada/engine/app")) + " " +
			letter("m", who.Pulls("mirror/docker.io/library/busybox")) + " " + letter("p", who.Pulls("eve/other"))
		if !strings.HasPrefix(want, got) {
			t.Errorf("%+v may %q, want %q", who, got, want)
		}
		if !who.Admin() && (who.Pushes("mirror/docker.io/library/busybox") || who.Pushes("eve") || who.Pushes("")) {
			t.Errorf("%+v pushes where it must not", who)
		}
	}
}

func TestTokens(t *testing.T) {
	s := flowtest.New(t)
	text, made, err := s.Auth.Create(t.Context(), "ci", []string{"repo:ada/engine"}, s.Clock.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if who, err := s.Auth.Find(t.Context(), text); err != nil || who.Name != "ci" || !who.Manages("ada/engine") {
		t.Errorf("%+v, %v", who, err)
	}
	for _, wrong := range []string{"", text + "x", strings.ToUpper(text), "slj_", "slj_x_y", "slj_1_", fmt.Sprintf("%x", made.Hash)} {
		if _, err := s.Auth.Find(t.Context(), wrong); fault.Of(err) == nil || fault.Of(err).Code != fault.Unauthorized {
			t.Errorf("%q: %v", wrong, err)
		}
	}
	s.Clock.Forward(time.Hour)
	if _, err := s.Auth.Find(t.Context(), text); err == nil || !strings.Contains(err.Error(), `the token "ci" expired on`) {
		t.Errorf("an expired token: %v", err)
	}
	for _, scopes := range [][]string{nil, {"root"}, {"repo:ada"}, {"repo:a/b/c"}, {"pull:"}, {"pull:ada"}, {"admin", ""}} {
		if _, _, err := s.Auth.Create(t.Context(), "x", scopes, time.Time{}); fault.Of(err) == nil || fault.Of(err).Code != fault.Invalid {
			t.Errorf("scopes %q: %v", scopes, err)
		}
	}
}

// A job's token is good while the job runs, for its own repo, and nobody can make one.
func TestJobToken(t *testing.T) {
	s := flowtest.New(t)
	run := s.Push("kind: pipeline\ntype: docker\nname: test\nsteps: [{name: a, image: busybox, commands: [make]}]\n")
	id := run.Jobs[0].ID
	if _, err := s.Auth.Find(t.Context(), s.Auth.JobToken(id)); err == nil {
		t.Error("the token of a job that waits is good")
	}
	lease := strings.Repeat("l", protocol.MinLease)
	if _, err := s.Claim(t.Context(), protocol.Claim{Lease: lease, OS: "linux", Arch: "amd64"}); err != nil {
		t.Fatal(err)
	}
	token := s.Auth.JobToken(id)
	if who, err := s.Auth.Find(t.Context(), token); err != nil || who.Job != id || !who.Reads("ada/engine") || who.Manages("ada/engine") {
		t.Errorf("%+v, %v", who, err)
	}
	forger := *s.Auth
	forger.Key = []byte("another key that has 32 bytes too")
	for _, forged := range []string{forger.JobToken(id), token[:len(token)-2], strings.Replace(token, fmt.Sprintf("_%d_", id), fmt.Sprintf("_%d_", id+1), 1)} {
		if _, err := s.Auth.Find(t.Context(), forged); err == nil {
			t.Errorf("the forged token %s is good", forged)
		}
	}
	if err := s.Finish(t.Context(), lease, protocol.Outcome{Status: "success"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Auth.Find(t.Context(), token); err == nil || !strings.Contains(err.Error(), "over") {
		t.Errorf("the token outlives its job: %v", err)
	}
}
