package cluster

import (
	"context"
	"net"
	"path/filepath"
	"strings"
)

// A component is one long-lived program of the cluster.
type component struct {
	name    string
	program string // file name in the folder of the binaries
	args    []string
	// probe answers nil once the component does its work.
	probe func(context.Context) error
}

// components lists them in the order in which they start. The stages say what can start side by side: a component may
// need those of earlier stages.
func (l layout) components(n network, k *kube) [][]component {
	pki := func(name string) string { return l.in("pki", name) }
	config := func(name string) string { return l.in("config", name) }
	kubeconfig := func(name string) string { return l.in("config", name+".kubeconfig") }
	const etcd, etcdPeer = "https://127.0.0.1:2379", "https://127.0.0.1:2380"

	return [][]component{
		{
			{
				name: "containerd", program: "containerd",
				args:  []string{"--config", config("containerd.toml")},
				probe: func(ctx context.Context) error { return dialUnix(ctx, l.socket()) },
			},
			{
				name: "etcd", program: "etcd",
				args: []string{
					"--name=" + nodeName, "--data-dir=" + l.in("etcd"), "--log-level=warn",
					// A cluster on one machine, for trying out and for tests: a power failure may cost it, and then it is made anew.
					"--unsafe-no-fsync",
					"--listen-client-urls=" + etcd, "--advertise-client-urls=" + etcd,
					"--listen-peer-urls=" + etcdPeer, "--initial-advertise-peer-urls=" + etcdPeer, "--initial-cluster=" + nodeName + "=" + etcdPeer,
					"--client-cert-auth", "--trusted-ca-file=" + pki("etcd-ca.crt"), "--cert-file=" + pki("etcd.crt"), "--key-file=" + pki("etcd.key"),
					"--peer-client-cert-auth", "--peer-trusted-ca-file=" + pki("etcd-ca.crt"), "--peer-cert-file=" + pki("etcd.crt"), "--peer-key-file=" + pki("etcd.key"),
				},
				probe: func(ctx context.Context) error {
					return l.httpProbe(ctx, etcd+"/health", "etcd-ca.crt", "apiserver-etcd")
				},
			},
		},
		{{
			name: "kube-apiserver", program: "kube-apiserver",
			args: []string{
				"--bind-address=" + n.node().String(), "--advertise-address=" + n.node().String(), "--secure-port=6443",
				"--etcd-servers=" + etcd, "--etcd-cafile=" + pki("etcd-ca.crt"), "--etcd-certfile=" + pki("apiserver-etcd.crt"), "--etcd-keyfile=" + pki("apiserver-etcd.key"),
				"--service-cluster-ip-range=" + n.services().String(),
				"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
				"--service-account-key-file=" + pki("service-account.pub"), "--service-account-signing-key-file=" + pki("service-account.key"),
				"--tls-cert-file=" + pki("apiserver.crt"), "--tls-private-key-file=" + pki("apiserver.key"), "--client-ca-file=" + pki("ca.crt"),
				"--kubelet-certificate-authority=" + pki("ca.crt"), "--kubelet-client-certificate=" + pki("apiserver-kubelet.crt"), "--kubelet-client-key=" + pki("apiserver-kubelet.key"),
				"--kubelet-preferred-address-types=InternalIP",
				"--requestheader-client-ca-file=" + pki("front-proxy-ca.crt"), "--requestheader-allowed-names=front-proxy",
				"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
				"--proxy-client-cert-file=" + pki("front-proxy.crt"), "--proxy-client-key-file=" + pki("front-proxy.key"),
				"--authorization-mode=Node,RBAC", "--authentication-config=" + config("authentication.yaml"),
				"--enable-admission-plugins=NodeRestriction", "--allow-privileged=true", "--profiling=false",
			},
			probe: func(ctx context.Context) error { return k.get(ctx, "/readyz", nil) },
		}},
		{
			{
				name: "kube-controller-manager", program: "kube-controller-manager",
				args: []string{
					"--kubeconfig=" + kubeconfig("controller-manager"), "--authentication-kubeconfig=" + kubeconfig("controller-manager"), "--authorization-kubeconfig=" + kubeconfig("controller-manager"),
					"--bind-address=127.0.0.1", "--tls-cert-file=" + pki("loopback-server.crt"), "--tls-private-key-file=" + pki("loopback-server.key"),
					"--use-service-account-credentials", "--service-account-private-key-file=" + pki("service-account.key"), "--root-ca-file=" + pki("ca.crt"),
					"--cluster-signing-cert-file=" + pki("ca.crt"), "--cluster-signing-key-file=" + pki("ca.key"),
					"--cluster-cidr=" + n.pods().String(), "--allocate-node-cidrs=false", "--leader-elect=false", "--profiling=false",
					// Upstream's limit, 20 requests a second, is what it takes 5 seconds to start its controllers by.
					"--kube-api-qps=500", "--kube-api-burst=1000",
				},
				probe: func(ctx context.Context) error {
					return l.httpProbe(ctx, "https://127.0.0.1:10257/healthz", "ca.crt", "")
				},
			},
			{
				name: "kube-scheduler", program: "kube-scheduler",
				args: []string{
					"--kubeconfig=" + kubeconfig("scheduler"), "--authentication-kubeconfig=" + kubeconfig("scheduler"), "--authorization-kubeconfig=" + kubeconfig("scheduler"),
					"--bind-address=127.0.0.1", "--tls-cert-file=" + pki("loopback-server.crt"), "--tls-private-key-file=" + pki("loopback-server.key"),
					"--leader-elect=false", "--profiling=false",
				},
				probe: func(ctx context.Context) error {
					return l.httpProbe(ctx, "https://127.0.0.1:10259/healthz", "ca.crt", "")
				},
			},
			{
				name: "kubelet", program: "kubelet",
				args:  []string{"--config=" + config("kubelet.yaml"), "--kubeconfig=" + kubeconfig("kubelet"), "--hostname-override=" + nodeName, "--node-ip=" + n.node().String()},
				probe: func(ctx context.Context) error { return k.nodeReady(ctx, l.startedAt("kubelet")) },
			},
			{
				name: "coredns", program: "coredns",
				args: []string{"-conf", config("Corefile")},
				probe: func(ctx context.Context) error {
					return l.httpProbe(ctx, "http://127.0.0.1:8181/ready", "", "")
				},
			},
		},
		// It looks for its node once a second, so it is quicker to let the kubelet make the node first.
		{
			{
				name: "kube-proxy", program: "kube-proxy",
				args: []string{"--config=" + config("proxy.yaml"), "--hostname-override=" + nodeName},
				// The Service of the API server answers through the rules that kube-proxy makes, and through nothing else.
				probe: func(ctx context.Context) error { return k.getAt(ctx, "https://"+n.api().String(), "/readyz") },
			},
		},
	}
}

// componentNames lists the components that [layout.components] describes.
var componentNames = []string{"containerd", "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet", "coredns"}

// programs lists what must be in the folder of the binaries.
func programs() []string {
	return []string{
		"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl", "etcd",
		"containerd", "containerd-shim-runc-v2", "ctr", "runc", "coredns", "pause", "ptp", "host-local", "loopback", "portmap",
	}
}

// environment is what a component is started with. containerd alone talks to other machines, and so alone is told the
// machine's proxy for that.
func (l layout) environment(name string, machine []string) []string {
	env := []string{"PATH=" + l.bin + ":/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + l.in("home"), "LANG=C.UTF-8"}
	if name != "containerd" {
		return env
	}
	for _, kv := range machine {
		key, _, _ := strings.Cut(kv, "=")
		switch strings.ToUpper(key) {
		case "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY":
			env = append(env, kv)
		}
	}
	return env
}

func dialUnix(ctx context.Context, path string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err != nil {
		return err
	}
	return conn.Close()
}

func (l layout) program(name string) string { return filepath.Join(l.bin, name) }
