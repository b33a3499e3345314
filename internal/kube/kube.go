// Package kube makes the one Kubernetes client that the rest of Slipway uses.
//
// There are three ways to a [Client]: [FromKubeconfig] for a kubeconfig that somebody stored as a secret, and that must
// not run programs or read files on this machine; [FromFile] for a file of the person who runs Slipway, who is trusted
// like kubectl trusts them; and [InCluster] for the account of the pod that Slipway runs in. [Client.Explain] turns what
// the API server or the way to it answers into a sentence for people.
package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"sync"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"slipway/internal/fault"
)

// MaxKubeconfig is how large a kubeconfig may be, in bytes.
const MaxKubeconfig = 1 << 20

// Client speaks to one API server. It is safe for concurrent use.
type Client struct {
	// Objects reads, writes and watches objects of any kind.
	Objects client.WithWatch
	// Core reads pods, logs and events.
	Core *Typed
	// Mapper tells resources and scopes of kinds. It asks the server when it first meets a group.
	Mapper meta.RESTMapper
	// Host is the address of the API server as configured.
	Host string
	// Namespace is the one that the configuration chose; "default" if it chose none.
	Namespace string

	certificate []byte // the client's, in PEM, or nil
	warnings    *warnings
	disconnect  func() // closes the connections
}

// Close closes the connections; requests that are under way fail. The client can be used again.
func (c *Client) Close() { c.disconnect() }

// FromKubeconfig returns a client for the current context of a kubeconfig that is not trusted: it may hold tokens and
// certificates, but not name files, programs or authentication plugins.
func FromKubeconfig(content []byte) (*Client, error) {
	if len(content) > MaxKubeconfig {
		return nil, fault.New(fault.Invalid, "the kubeconfig is larger than %d KiB", MaxKubeconfig>>10)
	}
	config, err := clientcmd.Load(content)
	if err != nil {
		// The parser's message may quote the content, which is secret.
		return nil, fault.New(fault.Invalid, "the kubeconfig cannot be read: it is not the YAML of a kind Config")
	}
	if err := inline(config); err != nil {
		return nil, err
	}
	return fromConfig(config, "")
}

// inline returns an error if the part of config that would be used refers to anything outside of it.
func inline(config *api.Config) error {
	ctx, ok := config.Contexts[config.CurrentContext]
	if !ok {
		return fault.New(fault.Invalid, "the kubeconfig has no current context; set current-context to one of its contexts")
	}
	refuse := func(what, instead string) error {
		return fault.New(fault.Invalid, "the kubeconfig of a secret may not use %s, because that reaches into the machine that deploys; %s", what, instead)
	}
	if user, ok := config.AuthInfos[ctx.AuthInfo]; ok {
		switch {
		case user.Exec != nil:
			return refuse("exec (a program that gets credentials)", "use the token of a ServiceAccount")
		case user.AuthProvider != nil:
			return refuse("auth-provider", "use the token of a ServiceAccount")
		case user.TokenFile != "":
			return refuse("tokenFile", "put the token itself into token")
		case user.ClientCertificate != "":
			return refuse("client-certificate", "put the certificate itself into client-certificate-data (kubectl config view --flatten does that)")
		case user.ClientKey != "":
			return refuse("client-key", "put the key itself into client-key-data (kubectl config view --flatten does that)")
		}
	}
	cluster, ok := config.Clusters[ctx.Cluster]
	switch {
	case !ok || cluster.Server == "":
		return fault.New(fault.Invalid, "the kubeconfig does not say where the cluster of its current context is; set server")
	case cluster.CertificateAuthority != "":
		return refuse("certificate-authority", "put the certificate itself into certificate-authority-data (kubectl config view --flatten does that)")
	}
	return nil
}

// FromFile returns a client for a context of a kubeconfig file, as kubectl would: an empty path means $KUBECONFIG or
// ~/.kube/config, an empty context the current one. The file is trusted.
func FromFile(path, context string) (*Client, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = path
	config, err := rules.Load()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fault.New(fault.NotFound, "there is no kubeconfig at %s", path)
	case err != nil:
		return nil, fault.New(fault.Invalid, "read the kubeconfig: %w", err)
	}
	return fromConfig(config, context)
}

