package flow

import (
	"context"
	"errors"
	"fmt"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/forge"
	"slipway/internal/retention"
)

// takeRetention gives the registry the policy that a push to the default branch brings, and returns what the pusher should
// know. Nothing about it fails a run. A repeated run brings nothing: what it is of may be long past.
func (f *Flow) takeRetention(ctx context.Context, run ci.Run) (warnings []string) {
	if f.Retention == nil || run.Event.Kind != ci.Push || run.Parent != 0 {
		return nil
	}
	repo, err := f.findRepo(ctx, run.Repo)
	if err == nil && run.Event.Ref != "refs/heads/"+repo.Branch {
		return nil
	}
	var text []byte
	if err == nil {
		text, err = f.fileAt(ctx, repo, run.Event.After, retention.PolicyFile)
	}
	if err == nil || errors.Is(err, forge.ErrNotFound) {
		warnings, err = f.Retention.PutFile(ctx, retention.File{
			Repository: ci.ImageName(run.Repo), Commit: run.Event.After, Text: string(text), Run: run.ID, By: fmt.Sprintf("%s run %d", run.Repo, run.Number),
		})
	}
	if err != nil {
		f.Log.Error("take the registry's policy of a push", "repo", run.Repo, "run", run.Number, "error", err)
		warnings = append(warnings, fmt.Sprintf("%s was not read, so the registry's policy stays as it was: %s", retention.PolicyFile, fault.Of(err).Message))
	}
	return warnings
}

// fileAt reads a file of a repo at a commit.
func (f *Flow) fileAt(ctx context.Context, repo ci.Repo, commit, path string) ([]byte, error) {
	at, known, err := f.forgeOf(repo)
	if err != nil {
		return nil, err
	}
	text, err := at.File(ctx, known, commit, path)
	if err != nil && !errors.Is(err, forge.ErrNotFound) {
		return nil, fault.New(fault.Unavailable, "%w", err)
	}
	return text, err
}
