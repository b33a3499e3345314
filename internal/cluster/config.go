package cluster

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

// pauseImage is the image of pods' sandboxes. It is made on this machine, never pulled.
const pauseImage = "slipway.internal/pause:1"

// settings are what the configuration of the components depends on.
type settings struct {
	layout  layout
	network network
	machine machine
}

// files that are rendered to the folder config. %s in a path is no wildcard: they are listed one by one.
var configFiles = map[string]*template.Template{
	"containerd.toml":     parse(containerdTemplate),
	"cni.conflist":        parse(cniTemplate),
	"kubelet.yaml":        parse(kubeletTemplate),
	"proxy.yaml":          parse(proxyTemplate),
	"authentication.yaml": parse(authenticationTemplate),
	"Corefile":            parse(corefileTemplate),
}

func parse(text string) *template.Template {
	return template.Must(template.New("").Option("missingkey=error").Parse(strings.TrimLeft(text, "\n")))
}

// No plugin that a pod's container needs is left out; those that are would only look for other file systems, or make
// folders outside of the cluster's.
const containerdTemplate = `
version = 3
root = {{printf "%q" .Root}}
state = {{printf "%q" .State}}
disabled_plugins = [
  "io.containerd.snapshotter.v1.blockfile", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.erofs", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt",
  "io.containerd.nri.v1.nri", "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
  address = {{printf "%q" .Socket}}

[plugins."io.containerd.cri.v1.images"]
  snapshotter = {{printf "%q" .Snapshotter}}
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = {{printf "%q" .Pause}}
  [plugins."io.containerd.cri.v1.images".registry]
    config_path = {{printf "%q" .Registries}}

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = {{.RestrictOOM}}
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = [{{printf "%q" .Bin}}]
    conf_dir = {{printf "%q" .CNI}}
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        BinaryName = {{printf "%q" .Runc}}
        SystemdCgroup = false
`

// A link per pod and routes between them, not a bridge: a bridge would carry an answer from pod to pod past the rules
// that translate a Service's address, unless the kernel module br_netfilter is there. The node translates addresses
// towards other machines by itself, see firewallRules.
const cniTemplate = `
{
  "cniVersion": "1.0.0",
  "name": {{printf "%q" .ID}},
  "plugins": [
    {
      "type": "ptp",
      "ipMasq": false,
      "ipam": {"type": "host-local", "ranges": [[{"subnet": {{printf "%q" .Pods}}}]], "dataDir": {{printf "%q" .Leases}}, "routes": [{"dst": "0.0.0.0/0"}]}
    },
    {"type": "portmap", "capabilities": {"portMappings": true}, "backend": "nftables"}
  ]
}
`

const kubeletTemplate = `
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {{.Node}}
healthzBindAddress: 127.0.0.1
readOnlyPort: 0
tlsCertFile: {{printf "%q" .KubeletCert}}
tlsPrivateKeyFile: {{printf "%q" .KubeletKey}}
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: {{printf "%q" .CA}}}
authorization: {mode: Webhook}
containerRuntimeEndpoint: {{printf "unix://%s" .Socket | printf "%q"}}
podLogsDir: {{printf "%q" .PodLogs}}
resolvConf: {{printf "%q" .ResolvConf}}
clusterDomain: cluster.local
clusterDNS: [{{.Node}}]
cgroupDriver: cgroupfs
cgroupRoot: /{{.ID}}
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
oomScoreAdj: {{.OOMScoreAdj}}
makeIPTablesUtilChains: false
# This is one machine that its user needs for other things as well: nothing is evicted or thrown away for lack of space.
localStorageCapacityIsolation: false
evictionHard: {}
imageGCHighThresholdPercent: 100
maxPods: 500
serializeImagePulls: false
registryPullQPS: 0
eventRecordQPS: 0
`

const proxyTemplate = `
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: {{printf "%q" .ProxyKubeconfig}}}
mode: nftables
bindAddress: {{.Node}}
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
nodePortAddresses: [primary]
detectLocalMode: ClusterCIDR
clusterCIDR: {{.Pods}}
oomScoreAdj: {{.OOMScoreAdj}}
# Zero means: leave the machine's own settings alone.
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
nftables: {syncPeriod: 30s, minSyncPeriod: 0s}
`

const authenticationTemplate = `
apiVersion: apiserver.config.k8s.io/v1beta1
kind: AuthenticationConfiguration
anonymous:
  enabled: true
  conditions: [{path: /livez}, {path: /readyz}, {path: /healthz}]
`

