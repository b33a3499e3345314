package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"slipway/internal/api"
	"slipway/internal/ci"
	"slipway/internal/client"
	"slipway/internal/fault"
	"slipway/internal/kube"
	"slipway/internal/trace"
)

// newTraceCommand returns `slipway trace`.
func newTraceCommand() *cobra.Command {
	var at connection
	var kubeconfig, context, namespace string
	cmd := &cobra.Command{
		Use:   "trace POD|WORKLOAD|IMAGE|URL",
		Short: "Follow what runs back to its release, run, commit and author",
		Long: `Follow what runs back to its release, run, commit and author:

  slipway trace pod/web-6d5f9-x7k2p -n shop       a pod, or any other object: deployment/web, sts/db, ingress/shop
  slipway trace https://shop.example.com/cart     an address: by Ingresses, HTTPRoutes and Services to the pods behind it
  slipway trace registry.example.com/team/web@sha256:620d…   an image, or its digest alone: where it was deployed

It reads the cluster, which keeps the newest releases of each environment. Who is logged in (slipway login) is also
told what only the server knows: which run pushed an image, and the address of an environment in another cluster.

Exit codes: 4 if the trail ends before a release; what was found until then is printed.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			tracer := tracing{namespace: namespace}
			server, err := at.open()
			if err != nil {
				return err
			}
			if server.Token != "" {
				tracer.server = server
			}
			c, err := kube.Default(kubeconfig, context)
			if err == nil {
				defer c.Close()
				tracer.cluster = &trace.Tracer{Client: c}
				tracer.namespaceOrDefault = cmp.Or(namespace, c.Namespace)
			} else if tracer.server == nil {
				return err
			} else {
				tracer.note("the cluster is not asked: %s", fault.Of(err).Message)
			}
			found, err := tracer.trace(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if at.json {
				if err := printJSON(cmd.OutOrStdout(), found); err != nil {
					return err
				}
			} else {
				found.write(cmd.OutOrStdout())
			}
			if !slices.ContainsFunc(found.Trails, func(t traced) bool { return t.Release != nil }) && len(found.Pushed) == 0 {
				return &fault.Error{Code: fault.NotFound} // all is said
			}
			return nil
		},
	}
	at.register(cmd.Flags())
	cmd.Flags().BoolVar(&at.json, "json", false, "print JSON")
	registerCluster(cmd, &kubeconfig, &context)
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "namespace of the object; of an image, where to look (default: that of the kubeconfig; for images, all)")
	return cmd
}

// tracing is how one trace goes: by the cluster, by the server, or by both. One of them may be nil.
type tracing struct {
	cluster                       *trace.Tracer
	server                        *client.Client
	namespace, namespaceOrDefault string
	notes                         []string
}

// found is all that a trace found.
type found struct {
	Trails []traced `json:"trails"`
	// Pushed are the runs that pushed an image.
	Pushed []pushed `json:"pushed,omitempty"`
	Notes  []string `json:"notes,omitempty"`
}

// traced is a trail with what the server knows of its run.
type traced struct {
	trace.Trail
	// Author is who wrote the commit, CommitLink its page at the forge.
	Author     string `json:"author,omitempty"`
	CommitLink string `json:"commit_link,omitempty"`
}

// pushed is a run that pushed an image.
type pushed struct {
	Repo   string `json:"repo"`
	Run    int64  `json:"run"`
	Ref    string `json:"ref"`
	Digest string `json:"digest"`
	Commit string `json:"commit"`
	Title  string `json:"title"`
	Author string `json:"author"`
}

func (t *tracing) note(format string, args ...any) {
	if sentence := fmt.Sprintf(format, args...); !slices.Contains(t.notes, sentence) {
		t.notes = append(t.notes, sentence)
	}
}

// trace follows what somebody named.
func (t *tracing) trace(ctx context.Context, what string) (f found, err error) {
	address, _ := url.Parse(what)
	kind, name, isObject := strings.Cut(what, "/")
	isObject = isObject && !strings.ContainsAny(name, "/:@") && (trace.Known(kind) || strings.Contains(kind, ".") && t.cluster != nil && !strings.Contains(what, ":"))
	var trails []trace.Trail
	switch {
	case address != nil && (address.Scheme == "http" || address.Scheme == "https") && address.Host != "":
		trails, err = t.url(ctx, address)
	case isObject && t.cluster == nil:
		return f, fault.New(fault.Unavailable, "%s is in a cluster, and none can be asked; name one by --kubeconfig", what)
	case isObject:
		var trail trace.Trail
		trail, err = t.cluster.Object(ctx, t.namespaceOrDefault, kind, name)
		trails = []trace.Trail{trail}
		if err != nil && fault.Of(err).Code == fault.Invalid { // it looks like kind.group/name, and may be the name of an image
			trails, f.Pushed, err = t.image(ctx, what)
		}
	default:
		trails, f.Pushed, err = t.image(ctx, what)
	}
	if err != nil {
		return f, err
	}
	f.Trails = []traced{}
	for _, trail := range trails {
		f.Trails = append(f.Trails, t.enrich(ctx, trail))
	}
	f.Notes = t.notes
	return f, nil
}

// url follows an address: in the cluster, or as the address that an environment has at the server.
func (t *tracing) url(ctx context.Context, address *url.URL) ([]trace.Trail, error) {
	var missing error
	if t.cluster != nil {
		trails, err := t.cluster.URL(ctx, address)
		if err == nil || fault.Of(err).Code != fault.NotFound {
			return trails, err
		}
		missing = err
	}
	trails, err := t.environmentAt(ctx, address)
	switch {
	case err != nil:
		return nil, err
	case len(trails) == 0 && missing != nil:
		return nil, missing
	case len(trails) == 0:
		return nil, fault.New(fault.NotFound, "no environment that the server knows has the address %s; name a cluster by --kubeconfig to look at its Ingresses", address)
	}
	return trails, nil
}

// environmentAt returns trails for the environments whose URL the address is below.
func (t *tracing) environmentAt(ctx context.Context, address *url.URL) (trails []trace.Trail, err error) {
	if t.server == nil {
		return nil, nil
	}
	repos, err := t.server.Repos(ctx)
	if err != nil {
		return nil, err
	}
	for _, repo := range repos {
		environments, err := t.server.Environments(ctx, repo.Name)
		if err != nil {
			return nil, err
		}
		reviews, err := t.server.Reviews(ctx, repo.Name)
		if err != nil {
			return nil, err
		}
		at := map[string]string{}
		for _, e := range environments {
			at[e.Name] = e.URL
		}
		for _, r := range reviews {
			at[r.Name] = r.URL
		}
		for name, root := range at {
			if !serves(root, address) {
				continue
			}
			releases, err := t.server.Releases(ctx, repo.Name, api.ReleaseListing{Environment: name, Limit: 100})
			if err != nil {
				return nil, err
			}
			trails = append(trails, serving(repo.Name, name, "the URL of the environment, "+root, releases))
		}
	}
	return trails, nil
}

// serves reports whether an address is at or below a root.
func serves(root string, address *url.URL) bool {
	u, err := url.Parse(root)
	if err != nil || u.Host == "" || !strings.EqualFold(u.Hostname(), address.Hostname()) {
		return false
	}
	prefix := strings.TrimSuffix(u.Path, "/")
	return prefix == "" || address.Path == prefix || strings.HasPrefix(address.Path, prefix+"/")
}

// serving is the trail of an environment of which only the server's releases are known, newest first.
func serving(repo, environment, step string, releases []ci.Release) trace.Trail {
	trail := trace.Trail{Steps: []string{step}, Repo: repo, Environment: environment}
	for i, r := range releases {
		if r.Status == ci.Success {
			trail.Release, trail.Serves, trail.Namespace = &releases[i], r.Number, r.Namespace
			return trail
		}
	}
	trail.End = "nothing was deployed to " + environment + " with success yet"
	return trail
}

// image looks for an image: in the releases of the cluster, and, at the server, for who pushed it.
func (t *tracing) image(ctx context.Context, image string) (trails []trace.Trail, by []pushed, err error) {
	wanted := []string{image}
	if t.server != nil {
		if by, err = t.pushedBy(ctx, image); err != nil {
			t.note("the server was not asked: %s", fault.Of(err).Message)
		}
		for _, p := range by { // releases name images by digest
			if !slices.Contains(wanted, p.Digest) {
				wanted = append(wanted, p.Digest)
			}
		}
	}
	for _, image := range wanted {
		found, err := t.deployed(ctx, image)
		if err != nil {
			return nil, nil, err
		}
		for _, trail := range found {
			if !slices.ContainsFunc(trails, func(other trace.Trail) bool { return other.Title() == trail.Title() }) {
				trails = append(trails, trail)
			}
		}
	}
	if len(trails)+len(by) > 0 {
		return trails, by, nil
	}
	hint := "give its digest, because releases name images by that"
	switch {
	case strings.Contains(image, "sha256:") && t.server == nil:
		hint = "log in (slipway login) to ask the server, too, which runs pushed it"
	case strings.Contains(image, "sha256:"):
		hint = "and no run pushed it; it is from elsewhere, or its release is too old"
	case t.server == nil:
		hint += ", or log in (slipway login) so that the server can say what was pushed under this name"
	}
	return nil, nil, fault.New(fault.NotFound, "no release uses the image %s: %s", image, hint)
}

// deployed returns where an image was deployed, by the cluster or else by the server.
func (t *tracing) deployed(ctx context.Context, image string) (trails []trace.Trail, err error) {
	if t.cluster != nil {
		return t.cluster.Image(ctx, t.namespace, image)
	}
	releases, err := t.server.Releases(ctx, "", api.ReleaseListing{Image: image, Namespace: t.namespace, Limit: 100})
	if err != nil {
		return nil, err
	}
	for i, r := range releases {
		trail := trace.Trail{Repo: r.Repo, Environment: r.Environment, Namespace: r.Namespace, Release: &releases[i], Steps: []string{trace.Uses(r, image)}}
		if !slices.ContainsFunc(trails, func(other trace.Trail) bool { return other.Title() == trail.Title() }) {
			trails = append(trails, trail)
		}
	}
	return trails, nil
}

// pushedBy returns the newest runs that pushed an image.
func (t *tracing) pushedBy(ctx context.Context, image string) (all []pushed, err error) {
	wanted := image
	if _, digest, ok := strings.Cut(image, "@"); ok {
		wanted = digest
	}
	runs, err := t.server.RunsOfImage(ctx, wanted)
	if err != nil {
		return nil, err
	}
	for _, listed := range runs[:min(len(runs), 5)] {
		run, err := t.server.Run(ctx, listed.Repo, listed.Number)
		if err != nil {
			return nil, err
		}
		for _, pushedImage := range run.Images {
			if pushedImage.Ref == wanted || pushedImage.Digest == wanted {
				all = append(all, pushed{
					Repo: run.Repo, Run: run.Number, Ref: pushedImage.Ref, Digest: pushedImage.Digest, Commit: run.Event.After,
					Title: run.Event.Commit.Title(), Author: signature(run.Event.Commit.Author),
				})
				break
			}
		}
	}
	return all, nil
}

// enrich adds what the server knows of the run of a trail.
func (t *tracing) enrich(ctx context.Context, trail trace.Trail) traced {
	found := traced{Trail: trail}
	if trail.Release == nil {
		return found
	}
	found.Author = trail.Release.Author
	if t.server == nil || trail.Release.Run == 0 || trail.Release.Of != 0 {
		return found
	}
	run, err := t.server.Run(ctx, trail.Repo, trail.Release.Run)
	switch {
	case err != nil && fault.Of(err).Code == fault.NotFound: // another server's, or of a lost database
		t.note("the server at %s does not know run %d of %s", t.server.URL, trail.Release.Run, trail.Repo)
	case err != nil:
		t.note("the server was not asked: %s", fault.Of(err).Message)
	case run.Event.After == trail.Release.Commit:
		r := *trail.Release
		r.Title = cmp.Or(r.Title, run.Event.Commit.Title())
		found.Release = &r
		found.Author = cmp.Or(signature(run.Event.Commit.Author), found.Author)
		found.CommitLink = cmp.Or(run.Event.Commit.Link, run.Event.Link)
	}
	return found
}

// signature names a person in full.
func signature(s ci.Signature) string {
	name := cmp.Or(s.Name, s.Login)
	if s.Email != "" {
		name += " <" + s.Email + ">"
	}
	return strings.TrimSpace(name)
}

// write tells people what was found.
func (f found) write(w io.Writer) {
	for i, t := range f.Trails {
		if i > 0 {
			fmt.Fprintln(w)
		}
		for _, step := range t.Steps {
			fmt.Fprintln(w, step)
		}
		if title := t.Title(); title != "" {
			fmt.Fprintln(w, title)
		}
		if t.Release != nil {
			t.writeRelease(w)
		} else {
			fmt.Fprintf(w, "the trail ends here: %s\n", t.End)
		}
	}
	for _, p := range f.Pushed {
		fmt.Fprintf(w, "pushed by run %d of %s as %s\n  digest    %s\n  commit    %s %s\n  author    %s\n", p.Run, p.Repo, p.Ref, p.Digest, p.Commit, p.Title, p.Author)
	}
	for _, note := range f.Notes {
		fmt.Fprintf(w, "note: %s\n", note)
	}
}

func (t traced) writeRelease(w io.Writer) {
	r := *t.Release
	standing := string(cmp.Or(r.Status, "under way"))
	switch {
	case t.Serves == r.Number:
		standing += ", it serves"
	case t.Serves > 0:
		standing += fmt.Sprintf(", but release %d serves", t.Serves)
	}
	fmt.Fprintf(w, "release %d: %s\n", r.Number, standing)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "  %-9s %s\n", name, value)
		}
	}
	line("since", when(r.Finished))
	if r.Run > 0 {
		line("run", strings.TrimSpace(fmt.Sprintf("%d, step %s %s", r.Run, r.Step, r.Link)))
	}
	line("commit", strings.TrimSpace(r.Commit+" "+r.Title))
	line("", t.CommitLink)
	line("author", t.Author)
	line("by", r.By)
	if r.Of > 0 {
		line("repeats", fmt.Sprintf("release %d: it was rolled back", r.Of))
	}
}
