package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"slipway/internal/ci"
	"slipway/internal/store"
)

// EnvironmentPath names an environment in an address.
type EnvironmentPath struct {
	RepoPath
	Environment string `path:"environment" maxLength:"300" doc:"name of the environment, escaped: review%2F*"`
}

// EnvironmentRules is the body that changes an environment; what is absent stays.
type EnvironmentRules struct {
	Kubeconfig   *string      `json:"kubeconfig,omitempty" doc:"content of a kubeconfig that holds everything itself; it is sealed, and never shown again. Empty means the runner's own cluster"`
	Namespace    *string      `json:"namespace,omitempty" doc:"where objects go that name none; that of a pattern contains {branch}"`
	Policy       *ci.Policy   `json:"policy,omitempty"`
	Branches     *[]string    `json:"branches,omitempty" doc:"globs of the branches, or of the refs, that may deploy"`
	Deployers    *[]string    `json:"deployers,omitempty" doc:"who may deploy; none means everybody who may push"`
	Approvals    *int         `json:"approvals,omitempty" doc:"how many people must approve each deployment"`
	Approvers    *[]string    `json:"approvers,omitempty" doc:"who may approve; none means everybody who manages the repo"`
	SelfApproval *bool        `json:"self_approval,omitempty" doc:"who caused a run may approve its deployments"`
	Freezes      *[]ci.Freeze `json:"freezes,omitempty" doc:"times at which nothing is deployed"`
	Lifetime     *int64       `json:"lifetime,omitempty" minimum:"0" maximum:"315360000" doc:"of a pattern: seconds from the newest deployment to a review environment to its teardown; 0 means none"`
	URL          *string      `json:"url,omitempty" doc:"where people find what runs there; that of a pattern may contain {branch}"`
	Position     *int         `json:"position,omitempty" doc:"order in which releases are promoted; the lowest comes first"`
}

// NewEnvironment is the body that makes an environment.
type NewEnvironment struct {
	Name string `json:"name" minLength:"1" maxLength:"100" doc:"such as production, or a pattern such as review/*"`
	EnvironmentRules
}

func (s *server) registerEnvironments(api huma.API) {
	const base = "/api/repos/{owner}/{name}/environments"
	add(s, api, "list-environments", http.MethodGet, base, "List the environments of a repo, with their rules", s.listEnvironments)
	add(s, api, "add-environment", http.MethodPost, base, "Make an environment; admins only", s.addEnvironment)
	add(s, api, "get-environment", http.MethodGet, base+"/{environment}", "Get an environment", s.getEnvironment)
	add(s, api, "change-environment", http.MethodPatch, base+"/{environment}", "Change the rules of an environment; admins only", s.changeEnvironment)
	add(s, api, "delete-environment", http.MethodDelete, base+"/{environment}", "Forget the rules of an environment; admins only", s.deleteEnvironment)
	add(s, api, "list-gates", http.MethodGet, "/api/repos/{owner}/{name}/gates", "List the deployments that came to a gate, newest first", s.listGates)
	add(s, api, "list-reviews", http.MethodGet, "/api/repos/{owner}/{name}/reviews", "List the review environments that exist", s.listReviews)
}

func (s *server) listEnvironments(ctx context.Context, in *RepoPath) ([]ci.Environment, error) {
	if _, err := s.reads(ctx, in.repo()); err != nil {
		return nil, err
	}
	return listed(s.Store.ListEnvironments(ctx, in.repo()))
}

// listed makes no list an empty one, as clients expect.
func listed[T any](list []T, err error) ([]T, error) {
	if list == nil {
		list = []T{}
	}
	return list, err
}

func (s *server) getEnvironment(ctx context.Context, in *EnvironmentPath) (ci.Environment, error) {
	if _, err := s.reads(ctx, in.repo()); err != nil {
		return ci.Environment{}, err
	}
	return s.Flow.FindEnvironment(ctx, in.repo(), in.Environment)
}

// rules checks that who asks may change the rules of a repo's environments. Who may only push may not: the rules are for them.
func (s *server) rules(ctx context.Context, repo string) error {
	if _, err := s.reads(ctx, repo); err != nil {
		return err
	}
	return s.admin(ctx)
}

func (s *server) addEnvironment(ctx context.Context, in *struct {
	RepoPath
	Body NewEnvironment
},
) (ci.Environment, error) {
	if err := s.rules(ctx, in.repo()); err != nil {
		return ci.Environment{}, err
	}
	kubeconfig := ""
	set(&kubeconfig, in.Body.Kubeconfig)
	return s.Flow.AddEnvironment(ctx, in.repo(), in.Body.Name, kubeconfig, in.Body.change)
}

func (s *server) changeEnvironment(ctx context.Context, in *struct {
	EnvironmentPath
	Body EnvironmentRules
},
) (ci.Environment, error) {
	if err := s.rules(ctx, in.repo()); err != nil {
		return ci.Environment{}, err
	}
	return s.Flow.ChangeEnvironment(ctx, in.repo(), in.Environment, in.Body.Kubeconfig, in.Body.change)
}

func (r EnvironmentRules) change(e *ci.Environment) {
	set(&e.Namespace, r.Namespace)
	set(&e.Policy, r.Policy)
	set(&e.Branches, r.Branches)
	set(&e.Deployers, r.Deployers)
	set(&e.Approvals, r.Approvals)
	set(&e.Approvers, r.Approvers)
	set(&e.SelfApproval, r.SelfApproval)
	set(&e.Freezes, r.Freezes)
	set(&e.URL, r.URL)
	set(&e.Position, r.Position)
	if r.Lifetime != nil {
		e.Lifetime = time.Duration(*r.Lifetime) * time.Second
	}
}

func (s *server) deleteEnvironment(ctx context.Context, in *EnvironmentPath) (Empty, error) {
	if err := s.rules(ctx, in.repo()); err != nil {
		return Empty{}, err
	}
	return Empty{}, s.Flow.DeleteEnvironment(ctx, in.repo(), in.Environment)
}

func (s *server) listReviews(ctx context.Context, in *RepoPath) ([]ci.Review, error) {
	if _, err := s.reads(ctx, in.repo()); err != nil {
		return nil, err
	}
	return listed(s.Store.ListReviews(ctx, in.repo()))
}

// GateListing chooses gates.
type GateListing struct {
	RepoPath
	Run         int64  `query:"run" minimum:"0" doc:"only those of the run of this number"`
	Environment string `query:"environment" doc:"only those of this environment"`
	Waiting     bool   `query:"waiting" doc:"only those that wait"`
	Limit       int    `query:"limit" minimum:"1" maximum:"500" default:"50"`
}

func (s *server) listGates(ctx context.Context, in *GateListing) ([]ci.Gate, error) {
	if _, err := s.reads(ctx, in.repo()); err != nil {
		return nil, err
	}
	return listed(s.Store.ListGates(ctx, store.GateFilter{
		Repo: in.repo(), Run: in.Run, Environment: in.Environment, Waiting: in.Waiting, Limit: in.Limit,
	}))
}
