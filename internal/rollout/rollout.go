// Package rollout brings objects into a cluster and follows what becomes of them.
//
// [Deploy] is the whole of it: [Prepare] checks the objects against the cluster, [Diff] says what would change, apply
// changes it, [watch] follows the rollout and fails with its cause as soon as failure is certain. [Run] renders manifests
// before that; it is what a deploy step and `slipway deploy` call. What is certain is decided in [diagnose] (of a pod) and in the assess functions
// (of a workload), which are pure; [watcher] reads the cluster for them.
package rollout

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/kube"
	"slipway/internal/manifest"
)

// FieldManager is the name under which Slipway owns the fields that it applies.
const FieldManager = "slipway"

// EnvironmentAnnotation names, on each object, the environment that it was deployed to.
const EnvironmentAnnotation = "slipway/environment"

// DefaultTimeout bounds a rollout for which no other time is given.
const DefaultTimeout = 10 * time.Minute

// Request says what to deploy and where.
type Request struct {
	Client  *kube.Client
	Objects []manifest.Object
	// Namespace is given to objects that name none and belong in one; empty means that of Client.
	Namespace string
	// Environment is the name of the place. In an environment, what leaves the manifests is deleted, releases are
	// recorded, and a failure goes back to the last good one. If it is empty, the objects are applied and that is all.
	Environment string
	// Release says who deploys: Repo, Run, Step, Commit, By and Link are taken from it.
	Release ci.Release
	// KeepFailed leaves a release that failed as it is, instead of going back.
	KeepFailed bool
	// Resumed reports, when the context has ended, whether another process will go on with this deployment, so that it
	// must be left as it is; nil means never.
	Resumed func() bool
	// Policy says how the objects are brought there. Going back to a release follows its record, not the policy's
	// additions.
	Policy ci.Policy
	// Mask hides the values of secrets in what is shown of manifests; nil hides nothing but the values of Secrets.
	Mask func(string) string
	// Secrets are the values of those that Policy names, by these names.
	Secrets map[string]string
	// ProbeLocal lets the probe of the policy send requests to this machine itself.
	ProbeLocal bool
	// Timeout bounds applying and watching together; 0 means [DefaultTimeout].
	Timeout time.Duration
	// Patience says how long to wait for what may still turn out well.
	Patience Patience

	// Picture, if it is set, is shown how far the deployment is, at most twice a second and at its end. It is called by
	// the goroutine of the deployment, and must not keep it waiting.
	Picture func(ci.Rollout)
	// Waits, if it is set, is called when the deployment begins to wait for a pause, for checks or for people, and what it
	// returns when it goes on: that time, which may be days, should not count against limits of the caller.
	Waits func() (over func())

	// manual is set for a rollback by hand: Jobs are not run again.
	manual bool
	// painter makes the pictures; it may be nil.
	painter *painter
	// drain, if it is not nil, is called by watch before the last lines, and the log of what is followed is shown already.
	drain func()
}

// Result is what a deployment did, as far as it came.
type Result struct {
	// Changes lists the objects in the order in which they were applied.
	Changes []Change
	// Pins lists the images that were pinned.
	Pins []manifest.Pin
	// Statuses says of each object that has a rollout how it stood at the end.
	Statuses []Status
	// Release is the record of the release; nil if there is no environment, or it was not begun.
	Release *ci.Release
	// Manifests are the objects of that release, encoded by [release.Encode].
	Manifests []byte
	// Probe is what became of the requests that were sent throughout the rollout; nil if none were.
	Probe *ci.Probed
	// Duration is the time from the first request to the end.
	Duration time.Duration
}

// Deploy applies the objects of r and watches them until all are rolled out, writing a line to out when something
// changes. Its error is a [fault.Error]: Failed if the new version does not work (the sentence has the cause, and says
// whether the old one still serves), any other code if nothing could be rolled out. When ctx is canceled, Deploy returns
// at once and leaves the cluster as it is, but in an environment it goes back to the last good release first. It may be
// repeated: what is as it should be is left alone.
func Deploy(ctx context.Context, r Request, out io.Writer) (Result, error) {
	start := time.Now()
	p := newPrinter(out)
	r.Client.OnWarning(func(text string) { p.linef("warning of the cluster: %s", text) })
	defer r.Client.OnWarning(nil)
	var result Result
	r.Release.Started = start.UTC()
	d := newDeployment(r, p, &result)
	var err error
	if r.Environment != "" {
		err = d.deploy(ctx)
	} else {
		err = d.plain(ctx)
	}
	result.Duration = time.Since(start)
	return result, r.Client.Explain(err)
}

// plain applies and watches the objects without a record.
func (d *deployment) plain(ctx context.Context) error {
	applying, cancel := context.WithDeadline(ctx, d.deadline)
	defer cancel()
	if err := Prepare(applying, d.r); err != nil {
		return stopped(ctx, applying, err, "nothing was applied")
	}
	var differences Differences
	err := retry(applying, d.r.Client, d.p, func() (err error) {
		differences, _, _, err = d.diff(applying)
		return err
	})
	if err != nil {
		return stopped(ctx, applying, err, "nothing was applied")
	}
	if !differences.Empty() {
		differences.write(d.p)
	}
	if err := differences.Err(); err != nil {
		return err
	}
	load, err := d.probe(ctx, differences)
	if err != nil {
		return err
	}
	return load.during(ctx, func(ctx context.Context) error {
		applying, cancel := context.WithDeadline(ctx, d.deadline)
		defer cancel()
		return d.roll(ctx, applying, differences)
	})
}

