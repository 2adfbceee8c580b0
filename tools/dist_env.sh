# shellcheck shell=bash
# Read by dist_train.sh and dist_test.sh, which set GPUS and HERE: torchrun's flags, the Python and the threads.
case $GPUS in
'' | *[!0-9]* | 0)
    echo "$0: the number of processes must be a positive number, not '$GPUS'" >&2
    exit 2
    ;;
esac

# shellcheck disable=SC2034
TORCHRUN_ARGS=(
    --nnodes="${NNODES:-1}"
    --node_rank="${NODE_RANK:-0}"
    --master_addr="${MASTER_ADDR:-127.0.0.1}"
    --master_port="${PORT:-29500}"
    --nproc_per_node="$GPUS"
)

# The environment that tools/setup_env.sh made, unless another one is active or PYTHON names one.
if [ -z "${PYTHON:-}" ]; then
    PYTHON=python
    if [ -z "${VIRTUAL_ENV:-}" ] && [ -x "$HERE/../.venv/bin/python" ]; then
        PYTHON="$HERE/../.venv/bin/python"
    fi
fi

# The checkout's package is found even where it is not installed.
export PYTHONPATH="$HERE/..${PYTHONPATH:+:$PYTHONPATH}"

# Each process gets its share of the cores; torchrun alone would give it one thread.
if [ -z "${OMP_NUM_THREADS:-}" ]; then
    OMP_NUM_THREADS=$(($(nproc) / GPUS))
    if [ "$OMP_NUM_THREADS" -lt 1 ]; then
        OMP_NUM_THREADS=1
    fi
    export OMP_NUM_THREADS
fi
