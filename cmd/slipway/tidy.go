package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"

	"slipway/internal/ci"
	"slipway/internal/registry"
	"slipway/internal/retention"
	"slipway/internal/rollout"
	"slipway/internal/store"
)

// tidy deletes what policies say, and frees what nobody needs any more in the registry and what clients left unfinished,
// every now and then.
func tidy(ctx context.Context, cleaner *retention.Cleaner, images *registry.Handler, pause time.Duration, log *slog.Logger) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		cleaned, err := cleaner.Clean(ctx)
		if err != nil && ctx.Err() == nil {
			log.Error("clean up the registry", "error", err)
		}
		if cleaned != (retention.Cleaned{}) {
			log.Info("cleaned up the registry", "tags", cleaned.Tags, "images", cleaned.Images)
		}
		if swept, err := images.Sweep(ctx); err != nil && ctx.Err() == nil {
			log.Error("sweep unfinished uploads", "error", err)
		} else if swept > 0 {
			log.Info("swept unfinished uploads", "uploads", swept)
		}
		freed, err := images.Collect(ctx)
		if err != nil && ctx.Err() == nil {
			log.Error("collect the registry's garbage", "error", err)
		}
		if freed != (registry.Collected{}) {
			log.Info("collected the registry's garbage", "manifests", freed.Manifests, "links", freed.Links, "blobs", freed.Blobs, "bytes", freed.Bytes)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// rollbackRuns is how many successful runs of a repo keep their images, whatever a policy says.
const rollbackRuns = 10

// rollbackReleases is how many releases of an environment, of each status, keep theirs.
const rollbackReleases = 20

// facts tell retention policies what the runs and the forges know.
type facts struct {
	store interface {
		store.Repos
		store.Runs
		store.Releases
	}
	// running returns what clusters run of a repo's images, who of them could not be asked and, without wait, who is being asked.
	running func(ctx context.Context, repo string, wait bool) (uses []rollout.ImageUse, unasked, asking string)
	// branches returns the open branches of a repo, or nil if they are not known.
	branches func(ctx context.Context, repo string) ([]string, error)
}

// owner returns the name of the repo that a repository of images belongs to, as runs, releases and environments have it. Of
// one that is gone, nobody knows anything under any name.
func (f facts) owner(ctx context.Context, repository string) (string, error) {
	repo, err := f.store.FindImageOwner(ctx, repository)
	if errors.Is(err, store.ErrNotFound) {
		return ci.ImageOwner(repository), nil
	}
	return repo.Name, err
}

// InUse implements [retention.Facts]: what clusters run or can go back to, the images of runs that go on, of the newest
// successful ones with the runs that they repeat, which a rollback or a promotion starts from, and of the newest releases,
// whichever repo deployed them.
func (f facts) InUse(ctx context.Context, repository string, wait bool) (usage retention.Usage, err error) {
	repo, err := f.owner(ctx, repository)
	if err != nil {
		return usage, err
	}
	var running []rollout.ImageUse
	running, usage.Unasked, usage.Asking = f.running(ctx, repo, wait)
	for _, one := range running {
		if use, ok := useOf(one.Image, repository, one.Reason); ok {
			usage.Uses = append(usage.Uses, use)
		}
	}
	known, err := f.known(ctx, repo, repository)
	usage.Uses = append(usage.Uses, known...)
	return usage, err
}

// bareDigest is what nodes say of an image that they know no name of.
var bareDigest = regexp.MustCompile(`^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$`)

// useOf says which image of the repository is used by a reference: by its digest, whatever the host and name, because
// mirrors and copies have other ones; or by its tag, under whatever host.
func useOf(image, repository, reason string) (retention.Use, bool) {
	if _, digest, ok := strings.Cut(image, "@"); ok {
		return retention.Use{Digest: digest, Reason: reason}, true
	}
	if bareDigest.MatchString(image) {
		return retention.Use{Digest: image, Reason: reason}, true
	}
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil || reference.Path(named) != repository {
		return retention.Use{}, false
	}
	tag, _ := reference.TagNameOnly(named).(reference.Tagged)
	return retention.Use{Name: tag.Tag(), Reason: reason}, true
}

// known returns the images in use that the database knows of.
func (f facts) known(ctx context.Context, repo, repository string) (uses []retention.Use, err error) {
	add := func(number int64, why string) error {
		run, err := f.store.FindRun(ctx, repo, number)
		if errors.Is(err, store.ErrNotFound) {
			return nil // deleted meanwhile
		}
		if err != nil {
			return err
		}
		for _, image := range run.Images {
			use := retention.Use{Digest: image.Digest, Reason: fmt.Sprintf("run %d %s", number, why)}
			if run.Status.Done() {
				use.Tag = tagOf(image, repository)
			}
			uses = append(uses, use)
		}
		return nil
	}
	releases, err := f.store.NewestReleases(ctx, store.NewestFilter{Each: rollbackReleases})
	if err != nil {
		return nil, err
	}
	for _, r := range releases {
		for _, image := range r.Images {
			if use, ok := useOf(image, repository, fmt.Sprintf("release %d of %s has it", r.Number, r.Environment)); ok {
				uses = append(uses, use)
			}
		}
	}
	open, err := f.store.ListRuns(ctx, store.RunFilter{Repo: repo, Unfinished: true})
	if err != nil {
		return nil, err
	}
	for _, run := range open {
		if err := errors.Join(add(run.Number, "goes on"), add(run.Parent, "is repeated by one that goes on")); err != nil {
			return nil, err
		}
	}
	good := 0
	for page := (store.RunFilter{Repo: repo, Limit: 500}); ; {
		runs, err := f.store.ListRuns(ctx, page)
		if err != nil {
			return nil, err
		}
		for _, run := range runs {
			page.Before = run.ID
			if run.Status != ci.Success {
				continue
			}
			if err := errors.Join(add(run.Number, "is one of the newest that succeeded"), add(run.Parent, "is repeated by one of the newest that succeeded")); err != nil {
				return nil, err
			}
			if good++; good == rollbackRuns {
				return uses, nil
			}
		}
		if len(runs) < page.Limit {
			return uses, nil
		}
	}
}

// tagOf returns the tag under which a run pushed an image to the repository, or "".
func tagOf(image ci.Image, repository string) string {
	_, path, _ := strings.Cut(image.Ref, "/")
	name, tag, _ := strings.Cut(path, ":")
	if name != repository {
		return ""
	}
	return tag
}

// Branches implements [retention.Facts].
func (f facts) Branches(ctx context.Context, repository string) ([]string, error) {
	repo, err := f.owner(ctx, repository)
	if err != nil {
		return nil, err
	}
	return f.branches(ctx, repo)
}

// runName is how a run is called in the histories of tags, see package auth.
var runName = regexp.MustCompile(`^([^ ]+/[^ ]+) run ([0-9]{1,18})$`)

// Over implements [retention.Facts]. A run that is not among those that go on is over, even if it was deleted with its repo.
func (f facts) Over(ctx context.Context, by []string) (map[string]bool, error) {
	over := map[string]bool{}
	open := map[string]map[int64]bool{} // by repo
	for _, name := range by {
		match := runName.FindStringSubmatch(name)
		if match == nil {
			continue
		}
		repo := match[1]
		number, err := strconv.ParseInt(match[2], 10, 64)
		if err != nil {
			return nil, err
		}
		if open[repo] == nil {
			runs, err := f.store.ListRuns(ctx, store.RunFilter{Repo: repo, Unfinished: true})
			if err != nil {
				return nil, err
			}
			open[repo] = map[int64]bool{}
			for _, run := range runs {
				open[repo][run.Number] = true
			}
		}
		over[name] = !open[repo][number]
	}
	return over, nil
}
