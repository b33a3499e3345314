package rollout

import (
	"cmp"
	"context"

	"slipway/internal/kube"
	"slipway/internal/manifest"
)

// Renderer makes objects of manifests: [manifest.Render], or that in a process of its own (package manifest/sandbox).
type Renderer func(context.Context, manifest.Source) (manifest.Rendered, error)

// render renders the manifests of s. For a Helm chart it asks the cluster before, for what charts know of it. The caller
// closes the client, which is nil if there is an error.
func (s Step) render(ctx context.Context) (manifest.Rendered, *kube.Client, error) {
	source := manifest.Source{
		Root:         s.Workspace,
		Paths:        s.Manifests,
		Namespace:    s.Namespace,
		Variables:    s.Variables,
		Charts:       s.Charts,
		Confidential: s.Confidential,
		Images:       manifest.Images{Named: s.Images, Pushed: s.Pushed},
	}
	renderer := s.Renderer
	if renderer == nil {
		renderer = manifest.Render
	}
	if !manifest.HasChart(source) { // what is wrong with the manifests is said without a cluster
		rendered, err := renderer(ctx, source)
		if err != nil {
			return manifest.Rendered{}, nil, err
		}
		client, err := s.client()
		return rendered, client, err
	}
	client, err := s.client()
	if err != nil {
		return manifest.Rendered{}, nil, err
	}
	err = s.askCluster(ctx, client, &source)
	var rendered manifest.Rendered
	if err == nil {
		rendered, err = renderer(ctx, source)
	}
	if err != nil {
		client.Close()
		return manifest.Rendered{}, nil, client.Explain(err)
	}
	return rendered, client, nil
}

// askCluster fills in what Helm charts are told of the cluster and of the environment.
func (s Step) askCluster(ctx context.Context, client *kube.Client, source *manifest.Source) (err error) {
	source.Namespace = cmp.Or(s.Namespace, client.Namespace)
	if source.Charts.KubeVersion, source.Charts.APIVersions, err = client.Serves(ctx); err != nil || s.Environment == "" {
		return err
	}
	state, err := Request{Client: client, Namespace: s.Namespace, Environment: s.Environment, Release: s.Release}.place().Load(ctx)
	source.Charts.Upgrade = state.Current > 0
	return err
}
