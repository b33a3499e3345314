package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"slipway/internal/api"
	"slipway/internal/fault"
	"slipway/internal/retention"
)

func newPolicyCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Say which tags and images are kept, and try it out",
		Long: `Say which tags and images a repository of images keeps. A policy holds for the repository and for all below it that
have none of their own; --all means the policy for all that have none. A repo may also have its policy in the file
.slipway/registry.yml of its default branch; one that is set here holds in its place. docs/registry.md has the format.`,
	}
	var all bool
	cmd.PersistentFlags().BoolVar(&all, "all", false, "the policy for all repositories that have none; admins only")
	// repository takes the repository from the arguments, which are one less with --all.
	repository := func(args []string) (string, error) {
		if all == (len(args) > 0) {
			return "", fault.New(fault.Invalid, "give a repository, or --all")
		}
		if all {
			return "", nil
		}
		return args[0], nil
	}

	cmd.AddCommand(&cobra.Command{
		Use: "get REPOSITORY", Short: "Print the policy that holds, and where it is from", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := repository(args)
			if err != nil {
				return err
			}
			at, err := c.open()
			if err != nil {
				return err
			}
			policy, err := at.ImagePolicy(cmd.Context(), name)
			if err != nil {
				return err
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), policy)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n%s", policySource(policy), policy.Text)
			return err
		},
	})

	var file string
	set := &cobra.Command{
		Use: "set REPOSITORY", Short: "Set a policy to what comes on standard input, or to a file's content; nothing removes it",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := repository(args)
			if err != nil {
				return err
			}
			text, err := readPolicy(cmd.InOrStdin(), file)
			if err != nil {
				return err
			}
			at, err := c.open()
			if err != nil {
				return err
			}
			return at.PutImagePolicy(cmd.Context(), name, text)
		},
	}
	set.Flags().StringVar(&file, "file", "", "file with the policy")

	var try string
	dryRun := &cobra.Command{
		Use: "dry-run REPOSITORY", Short: "Print what the policy, or the one in a file, would delete now, why, and how many bytes",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			text := ""
			if try != "" {
				var err error
				if text, err = readPolicy(cmd.InOrStdin(), try); err != nil {
					return err
				}
			}
			at, err := c.open()
			if err != nil {
				return err
			}
			decision, err := at.TryImagePolicy(cmd.Context(), args[0], text)
			if err != nil {
				return err
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), decision)
			}
			return printDecision(cmd.OutOrStdout(), decision)
		},
	}
	dryRun.Flags().StringVar(&try, "file", "", "file with a policy to try; - is standard input (default: the policy that holds)")
	cmd.AddCommand(set, dryRun)
	return cmd
}

// policySource says in a comment whose policy it is, and where it is from.
func policySource(p api.ImagePolicy) string {
	whose := "for all repositories that have none"
	if p.Repository != "" {
		whose = "for " + p.Repository + " and what is below it"
	}
	from := "set"
	if p.Commit != "" {
		from = fmt.Sprintf("from %s at %.10s,", retention.PolicyFile, p.Commit)
	}
	return fmt.Sprintf("# %s, %s by %s on %s", whose, from, p.By, p.Updated.Format(time.DateTime))
}

func readPolicy(in io.Reader, file string) (string, error) {
	if file != "" && file != "-" {
		text, err := os.ReadFile(file)
		return string(text), err
	}
	text, err := io.ReadAll(io.LimitReader(in, 1<<20))
	return string(text), err
}

// printDecision prints what goes, what is spared and what could not be decided.
func printDecision(w io.Writer, d retention.Decision) error {
	name := func(tag, digest string) string {
		if tag == "" {
			return digest
		}
		return tag
	}
	err := table(w, "GOES\tBYTES\tWHY", d.Removals, func(r retention.Removal) string {
		return fmt.Sprintf("%s\t%d\t%s", name(r.Tag, r.Digest), r.Bytes, r.Reason)
	})
	if err == nil && len(d.Spared) > 0 {
		fmt.Fprintln(w)
		err = table(w, "STAYS\tWHY", d.Spared, func(s retention.Spared) string {
			return name(s.Tag, s.Digest) + "\t" + s.Reason
		})
	}
	if err != nil {
		return err
	}
	for _, warning := range d.Warnings {
		fmt.Fprintln(w, "warning:", warning)
	}
	_, err = fmt.Fprintf(w, "\n%d to go, %d bytes\n", len(d.Removals), d.Bytes)
	return err
}
