#!/bin/bash
# rollout.sh rolls out under load by kubectl and by Slipway in turns, counts lost requests, and times a diff of 500 objects:
# what `make bench` measures of deployments, alone. Flags are passed on: `bench/rollout.sh -quick` takes a few minutes.
# It needs what `make build cluster` builds.
set -euo pipefail
exec "$(dirname "$0")/run.sh" -only '^(rollout|diff)$' "$@"
