#!/bin/bash
# registry.sh measures Slipway's registry beside the distribution registry, and prints a table. Flags are passed on:
# `bench/registry.sh -span 1s` is quicker. It needs bin/slipway, and the first time minutes to build its peer.
set -euo pipefail
cd "$(dirname "$0")/.."

out=$PWD/bin
(cd bench/distribution &&
	CGO_ENABLED=0 go build -trimpath -o "$out/distribution" github.com/distribution/distribution/v3/cmd/registry &&
	CGO_ENABLED=0 go build -trimpath -o "$out/registry-bench" .)
exec bin/registry-bench -slipway bin/slipway -distribution bin/distribution "$@"
