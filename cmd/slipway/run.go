package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"slipway/internal/ci"
	"slipway/internal/client"
	"slipway/internal/fault"
)

func newRunCommand(c *connection) *cobra.Command {
	cmd := &cobra.Command{Use: "run", Short: "List, show, follow, cancel and restart runs"}
	cmd.AddCommand(
		newRunListCommand(c), newRunShowCommand(c), newRunLogCommand(c), newRunPlanCommand(c), newRunChangesCommand(c),
		newRunActCommand(c, "cancel", "Cancel a run", (*client.Client).Cancel),
		newRunActCommand(c, "restart", "Run the event of a run again", (*client.Client).Restart),
	)
	return cmd
}

// runArgs are the arguments OWNER/NAME and NUMBER.
func runArgs(args []string) (repo string, number int64, err error) {
	number, err = strconv.ParseInt(args[1], 10, 64)
	if err != nil || number < 1 {
		return "", 0, fault.New(fault.Invalid, "%q is not the number of a run; slipway run list %s shows them", args[1], args[0])
	}
	return args[0], number, nil
}

// openRun returns a client, and the run that the arguments name.
func (c *connection) openRun(args []string) (at *client.Client, repo string, number int64, err error) {
	repo, number, err = runArgs(args)
	if err != nil {
		return nil, "", 0, err
	}
	at, err = c.open()
	return at, repo, number, err
}

func newRunListCommand(c *connection) *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use: "list [OWNER/NAME]", Short: "List runs, newest first", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := c.open()
			if err != nil {
				return err
			}
			if limit < 1 || limit > 500 {
				return fault.New(fault.Invalid, "--limit is from 1 to 500, not %d", limit)
			}
			runs, err := at.Runs(cmd.Context(), strings.Join(args, ""), 0, limit)
			if err != nil {
				return err
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), runs)
			}
			return table(cmd.OutOrStdout(), "REPO\tRUN\tSTATUS\tEVENT\tREF\tCOMMIT\tCREATED\tTITLE", runs, func(r ci.Run) string {
				return fmt.Sprintf("%s\t%d\t%s\t%s\t%s\t%.10s\t%s\t%.60s", r.Repo, r.Number, r.Status, r.Event.Kind,
					shortRef(r.Event.Ref), r.Event.After, r.Created.Local().Format(time.DateTime), r.Event.Commit.Title())
			})
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 20, "how many, at most 500")
	return cmd
}

func shortRef(ref string) string {
	for _, prefix := range []string{"refs/heads/", "refs/tags/", "refs/"} {
		if short, ok := strings.CutPrefix(ref, prefix); ok {
			return short
		}
	}
	return ref
}

func newRunShowCommand(c *connection) *cobra.Command {
	return &cobra.Command{
		Use: "show OWNER/NAME NUMBER", Short: "Show a run with its jobs and steps", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, repo, number, err := c.openRun(args)
			if err != nil {
				return err
			}
			run, err := at.Run(cmd.Context(), repo, number)
			if err != nil {
				return err
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), run)
			}
			rollouts, err := at.Rollouts(cmd.Context(), repo, number)
			if err != nil {
				return err
			}
			showRun(cmd.OutOrStdout(), run)
			showRollouts(cmd.OutOrStdout(), rollouts)
			return nil
		},
	}
}

func showRun(w io.Writer, run ci.Run) {
	fmt.Fprintf(w, "run %d of %s: %s%s\n", run.Number, run.Repo, run.Status, took(run.Started, run.Finished))
	fmt.Fprintf(w, "  %s of %s, commit %.10s by %s: %s\n", run.Event.Kind, shortRef(run.Event.Ref), run.Event.After,
		first(run.Event.Commit.Author.Name, run.Event.Sender), run.Event.Commit.Title())
	if run.Message != "" {
		fmt.Fprintf(w, "  %s\n", strings.ReplaceAll(run.Message, "\n", "\n  "))
	}
	for _, warning := range run.Warnings {
		fmt.Fprintf(w, "  %s\n", warning)
	}
	for _, job := range run.Jobs {
		fmt.Fprintf(w, "\n%d %s: %s%s\n", job.Number, job.Name, job.Status, took(job.Started, job.Finished))
		for _, step := range job.Steps {
			fmt.Fprintf(w, "  %d %-24s %-9s%s", step.Number, step.Name, step.Status, took(step.Started, step.Finished))
			if step.ExitCode != 0 {
				fmt.Fprintf(w, "  exit %d", step.ExitCode)
			}
			if step.Message != "" {
				fmt.Fprintf(w, "  %s", step.Message)
			}
			fmt.Fprintln(w)
		}
	}
	for _, image := range run.Images {
		fmt.Fprintf(w, "\npushed %s@%s\n", image.Ref, image.Digest)
	}
}

