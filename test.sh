#!/bin/bash
# test.sh runs every test of every module with the race detector and nothing skipped; `make test` has built and
# installed what they need. What the tests share, a cluster, is taken down at the end.
set -u -o pipefail
cd "$(dirname "$0")"

export SLIPWAY_TEST_ALL=1
export SLIPWAY_TEST_CLUSTER=${SLIPWAY_TEST_CLUSTER:-${TMPDIR:-/tmp}/slipway-test-cluster}
down() { bin/slipway cluster down --delete --data "$SLIPWAY_TEST_CLUSTER" >/dev/null 2>&1; }
trap down EXIT
down

status=0
run() { go test -race -timeout 20m "$@" || status=1; }
run ./...
run -C examples/printerfacts ./...
exit $status
