package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"slipway/internal/api"
	"slipway/internal/ci"
	"slipway/internal/client"
	"slipway/internal/fault"
)

// The commands here ask a server of a repo's environments: they begin with OWNER/NAME. Those in environment.go, which begin with the
// name of an environment, speak to a cluster and need no server.

func newEnvServerCommands(c *connection) []*cobra.Command {
	return []*cobra.Command{
		newEnvCreateCommand(c), newEnvSetCommand(c), newEnvDeleteCommand(c), newEnvFreezeCommand(c), newEnvUnfreezeCommand(c),
		newEnvWaitingCommand(c),
		newVoteCommand(c, "approve", ci.Approve, "Approve the deployments of a run that wait"),
		newVoteCommand(c, "reject", ci.Reject, "Reject the deployments of a run that wait; they fail"),
		newVoteCommand(c, "override", ci.Override, "Let the deployments of a run pass although their environment is frozen"),
		newEnvRollbackCommand(c), newEnvTeardownCommand(c),
	}
}

// rulesFlags are the rules of an environment. Only those that are given count.
type rulesFlags struct {
	kubeconfig, policy string
	rules              struct {
		namespace, url                 string
		branches, deployers, approvers []string
		approvals, position            int
		selfApproval                   bool
		lifetime                       time.Duration
	}
}

func (f *rulesFlags) register(cmd *cobra.Command) {
	flags, r := cmd.Flags(), &f.rules
	flags.StringVar(&f.kubeconfig, "kubeconfig", "", "file with the kubeconfig of its cluster, which is sealed; '' means the runner's own cluster")
	flags.StringVarP(&r.namespace, "namespace", "n", "", "where objects go that name none; that of a pattern contains {branch}")
	flags.StringArrayVar(&r.branches, "branch", nil, "who may deploy: glob of branches, or of refs such as refs/tags/v*; may be repeated, '' means all")
	flags.StringArrayVar(&r.deployers, "deployer", nil, "login of somebody who may deploy; may be repeated, '' means everybody who may push")
	flags.IntVar(&r.approvals, "approvals", 0, "how many people must approve each deployment")
	flags.StringArrayVar(&r.approvers, "approver", nil, "name of somebody who may approve; may be repeated, '' means everybody who manages the repo")
	flags.BoolVar(&r.selfApproval, "self-approval", false, "who caused a run may approve its deployments")
	flags.DurationVar(&r.lifetime, "lifetime", 0, "of a pattern: time from the newest deployment to the teardown, such as 72h; 0 means until the branch is deleted")
	flags.StringVar(&r.url, "url", "", "where people find what runs there; that of a pattern may contain {branch}")
	flags.IntVar(&r.position, "position", 0, "order in which releases are promoted; the lowest comes first")
	flags.StringVar(&f.policy, "policy", "", "file with the policy of deployments, YAML or JSON")
}

// changes returns the rules that were given.
func (f *rulesFlags) changes(flags *pflag.FlagSet) (api.EnvironmentRules, error) {
	var rules api.EnvironmentRules
	r := &f.rules
	if flags.Changed("kubeconfig") {
		text := ""
		if f.kubeconfig != "" {
			content, err := os.ReadFile(f.kubeconfig)
			if err != nil {
				return rules, fault.New(fault.NotFound, "read the kubeconfig: %w", err)
			}
			text = string(content)
		}
		rules.Kubeconfig = &text
	}
	if flags.Changed("policy") {
		policy, err := readDeployPolicy(f.policy)
		if err != nil {
			return rules, err
		}
		rules.Policy = &policy
	}
	given(flags, "namespace", &rules.Namespace, r.namespace)
	given(flags, "branch", &rules.Branches, filled(r.branches))
	given(flags, "deployer", &rules.Deployers, filled(r.deployers))
	given(flags, "approvals", &rules.Approvals, r.approvals)
	given(flags, "approver", &rules.Approvers, filled(r.approvers))
	given(flags, "self-approval", &rules.SelfApproval, r.selfApproval)
	given(flags, "lifetime", &rules.Lifetime, int64(r.lifetime/time.Second))
	given(flags, "url", &rules.URL, r.url)
	given(flags, "position", &rules.Position, r.position)
	return rules, nil
}

func given[T any](flags *pflag.FlagSet, name string, to **T, value T) {
	if flags.Changed(name) {
		*to = &value
	}
}

// filled returns the values that are not empty: one that is empties a list.
func filled(values []string) []string {
	list := []string{}
	for _, v := range values {
		if v != "" {
			list = append(list, v)
		}
	}
	return list
}

