#!/bin/sh
# build.sh DIR builds everything that a cluster on one machine runs, each at the version that go.mod names, into DIR.
#
# Go's own cache makes a repeated build cheap; the stamp makes it free as long as nothing in these modules changed.
# The folder node is a module of its own, because containerd and Kubernetes want different versions of the same libraries.
# runc is the only one that needs cgo, and libseccomp's headers with it.
set -eu

out=${1:?usage: build.sh DIR}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")"

stamp=$out/.stamp
want=$({ go version; cat go.mod go.sum node/go.mod node/go.sum build.sh pause/*.go coredns/*.go; } | sha256sum | cut -d' ' -f1)
if [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
	exit 0
fi

if ! pkg-config --exists libseccomp 2>/dev/null; then
	echo "build.sh: runc needs libseccomp's headers: apt-get install libseccomp-dev pkg-config gcc" >&2
	exit 1
fi

version() { go -C "$1" list -m -f '{{.Version}}' "$2"; }

kubernetes=$(version . k8s.io/kubernetes)
minor=${kubernetes#v*.}
containerd=$(version node github.com/containerd/containerd/v2)
runc=$(version node github.com/opencontainers/runc)

echo "building Kubernetes $kubernetes, containerd $containerd and runc $runc; on a cold cache this takes minutes" >&2
rm -f "$stamp"

# Without a version that parses, kubectl and the API server refuse each other's.
ldflags="-s -w"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
	ldflags="$ldflags -X $package.gitVersion=$kubernetes -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*}"
	ldflags="$ldflags -X $package.gitTreeState=clean -X $package.buildDate=1970-01-01T00:00:00Z"
done
CGO_ENABLED=0 go build -trimpath -ldflags "$ldflags" -o "$out/" \
	k8s.io/kubernetes/cmd/kube-apiserver \
	k8s.io/kubernetes/cmd/kube-controller-manager \
	k8s.io/kubernetes/cmd/kube-proxy \
	k8s.io/kubernetes/cmd/kube-scheduler \
	k8s.io/kubernetes/cmd/kubectl \
	k8s.io/kubernetes/cmd/kubelet \
	./coredns ./pause
CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o "$out/etcd" go.etcd.io/etcd/server/v3

cd node
CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X github.com/containerd/containerd/v2/version.Version=$containerd" -o "$out/" \
	github.com/containerd/containerd/v2/cmd/containerd \
	github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2 \
	github.com/containerd/containerd/v2/cmd/ctr \
	github.com/containernetworking/plugins/plugins/ipam/host-local \
	github.com/containernetworking/plugins/plugins/main/loopback \
	github.com/containernetworking/plugins/plugins/main/ptp \
	github.com/containernetworking/plugins/plugins/meta/portmap
CGO_ENABLED=1 go build -trimpath -tags seccomp -ldflags "-s -w -X main.version=${runc#v}" -o "$out/runc" \
	github.com/opencontainers/runc

echo "$want" >"$stamp"
