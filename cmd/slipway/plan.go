package main

import (
	"encoding/json"

	"github.com/spf13/cobra"
)

// newPlanCommand returns `slipway plan`.
func newPlanCommand() *cobra.Command {
	var flags compileFlags
	cmd := &cobra.Command{
		Use:   "plan [FILE]",
		Short: "Show what a pipeline file would run",
		Long: `Compile a pipeline file for an event, and print the plan as JSON (docs/plan.md describes it).

FILE is the pipeline file, or - for standard input. Without it, the usual names are tried. The flags say what happened;
by default, the default branch was pushed.`,
		Example: `  slipway plan --branch main
  slipway plan --tag v1.2.3 | jq '.jobs[].name'
  slipway plan --event pull_request --source feature --target main .drone.yml`,
		Args:         cobra.MaximumNArgs(1),
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := flags.compileFile(cmd, args)
			if err != nil {
				return err
			}
			enc := json.NewEncoder(cmd.OutOrStdout())
			enc.SetEscapeHTML(false)
			enc.SetIndent("", "  ")
			return enc.Encode(p)
		},
	}
	flags.register(cmd)
	return cmd
}
