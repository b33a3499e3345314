package retention

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"slipway/internal/fault"
	"slipway/internal/store"
)

// Facts are what the rest of the server knows of a repository of images.
type Facts interface {
	// InUse returns the images that must not go. With wait it asks whoever may use some, and waits for their answers; without,
	// it returns at once with what is known, for people to look at, and asks meanwhile.
	InUse(ctx context.Context, repository string, wait bool) (Usage, error)
	// Branches returns the names of the branches that are neither deleted nor merged, or nil if they are not known.
	Branches(ctx context.Context, repository string) ([]string, error)
	// Over returns those of by, who pushed tags, that were runs and have ended.
	Over(ctx context.Context, by []string) (map[string]bool, error)
}

// Usage is what is known of the images that somebody uses.
type Usage struct {
	Uses []Use
	// Unasked says in a sentence who could not be asked what they use, or has not answered yet; then nothing goes. It is empty if
	// all answered.
	Unasked string
	// Asking says in a sentence who is being asked again, so that what they use may be old. It is empty when InUse waited.
	Asking string
}

// Store is what a Cleaner needs of the store.
type Store interface {
	store.Manifests
	store.Tags
	store.Inventory
	store.Browsing
	store.Graph
	store.Policies
}

// Cleaner carries policies out. It may be used concurrently; one at a time may belong to a store.
type Cleaner struct {
	Store Store
	Facts Facts
	// Now is the clock.
	Now func() time.Time

	mu       sync.Mutex
	policies map[string]known
}

// known is a policy that was read.
type known struct {
	store.Policy
	parsed Policy
	err    error
}

// load reads all policies, once.
func (c *Cleaner) load(ctx context.Context) (map[string]known, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.policies != nil {
		return c.policies, nil
	}
	list, err := c.Store.ListPolicies(ctx)
	if err != nil {
		return nil, fmt.Errorf("load the retention policies: %w", err)
	}
	policies := map[string]known{}
	for _, p := range list {
		if _, ok := policies[p.Repository]; ok {
			continue // somebody set one, which comes first and holds
		}
		parsed, err := Parse(p.Text)
		policies[p.Repository] = known{p, parsed, err}
	}
	c.policies = policies
	return policies, nil
}

// Find returns the policy that holds for a repository and its text: its own, or that of the nearest repository above it
// (octo/app for octo/app/cache), or the one for all. Of the same repository, the one that somebody set holds, and not the
// one of the file. Without any it returns zero values.
func (c *Cleaner) Find(ctx context.Context, repository string) (store.Policy, Policy, error) {
	policies, err := c.load(ctx)
	if err != nil {
		return store.Policy{}, Policy{}, err
	}
	for name := repository; ; {
		if p, ok := policies[name]; ok {
			return p.Policy, p.parsed, p.err
		}
		if name == "" {
			return store.Policy{}, Policy{}, nil
		}
		name = name[:max(0, strings.LastIndexByte(name, '/'))]
	}
}

// Put sets the policy of a repository and what is below it, or for all if its name is empty. An empty text removes it. A
// text that is not a policy is a fault with [fault.Invalid].
func (c *Cleaner) Put(ctx context.Context, repository, text, by string) error {
	if _, err := Parse(text); err != nil {
		return fault.New(fault.Invalid, "%w", err)
	}
	if err := c.Store.PutPolicy(ctx, store.Policy{Repository: repository, Text: text, Updated: c.Now(), By: by}); err != nil {
		return fmt.Errorf("store the retention policy: %w", err)
	}
	c.forget()
	return nil
}

// PolicyFile is where a repo has its policy.
const PolicyFile = ".slipway/registry.yml"

// File is what a commit has as [PolicyFile].
type File struct {
	// Repository is what the repo's images are called.
	Repository string
	Commit     string
	// Text is empty if the commit has no such file.
	Text string
	// Run is the ID of the run of the commit's push, By its name. What an older run brings than the last is ignored.
	Run int64
	By  string
}

