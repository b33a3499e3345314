package api_test

import (
	"strings"
	"testing"
	"time"

	"slipway/internal/ci"
)

// TestDrift shows to each what they may see.
func TestDrift(t *testing.T) {
	f := newFixture(t)
	object := ci.DriftedObject{Kind: "ConfigMap", Name: "settings", Fields: []ci.Field{{Path: "data.key", Old: "very-private"}}, By: []ci.Author{{Manager: "kubectl-edit"}}}
	for _, repo := range []string{"ada/engine", "ada/open", ""} {
		d := ci.Drift{Environment: "production", Namespace: "shop", Repo: repo, Release: 3, Since: time.Now(), Objects: []ci.DriftedObject{object}}
		if err := f.DB.PutDrift(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		who         string
		repos, full string
	}{
		{"admin", ",ada/engine,ada/open", ",ada/engine,ada/open"},
		{"repo:ada/engine", "ada/engine,ada/open", "ada/engine"},
		{"", "ada/open", ""},
	} {
		all, err := f.as(t, test.who).Drifts(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		var repos, full []string
		for _, d := range all {
			repos = append(repos, d.Repo)
			if len(d.Objects) != 1 || d.Objects[0].Name != "settings" {
				t.Errorf("%q sees %+v", test.who, d)
			} else if len(d.Objects[0].Fields) > 0 {
				full = append(full, d.Repo)
			}
		}
		if strings.Join(repos, ",") != test.repos || strings.Join(full, ",") != test.full {
			t.Errorf("%q sees the environments of %q, in full of %q", test.who, repos, full)
		}
	}
	if all, err := f.as(t, "repo:ada/engine").Drifts(t.Context(), "ada/engine"); err != nil || len(all) != 1 {
		t.Errorf("of one repo there is %+v, %v", all, err)
	}
}
