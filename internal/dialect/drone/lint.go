package drone

import (
	"fmt"
	"path"
	"strings"

	"slipway/internal/plan"
)

// lintAll checks the pipelines of a file against each other, as Drone's server does.
func (r *reader) lintAll(pipelines []*pipeline) {
	seen := map[string]bool{}
	for _, p := range pipelines {
		switch {
		case seen[p.name] && p.nameAt == p.at:
			r.errorf(p.at, "two pipelines are called %q, which is the name of one without a name", p.name)
		case seen[p.name]:
			r.errorf(p.nameAt, "two pipelines are called %q", p.name)
		}
		for _, need := range p.needs {
			switch {
			case need.name == p.name:
				r.errorf(need.at, "pipeline %q depends on itself", p.name)
			case !seen[need.name]:
				r.errorf(need.at, "pipeline %q depends on %q, which is not the name of a pipeline above it", p.name, need.name)
			}
		}
		seen[p.name] = true
	}
}

// denied says why a file may not have what could take over the runner's machine, as the end of a sentence; "" if it may.
// A fork's pull request may not even in a trusted repo: it is the repo's people who are trusted.
func denied(in plan.Input) string {
	switch {
	case !in.Repo.Trusted:
		return "is only for trusted repos"
	case in.Event.FromFork():
		return "is not for pull requests from forks"
	}
	return ""
}

// lint checks one pipeline by itself, as Drone's runner does.
func (r *reader) lint(p *pipeline, denied string) {
	if p.platform.variant != "" {
		r.warnf(p.at, "platform: runners are not chosen by their variant %q", p.platform.variant)
	}
	volumes := map[string]bool{}
	for _, v := range p.volumes {
		volumes[v.Name] = true
		switch {
		case denied == "":
		case v.Host != "":
			r.errorf(v.at, "volume %q mounts a folder of the host, which %s", v.Name, denied)
		case v.Memory:
			r.errorf(v.at, "volume %q is in memory, which %s", v.Name, denied)
		}
	}
	names := map[string]bool{"clone": !p.clone.disable}
	for _, s := range append(append([]*step(nil), p.services...), p.steps...) {
		r.lintStep(s, names, volumes)
		if denied != "" {
			r.lintTrust(s, denied)
		}
		if s.name != "" {
			names[s.name] = true
		}
	}
}

// lintStep checks one step; names are those of the steps before it.
func (r *reader) lintStep(s *step, names, volumes map[string]bool) {
	noun := "step"
	if s.service {
		noun = "service"
	}
	switch {
	case s.name == "":
		r.errorf(s.at, "a %s needs a name", noun)
	case s.name == "clone" && names[s.name]:
		r.errorf(s.nameAt, "%s %q: the name is taken by the clone; disable that or choose another", noun, s.name)
	case names[s.name]:
		r.errorf(s.nameAt, "two steps are called %q", s.name)
	}
	if s.image == "" {
		r.errorf(s.imageAt, "%s %q needs an image", noun, s.name)
	}
	for _, need := range s.needs {
		if r.literal && strings.Contains(need.name, "${") {
			continue
		}
		if !names[need.name] {
			r.errorf(need.at, "%s %q depends on %q, which is not the name of a step above it", noun, s.name, need.name)
		}
	}
	for _, m := range s.mounts {
		if r.literal && strings.Contains(m.Source+m.Path, "${") {
			continue
		}
		switch {
		case m.Path == "":
		case m.Path == "/" || m.Path == "/run/drone" || strings.HasPrefix(m.Path, "/run/drone/"):
			r.errorf(m.at, "%s %q: nothing may be mounted at %s", noun, s.name, m.Path)
		case !volumes[m.Source]:
			r.errorf(m.at, "%s %q: the pipeline has no volume %q", noun, s.name, m.Source)
		}
	}
	if builtinKind(s) == "" {
		for _, setting := range s.settings {
			r.warnOfNumbers(setting.node, fmt.Sprintf("%s %q: settings: %s", noun, s.name, setting.name))
		}
	}
	if len(s.commands) > 0 {
		for _, key := range []string{"entrypoint", "command"} {
			if at, has := s.set[key]; has {
				r.warnf(at, "%s %q: %s has no effect beside commands", noun, s.name, key)
			}
		}
	}
	for _, host := range s.extraHosts {
		if name, address, ok := strings.Cut(host, ":"); (!ok || name == "" || address == "") && !strings.Contains(host, "${") {
			r.errorf(s.set["extra_hosts"], "%s %q: %q is not of the form name:address", noun, s.name, host)
		}
	}
	if _, has := s.set["settings"]; has && s.service {
		r.warnf(s.set["settings"], "%s %q: settings are for plugins; a service gets them as PLUGIN_ variables", noun, s.name)
	}
}

// lintTrust reports what only a trusted repo may have.
func (r *reader) lintTrust(s *step, denied string) {
	for _, of := range []struct {
		needs     bool
		key, what string
	}{
		{s.privileged, "privileged", "is privileged"},
		{len(s.devices) > 0, "devices", "uses devices of the host"},
		{len(s.dns) > 0, "dns", "sets DNS servers"},
		{len(s.dnsSearch) > 0, "dns_search", "sets DNS search domains"},
		{len(s.extraHosts) > 0, "extra_hosts", "adds hosts"},
		{s.networkMode != "", "network_mode", "chooses its network"},
		{s.limits.SharedMemory > 0, "shm_size", "sets the size of /dev/shm"},
	} {
		if of.needs {
			r.errorf(s.set[of.key], "step %q %s, which %s", s.name, of.what, denied)
		}
	}
	if image := imageName(s.image); dockerPlugins[image] && image != pluginDocker && s.isPlugin() {
		r.errorf(s.imageAt, "step %q: %s runs a Docker daemon, which %s; use plugins/docker, which needs none, with registry, username and password", s.name, image, denied)
	}
}

// imageName strips what does not matter of an image to tell which plugin it is: the tag, and the names of Docker Hub.
func imageName(ref string) string {
	ref, _, _ = strings.Cut(ref, "@")
	if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
		ref = ref[:i]
	}
	for _, hub := range []string{"docker.io/", "index.docker.io/", "registry-1.docker.io/"} {
		ref = strings.TrimPrefix(ref, hub)
	}
	return strings.TrimPrefix(ref, "library/")
}

const pluginDocker = "plugins/docker"

// dockerPlugins are the plugins that Drone runs privileged by itself: they bring a Docker daemon.
var dockerPlugins = map[string]bool{
	pluginDocker: true, "plugins/acr": true, "plugins/ecr": true, "plugins/gar": true, "plugins/gcr": true, "plugins/heroku": true,
}

// isPlugin reports whether s is used as a plugin: nothing of its image is replaced, so that what it does is known.
func (s *step) isPlugin() bool {
	if s.service || len(s.commands)+len(s.command)+len(s.entrypoint)+len(s.mounts) > 0 {
		return false
	}
	for _, name := range []string{"DOCKER_HOST", "DOCKER_OPTS", "PATH", "HOME", "XDG_RUNTIME_DIR"} {
		if _, has := s.environment[name]; has {
			return false
		}
	}
	return true
}

// below makes p relative to base, or reports that it is not inside.
func below(base, p string) (string, bool) {
	if path.IsAbs(p) {
		p = path.Clean(p)
		if p == base {
			return "", true
		}
		return strings.CutPrefix(p, base+"/")
	}
	if p = path.Clean(p); p == "." {
		return "", true
	}
	return p, p != ".." && !strings.HasPrefix(p, "../")
}
