package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"slipway/internal/ci"
)

func (s *server) registerDrift(api huma.API) {
	add(s, api, "list-drift", http.MethodGet, "/api/drift", "Say how environments differ from what was deployed to them; the fields, only to who may change the repo", s.listDrift)
}

// listDrift lists what is known of the environments of the repos that who asks may see; of those of no repo, only to admins.
func (s *server) listDrift(ctx context.Context, in *struct {
	Repo string `query:"repo" maxLength:"201" doc:"only those of this repo"`
},
) ([]ci.Drift, error) {
	visible := map[string]bool{"": principal(ctx).Admin()}
	if in.Repo != "" {
		if _, err := s.reads(ctx, in.Repo); err != nil {
			return nil, err
		}
		visible[in.Repo] = true
	} else {
		repos, err := s.listRepos(ctx, nil)
		if err != nil {
			return nil, err
		}
		for _, repo := range repos {
			visible[repo.Name] = true
		}
	}
	all, err := s.Store.ListDrifts(ctx, in.Repo)
	if err != nil {
		return nil, err
	}
	shown := []ci.Drift{}
	for _, d := range all {
		switch {
		case !visible[d.Repo] && !principal(ctx).Admin():
			continue
		case !principal(ctx).Admin() && !principal(ctx).Manages(d.Repo):
			d = d.Outline()
		}
		shown = append(shown, d)
	}
	return shown, nil
}
