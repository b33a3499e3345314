package runner

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"slipway/internal/ci"
	"slipway/internal/engine"
	"slipway/internal/fault"
	"slipway/internal/image"
	"slipway/internal/kube"
	"slipway/internal/plan"
	"slipway/internal/protocol"
	"slipway/internal/rollout"
)

// openCheckout opens the folder that the commit is checked out in. What it is by now is a step's doing: a link out of the
// workspace would lead into this machine's own files.
func (s *stepRun) openCheckout() (*os.Root, error) {
	workspace, err := os.OpenRoot(s.w.env.Workspace())
	if err != nil {
		return nil, fmt.Errorf("open the workspace: %w", err)
	}
	defer workspace.Close()
	checkout, err := workspace.OpenRoot(cmp.Or(s.w.a.Job.Checkout, "."))
	if err != nil {
		return nil, fault.New(fault.Invalid, "the checkout %q is no folder of the workspace any more; an earlier step removed or replaced it", s.w.a.Job.Checkout)
	}
	return checkout, nil
}

func (s *stepRun) resolveMap(values map[string]plan.Value) map[string]string {
	resolved := map[string]string{}
	for name, v := range values {
		resolved[name] = s.resolve(v)
	}
	return resolved
}

// image builds and pushes an image.
func (s *stepRun) image(ctx context.Context) error {
	builder := s.w.runner.opts.Images
	if builder == nil {
		return fault.New(fault.Unavailable, "this runner's engine cannot build images; start the runner with --engine oci")
	}
	b := s.step.Image
	req := image.Request{
		Workspace: s.w.env.Workspace(), Checkout: s.w.a.Job.Checkout, Context: b.Context, Dockerfile: b.Dockerfile, Target: b.Target,
		Args: s.resolveMap(b.Args), Labels: s.resolveMap(b.Labels),
		Repo: s.resolve(b.Repo), Registry: s.resolve(b.Registry),
		Insecure: b.Insecure, DryRun: b.DryRun, CacheFrom: b.CacheFrom, NoCache: b.NoCache, Pull: b.Pull,
		Scope: s.cacheScope(), Epoch: s.w.a.CommitTime, HostNetwork: s.w.a.Trusted, Secrets: s.w.a.SecretValues(),
	}
	for _, tag := range b.Tags {
		req.Tags = append(req.Tags, s.resolve(tag))
	}
	if username := s.resolve(b.Username); username != "" {
		host := req.Registry
		if host == "" {
			host, _, _ = strings.Cut(req.Repo, "/")
		}
		req.Auths = append(req.Auths, engine.Auth{Host: host, Username: username, Password: s.resolve(b.Password)})
	}
	req.Auths = append(req.Auths, pullAuths(s.w.a)...)
	result, err := builder.Build(ctx, req, s.log)
	if err != nil {
		return err
	}
	for _, ref := range result.Refs {
		pushed := ci.Image{Ref: ref, Digest: result.Digest}
		if err := s.w.journal.add(protocol.Event{Image: &protocol.Image{Step: s.index + 1, Image: pushed}}); err != nil {
			return err
		}
		s.pushed = append(s.pushed, pushed)
	}
	return nil
}

// cacheScope names those who share a build cache: the repo's own people, or those of its forks.
func (s *stepRun) cacheScope() string {
	if s.w.a.Fork {
		return s.w.a.Repo + " forks"
	}
	return s.w.a.Repo
}

// deploy does to its environment what a deploy step says: it renders manifests and rolls them out, says what that would change,
// goes back to an earlier release, or removes all.
func (s *stepRun) deploy(ctx context.Context) error {
	if s.step.Deploy.Action == plan.ActionDiff {
		return s.preview(ctx)
	}
	step, err := s.deployment()
	if err != nil {
		return err
	}
	defer step.Workspace.Close()
	step.Picture, step.Waits = s.picture, s.w.wait
	var result rollout.Result
	switch action := s.step.Deploy.Action; action {
	case plan.ActionDeploy:
		result, err = rollout.Run(ctx, step, s.log)
	case plan.ActionRollback:
		result, err = rollout.RunRollback(ctx, step, s.step.Deploy.Release, s.log)
	case plan.ActionTeardown:
		return rollout.RunTeardown(ctx, step, s.log)
	default:
		return fault.New(fault.Invalid, "this runner does not know the action %q of a deploy step; update it", action)
	}
	if r := result.Release; r != nil {
		r.Message = s.w.masker.Mask(r.Message)
		report := &protocol.Release{Step: s.index + 1, Release: *r, Manifests: result.Manifests}
		if failed := s.w.journal.add(protocol.Event{Release: report}); failed != nil {
			return errors.Join(err, failed)
		}
	}
	return err
}

// picture tells the server how far a deployment is, unless that is more than it takes. That it cannot be written is noticed
// by the next line of the log.
func (s *stepRun) picture(r ci.Rollout) {
	for _, workloads := range [][]ci.Workload{r.Workloads, r.Failed} {
		for i := range workloads {
			w := &workloads[i]
			w.Text, w.Trouble = s.w.masker.Mask(w.Text), s.w.masker.Mask(w.Trouble)
			w.Events, w.Log = slices.Clone(w.Events), slices.Clone(w.Log)
			for k := range w.Events {
				w.Events[k].Message = s.w.masker.Mask(w.Events[k].Message)
			}
			for k := range w.Log {
				w.Log[k] = s.w.masker.Mask(w.Log[k])
			}
		}
	}
	if data, err := json.Marshal(r); err != nil || len(data) > protocol.MaxRollout {
		return
	}
	_ = s.w.journal.add(protocol.Event{Rollout: &protocol.Rollout{Step: s.index + 1, Rollout: r}})
}

