package kube

import (
	"context"

	"k8s.io/client-go/discovery"
)

// Serves returns the version of the API server, such as v1.34.1, and what it serves: groups with their versions, such as
// apps/v1, and kinds in them, such as apps/v1/Deployment. Groups whose own server does not answer are missing.
func (c *Client) Serves(ctx context.Context) (version string, apis []string, err error) {
	server := c.Core.Discovery()
	info, err := server.ServerVersionWithContext(ctx)
	if err != nil {
		return "", nil, err
	}
	groups, lists, err := discovery.ServerGroupsAndResourcesWithContext(ctx, server)
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
		return "", nil, err
	}
	for _, group := range groups {
		for _, version := range group.Versions {
			apis = append(apis, version.GroupVersion)
		}
	}
	for _, list := range lists {
		seen := map[string]bool{}
		for _, resource := range list.APIResources {
			if !seen[resource.Kind] { // subresources have the kind of the resource, or one of their own
				apis = append(apis, list.GroupVersion+"/"+resource.Kind)
			}
			seen[resource.Kind] = true
		}
	}
	return info.GitVersion, apis, nil
}
