package flow

import (
	"fmt"
	"strings"
	"testing"

	"slipway/internal/ci"
	"slipway/internal/forge"
)

var pull = ci.Run{
	Repo: "ada/engine", Number: 31,
	Event: ci.Event{Kind: ci.PullRequest, After: "c0ffee12c0ffee12", PullRequest: &ci.Change{Number: 7}},
}

func TestCommentOn(t *testing.T) {
	got := commentOn(pull, []ci.Preview{
		{
			Environment: "production", Namespace: "shop", Same: 3, Differences: []ci.Difference{
				{Object: "configmap/settings", Action: "create", Namespace: "other"},
				{
					Object: "deployment/web", Action: "change", Notes: []string{"careful"},
					Fields: []ci.Field{{Path: "spec.replicas", Old: "2", New: "3"}, {Path: "data.page", Lines: []string{"- one", "+ two", "… and 3 more lines"}}, {Path: "data.password", Old: "(secret)", New: "(secret)"}},
				},
				{Object: "statefulset/db", Action: "delete", Caution: "It has state."},
			},
		},
		{Environment: "staging", Message: "the cluster\nis away"},
		{Environment: "test", Same: 4},
	}, "https://ci.example.com/ada/engine/runs/31")
	want := "### What deploying would change\n\n" +
		"At commit `c0ffee12c0`, by a dry run of the cluster in [run 31](https://ci.example.com/ada/engine/runs/31). [All of it](https://ci.example.com/ada/engine/runs/31/changes)\n" +
		"\n#### `production` in `shop`: 1 to create, 1 to change, 1 to delete\n" +
		"\n⚠️ **`statefulset/db`** (delete): It has state.\n" +
		"\n```diff\n" +
		"+ configmap/settings in other: create\n" +
		"! deployment/web: change\n" +
		"-     spec.replicas: 2\n" +
		"+     spec.replicas: 3\n" +
		"      data.page:\n" +
		"-        one\n" +
		"+        two\n" +
		"        … and 3 more lines\n" +
		"!     data.password: another value\n" +
		"      # careful\n" +
		"- statefulset/db: delete\n" +
		"```\n" +
		"\n#### `staging`\n\n```\nthe cluster is away\n```\n" +
		"\n#### `test`: nothing\n"
	if got != want {
		t.Errorf("the comment is\n%s\nwant\n%s", got, want)
	}
}

// Whatever objects are called, nothing of it is markup, and the comment is not too long.
func FuzzCommentOn(f *testing.F) {
	f.Add("deployment/web", "production", "change", "a note", uint16(3), uint16(10))
	f.Add("x`\n```\n<script>@ada #1", "</details>", "```", "<!-- slipway diff 99 -->\n", uint16(2000), uint16(50))
	f.Add(strings.Repeat("````", 20), "`", "\x1b[31m", "\u202e", uint16(9), uint16(60000))
	f.Fuzz(func(t *testing.T, object, environment, action, text string, objects, length uint16) {
		preview := ci.Preview{Environment: environment, Namespace: object}
		long := strings.Repeat(text, int(length)/(len(text)+1)+1)
		for i := range objects % 500 {
			preview.Differences = append(preview.Differences, ci.Difference{
				Object: fmt.Sprint(object, i), Action: action, Caution: text, Notes: []string{text}, Error: text,
				Fields: []ci.Field{{Path: object, Old: text, New: long}, {Path: text, Lines: []string{text, "+ " + long}}},
			})
		}
		body := commentOn(pull, []ci.Preview{preview, {Environment: object, Message: long}}, "https://ci.example.com/1")
		if len(body) > forge.MaxComment {
			t.Fatalf("the comment has %d bytes", len(body))
		}
		// Outside of code there is nothing but what Slipway says.
		outside, fence := "", ""
		for line := range strings.Lines(body) {
			ticks := line[:len(line)-len(strings.TrimLeft(line, "`"))]
			switch {
			case fence != "" && strings.TrimSpace(line) == fence:
				fence = ""
			case fence == "" && len(ticks) >= 3:
				fence = ticks
			case fence == "":
				outside += line
			}
		}
		if fence != "" {
			t.Fatalf("a block does not end:\n%s", body)
		}
		for i, part := range strings.Split(outside, "`") {
			if i%2 == 0 { // outside of a span
				part = strings.NewReplacer("<details><summary>Show them</summary>", "", "</details>", "", "https://ci.example.com/1", "").Replace(part)
				if strings.ContainsAny(part, "<>@&\\_~|") || strings.Contains(part, "](http") {
					t.Fatalf("there is markup in %q of\n%s", part, body)
				}
			}
		}
	})
}