func took(started, finished time.Time) string {
	if started.IsZero() {
		return ""
	}
	if finished.IsZero() {
		return ", since " + time.Since(started).Round(time.Second).String()
	}
	return ", " + finished.Sub(started).Round(10*time.Millisecond).String()
}

func newRunLogCommand(c *connection) *cobra.Command {
	var follow bool
	cmd := &cobra.Command{
		Use:   "log OWNER/NAME NUMBER",
		Short: "Print the logs of a run; with --follow until its end, and exit 2 if it failed",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, repo, number, err := c.openRun(args)
			if err != nil {
				return err
			}
			run, err := followRun(cmd.Context(), at, repo, number, follow, cmd.OutOrStdout())
			if err != nil {
				return err
			}
			if follow && run.Status != ci.Success && run.Status != ci.Skipped {
				return fault.New(fault.Failed, "run %d of %s: %s. %s", number, repo, run.Status, run.Message)
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the run has ended")
	return cmd
}

// followRun prints the logs of a run's steps in the order in which they began, each under its name. With follow it waits
// for what is to come, to the run's end.
func followRun(ctx context.Context, at *client.Client, repo string, number int64, follow bool, w io.Writer) (ci.Run, error) {
	type place struct{ job, step int }
	printed := map[place]bool{}
	for {
		run, err := at.Run(ctx, repo, number)
		if err != nil {
			return ci.Run{}, err
		}
		next, found := place{}, false
		var began time.Time
		for j, job := range run.Jobs {
			for s, step := range job.Steps {
				// What a service says comes when it has said all: following it would hold up the others.
				if follow && step.Detach && !run.Status.Done() {
					continue
				}
				if here := (place{j + 1, s + 1}); !printed[here] && !step.Started.IsZero() && (!found || step.Started.Before(began)) {
					next, found, began = here, true, step.Started
				}
			}
		}
		switch {
		case found:
			printed[next] = true
			job := run.Jobs[next.job-1]
			step := job.Steps[next.step-1]
			fmt.Fprintf(w, "== %s / %s\n", job.Name, step.Name)
			if _, err := at.Log(ctx, repo, number, next.job, next.step, 0, follow, w); err != nil {
				return ci.Run{}, err
			}
		case run.Status.Done() || !follow:
			return run, nil
		default:
			select {
			case <-ctx.Done():
				return ci.Run{}, ctx.Err()
			case <-time.After(200 * time.Millisecond):
			}
		}
	}
}

// newRunActCommand makes a verb that does one thing to a run.
func newRunActCommand(c *connection, verb, short string, act func(*client.Client, context.Context, string, int64) (ci.Run, error)) *cobra.Command {
	return &cobra.Command{
		Use: verb + " OWNER/NAME NUMBER", Short: short, Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, repo, number, err := c.openRun(args)
			if err != nil {
				return err
			}
			run, err := act(at, cmd.Context(), repo, number)
			if err != nil {
				return err
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), run)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "run %d of %s: %s\n", run.Number, run.Repo, run.Status)
			if run.Message != "" {
				fmt.Fprintln(cmd.OutOrStdout(), run.Message)
			}
			return nil
		},
	}
}

// newRunPlanCommand prints what a run carries out.
func newRunPlanCommand(c *connection) *cobra.Command {
	return &cobra.Command{
		Use: "plan OWNER/NAME NUMBER", Short: "Print the plan of a run as JSON", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, repo, number, err := c.openRun(args)
			if err != nil {
				return err
			}
			planned, err := at.Plan(cmd.Context(), repo, number)
			if err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), planned)
		},
	}
}

// newRunChangesCommand prints what the diff steps of a run found out.
func newRunChangesCommand(c *connection) *cobra.Command {
	return &cobra.Command{
		Use: "changes OWNER/NAME NUMBER", Short: "Print what deployments of a run would change, as its diff steps found out", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, repo, number, err := c.openRun(args)
			if err != nil {
				return err
			}
			previews, err := at.Previews(cmd.Context(), repo, number)
			if err != nil {
				return err
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), previews)
			}
			for _, p := range previews {
				fmt.Fprintf(cmd.OutOrStdout(), "%s, by the step %s: %s\n", p.Environment, p.Name, cmp.Or(p.Message, p.Summary()))
				printDifferences(cmd.OutOrStdout(), p.Differences, p.Omitted)
			}
			return nil
		},
	}
}

// showRollouts prints how far the deployments of a run are.
func showRollouts(w io.Writer, rollouts []ci.Rollout) {
	for _, r := range rollouts {
		fmt.Fprintf(w, "\ndeployed by step %d of job %d\n", r.StepNumber, r.JobNumber)
		for _, o := range append(r.Failed, r.Workloads...) {
			fmt.Fprintf(w, "  %s/%s %s", o.Kind, o.Name, o.State)
			for _, text := range []string{o.Text, o.Trouble} {
				if text != "" {
					fmt.Fprintf(w, ": %s", text)
				}
			}
			fmt.Fprintln(w)
		}
	}
}
