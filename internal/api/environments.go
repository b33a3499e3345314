package api

import (
	"cmp"
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"slipway/internal/ci"
	"slipway/internal/flow"
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
	add(s, api, "rollback-environment", http.MethodPost, base+"/{environment}/rollback", "Bring an environment back to an earlier release, as a run without a pipeline", s.rollbackEnvironment)
	add(s, api, "teardown-environment", http.MethodPost, base+"/{environment}/teardown", "Remove a review environment, as a run without a pipeline", s.teardownEnvironment)
	add(s, api, "vote-run", http.MethodPost, "/api/repos/{owner}/{name}/runs/{number}/vote", "Approve or reject the deployments of a run that wait, or let them pass although their environment is frozen", s.voteRun)
	add(s, api, "promote-run", http.MethodPost, "/api/repos/{owner}/{name}/runs/{number}/promote", "Run the pipeline of a run again for another environment, with the images that it pushed", s.promoteRun)
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

// RollbackWish is the body that brings an environment back.
type RollbackWish struct {
	Release   int64  `json:"release,omitempty" minimum:"0" doc:"number of the release; 0 means the last good one before that which serves"`
	Namespace string `json:"namespace,omitempty" doc:"the one that is meant, if the environment was deployed to several"`
}

func (s *server) rollbackEnvironment(ctx context.Context, in *struct {
	EnvironmentPath
	Body RollbackWish
},
) (ci.Run, error) {
	if err := s.manages(ctx, in.repo()); err != nil {
		return ci.Run{}, err
	}
	return s.Flow.Rollback(ctx, in.repo(), in.Environment, in.Body.Namespace, in.Body.Release, principal(ctx).Name)
}

// TeardownWish is the body that removes a review environment.
type TeardownWish struct {
	Reason string `json:"reason,omitempty" maxLength:"500"`
}

func (s *server) teardownEnvironment(ctx context.Context, in *struct {
	EnvironmentPath
	Body TeardownWish
},
) (ci.Run, error) {
	if err := s.manages(ctx, in.repo()); err != nil {
		return ci.Run{}, err
	}
	return s.Flow.Teardown(ctx, in.repo(), in.Environment, principal(ctx).Name, in.Body.Reason)
}

// Ballot is the body that says something of the deployments of a run that wait.
type Ballot struct {
	Choice      ci.Choice `json:"choice" enum:"approve,reject,override"`
	Environment string    `json:"environment,omitempty" doc:"the one that is meant; none means all that the run waits for"`
	Comment     string    `json:"comment,omitempty" maxLength:"1000"`
}

func (s *server) voteRun(ctx context.Context, in *struct {
	RunPath
	Body Ballot
},
) ([]ci.Gate, error) {
	if err := s.manages(ctx, in.repo()); err != nil {
		return nil, err
	}
	return s.Flow.Vote(ctx, flow.Ballot{
		Repo: in.repo(), Run: in.Number, Environment: in.Body.Environment, Choice: in.Body.Choice, Comment: in.Body.Comment,
		Who: principal(ctx).Name,
	})
}

// Promotion is the body that promotes a run.
type Promotion struct {
	Target string            `json:"target" minLength:"1" maxLength:"300" doc:"the environment"`
	Event  ci.EventKind      `json:"event,omitempty" enum:"promote,rollback" doc:"the event of the pipeline; the default is promote"`
	Params map[string]string `json:"params,omitempty" doc:"variables for the steps"`
}

func (s *server) promoteRun(ctx context.Context, in *struct {
	RunPath
	Body Promotion
},
) (ci.Run, error) {
	if err := s.manages(ctx, in.repo()); err != nil {
		return ci.Run{}, err
	}
	return s.Flow.Promote(ctx, flow.Promotion{
		Repo: in.repo(), Run: in.Number, Kind: cmp.Or(in.Body.Event, ci.Promote), Target: in.Body.Target, Params: in.Body.Params,
		Who: principal(ctx).Name,
	})
}
