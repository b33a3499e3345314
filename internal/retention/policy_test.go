package retention

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	got, err := Parse(`
immutable: ["v*"]
rules:
- {tags: "v*", keep: 10, older_than: 2w}
- {tags: "branch-*", branch: true}
- {tags: "tmp-*", run: true}
untagged: 36h
`)
	want := Policy{
		Immutable: []string{"v*"},
		Rules: []Rule{
			{Tags: "v*", Keep: 10, OlderThan: Age(14 * 24 * time.Hour)}, {Tags: "branch-*", Branch: true}, {Tags: "tmp-*", Run: true},
		},
		Untagged: Age(36 * time.Hour),
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Fatal(err, diff)
	}
	if !got.Fixed("v1.0") || got.Fixed("latest") {
		t.Error("v* must fit v1.0 and not latest")
	}
	if _, err := Parse(""); err != nil {
		t.Error(err)
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"rules: [{tags: 'v*'}]":                          "say when",
		"rules: [{keep: 3}]":                             "1:9: rules[0]: say for which tags",
		"rules: [{tags: [v], keep: 3}]":                  "not a pattern",
		"rules: [{tags: v*, keep: many}]":                "keep is a number",
		"rules: [{tags: v*, run: maybe}]":                "1:25: rules[0]: run is true or false",
		"rules:\n- {tags: v*, kep: 3}\n":                 `2:14: rules[0] has no "kep", only branch, keep, older_than, run, tags; did you mean keep`,
		"rules: v*":                                      "1:8: rules is a list",
		"- v*":                                           "1:1: the policy is a mapping",
		"untagged: 1d\nuntagged: 2d\n":                   "2:1: untagged stands here a second time",
		"rules: [":                                       "1:",
		"rules: [{tags: '[', keep: 3}]":                  "not a pattern",
		"rules: [{tags: 'v*', keep: -1}]":                "keep is a number",
		"rules: [{tags: 'a-*-*', branch: true}]":         "one *",
		"rules: [{tags: 'v*', older_than: 3}]":           "not an age",
		"rules: [{tags: 'v*', older_than: 0d}]":          "not an age",
		"rules: [{tags: 'v*', older_than: -1h}]":         "not an age",
		"rules: [{tags: 'v*', older_than: 99999999w}]":   "not an age",
		"untagged: 20000w":                               "more than 100000 days", // 140,000 days are less than none in a Duration
		"rules: [{tags: 'v*', older_than: 30501w}]":      "not an age",
		"untagged: soon":                                 "not an age",
		"immutable: ['']":                                "not a pattern",
		"keep: 3":                                        `1:1: the policy has no "keep"`,
		"immutable: [" + strings.Repeat("a,", 101) + "]": "more than",
		strings.Repeat("#", maxPolicy+1):                 "bytes",
	} {
		if _, err := Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: error is %v, want one with %q", text, err, want)
		}
	}
}

func TestAge(t *testing.T) {
	for text, want := range map[string]string{"7d": "7d", "2w": "14d", "24h": "1d", "36h": "36h", "90m": "1h30m", "5s": "5s", "65535d": "65535d", "14285w": "99995d"} {
		d, err := parseAge(text)
		if err != nil || Age(d).String() != want {
			t.Errorf("%s is %s, %v; want %s", text, Age(d), err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("immutable: [v*]\nrules: [{tags: 'a-*', branch: true}]\nuntagged: 1d\n")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse(text)
		if err == nil {
			p.Fixed("v1")
			p.Decide(State{})
		}
	})
}
