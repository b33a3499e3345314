package flow

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/protocol"
	"slipway/internal/store"
)

// author names who wrote a commit.
func author(c ci.Commit) string { return cut(cmp.Or(c.Author.Name, c.Author.Login)) }

// title is the first line of a commit's message.
func title(c ci.Commit) string { return cut(c.Title()) }

// maxTitle bounds what is kept of a commit in releases, in characters.
const maxTitle = 200

func cut(s string) string {
	if runes := []rune(s); len(runes) > maxTitle {
		return string(runes[:maxTitle-1]) + "…"
	}
	return s
}

// appendRecord stores the release or the preview that an event brings.
func (f *Flow) appendRecord(ctx context.Context, run *ci.Run, job *ci.Job, e protocol.Event) error {
	switch {
	case e.Release != nil:
		return f.putRelease(ctx, run, job, *e.Release)
	case e.Preview != nil:
		return f.putPreview(ctx, run, job, *e.Preview)
	}
	return nil
}

// putRelease stores the release that a step of a run reported. Whose it is says the lease, and not the runner. What a
// rollback brings back was made of another commit than the run's.
//
// What a fork deployed, to a cluster that it brought, is no release of the repo: else a stranger could say what serves in
// production, and what a rollback asks.
func (f *Flow) putRelease(ctx context.Context, run *ci.Run, job *ci.Job, e protocol.Release) error {
	if run.Event.FromFork() {
		return nil
	}
	r := e.Release
	r.Repo, r.Run, r.Step = run.Repo, run.Number, job.Steps[e.Step-1].Name
	r.By, r.Link = run.Event.Actor(), f.Link(run.Repo, run.Number)
	if r.Of == 0 {
		r.Commit, r.Author, r.Title = run.Event.After, author(run.Event.Commit), title(run.Event.Commit)
	}
	if err := f.storeRelease(ctx, r, e.Manifests); err != nil {
		return err
	}
	return f.noteReleased(ctx, *run, r)
}

func (f *Flow) storeRelease(ctx context.Context, r ci.Release, manifests []byte) (err error) {
	var sealed []byte
	if len(manifests) > 0 {
		if sealed, err = f.Keys.SealLarge(manifests, aboutManifests(r)...); err != nil {
			return fmt.Errorf("seal the manifests of a release: %w", err)
		}
	}
	if err := f.Store.PutRelease(ctx, r, sealed); err != nil {
		return fmt.Errorf("store a release: %w", err)
	}
	return nil
}

// aboutManifests is what the sealed manifests of a release are about, so that they open as those of no other one.
func aboutManifests(r ci.Release) []string {
	return []string{"release", r.Repo, r.Environment, r.Namespace, strconv.FormatInt(r.Number, 10), strconv.FormatInt(r.Started.UnixNano(), 10)}
}

// FindRelease returns a release, or a fault for people.
func (f *Flow) FindRelease(ctx context.Context, repo string, id int64) (ci.Release, error) {
	r, err := f.Store.FindRelease(ctx, repo, id)
	if errors.Is(err, store.ErrNotFound) {
		return ci.Release{}, fault.New(fault.NotFound, "%s has no release with the ID %d", repo, id)
	}
	return r, err
}

// Manifests returns the rendered manifests of a release as its deployment encoded them (package release). They may hold
// secrets.
func (f *Flow) Manifests(ctx context.Context, r ci.Release) ([]byte, error) {
	sealed, err := f.Store.FindManifests(ctx, r.ID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, fault.New(fault.NotFound, "the manifests of release %d are not in the database; slipway env import brings those that the cluster still has", r.Number)
	}
	if err != nil {
		return nil, err
	}
	data, err := f.Keys.Open(sealed, aboutManifests(r)...)
	if err != nil {
		return nil, fault.New(fault.Conflict, "the manifests of release %d cannot be opened: %w", r.Number, err)
	}
	return data, nil
}

// ImportRelease stores a release that was found in a cluster, with its manifests. One that is there already stays as it
// is, and gets the manifests if it has none.
func (f *Flow) ImportRelease(ctx context.Context, r ci.Release, manifests []byte) error {
	if _, err := f.findRepo(ctx, r.Repo); err != nil {
		return err
	}
	switch {
	case !r.Status.Done() || r.Started.IsZero() || r.Number < 1 || r.Environment == "" || r.Namespace == "":
		return fault.New(fault.Invalid, "release %d of %q is not one that has ended", r.Number, r.Environment)
	case len(manifests) > protocol.MaxManifests:
		return fault.New(fault.TooLarge, "the manifests of release %d have %d bytes; at most %d are allowed", r.Number, len(manifests), protocol.MaxManifests)
	}
	return f.storeRelease(ctx, r, manifests)
}

// putPreview stores what a step found out that a deployment would change, and has the pull request told.
func (f *Flow) putPreview(ctx context.Context, run *ci.Run, job *ci.Job, e protocol.Preview) error {
	p := e.Preview
	p.Repo, p.Run, p.Job, p.Step, p.Name = run.Repo, run.Number, job.Number, e.Step, job.Steps[e.Step-1].Name
	p.Commit = run.Event.After
	content, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode a preview: %w", err)
	}
	if len(content) > protocol.MaxPreview {
		return fault.New(fault.TooLarge, "a preview has %d bytes; at most %d are allowed", len(content), protocol.MaxPreview)
	}
	if err := f.Store.PutPreview(ctx, p); err != nil {
		return fmt.Errorf("store a preview: %w", err)
	}
	if remarkable(*run) {
		f.remarker.put(*run)
	}
	return nil
}
