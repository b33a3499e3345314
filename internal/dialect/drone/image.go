package drone

import (
	"maps"
	"strings"

	"slipway/internal/ci"
	"slipway/internal/plan"
	"slipway/internal/yaml"
)

// Reasons why settings of plugins/docker have no effect.
const (
	noDaemon = "Slipway builds images without a Docker daemon"
	noLabels = "Slipway adds no labels by itself"
)

func (b *builtin) image(planned *plan.Step) bool {
	image := &plan.Image{}
	planned.Image = image
	var autoTag bool
	var suffix string
	var fromEnv []string
	var autoTagAt, repoAt setting
	options := map[string]option{
		"repo":                {read: func(s setting) { image.Repo, repoAt = s.value, s }},
		"registry":            {read: func(s setting) { image.Registry = registryHost(s.value) }},
		"tags":                {read: func(s setting) { image.Tags = b.tags(s) }},
		"tag":                 {read: func(s setting) { image.Tags = b.tags(s) }},
		"auto_tag":            {read: func(s setting) { b.boolTo(&autoTag).read(s); autoTagAt = s }},
		"auto_tag_suffix":     b.textTo(&suffix),
		"dockerfile":          b.pathTo(&image.Dockerfile),
		"context":             b.pathTo(&image.Context),
		"target":              b.textTo(&image.Target),
		"build_args":          b.pairsTo(&image.Args, b.fromEnv),
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
			"compress":            {ignored: "layers are always compressed"},
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
		image.Repo = plan.Text(registry + "/" + ci.ImageName(b.in.Repo.Name))
	}
	if image.Repo.IsZero() && !image.DryRun && !b.literal {
		b.errorf(b.step.at, "step %q: the setting repo must name the repository to push to", b.step.name)
	}
	repo := image.Repo.Text
	if hasTag := strings.LastIndexByte(repo, ':') > strings.LastIndexByte(repo, '/'); (hasTag || strings.Contains(repo, "@")) && !b.open(repoAt) {
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
