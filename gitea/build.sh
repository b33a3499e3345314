#!/bin/sh
# build.sh DIR builds the Gitea that go.mod names into DIR: gitea, and gitea.static, a link to its templates in Go's
# module cache.
#
# Go's own cache makes a repeated build cheap; the stamp makes it free as long as nothing in this module changed.
# SQLite is C here, so it needs a compiler.
set -eu

out=${1:?usage: build.sh DIR}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")"

stamp=$out/.gitea.stamp
want=$({ go version; cat go.mod go.sum build.sh; } | sha256sum | cut -d' ' -f1)
if [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && [ -x "$out/gitea" ] && [ -d "$out/gitea.static/" ]; then
	exit 0
fi

if ! command -v "${CC:-gcc}" >/dev/null; then
	echo "build.sh: Gitea's SQLite needs a C compiler: apt-get install gcc libc6-dev" >&2
	exit 1
fi

version=$(go list -m -f '{{.Version}}' code.gitea.io/gitea)
tags='sqlite sqlite_unlock_notify'
echo "building Gitea $version; on a cold cache this takes minutes" >&2
rm -f "$stamp"
CGO_ENABLED=1 go build -trimpath -tags "$tags" -ldflags "-s -w -X main.Version=${version#v} -X 'main.Tags=$tags'" \
	-o "$out/gitea" code.gitea.io/gitea
ln -sfn "$(go list -m -f '{{.Dir}}' code.gitea.io/gitea)" "$out/gitea.static"
echo "$want" >"$stamp"
