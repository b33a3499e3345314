package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/ledger"
	"slipway/internal/protocol"
	"slipway/internal/store"
)

// ReleaseListing chooses releases.
type ReleaseListing struct {
	Environment string `query:"environment" maxLength:"200" doc:"only those of this environment"`
	Namespace   string `query:"namespace" maxLength:"63" doc:"only those of this namespace"`
	Image       string `query:"image" maxLength:"1000" doc:"only those that use this image: a whole reference, or a digest"`
	Run         int64  `query:"run" minimum:"0" doc:"only those of the runs with this number"`
	Before      int64  `query:"before" minimum:"0" doc:"only those that started before the release of this id, for paging"`
	Limit       int    `query:"limit" minimum:"1" maximum:"500" default:"50"`
}

func (l ReleaseListing) filter() store.ReleaseFilter {
	return store.ReleaseFilter{Environment: l.Environment, Namespace: l.Namespace, Image: l.Image, Run: l.Run, Before: l.Before, Limit: l.Limit}
}

// ReleasePath names a release in an address.
type ReleasePath struct {
	RepoPath
	ID int64 `path:"id" minimum:"1" doc:"id of the release"`
}

// Manifest is one object of a release.
type Manifest struct {
	Name      string `json:"name" doc:"kind/name"`
	Namespace string `json:"namespace,omitempty"`
	YAML      string `json:"yaml" doc:"values of Secrets are masked"`
}

// ReleaseDiff is what changed from one release to another.
type ReleaseDiff struct {
	From        *ci.Release     `json:"from,omitempty" doc:"absent if there was none before"`
	To          ci.Release      `json:"to"`
	Differences []ci.Difference `json:"differences"`
	Omitted     int             `json:"omitted,omitempty" doc:"how many objects changed that are too much to be told"`
}

// FoundRelease is the body that brings a release from a cluster into the database.
type FoundRelease struct {
	Release   ci.Release `json:"release"`
	Manifests []byte     `json:"manifests,omitempty" doc:"as the cluster keeps them: gzip of a JSON list of objects"`
}

func (s *server) registerReleases(api huma.API) {
	const base = "/api/repos/{owner}/{name}/releases"
	add(s, api, "list-all-releases", http.MethodGet, "/api/releases", "List releases of all repos that the token may see, newest first", s.listAllReleases)
	add(s, api, "list-releases", http.MethodGet, base, "List releases of a repo, newest first", s.listReleases)
	add(s, api, "get-release", http.MethodGet, base+"/{id}", "Get a release", s.getRelease)
	add(s, api, "get-release-manifests", http.MethodGet, base+"/{id}/manifests", "Get the rendered manifests of a release; for who may change the repo", s.getManifests)
	add(s, api, "diff-release", http.MethodGet, base+"/{id}/diff", "Say what changed with a release; for who may change the repo", s.diffRelease)
	add(s, api, "list-previews", http.MethodGet, "/api/repos/{owner}/{name}/runs/{number}/previews", "What deployments of a run would change, as its diff steps found out", s.listPreviews)
	const most = 2 * protocol.MaxManifests // of which base64 takes a third more
	addSized(s, api, most, "import-release", http.MethodPost, "/api/releases", "Store a release that was found in a cluster; one that is known stays as it is", s.importRelease)
}

func (s *server) listAllReleases(ctx context.Context, in *ReleaseListing) ([]ci.Release, error) {
	filter := in.filter()
	var err error
	if filter.Repos, err = s.visible(ctx); err != nil {
		return nil, err
	}
	return listed(s.Store.ListReleases(ctx, filter))
}

func (s *server) listReleases(ctx context.Context, in *struct {
	RepoPath
	ReleaseListing
},
) ([]ci.Release, error) {
	if _, err := s.reads(ctx, in.repo()); err != nil {
		return nil, err
	}
	filter := in.filter()
	filter.Repo = in.repo()
	return listed(s.Store.ListReleases(ctx, filter))
}

func (s *server) getRelease(ctx context.Context, in *ReleasePath) (ci.Release, error) {
	if _, err := s.reads(ctx, in.repo()); err != nil {
		return ci.Release{}, err
	}
	return s.Flow.FindRelease(ctx, in.repo(), in.ID)
}

func (s *server) ledger() ledger.Ledger { return ledger.Ledger{Flow: s.Flow, Store: s.Store} }

// managedRelease returns a release if who asks may change its repo.
func (s *server) managedRelease(ctx context.Context, in ReleasePath) (ci.Release, error) {
	if err := s.manages(ctx, in.repo()); err != nil {
		return ci.Release{}, err
	}
	return s.Flow.FindRelease(ctx, in.repo(), in.ID)
}

func (s *server) getManifests(ctx context.Context, in *ReleasePath) ([]Manifest, error) {
	r, err := s.managedRelease(ctx, *in)
	if err != nil {
		return nil, err
	}
	documents, err := s.ledger().Documents(ctx, r)
	manifests := []Manifest{}
	for _, d := range documents {
		manifests = append(manifests, Manifest(d))
	}
	return manifests, err
}

func (s *server) diffRelease(ctx context.Context, in *struct {
	ReleasePath
	From int64 `query:"from" minimum:"0" doc:"id of the release to compare with; the default is the good one before"`
},
) (diff ReleaseDiff, err error) {
	if diff.To, err = s.managedRelease(ctx, in.ReleasePath); err != nil {
		return diff, err
	}
	if in.From == 0 {
		diff.From, err = s.ledger().Before(ctx, diff.To)
	} else {
		var from ci.Release
		from, err = s.Flow.FindRelease(ctx, in.repo(), in.From)
		diff.From = &from
	}
	if err != nil {
		return diff, err
	}
	diff.Differences, diff.Omitted, err = s.ledger().Diff(ctx, diff.From, diff.To)
	diff.Differences, err = listed(diff.Differences, err)
	return diff, err
}

func (s *server) listPreviews(ctx context.Context, in *RunPath) ([]ci.Preview, error) {
	if _, err := s.getRun(ctx, in); err != nil {
		return nil, err
	}
	return listed(s.Store.ListPreviews(ctx, in.repo(), in.Number))
}

func (s *server) importRelease(ctx context.Context, in *struct{ Body FoundRelease }) (Empty, error) {
	if err := s.admin(ctx); err != nil {
		return Empty{}, err
	}
	if len(in.Body.Manifests) > 0 {
		if err := ledger.Check(in.Body.Manifests); err != nil {
			return Empty{}, fault.New(fault.Invalid, "%w", err)
		}
	}
	return Empty{}, s.Flow.ImportRelease(ctx, in.Body.Release, in.Body.Manifests)
}
