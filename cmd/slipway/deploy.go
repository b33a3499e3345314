package main

import (
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/kube"
	"slipway/internal/rollout"
)

// deployFlags say what is deployed and where.
type deployFlags struct {
	manifests           manifestFlags
	kubeconfig, context string
	environment, repo   string
	lossless            losslessFlags
}

func (f *deployFlags) register(cmd *cobra.Command) {
	f.manifests.register(cmd)
	registerCluster(cmd, &f.kubeconfig, &f.context)
	cmd.Flags().StringVar(&f.environment, "environment", "", "name of the environment, whose releases are recorded; without it, objects are applied and that is all")
	cmd.Flags().StringVar(&f.repo, "repo", "", "repo whose part of the environment is meant, as `owner/name` (default: that of terminals)")
	f.lossless.register(cmd)
}

// registerCluster adds the flags that choose a cluster.
func registerCluster(cmd *cobra.Command, kubeconfig, context *string) {
	cmd.Flags().StringVar(kubeconfig, "kubeconfig", "", "kubeconfig file (default: $KUBECONFIG, the account of the pod that this runs in, or ~/.kube/config)")
	cmd.Flags().StringVar(context, "context", "", "context of the kubeconfig (default: its current one)")
}

// step returns the deployment that the flags say. The caller closes its workspace.
func (f *deployFlags) step(args []string) (rollout.Step, error) {
	lossless, err := f.lossless.policy()
	if err != nil {
		return rollout.Step{}, err
	}
	source, err := f.manifests.source(args)
	if err != nil {
		return rollout.Step{}, err
	}
	return rollout.Step{
		Workspace:   source.Root,
		Manifests:   source.Paths,
		Variables:   source.Variables,
		Charts:      source.Charts,
		Renderer:    renderSandbox().Render,
		Namespace:   source.Namespace,
		Environment: f.environment,
		Release:     ci.Release{Repo: f.repo, By: person()},
		Images:      source.Images.Named,
		Policy:      ci.Policy{Lossless: lossless},
		Client:      func() (*kube.Client, error) { return kube.Default(f.kubeconfig, f.context) },
	}, nil
}

// newDeployCommand returns `slipway deploy`.
func newDeployCommand() *cobra.Command {
	var flags deployFlags
	var strategyFlags strategyFlags
	var probe probeFlags
	var secrets []string
	var timeout time.Duration
	var keepFailed bool
	cmd := &cobra.Command{
		Use:   "deploy PATH...",
		Short: "Apply manifests to a cluster and follow the rollout to its end",
		Long: `Apply manifests to a cluster and follow the rollout to its end.

PATH is as for "slipway render". The objects are applied by the server (server-side apply, as the field manager
"slipway"); what will change is printed before, and a line whenever something changes. As soon as it is certain that the new version does not
work, deploy says why, with the last log lines of the container that fails, and stops. The old version goes on
serving as the manifests' update strategy says.

What workloads that serve requests need to lose none while they roll is added, unless --lossless says otherwise; the
diff shows each addition with its reason. With --probe, requests are sent to a URL until the old pods are gone, and too
many losses fail the rollout.

With --environment, what left the manifests since the last release is deleted, the release is recorded in the cluster
(see "slipway env"), and a release that fails is rolled back to the last good one. --strategy says how the new version takes
the place of the old one there; see "slipway rollout" for what can be said meanwhile.

Exit codes: 0 all is rolled out; 1 the manifests are wrong or refused; 2 the new version does not work, is not ready in
time, or somebody interrupted; 3 the account may not do it; 4 a namespace or file is missing; 5 it conflicts with what
is in the cluster; 6 the cluster cannot be reached.`,
		Args:         cobra.MinimumNArgs(1),
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			step, err := flags.step(args)
			if err != nil {
				return err
			}
			defer step.Workspace.Close()
			step.Timeout, step.KeepFailed = timeout, keepFailed
			if step.Policy.Strategy, err = strategyFlags.read(); err != nil {
				return err
			}
			if step.Policy.Strategy != nil && step.Environment == "" {
				return fault.New(fault.Invalid, "--strategy needs --environment, because the release that serves has to be known")
			}
			step.Policy.Probe, step.ProbeLocal = probe.policy(), true
			if step.Secrets, err = readSecrets(secrets); err != nil {
				return err
			}
			_, err = rollout.Run(cmd.Context(), step, cmd.OutOrStdout())
			return err
		},
	}
	flags.register(cmd)
	strategyFlags.register(cmd)
	probe.register(cmd)
	cmd.Flags().StringArrayVar(&secrets, "secret", nil, "`NAME=FILE`, the value of a secret that a check of the strategy names (may be repeated)")
	cmd.Flags().DurationVar(&timeout, "timeout", rollout.DefaultTimeout, "time for applying and rolling out together")
	cmd.Flags().BoolVar(&keepFailed, "no-rollback", false, "leave a release that fails as it is, instead of going back to the last good one")
	return cmd
}

// readSecrets returns the contents of files by the names before them.
func readSecrets(given []string) (map[string]string, error) {
	values := map[string]string{}
	for _, one := range given {
		name, file, ok := strings.Cut(one, "=")
		if !ok || name == "" {
			return nil, fault.New(fault.Invalid, "--secret must be NAME=FILE, so that no secret is on the command line")
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fault.New(fault.NotFound, "the file of the secret %s cannot be read: %w", name, err)
		}
		values[name] = string(text)
	}
	return values, nil
}

// newDiffCommand returns `slipway diff`.
func newDiffCommand() *cobra.Command {
	var flags deployFlags
	cmd := &cobra.Command{
		Use:   "diff PATH...",
		Short: "Print what deploying manifests would change in a cluster",
		Long: `Print what deploying manifests would change in a cluster, field by field, without changing it.

PATH is as for "slipway render". The server tries everything by a dry run, so that its defaults, its admission and the
rights of the account are in the answer. Values of Secrets are not shown.

Exit codes: 0 nothing would change; 2 something would; 1 the manifests are wrong or refused; 3 the account may not do
it; 4 a namespace or file is missing; 5 it conflicts with what is in the cluster; 6 the cluster cannot be reached.`,
		Args:         cobra.MinimumNArgs(1),
		SilenceUsage: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			step, err := flags.step(args)
			if err != nil {
				return err
			}
			defer step.Workspace.Close()
			differences, err := rollout.Preview(cmd.Context(), step, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			differences.Write(cmd.OutOrStdout())
			if err := differences.Err(); err != nil {
				return err
			}
			if !differences.Empty() {
				return &fault.Error{Code: fault.Failed} // all is said
			}
			return nil
		},
	}
	flags.register(cmd)
	return cmd
}
