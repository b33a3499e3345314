package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/kube"
	"slipway/internal/release"
	"slipway/internal/rollout"
)

// placeFlags say which environment is meant, in a cluster that is spoken to directly.
type placeFlags struct {
	kubeconfig, context string
	namespace, repo     string
}

func (f *placeFlags) register(cmd *cobra.Command) {
	registerCluster(cmd, &f.kubeconfig, &f.context)
	cmd.Flags().StringVarP(&f.namespace, "namespace", "n", "", "namespace that the environment was deployed to (default: that of the kubeconfig)")
	registerRepo(cmd, &f.repo)
}

// registerRepo adds the flag that tells the environments of repos apart.
func registerRepo(cmd *cobra.Command, repo *string) {
	cmd.Flags().StringVar(repo, "repo", "", "repo whose part of the environment is meant, as `owner/name` (default: the only one that there is)")
}

// open finds the environment of that name. The caller closes the client.
func (f *placeFlags) open(ctx context.Context, name string) (release.Place, error) {
	client, err := kube.Default(f.kubeconfig, f.context)
	if err != nil {
		return release.Place{}, err
	}
	p := release.Place{Client: client, Namespace: cmp.Or(f.namespace, client.Namespace), Environment: name, Repo: f.repo}
	states, err := release.Environments(ctx, client, p.Namespace)
	if err != nil {
		client.Close()
		return p, client.Explain(err)
	}
	var repos []string
	for _, s := range states {
		if s.Environment == name && (f.repo == "" || s.Repo == f.repo) {
			repos = append(repos, s.Repo)
		}
	}
	switch {
	case len(repos) == 0:
		client.Close()
		return p, fault.New(fault.NotFound, "nothing was deployed to %s; slipway env list shows what there is", p)
	case len(repos) > 1:
		client.Close()
		return p, fault.New(fault.Invalid, "several deploy to %s: %s; say which by --repo", p, strings.Join(repos, ", "))
	}
	p.Repo = repos[0]
	return p, nil
}

// person is who types the command.
func person() string {
	host, _ := os.Hostname()
	if u, err := user.Current(); err == nil {
		return strings.TrimSuffix(u.Username+"@"+host, "@")
	}
	return host
}

