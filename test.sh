#!/bin/bash
# test.sh runs every test of every module with the race detector and nothing skipped; `make test` has built and
# installed what they need. What the tests share, a cluster, is taken down at the end.
set -u -o pipefail
cd "$(dirname "$0")"
slipway=$PWD/bin/slipway

export SLIPWAY_TEST_ALL=1
export SLIPWAY_TEST_CLUSTER=${SLIPWAY_TEST_CLUSTER:-${TMPDIR:-/tmp}/slipway-test-cluster}
# Many tests need root. Without it only the tests' programs run by sudo, so that no file of Go's caches becomes root's.
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo -E env "PATH=$PATH")
down() { "${as_root[@]}" "$slipway" cluster down --delete --data "$SLIPWAY_TEST_CLUSTER" >/dev/null 2>&1; }
trap down EXIT
down

status=0
run() { go test -race -timeout 25m ${as_root[0]:+-exec "${as_root[*]}"} "$@" || status=1; }
run ./...
cd examples/printerfacts && run ./...
exit $status
