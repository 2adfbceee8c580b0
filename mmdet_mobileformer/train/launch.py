"""Several processes: gloo where there is no GPU, and what a config must not ask of a CPU."""

from __future__ import annotations

import gc
import os
from typing import Any

import torch
import torch.distributed as dist
from mmengine.device import get_device

from .resume import type_name

_TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def init_launcher(launcher: str) -> None:
    """Check the launcher's surroundings, and start gloo when there is no GPU.

    mmengine's own start calls torch.cuda.set_device; it is skipped when a group exists already.

    Args:
        launcher: The value of `--launcher`.

    Raises:
        ValueError: when torchrun's environment is absent, a process has no GPU of its own, or
            slurm or mpi is asked for without a GPU.
    """
    if launcher == "none":
        return
    cpu = get_device() == "cpu"
    if launcher != "pytorch":
        if cpu:
            raise ValueError(
                f"--launcher {launcher} needs GPUs and none is found: on CPUs use "
                "tools/dist_train.sh or tools/dist_test.sh"
            )
        return
    absent = [name for name in _TORCHRUN if name not in os.environ]
    if absent:
        raise ValueError(
            f"--launcher pytorch needs torchrun ({', '.join(absent)} not set): use "
            "tools/dist_train.sh or tools/dist_test.sh"
        )
    if cpu:
        if not dist.is_initialized():
            dist.init_process_group("gloo")
        return
    local_rank, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if 0 < gpus <= local_rank:
        raise ValueError(
            f"process {local_rank + 1} of this machine has no GPU, since {gpus} are visible: "
            f"start at most {gpus} processes"
        )


def is_first_process() -> bool:
    """Whether this is the process that speaks, told by the environment, before any group exists."""
    ranks = (os.environ.get(name) for name in ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"))
    return next((rank for rank in ranks if rank is not None), "0") == "0"


def close_launcher() -> None:
    """Leave the process group, and end its threads: one that outlives Python may abort the process.

    The threads end with the last object that uses the group, so drop the Runner before.
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
        gc.collect()


def adapt_to_processes(cfg: Any, launcher: str) -> None:
    """Make a config run under `launcher`. Changes `cfg` in place.

    On CPUs: DistributedDataParallel without device ids, and BatchNorm instead of SyncBatchNorm,
    which raises there. Where BatchNorm is not synchronised every rank keeps its own running
    statistics (broadcast_buffers=False), so SyncStatisticsHook averages them before validation and
    saving. A run of one process is left alone: mmengine itself turns SyncBatchNorm into BatchNorm.

    Raises:
        ValueError: When queries that wait would be parameters without gradients, which
            DistributedDataParallel must be told of.
    """
    cfg["launcher"] = launcher
    if launcher == "none":
        return
    told = {**cfg, **(cfg.get("model_wrapper_cfg") or {})}
    if (cfg.get("model") or {}).get("dense_first") and not told.get("find_unused_parameters"):
        raise ValueError(
            "model.dense_first leaves parameters without gradients at first: set "
            "find_unused_parameters=True in the config for training with several processes"
        )
    if get_device() == "cpu":
        cfg.pop("sync_bn", None)
        _plain_batch_norm(cfg.get("model"))
        wrapper = dict(cfg.get("model_wrapper_cfg") or {})
        wrapper.setdefault("type", "MMDistributedDataParallel")
        wrapper.setdefault("broadcast_buffers", False)
        wrapper.setdefault("find_unused_parameters", cfg.get("find_unused_parameters", False))
        wrapper["device_ids"] = None
        cfg["model_wrapper_cfg"] = wrapper
    # It does all that a SyncBuffersHook of the config would do, so it takes its place.
    hooks = [h for h in cfg.get("custom_hooks") or [] if h.get("type") != "SyncBuffersHook"]
    cfg["custom_hooks"] = [*hooks, dict(type="SyncStatisticsHook")]


def _plain_batch_norm(value: Any) -> None:
    """SyncBN to BN in every norm_cfg below a model's config."""
    if isinstance(value, dict):
        if type_name(value) == "RTMDet":
            value["use_syncbn"] = False  # it turns its BatchNorm into SyncBatchNorm unasked
        if value.get("type") in ("SyncBN", "MMSyncBN", "SyncBatchNorm"):
            value["type"] = "BN"
        for item in value.values():
            _plain_batch_norm(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _plain_batch_norm(item)
