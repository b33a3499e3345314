package drone

import (
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"slipway/internal/ci"
	"slipway/internal/plan"
	"slipway/internal/yaml"
)

// deployDiff is the image of a step that says what a deploy step with the same settings would change.
const deployDiff = "slipway/diff"

func (b *builtin) deploy(planned *plan.Step) bool {
	deploy := &plan.Deploy{Environment: "production"}
	planned.Deploy = deploy
	if imageName(b.step.image) == deployDiff {
		deploy.Action = plan.ActionDiff
	}
	if e := b.in.Event; (e.Kind == ci.Promote || e.Kind == ci.Rollback) && e.DeployTo != "" {
		deploy.Environment = e.DeployTo
	}
	b.read(map[string]option{
		"manifests":    b.pathsTo(&deploy.Manifests),
		"variables":    b.variablesTo(&deploy.Variables),
		"values":       b.pathsTo(&deploy.Values),
		"set":          b.setTo(deploy),
		"release_name": b.textTo(&deploy.ReleaseName),
		"namespace":    b.valueTo(&deploy.Namespace),
		"environment":  b.textTo(&deploy.Environment),
		"images":       b.pairsTo(&deploy.Images, nil),
		"kubeconfig":   b.valueTo(&deploy.Kubeconfig),
		"timeout": {read: func(s setting) {
			if seconds, ok := parseTimeout(b.plain(s)); ok {
				deploy.Timeout = seconds
			} else if !b.open(s) && s.value.Secret == "" {
				b.bad(s, "must be a time such as 5m or 90s")
			}
		}},
	})
	if len(deploy.Manifests) == 0 {
		b.errorf(b.step.at, "step %q: the setting manifests must name the files or folders to deploy", b.step.name)
	}
	return true
}

// pathsTo reads a list of paths in the checkout.
func (b *builtin) pathsTo(to *[]string) option {
	return option{read: func(s setting) {
		for _, p := range splitList(b.plain(s)) {
			if p = b.path(s, p); p == "" {
				p = "."
			}
			*to = append(*to, p)
		}
	}}
}

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// variablesTo reads the variables of manifests. A name alone has the value that the step's environment has.
func (b *builtin) variablesTo(to *map[string]plan.Value) option {
	pairs := b.pairsTo(to, b.fromEnv)
	return option{read: func(s setting) {
		pairs.read(s)
		for _, name := range slices.Sorted(maps.Keys(*to)) {
			if !variableName.MatchString(name) && !strings.Contains(name, "${") {
				b.bad(s, "has %q, which cannot be written as ${NAME}; a name has letters, digits and underscores, and does not begin with a digit", name)
			}
		}
	}}
}

// setTo reads values for Helm charts. What is in quotes is text, like a secret; anything else is what it looks like.
func (b *builtin) setTo(deploy *plan.Deploy) option {
	return option{read: func(s setting) {
		if s.node.Kind != yaml.Mapping || s.value.Secret != "" {
			b.bad(s, "must be a mapping of paths such as image.tag to values")
			return
		}
		deploy.Set, deploy.SetString = map[string]plan.Value{}, map[string]plan.Value{}
		for _, e := range s.node.Entries {
			what := s.name + ": " + e.Key.Text
			if secret, ok := b.fromSecret(e.Value, what); ok {
				deploy.SetString[e.Key.Text] = plan.FromSecret(secret)
				continue
			}
			to := deploy.Set
			if e.Value.Quoted {
				to = deploy.SetString
			}
			to[e.Key.Text] = plan.Text(b.text(e.Value, what))
		}
	}}
}

// parseTimeout reads a duration, or a number of seconds, of at least one second and at most a day.
func parseTimeout(text string) (seconds int64, ok bool) {
	d, err := time.ParseDuration(text)
	if err != nil {
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return 0, false
		}
		d = time.Duration(n) * time.Second
	}
	return int64(d / time.Second), d >= time.Second && d <= 24*time.Hour
}
