package main

import "github.com/spf13/cobra"

// newLintCommand returns `slipway lint`.
func newLintCommand() *cobra.Command {
	var flags compileFlags
	cmd := &cobra.Command{
		Use:   "lint [FILE]",
		Short: "Check a pipeline file",
		Long: `Check a pipeline file, and print what is wrong with it as "file:line:column: message".

FILE is the pipeline file, or - for standard input. Without it, the usual names are tried. Errors keep the file from
running, and lint exits with 1; warnings do not.`,
		Args:         cobra.MaximumNArgs(1),
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			_, err := flags.compileFile(cmd, args)
			return err
		},
	}
	flags.register(cmd)
	return cmd
}
