package ci_test

import (
	"strings"
	"testing"
	"time"

	"slipway/internal/ci"
)

func TestFindEnvironment(t *testing.T) {
	all := []ci.Environment{{Name: "*"}, {Name: "production"}, {Name: "review/*"}, {Name: "review/hot-*"}, {Name: "review/hot-main"}}
	for name, want := range map[string]string{
		"production":      "production ",
		"staging":         "* staging",
		"review/x":        "review/* x",
		"review/a/b":      "review/* a/b",
		"review/hot-x":    "review/hot-* x",
		"review/hot-main": "review/hot-main ",
		"review/":         "* review/",
	} {
		found, branch, ok := ci.FindEnvironment(all, name)
		if got := found.Name + " " + branch; !ok || got != want {
			t.Errorf("%s has the rules %q, want %q", name, got, want)
		}
	}
	if found, _, ok := ci.FindEnvironment(all[1:], "staging"); ok {
		t.Errorf("staging has the rules of %s", found.Name)
	}
}

func TestAllows(t *testing.T) {
	for _, test := range []struct {
		name     string
		branches []string
		want     string // of the refs below
	}{
		{"production", nil, "yyyy-"},
		{"review/*", nil, "yyyyy"},
		{"production", []string{"main"}, "y----"},
		{"production", []string{"release/*", "refs/tags/v*"}, "-y-y-"},
		{"production", []string{"**"}, "yyy--"},
		{"production", []string{"refs/pull/?/head"}, "----y"},
	} {
		e := ci.Environment{Name: test.name, Branches: test.branches}
		got := ""
		for _, ref := range []string{"refs/heads/main", "refs/heads/release/1", "refs/heads/release/1/x", "refs/tags/v1.0", "refs/pull/7/head"} {
			if e.Allows(ref) {
				got += "y"
			} else {
				got += "-"
			}
		}
		if got != test.want {
			t.Errorf("%s with %q allows %s, want %s", test.name, test.branches, got, test.want)
		}
	}
}

func FuzzBranchSlug(f *testing.F) {
	for _, branch := range []string{"main", "feature/login", "feature-login", "Feature-Login", strings.Repeat("x", 100), "-", "ünï", "", "a--b", "deadbeef"} {
		f.Add(branch, "main")
		if slug := ci.BranchSlug(branch); slug != branch {
			f.Add(branch, slug) // a branch of that very name
		}
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		one, two := ci.BranchSlug(a), ci.BranchSlug(b)
		if a != b && one == two {
			t.Errorf("%q and %q are both %q", a, b, one)
		}
		if len(one) > ci.MaxBranchSlug || one == "" || strings.Trim(one, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" ||
			strings.HasPrefix(one, "-") || strings.HasSuffix(one, "-") {
			t.Errorf("%q is %q, which is no DNS label", a, one)
		}
	})
}

func TestEnvironmentFor(t *testing.T) {
	e := ci.Environment{Name: "review/*", Namespace: "shop-{branch}", URL: "https://{branch}.example.com"}.For("feature/Login")
	if e.Name != "review/feature/Login" || !strings.HasPrefix(e.Namespace, "shop-feature-login-") || !strings.HasPrefix(e.URL, "https://feature-login-") {
		t.Errorf("%+v", e)
	}
}

func TestFreeze(t *testing.T) {
	at := func(text string) time.Time {
		t.Helper()
		parsed, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	weekend := ci.Freeze{Start: "fri 16:00", End: "Monday 08:00", Zone: "Europe/Berlin"}
	night := ci.Freeze{Start: "18:00", End: "08:00"}
	once := ci.Freeze{From: at("2026-12-23T18:00:00Z"), Until: at("2027-01-02T08:00:00Z")}
	for _, test := range []struct {
		freeze   ci.Freeze
		now, end string // the end in UTC, or empty
	}{
		{weekend, "2026-11-20T14:59:59Z", ""}, // Friday, in winter time
		{weekend, "2026-11-20T15:00:00Z", "2026-11-23T07:00:00Z"},
		{weekend, "2026-11-22T23:00:00Z", "2026-11-23T07:00:00Z"},
		{weekend, "2026-11-23T07:00:00Z", ""},
		{weekend, "2026-03-28T12:00:00Z", "2026-03-30T06:00:00Z"}, // the clock goes forward meanwhile
		{night, "2026-11-20T17:59:59Z", ""},
		{night, "2026-11-20T18:00:00Z", "2026-11-21T08:00:00Z"},
		{night, "2026-11-21T07:59:59Z", "2026-11-21T08:00:00Z"},
		{once, "2026-12-23T17:59:59Z", ""},
		{once, "2026-12-31T00:00:00Z", "2027-01-02T08:00:00Z"},
		{once, "2027-01-02T08:00:00Z", ""},
		{ci.Freeze{Start: "mon 10:00", End: "mon 09:00"}, "2026-11-23T09:30:00Z", ""},
		{ci.Freeze{Start: "mon 10:00", End: "mon 09:00"}, "2026-11-23T08:30:00Z", "2026-11-23T09:00:00Z"},
	} {
		if err := test.freeze.Check(); err != nil {
			t.Fatal(err)
		}
		end, frozen := test.freeze.Ends(at(test.now))
		got := ""
		if frozen {
			got = end.UTC().Format(time.RFC3339)
		}
		if got != test.end {
			t.Errorf("%+v at %s ends at %q, want %q", test.freeze, test.now, got, test.end)
		}
	}
	// One follows another at once.
	first, end, frozen := ci.FrozenUntil([]ci.Freeze{night, weekend}, at("2026-11-20T16:00:00Z"), nil)
	if !frozen || first.Start != weekend.Start || !end.Equal(at("2026-11-23T08:00:00Z")) {
		t.Errorf("%+v until %s", first, end)
	}
	if _, _, frozen := ci.FrozenUntil([]ci.Freeze{weekend}, at("2026-11-20T16:00:00Z"), func(ci.Freeze) bool { return true }); frozen {
		t.Error("frozen by what is to be skipped")
	}
	// Two that leave no gap end after all.
	if _, _, frozen := ci.FrozenUntil([]ci.Freeze{{Start: "08:00", End: "20:00"}, {Start: "20:00", End: "08:00"}}, at("2026-11-20T16:00:00Z"), nil); !frozen {
		t.Error("not frozen")
	}
}

func FuzzFreeze(f *testing.F) {
	f.Add("fri 16:00", "mon 08:00", "Europe/Berlin", int64(1795000000))
	f.Add("02:30", "02:31", "America/New_York", int64(1772953200))
	f.Add("", "x", "../etc/passwd", int64(0))
	f.Fuzz(func(t *testing.T, start, end, zone string, now int64) {
		freeze := ci.Freeze{Start: start, End: end, Zone: zone}
		if freeze.Check() != nil {
			return
		}
		at := time.Unix(now%(1<<40), 0)
		if until, frozen := freeze.Ends(at); frozen && (!until.After(at) || until.Sub(at) > 9*24*time.Hour) {
			t.Errorf("%+v at %s ends at %s", freeze, at, until)
		}
	})
}
