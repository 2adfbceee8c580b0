#!/usr/bin/env bash
# Test with several processes, on GPUs (nccl) or on a CPU (gloo): dist_test.sh CONFIG CHECKPOINT GPUS [flags of test.py]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: $0 CONFIG CHECKPOINT GPUS [flags of test.py]" >&2
    exit 2
fi
CONFIG=$1
CHECKPOINT=$2
GPUS=$3
HERE=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tools/dist_env.sh
source "$HERE/dist_env.sh"

exec "$PYTHON" -m torch.distributed.run "${TORCHRUN_ARGS[@]}" \
    "$HERE/test.py" "$CONFIG" "$CHECKPOINT" --launcher pytorch "${@:4}"