// stopped says what was left when ctx, or limited with its deadline, ended what failed with err.
func stopped(ctx, limited context.Context, err error, left string) error {
	switch {
	case ctx.Err() != nil:
		return &fault.Error{Code: fault.Failed, Message: "the deployment was canceled; " + left, Err: context.Cause(ctx)}
	case limited.Err() != nil:
		return &fault.Error{Code: fault.Failed, Message: "the time for the deployment was over before all objects were applied; " + left, Err: err}
	}
	return err
}

func applied(changes []Change, all int) string {
	if len(changes) == 0 {
		return "nothing was applied"
	}
	return fmt.Sprintf("%d of %d objects were applied", len(changes), all)
}

// Step is a deployment from the files of a workspace: a deploy step with everything resolved.
type Step struct {
	// Workspace is the folder that Manifests are relative to. It is not trusted.
	Workspace *os.Root
	Manifests []string
	// Namespace is where objects go that name none; empty means that of the kubeconfig.
	Namespace string
	// Environment, Release, KeepFailed, Resumed and Mask are as in [Request].
	Environment string
	Release     ci.Release
	KeepFailed  bool
	Resumed     func() bool
	Mask        func(string) string
	// Images maps names of images in the manifests to references, and Pushed is what the run pushed, oldest first; see
	// [manifest.Images].
	Images map[string]string
	Pushed []ci.Image
	// Variables, Charts and Confidential are as in [manifest.Source]. What Charts says of the cluster is asked there.
	Variables    map[string]string
	Charts       manifest.Charts
	Confidential []string
	// Renderer renders the manifests; nil means [manifest.Render].
	Renderer Renderer
	// Kubeconfig is the content of one from a secret, and not trusted. If it is empty, Client makes the client.
	Kubeconfig []byte
	// Policy, Secrets and ProbeLocal are as in [Request].
	Policy     ci.Policy
	Secrets    map[string]string
	ProbeLocal bool
	// Picture and Waits are as in [Request].
	Picture func(ci.Rollout)
	Waits   func() (over func())
	// Client makes a client of the runner's own cluster, which Run closes; nil means that there is none.
	Client func() (*kube.Client, error)
	// Review makes the namespace as well, and lets [RunTeardown] remove it.
	Review bool
	// Reserved are namespaces that other environments of the repo have for themselves: nothing is deployed there.
	Reserved []ci.Reserved
	// Timeout bounds applying and watching together; 0 means [DefaultTimeout].
	Timeout time.Duration
}

// Run renders the manifests of s and deploys them; see [Deploy], whose errors it returns, and [manifest.Render] for what
// it says of wrong manifests. It writes which images were pinned, what would change, what was applied, and how the
// rollout goes to out.
func Run(ctx context.Context, s Step, out io.Writer) (Result, error) {
	request, pins, err := s.request(ctx, out)
	if err != nil {
		return Result{}, err
	}
	defer request.Client.Close()
	result, err := Deploy(ctx, request, out)
	result.Pins = pins
	return result, err
}

// Preview renders the manifests of s and returns what [Run] would do with them, without doing it; see [Diff]. It writes
// which images were pinned to out.
func Preview(ctx context.Context, s Step, out io.Writer) (Differences, error) {
	request, _, err := s.request(ctx, out)
	if err != nil {
		return nil, err
	}
	defer request.Client.Close()
	return Diff(ctx, request)
}

// request renders the manifests of s, and says where they go. The caller closes the client.
func (s Step) request(ctx context.Context, out io.Writer) (Request, []manifest.Pin, error) {
	rendered, client, err := s.render(ctx)
	if err != nil {
		return Request{}, nil, err
	}
	p := newPrinter(out)
	for _, pin := range rendered.Pins {
		p.linef("%s", pin)
	}
	for _, note := range rendered.Notes {
		p.linef("note: %s", note)
	}
	request := s.bare(client)
	request.Objects = rendered.Objects
	if err := s.keepOut(request); err != nil {
		client.Close()
		return Request{}, nil, err
	}
	if s.Review {
		if request.Objects, err = withNamespace(ctx, request, p); err != nil {
			client.Close()
			return Request{}, nil, err
		}
	}
	return request, rendered.Pins, nil
}

// bare returns the request of s without objects.
func (s Step) bare(client *kube.Client) Request {
	return Request{
		Client:      client,
		Namespace:   s.Namespace,
		Environment: s.Environment,
		Release:     s.Release,
		KeepFailed:  s.KeepFailed,
		Resumed:     s.Resumed,
		Policy:      s.Policy,
		Secrets:     s.Secrets,
		ProbeLocal:  s.ProbeLocal,
		Picture:     s.Picture,
		Waits:       s.Waits,
		Mask:        s.Mask,
		Timeout:     s.Timeout,
	}
}

// client returns the client that s says.
func (s Step) client() (*kube.Client, error) {
	switch {
	case len(s.Kubeconfig) > 0:
		return kube.FromKubeconfig(s.Kubeconfig)
	case s.Client != nil:
		return s.Client()
	}
	return nil, fault.New(fault.Invalid, "there is no cluster to deploy to: this runner has none of its own, so give the step a kubeconfig")
}
