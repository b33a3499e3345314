package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/release"
	"slipway/internal/strategy"
)

// strategyFlags say how a new version takes the place of the old one.
type strategyFlags struct{ strategy, steps string }

func (f *strategyFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.strategy, "strategy", "", "rolling, recreate, blue-green, canary, or a `FILE` with one (see docs/strategies.md); it needs --environment")
	cmd.Flags().StringVar(&f.steps, "steps", "", "steps of a canary: shares of the traffic in percent, with pauses, such as `10:2m,50:manual`")
}

// maxStrategy is how large a file with a strategy may be, in bytes.
const maxStrategy = 1 << 20

// read returns the strategy that the flags say; nil if they say none.
func (f *strategyFlags) read() (*ci.Strategy, error) {
	if f.strategy == "" {
		if f.steps != "" {
			return nil, fault.New(fault.Invalid, "--steps needs --strategy canary")
		}
		return nil, nil
	}
	s := ci.Strategy{Kind: ci.StrategyKind(f.strategy)}
	if !slices.Contains(ci.StrategyKinds(), s.Kind) {
		var err error
		if s, err = readStrategy(f.strategy); err != nil {
			return nil, err
		}
	}
	if f.steps != "" {
		var err error
		if s.Steps, err = strategy.ParseSteps(f.steps); err != nil {
			return nil, fault.New(fault.Invalid, "--steps: %w", err)
		}
	}
	if err := s.Validate(); err != nil {
		return nil, fault.New(fault.Invalid, "the strategy %w", err)
	}
	return &s, nil
}

func readStrategy(name string) (ci.Strategy, error) {
	file, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return ci.Strategy{}, fault.New(fault.NotFound, "there is no strategy and no file %q; the strategies are rolling, recreate, blue-green and canary", name)
	} else if err != nil {
		return ci.Strategy{}, fault.New(fault.Invalid, "the file with the strategy cannot be read: %w", err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxStrategy+1))
	switch {
	case err != nil:
		return ci.Strategy{}, fault.New(fault.Invalid, "the file with the strategy cannot be read: %w", err)
	case len(text) > maxStrategy:
		return ci.Strategy{}, fault.New(fault.TooLarge, "the file with the strategy is larger than %d KiB", maxStrategy>>10)
	}
	s, problems := strategy.Parse(string(text))
	if len(problems) > 0 {
		var all []error
		for _, p := range problems {
			all = append(all, fmt.Errorf("%s:%d:%d: %s", name, p.Pos.Line, p.Pos.Column, p.Message))
		}
		return s, fault.New(fault.Invalid, "%w", errors.Join(all...))
	}
	return s, nil
}

// newRolloutCommand returns `slipway rollout`.
func newRolloutCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rollout",
		Short: "Say how a canary or a blue-green release that is under way goes on",
		Long: `Say how a canary or a blue-green release that is under way goes on, and see where it is. What is said goes through the
cluster: no server is needed, and whoever deploys, a runner or a terminal, hears it within a second or two.

Exit codes: as of "slipway deploy"; 5 if no release comes by steps right now.`,
	}
	cmd.AddCommand(
		newRolloutShowCommand(),
		newTellCommand(release.Next, "Go on with the next step now, whatever the present one waits for"),
		newTellCommand(release.Finish, "Leave out all further steps: the new version takes the place of the old one"),
		newTellCommand(release.Hold, "Stay at the present step until somebody says otherwise"),
		newTellCommand(release.Abort, "Go back to the release before, exactly"),
	)
	return cmd
}

// newTellCommand returns the command that gives an instruction.
func newTellCommand(verb release.Verb, short string) *cobra.Command {
	var flags placeFlags
	cmd := &cobra.Command{
		Use: string(verb) + " ENV", Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return flags.under(cmd.Context(), args[0], func(place release.Place) error {
				p, err := place.Tell(cmd.Context(), verb, person())
				if err != nil {
					return place.Client.Explain(err)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "said to release %d: %s\n", p.Release, verb)
				return nil
			})
		},
	}
	flags.register(cmd)
	return cmd
}

// under calls f with the environment of a name.
func (f *placeFlags) under(ctx context.Context, name string, do func(release.Place) error) error {
	place, err := f.open(ctx, name)
	if err != nil {
		return err
	}
	defer place.Client.Close()
	return do(place)
}

func newRolloutShowCommand() *cobra.Command {
	var flags placeFlags
	cmd := &cobra.Command{
		Use: "show ENV", Short: "Say where a release is that comes by steps", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return flags.under(cmd.Context(), args[0], func(place release.Place) error {
				s, err := place.Load(cmd.Context())
				if err != nil {
					return place.Client.Explain(err)
				}
				if s.Progress == nil {
					return fault.New(fault.Conflict, "no release of %s comes by steps right now", place)
				}
				out := cmd.OutOrStdout()
				fmt.Fprintf(out, "%s: %s\n", place, standing(s))
				for _, w := range s.Progress.Workloads {
					fmt.Fprintf(out, "  deployment/%s in %s\n", w.Name, w.Namespace)
				}
				if p := s.Progress; !p.Reached.IsZero() {
					fmt.Fprintf(out, "  at this step since %s\n", when(p.Reached.Truncate(time.Second)))
				}
				return nil
			})
		},
	}
	flags.register(cmd)
	return cmd
}

// progress says in few words where a release is that comes by steps.
func progress(p release.Progress) string {
	text := fmt.Sprintf("%s, step %d of %d", p.Kind, p.Step+1, p.Steps)
	switch {
	case p.Steps == 0:
		return string(p.Kind)
	case p.Passed:
		return fmt.Sprintf("%s, passed", p.Kind)
	case !p.Reached.IsZero():
		text += fmt.Sprintf(": %d %%", p.Weight)
	}
	if p.Held {
		text += ", held"
	}
	return text
}
