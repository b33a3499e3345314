package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"slipway/internal/ci"
	"slipway/internal/fault"
)

// losslessFlags say what is added to workloads so that they lose no request.
type losslessFlags struct {
	mode         string
	drain, ready time.Duration
}

func (f *losslessFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.mode, "lossless", string(ci.LosslessAdd), "what a roll without lost requests needs and the manifests lack: add, require (add, and refuse what still may lose some), check (only say it) or off")
	cmd.Flags().DurationVar(&f.drain, "drain", ci.DefaultDrain*time.Second, "time that pods go on serving after they were told to end")
	cmd.Flags().DurationVar(&f.ready, "ready", ci.DefaultReady*time.Second, "time that new pods are ready before old ones end")
}

func (f *losslessFlags) policy() (*ci.Lossless, error) {
	for name, d := range map[string]time.Duration{"drain": f.drain, "ready": f.ready} {
		if d < time.Second || d%time.Second != 0 {
			return nil, fault.New(fault.Invalid, "--%s %s: must be whole seconds, at least one; to leave it out, set the annotation slipway/lossless", name, d)
		}
	}
	policy := &ci.Lossless{Mode: ci.LosslessMode(f.mode), Drain: int(f.drain / time.Second), Ready: int(f.ready / time.Second)}
	if err := policy.Check(); err != nil {
		return nil, fault.New(fault.Invalid, "--lossless, --drain and --ready: %w", err)
	}
	return policy, nil
}

// probeFlags say which requests are sent throughout a rollout.
type probeFlags struct{ probe ci.Probe }

func (f *probeFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.probe.URL, "probe", "", "`URL` to send requests to throughout the rollout; losses fail it")
	flags.IntVar(&f.probe.Rate, "probe-rate", ci.DefaultProbeRate, "requests in a second, half of them on new connections and half on kept ones")
	flags.IntVar(&f.probe.Status, "probe-status", 0, "status of a good answer (default: 200 to 399)")
	flags.Int64Var(&f.probe.Losses, "probe-losses", 0, "number of requests that may get no good answer")
	flags.IntVar(&f.probe.Timeout, "probe-timeout", ci.DefaultProbeTimeout, fmt.Sprintf("seconds for an answer, at most %d", ci.MaxProbeTimeout))
}

// policy returns nil if there is no URL.
func (f *probeFlags) policy() *ci.Probe {
	if f.probe.URL == "" {
		return nil
	}
	return &f.probe
}
