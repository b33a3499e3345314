package ci

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Environment is a place that a repo deploys to, with the rules for it. Its name is that which deploy steps use, such as
// production. If there is one * in it, as in review/*, it is a pattern: the * stands for a branch, and each branch has a review
// environment of its own, which exists from its first deployment to its teardown.
type Environment struct {
	Repo string `json:"repo"`
	Name string `json:"name"`
	// Cluster is the address of the API server in Kubeconfig; empty means the runner's own cluster.
	Cluster string `json:"cluster,omitempty"`
	// Kubeconfig is sealed (see package secret) and never leaves the server but to a runner that may deploy.
	Kubeconfig []byte `json:"-"`
	// Namespace is where objects go that name none. That of a pattern contains {branch}, for the slug of the branch, and is
	// made and removed with the review environment. Empty leaves it to the deploy step.
	Namespace string `json:"namespace,omitempty"`
	// Policy is how is deployed there, where the deploy step says nothing else.
	Policy Policy `json:"policy,omitzero"`
	// Branches are the refs that may deploy: globs of branches, or of whole refs if they begin with refs/, such as
	// refs/tags/v*. Empty means all branches and tags. Pull requests may deploy to what is no pattern only if a glob names
	// their ref, refs/pull/7/head.
	Branches []string `json:"branches,omitempty"`
	// Deployers are who may deploy; empty means everybody who may push.
	Deployers []string `json:"deployers,omitempty"`
	// Approvals is how many people must approve each deployment. Approvers are those who may; empty means everybody who
	// manages the repo. Who caused a run may approve its deployments only with SelfApproval.
	Approvals    int      `json:"approvals,omitempty"`
	Approvers    []string `json:"approvers,omitempty"`
	SelfApproval bool     `json:"self_approval,omitempty"`
	// Freezes are times at which nothing is deployed.
	Freezes []Freeze `json:"freezes,omitempty"`
	// Lifetime, of a pattern, is how long a review environment stays after its newest deployment; 0 means until its branch
	// is deleted.
	Lifetime time.Duration `json:"lifetime,omitempty"`
	// URL is where people find what runs there; {branch} in it stands for the slug.
	URL string `json:"url,omitempty"`
	// Position orders the environments of a repo, in which a release is promoted: the lowest comes first.
	Position int       `json:"position,omitempty"`
	Created  time.Time `json:"created,omitzero"`
	Updated  time.Time `json:"updated,omitzero"`
}

// BranchPlaceholder stands for the slug of the branch in the namespace and the URL of a pattern.
const BranchPlaceholder = "{branch}"

// Pattern reports whether e is a pattern for review environments.
func (e Environment) Pattern() bool { return strings.Contains(e.Name, "*") }

// Match reports whether e has the rules for the environment of that name, and returns what the * of a pattern stands for.
func (e Environment) Match(name string) (branch string, ok bool) {
	before, after, pattern := strings.Cut(e.Name, "*")
	if !pattern {
		return "", e.Name == name
	}
	if len(name) <= len(before)+len(after) || !strings.HasPrefix(name, before) || !strings.HasSuffix(name, after) {
		return "", false
	}
	return name[len(before) : len(name)-len(after)], true
}

// For returns e as it is for one branch: the names without *, the placeholders filled in.
func (e Environment) For(branch string) Environment {
	if !e.Pattern() {
		return e
	}
	slug := BranchSlug(branch)
	e.Name = strings.Replace(e.Name, "*", branch, 1)
	e.Namespace = strings.ReplaceAll(e.Namespace, BranchPlaceholder, slug)
	e.URL = strings.ReplaceAll(e.URL, BranchPlaceholder, slug)
	return e
}

// FindEnvironment returns that of environments which has the rules for the given name, and what its * stands for: the one of that
// very name, or else the pattern that says the most.
func FindEnvironment(environments []Environment, name string) (found Environment, branch string, ok bool) {
	for _, e := range environments {
		part, fits := e.Match(name)
		if fits && (!ok || !e.Pattern() || found.Pattern() && len(e.Name) > len(found.Name)) {
			found, branch, ok = e, part, true
		}
	}
	return found, branch, ok
}

// MaxBranchSlug is how long a slug is at most, in bytes, so that it fits into a namespace and a host's name beside other words.
const MaxBranchSlug = 30

