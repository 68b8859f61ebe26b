#!/usr/bin/env bash
# Submit a run to a Ray cluster whose nodes have latentflow installed and share the volume, and wait:
#   examples/schedulers/ray_job.sh http://head:8265 /data/portraits.yaml
# Ends with the run's own exit code (0 done, 3 done with quarantined rows, 75 locked, ...), which
# `ray job submit` itself does not pass on.
set -euo pipefail

usage="usage: ray_job.sh DASHBOARD SPEC, such as http://head:8265 /data/portraits.yaml"
address=${1:?$usage}
spec=${2:?$usage}
id="latentflow-$(basename "$spec" .yaml)-$(date -u +%Y%m%dT%H%M%S)"

if ray job submit --address "$address" --submission-id "$id" -- \
  latentflow run "$spec" --ray-address auto --wait 600; then
  exit 0
fi
message=$(ray job status --address "$address" "$id")
code=$(sed -nE 's/.*failed with exit code ([0-9]+).*/\1/p' <<<"$message" | head -n 1)
exit "${code:-1}"
