package drone

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"slipway/internal/ci"
	"slipway/internal/plan"
	"slipway/internal/yaml"
)

// builtinKind is what s does if Slipway does it itself: an image or a deployment, else "".
func builtinKind(s *step) plan.Kind {
	switch image := imageName(s.image); {
	case s.service:
	case image == pluginDocker && s.isPlugin(), image == "slipway/image":
		return plan.KindImage
	case image == "slipway/deploy":
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

// Reasons why settings of plugins/docker have no effect.
const (
	noDaemon = "Slipway builds images without a Docker daemon"
	noLabels = "Slipway adds no labels by itself"
)

func (b *builtin) image(planned *plan.Step) bool {
	image := &plan.Image{}
	planned.Image = image
	var autoTag, compress bool
	var suffix string
	var fromEnv []string
	var autoTagAt, repoAt setting
	flag := func(to *bool, at *setting) option {
		return option{read: func(s setting) { b.boolTo(to).read(s); *at = s }}
	}
	missing := b.fromEnv
	options := map[string]option{
		"repo":                {read: func(s setting) { image.Repo, repoAt = s.value, s }},
		"registry":            {read: func(s setting) { image.Registry = registryHost(s.value) }},
		"tags":                {read: func(s setting) { image.Tags = b.tags(s) }},
		"tag":                 {read: func(s setting) { image.Tags = b.tags(s) }},
		"auto_tag":            flag(&autoTag, &autoTagAt),
		"auto_tag_suffix":     b.textTo(&suffix),
		"dockerfile":          b.pathTo(&image.Dockerfile),
		"context":             b.pathTo(&image.Context),
		"target":              b.textTo(&image.Target),
		"build_args":          b.pairsTo(&image.Args, missing),
		"build_args_from_env": b.listTo(&fromEnv),
		"labels":              b.pairsTo(&image.Labels, nil),
		"custom_labels":       b.pairsTo(&image.Labels, nil),
		"cache_from":          b.listTo(&image.CacheFrom),
		"no_cache":            b.boolTo(&image.NoCache),
		"pull_image":          b.boolTo(&image.Pull),
		"username":            b.valueTo(&image.Username),
		"password":            b.valueTo(&image.Password),
		"dry_run":             b.boolTo(&image.DryRun),
		"insecure":            b.boolTo(&image.Insecure),
	}
	if !b.own() {
		image.Pull = true // the plugin does, unless it is told not to
		maps.Copy(options, map[string]option{
			"compress":            b.boolTo(&compress),
			"mirror":              {ignored: "mirrors are set up at the runner"},
			"purge":               {ignored: noDaemon + ", and cleans up by itself"},
			"email":               {ignored: "registries do not ask for it"},
			"debug":               {ignored: noDaemon},
			"quiet":               {ignored: "the log is always shown"},
			"link":                {ignored: noLabels},
			"auto_label":          {ignored: noLabels},
			"label_schema":        {ignored: noLabels},
			"force_tag":           {ignored: "tags are always moved"},
			"use_cache":           {ignored: "layers are always reused, unless no_cache is set"},
			"squash":              {later: "squash"},
			"config":              {later: "a Docker configuration in config"},
			"add_host":            {later: "add_host"},
			"network":             {later: "network"},
			"platform":            {later: "another platform"},
			"secret":              {later: "secret"},
			"secrets_from_env":    {later: "secrets_from_env"},
			"secrets_from_file":   {later: "secrets_from_file"},
			"ssh_agent_key":       {later: "ssh_agent_key"},
			"base_image_registry": {later: "a login at the registry of the base image"},
			"base_image_username": {later: "a login at the registry of the base image"},
			"base_image_password": {later: "a login at the registry of the base image"},
			"push_only":           {later: "push_only"},
			"source_image":        {later: "source_image"},
			"card_path":           {ignored: "Slipway has no cards"},
			"artifact_file":       {later: "artifact_file"},
		})
		for _, daemon := range []string{"bip", "mtu", "ipv6", "experimental", "storage_driver", "storage_path", "custom_dns", "custom_dns_search", "daemon_off", "launch_debug"} {
			options[daemon] = option{ignored: noDaemon}
		}
	}
	b.read(options)

	if registry := b.in.System.Registry; image.Repo.IsZero() && image.Registry.IsZero() && registry != "" && b.own() {
		image.Repo = plan.Text(registry + "/" + strings.ToLower(b.in.Repo.Name))
	}
	if image.Repo.IsZero() && !image.DryRun && !b.literal {
		b.errorf(b.step.at, "step %q: the setting repo must name the repository to push to", b.step.name)
	}
	if repo := image.Repo.Text; repo != "" && imageName(repo) != imageName(repo+":latest") && !b.open(repoAt) {
		b.bad(repoAt, "is %q; the tag belongs into the setting tags", repo)
	}
	if image.Dockerfile == "" && image.Context != "" && !b.own() {
		image.Dockerfile = "Dockerfile" // the plugin looks at the root of the repo, not in the context
	}
	for _, name := range fromEnv {
		if v, ok := b.fromEnv(name); ok {
			if image.Args == nil {
				image.Args = map[string]plan.Value{}
			}
			image.Args[name] = v
		}
	}
	if autoTag {
		return b.autoTag(image, suffix, autoTagAt)
	}
	if len(image.Tags) == 0 {
		image.Tags = []plan.Value{plan.Text("latest")}
	}
	return true
}

// autoTag sets the tags that follow from the event, and returns false if there are none: then there is nothing to do.
func (b *builtin) autoTag(image *plan.Image, suffix string, at setting) bool {
	tag := b.in.Event.TagName()
	if tag == "" && b.in.Event.Ref != "refs/heads/"+b.in.Repo.Branch {
		return false
	}
	tags, ok := autoTags(tag, suffix)
	if !ok {
		if !b.literal {
			b.bad(at, "needs a tag that is a version, such as v1.2.3, not %q", tag)
		}
		return false
	}
	image.Tags = nil
	for _, t := range tags {
		image.Tags = append(image.Tags, plan.Text(t))
	}
	return true
}

func (b *builtin) tags(s setting) []plan.Value {
	if s.value.Secret != "" {
		return []plan.Value{s.value}
	}
	var tags []plan.Value
	if s.node.Kind == yaml.Sequence {
		for _, item := range s.node.Items {
			if name, ok := b.fromSecret(item, s.name); ok {
				tags = append(tags, plan.FromSecret(name))
				continue
			}
			tags = b.addTags(tags, s, asWritten(item))
		}
		return tags
	}
	return b.addTags(tags, s, s.value.Text)
}

func (b *builtin) addTags(tags []plan.Value, s setting, text string) []plan.Value {
	for _, tag := range splitList(text) {
		if !validTag(tag) && !(b.literal && strings.Contains(tag, "${")) {
			b.bad(s, "has %q, which cannot be the tag of an image", tag)
		}
		tags = append(tags, plan.Text(tag))
	}
	return tags
}

// validTag follows https://github.com/opencontainers/distribution-spec, section "Pulling manifests".
func validTag(tag string) bool {
	for i, c := range tag {
		switch {
		case c == '_' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z':
		case i > 0 && (c == '.' || c == '-'):
		default:
			return false
		}
	}
	return len(tag) > 0 && len(tag) <= 128
}

// registryHost makes a host of what people write for a registry: it may be a URL.
func registryHost(v plan.Value) plan.Value {
	if v.Text == "" {
		return v
	}
	host := v.Text
	if _, rest, ok := strings.Cut(host, "://"); ok {
		host, _, _ = strings.Cut(rest, "/")
	}
	host = strings.TrimSuffix(host, "/")
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		host = "docker.io"
	}
	return plan.Text(host)
}

func (b *builtin) deploy(planned *plan.Step) bool {
	deploy := &plan.Deploy{Environment: "production"}
	planned.Deploy = deploy
	if e := b.in.Event; (e.Kind == ci.Promote || e.Kind == ci.Rollback) && e.DeployTo != "" {
		deploy.Environment = e.DeployTo
	}
	b.read(map[string]option{
		"manifests": {read: func(s setting) {
			for _, p := range splitList(b.plain(s)) {
				if p = b.path(s, p); p == "" {
					p = "."
				}
				deploy.Manifests = append(deploy.Manifests, p)
			}
		}},
		"namespace":   b.valueTo(&deploy.Namespace),
		"environment": b.textTo(&deploy.Environment),
		"images":      b.pairsTo(&deploy.Images, nil),
		"kubeconfig":  b.valueTo(&deploy.Kubeconfig),
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
