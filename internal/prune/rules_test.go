package prune_test

import (
	"regexp"
	"slices"
	"testing"
	"time"

	"slipway/internal/prune"
)

func TestRules(t *testing.T) {
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	tag := func(name string, daysOld int) prune.Tag {
		return prune.Tag{Name: name, Time: now.AddDate(0, 0, -daysOld)}
	}
	tags := []prune.Tag{tag("v1", 90), tag("v2", 60), tag("v3", 1), tag("latest", 1), {Name: "odd"}, tag("pr-7", 40), tag("pr-9", 20)}
	for _, test := range []struct {
		name  string
		rules prune.Rules
		want  []string
	}{
		{"age", prune.Rules{OlderThan: 30 * 24 * time.Hour}, []string{"pr-7", "v2", "v1"}},
		{"exact age", prune.Rules{OlderThan: 90 * 24 * time.Hour}, []string{"v1"}},
		{"last", prune.Rules{KeepLast: 4}, []string{"v2", "v1"}},
		{"more than there are", prune.Rules{KeepLast: 100}, nil},
		{"ties go by name", prune.Rules{KeepLast: 1}, []string{"v3", "pr-9", "pr-7", "v2", "v1"}},
		{"match", prune.Rules{Match: regexp.MustCompile(`^v\d`), KeepLast: 1}, []string{"v2", "v1"}},
		{"match and age", prune.Rules{Match: regexp.MustCompile(`^pr-`), OlderThan: 30 * 24 * time.Hour}, []string{"pr-7"}},
		{"all three", prune.Rules{Match: regexp.MustCompile(`^v`), KeepLast: 2, OlderThan: 70 * 24 * time.Hour}, []string{"v1"}},
		{"nothing matches", prune.Rules{Match: regexp.MustCompile(`^x`), KeepLast: 1}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			decisions := test.rules.Decide(tags, now)
			for _, d := range decisions {
				if d.Reason == "" {
					t.Errorf("%s: no reason", d.Name)
				}
				if d.Delete {
					got = append(got, d.Name)
				}
			}
			if !slices.Equal(got, test.want) || len(decisions) != len(tags) {
				t.Errorf("deletes %q of %d, want %q", got, len(decisions), test.want)
			}
		})
	}
	if tags[0].Name != "v1" {
		t.Error("the argument was sorted")
	}
}

// TestRulesLeft takes away what an interrupted deletion left, and counts it nowhere.
func TestRulesLeft(t *testing.T) {
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	tags := []prune.Tag{{Name: "pr-1", Left: true}, {Name: "v1", Left: true}, {Name: "slipway-probe-x", Left: true}, {Name: "slipway-probe-y", Time: now}, {Name: "pr-2", Time: now}}
	var got []string
	for _, d := range (prune.Rules{Match: regexp.MustCompile(`^pr-`), KeepLast: 10}).Decide(tags, now) {
		if d.Delete {
			got = append(got, d.Name)
		}
	}
	if want := []string{"pr-1", "slipway-probe-x"}; !slices.Equal(got, want) {
		t.Errorf("deletes %q, want %q", got, want)
	}
}

func TestRulesCheck(t *testing.T) {
	for _, bad := range []prune.Rules{{}, {Match: regexp.MustCompile("x")}, {KeepLast: -1, OlderThan: 1}, {KeepLast: 1, OlderThan: -1}} {
		if bad.Check() == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
	for _, good := range []prune.Rules{{KeepLast: 1}, {OlderThan: 1}} {
		if err := good.Check(); err != nil {
			t.Error(err)
		}
	}
}
