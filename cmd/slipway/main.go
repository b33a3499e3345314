// Command slipway is continuous deployment to Kubernetes in one binary. This package wires the packages below internal/
// into processes, one file for each verb; `slipway server` is in server.go, `slipway runner` in runner.go.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	_ "time/tzdata" // freezes have time zones, and small machines have none

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"slipway/internal/fault"
	"slipway/internal/version"
)

func main() { os.Exit(Main()) }

// Main runs the command line and returns the exit code; tests run it in their own process.
func Main() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRootCommand()
	out := &output{w: os.Stdout}
	root.SetOut(out)
	err := root.ExecuteContext(ctx)
	if out.err != nil {
		err = fault.New(fault.Unavailable, "cannot write the output: %s", fault.Cause(out.err))
	}
	if err == nil {
		return 0
	}
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, context.Cause(ctx))) {
		return 130 // whoever interrupted it knows
	}
	var found *fault.Error
	if !errors.As(err, &found) {
		found = &fault.Error{Code: fault.Invalid, Message: err.Error()}
	}
	if found.Message != "" {
		fmt.Fprintln(os.Stderr, "slipway:", found.Message)
	}
	return found.Code.ExitCode()
}

// output is the standard output. Whatever a command makes of an error in writing, what was not written makes it fail.
type output struct {
	w   io.Writer
	err error
}

// Write implements [io.Writer].
func (o *output) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err != nil && o.err == nil {
		o.err = err
	}
	return n, err
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "slipway",
		Short: "Continuous deployment to Kubernetes in one binary",
		Long: `Slipway runs the pipeline that a repository already has (.drone.yml), builds and keeps its images,
and rolls them out to Kubernetes.

Exit codes: 0 all is well; 1 the input is wrong; 2 it was carried out and failed; 3 not allowed;
4 not found; 5 conflict; 6 something needed does not answer; 70 a defect of Slipway; 130 interrupted.`,
		Version:       version.Version(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetVersionTemplate(version.String() + "\n")
	root.AddCommand(
		newServerCommand(), newRunnerCommand(), newShimCommand(), newRenderProcessCommand(),
		newLintCommand(), newPlanCommand(), newRenderCommand(), newDiffCommand(), newDeployCommand(), newRollbackCommand(), newRolloutCommand(), newTraceCommand(),
		newClusterCommand(),
	)
	root.AddCommand(newClientCommands()...)
	explainUsage(root)
	return root
}

// explainUsage makes what is wrong with a command line one sentence that says what would be right.
func explainUsage(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		var value *pflag.InvalidValueError
		if errors.As(err, &value) {
			flag := value.GetFlag()
			return fault.New(fault.Invalid, "--%s cannot be %q; it takes a value of the kind %s", flag.Name, value.GetValue(), flag.Value.Type())
		}
		return fault.New(fault.Invalid, "%w; %s --help lists the flags", err, cmd.CommandPath())
	})
	if cmd.HasSubCommands() {
		cmd.Args = cobra.ArbitraryArgs
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			cmd.SuggestionsMinimumDistance = 2
			help := fmt.Sprintf("%s --help lists those that there are", cmd.CommandPath())
			if like := cmd.SuggestionsFor(args[0]); len(like) > 0 {
				help = "did you mean " + strings.Join(like, " or ") + "?"
			}
			return fault.New(fault.Invalid, "%s has no command %q; %s", cmd.CommandPath(), args[0], help)
		}
	} else if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if check(cmd, args) != nil {
				return fault.New(fault.Invalid, "the command takes other arguments than the %d given; write: %s", len(args), strings.TrimSuffix(cmd.UseLine(), " [flags]"))
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		explainUsage(sub)
	}
}
