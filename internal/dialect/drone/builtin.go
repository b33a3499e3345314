package drone

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"slipway/internal/plan"
	"slipway/internal/yaml"
)

// builtinKind is what s does if Slipway does it itself: an image or a deployment, else "".
func builtinKind(s *step) plan.Kind {
	switch image := imageName(s.image); {
	case s.service:
	case image == pluginDocker && s.isPlugin(), image == "slipway/image":
		return plan.KindImage
	case image == "slipway/deploy", image == deployDiff:
		return plan.KindDeploy
	}
	return ""
}

// builtin makes a plan's step of a step that Slipway carries out itself, from the step's settings.
type builtin struct {
	*reader
	in       plan.Input
	pipeline *pipeline
	step     *step
	env      variables
}

// own reports whether the step is one of Slipway's own, which are stricter than plugins that it stands in for.
func (b *builtin) own() bool { return imageName(b.step.image) != pluginDocker }

// option says what becomes of a setting.
type option struct {
	read    func(setting)
	later   string // it is known, but not supported yet
	ignored string // it is known, but has no effect: why
}

// compile fills planned. It returns false if the step has nothing to do for this event.
func (b *builtin) compile(kind plan.Kind, planned *plan.Step) bool {
	planned.Kind, planned.Env = kind, b.step.environment
	b.checkKeys()
	if kind == plan.KindImage {
		return b.image(planned)
	}
	return b.deploy(planned)
}

// checkKeys reports keys of the step that mean nothing where there is no container.
func (b *builtin) checkKeys() {
	s := b.step
	if at, has := s.set["detach"]; has && s.detach {
		b.errorf(at, "step %q: a built-in step cannot be detached", s.name)
	}
	for _, key := range []string{"commands", "command", "entrypoint", "volumes"} {
		if at, has := s.set[key]; has {
			b.errorf(at, "step %q: %s is a built-in step, which takes settings but no %s", s.name, imageName(s.image), key)
		}
	}
	for _, key := range []string{"privileged", "user", "pull", "working_dir", "devices", "dns", "dns_search", "extra_hosts", "network_mode", "mem_limit", "memswap_limit", "shm_size"} {
		if at, has := s.set[key]; has {
			b.warnf(at, "step %q: %s has no effect, as Slipway runs no container for %s", s.name, key, imageName(s.image))
		}
	}
}

