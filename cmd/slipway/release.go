package main

import (
	"cmp"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"slipway/internal/api"
	"slipway/internal/ci"
	"slipway/internal/client"
	"slipway/internal/fault"
)

// newReleaseCommand has what the server keeps of releases, wherever their clusters are.
func newReleaseCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{Use: "release", Short: "List the releases that the server keeps, with their manifests and what changed with them"}
	var listing api.ReleaseListing
	list := &cobra.Command{
		Use: "list [OWNER/NAME]", Short: "List releases, newest first", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := c.open()
			if err != nil {
				return err
			}
			if listing.Limit < 1 || listing.Limit > 500 {
				return fault.New(fault.Invalid, "--limit is a number from 1 to 500")
			}
			releases, err := at.Releases(cmd.Context(), first(append(args, "")...), listing)
			if err != nil {
				return err
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), releases)
			}
			return table(cmd.OutOrStdout(), "ID\tREPO\tENVIRONMENT\tRELEASE\tRESULT\tSTARTED\tCOMMIT\tRUN\tNOTE", releases, func(r ci.Release) string {
				return fmt.Sprintf("%d\t%s\t%s\t%d\t%s\t%s\t%s\t%d\t%s", r.ID, r.Repo, r.Environment, r.Number, r.Status, when(r.Started),
					cmp.Or(r.Commit[:min(len(r.Commit), 10)], "-"), r.Run, note(r))
			})
		},
	}
	list.Flags().StringVar(&listing.Environment, "env", "", "only those of this environment")
	list.Flags().StringVar(&listing.Image, "image", "", "only those that use this image: a whole reference, or a digest")
	list.Flags().IntVar(&listing.Limit, "limit", 50, "how many at most")

	manifests := &cobra.Command{
		Use: "manifests OWNER/NAME ID", Short: "Print the rendered manifests of a release, with the values of Secrets masked", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, id, err := c.openRelease(args)
			if err != nil {
				return err
			}
			all, err := at.Manifests(cmd.Context(), args[0], id)
			if err != nil {
				return err
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), all)
			}
			for _, m := range all {
				fmt.Fprintf(cmd.OutOrStdout(), "---\n%s", m.YAML)
			}
			return nil
		},
	}
	var from int64
	diff := &cobra.Command{
		Use: "diff OWNER/NAME ID", Short: "Print what changed with a release", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, id, err := c.openRelease(args)
			if err != nil {
				return err
			}
			found, err := at.DiffRelease(cmd.Context(), args[0], id, from)
			if err != nil {
				return err
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), found)
			}
			printDifferences(cmd.OutOrStdout(), found.Differences, found.Omitted)
			return nil
		},
	}
	diff.Flags().Int64Var(&from, "from", 0, "ID of the release to compare with (default: the good one before)")
	cmd.AddCommand(list, manifests, diff)
	return cmd
}

// openRelease reads the ID of a release, and opens the server that has it.
func (c *connection) openRelease(args []string) (*client.Client, int64, error) {
	id, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil || id < 1 {
		return nil, 0, fault.New(fault.Invalid, "%q is no ID of a release; slipway release list prints them", args[1])
	}
	at, err := c.open()
	return at, id, err
}

// printDifferences prints what happens to objects, field by field.
func printDifferences(w io.Writer, differences []ci.Difference, omitted int) {
	if len(differences) == 0 && omitted == 0 {
		fmt.Fprintln(w, "nothing")
	}
	for _, d := range differences {
		fmt.Fprintf(w, "%s: %s\n", d.Object, d.Action)
		for _, f := range d.Fields {
			switch {
			case len(f.Lines) > 0:
				fmt.Fprintf(w, "  %s:\n", f.Path)
				for _, line := range f.Lines {
					fmt.Fprintf(w, "    %s\n", line)
				}
			case f.Old == f.New:
				fmt.Fprintf(w, "  %s: another value\n", f.Path)
			default:
				fmt.Fprintf(w, "  %s: %s -> %s\n", f.Path, cmp.Or(f.Old, "(none)"), cmp.Or(f.New, "(none)"))
			}
		}
		for _, text := range append(append([]string{d.Caution}, d.Notes...), d.Error) {
			if text != "" {
				fmt.Fprintf(w, "  %s\n", text)
			}
		}
	}
	if omitted > 0 {
		fmt.Fprintf(w, "and %d more objects\n", omitted)
	}
}