// readDeployPolicy reads the policy of an environment from a file of YAML or JSON.
func readDeployPolicy(path string) (policy ci.Policy, err error) {
	if path == "" {
		return policy, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return policy, fault.New(fault.NotFound, "read the policy: %w", err)
	}
	var value any
	if err := yaml.Unmarshal(text, &value); err != nil {
		return policy, fault.New(fault.Invalid, "%s is neither YAML nor JSON: %w", path, err)
	}
	data, err := json.Marshal(value)
	if err != nil {
		return policy, fault.New(fault.Invalid, "%s is no policy: %w", path, err)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&policy); err != nil {
		return policy, fault.New(fault.Invalid, "%s is no policy: %w", path, err)
	}
	return policy, nil
}

// answerEnvironment prints what became of an environment.
func (c *connection) answerEnvironment(w io.Writer, e ci.Environment) error {
	if c.json {
		return printJSON(w, e)
	}
	showEnvironment(w, e)
	return nil
}

func newEnvCreateCommand(c *connection) *cobra.Command {
	var flags rulesFlags
	cmd := &cobra.Command{
		Use:   "create OWNER/NAME ENV",
		Short: "Make an environment of a repo, with its rules; admins only",
		Long: `Make an environment of a repo, with its rules. From the first one on, the repo's pipelines may deploy to its environments and to
nothing else. A * in the name, as in 'review/*', stands for a branch: each branch gets an environment and a namespace of its own.`,
		Example: `  slipway env create ada/engine production -n shop --kubeconfig prod.yaml --branch main --approvals 1
  slipway env create ada/engine 'review/*' -n 'shop-{branch}' --lifetime 72h --url 'https://{branch}.shop.example.com'`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			rules, err := flags.changes(cmd.Flags())
			if err != nil {
				return err
			}
			at, err := c.open()
			if err != nil {
				return err
			}
			made, err := at.AddEnvironment(cmd.Context(), args[0], api.NewEnvironment{Name: args[1], EnvironmentRules: rules})
			if err != nil {
				return err
			}
			return c.answerEnvironment(cmd.OutOrStdout(), made)
		},
	}
	flags.register(cmd)
	return cmd
}

func newEnvSetCommand(c *connection) *cobra.Command {
	var flags rulesFlags
	cmd := &cobra.Command{
		Use: "set OWNER/NAME ENV", Short: "Change rules of an environment; what no flag names stays. Admins only", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			rules, err := flags.changes(cmd.Flags())
			if err != nil {
				return err
			}
			return c.changeEnvironment(cmd, args, rules)
		},
	}
	flags.register(cmd)
	return cmd
}

func (c *connection) changeEnvironment(cmd *cobra.Command, args []string, rules api.EnvironmentRules) error {
	at, err := c.open()
	if err != nil {
		return err
	}
	changed, err := at.ChangeEnvironment(cmd.Context(), args[0], args[1], rules)
	if err != nil {
		return err
	}
	return c.answerEnvironment(cmd.OutOrStdout(), changed)
}

func newEnvDeleteCommand(c *connection) *cobra.Command {
	return &cobra.Command{
		Use: "delete OWNER/NAME ENV", Short: "Forget the rules of an environment; what runs there goes on. Admins only", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := c.open()
			if err != nil {
				return err
			}
			return at.DeleteEnvironment(cmd.Context(), args[0], args[1])
		},
	}
}

func newEnvFreezeCommand(c *connection) *cobra.Command {
	var freeze ci.Freeze
	var from, until string
	cmd := &cobra.Command{
		Use:   "freeze OWNER/NAME ENV",
		Short: "Add a time at which nothing is deployed to an environment; admins only",
		Example: `  slipway env freeze ada/engine production --from 2026-12-23T18:00:00+01:00 --until 2027-01-02T08:00:00+01:00 --reason holidays
  slipway env freeze ada/engine production --start "fri 16:00" --end "mon 08:00" --zone Europe/Berlin --override ann`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if freeze.From, err = parseMoment("from", from); err != nil {
				return err
			}
			if freeze.Until, err = parseMoment("until", until); err != nil {
				return err
			}
			if freeze.From.IsZero() && !freeze.Until.IsZero() {
				freeze.From = time.Now()
			}
			return c.changeFreezes(cmd, args, func(all []ci.Freeze) ([]ci.Freeze, error) { return append(all, freeze), nil })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&from, "from", "", "first moment, such as 2026-12-23T18:00:00+01:00 (default now, with --until)")
	flags.StringVar(&until, "until", "", "moment from which deployments may go on")
	flags.StringVar(&freeze.Start, "start", "", `time of the week at which it begins again and again, such as "fri 16:00", or of each day: "18:00"`)
	flags.StringVar(&freeze.End, "end", "", `time at which it ends, such as "mon 08:00"`)
	flags.StringVar(&freeze.Zone, "zone", "", "time zone of --start and --end, such as Europe/Berlin (default UTC)")
	flags.StringVar(&freeze.Reason, "reason", "", "what people are told")
	flags.StringArrayVar(&freeze.Override, "override", nil, "name of somebody who may let a deployment pass all the same; may be repeated")
	return cmd
}