// CoreDNS is started with the node, not as a pod: it needs no image. It answers the pods at the node's address.
const corefileTemplate = `
.:53 {
    bind {{.Node}}
    errors
    ready 127.0.0.1:8181
    kubernetes cluster.local in-addr.arpa {
        kubeconfig {{.DNSKubeconfig}}
        fallthrough in-addr.arpa
        ttl 5
    }
    forward . {{.ResolvConf}}
    cache 30 {
        disable success cluster.local
        disable denial cluster.local
    }
}
{{- if .LoopbackResolver}}
# The machine's own resolver listens on its loopback, which the node does not share. containerd looks for it there.
.:53 {
    bind {{.LoopbackResolver}}
    errors
    forward . {{.ResolvConf}}
}
{{- end}}
`

// render gives every configuration file by name.
func (s settings) render() (map[string][]byte, error) {
	l, n, m := s.layout, s.network, s.machine
	oom := -999
	if m.restrictOOM {
		oom = 0
	}
	values := map[string]any{
		"ID": l.id, "Root": l.in("containerd"), "State": l.run("containerd"), "Socket": l.socket(), "Bin": l.bin,
		"Runc": l.program("runc"), "Snapshotter": m.snapshotter, "Pause": pauseImage, "Registries": l.in("registries"),
		"RestrictOOM": m.restrictOOM, "OOMScoreAdj": oom,
		"CNI": l.in("config", "cni"), "Leases": l.run("leases"), "Pods": n.pods(), "Node": n.node(),
		"KubeletCert": l.in("pki", "kubelet-server.crt"), "KubeletKey": l.in("pki", "kubelet-server.key"), "CA": l.in("pki", "ca.crt"),
		"PodLogs": l.in("pods"), "ProxyKubeconfig": l.in("config", "proxy.kubeconfig"), "DNSKubeconfig": l.in("config", "dns.kubeconfig"),
		"ResolvConf": m.resolvConf, "LoopbackResolver": m.loopbackResolver,
	}
	files := map[string][]byte{}
	for name, t := range configFiles {
		var b bytes.Buffer
		if err := t.Execute(&b, values); err != nil {
			return nil, fmt.Errorf("render %s: %w", name, err)
		}
		files[name] = b.Bytes()
	}
	return files, nil
}

// writeConfig writes configuration and kubeconfigs.
func (s settings) writeConfig() error {
	l := s.layout
	if err := os.MkdirAll(l.in("config", "cni"), 0o700); err != nil {
		return fmt.Errorf("make the folder of the configuration: %w", err)
	}
	files, err := s.render()
	if err != nil {
		return err
	}
	for name, content := range files {
		path := l.in("config", name)
		if name == "cni.conflist" {
			path = l.in("config", "cni", "10-slipway.conflist")
		}
		if err := writeFile(path, content, 0o600); err != nil {
			return err
		}
	}
	for _, name := range []string{"controller-manager", "scheduler", "kubelet", "proxy", "dns"} {
		content, err := kubeconfig(l.in("pki"), name, s.network.server())
		if err != nil {
			return err
		}
		if err := writeFile(l.in("config", name+".kubeconfig"), content, 0o600); err != nil {
			return err
		}
	}
	admin, err := kubeconfig(l.in("pki"), "admin", s.network.server())
	if err != nil {
		return err
	}
	return writeFile(l.kubeconfig(), admin, 0o600)
}

// kubeconfig renders a kubeconfig that holds the named certificate.
func kubeconfig(pki, name, server string) ([]byte, error) {
	var inline [3]string
	for i, file := range []string{"ca.crt", name + ".crt", name + ".key"} {
		b, err := os.ReadFile(filepath.Join(pki, file))
		if err != nil {
			return nil, fmt.Errorf("make a kubeconfig: %w", err)
		}
		inline[i] = base64.StdEncoding.EncodeToString(b)
	}
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters:
- name: slipway
  cluster: {server: %q, certificate-authority-data: %s}
users:
- name: %s
  user: {client-certificate-data: %s, client-key-data: %s}
contexts:
- name: slipway
  context: {cluster: slipway, user: %s}
current-context: slipway
`, server, inline[0], name, inline[1], inline[2], name), nil
}

// bootstrapObjects are the rights of the two users that upstream knows nothing about, by the path of each object.
var bootstrapObjects = []struct{ path, yaml string }{
	{"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/slipway:apiserver", `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "slipway:apiserver"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:kubelet-api-admin"}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: "` + userAPIServer + `"}]
`},
	{"/apis/rbac.authorization.k8s.io/v1/clusterroles/slipway:dns", `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: "slipway:dns"}
rules:
- {apiGroups: [""], resources: [services, namespaces], verbs: [list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}
`},
	{"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/slipway:dns", `
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: "slipway:dns"}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "slipway:dns"}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: "` + userDNS + `"}]
`},
}
