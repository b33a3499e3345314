package forge

import (
	"strings"

	"slipway/internal/ci"
)

// directives are what people write into a commit message or a title to get no run; Drone's three.
var directives = []string{"[ci skip]", "[skip ci]", "***no_ci***"}

// Skip reports which directive in the commit's message or the pull request's title says that event shall start no run,
// or "" if none does. Only pushes and pull requests can be skipped: a tag is a deliberate act, and its commit may well
// have asked for no run when it was on a branch.
func Skip(event ci.Event) (directive string) {
	if event.Kind != ci.Push && event.Kind != ci.PullRequest {
		return ""
	}
	text := event.Commit.Message
	if event.PullRequest != nil {
		text += "\n" + event.PullRequest.Title
	}
	text = strings.ToLower(text)
	for _, d := range directives {
		if strings.Contains(text, d) {
			return d
		}
	}
	return ""
}
