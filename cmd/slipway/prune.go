package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/spf13/cobra"

	"slipway/internal/fault"
	"slipway/internal/prune"
	"slipway/internal/remote"
)

// pruneOptions are the flags of `slipway registry prune`.
type pruneOptions struct {
	keepLast  int
	olderThan string
	match     string
	dryRun    bool
	username  string
	insecure  []string
}

func newPruneCommand() *cobra.Command {
	var opts pruneOptions
	cmd := &cobra.Command{
		Use:   "prune IMAGE...",
		Short: "Delete old tags of images, in any registry",
		Long: `Delete old tags of images, in any registry. A tag is deleted that --match chooses, that is not one of the --keep-last
newest of those, and that is older than --older-than. Its age is that of the image, as the image says; of unknown age
it stays. Other tags of the same image stay, too, whether the registry can delete a tag or only an image: no digest
of an image is ever deleted. The registry frees the space when it collects its garbage.

Logins are those of docker login, unless --username is given.`,
		Example: `  slipway registry prune ghcr.io/octo/app --match '^pr-' --older-than 30d --dry-run
  slipway registry prune registry.example.com/octo/app registry.example.com/octo/web --keep-last 10`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runPrune(cmd, opts, args)
		},
	}
	flags := cmd.Flags()
	flags.IntVar(&opts.keepLast, "keep-last", 0, "keep so many of the newest tags")
	flags.StringVar(&opts.olderThan, "older-than", "", "delete only what is older, such as 30d or 12h")
	flags.StringVar(&opts.match, "match", "", "regular expression of the names of the tags that this is about (default: all)")
	flags.BoolVar(&opts.dryRun, "dry-run", false, "only say what would be deleted and what kept, and why")
	flags.StringVar(&opts.username, "username", "", "name to log in with; the password is $SLIPWAY_REGISTRY_PASSWORD")
	flags.StringArrayVar(&opts.insecure, "insecure-registry", nil, "host of a registry that is spoken to over plain HTTP")
	return cmd
}

// prunePatience is how long each request waits for a registry that has too much to do: nobody sits before a nightly clean-up.
const prunePatience = 15 * time.Minute

func runPrune(cmd *cobra.Command, opts pruneOptions, images []string) error {
	rules, err := opts.rules()
	if err != nil {
		return err
	}
	repositories := make([]remote.Repository, len(images))
	for i, image := range images {
		if repositories[i], err = remote.ParseRepository(image); err != nil {
			return fault.New(fault.Invalid, "%w", err)
		}
		if opts.username != "" && repositories[i].Host != repositories[0].Host {
			return fault.New(fault.Invalid, "--username is a login for one registry, and the images are in %s and %s", repositories[0].Host, repositories[i].Host)
		}
	}
	client := remote.New(remote.Options{Login: opts.login, Insecure: opts.insecure, Patience: prunePatience})
	defer client.Close()
	out := cmd.OutOrStdout()
	for _, r := range repositories {
		tags, err := prune.List(cmd.Context(), client, r)
		if err != nil {
			return registryFault(err)
		}
		decisions := rules.Decide(tags, time.Now())
		if opts.dryRun {
			printDecisions(out, r, decisions)
			continue
		}
		var doomed []prune.Tag
		reasons := map[string]string{}
		for _, d := range decisions {
			if d.Delete {
				doomed = append(doomed, d.Tag)
				reasons[d.Name] = d.Reason
			}
		}
		deleted := 0
		err = prune.Delete(cmd.Context(), client, r, doomed, func(result prune.Result) {
			if result.Kept != "" {
				fmt.Fprintf(out, "kept %s:%s: %s\n", r, result.Tag.Name, result.Kept)
				return
			}
			deleted++
			fmt.Fprintf(out, "deleted %s:%s: %s\n", r, result.Tag.Name, reasons[result.Tag.Name])
		})
		fmt.Fprintf(out, "%s: %d tags deleted, %d kept\n", r, deleted, len(decisions)-deleted)
		if err != nil {
			return registryFault(err)
		}
	}
	return nil
}

// printDecisions is the dry run.
func printDecisions(out io.Writer, r remote.Repository, decisions []prune.Decision) {
	n := 0
	for _, d := range decisions {
		verb := "would keep"
		if d.Delete {
			verb = "would delete"
			n++
		}
		fmt.Fprintf(out, "%s %s:%s: %s\n", verb, r, d.Name, d.Reason)
	}
	fmt.Fprintf(out, "%s: %d tags would be deleted, %d kept\n", r, n, len(decisions)-n)
}

// rules reads the flags.
func (o pruneOptions) rules() (rules prune.Rules, err error) {
	rules.KeepLast = o.keepLast
	if o.olderThan != "" {
		if rules.OlderThan, err = parseAge(o.olderThan); err != nil {
			return rules, fault.New(fault.Invalid, "--older-than %q is not an age, such as 30d or 12h", o.olderThan)
		}
	}
	if o.match != "" {
		if rules.Match, err = regexp.Compile(o.match); err != nil {
			return rules, fault.New(fault.Invalid, "--match: %w", err)
		}
	}
	if err := rules.Check(); err != nil {
		return rules, fault.New(fault.Invalid, "%w; use --keep-last N, --older-than AGE or both", err)
	}
	return rules, nil
}

// parseAge is time.ParseDuration that knows days.
func parseAge(s string) (time.Duration, error) {
	if number, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseUint(number, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(s)
}

// login finds the credentials for a registry.
func (o pruneOptions) login(host string) (username, password string, err error) {
	if o.username != "" {
		return o.username, os.Getenv("SLIPWAY_REGISTRY_PASSWORD"), nil
	}
	registry, err := name.NewRegistry(host)
	if err != nil {
		return "", "", err
	}
	found, err := authn.DefaultKeychain.Resolve(registry)
	if err != nil {
		return "", "", err
	}
	config, err := found.Authorization()
	if err != nil {
		return "", "", err
	}
	if config.IdentityToken != "" {
		return "", config.IdentityToken, nil
	}
	return config.Username, config.Password, nil
}

// registryFault says of what kind a registry's error is.
func registryFault(err error) error {
	var answer *remote.Error
	code := fault.Unavailable
	switch {
	case errors.Is(err, prune.ErrSwitchedOff):
		code = fault.Forbidden
	case errors.As(err, &answer) && answer.Status < 500 && answer.Status != http.StatusTooManyRequests:
		code = fault.FromHTTPStatus(answer.Status)
	}
	return fault.New(code, "%w", err)
}
