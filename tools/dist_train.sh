#!/usr/bin/env bash
# Train with several processes, on GPUs (nccl) or on a CPU (gloo): dist_train.sh CONFIG GPUS [flags of train.py]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [flags of train.py]" >&2
    exit 2
fi
CONFIG=$1
GPUS=$2
HERE=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=tools/dist_env.sh
source "$HERE/dist_env.sh"

exec "$PYTHON" -m torch.distributed.run "${TORCHRUN_ARGS[@]}" \
    "$HERE/train.py" "$CONFIG" --launcher pytorch "${@:3}"
