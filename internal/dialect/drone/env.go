package drone

import (
	"fmt"
	"maps"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"

	"slipway/internal/ci"
	"slipway/internal/plan"
)

// variables are what steps get besides what their file gives them. Those that only the runner knows are facts.
type variables map[string]plan.Value

// maxVariable bounds what a forge says in bytes. The kernel takes no variable of more than 128 KiB.
const maxVariable = 16 << 10

func shorten(s string) string {
	if len(s) > maxVariable {
		s = strings.ToValidUTF8(s[:maxVariable], "")
	}
	return s
}

func (v variables) text(name, text string) { v[name] = plan.Text(text) }

// buildVariables are the same for all steps of a run.
func buildVariables(in plan.Input) variables {
	e, repo := in.Event, in.Repo
	owner, name := path.Split(repo.Name)
	owner = strings.TrimSuffix(owner, "/")
	hostname := in.System.Host
	if host, _, err := net.SplitHostPort(hostname); err == nil {
		hostname = host
	}
	visibility := "public"
	if repo.Private {
		visibility = "private"
	}
	before := e.Before
	if before == "" && (e.Kind == ci.Push || e.Kind == ci.Tag) {
		before = strings.Repeat("0", max(40, len(e.After)))
	}
	link := e.Link
	if link == "" {
		link = e.Commit.Link
	}
	sender := e.Sender
	if e.Kind == ci.Cron {
		sender = "@cron"
	}
	created := "0"
	if !in.Run.Created.IsZero() {
		created = strconv.FormatInt(in.Run.Created.Unix(), 10)
	}
	number, author := strconv.FormatInt(in.Run.Number, 10), e.Commit.Author

	v := variables{}
	for name, text := range map[string]string{
		"CI":    "true",
		"DRONE": "true",

		"DRONE_SYSTEM_PROTO":    in.System.Proto,
		"DRONE_SYSTEM_HOST":     in.System.Host,
		"DRONE_SYSTEM_HOSTNAME": hostname,
		"DRONE_SYSTEM_VERSION":  in.System.Version,

		"DRONE_REPO":            repo.Name,
		"DRONE_REPO_SCM":        "git",
		"DRONE_REPO_OWNER":      owner,
		"DRONE_REPO_NAMESPACE":  owner,
		"DRONE_REPO_NAME":       name,
		"DRONE_REPO_LINK":       repo.Link,
		"DRONE_REPO_BRANCH":     repo.Branch,
		"DRONE_REPO_VISIBILITY": visibility,
		"DRONE_REPO_PRIVATE":    strconv.FormatBool(repo.Private),
		"DRONE_REMOTE_URL":      repo.CloneURL,
		"DRONE_GIT_HTTP_URL":    repo.CloneURL,

		"DRONE_BRANCH":               e.Target,
		"DRONE_SOURCE_BRANCH":        e.Source,
		"DRONE_TARGET_BRANCH":        e.Target,
		"DRONE_COMMIT":               e.After,
		"DRONE_COMMIT_SHA":           e.After,
		"DRONE_COMMIT_BEFORE":        before,
		"DRONE_COMMIT_AFTER":         e.After,
		"DRONE_COMMIT_REF":           e.Ref,
		"DRONE_COMMIT_BRANCH":        e.Target,
		"DRONE_COMMIT_LINK":          link,
		"DRONE_COMMIT_MESSAGE":       shorten(e.Commit.Message),
		"DRONE_COMMIT_AUTHOR":        author.Login,
		"DRONE_COMMIT_AUTHOR_NAME":   author.Name,
		"DRONE_COMMIT_AUTHOR_EMAIL":  author.Email,
		"DRONE_COMMIT_AUTHOR_AVATAR": author.Avatar,

		"DRONE_BUILD_NUMBER":  number,
		"DRONE_BUILD_PARENT":  strconv.FormatInt(in.Run.Parent, 10),
		"DRONE_BUILD_EVENT":   eventName(e.Kind),
		"DRONE_BUILD_ACTION":  actionName(e),
		"DRONE_BUILD_DEBUG":   "false",
		"DRONE_BUILD_CREATED": created,
		"DRONE_BUILD_TRIGGER": sender,
		"DRONE_BUILD_LINK":    in.Run.Link,
		"DRONE_DEPLOY_TO":     e.DeployTo,
	} {
		v.text(name, text)
	}
	for name, fact := range map[string]plan.Fact{
		"DRONE_BUILD_STATUS":   plan.JobStatus,
		"DRONE_BUILD_STARTED":  plan.JobStarted,
		"DRONE_BUILD_FINISHED": plan.Now,
		"DRONE_STAGE_MACHINE":  plan.RunnerName,
		"DRONE_STAGE_STATUS":   plan.JobStatus,
		"DRONE_STAGE_STARTED":  plan.JobStarted,
		"DRONE_STAGE_FINISHED": plan.Now,
		"DRONE_FAILED_STAGES":  plan.JobsFailed,
		"DRONE_FAILED_STEPS":   plan.StepsFailed,
	} {
		v[name] = plan.FromFact(fact)
	}
	if in.System.Registry != "" {
		v.text("SLIPWAY_REGISTRY", in.System.Registry)
	}
	if tag := e.TagName(); tag != "" {
		v.text("DRONE_TAG", tag)
		for name, text := range semverVariables(tag) {
			v.text(name, text)
		}
		for name, text := range calverVariables(tag) {
			v.text(name, text)
		}
	}
	if pr := e.PullRequest; pr != nil {
		v.text("DRONE_PULL_REQUEST", strconv.FormatInt(pr.Number, 10))
		v.text("DRONE_PULL_REQUEST_TITLE", pr.Title)
	}
	v.addLegacy()
	return v
}

