package main

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"slipway/internal/api"
	"slipway/internal/ci"
	"slipway/internal/client"
	"slipway/internal/fault"
	"slipway/internal/kube"
	"slipway/internal/release"
	"slipway/internal/rollout"
)

// newEnvImportCommand returns `slipway env import`.
func newEnvImportCommand() *cobra.Command {
	var at connection
	var kubeconfig, context, namespace string
	cmd := &cobra.Command{
		Use:   "import",
		Short: "Bring the releases that a cluster remembers into the server's database",
		Long: `Bring the releases that a cluster remembers into the server's database, with their manifests. After the database was
lost, add the repos again (slipway repo add), import from each cluster, and the pages show what they did, as far as the
clusters go back: they keep the newest releases of each environment. What the database has already stays as it is, so
import may be repeated. It needs an admin's token.

Exit codes: 4 if a release belongs to a repo that the server does not serve; all others are imported then, too.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			server, err := at.open()
			if err != nil {
				return err
			}
			c, err := kube.Default(kubeconfig, context)
			if err != nil {
				return err
			}
			defer c.Close()
			states, err := release.Environments(cmd.Context(), c, namespace)
			if err != nil {
				return c.Explain(err)
			}
			var unknown error
			for _, s := range states {
				place := release.Place{Client: c, Namespace: s.Namespace, Environment: s.Environment, Repo: s.Repo}
				if s.Repo == "" {
					fmt.Fprintf(cmd.OutOrStdout(), "%s: it was deployed to from terminals, which the database does not record\n", place)
					continue
				}
				n, err := importReleases(cmd, place, server)
				switch {
				case err != nil && fault.Of(err).Code == fault.NotFound:
					unknown = err
					fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", place, fault.Of(err).Message)
				case err != nil:
					return err
				default:
					fmt.Fprintf(cmd.OutOrStdout(), "%s: %d releases\n", place, n)
				}
			}
			if unknown != nil {
				return fault.New(fault.NotFound, "some releases belong to repos that the server does not serve; add these by slipway repo add, and import again")
			}
			return nil
		},
	}
	at.register(cmd.Flags())
	registerCluster(cmd, &kubeconfig, &context)
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "namespace (default: all)")
	return cmd
}

// importReleases brings the releases of one place into the database, and returns how many there are.
func importReleases(cmd *cobra.Command, place release.Place, server *client.Client) (int, error) {
	history, err := place.History(cmd.Context())
	if err != nil {
		return 0, place.Client.Explain(err)
	}
	for _, head := range slices.Backward(history) { // the oldest first, as they came
		record, err := place.Find(cmd.Context(), head.Number)
		if err != nil {
			return 0, place.Client.Explain(err)
		}
		manifests, err := release.Encode(record.Objects)
		if err != nil {
			return 0, err
		}
		found := api.FoundRelease{Release: record.Release, Manifests: manifests}
		found.Release.Repo = place.Repo
		if err := server.ImportRelease(cmd.Context(), found); err != nil {
			return 0, err
		}
	}
	return len(history), nil
}

// newEnvDiffCommand returns `slipway env diff`.
func newEnvDiffCommand() *cobra.Command {
	var flags placeFlags
	cmd := &cobra.Command{
		Use:   "diff ENV RELEASE [RELEASE]",
		Short: "Say what changed from one release to another",
		Long: `Say what changed from one release of an environment to another, field by field: from the first to the second, or, of one
alone, from the good release before it. It compares the manifests as they were rendered, not what is in the cluster now.
Values of Secrets are not shown.`,
		Args: cobra.RangeArgs(2, 3),
		RunE: func(cmd *cobra.Command, args []string) error {
			place, err := flags.open(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer place.Client.Close()
			var numbers []int64
			for _, arg := range args[1:] {
				number, err := parseRelease(arg)
				if err != nil {
					return err
				}
				numbers = append(numbers, number)
			}
			if len(numbers) == 1 {
				history, err := place.History(cmd.Context())
				if err != nil {
					return place.Client.Explain(err)
				}
				if numbers, err = goodBefore(history, numbers[0]); err != nil {
					return err
				}
			}
			var records []release.Record
			for _, number := range numbers {
				record, err := place.Find(cmd.Context(), number)
				if err != nil {
					return place.Client.Explain(err)
				}
				records = append(records, record)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "from release %d to release %d of %s:\n", numbers[0], numbers[1], place)
			rollout.Compare(records[0].Objects, records[1].Objects).Write(cmd.OutOrStdout())
			return nil
		},
	}
	flags.register(cmd)
	return cmd
}

// goodBefore returns the number of the newest good release before the one of that number, and that one.
func goodBefore(history []ci.Release, number int64) ([]int64, error) {
	for _, r := range history {
		if r.Number < number && r.Status == ci.Success {
			return []int64{r.Number, number}, nil
		}
	}
	return nil, fault.New(fault.NotFound, "there is no good release before release %d; slipway env history lists those that there are", number)
}