var (
	plainSlug = regexp.MustCompile(`^[a-z0-9](?:[-a-z0-9]*[a-z0-9])?$`)
	notSlug   = regexp.MustCompile(`[^a-z0-9]+`)
	// hashed is how the slug of a branch ends that got a hash.
	hashed = regexp.MustCompile(`(?:^|-)[0-9a-f]{8}$`)
)

// BranchSlug returns a branch as a part of a DNS label. A branch that is none by itself, or looks like the slug of another one, gets
// a hash of its name, so that two branches have two slugs.
func BranchSlug(branch string) string {
	if len(branch) <= MaxBranchSlug && plainSlug.MatchString(branch) && !hashed.MatchString(branch) {
		return branch
	}
	sum := sha256.Sum256([]byte(branch))
	safe := strings.Trim(notSlug.ReplaceAllString(strings.ToLower(branch), "-"), "-")
	safe = strings.TrimRight(safe[:min(len(safe), MaxBranchSlug-9)], "-")
	return strings.TrimPrefix(safe+"-"+hex.EncodeToString(sum[:4]), "-")
}

// Allows reports whether the ref of an event may deploy to e.
func (e Environment) Allows(ref string) bool {
	if len(e.Branches) == 0 {
		return e.Pattern() || strings.HasPrefix(ref, "refs/heads/") || strings.HasPrefix(ref, "refs/tags/")
	}
	return slices.ContainsFunc(e.Branches, func(glob string) bool {
		if !strings.HasPrefix(glob, "refs/") {
			glob = "refs/heads/" + glob
		}
		return matchGlob(glob, ref)
	})
}

// matchGlob reports whether text is what glob says: * stands for anything but a slash, ** for anything, ? for one character.
func matchGlob(glob, text string) bool {
	var pattern strings.Builder
	for len(glob) > 0 {
		switch {
		case strings.HasPrefix(glob, "**"):
			pattern.WriteString(`.*`)
			glob = glob[2:]
			continue
		case glob[0] == '*':
			pattern.WriteString(`[^/]*`)
		case glob[0] == '?':
			pattern.WriteString(`[^/]`)
		default:
			end := strings.IndexAny(glob, "*?")
			if end < 0 {
				end = len(glob)
			}
			pattern.WriteString(regexp.QuoteMeta(glob[:end]))
			glob = glob[end:]
			continue
		}
		glob = glob[1:]
	}
	ok, err := regexp.MatchString(`(?s)\A(?:`+pattern.String()+`)\z`, text)
	return ok && err == nil
}

// Names reports whether a list of logins has one of that name. Logins are not case-sensitive.
func Names(list []string, who string) bool {
	return who != "" && slices.ContainsFunc(list, func(name string) bool { return strings.EqualFold(name, who) })
}

// Bounds of an environment.
const (
	maxEnvironmentName = 100
	maxRules           = 100 // of each list
	maxApprovals       = 20
)

var (
	environmentName = regexp.MustCompile(`^[A-Za-z0-9][-A-Za-z0-9_.*/]*$`)
	namespaceName   = regexp.MustCompile(`^[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?$`)
)