// stageVariables are the same for all steps of a job: those of the build and its own.
func stageVariables(build variables, p *pipeline, number int, needs []string, os, arch string) variables {
	v := maps.Clone(build)
	for name, text := range map[string]string{
		"DRONE_STAGE_KIND":       "pipeline",
		"DRONE_STAGE_TYPE":       "docker",
		"DRONE_STAGE_NAME":       p.name,
		"DRONE_STAGE_NUMBER":     strconv.Itoa(number),
		"DRONE_STAGE_OS":         os,
		"DRONE_STAGE_ARCH":       arch,
		"DRONE_STAGE_VARIANT":    p.platform.variant,
		"DRONE_STAGE_VERSION":    p.platform.version,
		"DRONE_STAGE_DEPENDS_ON": strings.Join(needs, ","),
	} {
		v.text(name, text)
	}
	return v
}

// addWorkspace adds what is known once the pipeline is read.
func (v variables) addWorkspace(w workspace) {
	v.text("DRONE_WORKSPACE", w.full())
	v.text("DRONE_WORKSPACE_BASE", w.root())
	v.text("DRONE_WORKSPACE_PATH", w.checkout())
	v.addLegacy()
}

// legacy maps the names of Drone 0.8, which steps still get, to those of today.
var legacy = map[string]string{
	"CI_REPO":                 "DRONE_REPO",
	"CI_REPO_NAME":            "DRONE_REPO",
	"CI_REPO_LINK":            "DRONE_REPO_LINK",
	"CI_REPO_REMOTE":          "DRONE_REMOTE_URL",
	"CI_REMOTE_URL":           "DRONE_REMOTE_URL",
	"CI_REPO_PRIVATE":         "DRONE_REPO_PRIVATE",
	"CI_BUILD_NUMBER":         "DRONE_BUILD_NUMBER",
	"CI_PARENT_BUILD_NUMBER":  "DRONE_BUILD_PARENT",
	"CI_BUILD_CREATED":        "DRONE_BUILD_CREATED",
	"CI_BUILD_STARTED":        "DRONE_BUILD_STARTED",
	"CI_BUILD_FINISHED":       "DRONE_BUILD_FINISHED",
	"CI_BUILD_STATUS":         "DRONE_BUILD_STATUS",
	"CI_BUILD_EVENT":          "DRONE_BUILD_EVENT",
	"CI_BUILD_LINK":           "DRONE_BUILD_LINK",
	"CI_BUILD_TARGET":         "DRONE_DEPLOY_TO",
	"CI_COMMIT_SHA":           "DRONE_COMMIT_SHA",
	"CI_COMMIT_REF":           "DRONE_COMMIT_REF",
	"CI_COMMIT_BRANCH":        "DRONE_COMMIT_BRANCH",
	"CI_COMMIT_MESSAGE":       "DRONE_COMMIT_MESSAGE",
	"CI_COMMIT_AUTHOR":        "DRONE_COMMIT_AUTHOR",
	"CI_COMMIT_AUTHOR_NAME":   "DRONE_COMMIT_AUTHOR_NAME",
	"CI_COMMIT_AUTHOR_EMAIL":  "DRONE_COMMIT_AUTHOR_EMAIL",
	"CI_COMMIT_AUTHOR_AVATAR": "DRONE_COMMIT_AUTHOR_AVATAR",
	"CI_WORKSPACE":            "DRONE_WORKSPACE",
	"CI_WORKSPACE_BASE":       "DRONE_WORKSPACE_BASE",
	"CI_WORKSPACE_PATH":       "DRONE_WORKSPACE_PATH",
}

