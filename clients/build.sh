#!/bin/sh
# build.sh DIR puts into DIR the clients of registries that people use, for the tests: docker and its dockerd, podman and
# its conmon, and regctl.
#
# regctl is built at the version that go.mod names. The others are the packages of the distribution (Debian or Ubuntu),
# unpacked and not installed: their installation starts a daemon that changes the machine's firewall. Libraries that they
# need and that the machine does not have are unpacked beside them. The stamp makes a repeated call free.
set -eu

out=${1:?usage: build.sh DIR}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")"

stamp=$out/.stamp
want=$({ go version; cat go.mod go.sum build.sh /etc/os-release; } | sha256sum | cut -d' ' -f1)
if [ "$(cat "$stamp" 2>/dev/null)" = "$want" ]; then
	exit 0
fi
rm -f "$stamp"

CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$out/regctl" github.com/regclient/regclient/cmd/regctl

# packages prints what to unpack. Newer Debians have docker in a package of its own, and a podman that wants netavark.
packages() {
	echo docker.io podman conmon
	for package in docker-cli netavark; do
		if apt-cache show "$package" >/dev/null 2>&1; then echo "$package"; fi
	done
	# What an installation would bring along names the libraries that are missing here.
	apt-get install --simulate --no-install-recommends docker.io podman conmon 2>/dev/null | sed -n 's/^Inst \(lib[^ ]*\) .*/\1/p'
}

debs=$out/debs
download() {
	rm -rf "$debs"
	mkdir "$debs"
	# The user that apt would download as cannot write here.
	(cd "$debs" && apt-get download -qq -o APT::Sandbox::User=root $(packages))
}
if ! download 2>/dev/null; then
	# The lists of packages are missing or old.
	as_root=
	[ "$(id -u)" = 0 ] || as_root=sudo
	$as_root apt-get update -qq
	download
fi

rm -rf "$out/root"
for deb in "$debs"/*.deb; do
	dpkg -x "$deb" "$out/root"
done
rm -rf "$debs"

# A library's folder depends on the machine and the package.
libraries=$(cd "$out/root" && find * -name 'lib*.so*' -printf '$root/%h\n' | sort -u | paste -sd:)
for name in docker dockerd podman conmon; do
	program=$(cd "$out/root" && find usr -maxdepth 2 -type f -name "$name") # in bin or sbin
	rm -f "$out/$name"
	cat >"$out/$name" <<-EOF
		#!/bin/sh
		root=\$(dirname "\$0")/root
		LD_LIBRARY_PATH=$libraries exec "\$root/$program" "\$@"
	EOF
	chmod 755 "$out/$name"
	if ! "$out/$name" --version >/dev/null; then
		echo "build.sh: $name of this machine's distribution does not run" >&2
		exit 1
	fi
done

echo "$want" >"$stamp"