// deployment is the step with everything resolved. The caller closes its workspace.
func (s *stepRun) deployment() (rollout.Step, error) {
	d, permit := s.step.Deploy, s.permitted
	kubeconfig := cmp.Or(permit.Kubeconfig, s.resolve(d.Kubeconfig))
	if name := d.Kubeconfig.Secret; kubeconfig == "" && slices.Contains(s.w.a.Denied, name) {
		return rollout.Step{}, fault.New(fault.Invalid, "the secret %s of the setting kubeconfig is not given to pull requests; allow it by: slipway secret set %s %[1]s --pull-requests", name, s.w.a.Repo)
	}
	if kubeconfig == "" && !d.Kubeconfig.IsZero() { // silently deploying elsewhere would be worse than failing
		return rollout.Step{}, fault.New(fault.Invalid, "the setting kubeconfig is empty; set its secret by: slipway secret set %s %s", s.w.a.Repo, d.Kubeconfig.Secret)
	}
	if permit.Policy.Probe != nil && s.w.a.Fork && d.Action == plan.ActionDeploy {
		return rollout.Step{}, fault.New(fault.Forbidden, "a fork's pull request may not have requests sent from the runner's machine; leave the probe out for pull requests")
	}
	if strategy := permit.Policy.Strategy; strategy != nil && strategy.AsksOthers() && s.w.a.Fork && d.Action == plan.ActionDeploy {
		return rollout.Step{}, fault.New(fault.Forbidden, "a fork's pull request may not have requests sent from the runner's machine; leave out the strategy's checks with a whole url for pull requests")
	}
	checkout, err := s.openCheckout()
	if err != nil {
		return rollout.Step{}, err
	}
	step := rollout.Step{
		Workspace: checkout, Manifests: d.Manifests, Namespace: cmp.Or(permit.Namespace, s.resolve(d.Namespace)), Environment: permit.Environment,
		Images: s.resolveMap(d.Images), Pushed: s.images, Timeout: time.Duration(d.Timeout) * time.Second,
		Kubeconfig: []byte(kubeconfig), Client: s.ownCluster, Mask: s.w.masker.Mask,
		Policy: permit.Policy, Secrets: s.policySecrets(), ProbeLocal: s.w.a.Trusted, Review: permit.Review, Reserved: permit.Reserved,
		Release: ci.Release{
			Repo: s.w.a.Repo, Run: s.w.a.Run, Step: s.step.Name, Commit: s.w.a.Commit, By: s.w.a.By, Link: s.w.a.Link,
			Author: s.w.a.Author, Title: s.w.a.Title,
		},
		// When the runner itself stops, its successor goes on with the step.
		Resumed:  func() bool { return s.w.life.Err() != nil },
		Renderer: s.w.runner.opts.Renderer,
	}
	if err := s.fillIn(&step); err != nil {
		return rollout.Step{}, errors.Join(err, checkout.Close())
	}
	return step, nil
}

// policySecrets returns the values of the secrets that the policy names: those of the plan came with the job, those of the
// environment's own policy with the permit.
func (s *stepRun) policySecrets() map[string]string {
	values := map[string]string{}
	for _, name := range s.permitted.Policy.Secrets() {
		values[name] = cmp.Or(s.permitted.Secrets[name], s.w.a.Secrets[name])
	}
	return values
}

// fillIn sets what is filled into the manifests of a deployment.
func (s *stepRun) fillIn(step *rollout.Step) error {
	d := s.step.Deploy
	step.Variables = placeVariables(s.permitted)
	maps.Copy(step.Variables, s.resolveMap(d.Variables))
	step.Charts.Release, step.Charts.Values = d.ReleaseName, d.Values
	step.Charts.Set, step.Charts.SetText = s.resolveMap(d.Set), s.resolveMap(d.SetString)
	for _, values := range []map[string]plan.Value{d.Variables, d.Set, d.SetString} {
		for name, v := range values {
			if v.Secret == "" {
				continue
			}
			value := s.resolve(v)
			switch {
			case value == "" && slices.Contains(s.w.a.Denied, v.Secret):
				return fault.New(fault.Invalid, "the secret %s, which %s has the value of, is not given to pull requests; allow it by: slipway secret set %s %[1]s --pull-requests", v.Secret, name, s.w.a.Repo)
			case value == "": // an empty password would be worse than failing
				return fault.New(fault.Invalid, "the secret %s, which %s has the value of, is empty; set it by: slipway secret set %s %[1]s", v.Secret, name, s.w.a.Repo)
			}
			step.Confidential = append(step.Confidential, value)
		}
	}
	return nil
}

// ownCluster returns a client for the cluster of the runner.
func (s *stepRun) ownCluster() (*kube.Client, error) {
	if s.w.a.Fork {
		return nil, fault.New(fault.Forbidden, "a fork's pull request may not deploy to the runner's own cluster")
	}
	file := s.w.runner.opts.Kubeconfig
	if _, err := os.Stat(file); err == nil {
		return kube.FromFile(file, "")
	}
	if client, err := kube.InCluster(); err == nil {
		return client, nil
	}
	return nil, fault.New(fault.Invalid, "this runner has no cluster of its own: %s is not there. Start one by slipway cluster up, name one to the runner by --kubeconfig, or give the step a kubeconfig from a secret", file)
}