// read hands every setting to its option. What plugins/docker takes from variables is a setting too.
func (b *builtin) read(options map[string]option) {
	settings := slices.Clone(b.step.settings)
	for i, s := range settings {
		if s.value.Secret == "" {
			settings[i].value = plan.Text(asWritten(s.node))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(b.step.environment)) {
		key, isSetting := strings.CutPrefix(name, "PLUGIN_")
		if login, isLogin := strings.CutPrefix(name, "DOCKER_"); isLogin && slices.Contains([]string{"REGISTRY", "USERNAME", "PASSWORD"}, login) {
			key, isSetting = login, true
		}
		key = strings.ToLower(key)
		has := slices.ContainsFunc(settings, func(s setting) bool { return s.name == key })
		if o, known := options[key]; known && o.read != nil && isSetting && !has && !b.own() {
			at := &yaml.Node{Pos: b.step.set["environment"]}
			settings = append(settings, setting{name: key, key: at, node: at, value: b.step.environment[name]})
		}
	}
	for _, s := range settings {
		o, known := options[s.name]
		switch {
		case !known:
			report := b.warnf
			if b.own() {
				report = b.errorf
			}
			known := slices.Sorted(maps.Keys(options))
			report(s.key.Pos, "step %q: %s has no setting %q%s", b.step.name, imageName(b.step.image), s.name, didYouMean(s.name, known))
		case o.later != "":
			b.errorf(s.key.Pos, "step %q: %s is not supported yet", b.step.name, o.later)
		case o.ignored != "":
			b.warnf(s.key.Pos, "step %q: setting %s has no effect: %s", b.step.name, s.name, o.ignored)
		default:
			o.read(s)
		}
	}
}

func (b *builtin) bad(s setting, format string, args ...any) {
	b.errorf(s.node.Pos, "step %q: %s "+format, append([]any{b.step.name, s.name}, args...)...)
}

// open reports whether a setting cannot be judged before substitution.
func (b *builtin) open(s setting) bool {
	return b.literal && strings.Contains(s.value.Text, "${")
}

// plain returns the text of a setting that must be written in the file.
func (b *builtin) plain(s setting) string {
	if s.value.Secret != "" {
		b.bad(s, "must be written in the file; it cannot be a secret")
	}
	return s.value.Text
}

func (b *builtin) valueTo(to *plan.Value) option {
	return option{read: func(s setting) { *to = s.value }}
}

func (b *builtin) textTo(to *string) option {
	return option{read: func(s setting) { *to = b.plain(s) }}
}

func (b *builtin) boolTo(to *bool) option {
	return option{read: func(s setting) {
		v, err := strconv.ParseBool(b.plain(s))
		if yes, ok := s.node.Value().(bool); ok {
			v, err = yes, nil
		}
		if err != nil && !b.open(s) && s.value.Secret == "" {
			b.bad(s, "must be true or false")
		}
		*to = v
	}}
}

// listTo reads a list or a text with commas.
func (b *builtin) listTo(to *[]string) option {
	return option{read: func(s setting) { *to = splitList(b.plain(s)) }}
}

func splitList(text string) []string {
	var items []string
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}

// pathTo reads a path in the checkout.
func (b *builtin) pathTo(to *string) option {
	return option{read: func(s setting) { *to = b.path(s, b.plain(s)) }}
}

func (b *builtin) path(s setting, p string) string {
	if b.literal && strings.Contains(p, "${") {
		return ""
	}
	if strings.Contains(p, "://") {
		b.bad(s, "must be a path in the repo; a remote one is not supported yet")
		return ""
	}
	inside, ok := below(b.pipeline.workspace.full(), p)
	if !ok {
		b.bad(s, "is %q, which is outside of the repo", p)
	}
	return inside
}

// pairsTo reads a mapping, or a list of "name=value". missing gives the value of a name alone.
func (b *builtin) pairsTo(to *map[string]plan.Value, missing func(name string) (plan.Value, bool)) option {
	return option{read: func(s setting) {
		if *to == nil {
			*to = map[string]plan.Value{}
		}
		if s.node.Kind == yaml.Mapping && s.value.Secret == "" {
			for _, e := range s.node.Entries {
				if secret, ok := b.fromSecret(e.Value, s.name+": "+e.Key.Text); ok {
					(*to)[e.Key.Text] = plan.FromSecret(secret)
					continue
				}
				(*to)[e.Key.Text] = plan.Text(b.text(e.Value, s.name+": "+e.Key.Text))
			}
			return
		}
		items := splitList(b.plain(s))
		if s.node.Kind == yaml.Sequence {
			items = b.list(s.node, s.name)
		}
		for _, item := range items {
			name, value, has := strings.Cut(item, "=")
			switch {
			case name == "":
				b.bad(s, "has %q, which is not of the form name=value", item)
			case has:
				(*to)[name] = plan.Text(value)
			case missing != nil:
				if v, ok := missing(name); ok {
					(*to)[name] = v
				}
			default:
				(*to)[name] = plan.Value{}
			}
		}
	}}
}

// fromEnv returns the value that a variable of the step has.
func (b *builtin) fromEnv(name string) (plan.Value, bool) {
	for _, env := range []map[string]plan.Value{b.step.environment, b.pipeline.environment, b.env} {
		if v, ok := env[name]; ok {
			return v, true
		}
	}
	text, ok := b.in.Event.Params[name]
	return plan.Text(text), ok
}
