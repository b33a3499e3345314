package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"slipway/internal/cluster"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func newClusterCommand() *cobra.Command {
	var opts cluster.Options
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Run real Kubernetes on this machine",
		Long: `Run real upstream Kubernetes on this machine: one node, all components as plain processes in a network and a
cgroup of their own. It is for trying out and for tests; its database does not survive a power failure.

"make cluster" builds the programs. Starting and stopping need root.`,
	}
	cmd.PersistentFlags().StringVar(&opts.Data, "data", cluster.DefaultData, "folder that holds all that the cluster keeps")
	cmd.PersistentFlags().StringVar(&opts.Bin, "bin", clusterBin(), "folder with the programs that make cluster builds (SLIPWAY_CLUSTER_BIN)")
	cmd.AddCommand(
		newClusterUpCommand(&opts),
		newClusterDownCommand(&opts),
		newClusterStatusCommand(&opts),
		newClusterKubeconfigCommand(&opts),
	)
	return cmd
}

// clusterBin is the folder of the programs: the environment's, or cluster beside the running executable.
func clusterBin() string {
	if dir := os.Getenv("SLIPWAY_CLUSTER_BIN"); dir != "" {
		return dir
	}
	exe, err := os.Executable()
	if err != nil {
		return "cluster"
	}
	return filepath.Join(filepath.Dir(exe), "cluster")
}

func newClusterUpCommand(opts *cluster.Options) *cobra.Command {
	var registry registryFlags
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start the cluster, or repair it, and wait until it is ready",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := registry.apply(opts, cmd.Flags()); err != nil {
				return err
			}
			opts.Progress = cmd.ErrOrStderr()
			return cluster.Up(cmd.Context(), *opts)
		},
	}
	registry.register(cmd.Flags())
	return cmd
}

// registryFlags say which registry a cluster pulls from in a special way.
type registryFlags struct {
	host, authorization string
	mirrors             []string
	serverData          string
}

func (f *registryFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&f.host, "registry", "", `pull images of this registry over plain HTTP, like 127.0.0.1:7070; "" for none (default: as before, or else that of the server on this machine)`)
	// A file, because everybody on the machine sees a process's arguments.
	flags.StringVar(&f.authorization, "registry-authorization-file", "", "file with a token for that registry, or with the Authorization header, like \"Bearer ...\" (default: the token of the server on this machine, if it is its registry)")
	flags.StringSliceVar(&f.mirrors, "mirror", nil, `registry for which that one is asked first, like docker.io (may be repeated); "" for none (default: docker.io, or all that the server on this machine mirrors)`)
	flags.StringVar(&f.serverData, "server-data", defaultData, "data folder of the server on this machine")
}

// apply sets the registries of opts.
func (f *registryFlags) apply(opts *cluster.Options, flags *pflag.FlagSet) error {
	own, err := cluster.LoadRegistry(filepath.Join(f.serverData, ownRegistryFile))
	if err != nil {
		return err
	}
	if f.host == "" && (f.authorization != "" || len(f.mirrors) > 0) {
		return fmt.Errorf("--registry-authorization-file and --mirror say something about a registry: name it with --registry")
	}
	if !flags.Changed("registry") {
		opts.Own = own
		if own != nil && flags.Changed("mirror") {
			opts.Own.Mirrors = nil
		}
		return nil
	}
	opts.Registries = []cluster.Registry{} // not as before
	if f.host == "" {
		return nil
	}
	r := cluster.Registry{Host: f.host, Mirrors: []string{"docker.io"}}
	if own != nil && own.Host == f.host {
		r = *own
	}
	if flags.Changed("mirror") {
		r.Mirrors = f.mirrors
	}
	if f.authorization != "" {
		b, err := os.ReadFile(f.authorization)
		if err != nil {
			return fmt.Errorf("read the registry's authorization: %w", err)
		}
		r.Authorization = strings.TrimSpace(string(b))
		if r.Authorization != "" && !strings.Contains(r.Authorization, " ") {
			r.Authorization = "Bearer " + r.Authorization
		}
	}
	opts.Registries = []cluster.Registry{r}
	return nil
}

func newClusterDownCommand(opts *cluster.Options) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop the cluster and leave nothing running",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts.Progress = cmd.ErrOrStderr()
			return cluster.Down(cmd.Context(), *opts)
		},
	}
	cmd.Flags().BoolVar(&opts.Delete, "delete", false, "remove its data as well: what is deployed, images, certificates, logs")
	return cmd
}

func newClusterStatusCommand(opts *cluster.Options) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say what runs; exit 1 unless the cluster is ready",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if output != "" && output != "json" {
				return fmt.Errorf("--output %s is not known: want json", output)
			}
			r, err := cluster.Status(cmd.Context(), *opts)
			if err != nil {
				return err
			}
			if output == "json" {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				err = enc.Encode(r)
			} else {
				err = printClusterReport(cmd.OutOrStdout(), r)
			}
			if err == nil && r.State != "ready" {
				err = fmt.Errorf("the cluster in %s is %s: start or repair it with `slipway cluster up`", r.Data, r.State)
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "json for programs")
	return cmd
}

func printClusterReport(w io.Writer, r cluster.Report) error {
	fmt.Fprintf(w, "%s: %s\n", r.Data, r.State)
	if r.State == "absent" {
		return nil
	}
	fmt.Fprintf(w, "Kubernetes %s at %s, kubeconfig %s, network namespace %s\n\n", r.Kubernetes, r.Server, r.Kubeconfig, r.ID)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "COMPONENT\tVERSION\tSTATE\tPID\tMEMORY\tLOG")
	for _, c := range r.Components {
		pid, memory := "-", "-"
		if c.PID != 0 {
			pid, memory = fmt.Sprint(c.PID), fmt.Sprintf("%d MB", c.Memory>>20)
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", c.Name, c.Version, c.State, pid, memory, c.Log)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	for _, c := range r.Components {
		if c.Why != "" {
			fmt.Fprintf(w, "\n%s: %s\n", c.Name, c.Why)
		}
	}
	return nil
}

func newClusterKubeconfigCommand(opts *cluster.Options) *cobra.Command {
	return &cobra.Command{
		Use:   "kubeconfig",
		Short: "Print the administrator's kubeconfig",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			b, err := cluster.Kubeconfig(*opts)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(b)
			return err
		},
	}
}