func fromConfig(config *api.Config, context string) (*Client, error) {
	overrides := &clientcmd.ConfigOverrides{CurrentContext: context}
	chosen := clientcmd.NewDefaultClientConfig(*config, overrides)
	restConfig, err := chosen.ClientConfig()
	switch {
	case clientcmd.IsEmptyConfig(err):
		return nil, fault.New(fault.Invalid, "there is no cluster to deploy to: no kubeconfig was given, and neither $KUBECONFIG nor ~/.kube/config has one")
	case err != nil:
		return nil, fault.New(fault.Invalid, "the kubeconfig cannot be used: %w", err)
	}
	namespace, _, err := chosen.Namespace()
	if err != nil {
		return nil, fault.New(fault.Invalid, "the kubeconfig cannot be used: %w", err)
	}
	return newClient(restConfig, namespace)
}

// Default returns a client for whoever runs this process: of a kubeconfig file if path or $KUBECONFIG names one, else of
// the pod that it runs in, else of ~/.kube/config. An empty context means the current one.
func Default(path, context string) (*Client, error) {
	if path == "" && context == "" && os.Getenv(clientcmd.RecommendedConfigPathEnvVar) == "" && os.Getenv("KUBERNETES_SERVICE_HOST") != "" {
		return InCluster()
	}
	return FromFile(path, context)
}

// InCluster returns a client for the account of the pod that this process runs in.
func InCluster() (*Client, error) {
	config, err := rest.InClusterConfig()
	if err != nil {
		return nil, fault.New(fault.Invalid, "there is no cluster to deploy to: this process does not run in a pod, and no kubeconfig was given: %w", err)
	}
	return newClient(config, "default")
}

// silence gives controller-runtime a logger, once, because setting it is not safe for concurrent use. Without one it prints
// a stack trace to standard error after a while; all that it would log of a client is returned as an error, too.
var silence = sync.OnceFunc(func() { log.SetLogger(logr.Discard()) })

func newClient(config *rest.Config, namespace string) (*Client, error) {
	c := &Client{Host: config.Host, Namespace: namespace, certificate: config.CertData, warnings: &warnings{}}
	silence()
	config.UserAgent = "slipway"
	config.WarningHandler = c.warnings
	// The API server has its own queues; these only keep a mistake of ours from flooding it. Requests per second.
	config.QPS, config.Burst = 1000, 2000
	httpClient, disconnect, err := newHTTPClient(config)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the kubeconfig cannot be used: %w", err)
	}
	c.disconnect = disconnect
	if c.Mapper, err = apiutil.NewDynamicRESTMapper(config, httpClient); err != nil {
		return nil, fmt.Errorf("make a REST mapper: %w", err)
	}
	if c.Objects, err = client.NewWithWatch(config, client.Options{HTTPClient: httpClient, Mapper: c.Mapper, Scheme: scheme.Scheme}); err != nil {
		return nil, fmt.Errorf("make a Kubernetes client: %w", err)
	}
	if c.Core, err = newTyped(config, httpClient); err != nil {
		return nil, fmt.Errorf("make a Kubernetes client: %w", err)
	}
	return c, nil
}

// OnWarning has f called for each warning of the API server, such as that a version is deprecated; a warning that was
// given before is left out. f is not called concurrently.
func (c *Client) OnWarning(f func(text string)) { c.warnings.set(f) }

// host returns the host and port of the API server.
func (c *Client) host() string {
	if u, err := url.Parse(c.Host); err == nil && u.Host != "" {
		return u.Host
	}
	return c.Host
}

// warnings implements [rest.WarningHandler].
type warnings struct {
	mu   sync.Mutex
	f    func(string)
	seen map[string]bool
}

func (w *warnings) set(f func(string)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.f, w.seen = f, map[string]bool{}
}

// HandleWarningHeader implements [rest.WarningHandler].
func (w *warnings) HandleWarningHeader(code int, _ string, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	// 299 is the only code that Kubernetes sends.
	if code != 299 || text == "" || w.f == nil || w.seen[text] {
		return
	}
	w.seen[text] = true
	w.f(text)
}

// Version returns the version of the API server, such as v1.34.1.
func (c *Client) Version(ctx context.Context) (string, error) {
	data, err := c.Core.Discovery().RESTClient().Get().AbsPath("/version").DoRaw(ctx)
	if err != nil {
		return "", err
	}
	var info struct {
		GitVersion string `json:"gitVersion"`
	}
	if err := json.Unmarshal(data, &info); err != nil {
		return "", fmt.Errorf("read the version of the API server: %w", err)
	}
	return info.GitVersion, nil
}
