#!/bin/sh
# build.sh DIR builds everything that a cluster on one machine runs, each at the version that go.mod names, into DIR.
#
# Go's own cache makes a repeated build cheap; the stamp makes it free as long as nothing in this module changed.
# runc is the only one that needs cgo, and libseccomp's headers with it.
set -eu

cd "$(dirname "$0")"
out=${1:?usage: build.sh DIR}
mkdir -p "$out"
out=$(cd "$out" && pwd)

stamp=$out/.stamp
want=$({ go version; cat go.mod go.sum build.sh pause/*.go coredns/*.go; } | sha256sum | cut -d' ' -f1)
if [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
	exit 0
fi

if ! pkg-config --exists libseccomp 2>/dev/null; then
	echo "build.sh: runc needs libseccomp's headers: apt-get install libseccomp-dev pkg-config gcc" >&2
	exit 1
fi

version() { go list -m -f '{{.Version}}' "$1"; }

kubernetes=$(version k8s.io/kubernetes)
containerd=$(version github.com/containerd/containerd/v2)
runc=$(version github.com/opencontainers/runc)
cni=$(version github.com/containernetworking/plugins)
minor=${kubernetes#v*.}

# Without a version that parses, kubectl and the API server refuse each other's.
ldflags="-s -w"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
	ldflags="$ldflags -X $package.gitVersion=$kubernetes -X $package.gitMajor=1 -X $package.gitMinor=${minor%%.*}"
	ldflags="$ldflags -X $package.gitTreeState=clean -X $package.buildDate=1970-01-01T00:00:00Z"
done
ldflags="$ldflags -X github.com/containerd/containerd/v2/version.Version=$containerd"
ldflags="$ldflags -X github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion=$cni"

echo "building upstream Kubernetes $kubernetes, containerd $containerd, runc $runc: minutes on a cold cache" >&2
rm -f "$stamp"

CGO_ENABLED=0 go build -trimpath -ldflags "$ldflags" -o "$out/" \
	k8s.io/kubernetes/cmd/kube-apiserver \
	k8s.io/kubernetes/cmd/kube-controller-manager \
	k8s.io/kubernetes/cmd/kube-proxy \
	k8s.io/kubernetes/cmd/kube-scheduler \
	k8s.io/kubernetes/cmd/kubectl \
	k8s.io/kubernetes/cmd/kubelet \
	github.com/containerd/containerd/v2/cmd/containerd \
	github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2 \
	github.com/containerd/containerd/v2/cmd/ctr \
	github.com/containernetworking/plugins/plugins/ipam/host-local \
	github.com/containernetworking/plugins/plugins/main/loopback \
	github.com/containernetworking/plugins/plugins/main/ptp \
	github.com/containernetworking/plugins/plugins/meta/portmap \
	./coredns ./pause
CGO_ENABLED=0 go build -trimpath -ldflags "$ldflags" -o "$out/etcd" go.etcd.io/etcd/server/v3
CGO_ENABLED=1 go build -trimpath -tags seccomp -ldflags "-s -w -X main.version=${runc#v}" -o "$out/runc" \
	github.com/opencontainers/runc

echo "$want" >"$stamp"
