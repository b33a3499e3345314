package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"slipway/internal/ci"
	"slipway/internal/drift"
	"slipway/internal/fault"
	"slipway/internal/release"
	"slipway/internal/rollout"
)

// newEnvDriftCommand returns `slipway env drift`.
func newEnvDriftCommand() *cobra.Command {
	var flags placeFlags
	var at connection
	var watch, heal bool
	cmd := &cobra.Command{
		Use:   "drift [ENV]",
		Short: "Say what is not in the cluster as the release that serves left it, and who changed it",
		Long: `Say what is not in the cluster as the release that serves left it, and who changed it. What the server fills in, what
others set beside the manifests, and the replicas that an autoscaler wants do not count, and neither do Jobs. Values of
Secrets are not shown.

Without ENV, it says what the server knows of all environments that it watches, or of those of --repo.

With --heal, the release is put back as "slipway rollback" does it. With --watch, it goes on until it is interrupted, and
says each time when something has changed; what somebody changes again and again is then not put back any more.

Exit codes: 0 all is as it was left, or is again; 2 something differs; 3 the account may not do it; 4 there is no such
environment; 5 it cannot be compared now, because it is being changed; 6 the cluster cannot be reached.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return listDrift(cmd, &at, flags.repo)
			}
			place, err := flags.open(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			defer place.Client.Close()
			s := &driftScreen{place: place, out: cmd.OutOrStdout(), json: at.json}
			s.drift = ci.Drift{Environment: place.Environment, Namespace: place.Namespace, Repo: place.Repo, Heal: heal}
			if watch {
				return s.watch(cmd.Context(), cmd.ErrOrStderr())
			}
			report, err := rollout.Drift(cmd.Context(), place)
			switch {
			case err != nil:
				return err
			case report.Unknown != "":
				return fault.New(fault.Conflict, "%s cannot be compared now: %s", place, report.Unknown)
			}
			if err := s.show(report); err != nil {
				return err
			}
			switch {
			case !s.drift.Drifted():
				return nil
			case heal:
				return s.heal(cmd.Context(), cmd.ErrOrStderr())
			}
			return &fault.Error{Code: fault.Failed} // all is said
		},
	}
	flags.register(cmd)
	cmd.Flags().BoolVar(&watch, "watch", false, "go on, and say each time when something has changed")
	cmd.Flags().BoolVar(&heal, "heal", false, "put back what differs")
	cmd.Flags().BoolVar(&at.json, "json", false, "print JSON, one value for each answer")
	at.register(cmd.Flags())
	return cmd
}

// listDrift prints what a server knows of the environments that it watches.
func listDrift(cmd *cobra.Command, at *connection, repo string) error {
	server, err := at.open()
	if err != nil {
		return err
	}
	all, err := server.Drifts(cmd.Context(), repo)
	if err != nil {
		return err
	}
	if at.json {
		err = json.NewEncoder(cmd.OutOrStdout()).Encode(all)
	} else {
		w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "NAMESPACE\tENVIRONMENT\tREPO\tCLUSTER\tSINCE\tSTATE")
		for _, d := range all {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", d.Namespace, d.Environment, cmp.Or(d.Repo, "-"), cmp.Or(d.Cluster, "own"), cmp.Or(when(d.Since), "-"), driftState(d))
		}
		err = w.Flush()
	}
	if err == nil && slices.ContainsFunc(all, ci.Drift.Drifted) {
		err = &fault.Error{Code: fault.Failed} // all is said
	}
	return err
}

// driftState says in few words how an environment is.
func driftState(d ci.Drift) string {
	state := rollout.DriftSummary(d)
	switch {
	case d.Unknown != "" && d.Release == 0:
		return "unknown: " + d.Unknown
	case d.Unknown != "":
		state += "; not known now: " + d.Unknown
	case d.Fight != "":
		state += "; " + d.Fight
	}
	return state
}

// driftScreen shows how an environment differs.
type driftScreen struct {
	place release.Place
	out   io.Writer
	json  bool
	drift ci.Drift
	shown []byte
}

// show prints what is known after report, unless it is what was printed last.
func (s *driftScreen) show(report rollout.DriftReport) error {
	s.drift = drift.Next(s.drift, report, time.Now().UTC())
	var text bytes.Buffer
	if s.json {
		shown := s.drift
		shown.Checked = time.Time{} // which alone is no news
		if err := json.NewEncoder(&text).Encode(shown); err != nil {
			return err
		}
	} else {
		rollout.WriteDrift(&text, s.drift)
	}
	if bytes.Equal(text.Bytes(), s.shown) {
		return nil
	}
	s.shown = text.Bytes()
	_, err := s.out.Write(s.shown)
	return err
}

// heal puts back the release that serves, and writes how that goes to out.
func (s *driftScreen) heal(ctx context.Context, out io.Writer) error {
	s.drift = drift.Healed(s.drift, time.Now().UTC())
	_, err := rollout.Rollback(ctx, rollout.Request{
		Client: s.place.Client, Namespace: s.place.Namespace, Environment: s.place.Environment,
		Release: ci.Release{Repo: s.place.Repo, By: person()},
	}, s.drift.Release, out)
	return err
}

// watch shows what differs, and puts it back if that is wanted, until ctx is done or nobody reads.
func (s *driftScreen) watch(ctx context.Context, out io.Writer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	drift.Watch(ctx, s.place, drift.Pace{}, func(ctx context.Context, report rollout.DriftReport) {
		if err := s.show(report); err != nil {
			cancel(err)
			return
		}
		if !drift.Heals(s.drift) {
			return
		}
		if err := s.heal(ctx, out); err != nil && ctx.Err() == nil {
			s.drift = drift.Unhealed(s.drift, err)
			fmt.Fprintln(out, "slipway:", fault.Of(err).Message) // and it is tried again
		}
	})
	return context.Cause(ctx)
}
