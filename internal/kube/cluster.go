package kube

// Cluster is a cluster that a server knows.
type Cluster struct {
	// Name is empty for the one that the server's own runner deploys to.
	Name string
	// Repos are those whose environments are there; nil means that anybody's may be.
	Repos []string
	// Client is nil if there is no way to the cluster, and then Err says why.
	Client *Client
	Err    error
}

// String names the cluster for people.
func (c Cluster) String() string {
	if c.Name == "" {
		return "the runner's own cluster"
	}
	return "the cluster " + c.Name
}
