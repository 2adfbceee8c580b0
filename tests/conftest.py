"""What all tests share."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

# Tests run side by side, a process per core (pytest-xdist); torch reads this when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from mmengine.registry import init_default_scope
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

# tests/ is no package: its helpers are imported by name.
sys.path.insert(0, str(Path(__file__).parent))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files with the longest tests first: begun last, one would run on while other processes wait."""
    items.sort(key=lambda item: not {"docs", "fuzz"} & set(item.path.parts))


class _ByFileOrPage(LoadFileScheduling):
    """A file in one process, but each page of the docs by itself: others would wait for all of them."""

    def _split_scope(self, nodeid: str) -> str:
        file, _, page = nodeid.partition("::test_command[")
        return page.partition(":")[0] or super()._split_scope(file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadFileScheduling | None:
    """For `--dist loadfile`."""
    return _ByFileOrPage(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_collection_finish() -> None:
    """Leave what was imported out of the garbage collections, one of which mmengine makes per data set."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def scope() -> None:
    """mmengine's scope as mmdet's tools set it: what another file's run left would be searched instead."""
    init_default_scope("mmdet")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def denormals() -> None:
    """Trainings and benchmarks set them to zero in their process, which is this one; hypothesis needs them."""
    torch.set_flush_denormal(False)
