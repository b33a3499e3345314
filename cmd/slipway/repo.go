package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"slipway/internal/api"
	"slipway/internal/ci"
)

func newRepoCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{Use: "repo", Short: "Add, list, show, change and remove repos"}
	cmd.AddCommand(newRepoAddCommand(c), newRepoListCommand(c), newRepoShowCommand(c), newRepoTrustCommand(c), newRepoPublishCommand(c), newRepoRemoveCommand(c))
	return cmd
}

func newRepoAddCommand(c *connection) *cobra.Command {
	var repo api.NewRepo
	var tokenFile string
	cmd := &cobra.Command{
		Use:   "add OWNER/NAME",
		Short: "Serve a repo: on the own git endpoint, or on a forge",
		Example: `  slipway repo add ada/engine
  slipway repo add ada/engine --forge gitea --forge-url https://git.example.com --forge-token-file token`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := c.open()
			if err != nil {
				return err
			}
			repo.Name = args[0]
			if tokenFile != "" {
				text, err := os.ReadFile(tokenFile)
				if err != nil {
					return fmt.Errorf("read the forge's token: %w", err)
				}
				repo.Token = strings.TrimSpace(string(text))
			}
			added, err := at.AddRepo(cmd.Context(), repo)
			if err != nil {
				return err
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), added)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "serving %s, cloned from %s\n", added.Name, added.CloneURL)
			return nil
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&repo.Forge, "forge", "slipway", "slipway (the own git endpoint) or gitea (Forgejo too)")
	flags.StringVar(&repo.ForgeURL, "forge-url", "", "root of the forge")
	flags.StringVar(&tokenFile, "forge-token-file", "", "file with a token for the forge")
	flags.BoolVar(&repo.Trusted, "trusted", false, "allow privileged steps and host mounts")
	flags.BoolVar(&repo.Private, "private", false, "only tokens that name the repo may see it")
	flags.BoolVar(&repo.PublicImages, "public-images", false, "everybody may pull its images, without a token")
	flags.StringVar(&repo.Config, "config", "", "path of the pipeline file (default: the usual names)")
	return cmd
}

func newRepoListCommand(c *connection) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List repos", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			at, err := c.open()
			if err != nil {
				return err
			}
			repos, err := at.Repos(cmd.Context())
			if err != nil {
				return err
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), repos)
			}
			return table(cmd.OutOrStdout(), "REPO\tFORGE\tBRANCH\tTRUSTED\tCLONE", repos, func(r ci.Repo) string {
				return fmt.Sprintf("%s\t%s\t%s\t%t\t%s", r.Name, r.Forge, r.Branch, r.Trusted, r.CloneURL)
			})
		},
	}
}

func newRepoShowCommand(c *connection) *cobra.Command {
	return &cobra.Command{
		Use: "show OWNER/NAME", Short: "Show a repo with its settings", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := c.open()
			if err != nil {
				return err
			}
			r, err := at.Repo(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), r)
			}
			return table(cmd.OutOrStdout(), "REPO\tFORGE\tBRANCH\tPIPELINE\tPRIVATE\tTRUSTED\tCLONE", []ci.Repo{r}, func(r ci.Repo) string {
				return fmt.Sprintf("%s\t%s\t%s\t%s\t%t\t%t\t%s", r.Name, r.Forge, r.Branch, cmp.Or(r.Config, ".drone.yml"), r.Private, r.Trusted, r.CloneURL)
			})
		},
	}
}

func newRepoTrustCommand(c *connection) *cobra.Command {
	var revoke bool
	cmd := &cobra.Command{
		Use: "trust OWNER/NAME", Short: "Allow privileged steps and host mounts in a repo's pipelines", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := c.open()
			if err != nil {
				return err
			}
			trusted := !revoke
			repo, err := at.ChangeRepo(cmd.Context(), args[0], api.RepoChange{Trusted: &trusted})
			if err != nil {
				return err
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), repo)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: trusted %t\n", repo.Name, repo.Trusted)
			return nil
		},
	}
	cmd.Flags().BoolVar(&revoke, "revoke", false, "take the trust back")
	return cmd
}

func newRepoPublishCommand(c *connection) *cobra.Command {
	var revoke bool
	cmd := &cobra.Command{
		Use: "publish OWNER/NAME", Short: "Let everybody pull a repo's images, without a token", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := c.open()
			if err != nil {
				return err
			}
			public := !revoke
			repo, err := at.ChangeRepo(cmd.Context(), args[0], api.RepoChange{PublicImages: &public})
			if err != nil {
				return err
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), repo)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: everybody may pull its images: %t\n", repo.Name, repo.PublicImages)
			return nil
		},
	}
	cmd.Flags().BoolVar(&revoke, "revoke", false, "only who has a token again")
	return cmd
}

func newRepoRemoveCommand(c *connection) *cobra.Command {
	return &cobra.Command{
		Use: "remove OWNER/NAME", Short: "Stop serving a repo; its runs, logs and secrets are forgotten", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := c.open()
			if err != nil {
				return err
			}
			return at.DeleteRepo(cmd.Context(), args[0])
		},
	}
}

// table prints rows under a head, in columns.
func table[T any](w io.Writer, head string, rows []T, row func(T) string) error {
	out := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(out, head)
	for _, r := range rows {
		fmt.Fprintln(out, row(r))
	}
	return out.Flush()
}