// PutFile takes the policy of a repo from the newest commit of its default branch, and returns what its people should
// know. A file that is no policy changes nothing.
func (c *Cleaner) PutFile(ctx context.Context, f File) (warnings []string, err error) {
	if strings.TrimSpace(f.Text) == "" {
		f.Text = ""
	}
	var problems Problems
	if _, err := Parse(f.Text); errors.As(err, &problems) {
		for _, p := range problems {
			warnings = append(warnings, PolicyFile+":"+p.String())
		}
		return append(warnings, PolicyFile+": the registry's policy stays as it was before"), nil
	}
	err = c.Store.PutPolicy(ctx, store.Policy{Repository: f.Repository, Text: f.Text, Updated: c.Now(), By: f.By, Commit: f.Commit, Run: f.Run})
	if errors.Is(err, store.ErrExists) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("store the retention policy of %s: %w", f.Repository, err)
	}
	c.forget()
	if f.Text == "" {
		return nil, nil
	}
	found, _, err := c.Find(ctx, f.Repository)
	if err == nil && found.Repository == f.Repository && found.Commit == "" {
		warnings = []string{fmt.Sprintf("%s: not in force, because %s has set a policy of %s; "+
			"slipway registry policy set %s </dev/null removes that", PolicyFile, found.By, f.Repository, f.Repository)}
	}
	return warnings, nil
}

// forget makes the next question read the policies anew.
func (c *Cleaner) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.policies = nil
}

// Fixed returns what says whether a tag of the repository is immutable.
func (c *Cleaner) Fixed(ctx context.Context, repository string) (func(tag string) bool, error) {
	_, policy, err := c.Find(ctx, repository)
	return policy.Fixed, err
}

// DryRun returns what a policy would do to the repository now; nil is the one that holds.
func (c *Cleaner) DryRun(ctx context.Context, repository string, policy *Policy) (Decision, error) {
	return c.try(ctx, repository, policy, true)
}

// Preview is DryRun with what is known of the images in use: it waits for nobody.
func (c *Cleaner) Preview(ctx context.Context, repository string, policy *Policy) (Decision, error) {
	return c.try(ctx, repository, policy, false)
}

func (c *Cleaner) try(ctx context.Context, repository string, policy *Policy, wait bool) (Decision, error) {
	if policy == nil || mirrored(repository) {
		_, found, err := c.holding(ctx, repository)
		if err != nil {
			return Decision{}, err
		}
		policy = &found
	}
	state, err := c.state(ctx, repository, *policy, wait)
	if err != nil {
		return Decision{}, err
	}
	return policy.Decide(state), nil
}

// mirrored reports whether the repository has copies of another registry's images. The mirror's quota says which of those
// stay.
func mirrored(repository string) bool { return strings.HasPrefix(repository, "mirror/") }

// state finds out what the policy's decision needs. Tags come before manifests: of what is pushed meanwhile, only the manifest is seen, and
// that is too young to go.
func (c *Cleaner) state(ctx context.Context, repository string, policy Policy, wait bool) (State, error) {
	s := State{Now: c.Now()}
	for page := (store.Page{Repository: repository, Limit: 1000}); ; {
		tags, err := c.Store.ListTags(ctx, page)
		if err != nil {
			return s, err
		}
		s.Tags = append(s.Tags, tags...)
		if len(tags) < page.Limit {
			break
		}
		page.Last = tags[len(tags)-1].Name
	}
	for page := (store.Page{Repository: repository, Limit: 500}); ; {
		manifests, err := c.Store.ListManifests(ctx, page, false)
		if err != nil {
			return s, err
		}
		s.Manifests = append(s.Manifests, manifests...)
		if len(manifests) < page.Limit {
			break
		}
		page.Last = manifests[len(manifests)-1].Digest
	}
	return s, c.ask(ctx, repository, policy, &s, wait)
}

// ask finds out what others know of a repository, as far as the decision about the state's tags needs it. What is not known for sure
// deletes nothing.
func (c *Cleaner) ask(ctx context.Context, repository string, policy Policy, s *State, wait bool) (err error) {
	if s.Usage, err = c.Facts.InUse(ctx, repository, wait); err != nil {
		return fmt.Errorf("find out which images of %s are in use: %w", repository, err)
	}
	var runs []string
	branches := false
	for _, tag := range s.Tags {
		i := policy.ruleOf(tag.Name)
		if i < 0 {
			continue
		}
		branches = branches || policy.Rules[i].Branch
		if policy.Rules[i].Run {
			runs = append(runs, tag.By)
		}
	}
	if branches {
		if s.Branches, err = c.Facts.Branches(ctx, repository); err != nil {
			return fmt.Errorf("list the branches of %s: %w", repository, err)
		}
	}
	slices.Sort(runs)
	over, err := c.Facts.Over(ctx, slices.Compact(runs))
	if err != nil {
		return fmt.Errorf("find out which runs that pushed to %s are over: %w", repository, err)
	}
	s.Over = func(by string) bool { return over[by] }
	return nil
}

// Cleaned counts what Clean deleted.
type Cleaned struct{ Tags, Images int }

// by is who deletes, in the histories of tags.
const by = "clean-up"

