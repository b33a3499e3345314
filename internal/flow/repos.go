package flow

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"slipway/internal/auth"
	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/forge"
	"slipway/internal/protocol"
	"slipway/internal/store"
)

// NewRepo is what a person says of a repo that Slipway shall serve.
type NewRepo struct {
	Name string
	// Forge is the kind of its forge; empty means the own git endpoint, where the repo is made.
	Forge string
	// ForgeURL is the root of the forge. Token lets Slipway read the repo, register a webhook and write statuses.
	ForgeURL string
	Token    string
	Trusted  bool
	Private  bool
	// PublicImages lets everybody pull the repo's images.
	PublicImages bool
	Config       string
}

// OwnForge is the [ci.Repo.Forge] of repos on Slipway's own git endpoint.
const OwnForge = "slipway"

// repoName is what names of repos look like: those of images, whose grammar is in the OCI's distribution specification, "Pulling
// manifests", and capitals, for which see [ci.ImageName].
var repoName = regexp.MustCompile(`^[A-Za-z0-9]+(?:(?:[._]|__|-+)[A-Za-z0-9]+)*/[A-Za-z0-9]+(?:(?:[._]|__|-+)[A-Za-z0-9]+)*$`)

// maxRepoName bounds the name of a repo, in bytes; there is room below it in the 229 of the registry's names.
const maxRepoName = 160

// reservedOwners are what names may not begin with: addresses of the server, and the registry's mirrors of others, whose
// images everybody uses.
var reservedOwners = []string{"api", "assets", "git", "healthz", "hooks", "jwt", "login", "logout", "mirror", "runs", "static", "v2"}

// AddRepo begins to serve a repo. Of a repo that is served already it updates what is known.
func (f *Flow) AddRepo(ctx context.Context, wish NewRepo) (ci.Repo, error) {
	if err := checkRepoName(wish.Name); err != nil {
		return ci.Repo{}, err
	}
	if wish.Config != "" && !fs.ValidPath(wish.Config) {
		return ci.Repo{}, fault.New(fault.Invalid, "%q cannot be the path of the pipeline file; give it relative to the repo's root", wish.Config)
	}
	if wish.Forge == "" {
		wish.Forge = OwnForge
	}
	repo := ci.Repo{
		Name: wish.Name, Forge: wish.Forge, ForgeURL: strings.TrimSuffix(wish.ForgeURL, "/"), Branch: "main",
		Trusted: wish.Trusted, Private: wish.Private, PublicImages: wish.PublicImages, Config: wish.Config, Created: f.Now(),
	}
	if wish.Forge != OwnForge && (wish.ForgeURL == "" || wish.Token == "") {
		return ci.Repo{}, fault.New(fault.Invalid, "a repo on %s needs the forge's URL and a token", wish.Forge)
	}
	at, ok := f.Forges[wish.Forge]
	if !ok {
		return ci.Repo{}, fault.New(fault.Invalid, "there is no forge of the kind %q; use slipway or gitea", wish.Forge)
	}
	earlier, err := f.Store.FindImageOwner(ctx, wish.Name)
	switch {
	case errors.Is(err, store.ErrNotFound):
		if err := create(ctx, at, repo); err != nil {
			return ci.Repo{}, fault.New(fault.Invalid, "%w", err)
		}
	case err != nil:
		return ci.Repo{}, err
	case earlier.Forge != wish.Forge:
		if err := f.checkTaken(ctx, wish.Name); err != nil {
			return ci.Repo{}, err
		}
		return ci.Repo{}, fault.New(fault.Conflict, "%s is served from the forge %s; remove it first to serve it from %s", wish.Name, earlier.Forge, wish.Forge)
	default: // what was granted or hidden stays so until somebody says otherwise
		repo.Timeout = earlier.Timeout
		repo.Trusted = repo.Trusted || earlier.Trusted
		repo.Private = repo.Private || earlier.Private
		repo.PublicImages = repo.PublicImages || earlier.PublicImages
		if repo.Config == "" {
			repo.Config = earlier.Config
		}
	}
	known := forge.Repo{Repo: repo, Token: wish.Token, WebhookSecret: auth.NewToken()}
	described, err := at.Describe(ctx, known)
	if err != nil {
		return ci.Repo{}, fault.New(fault.Invalid, "%w", err)
	}
	repo = described // perhaps by another name: forges find a repo in any case, and by its former name
	if err := f.checkTaken(ctx, repo.Name); err != nil {
		return ci.Repo{}, err
	}
	if wish.Forge != OwnForge {
		if repo.ForgeToken, err = f.Keys.Seal([]byte(known.Token), repo.Name, forgeToken); err != nil {
			return ci.Repo{}, fmt.Errorf("seal the token of %s: %w", repo.Name, err)
		}
		if repo.WebhookSecret, err = f.Keys.Seal([]byte(known.WebhookSecret), repo.Name, webhookSecret); err != nil {
			return ci.Repo{}, fmt.Errorf("seal the webhook secret of %s: %w", repo.Name, err)
		}
		known.Repo = repo
		if err := at.Register(ctx, known, fmt.Sprintf("%s/hooks/%s", f.URL, repo.Name)); err != nil {
			return ci.Repo{}, fault.New(fault.Invalid, "%w", err)
		}
	}
	if err := f.Store.PutRepo(ctx, &repo); err != nil { // store.ErrExists only if another was added in this moment
		return ci.Repo{}, fmt.Errorf("store the repo %s: %w", repo.Name, err)
	}
	return repo, nil
}

