package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/flow"
)

// NewRepo is the body that adds a repo.
type NewRepo struct {
	Name         string `json:"name" minLength:"3" maxLength:"200" doc:"owner/name"`
	Forge        string `json:"forge,omitempty" enum:"slipway,gitea" doc:"kind of the forge; the default is slipway, the own git endpoint"`
	ForgeURL     string `json:"forge_url,omitempty" doc:"root of the forge"`
	Token        string `json:"token,omitempty" doc:"token for the forge: read the repo, write its webhooks and commit statuses"`
	Trusted      bool   `json:"trusted,omitempty" doc:"allow privileged steps and host mounts; admins only"`
	Private      bool   `json:"private,omitempty" doc:"only tokens that name the repo may see it"`
	PublicImages bool   `json:"public_images,omitempty" doc:"everybody may pull the repo's images, without a token"`
	Config       string `json:"config,omitempty" doc:"path of the pipeline file"`
}

// RepoChange is the body that changes a repo; what is absent stays.
type RepoChange struct {
	Trusted      *bool   `json:"trusted,omitempty" doc:"admins only"`
	Private      *bool   `json:"private,omitempty"`
	PublicImages *bool   `json:"public_images,omitempty" doc:"everybody may pull the repo's images, without a token"`
	Config       *string `json:"config,omitempty"`
	Timeout      *int64  `json:"timeout,omitempty" minimum:"0" maximum:"604800" doc:"limit of a job in seconds; 0 is the server's default"`
}

func (s *server) registerRepos(api huma.API) {
	add(s, api, "list-repos", http.MethodGet, "/api/repos", "List the repos that the token may see", s.listRepos)
	add(s, api, "add-repo", http.MethodPost, "/api/repos", "Serve a repo", s.addRepo)
	add(s, api, "get-repo", http.MethodGet, "/api/repos/{owner}/{name}", "Get a repo", func(ctx context.Context, in *RepoPath) (ci.Repo, error) {
		return s.reads(ctx, in.repo())
	})
	add(s, api, "change-repo", http.MethodPatch, "/api/repos/{owner}/{name}", "Change a repo", s.changeRepo)
	add(s, api, "delete-repo", http.MethodDelete, "/api/repos/{owner}/{name}", "Stop serving a repo, and forget its runs and secrets", s.deleteRepo)
}

func (s *server) listRepos(ctx context.Context, _ *struct{}) ([]ci.Repo, error) {
	all, err := s.Store.ListRepos(ctx)
	if err != nil {
		return nil, err
	}
	repos := []ci.Repo{}
	for _, repo := range all {
		if !repo.Private || principal(ctx).Reads(repo.Name) {
			repos = append(repos, repo)
		}
	}
	return repos, nil
}

// visible returns the names of the repos that who asks may read.
func (s *server) visible(ctx context.Context) ([]string, error) {
	repos, err := s.listRepos(ctx, nil)
	names := []string{}
	for _, repo := range repos {
		names = append(names, repo.Name)
	}
	return names, err
}

func (s *server) addRepo(ctx context.Context, in *struct{ Body NewRepo }) (ci.Repo, error) {
	if err := s.admin(ctx); err != nil {
		return ci.Repo{}, err
	}
	return s.Flow.AddRepo(ctx, flow.NewRepo(in.Body))
}

func (s *server) changeRepo(ctx context.Context, in *struct {
	RepoPath
	Body RepoChange
},
) (ci.Repo, error) {
	if err := s.manages(ctx, in.repo()); err != nil {
		return ci.Repo{}, err
	}
	change := in.Body
	if change.Trusted != nil && !principal(ctx).Admin() {
		return ci.Repo{}, fault.New(fault.Forbidden, "only an admin may trust a repo: it gives its pipelines the whole machine of the runner")
	}
	return s.Flow.ChangeRepo(ctx, in.repo(), func(repo *ci.Repo) {
		set(&repo.Trusted, change.Trusted)
		set(&repo.Private, change.Private)
		set(&repo.PublicImages, change.PublicImages)
		set(&repo.Config, change.Config)
		if change.Timeout != nil {
			repo.Timeout = time.Duration(*change.Timeout) * time.Second
		}
	})
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

func (s *server) deleteRepo(ctx context.Context, in *RepoPath) (Empty, error) {
	if err := s.admin(ctx); err != nil {
		return Empty{}, err
	}
	return Empty{}, s.Flow.DeleteRepo(ctx, in.repo())
}
