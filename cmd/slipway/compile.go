package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"slipway/internal/ci"
	"slipway/internal/dialect"
	"slipway/internal/fault"
	"slipway/internal/plan"
	"slipway/internal/version"
)

// maxPipelineFile bounds what is read of a pipeline file; dialects have tighter bounds of their own.
const maxPipelineFile = 8 << 20

// compileFlags say what a pipeline file is compiled for, where no forge says it.
type compileFlags struct {
	dialect                              string
	event, action, branch, source, tag   string
	commit, message, repo, defaultBranch string
	registry                             string
	cron, deployTo                       string
	pull                                 int64
	params                               map[string]string
	trusted, fork                        bool
	run                                  int64
}

func (f *compileFlags) register(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.dialect, "dialect", "", "language of the file: "+strings.Join(dialect.Names(), ", ")+" (default: by its name)")
	flags.StringVar(&f.event, "event", "", "what happened: push, tag, pull_request, cron, promote, rollback, manual (default push, or what other flags tell)")
	flags.StringVar(&f.action, "action", "", "what happened to the pull request: opened or synchronized")
	flags.StringVar(&f.branch, "branch", "", "branch that was pushed, or that a pull request is for (default: the default branch)")
	flags.StringVar(&f.branch, "target", "", "the same as --branch")
	flags.StringVar(&f.source, "source", "", "branch that a pull request comes from")
	flags.StringVar(&f.tag, "tag", "", "tag that was pushed")
	flags.Int64Var(&f.pull, "pull", 0, "number of the pull request (default 1)")
	flags.StringVar(&f.commit, "commit", strings.Repeat("0", 40), "hash of the commit")
	flags.StringVar(&f.message, "message", "", "message of the commit")
	flags.StringVar(&f.repo, "repo", "local/repo", "full name of the repo")
	flags.StringVar(&f.defaultBranch, "default-branch", "main", "default branch of the repo")
	flags.StringVar(&f.cron, "cron", "", "name of the schedule")
	flags.StringVar(&f.deployTo, "deploy-to", "", "environment of a promotion or a rollback")
	flags.StringToStringVar(&f.params, "param", nil, "parameter of a manual run, a promotion or a rollback: `name=value`; may be repeated")
	flags.StringVar(&f.registry, "registry", "localhost:5000", "host of Slipway's registry")
	flags.BoolVar(&f.trusted, "trusted", false, "the repo is trusted with privileges")
	flags.BoolVar(&f.fork, "fork", false, "the pull request comes from a fork")
	flags.Int64Var(&f.run, "run-number", 1, "number of the run")
}

// input makes the flags what a forge's message would have been made.
func (f *compileFlags) input() (plan.Input, error) {
	kind := ci.Push
	switch {
	case f.event != "":
		var ok bool
		if kind, ok = ci.ParseEventKind(f.event); !ok {
			return plan.Input{}, fault.New(fault.Invalid, "--event %s: there is no such event", f.event)
		}
	case f.tag != "":
		kind = ci.Tag
	case f.pull != 0 || f.source != "" || f.fork:
		kind = ci.PullRequest
	case f.cron != "":
		kind = ci.Cron
	case f.deployTo != "":
		kind = ci.Promote
	}
	branch := cmp.Or(f.branch, f.defaultBranch)
	e := ci.Event{
		Kind: kind, Action: f.action, After: f.commit, Commit: ci.Commit{Message: f.message},
		Ref: "refs/heads/" + branch, Source: branch, Target: branch,
		CronName: f.cron, DeployTo: f.deployTo, Params: f.params,
	}
	switch kind {
	case ci.Tag:
		if f.tag == "" {
			return plan.Input{}, fault.New(fault.Invalid, "the event tag needs --tag")
		}
		e.Ref, e.Source, e.Target = "refs/tags/"+f.tag, "", ""
	case ci.PullRequest:
		number := cmp.Or(f.pull, 1)
		e.Ref, e.Source = fmt.Sprintf("refs/pull/%d/head", number), cmp.Or(f.source, "feature")
		e.Action = cmp.Or(f.action, "opened")
		e.PullRequest = &ci.Change{Number: number, Title: e.Commit.Title(), Fork: f.fork}
	}
	return plan.Input{
		Event:  e,
		Repo:   ci.Repo{Name: f.repo, Branch: f.defaultBranch, Trusted: f.trusted},
		Run:    plan.RunInfo{Number: f.run},
		System: plan.System{Proto: "http", Host: "localhost", Version: version.Version(), Registry: f.registry},
	}, nil
}

// compileFile compiles the file that args names and prints what is wrong with it on the error output. It returns an
// error if the file cannot run.
func (f *compileFlags) compileFile(cmd *cobra.Command, args []string) (plan.Plan, error) {
	in, err := f.input()
	if err != nil {
		return plan.Plan{}, err
	}
	src, err := readSource(cmd.InOrStdin(), args)
	if err != nil {
		return plan.Plan{}, err
	}
	compile := dialect.Compile
	if f.dialect != "" {
		if !slices.Contains(dialect.Names(), f.dialect) {
			return plan.Plan{}, fault.New(fault.Invalid, "--dialect %s: the dialects are: %s", f.dialect, strings.Join(dialect.Names(), ", "))
		}
		compile = func(src plan.Source, in plan.Input) (plan.Plan, plan.Problems, error) {
			return dialect.CompileAs(f.dialect, src, in)
		}
	}
	p, problems, err := compile(src, in)
	for _, problem := range problems {
		fmt.Fprintln(cmd.ErrOrStderr(), problem)
	}
	if err != nil {
		return plan.Plan{}, fault.New(fault.Invalid, "%s cannot run", src.Name)
	}
	return p, nil
}

// readSource reads the file that args names, standard input for "-", or else the first of the usual names that exists.
func readSource(stdin io.Reader, args []string) (plan.Source, error) {
	name := ""
	switch {
	case len(args) > 0:
		name = args[0]
	default:
		for _, candidate := range dialect.Files() {
			if _, err := os.Stat(candidate); err == nil {
				name = candidate
				break
			}
		}
		if name == "" {
			return plan.Source{}, fault.New(fault.NotFound, "there is no pipeline file here; looked for %s", strings.Join(dialect.Files(), ", "))
		}
	}
	from := stdin
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return plan.Source{}, fault.New(fault.NotFound, "the pipeline file %s cannot be opened: %s", name, fault.Cause(err))
		}
		defer file.Close()
		from = file
	} else {
		name = "stdin"
	}
	text, err := io.ReadAll(io.LimitReader(from, maxPipelineFile))
	if err != nil {
		return plan.Source{}, fault.New(fault.Invalid, "the pipeline file %s cannot be read: %s", name, fault.Cause(err))
	}
	return plan.Source{Name: name, Text: text}, nil
}
