#!/bin/sh
# build.sh DIR builds the Versity S3 gateway that go.mod names into DIR, as versitygw. Go's own cache makes a repeated
# build cheap.
set -eu

out=${1:?usage: build.sh DIR}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")"

CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$out/versitygw" github.com/versity/versitygw/cmd/versitygw