func (v variables) addLegacy() {
	for old, name := range legacy {
		if value, ok := v[name]; ok {
			v[old] = value
		}
	}
}

// refreshed reports whether Drone sets a variable again when a step starts, so that a file cannot change it.
func refreshed(name string) bool {
	for _, prefix := range []string{"DRONE_BUILD_", "DRONE_COMMIT_", "DRONE_STAGE_", "DRONE_STEP_"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return name == "DRONE_COMMIT"
}

// The environment of a step, later wins: what the event was given, what the pipeline sets, the variables, what the step
// sets, the variables that are refreshed, secrets. jobEnv is the part that all steps share, stepEnv the rest.

func jobEnv(params map[string]string, p *pipeline, vars variables) map[string]plan.Value {
	env := make(map[string]plan.Value, len(params)+len(p.environment)+len(vars))
	for name, text := range params {
		if name != "" && !strings.ContainsAny(name, "=\x00") {
			env[name] = plan.Text(text)
		}
	}
	maps.Copy(env, p.environment)
	maps.Copy(env, vars)
	for name, value := range p.environment {
		if value.Secret != "" {
			env[name] = value
		}
	}
	return env
}

func stepEnv(vars variables, s *step, number int) map[string]plan.Value {
	env := map[string]plan.Value{
		"DRONE_STEP_NAME":   plan.Text(s.name),
		"DRONE_STEP_NUMBER": plan.Text(strconv.Itoa(number)),
	}
	if !s.service {
		env["DRONE_NETRC_MACHINE"] = plan.FromFact(plan.CloneMachine)
		env["DRONE_NETRC_USERNAME"] = plan.FromFact(plan.CloneUsername)
		env["DRONE_NETRC_PASSWORD"] = plan.FromFact(plan.ClonePassword)
	}
	set := func(name string, value plan.Value) {
		_, ofJob := vars[name]
		_, ofStep := env[name]
		if value.Secret == "" && refreshed(name) && (ofJob || ofStep) {
			return
		}
		env[name] = value
	}
	for name, value := range s.environment {
		set(name, value)
	}
	for _, setting := range s.settings {
		set(pluginName(setting.name), setting.value)
	}
	return env
}

// known reports what ${name} is replaced by, and whether the name is one that some run has.
func (v variables) known(params map[string]string, name string) (text string, known bool) {
	if value, ok := v[name]; ok {
		return value.Text, value.Fact == ""
	}
	if text, ok := params[name]; ok {
		return text, true
	}
	return "", slices.ContainsFunc([]string{
		"DRONE_TAG", "DRONE_PULL_REQUEST", "DRONE_SEMVER", "DRONE_CALVER", "DRONE_DEPLOY_", "DRONE_GIT_SSH_URL",
	}, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// lookup returns the values for substitute: variables win over the parameters of the event, and a value of more than
// one line is quoted so that it stays one scalar.
func (v variables) lookup(params map[string]string) func(name string) (string, bool) {
	return func(name string) (string, bool) {
		text, known := v.known(params, name)
		if strings.Contains(text, "\n") {
			text = fmt.Sprintf("%q", text)
		}
		return strings.ToValidUTF8(text, "\uFFFD"), known
	}
}
