package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"slipway/internal/ci"
)

// SecretValue is the body that sets a secret.
type SecretValue struct {
	Value        string `json:"value" minLength:"1"`
	PullRequests bool   `json:"pull_requests,omitempty" doc:"also give it to pull requests of the same repository; forks never get it"`
}

// SecretPath names a secret in an address.
type SecretPath struct {
	RepoPath
	Secret string `path:"secret" maxLength:"128"`
}

func (s *server) registerSecrets(api huma.API) {
	const base = "/api/repos/{owner}/{name}/secrets"
	add(s, api, "list-secrets", http.MethodGet, base, "List the names of a repo's secrets", func(ctx context.Context, in *RepoPath) ([]ci.Secret, error) {
		if err := s.manages(ctx, in.repo()); err != nil {
			return nil, err
		}
		secrets, err := s.Store.ListSecrets(ctx, in.repo())
		if secrets == nil {
			secrets = []ci.Secret{}
		}
		return secrets, err
	})
	add(s, api, "put-secret", http.MethodPut, base+"/{secret}", "Set a secret; its value is never shown again", func(ctx context.Context, in *struct {
		SecretPath
		Body SecretValue
	},
	) (Empty, error) {
		if err := s.manages(ctx, in.repo()); err != nil {
			return Empty{}, err
		}
		return Empty{}, s.Flow.PutSecret(ctx, in.repo(), in.Secret, in.Body.Value, in.Body.PullRequests)
	})
	add(s, api, "delete-secret", http.MethodDelete, base+"/{secret}", "Delete a secret", func(ctx context.Context, in *SecretPath) (Empty, error) {
		if err := s.manages(ctx, in.repo()); err != nil {
			return Empty{}, err
		}
		return Empty{}, s.Flow.DeleteSecret(ctx, in.repo(), in.Secret)
	})
}
