package api

import (
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/plan"
	"slipway/internal/store"
)

// RunPath names a run in an address.
type RunPath struct {
	RepoPath
	Number int64 `path:"number" minimum:"1" doc:"number of the run"`
}

// Listing chooses runs.
type Listing struct {
	Before int64  `query:"before" minimum:"0" doc:"only runs with a smaller id, for paging"`
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"50"`
	Image  string `query:"image" maxLength:"1000" doc:"only those that pushed this image: a reference as it was pushed, or a digest"`
}

func (s *server) registerRuns(api huma.API) {
	const base = "/api/repos/{owner}/{name}/runs"
	add(s, api, "list-all-runs", http.MethodGet, "/api/runs", "List runs of all repos that the token may see, newest first", s.listAllRuns)
	add(s, api, "list-runs", http.MethodGet, base, "List runs of a repo, newest first", s.listRuns)
	add(s, api, "get-run", http.MethodGet, base+"/{number}", "Get a run with its jobs and steps", s.getRun)
	add(s, api, "get-plan", http.MethodGet, base+"/{number}/plan", "Get the plan of a run", s.getPlan)
	add(s, api, "list-rollouts", http.MethodGet, base+"/{number}/rollouts", "Get how far the deployments of a run are", s.listRollouts)
	add(s, api, "cancel-run", http.MethodPost, base+"/{number}/cancel", "Cancel a run", s.cancelRun)
	add(s, api, "restart-run", http.MethodPost, base+"/{number}/restart", "Run the event of a run again", s.restartRun)
	s.registerLog(api, base+"/{number}/jobs/{job}/steps/{step}/log")
}

func (s *server) listAllRuns(ctx context.Context, in *Listing) ([]ci.Run, error) {
	visible, err := s.visible(ctx)
	if err != nil {
		return nil, err
	}
	return listed(s.Store.ListRuns(ctx, store.RunFilter{Repos: visible, Before: in.Before, Image: in.Image, Limit: in.Limit}))
}

func (s *server) listRuns(ctx context.Context, in *struct {
	RepoPath
	Listing
},
) ([]ci.Run, error) {
	if _, err := s.reads(ctx, in.repo()); err != nil {
		return nil, err
	}
	return listed(s.Store.ListRuns(ctx, store.RunFilter{Repo: in.repo(), Before: in.Before, Image: in.Image, Limit: in.Limit}))
}

func (s *server) getRun(ctx context.Context, in *RunPath) (ci.Run, error) {
	if _, err := s.reads(ctx, in.repo()); err != nil {
		return ci.Run{}, err
	}
	return s.Flow.FindRun(ctx, in.repo(), in.Number)
}

func (s *server) getPlan(ctx context.Context, in *RunPath) (plan.Plan, error) {
	run, err := s.getRun(ctx, in)
	if err != nil {
		return plan.Plan{}, err
	}
	found, err := s.Store.FindPlan(ctx, run.ID)
	if errors.Is(err, store.ErrNotFound) {
		err = fault.New(fault.NotFound, "run %d of %s has no plan: it ended before it got one", run.Number, run.Repo)
	}
	return found, err
}

func (s *server) listRollouts(ctx context.Context, in *RunPath) ([]ci.Rollout, error) {
	run, err := s.getRun(ctx, in)
	if err != nil {
		return nil, err
	}
	rollouts, err := s.Store.ListRollouts(ctx, run.ID)
	if rollouts == nil {
		rollouts = []ci.Rollout{}
	}
	return rollouts, err
}

func (s *server) cancelRun(ctx context.Context, in *RunPath) (ci.Run, error) {
	if err := s.manages(ctx, in.repo()); err != nil {
		return ci.Run{}, err
	}
	return s.Flow.Cancel(ctx, in.repo(), in.Number, principal(ctx).Name)
}

func (s *server) restartRun(ctx context.Context, in *RunPath) (ci.Run, error) {
	if err := s.manages(ctx, in.repo()); err != nil {
		return ci.Run{}, err
	}
	return s.Flow.Restart(ctx, in.repo(), in.Number, principal(ctx).Name)
}

// LogPath names the log of a step in an address.
type LogPath struct {
	RunPath
	Job    int   `path:"job" minimum:"1" doc:"number of the job in its run"`
	Step   int   `path:"step" minimum:"1" doc:"number of the step in its job"`
	Offset int64 `query:"offset" minimum:"0" doc:"byte to begin at"`
	Follow bool  `query:"follow" doc:"go on until the step has ended"`
}

// registerLog serves logs as they are: text, secrets masked.
func (s *server) registerLog(api huma.API, path string) {
	huma.Register(api, huma.Operation{
		OperationID: "get-log", Method: http.MethodGet, Path: path, Summary: "Read or follow the log of a step",
		Responses: map[string]*huma.Response{"200": {Description: "the log", Content: map[string]*huma.MediaType{"text/plain": {}}}},
	}, func(ctx context.Context, in *LogPath) (*huma.StreamResponse, error) {
		run, err := s.getRun(ctx, &in.RunPath)
		if err != nil {
			return nil, s.problem(err)
		}
		if in.Job > len(run.Jobs) || in.Step > len(run.Jobs[in.Job-1].Steps) {
			return nil, s.problem(fault.New(fault.NotFound, "run %d of %s has no step %d in job %d", run.Number, run.Repo, in.Step, in.Job))
		}
		job := run.Jobs[in.Job-1]
		return &huma.StreamResponse{Body: func(out huma.Context) {
			out.SetHeader("Content-Type", "text/plain; charset=utf-8")
			out.SetHeader("X-Content-Type-Options", "nosniff")
			out.SetHeader("Cache-Control", "no-store")
			w := flushing{out.BodyWriter()}
			follow := in.Follow && !job.Steps[in.Step-1].Status.Done()
			if err := s.Flow.CopyLog(out.Context(), w, job.ID, in.Step, in.Offset, follow); err != nil && out.Context().Err() == nil {
				s.Log.Warn("send a log", "repo", run.Repo, "run", run.Number, "error", err)
			}
		}}, nil
	})
}

// flushing sends every piece at once, for people who watch.
type flushing struct{ io.Writer }

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.Writer.Write(p)
	if flusher, ok := f.Writer.(http.Flusher); ok && err == nil {
		flusher.Flush()
	}
	return n, err
}