// newRollbackCommand returns `slipway rollback`.
func newRollbackCommand() *cobra.Command {
	var flags placeFlags
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "rollback ENV [RELEASE]",
		Short: "Bring an environment back to an earlier release",
		Long: `Bring an environment back to an earlier release: the one of that number, or else the last good one before the one
that serves. Its manifests are kept in the cluster, so nothing is built or rendered, and no server is needed. Objects
that came after it are deleted, and those that were deleted come back. Jobs are not run again. It becomes a new release.

Exit codes: as of "slipway deploy"; 4 also if there is no such release.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			number := int64(0)
			if len(args) == 2 {
				var err error
				if number, err = parseRelease(args[1]); err != nil {
					return err
				}
			}
			place, err := flags.open(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer place.Client.Close()
			_, err = rollout.Rollback(cmd.Context(), rollout.Request{
				Client: place.Client, Namespace: place.Namespace, Environment: place.Environment, Timeout: timeout,
				Release: ci.Release{Repo: place.Repo, By: person()},
			}, number, cmd.OutOrStdout())
			return err
		},
	}
	flags.register(cmd)
	cmd.Flags().DurationVar(&timeout, "timeout", rollout.DefaultTimeout, "time for applying and rolling out together")
	return cmd
}

func parseRelease(text string) (int64, error) {
	number, err := strconv.ParseInt(text, 10, 64)
	if err != nil || number < 1 {
		return 0, fault.New(fault.Invalid, "%q is not the number of a release", text)
	}
	return number, nil
}

// newEnvCommand returns `slipway env`.
func newEnvCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "env",
		Short: "Say what runs in environments, and keep the rules by which is deployed to them",
		Long: `Say what runs in environments, and keep the rules by which is deployed to them.

A command that begins with OWNER/NAME asks the server of that repo's environments. One that begins with the name of an environment,
or with nothing, reads what runs where from a cluster, and needs no server.`,
	}
	cmd.AddCommand(newEnvListCommand(c), newEnvShowCommand(c), newEnvHistoryCommand(), newEnvDiffCommand(), newEnvDriftCommand(), newEnvUnlockCommand(),
		newEnvImportCommand())
	cmd.AddCommand(newEnvServerCommands(c)...)
	return cmd
}

func newEnvListCommand(c *connection) *cobra.Command {
	var kubeconfig, context, namespace string
	cmd := &cobra.Command{
		Use: "list [OWNER/NAME]", Short: "List the environments of a cluster, or those of a repo with their rules", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				if kubeconfig+context+namespace != "" {
					return fault.New(fault.Invalid, "slipway env list %s asks the server; without the name of a repo it asks a cluster, and takes the other flags", args[0])
				}
				return c.listEnvironments(cmd, args[0])
			}
			client, err := kube.Default(kubeconfig, context)
			if err != nil {
				return err
			}
			defer client.Close()
			states, err := release.Environments(cmd.Context(), client, namespace)
			if err != nil {
				return client.Explain(err)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAMESPACE\tENVIRONMENT\tREPO\tRELEASE\tSTATE")
			for _, s := range states {
				fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\n", s.Namespace, s.Environment, cmp.Or(s.Repo, "-"), s.Current, standing(s))
			}
			return w.Flush()
		},
	}
	registerCluster(cmd, &kubeconfig, &context)
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "namespace (default: all)")
	return cmd
}

// standing says in few words how an environment is.
func standing(s release.State) string {
	switch {
	case s.Locked != "":
		return "locked: " + s.Locked
	case s.Pending && s.Progress != nil:
		return fmt.Sprintf("release %d is being rolled out (%s)", s.Latest.Number, progress(*s.Progress))
	case s.Progress != nil:
		return fmt.Sprintf("release %d was left in the middle (%s); the next deployment or rollback takes it back", s.Progress.Release, progress(*s.Progress))
	case s.Pending:
		return fmt.Sprintf("release %d is being rolled out", s.Latest.Number)
	case s.Current == 0:
		return "no release was good yet"
	case s.Latest.Number != s.Current:
		return fmt.Sprintf("serves; release %d failed", s.Latest.Number)
	}
	return "serves"
}

func newEnvShowCommand(c *connection) *cobra.Command {
	var flags placeFlags
	cmd := &cobra.Command{
		Use: "show [OWNER/NAME] ENV", Short: "Show the release that serves and the objects of an environment, or its rules", Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 {
				at, err := c.open()
				if err != nil {
					return err
				}
				found, err := at.Environment(cmd.Context(), args[0], args[1])
				if err != nil {
					return err
				}
				return c.answerEnvironment(cmd.OutOrStdout(), found)
			}
			place, err := flags.open(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer place.Client.Close()
			s, err := place.Load(cmd.Context())
			if err != nil {
				return place.Client.Explain(err)
			}
			out := cmd.OutOrStdout()
			fmt.Fprintf(out, "%s: %s\n", place, standing(s))
			if s.Current > 0 {
				record, err := place.Find(cmd.Context(), s.Current)
				if err != nil {
					return place.Client.Explain(err)
				}
				writeRelease(out, record.Release)
			}
			if s.Latest.Number != s.Current && s.Latest.Number > 0 {
				writeRelease(out, s.Latest)
			}
			fmt.Fprintf(out, "%d objects:\n", len(s.Objects))
			slices.SortFunc(s.Objects, func(a, b release.Ref) int { return strings.Compare(a.Key(), b.Key()) })
			for _, ref := range s.Objects {
				fmt.Fprintf(out, "  %s/%s", strings.ToLower(ref.Kind), ref.Name)
				if ref.Namespace != "" && ref.Namespace != place.Namespace {
					fmt.Fprintf(out, " in %s", ref.Namespace)
				}
				fmt.Fprintln(out)
			}
			return nil
		},
	}
	flags.register(cmd)
	return cmd
}

// writeRelease shows one release in full.
func writeRelease(w io.Writer, r ci.Release) {
	line := func(name, value string) {
		if value != "" && value != "0" {
			fmt.Fprintf(w, "  %-9s %s\n", name, value)
		}
	}
	fmt.Fprintf(w, "release %d: %s\n", r.Number, cmp.Or(string(r.Status), "under way"))
	line("commit", strings.TrimSpace(r.Commit+" "+r.Title))
	line("author", r.Author)
	line("by", r.By)
	if r.Run > 0 {
		line("run", fmt.Sprintf("%s %d, step %s", r.Repo, r.Run, r.Step))
	}
	line("link", r.Link)
	line("started", when(r.Started))
	if !r.Finished.IsZero() {
		line("took", r.Finished.Sub(r.Started).Round(100*time.Millisecond).String())
	}
	line("repeats", strconv.FormatInt(r.Of, 10))
	line("restored", strconv.FormatInt(r.Restored, 10))
	line("message", r.Message)
	if r.Probe != nil {
		line("probe", r.Probe.String())
	}
	for _, image := range r.Images {
		line("image", image)
	}
}

func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04:05 -0700")
}

func newEnvHistoryCommand() *cobra.Command {
	var flags placeFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use: "history ENV", Short: "List the releases of an environment, newest first", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			place, err := flags.open(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer place.Client.Close()
			history, err := place.History(cmd.Context())
			if err != nil {
				return place.Client.Explain(err)
			}
			if asJSON {
				encoder := json.NewEncoder(cmd.OutOrStdout())
				encoder.SetIndent("", "  ")
				return encoder.Encode(history)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "RELEASE\tRESULT\tSTARTED\tTOOK\tCOMMIT\tRUN\tBY\tNOTE")
			for _, r := range history {
				run := "-"
				if r.Run > 0 {
					run = strconv.FormatInt(r.Run, 10)
				}
				fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", r.Number, r.Status, when(r.Started),
					r.Finished.Sub(r.Started).Round(100*time.Millisecond), cmp.Or(r.Commit[:min(len(r.Commit), 10)], "-"), run, cmp.Or(r.By, "-"), note(r))
			}
			return w.Flush()
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON, with the images and messages")
	return cmd
}

func note(r ci.Release) string {
	switch {
	case r.Of > 0 && r.Status == ci.Success:
		return fmt.Sprintf("rolled back to release %d", r.Of)
	case r.Restored > 0:
		return fmt.Sprintf("release %d was put back", r.Restored)
	}
	return ""
}

func newEnvUnlockCommand() *cobra.Command {
	var flags placeFlags
	cmd := &cobra.Command{
		Use: "unlock ENV", Short: "Allow deployments again after one could not be rolled back", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			place, err := flags.open(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer place.Client.Close()
			return place.Client.Explain(place.Unlock(cmd.Context()))
		},
	}
	flags.register(cmd)
	return cmd
}
