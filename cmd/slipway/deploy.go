package main

import (
	"time"

	"github.com/spf13/cobra"

	"slipway/internal/kube"
	"slipway/internal/rollout"
)

// newDeployCommand returns `slipway deploy`.
func newDeployCommand() *cobra.Command {
	var flags manifestFlags
	var kubeconfig, context, environment string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "deploy PATH...",
		Short: "Apply manifests to a cluster and follow the rollout to its end",
		Long: `Apply manifests to a cluster and follow the rollout to its end.

PATH is as for "slipway render". The objects are applied by the server (server-side apply, as the field manager
"slipway"), and a line is printed whenever something changes. As soon as it is certain that the new version does not
work, deploy says why, with the last log lines of the container that fails, and stops. The old version goes on
serving as the manifests' update strategy says.

Exit codes: 0 all is rolled out; 1 the manifests are wrong or refused; 2 the new version does not work, is not ready in
time, or somebody interrupted; 3 the account may not do it; 4 a namespace or file is missing; 5 it conflicts with what
is in the cluster; 6 the cluster cannot be reached.`,
		Args:         cobra.MinimumNArgs(1),
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			source, err := flags.source(args)
			if err != nil {
				return err
			}
			defer source.Root.Close()
			_, err = rollout.Run(cmd.Context(), rollout.Step{
				Workspace:   source.Root,
				Manifests:   source.Paths,
				Namespace:   source.Namespace,
				Environment: environment,
				Images:      source.Images.Named,
				Client:      func() (*kube.Client, error) { return kube.Default(kubeconfig, context) },
				Timeout:     timeout,
			}, cmd.OutOrStdout())
			return err
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig file (default: $KUBECONFIG, the account of the pod that this runs in, or ~/.kube/config)")
	cmd.Flags().StringVar(&context, "context", "", "context of the kubeconfig (default: its current one)")
	cmd.Flags().StringVar(&environment, "environment", "", "name of the environment, noted on each object")
	cmd.Flags().DurationVar(&timeout, "timeout", rollout.DefaultTimeout, "time for applying and rolling out together")
	return cmd
}