// Clean carries out the policies of all repositories. A tag that moves or an image that is pushed or tagged meanwhile
// stays. An error leaves a repository to the next time, and does not keep the others from theirs.
func (c *Cleaner) Clean(ctx context.Context) (Cleaned, error) {
	var done Cleaned
	var errs []error
	for last := ""; ; {
		names, err := c.Store.ListRepositories(ctx, store.Page{Last: last, Limit: 500})
		if err != nil || len(names) == 0 {
			return done, errors.Join(append(errs, err)...)
		}
		last = names[len(names)-1]
		for _, name := range names {
			if mirrored(name) {
				continue
			}
			_, policy, err := c.Find(ctx, name)
			if err == nil && (len(policy.Rules) > 0 || policy.Untagged > 0) {
				err = c.clean(ctx, name, policy, &done)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("clean up %s: %w", name, err))
			}
			if ctx.Err() != nil {
				return done, errors.Join(errs...)
			}
		}
	}
}

func (c *Cleaner) clean(ctx context.Context, repository string, policy Policy, done *Cleaned) error {
	state, err := c.state(ctx, repository, policy, true)
	if err != nil {
		return err
	}
	removals := policy.Decide(state).Removals
	for _, r := range removals {
		if r.Tag == "" {
			continue
		}
		err := c.Store.DeleteTag(ctx, store.Change{Repository: repository, Reference: r.Tag, Digest: r.Digest, By: by, At: state.Now})
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		if err == nil {
			done.Tags++
		}
	}
	// An image goes after all that refers to it, which a round or two find out.
	for progress := true; progress; {
		progress = false
		for i, r := range removals {
			if !r.Image {
				continue
			}
			_, err := c.Store.DeleteManifest(ctx, store.Change{Repository: repository, Reference: r.Digest, Unneeded: true, By: by, At: state.Now})
			switch {
			case errors.Is(err, store.ErrInUse):
				continue
			case err != nil && !errors.Is(err, store.ErrNotFound):
				return err
			case err == nil:
				done.Images++
			}
			removals[i].Image = false
			progress = true
		}
	}
	return nil
}

// Restore points a tag back at what it pointed to before: a deleted one at its last image, another at the one before.
// Digest, unless empty, says at which. Without a tag, the image is brought back alone. It returns the digest. What was
// deleted longer than the registry's grace period ago cannot be had back.
func (c *Cleaner) Restore(ctx context.Context, repository, tag, digest, who string) (string, error) {
	if tag == "" && digest == "" {
		return "", fault.New(fault.Invalid, "say which tag or digest to restore")
	}
	if digest == "" {
		history, err := c.Store.TagHistory(ctx, repository, tag, 1000)
		if err != nil {
			return "", err
		}
		for i, change := range history {
			if i > 0 && change.Digest != "" && change.Digest != history[0].Digest {
				digest = change.Digest
				break
			}
		}
		if digest == "" {
			return "", fault.New(fault.NotFound, "%s:%s has never pointed at another image", repository, tag)
		}
	}
	fixed, err := c.Fixed(ctx, repository)
	if err != nil {
		return "", err
	}
	err = c.Store.Restore(ctx, store.Change{Repository: repository, Reference: tag, Digest: digest, Immutable: fixed, By: who, At: c.Now()})
	var missing *store.MissingError
	var over *store.QuotaError
	switch {
	case errors.As(err, &over):
		return "", fault.New(fault.Conflict, "there is no room for the image %s: %w", digest, over)
	case errors.Is(err, store.ErrNotFound):
		return "", fault.New(fault.NotFound, "%s has no image %s any more", repository, digest)
	case errors.Is(err, store.ErrExists):
		return "", fault.New(fault.Conflict, "the tag %s of %s is immutable, and points at another image", tag, repository)
	case errors.As(err, &missing):
		return "", fault.New(fault.NotFound, "the image %s cannot be restored: %w", digest, missing)
	}
	return digest, err
}

// DeleteTag deletes a tag; one that is immutable only by force.
func (c *Cleaner) DeleteTag(ctx context.Context, repository, tag, who string, force bool) error {
	change := store.Change{Repository: repository, Reference: tag, By: who, At: c.Now()}
	if !force {
		var err error
		if change.Immutable, err = c.Fixed(ctx, repository); err != nil {
			return err
		}
	}
	err := c.Store.DeleteTag(ctx, change)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return fault.New(fault.NotFound, "%s has no tag %s", repository, tag)
	case errors.Is(err, store.ErrExists):
		return fault.New(fault.Conflict, "the tag %s of %s is immutable; delete it by force if it has to be", tag, repository)
	}
	return err
}
