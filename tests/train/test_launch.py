"""What a config and the environment need for several processes, on a CPU and on GPUs."""

from __future__ import annotations

from typing import Any

import pytest
from mmengine.config import Config

from mmdet_mobileformer.train import launch


def config() -> Config:
    return Config(
        dict(
            model=dict(
                backbone=dict(norm_cfg=dict(type="SyncBN")),
                heads=[dict(norm_cfg=dict(type="SyncBN"))],
            ),
            sync_bn="torch",
            find_unused_parameters=True,
            custom_hooks=[dict(type="EMAHook"), dict(type="SyncBuffersHook")],
        )
    )


def test_one_process_is_left_alone() -> None:
    cfg = config()
    launch.adapt_to_processes(cfg, "none")
    assert cfg.launcher == "none"
    cfg.pop("launcher")
    assert cfg.to_dict() == config().to_dict()


def test_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "get_device", lambda: "cpu")
    cfg = config()
    launch.adapt_to_processes(cfg, "pytorch")
    assert "sync_bn" not in cfg and "SyncBN" not in cfg.pretty_text
    assert cfg.model_wrapper_cfg.to_dict() == dict(
        type="MMDistributedDataParallel",
        broadcast_buffers=False,
        find_unused_parameters=True,
        device_ids=None,
    )
    assert [hook["type"] for hook in cfg.custom_hooks] == ["EMAHook", "SyncStatisticsHook"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_queries_that_wait_need_ddp_to_know(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    monkeypatch.setattr(launch, "get_device", lambda: device)
    cfg = Config(dict(model=dict(type="E2EMFWithAuxiliary", dense_first=0.4)))
    launch.adapt_to_processes(Config(cfg.to_dict()), "none")
    with pytest.raises(ValueError, match="find_unused_parameters=True"):
        launch.adapt_to_processes(Config(cfg.to_dict()), "pytorch")
    launch.adapt_to_processes(Config(dict(cfg.to_dict(), find_unused_parameters=True)), "pytorch")
    wrapper = dict(type="MMDistributedDataParallel", find_unused_parameters=True)
    launch.adapt_to_processes(Config(dict(cfg.to_dict(), model_wrapper_cfg=wrapper)), "pytorch")


def test_rtmdet_does_not_turn_its_norms_into_sync_bn_on_cpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It does so unasked with several processes, and SyncBatchNorm refuses CPUs."""
    monkeypatch.setattr(launch, "get_device", lambda: "cpu")
    cfg = Config(dict(model=dict(type="RTMDet", backbone=dict(norm_cfg=dict(type="BN")))))
    launch.adapt_to_processes(cfg, "pytorch")
    assert cfg.model.use_syncbn is False
    monkeypatch.setattr(launch, "get_device", lambda: "cuda")
    cfg = Config(dict(model=dict(type="RTMDet")))
    launch.adapt_to_processes(cfg, "pytorch")
    assert "use_syncbn" not in cfg.model


def test_gpu_keeps_sync_bn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "get_device", lambda: "cuda")
    cfg = config()
    launch.adapt_to_processes(cfg, "pytorch")
    assert cfg.sync_bn == "torch" and "model_wrapper_cfg" not in cfg
    assert cfg.model.backbone.norm_cfg.type == "SyncBN"
    assert cfg.custom_hooks[-1]["type"] == "SyncStatisticsHook"


@pytest.mark.parametrize("launcher", ["slurm", "mpi"])
def test_slurm_and_mpi_need_gpus(launcher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "get_device", lambda: "cpu")
    with pytest.raises(ValueError, match=f"--launcher {launcher} needs GPUs"):
        launch.init_launcher(launcher)


def test_pytorch_needs_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="needs torchrun.*dist_train.sh"):
        launch.init_launcher("pytorch")


def test_more_processes_than_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    environment: dict[str, Any] = dict(
        RANK=2, LOCAL_RANK=2, WORLD_SIZE=3, MASTER_ADDR="127.0.0.1", MASTER_PORT=1
    )
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(launch, "get_device", lambda: "cuda")
    monkeypatch.setattr(launch.torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="at most 2 processes"):
        launch.init_launcher("pytorch")


@pytest.mark.parametrize(("rank", "first"), [(None, True), ("0", True), ("1", False)])
def test_first_process(rank: str | None, first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK"):
        monkeypatch.delenv(name, raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert launch.is_first_process() is first
