package kube

// Cluster is a cluster that a server knows.
type Cluster struct {
	// Name is empty for the one that the server's own runner deploys to.
	Name string
	// Repos are those whose environments are there; nil means that anybody's may be.
	Repos []string
	// Namespaces are those that are known to belong to environments, for accounts that may not look at all.
	Namespaces []string
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

// Own returns the namespaces to ask for when the account may not look at all: those that are known, or else that of the
// kubeconfig.
func (c Cluster) Own() []string {
	if len(c.Namespaces) == 0 && c.Client != nil {
		return []string{c.Client.Namespace}
	}
	return c.Namespaces
}
