package image

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"

	"slipway/internal/buildkit"
	"slipway/internal/engine"
)

// Request is what to build and where to push it.
type Request struct {
	// Workspace is the folder of this machine that nothing is read outside of. Checkout is the folder of it that Context
	// and Dockerfile are relative to, and may not lead out of; empty means the workspace. A step may have made a link of it.
	Workspace string
	Checkout  string
	// Context is the folder that the Dockerfile may copy from; empty means Checkout. Dockerfile is a file of it;
	// empty means "Dockerfile" in Context. Neither may lead out of Checkout.
	Context    string
	Dockerfile string
	// Target is the stage to build; empty means the last.
	Target string
	// Args are the build arguments, Labels the labels of the image.
	Args   map[string]string
	Labels map[string]string

	// Repo is the repository without tag. Registry, if set, is the registry's host; Repo may or may not begin with it.
	Repo     string
	Registry string
	// Tags are all pushed; none means latest.
	Tags []string
	// Auths are credentials by registry host, for base images and for the push; the first that fits counts.
	Auths []engine.Auth
	// Insecure speaks plain HTTP, or does not verify the certificate of, the registry that is pushed to.
	Insecure bool
	// DryRun builds but does not push; then Repo may be empty.
	DryRun bool

	// CacheFrom are references of images whose layers may be reused, if they were pushed with a CacheFrom too.
	CacheFrom []string
	// NoCache builds every layer again.
	NoCache bool
	// Pull is kept for its meaning on Docker, where a base image may be an old one of the machine's: here the registry,
	// or its mirror, is asked for the digest of every tag anyway.
	Pull bool
	// Scope names those who share caches that are not bound to content: cache mounts of RUN, and the copy of the
	// context that BuildKit keeps to send only changes. Builds of one scope must trust each other, so it should name
	// the repo, and whether the build is for its own people or for a fork. Empty shares nothing between builds.
	Scope string
	// Epoch, if not zero, is the time that everything in the image gets at most; the commit's makes builds reproducible.
	Epoch time.Time
	// HostNetwork allows RUN --network=host; only trusted repos may have it.
	HostNetwork bool
	// Secrets are shown nowhere: each is replaced in the output and in errors.
	Secrets []string
}

// refs returns the references to push, in the order of the tags.
func (r *Request) refs() ([]string, error) {
	if r.Repo == "" {
		if r.DryRun {
			return nil, nil
		}
		return nil, fmt.Errorf("an image to push needs a repo")
	}
	repo := r.Repo
	if host := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(r.Registry, "https://"), "http://"), "/"); host != "" {
		canonical := buildkit.CanonicalHost(host)
		// A registry may be written with the beginning of the repository: registry.example.com/team.
		if _, path, ok := strings.Cut(host, "/"); ok && canonical != "docker.io" {
			canonical += "/" + path
		}
		if repo != canonical && !strings.HasPrefix(repo, canonical+"/") {
			repo = canonical + "/" + repo
		}
	}
	named, err := reference.ParseNormalizedNamed(repo)
	if host, path, _ := strings.Cut(repo, "/"); err != nil {
		lower := host + "/" + strings.ToLower(path)
		if _, err := reference.ParseNormalizedNamed(lower); err == nil {
			return nil, fmt.Errorf("repo %q has capitals, which names of images cannot have; write %s", r.Repo, lower)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("repo %q is not a valid name of a repository: %w", r.Repo, err)
	}
	if !reference.IsNameOnly(named) {
		return nil, fmt.Errorf("repo %q has a tag or digest; tags are a setting of their own", r.Repo)
	}
	tags := r.Tags
	if len(tags) == 0 {
		tags = []string{"latest"}
	}
	var refs []string
	for _, tag := range tags {
		tagged, err := reference.WithTag(named, tag)
		if err != nil {
			return nil, fmt.Errorf("tag %q is not valid: letters, digits, '_', '.' and '-', at most 128", tag)
		}
		if !slices.Contains(refs, tagged.String()) {
			refs = append(refs, tagged.String())
		}
	}
	return refs, nil
}

// Result is what was built.
type Result struct {
	// Digest is of the image's manifest: sha256:...
	Digest string
	// Refs are the references with tag that the image was pushed to; none after a dry run.
	Refs []string
	// Size is the bytes of the image's layers as stored in a registry, or 0 if that is not known.
	Size int64
}