func parseMoment(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, fault.New(fault.Invalid, "--%s cannot be %q; write it as 2026-12-23T18:00:00+01:00", flag, text)
	}
	return t, nil
}

func (c *connection) changeFreezes(cmd *cobra.Command, args []string, change func([]ci.Freeze) ([]ci.Freeze, error)) error {
	at, err := c.open()
	if err != nil {
		return err
	}
	found, err := at.Environment(cmd.Context(), args[0], args[1])
	if err != nil {
		return err
	}
	freezes, err := change(found.Freezes)
	if err != nil {
		return err
	}
	return c.changeEnvironment(cmd, args, api.EnvironmentRules{Freezes: &freezes})
}

func newEnvUnfreezeCommand(c *connection) *cobra.Command {
	return &cobra.Command{
		Use: "unfreeze OWNER/NAME ENV NUMBER", Short: "Remove a freeze, by the number that env show gives it; admins only", Args: cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.changeFreezes(cmd, args, func(all []ci.Freeze) ([]ci.Freeze, error) {
				n, err := strconv.Atoi(args[2])
				if err != nil || n < 1 || n > len(all) {
					return nil, fault.New(fault.NotFound, "%s has no freeze %q; slipway env show %s '%[1]s' lists them", args[1], args[2], args[0])
				}
				return append(all[:n-1:n-1], all[n:]...), nil
			})
		},
	}
}

// listEnvironments prints the environments that a repo has on the server.
func (c *connection) listEnvironments(cmd *cobra.Command, repo string) error {
	at, err := c.open()
	if err != nil {
		return err
	}
	environments, err := at.Environments(cmd.Context(), repo)
	if err != nil {
		return err
	}
	reviews, err := at.Reviews(cmd.Context(), repo)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if c.json {
		return printJSON(out, struct {
			Environments []ci.Environment `json:"environments"`
			Reviews      []ci.Review      `json:"reviews"`
		}{environments, reviews})
	}
	err = table(out, "ENVIRONMENT\tCLUSTER\tNAMESPACE\tBRANCHES\tAPPROVALS\tURL", environments, func(e ci.Environment) string {
		return fmt.Sprintf("%s\t%s\t%s\t%s\t%d\t%s", e.Name, first(e.Cluster, "the runner's own"), first(e.Namespace, "-"),
			first(strings.Join(e.Branches, ", "), "all"), e.Approvals, first(e.URL, "-"))
	})
	if err != nil || len(reviews) == 0 {
		return err
	}
	fmt.Fprintln(out)
	return table(out, "REVIEW ENVIRONMENT\tNAMESPACE\tRUN\tDEPLOYED\tENDS\tURL", reviews, func(r ci.Review) string {
		return fmt.Sprintf("%s\t%s\t%d\t%s\t%s\t%s", r.Name, r.Namespace, r.Run, when(r.Updated), first(when(r.Ends), "with its branch"), first(r.URL, "-"))
	})
}

// showEnvironment prints the rules of an environment.
func showEnvironment(w io.Writer, e ci.Environment) {
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "  %-14s %s\n", name, value)
		}
	}
	fmt.Fprintf(w, "%s of %s\n", e.Name, e.Repo)
	line("cluster", first(e.Cluster, "the runner's own"))
	line("namespace", first(e.Namespace, "as the deploy step says"))
	line("URL", e.URL)
	line("branches", first(strings.Join(e.Branches, ", "), "all"))
	line("deployers", first(strings.Join(e.Deployers, ", "), "everybody who may push"))
	if e.Approvals > 0 {
		by := first(strings.Join(e.Approvers, ", "), "everybody who manages the repo")
		if !e.SelfApproval {
			by += "; not by who caused the run"
		}
		line("approvals", fmt.Sprintf("%d, by %s", e.Approvals, by))
	}
	if e.Lifetime > 0 {
		line("lifetime", e.Lifetime.String())
	}
	if policy, err := json.Marshal(e.Policy); err == nil && string(policy) != "{}" {
		line("policy", string(policy))
	}
	for i, f := range e.Freezes {
		text := fmt.Sprintf("from %s until %s %s", f.Start, f.End, first(f.Zone, "UTC"))
		if f.Start == "" {
			text = fmt.Sprintf("from %s until %s", when(f.From), when(f.Until))
		}
		if f.Reason != "" {
			text += ": " + f.Reason
		}
		if len(f.Override) > 0 {
			text += "; may be overridden by " + strings.Join(f.Override, ", ")
		}
		line(fmt.Sprintf("freeze %d", i+1), text)
	}
}