// checkRepoName says what is wrong with the name of a repo.
func checkRepoName(name string) error {
	if !repoName.MatchString(name) || len(name) > maxRepoName {
		return fault.New(fault.Invalid, "%.200q cannot be the name of a repo here, because no image can have it: use OWNER/NAME of letters and digits "+
			"with a . or _, a __ or any number of - between them, %d at most", name, maxRepoName)
	}
	if owner, _, _ := strings.Cut(ci.ImageName(name), "/"); slices.Contains(reservedOwners, owner) {
		return fault.New(fault.Invalid, "%q cannot be the name of a repo: %q is Slipway's own at the beginning of a name", name, owner)
	}
	return nil
}

// checkTaken says whether a repo cannot be served by a name that its forge gives, because another one has it in another case.
func (f *Flow) checkTaken(ctx context.Context, name string) error {
	if err := checkRepoName(name); err != nil {
		return err
	}
	other, err := f.Store.FindImageOwner(ctx, name)
	if errors.Is(err, store.ErrNotFound) || err == nil && other.Name == name {
		return nil
	}
	if err != nil {
		return err
	}
	return fault.New(fault.Conflict, "%s cannot be served beside %s: their names differ only by case, so they would have the same images, %s; "+
		"remove that one first, or rename one at its forge", name, other.Name, ci.ImageName(name))
}

// create makes the repository of a new repo where the forge is Slipway's own. One that is there was made by a server which
// was killed before it could store the repo.
func create(ctx context.Context, at forge.Forge, repo ci.Repo) error {
	own, ok := at.(repository)
	if !ok {
		return nil
	}
	if err := own.CheckName(repo.Name); err != nil {
		return err
	}
	err := own.Create(ctx, repo.Name)
	if err == nil {
		return nil
	}
	if _, there := at.Describe(ctx, forge.Repo{Repo: repo}); there == nil {
		return nil
	}
	return err
}

// ChangeRepo changes settings of a repo.
func (f *Flow) ChangeRepo(ctx context.Context, name string, change func(*ci.Repo)) (ci.Repo, error) {
	repo, err := f.findRepo(ctx, name)
	if err != nil {
		return ci.Repo{}, err
	}
	change(&repo)
	if repo.Config != "" && !fs.ValidPath(repo.Config) {
		return ci.Repo{}, fault.New(fault.Invalid, "%q cannot be the path of the pipeline file; give it relative to the repo's root", repo.Config)
	}
	return repo, f.Store.PutRepo(ctx, &repo)
}