// Check returns what is wrong with the rules of e, in one sentence.
func (e Environment) Check() error {
	switch {
	case !environmentName.MatchString(e.Name) || len(e.Name) > maxEnvironmentName:
		return fmt.Errorf("%q cannot be the name of an environment; use letters, digits and - _ . / with a letter or digit first, and one * for a branch", e.Name)
	case strings.Trim(e.Name, "0123456789") == "":
		return fmt.Errorf("%q cannot be the name of an environment, because it is a number", e.Name)
	case strings.Count(e.Name, "*") > 1:
		return fmt.Errorf("%q has more than one *; one stands for the branch", e.Name)
	case e.Pattern() && !strings.Contains(e.Namespace, BranchPlaceholder):
		return fmt.Errorf("the namespace of %s must contain %s, such as shop-%[2]s, because each branch gets its own", e.Name, BranchPlaceholder)
	case !e.Pattern() && (strings.Contains(e.Namespace, BranchPlaceholder) || strings.Contains(e.URL, BranchPlaceholder)):
		return fmt.Errorf("%s stands for the branch of a review environment, and %q is none; its name has no *", BranchPlaceholder, e.Name)
	case !e.Pattern() && e.Lifetime != 0:
		return fmt.Errorf("only review environments have a lifetime; the name %q has no *", e.Name)
	case e.Lifetime < 0 || e.Lifetime > 0 && e.Lifetime < time.Minute:
		return fmt.Errorf("a lifetime is a minute or more, not %s", e.Lifetime)
	case e.Approvals < 0 || e.Approvals > maxApprovals:
		return fmt.Errorf("a deployment needs 0 to %d approvals, not %d", maxApprovals, e.Approvals)
	case len(e.Approvers) > 0 && e.Approvals > len(e.Approvers):
		return fmt.Errorf("%d approvals are needed, but only %d may approve", e.Approvals, len(e.Approvers))
	case max(len(e.Branches), len(e.Deployers), len(e.Approvers), len(e.Freezes)) > maxRules:
		return fmt.Errorf("a list has more than %d entries", maxRules)
	case e.URL != "" && !strings.HasPrefix(e.URL, "http://") && !strings.HasPrefix(e.URL, "https://"):
		return fmt.Errorf("the URL %q does not begin with http:// or https://", e.URL)
	}
	longest := e.For(strings.Repeat("b", MaxBranchSlug)).Namespace
	if longest != "" && !namespaceName.MatchString(longest) {
		return fmt.Errorf("%q cannot be a namespace; use at most 63 lower-case letters, digits and -, of which the branch takes up to %d", e.Namespace, MaxBranchSlug)
	}
	for _, list := range [][]string{e.Branches, e.Deployers, e.Approvers} {
		for _, entry := range list {
			if entry == "" || len(entry) > 250 {
				return fmt.Errorf("%.50q cannot be an entry of a list; it is empty or too long", entry)
			}
		}
	}
	for _, freeze := range e.Freezes {
		if err := freeze.Check(); err != nil {
			return err
		}
	}
	p := e.Policy
	if p.Lossless != nil {
		if err := p.Lossless.Check(); err != nil {
			return fmt.Errorf("policy: %w", err)
		}
	}
	if p.Probe != nil {
		if err := p.Probe.Check(); err != nil {
			return fmt.Errorf("policy: %w", err)
		}
	}
	if p.Strategy != nil {
		if err := p.Strategy.Validate(); err != nil {
			return fmt.Errorf("policy: %w", err)
		}
	}
	return nil
}

// Reserved is a namespace that belongs to one environment of a repo, so that no other one of the repo deploys there past its rules.
type Reserved struct {
	// Cluster is the address of the API server; empty means the runner's own cluster.
	Cluster     string `json:"cluster,omitempty"`
	Namespace   string `json:"namespace"`
	Environment string `json:"environment"`
}

// Reserve returns the namespaces that a repo's environments and review environments have for themselves, but not those of the
// given environment.
func Reserve(environments []Environment, reviews []Review, own Environment) (reserved []Reserved) {
	add := func(e Environment, name, namespace string) {
		if namespace != "" && !(e.Cluster == own.Cluster && namespace == own.Namespace) {
			reserved = append(reserved, Reserved{e.Cluster, namespace, name})
		}
	}
	for _, e := range environments {
		if !e.Pattern() {
			add(e, e.Name, e.Namespace)
			continue
		}
		for _, r := range reviews {
			if r.Pattern == e.Name {
				add(e, r.Name, r.Namespace)
			}
		}
	}
	return reserved
}

// Review is a review environment that exists: what a pattern became for one branch.
type Review struct {
	Repo string `json:"repo"`
	// Name is that of the environment, Pattern that of its rules.
	Name      string `json:"name"`
	Pattern   string `json:"pattern"`
	Branch    string `json:"branch"`
	Namespace string `json:"namespace"`
	URL       string `json:"url,omitempty"`
	// Run is the number of the run that deployed there last; Updated is when.
	Run     int64     `json:"run"`
	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
	// Ends is when it is torn down if nothing is deployed until then; zero if it has no lifetime.
	Ends time.Time `json:"ends,omitzero"`
	// Teardown is the number of the newest run that was to tear it down, or 0.
	Teardown int64 `json:"teardown,omitempty"`
}
