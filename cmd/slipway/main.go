// Command slipway is continuous deployment to Kubernetes in one binary. This package wires the packages below internal/
// into processes, one file for each verb; `slipway server` is in server.go, `slipway runner` in runner.go.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"slipway/internal/fault"
	"slipway/internal/version"
)

func main() { os.Exit(Main()) }

// Main runs the command line and returns the exit code; tests run it in their own process.
func Main() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := newRootCommand().ExecuteContext(ctx)
	if err == nil {
		return 0
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

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "slipway",
		Short: "Continuous deployment to Kubernetes in one binary",
		Long: `Slipway runs the pipeline that a repository already has (.drone.yml), builds and keeps its images,
and rolls them out to Kubernetes.

Exit codes: 0 all is well; 1 the input is wrong; 2 it was carried out and failed; 3 not allowed;
4 not found; 5 conflict; 6 something needed does not answer; 70 a defect of Slipway.`,
		Version:       version.Version(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetVersionTemplate(version.String() + "\n")
	root.AddCommand(
		newServerCommand(), newRunnerCommand(), newShimCommand(),
		newLintCommand(), newPlanCommand(), newRenderCommand(), newDeployCommand(),
		newClusterCommand(),
	)
	root.AddCommand(newClientCommands()...)
	return root
}