// DeleteRepo stops serving a repo: its runs are canceled, and all that is known of it is forgotten. A repo of the own
// endpoint is removed with all its history.
func (f *Flow) DeleteRepo(ctx context.Context, name string) error {
	repo, err := f.findRepo(ctx, name)
	if err != nil {
		return err
	}
	open, err := f.Store.ListRuns(ctx, store.RunFilter{Repo: name, Unfinished: true})
	if err != nil {
		return fmt.Errorf("list the open runs of %s: %w", name, err)
	}
	for _, run := range open {
		// At once, also what runs: its runner finds its lease lost, and nothing comes after the logs are deleted.
		_, err := f.update(ctx, run.ID, func(d *store.Draft) error {
			outcome := protocol.Outcome{Status: ci.Canceled, Message: "the repo was removed", Time: f.Now()}
			for i := range d.Jobs {
				if job := &d.Jobs[i]; !job.Status.Done() {
					endJob(job, outcome)
				}
			}
			if len(d.Jobs) == 0 {
				d.Status, d.Message, d.Finished = outcome.Status, outcome.Message, outcome.Time
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("cancel run %d of %s: %w", run.Number, name, err)
		}
	}
	if err := f.deleteLogs(ctx, name); err != nil {
		return err
	}
	if own, ok := f.Forges[repo.Forge].(repository); ok {
		if err := own.Remove(ctx, name); err != nil && !errors.Is(err, forge.ErrNotFound) {
			return err
		}
	}
	return f.Store.DeleteRepo(ctx, name)
}

// deleteLogs deletes the logs of all runs of a repo.
func (f *Flow) deleteLogs(ctx context.Context, repo string) error {
	for page := (store.RunFilter{Repo: repo, Limit: 500}); ; {
		runs, err := f.Store.ListRuns(ctx, page)
		if err != nil || len(runs) == 0 {
			return err
		}
		for _, listed := range runs {
			page.Before = listed.ID
			run, err := f.Store.FindRun(ctx, repo, listed.Number)
			if err != nil {
				return err
			}
			for _, job := range run.Jobs {
				if err := f.Logs.Delete(ctx, job.ID); err != nil {
					return err
				}
			}
		}
	}
}

// OpenBranches returns the names of a repo's branches that are neither deleted nor merged; nil if there is no such repo, or
// its forge cannot say.
func (f *Flow) OpenBranches(ctx context.Context, repo string) ([]string, error) {
	found, err := f.Store.FindRepo(ctx, repo)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	at, known, err := f.forgeOf(found)
	if err != nil {
		return nil, err
	}
	brancher, ok := at.(forge.Brancher)
	if !ok {
		return nil, nil
	}
	branches, err := brancher.OpenBranches(ctx, known)
	if errors.Is(err, forge.ErrNotFound) {
		return nil, nil
	}
	return branches, err
}

// repository is what the own git endpoint can do beyond being a forge.
type repository interface {
	// CheckName says what is wrong with a name.
	CheckName(name string) error
	// Create makes an empty repository; of one that is there it returns an error.
	Create(ctx context.Context, name string) error
	Remove(ctx context.Context, name string) error
}

// secretName is what names of secrets look like: variables' names, and Drone's with dashes and dots.
var secretName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]{0,127}$`)

// maxSecret bounds the value of a secret, in bytes: a kubeconfig fits.
const maxSecret = 64 << 10

// PutSecret seals and stores a secret of a repo.
func (f *Flow) PutSecret(ctx context.Context, repo, name, value string, pullRequests bool) error {
	if _, err := f.findRepo(ctx, repo); err != nil {
		return err
	}
	switch {
	case !secretName.MatchString(name):
		return fault.New(fault.Invalid, "%q cannot be the name of a secret; use letters, digits and _ . -, with a letter first", name)
	case value == "":
		return fault.New(fault.Invalid, "the secret %q has no value", name)
	case len(value) > maxSecret:
		return fault.New(fault.TooLarge, "the secret %q has %d bytes; at most %d are allowed", name, len(value), maxSecret)
	}
	sealed, err := f.Keys.SealSecret(repo, name, []byte(value))
	if err != nil {
		return fmt.Errorf("seal the secret %q: %w", name, err)
	}
	return f.Store.PutSecret(ctx, ci.Secret{Repo: repo, Name: name, Sealed: sealed, PullRequests: pullRequests, Updated: f.Now()})
}

// DeleteSecret removes a secret of a repo.
func (f *Flow) DeleteSecret(ctx context.Context, repo, name string) error {
	err := f.Store.DeleteSecret(ctx, repo, name)
	if errors.Is(err, store.ErrNotFound) {
		return fault.New(fault.NotFound, "%s has no secret %q", repo, name)
	}
	return err
}

// errForged is the answer to all webhooks that prove nothing, whether their repo exists or not.
var errForged = fault.New(fault.Unauthorized, "the webhook's signature is wrong; its secret must be the one that slipway repo add gave the forge")

// Hook takes a webhook of a repo's forge. It returns the run that it started, or the reason why there is none.
func (f *Flow) Hook(ctx context.Context, repo string, d Delivery) (run ci.Run, reason string, err error) {
	found, err := f.Store.FindRepo(ctx, repo)
	if errors.Is(err, store.ErrNotFound) {
		return ci.Run{}, "", errForged // strangers do not learn which repos there are
	}
	if err != nil {
		return ci.Run{}, "", err
	}
	at, known, err := f.forgeOf(found)
	if err != nil {
		return ci.Run{}, "", err
	}
	event, reason, err := at.Hook(ctx, known, d.Header, d.Body)
	switch {
	case errors.Is(err, forge.ErrForged), errors.Is(err, forge.ErrDenied):
		return ci.Run{}, "", errForged
	case err != nil:
		return ci.Run{}, "", fault.New(fault.Invalid, "%w", err)
	case reason != "":
		return ci.Run{}, reason, nil
	}
	if event.Kind == ci.Delete {
		runs, err := f.Deleted(ctx, repo, event)
		if err != nil || len(runs) == 0 {
			return ci.Run{}, event.Ref + " was deleted", err
		}
		return runs[0], "", nil
	}
	run, skip, err := f.Accept(ctx, repo, event)
	if skip != "" {
		return ci.Run{}, "the commit says " + skip, err
	}
	return run, "", err
}

// Delivery is a webhook as it came.
type Delivery struct {
	Header map[string][]string
	Body   []byte
}