func newEnvWaitingCommand(c *connection) *cobra.Command {
	return &cobra.Command{
		Use: "waiting OWNER/NAME", Short: "List the deployments that wait for approval or for the end of a freeze", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := c.open()
			if err != nil {
				return err
			}
			gates, err := at.Gates(cmd.Context(), args[0], 0, true)
			if err != nil {
				return err
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), gates)
			}
			return table(cmd.OutOrStdout(), "RUN\tENVIRONMENT\tSINCE\tREASON", gates, func(g ci.Gate) string {
				return fmt.Sprintf("%d\t%s\t%s\t%s", g.Run, g.Environment, when(g.Since), g.Reason)
			})
		},
	}
}

func newVoteCommand(c *connection, verb string, choice ci.Choice, short string) *cobra.Command {
	vote := api.Ballot{Choice: choice}
	cmd := &cobra.Command{
		Use: verb + " OWNER/NAME RUN", Short: short, Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, repo, number, err := c.openRun(args)
			if err != nil {
				return err
			}
			gates, err := at.Vote(cmd.Context(), repo, number, vote)
			if err != nil {
				return err
			}
			if c.json {
				return printJSON(cmd.OutOrStdout(), gates)
			}
			for _, g := range gates {
				fmt.Fprintf(cmd.OutOrStdout(), "the deployment of run %d to %s: %s\n", g.Run, g.Environment, choice)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&vote.Environment, "environment", "", "environment that is meant (default: all that the run waits for)")
	cmd.Flags().StringVar(&vote.Comment, "comment", "", "why; it is kept and shown")
	return cmd
}

// started says which run was started.
func (c *connection) started(w io.Writer, at *client.Client, run ci.Run) error {
	if c.json {
		return printJSON(w, run)
	}
	fmt.Fprintf(w, "run %d of %s: %s/%s/runs/%d\n", run.Number, run.Repo, strings.TrimSuffix(at.URL, "/"), run.Repo, run.Number)
	return nil
}

func newEnvRollbackCommand(c *connection) *cobra.Command {
	var wish api.RollbackWish
	cmd := &cobra.Command{
		Use:   "rollback OWNER/NAME ENV [RELEASE]",
		Short: "Bring an environment back to an earlier release, by a runner of the server",
		Long: `Start a run that brings an environment back to the release of that number, or else to the last good one before the one that
serves. No pipeline runs, and nobody has to approve it. "slipway rollback" does the same from this machine, without a server.`,
		Args: cobra.RangeArgs(2, 3),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if len(args) == 3 {
				if wish.Release, err = parseRelease(args[2]); err != nil {
					return err
				}
			}
			at, err := c.open()
			if err != nil {
				return err
			}
			run, err := at.Rollback(cmd.Context(), args[0], args[1], wish)
			if err != nil {
				return err
			}
			return c.started(cmd.OutOrStdout(), at, run)
		},
	}
	cmd.Flags().StringVarP(&wish.Namespace, "namespace", "n", "", "namespace that is meant, if the environment was deployed to several")
	return cmd
}

func newEnvTeardownCommand(c *connection) *cobra.Command {
	var wish api.TeardownWish
	cmd := &cobra.Command{
		Use: "teardown OWNER/NAME ENV", Short: "Remove a review environment with all that it has", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := c.open()
			if err != nil {
				return err
			}
			run, err := at.Teardown(cmd.Context(), args[0], args[1], wish)
			if err != nil {
				return err
			}
			return c.started(cmd.OutOrStdout(), at, run)
		},
	}
	cmd.Flags().StringVar(&wish.Reason, "reason", "", "why; it is shown")
	return cmd
}

func newPromoteCommand(c *connection) *cobra.Command {
	var event string
	var params map[string]string
	cmd := &cobra.Command{
		Use:   "promote OWNER/NAME RUN ENV",
		Short: "Run the pipeline of a run again for another environment, with the images that it pushed",
		Long: `Start a run of the same commit with the event promote, whose DRONE_DEPLOY_TO is ENV. Its deploy steps deploy the very images
that RUN pushed, so nothing has to be built again. --event rollback gives a pipeline for Drone's event rollback instead; to
go back without a pipeline, use "slipway env rollback".`,
		Args: cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, repo, number, err := c.openRun(args)
			if err != nil {
				return err
			}
			run, err := at.Promote(cmd.Context(), repo, number, api.Promotion{Target: args[2], Event: ci.EventKind(event), Params: params})
			if err != nil {
				return err
			}
			return c.started(cmd.OutOrStdout(), at, run)
		},
	}
	cmd.Flags().StringVar(&event, "event", string(ci.Promote), "promote or rollback")
	cmd.Flags().StringToStringVar(&params, "param", nil, "variable for the steps, as `NAME=VALUE`; may be repeated")
	return cmd
}
