package drone

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	"slipway/internal/plan"
	"slipway/internal/yaml"
)

// fillOptions are the settings of a deployment that say what is filled into its manifests.
func (b *builtin) fillOptions(deploy *plan.Deploy) map[string]option {
	return map[string]option{
		"variables":    b.variablesTo(&deploy.Variables),
		"values":       b.pathsTo(&deploy.Values),
		"set":          b.setTo(deploy),
		"release_name": b.textTo(&deploy.ReleaseName),
	}
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
