package main

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"slipway/internal/auth"
	"slipway/internal/fault"
	"slipway/internal/forge"
	"slipway/internal/forge/gitd"
	"slipway/internal/registry"
	"slipway/internal/store"
)

// access answers the questions of the git endpoint, the registry and the runner protocol by the same authority.
type access struct {
	authority *auth.Authority
	repos     store.Repos
}

// git implements gitd.Options.Authorize.
func (a access) git(ctx context.Context, repo, _, password string, write bool) (string, error) {
	found, err := a.repos.FindRepo(ctx, repo)
	known := err == nil
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return "", err
	}
	if password == "" {
		if known && !found.Private && !write {
			return "", nil
		}
		return "", gitd.ErrUnauthorized
	}
	who, err := a.authority.Find(ctx, password)
	if f := fault.Of(err); f != nil && f.Code == fault.Unauthorized {
		return "", gitd.ErrUnauthorized
	}
	switch {
	case err != nil:
		return "", err
	case write && who.Manages(repo), !write && (who.Reads(repo) || known && !found.Private):
		if !known {
			return "", forge.ErrNotFound
		}
		return who.Name, nil
	}
	return "", forge.ErrDenied
}

// Access implements [registry.Authority].
func (a access) Access(ctx context.Context, _, password string) (registry.Grants, error) {
	public := func(repository string) bool {
		repo, err := a.repos.FindImageOwner(ctx, repository)
		return err == nil && repo.PublicImages // who cannot be looked up shows nothing
	}
	if password == "" {
		return grants{auth.Principal{}, public}, nil
	}
	who, err := a.authority.Find(ctx, password)
	if f := fault.Of(err); f != nil && f.Code == fault.Unauthorized {
		return nil, registry.ErrCredentials
	}
	if err != nil {
		return nil, err
	}
	return grants{who, public}, nil
}

// grants are what somebody may do in the registry, while one request is answered.
type grants struct {
	auth.Principal
	// public reports whether everybody may pull a repository.
	public func(repository string) bool
}

// Subject implements [registry.Grants].
func (g grants) Subject() string { return g.Name }

// Allows implements [registry.Grants].
func (g grants) Allows(repository string, action registry.Action) bool {
	if action == registry.Pull {
		return g.Pulls(repository) || g.public(repository)
	}
	return g.Pushes(repository)
}

// runner checks that a request of the runner protocol comes from a runner.
func (a access) runner(r *http.Request) error {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return fault.New(fault.Unauthorized, "a runner shows its token")
	}
	who, err := a.authority.Find(r.Context(), token)
	if err != nil {
		return err
	}
	if !who.Runner() {
		return fault.New(fault.Forbidden, "the token %q is not a runner's; make one by: slipway token create NAME --scope runner", who.Name)
	}
	return nil
}
