#!/bin/sh
# build.sh DIR builds the distribution registry that go.mod names into DIR, as distribution. Go's own cache makes a
# repeated build cheap.
set -eu

out=${1:?usage: build.sh DIR}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")"

CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$out/distribution" github.com/distribution/distribution/v3/cmd/registry
