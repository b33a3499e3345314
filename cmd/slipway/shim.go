package main

import (
	"os"

	"github.com/spf13/cobra"

	"slipway/internal/shim"
)

// newShimCommand is the container's side of a step, for builds without the embedded shim. Nobody types it.
func newShimCommand() *cobra.Command {
	return &cobra.Command{
		Use: "shim DIR", Hidden: true, Args: cobra.ExactArgs(1),
		Run: func(_ *cobra.Command, args []string) { os.Exit(shim.Main(args[0])) },
	}
}
