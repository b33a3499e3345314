#!/bin/bash
# run.sh measures what Slipway promises and writes the table, with all raw numbers, to bench/results.md; `make bench` has
# built what it needs. Flags are passed on: `bench/run.sh -quick -only push` tries one measurement out.
set -euo pipefail
cd "$(dirname "$0")/.."

CGO_ENABLED=0 go build -trimpath -o bin/slipway-bench ./cmd/slipway-bench
sudo=()
[ "$(id -u)" = 0 ] || sudo=(sudo --preserve-env=PATH,HOME,GOPATH,GOCACHE,GOMODCACHE,GOFLAGS,GOPROXY)
if [ $# = 0 ]; then
	set -- -out bench/results.md
fi
"${sudo[@]}" bin/slipway-bench "$@"
